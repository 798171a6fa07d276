"""`spec.loadBalancerIP`: honoured, or answered with another address and a reason. Pure.

An address that serves is never moved: what is decided here for a new load balancer stays decided, and a
later change of the wish or of the world is told, not followed.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from lbprov.api import LoadBalancer, Notice, Reason, Severity, UserError
from lbprov_aws import names
from lbprov_aws.desired import Wanted
from lbprov_aws.resources import Address, AddressUse, LoadBalancerRecord, Network, Subnet, SubnetMapping

TOPIC = "RequestedIP"
FIELD = "spec.loadBalancerIP"

_PRIVATE = tuple(
    ipaddress.ip_network(cidr)
    for cidr in (
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
    )
)
"""Never the address of an Elastic IP. Not `is_private`, which counts the documentation's networks too."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a new load balancer stands. `fallback`: where it stands if AWS refuses `mappings` because the
    address was taken in between; empty if there is nothing to fall back from, or if nothing may be."""

    mappings: tuple[SubnetMapping, ...]
    fallback: tuple[SubnetMapping, ...] = ()
    notice: Notice | None = None


class Unusable(Exception):
    """An address that is asked for cannot be had."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


def needs_lookup(requested_ip: str, *, internal: bool) -> bool:
    """Whether the decision depends on who has the address: Elastic IPs are looked up."""
    ip = _parse(requested_ip)
    return isinstance(ip, ipaddress.IPv4Address) and not internal and not _is_private(ip)


def needs_subnets(requested_ip: str, *, internal: bool) -> bool:
    """Whether the decision depends on the subnets: private and IPv6 addresses are taken from them."""
    ip = _parse(requested_ip)
    return ip is not None and (ip.version == 6 or internal)


def is_honoured(requested_ip: str, live: LoadBalancerRecord) -> bool:
    return bool(requested_ip) and canonical(requested_ip) in live.ips


def published(requested_ip: str, live: LoadBalancerRecord) -> str:
    """The address to publish; empty: the name is. A load balancer made for one fixed address goes on being
    published by it when `loadBalancerIP` is edited or dropped: it keeps the address, so clients keep it too.
    (AWS lists addresses only of load balancers that were made with fixed ones.) One made for addresses that
    an annotation lists is published by its name, as with the other controllers."""
    if names.REQUESTED_ADDRESSES in dict(live.tags):
        return ""
    if is_honoured(requested_ip, live):
        return canonical(requested_ip)
    if names.ADOPTED in dict(live.tags):
        return ""  # what was published before it was taken over
    return live.ips[0] if len(live.zones) == len(live.ips) == 1 else ""


def place(
    desired: LoadBalancer, wanted: Wanted, network: Network, address: Address | None, region: str
) -> Placement:
    """For a load balancer that does not exist yet. Raises `UserError` where the address cannot be had and no
    other is wanted."""
    everywhere = tuple(SubnetMapping(s.subnet_id, s.zone) for s in network.subnets)
    if not desired.requested_ip:
        return Placement(everywhere)
    try:
        mapping = _mapping(desired.requested_ip, wanted, network, address, region)
    except Unusable as refusal:
        if desired.require_ip:
            raise UserError(
                f"{refusal.message}; no other address is used (lbprov.io/ip-policy: require)",
                field=FIELD,
                reason=refusal.reason,
            ) from None
        message = f"{FIELD}: {refusal.message}; an address of AWS's choice is used instead"
        return Placement(everywhere, notice=Notice(Severity.WARNING, refusal.reason, message, TOPIC))
    notice = _assigned(desired.requested_ip, mapping.zone)
    return Placement((mapping,), () if desired.require_ip else everywhere, notice)


def judge(
    desired: LoadBalancer,
    wanted: Wanted,
    live: LoadBalancerRecord,
    network: Network | None,
    address: Address | None,
    region: str,
) -> Notice | None:
    """For a load balancer that exists: what is to be said about its address."""
    requested = desired.requested_ip
    made_for = dict(live.tags).get(names.REQUESTED_IP, "")
    if is_honoured(requested, live):
        return _assigned(requested, live.zones[0].zone)
    if names.tag_text(requested) != made_for:
        has = ", ".join(live.ips) or "addresses of AWS's choice"
        wish = f"{requested} is asked for now" if requested else f"{made_for} is not asked for any more"
        message = (
            f"{FIELD}: {wish}, but the load balancer keeps {has}: an address in use is not changed under its "
            f"clients; {names.REPLACE_REMEDY}"
        )
        return Notice(Severity.WARNING, Reason.IP_CHANGE_IGNORED, message, TOPIC)
    if not requested:
        return None
    try:
        ip = _check(requested, wanted, address, region)
        if network is not None and needs_subnets(requested, internal=wanted.internal):
            _subnet_with(ip, network)
            _check_not_refused(ip, live)
    except Unusable as refusal:
        message = f"{FIELD}: {refusal.message}; an address of AWS's choice is used instead"
        return Notice(Severity.WARNING, refusal.reason, message, TOPIC)
    message = (
        f"{requested} could be had now, but the load balancer keeps its addresses: they do not change under "
        f"its clients; {names.REPLACE_REMEDY}"
    )
    return Notice(Severity.NORMAL, "LoadBalancerIPAvailable", message, TOPIC)


def _assigned(ip: str, zone: str) -> Notice:
    message = (
        f"{ip} is the load balancer's address; it stands in {zone} alone, so that this is its only address: "
        "it does not outlive that zone. Nodes of all zones serve it."
    )
    return Notice(Severity.NORMAL, Reason.IP_ASSIGNED, message, TOPIC)


def _mapping(
    requested: str, wanted: Wanted, network: Network, address: Address | None, region: str
) -> SubnetMapping:
    """The one zone of a load balancer with a requested address."""
    ip = _check(requested, wanted, address, region)
    if ip.version == 6 or wanted.internal:
        subnet = _subnet_with(ip, network)
        if ip.version == 6:
            return SubnetMapping(subnet.subnet_id, subnet.zone, ipv6=str(ip))
        return SubnetMapping(subnet.subnet_id, subnet.zone, private_ip=str(ip))
    assert address is not None
    by_zone = {s.zone: s for s in network.subnets}
    zone = next((z for z in wanted.zones if z in by_zone), min(by_zone))
    return SubnetMapping(by_zone[zone].subnet_id, zone, allocation_id=address.allocation_id)


def _check(
    requested: str, wanted: Wanted, address: Address | None, region: str
) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The address, if it can be used at all. Raises `Unusable`."""
    ip = _parse(requested)
    if ip is None:
        raise Unusable(Reason.IP_INVALID, f"{requested!r} is not an IP address: write one as 203.0.113.10")
    if ip.version == 6:
        if not wanted.dual_stack:
            raise Unusable(
                Reason.IP_UNSUPPORTED,
                f"{ip} is an IPv6 address, and the load balancer has none: ask for IPv4 and IPv6 "
                "(spec.ipFamilies), or name an IPv4 address",
            )
        return ip
    if wanted.internal:
        return ip
    if _is_private(ip):
        raise Unusable(
            Reason.IP_UNSUPPORTED,
            f"{ip} is a private address and the load balancer faces the internet: use an Elastic IP of "
            f"{region}, or make the load balancer internal",
        )
    assert address is not None, "an Elastic IP is looked up before it is decided upon"
    check_found(ip, address, region)
    return ip


def check_found(ip: object, address: Address, region: str) -> None:
    """Raises `Unusable` if the Elastic IP (as it was named or as it is) is not to be had."""
    match address.use:
        case AddressUse.ABSENT:
            raise Unusable(
                Reason.IP_NOT_FOUND,
                f"{ip} is no Elastic IP of this account in {region}: allocate it there, or name one that is",
            )
        case AddressUse.IN_USE if address.is_promised:
            raise Unusable(
                Reason.IP_IN_USE,
                f"{ip} is kept for {address.holder}: name another Elastic IP, or have that Service ask for "
                "none",
            )
        case AddressUse.IN_USE:
            raise Unusable(
                Reason.IP_IN_USE,
                f"{ip} is in use in {region} by {address.holder}: free it, or name another Elastic IP",
            )
        case AddressUse.UNFIT:
            raise Unusable(
                Reason.IP_UNSUPPORTED,
                f"{ip} cannot be used in {region}: {address.message}; name one of the region itself",
            )
        case AddressUse.UNKNOWN:
            raise Unusable(Reason.IP_LOOKUP_FAILED, f"{ip} could not be looked up: {address.message}")


def _check_not_refused(ip: ipaddress.IPv4Address | ipaddress.IPv6Address, live: LoadBalancerRecord) -> None:
    """Who has an address of a subnet is not looked up: what AWS said at the making stands."""
    if dict(live.tags).get(names.REFUSED_IP):
        raise Unusable(
            Reason.IP_IN_USE,
            f"{ip} was refused by AWS when the load balancer was made: free it, or name another address",
        )


def _subnet_with(ip: ipaddress.IPv4Address | ipaddress.IPv6Address, network: Network) -> Subnet:
    for subnet in network.subnets:
        cidrs = subnet.ipv6_cidrs if ip.version == 6 else (subnet.cidr,)
        if any(ip in ipaddress.ip_network(cidr) for cidr in cidrs):
            return subnet
    cidrs = tuple(c for s in network.subnets for c in (s.ipv6_cidrs if ip.version == 6 else (s.cidr,)))
    raise Unusable(
        Reason.IP_UNSUPPORTED,
        f"{ip} is in none of the load balancer's subnets ({', '.join(cidrs) or 'which have no IPv6'}): "
        "name an address of one of them",
    )


def _parse(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text.strip())
    except ValueError:
        return None


def canonical(text: str) -> str:
    ip = _parse(text)
    return str(ip) if ip else text


def _is_private(ip: ipaddress.IPv4Address) -> bool:
    return any(ip in network for network in _PRIVATE)
