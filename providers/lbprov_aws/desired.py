"""From the load balancer that a Service asks for to what that means on AWS. Pure.

One Network Load Balancer per Service; a listener per port; a target group per (protocol, nodePort), which
outlives a change of the listener's port; one security group that admits the source ranges.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from lbprov.api import (
    IPFamily,
    L4Protocol,
    Listener,
    LoadBalancer,
    Notice,
    Owner,
    SessionAffinity,
    Severity,
    Target,
    UserError,
)
from lbprov_aws import attributes, health, names
from lbprov_aws.attribute_wishes import Unread
from lbprov_aws.placement import PROVIDER_ID
from lbprov_aws.resources import DEFAULT_POLICY, HealthCheck, IngressRule, Protocol, Tags, Tls, as_tags
from lbprov_aws.wishes import AccessWish, AddressWish, TlsWish, Wishes, notices, read_wishes

PRIVATE_LINK = "private-link"
"""Among the marks of attributes: that the Service says how traffic by PrivateLink is to be treated."""


@dataclass(frozen=True, slots=True)
class Port:
    """A listener with its `listener_attributes`, and by `node_port` and `group_protocol` the target group
    behind it, with its `check` and `attributes`. `tls`: of a listener for TLS. `unread` and
    `unread_of_listener`: which attributes of the two stay as they are (see `attributes.left_alone`);
    `unread_check`: which fields of the check do."""

    port: int
    protocol: Protocol
    node_port: int
    group_protocol: Protocol
    check: HealthCheck
    attributes: Tags = ()
    tls: Tls | None = None
    listener_attributes: Tags = ()
    unread: Unread = frozenset()
    unread_of_listener: Unread = frozenset()
    unread_check: frozenset[str] = frozenset()

    @property
    def group_id(self) -> str:
        return f"tg:{self.node_port}-{self.group_protocol.lower()}"

    @property
    def listener_id(self) -> str:
        return f"listener:{self.port}"

    def __str__(self) -> str:
        return f"{self.port}/{self.protocol}"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What one Service should have on AWS. `targets`: instance ids; `zones`: the zone of each, most first;
    `name`: the load balancer's, where the Service says one.

    `name`, `internal`, `subnets` and `addresses` are settled when the load balancer is made; the rest is
    followed, but for its `unread` attributes (as a `Port`'s). `generation`: see `succession`. `knows_scheme`
    False: what is asked for is none, and `internal` means nothing. `knows_sources` False: nor is it known who
    may connect, see `plan_security`."""

    owner: Owner
    name: str
    internal: bool
    dual_stack: bool
    subnets: tuple[str, ...]
    addresses: AddressWish
    ports: tuple[Port, ...]
    attributes: Tags
    rules: frozenset[IngressRule]
    access: AccessWish
    targets: frozenset[str]
    zones: tuple[str, ...]
    extra_tags: Tags
    notices: tuple[Notice, ...]
    generation: str = ""
    knows_scheme: bool = True
    scheme_field: str = ""
    knows_sources: bool = True
    unread: Unread = frozenset()

    @property
    def balancer_name(self) -> str:
        """Of one that is to be made. The name that was asked for can have one holder only."""
        if not self.name:
            return names.load_balancer_name(self.owner, internal=self.internal, generation=self.generation)
        return names.with_generation(self.name, self.generation)

    def spans_zones(self, zones: Iterable[str]) -> bool:
        """Whether a load balancer in these zones has to reach into others: it stands in one alone, or there
        are nodes elsewhere."""
        there = set(zones)
        return len(there) == 1 or not there.issuperset(self.zones)

    def tags(self, resource: str, left: Unread = frozenset()) -> dict[str, str]:
        """All tags that a resource of this Service has. `left`: attributes that it has from before (see
        `attributes.left_alone`)."""
        extra = dict(self.extra_tags)
        marks = {names.EXTRA: names.extra_mark(extra)} if extra else {}
        asked = {**dict.fromkeys(left, ""), **dict(self.attributes_of(resource))}
        if resource == "lb" and self.access.private_link is not None:
            asked[PRIVATE_LINK] = ""
        if asked:
            marks[names.ATTRIBUTES] = names.extra_mark(asked)
        if resource == "lb" and (
            of_listeners := {k: v for p in self.ports for k, v in p.listener_attributes}
        ):
            marks[names.LISTENER_ATTRIBUTES] = names.extra_mark(of_listeners)
        if self.generation and resource != "sg":
            marks[names.GENERATION] = self.generation
        return {**names.marks(self.owner, resource), **extra, **marks}

    def attributes_of(self, resource: str) -> Tags:
        """Those that are asked for, of the load balancer ("lb") or of a target group."""
        if resource == "lb":
            return self.attributes
        return next((port.attributes for port in self.ports if port.group_id == resource), ())

    def unread_of(self, resource: str) -> Unread:
        """As `attributes_of`."""
        if resource == "lb":
            return self.unread
        return next((port.unread for port in self.ports if port.group_id == resource), frozenset())


def want_of(desired: LoadBalancer, generation: str) -> Wanted:
    """What is wanted of a load balancer of this generation (see `succession`). Raises as `want`."""
    return dataclasses.replace(want(desired), generation=generation)


def want(desired: LoadBalancer) -> Wanted:
    """Raises `UserError` where no load balancer can be made of it."""
    wishes = read_wishes(desired)
    complaints = [*wishes.complaints, *health.complaints(wishes.check)]
    asked = desired.requested_ip.strip()
    if wishes.addresses and asked not in ("", *wishes.addresses.elastic, *wishes.addresses.private):
        complaints.append(f"spec.loadBalancerIP: {asked} is not looked at, as an annotation lists addresses")
    ports, port_notices = _ports(desired, wishes, complaints)
    targets, zones, target_notices = _targets(_chosen(desired.targets, wishes, complaints))
    dual_stack, family_notices = _families(desired, wishes, ports)
    return Wanted(
        owner=desired.owner,
        name=wishes.name,
        internal=wishes.internal,
        knows_scheme=wishes.knows_scheme,
        scheme_field=wishes.scheme_field,
        dual_stack=dual_stack,
        subnets=wishes.subnets,
        addresses=wishes.addresses,
        ports=ports,
        attributes=as_tags(wishes.attributes),
        unread=wishes.unread_attributes,
        rules=_rules(ports, desired, wishes.access, dual_stack),
        knows_sources=_knows_sources(desired, wishes.access),
        access=wishes.access,
        targets=targets,
        zones=zones,
        extra_tags=wishes.extra_tags,
        notices=(*port_notices, *target_notices, *family_notices, *notices(tuple(complaints))),
    )


def _ports(
    desired: LoadBalancer, wishes: Wishes, annotation_complaints: list[str]
) -> tuple[tuple[Port, ...], tuple[Notice, ...]]:
    """A Network Load Balancer has one listener per port number, for TCP, for UDP, or for both when both go
    to the same nodePort. What cannot be served is left out and said; the rest is served."""
    served: dict[int, tuple[Listener, Protocol]] = {}
    complaints: list[str] = []
    for index, listener in enumerate(desired.listeners):
        field = f"spec.ports[{index}]"
        if listener.protocol is L4Protocol.SCTP:
            complaints.append(f"{field}: {listener} is not served: AWS load balancers do not carry SCTP")
            continue
        if not listener.node_port:
            complaints.append(f"{field}: {listener} is not served: it has no nodePort")
            continue
        protocol = _protocol(listener, wishes.tls)
        other, others = served.get(listener.port, (None, protocol))
        if other is None:
            served[listener.port] = (listener, protocol)
        elif Protocol.TLS in (protocol, others):
            complaints.append(
                f"{field}: {listener} is not served: a Network Load Balancer has one listener on port "
                f"{listener.port}, which is for {others}, and TLS shares none; use another port number"
            )
        elif other.node_port == listener.node_port:
            served[listener.port] = (other, Protocol.TCP_UDP)
        else:
            complaints.append(
                f"{field}: {listener} is not served: a Network Load Balancer has one listener on port "
                f"{listener.port}, which goes to nodePort {other.node_port} for {others}; give both "
                f"ports the same nodePort ({field}.nodePort: {other.node_port})"
            )
    if not served:
        raise UserError(
            "no port can be served on AWS: " + ("; ".join(complaints) or "there is none"), field="spec.ports"
        )
    said = (Notice(Severity.WARNING, "PortsNotServed", "; ".join(complaints), "Ports"),) if complaints else ()
    there = {(protocol, number) for number, (_, protocol) in served.items()}
    annotation_complaints += [
        f"aws-load-balancer-listener-attributes.{protocol}-{number}: there is no such listener"
        for protocol, number in sorted(wishes.listener_attributes.keys() - there)
    ]
    return tuple(
        _port(desired, wishes, *served[number], annotation_complaints) for number in sorted(served)
    ), said


def _protocol(listener: Listener, tls: TlsWish | None) -> Protocol:
    protocol = Protocol(listener.protocol)
    named = tls is not None and (
        not tls.ports or not tls.ports.isdisjoint({listener.name, str(listener.port)})
    )
    return Protocol.TLS if named and protocol is Protocol.TCP else protocol


def _port(
    desired: LoadBalancer, wishes: Wishes, listener: Listener, protocol: Protocol, complaints: list[str]
) -> Port:
    tls, group_protocol = None, protocol
    if protocol is Protocol.TLS:
        assert wishes.tls is not None
        tls = _tls(wishes.tls)
        group_protocol = Protocol.TLS if wishes.tls.to_targets else Protocol.TCP
    sticky = desired.session_affinity is SessionAffinity.CLIENT_IP
    asked = {
        **({attributes.STICKY: "true", attributes.STICKY_TYPE: "source_ip"} if sticky else {}),
        **wishes.group_attributes,
        **wishes.port_attributes.get(listener.port, {}),
    }
    fit, unfit = attributes.of_group(asked, group_protocol, tls=tls is not None)
    for_listener, more = attributes.of_listener(
        wishes.listener_attributes.get((protocol, listener.port), {}), protocol
    )
    check = health.check_for(group_protocol, desired.health_check_node_port, wishes.check, desired.listeners)
    unfit += [*more, *health.doubts(check, group_protocol)]
    complaints += [f"port {listener.port}: {why}" for why in unfit]
    return Port(
        port=listener.port,
        protocol=protocol,
        node_port=listener.node_port,
        group_protocol=group_protocol,
        check=check,
        attributes=fit,
        tls=tls,
        listener_attributes=for_listener,
        unread_check=wishes.check.unread,
        unread=wishes.unread_group_attributes.get(listener.port, frozenset()).difference(asked),
        unread_of_listener=wishes.unread_listener_attributes.get(listener.port, frozenset()).difference(
            dict(for_listener)
        ),
    )


def _tls(wish: TlsWish) -> Tls:
    first, *more = wish.certificates or ("",)
    return Tls(
        first, frozenset(more), wish.policy or DEFAULT_POLICY, "" if wish.alpn == "None" else wish.alpn
    )


def _chosen(targets: tuple[Target, ...], wishes: Wishes, complaints: list[str]) -> tuple[Target, ...]:
    """The nodes with all labels that are asked for."""
    if not wishes.node_labels:
        return targets
    chosen = tuple(t for t in targets if set(wishes.node_labels) <= t.labels.items())
    if targets and not chosen:
        labels = ", ".join(f"{key}={value}" for key, value in wishes.node_labels)
        complaints.append(f"aws-load-balancer-target-node-labels: no node has {labels}: there are no targets")
    return chosen


def _targets(targets: tuple[Target, ...]) -> tuple[frozenset[str], tuple[str, ...], tuple[Notice, ...]]:
    found: set[str] = set()
    zones: Counter[str] = Counter()
    unusable: list[str] = []
    for target in targets:
        match = PROVIDER_ID.fullmatch(target.provider_id)
        if match is None:
            unusable.append(target.node_name)
        elif match["instance"] not in found:
            found.add(match["instance"])
            zones[match["zone"] or target.zone] += 1
    by_size = sorted(filter(None, zones), key=lambda zone: (-zones[zone], zone))
    if not unusable:
        return frozenset(found), tuple(by_size), ()
    shown = ", ".join(sorted(unusable)[:5]) + (f" and {len(unusable) - 5} more" if len(unusable) > 5 else "")
    message = (
        f"no EC2 instance in spec.providerID (aws:///ZONE/i-…) of {shown}: these nodes get no traffic until "
    )
    message += "they have one (kubelet --provider-id, or a cloud controller manager)"
    notice = Notice(Severity.WARNING, "NodesWithoutInstance", message, "Targets")
    return frozenset(found), tuple(by_size), (notice,)


def _families(
    desired: LoadBalancer, wishes: Wishes, ports: tuple[Port, ...]
) -> tuple[bool, tuple[Notice, ...]]:
    """Whether the load balancer has IPv6 addresses too: by the annotation, or by the Service's families.
    Instances are reached by IPv4 in any case."""
    if IPFamily.IPV4 not in desired.ip_families:
        raise UserError(
            "AWS load balancers reach nodes by IPv4: use IPv4, or IPv4 and IPv6", field="spec.ipFamilies"
        )
    wish = wishes.dual_stack
    if not (IPFamily.IPV6 in desired.ip_families if wish is None else wish):
        return False, ()
    if all(port.protocol in (Protocol.TCP, Protocol.TLS) for port in ports):
        return True, ()
    message = (
        "IPv4 only: with UDP ports the load balancer has no IPv6 addresses: put them into a Service of their "
        "own, or ask for IPv4 alone (spec.ipFamilies, aws-load-balancer-ip-address-type)"
    )
    return False, (Notice(Severity.WARNING, "IPv6NotServed", message, "IPFamilies"),)


def _rules(
    ports: tuple[Port, ...], desired: LoadBalancer, access: AccessWish, dual_stack: bool
) -> frozenset[IngressRule]:
    """None if the Service names groups of its own: nobody is admitted by us then."""
    if access.groups:
        return frozenset()
    everybody = ("0.0.0.0/0", "::/0") if dual_stack else ("0.0.0.0/0",)
    is_for_all = not access.prefix_lists and _knows_sources(desired, access)
    ranges = desired.source_ranges or (everybody if is_for_all else ())
    cidrs = [str(ipaddress.ip_network(cidr, strict=False)) for cidr in ranges]
    return rules_from((*cidrs, *access.prefix_lists), ports, path_mtu=access.path_mtu)


def _knows_sources(desired: LoadBalancer, access: AccessWish) -> bool:
    return bool(access.groups) or not (desired.unread_source_ranges or access.unread_prefix_lists)


def rules_from(sources: tuple[str, ...], ports: Iterable[Port], *, path_mtu: bool) -> frozenset[IngressRule]:
    """`sources`: ranges of both families, and ids of prefix lists."""
    rules = {
        IngressRule(protocol, port.port, source)
        for port in ports
        for protocol in _transports(port.protocol)
        for source in sources
    }
    if path_mtu:
        # "Fragmentation needed" and "packet too big" (RFC 1191, RFC 8201).
        cidrs = [source for source in sources if "/" in source]
        rules |= {IngressRule("icmpv6", 2, c) if ":" in c else IngressRule("icmp", 3, c) for c in cidrs}
    return frozenset(rules)


def _transports(protocol: Protocol) -> tuple[str, ...]:
    return ("tcp",) if protocol is Protocol.TLS else tuple(protocol.lower().split("_"))
