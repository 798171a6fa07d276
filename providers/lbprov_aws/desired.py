"""From the load balancer that a Service asks for to what that means on AWS. Pure.

One Network Load Balancer per Service; a listener per port; a target group per (protocol, nodePort), which
outlives a change of the listener's port; one security group that admits the source ranges.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from collections import Counter
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
from lbprov_aws import names
from lbprov_aws.placement import PROVIDER_ID
from lbprov_aws.resources import HealthCheck, IngressRule, Protocol
from lbprov_aws.wishes import read_wishes

KUBE_PROXY_HEALTH_PORT = "10256"
"""Where kube-proxy says whether its node should get traffic (`--healthz-bind-address`; KEP-3836)."""


@dataclass(frozen=True, slots=True)
class Port:
    """A listener, and by `node_port` and `protocol` the target group behind it."""

    port: int
    protocol: Protocol
    node_port: int

    @property
    def group_id(self) -> str:
        return f"tg:{self.node_port}-{self.protocol.lower()}"

    @property
    def listener_id(self) -> str:
        return f"listener:{self.port}"

    def __str__(self) -> str:
        return f"{self.port}/{self.protocol}"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What one Service should have on AWS. `targets`: instance ids; `zones`: the zone of each, most first.
    `health_checks`: one per entry of `ports`. `generation`: see `succession`."""

    owner: Owner
    internal: bool
    dual_stack: bool
    ports: tuple[Port, ...]
    health_checks: tuple[HealthCheck, ...]
    rules: frozenset[IngressRule]
    targets: frozenset[str]
    zones: tuple[str, ...]
    sticky: bool
    extra_tags: tuple[tuple[str, str], ...]
    notices: tuple[Notice, ...]
    generation: str = ""

    def tags(self, resource: str) -> dict[str, str]:
        """All tags that a resource of this Service has."""
        extra = dict(self.extra_tags)
        mark = {names.EXTRA: names.extra_mark(extra)} if extra else {}
        sticky = {names.AFFINITY: "ClientIP"} if self.sticky and resource.startswith("tg:") else {}
        generation = {names.GENERATION: self.generation} if self.generation and resource != "sg" else {}
        return {**names.marks(self.owner, resource), **extra, **mark, **sticky, **generation}


def want_of(desired: LoadBalancer, generation: str) -> Wanted:
    """What is wanted of a load balancer of this generation (see `succession`). Raises as `want`."""
    return dataclasses.replace(want(desired), generation=generation)


def want(desired: LoadBalancer) -> Wanted:
    """Raises `UserError` where no load balancer can be made of it."""
    wishes = read_wishes(desired)
    ports, port_notices = _ports(desired.listeners)
    targets, zones, target_notices = _targets(desired.targets)
    dual_stack, family_notices = _families(desired, ports)
    return Wanted(
        owner=desired.owner,
        internal=wishes.internal,
        dual_stack=dual_stack,
        ports=ports,
        health_checks=tuple(_health_check(port, desired.health_check_node_port) for port in ports),
        rules=_rules(ports, desired.source_ranges, dual_stack),
        targets=targets,
        zones=zones,
        sticky=desired.session_affinity is SessionAffinity.CLIENT_IP,
        extra_tags=wishes.extra_tags,
        notices=(*port_notices, *target_notices, *family_notices, *wishes.notices),
    )


def _ports(listeners: tuple[Listener, ...]) -> tuple[tuple[Port, ...], tuple[Notice, ...]]:
    """A Network Load Balancer has one listener per port number, for TCP, for UDP, or for both when both go
    to the same nodePort. What cannot be served is left out and said; the rest is served."""
    served: dict[int, Port] = {}
    complaints: list[str] = []
    for index, listener in enumerate(listeners):
        field = f"spec.ports[{index}]"
        if listener.protocol is L4Protocol.SCTP:
            complaints.append(f"{field}: {listener} is not served: AWS load balancers do not carry SCTP")
            continue
        if not listener.node_port:
            complaints.append(f"{field}: {listener} is not served: it has no nodePort")
            continue
        port = Port(listener.port, Protocol(listener.protocol), listener.node_port)
        other = served.get(port.port)
        if other is None:
            served[port.port] = port
        elif other.node_port == port.node_port:
            served[port.port] = Port(port.port, Protocol.TCP_UDP, port.node_port)
        else:
            complaints.append(
                f"{field}: {listener} is not served: a Network Load Balancer has one listener on port "
                f"{port.port}, which goes to nodePort {other.node_port} for {other.protocol}; give both "
                f"ports the same nodePort ({field}.nodePort: {other.node_port})"
            )
    if not served:
        raise UserError(
            "no port can be served on AWS: " + ("; ".join(complaints) or "there is none"), field="spec.ports"
        )
    notices = (
        (Notice(Severity.WARNING, "PortsNotServed", "; ".join(complaints), "Ports"),) if complaints else ()
    )
    return tuple(served[number] for number in sorted(served)), notices


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
    message = f"no EC2 instance in spec.providerID (aws:///ZONE/i-…) of {shown}: these nodes get no traffic"
    notice = Notice(Severity.WARNING, "NodesWithoutInstance", message, "Targets")
    return frozenset(found), tuple(by_size), (notice,)


def _families(desired: LoadBalancer, ports: tuple[Port, ...]) -> tuple[bool, tuple[Notice, ...]]:
    """Whether the load balancer has IPv6 addresses too. Instances are reached by IPv4 in any case."""
    if IPFamily.IPV6 not in desired.ip_families:
        return False, ()
    if IPFamily.IPV4 not in desired.ip_families:
        raise UserError(
            "AWS load balancers reach nodes by IPv4: use IPv4, or IPv4 and IPv6", field="spec.ipFamilies"
        )
    if all(port.protocol is Protocol.TCP for port in ports):
        return True, ()
    message = "IPv4 only: with UDP ports the load balancer has no IPv6 addresses"
    return False, (Notice(Severity.WARNING, "IPv6NotServed", message, "IPFamilies"),)


def _health_check(port: Port, health_check_node_port: int) -> HealthCheck:
    """Local: the node says whether it has endpoints. UDP cannot be probed itself; kube-proxy's own health
    stands for it. TCP: whether the nodePort is answered."""
    if health_check_node_port:
        return HealthCheck("HTTP", str(health_check_node_port), "/healthz", healthy=2, unhealthy=2)
    if port.protocol is Protocol.TCP:
        return HealthCheck("TCP", "traffic-port", timeout_s=10)
    return HealthCheck("HTTP", KUBE_PROXY_HEALTH_PORT, "/healthz")


def _rules(
    ports: tuple[Port, ...], source_ranges: tuple[str, ...], dual_stack: bool
) -> frozenset[IngressRule]:
    ranges = source_ranges or (("0.0.0.0/0", "::/0") if dual_stack else ("0.0.0.0/0",))
    return frozenset(
        IngressRule(protocol.lower(), port.port, str(ipaddress.ip_network(cidr, strict=False)))
        for port in ports
        for protocol in port.protocol.split("_")
        for cidr in ranges
    )
