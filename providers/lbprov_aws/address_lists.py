"""Addresses that annotations list: one per zone, each honoured or answered with another and a reason. Pure.

`eip-allocations`, `private-ipv4-addresses` and `ipv6-addresses` say which, and so how many zones. An address
that cannot be had costs that address: its zone gets one of AWS's choice. As with `spec.loadBalancerIP`,
nothing is moved later: what is asked for then is told.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from lbprov.api import LoadBalancer, Notice, Reason, Severity, UserError
from lbprov_aws import names, peer_annotations
from lbprov_aws.addresses import TOPIC, Placement, Unusable, check_found
from lbprov_aws.desired import Wanted
from lbprov_aws.resources import (
    Address,
    AddressUse,
    LoadBalancerRecord,
    Network,
    Observed,
    Subnet,
    SubnetMapping,
)
from lbprov_aws.wishes import POOL, AddressWish, is_by_tag


@dataclass(slots=True)
class _Trouble:
    """What cannot be had, and why; the gravest reason is the first."""

    reasons: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)

    def add(self, reason: str, message: str) -> None:
        self.reasons.append(reason)
        self.messages.append(message)

    def __bool__(self) -> bool:
        return bool(self.messages)


def text(wish: AddressWish) -> str:
    """What a load balancer was made for, as its tag says it."""
    return names.tag_text(" ".join((*wish.elastic, *wish.private, *wish.ipv6)))


def place(desired: LoadBalancer, wanted: Wanted, network: Network, observed: Observed) -> Placement:
    """For a load balancer that does not exist yet. Raises `UserError` where an address cannot be had and no
    other is wanted."""
    trouble = _Trouble()
    wish = wanted.addresses
    fixed = _private(wish.private, wanted, network, trouble)
    fixed |= _ipv6(wish.ipv6, wanted, network, trouble, fixed)
    found = list(_elastic(wish.elastic, wanted, network, observed, trouble))
    for subnet in _in_turn(wanted, network, fixed):
        if not found:
            break
        address = found.pop(0)
        mapping = fixed.get(subnet.subnet_id, SubnetMapping(subnet.subnet_id, subnet.zone))
        fixed[subnet.subnet_id] = replace(mapping, allocation_id=address.allocation_id)
    for address in found:
        trouble.add(
            Reason.IP_UNSUPPORTED,
            f"{address.ip} finds no subnet: there are {len(network.subnets)}, each with one: name no more",
        )
    if trouble and desired.require_ip:
        raise UserError(
            "; ".join(trouble.messages) + "; no other address is used (lbprov.io/ip-policy: require)",
            field=_field(wish),
            reason=trouble.reasons[0],
        )
    everywhere = tuple(SubnetMapping(s.subnet_id, s.zone) for s in network.subnets)
    if not fixed:
        return Placement(everywhere, notice=_warning(wish, trouble))
    count = max(len(_wanted(wish, network)), len(fixed))
    rest = [s for s in _in_turn(wanted, network, fixed) if s.subnet_id not in fixed][: count - len(fixed)]
    mappings = [*fixed.values(), *(SubnetMapping(s.subnet_id, s.zone) for s in rest)]
    mappings.sort(key=lambda m: m.zone)
    notice = _warning(wish, trouble) if trouble else _assigned(m.zone for m in mappings)
    return Placement(tuple(mappings), () if desired.require_ip else everywhere, notice)


def judge(wanted: Wanted, live: LoadBalancerRecord, observed: Observed) -> Notice | None:
    """For a load balancer that exists: what is to be said about its addresses."""
    wish = wanted.addresses
    missing = unsatisfied(wish, live)
    made_for = dict(live.tags).get(names.REQUESTED_ADDRESSES, "")
    if not missing:
        twice = _named_twice(wish, live)
        if twice:
            return _warning(wish, twice)
        return _assigned(zone.zone for zone in live.zones) if wish else None
    if text(wish) != made_for:
        has = ", ".join(live.ips) or "addresses of AWS's choice"
        asked = f"{', '.join(missing)} asked for now"
        message = (
            f"{_fields(wish)}{asked}, but the load balancer keeps {has}: an address in use is not changed "
            f"under its clients; {names.REPLACE_REMEDY}"
        )
        return Notice(Severity.WARNING, Reason.IP_CHANGE_IGNORED, message, TOPIC)
    trouble = _Trouble()
    _look_at(missing, wanted, observed, trouble)
    refused = dict(live.tags).get(names.REFUSED_IP)
    if refused and not trouble:
        trouble.add(Reason.IP_IN_USE, f"{', '.join(missing)} refused by AWS when it was made ({refused})")
    if trouble:
        return _warning(wish, trouble)
    message = (
        f"{', '.join(missing)} could be had now, but the load balancer keeps its addresses: they do not "
        f"change under its clients; {names.REPLACE_REMEDY}"
    )
    return Notice(Severity.NORMAL, "LoadBalancerIPAvailable", message, TOPIC)


def unsatisfied(wish: AddressWish, live: LoadBalancerRecord) -> tuple[str, ...]:
    """What the load balancer does not have of it. Of an address that is asked for by a tag only the making
    tells which it is, so such a wish is taken for satisfied by an address that no other wish names."""
    allocations = {zone.allocation_id for zone in live.zones if zone.allocation_id}
    by_name = [w for w in (*wish.elastic, *wish.private, *wish.ipv6) if not is_by_tag(w)]
    missing = [w for w in by_name if w not in allocations and _canonical(w) not in live.ips]
    spare = len(allocations) - len([w for w in wish.elastic if w in by_name and w not in missing])
    for by_tag in (w for w in wish.elastic if is_by_tag(w)):
        if spare <= 0:
            missing.append(by_tag)
        spare = 0 if by_tag.startswith(POOL) else spare - 1
    return tuple(missing)


def _named_twice(wish: AddressWish, live: LoadBalancerRecord) -> _Trouble:
    """By its id and by its address: one Elastic IP, and so one zone's."""
    trouble = _Trouble()
    for zone in live.zones:
        if not zone.allocation_id:
            continue
        named = [w for w in wish.elastic if w == zone.allocation_id or _canonical(w) in zone.ips]
        for other in named[1:]:
            trouble.add(Reason.IP_UNSUPPORTED, f"{other} is named twice: it is {named[0]}; name it once")
    return trouble


def held(wish: AddressWish, live: LoadBalancerRecord) -> tuple[str, ...]:
    """What the load balancer has of it, which no other can have beside it."""
    missing = unsatisfied(wish, live)
    return tuple(w for w in (*wish.elastic, *wish.private, *wish.ipv6) if w not in missing)


def needs_subnets(wish: AddressWish, missing: Iterable[str]) -> bool:
    return not set(missing).isdisjoint((*wish.private, *wish.ipv6))


def _wanted(wish: AddressWish, network: Network) -> tuple[str, ...]:
    """As many as zones are asked for."""
    if any(w.startswith(POOL) for w in wish.elastic):
        return tuple(s.subnet_id for s in network.subnets)
    return max(wish.elastic, wish.private, wish.ipv6, key=len)[: len(network.subnets)]


def _in_turn(wanted: Wanted, network: Network, fixed: dict[str, SubnetMapping]) -> list[Subnet]:
    """Subnets in the order in which they get addresses: those that stand already, then as the Service names
    them, otherwise where most nodes are."""
    by_name = {wish: n for n, wish in enumerate(wanted.subnets)}
    by_nodes = {zone: n for n, zone in enumerate(wanted.zones)}

    def rank(subnet: Subnet) -> tuple[bool, int, int, str]:
        names_ = [by_name[w] for w in (subnet.subnet_id, dict(subnet.tags).get("Name", "")) if w in by_name]
        return (
            subnet.subnet_id not in fixed,
            min(names_, default=len(by_name)),
            by_nodes.get(subnet.zone, len(by_nodes)),
            subnet.zone,
        )

    return sorted(network.subnets, key=rank)


def _private(
    wishes: tuple[str, ...], wanted: Wanted, network: Network, trouble: _Trouble
) -> dict[str, SubnetMapping]:
    if wishes and not wanted.internal:
        why = (
            "private addresses are for an internal load balancer, and this one faces the internet: make it "
            "internal (lbprov.io/scheme), or take them out"
        )
        trouble.add(Reason.IP_UNSUPPORTED, f"{', '.join(wishes)}: {why}")
        return {}
    found = _by_subnet(wishes, network, trouble)
    return {s.subnet_id: SubnetMapping(s.subnet_id, s.zone, private_ip=ip) for ip, s in found}


def _ipv6(
    wishes: tuple[str, ...],
    wanted: Wanted,
    network: Network,
    trouble: _Trouble,
    fixed: dict[str, SubnetMapping],
) -> dict[str, SubnetMapping]:
    if wishes and not wanted.dual_stack:
        why = "the load balancer has no IPv6 addresses: it takes aws-load-balancer-ip-address-type: dualstack"
        trouble.add(Reason.IP_UNSUPPORTED, f"{', '.join(wishes)}: {why}")
        return {}
    found = _by_subnet(wishes, network, trouble)
    plain = {s.subnet_id: SubnetMapping(s.subnet_id, s.zone) for _, s in found}
    return {s.subnet_id: replace({**plain, **fixed}[s.subnet_id], ipv6=ip) for ip, s in found}


def _by_subnet(wishes: tuple[str, ...], network: Network, trouble: _Trouble) -> list[tuple[str, Subnet]]:
    """Each address with the subnet that contains it; one per subnet."""
    found: dict[str, tuple[str, Subnet]] = {}
    for wish in wishes:
        ip = ipaddress.ip_address(wish)
        subnet = next((s for s in network.subnets if _contains(s, ip)), None)
        if subnet is None:
            cidrs = [c for s in network.subnets for c in (s.ipv6_cidrs if ip.version == 6 else (s.cidr,))]
            where = ", ".join(cidrs) or "which have no IPv6"
            trouble.add(
                Reason.IP_UNSUPPORTED,
                f"{ip} is in none of the load balancer's subnets ({where}): name an address of one of them",
            )
        elif subnet.subnet_id in found:
            other = found[subnet.subnet_id][0]
            trouble.add(
                Reason.IP_UNSUPPORTED, f"{ip} and {other} are both of {subnet.subnet_id}: name one per subnet"
            )
        else:
            found[subnet.subnet_id] = (str(ip), subnet)
    return list(found.values())


def _contains(subnet: Subnet, ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    cidrs = subnet.ipv6_cidrs if ip.version == 6 else (subnet.cidr,)
    return any(ip in ipaddress.ip_network(cidr) for cidr in cidrs)


def _elastic(
    wishes: tuple[str, ...], wanted: Wanted, network: Network, observed: Observed, trouble: _Trouble
) -> list[Address]:
    """The addresses that can be had."""
    if wishes and wanted.internal:
        why = (
            "Elastic IPs are for a load balancer that faces the internet, and this one is internal: make it "
            "internet-facing (lbprov.io/scheme), or take them out"
        )
        trouble.add(Reason.IP_UNSUPPORTED, f"{', '.join(wishes)}: {why}")
        return []
    usable: dict[str, Address] = {}
    for wish in wishes:
        answers = [a for a in observed.addresses if a.wish == wish]
        free = [a for a in answers if a.use is AddressUse.FREE and a.allocation_id not in usable]
        count = len(network.subnets) if wish.startswith(POOL) else 1
        usable |= {a.allocation_id: a for a in free[:count]}
        if len(free) < (count if wish.startswith(POOL) else 1):
            _say_why(wish, answers, free, count, observed.region, trouble)
    return list(usable.values())


def _say_why(
    wish: str, answers: list[Address], free: list[Address], count: int, region: str, trouble: _Trouble
) -> None:
    bad = next((a for a in answers if a.use is not AddressUse.FREE), None)
    if bad is not None:
        try:
            check_found(bad.ip or wish, bad, region)
        except Unusable as refusal:
            trouble.add(refusal.reason, refusal.message)
    elif wish.startswith(POOL):
        trouble.add(
            Reason.IP_NOT_FOUND,
            f"{wish}: {len(free)} free Elastic IPs in {region} for {count} subnets: allocate and tag more",
        )
    else:
        trouble.add(Reason.IP_UNSUPPORTED, f"{wish} is named twice: name it once")


def _look_at(missing: tuple[str, ...], wanted: Wanted, observed: Observed, trouble: _Trouble) -> None:
    """Why what is missing cannot be had, as far as it cannot."""
    wish, network = wanted.addresses, observed.network
    elastic = tuple(w for w in wish.elastic if w in missing)
    if network is None:
        network = Network("", ())
    else:
        _private(tuple(w for w in wish.private if w in missing), wanted, network, trouble)
        _ipv6(tuple(w for w in wish.ipv6 if w in missing), wanted, network, trouble, {})
    _elastic(tuple(w for w in elastic if not w.startswith(POOL)), wanted, network, observed, trouble)


def _assigned(zones: Iterable[str]) -> Notice:
    message = f"the load balancer has the addresses that are asked for, in {', '.join(zones)}"
    return Notice(Severity.NORMAL, Reason.IP_ASSIGNED, message, TOPIC)


def _warning(wish: AddressWish, trouble: _Trouble) -> Notice:
    message = _fields(wish) + "; ".join(trouble.messages) + "; addresses of AWS's choice are used instead"
    return Notice(Severity.WARNING, trouble.reasons[0], message, TOPIC)


def _fields(wish: AddressWish) -> str:
    """The annotations that list them, before what is said of these."""
    found = " and ".join(f"aws-load-balancer-{name}" for name in _names(wish))
    return f"{found}: " if found else ""


def _field(wish: AddressWish) -> str:
    return peer_annotations.field(next(_names(wish)))


def _names(wish: AddressWish) -> Iterator[str]:
    by_tags = any(w.startswith(POOL) for w in wish.elastic)
    pairs = (
        (wish.elastic, peer_annotations.EIP_TAGS if by_tags else peer_annotations.EIP_ALLOCATIONS),
        (wish.private, peer_annotations.PRIVATE_IPV4),
        (wish.ipv6, peer_annotations.IPV6),
    )
    return (name for wishes, name in pairs if wishes)


def _canonical(wish: str) -> str:
    try:
        return str(ipaddress.ip_address(wish))
    except ValueError:
        return wish
