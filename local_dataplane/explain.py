"""Why a Service answers, or does not: each of its addresses followed through policy, node and rules. Pure.

What a packet meets is not guessed here: the rules are rendered as for a node, and walked as its kernel would.
"""

from __future__ import annotations

import difflib
import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from lbprov.model import (
    EndpointSlice,
    IPFamily,
    IPMode,
    Node,
    ObjectKey,
    Service,
    ServiceType,
    UserError,
)
from local_dataplane.config import NodeConfig, NodeFacts, family_of
from local_dataplane.endpoints import HEADLESS_LABEL
from local_dataplane.iptables.ruleset import Ruleset
from local_dataplane.iptables.trace import Fate, Packet, Walker, Way
from local_dataplane.nftables.ruleset import Ruleset as NftablesRuleset
from local_dataplane.nftables.trace import Walker as NftablesWalker
from local_dataplane.selection import Mode
from local_dataplane.table import PROXY_NAME_LABEL, Frontend, Purpose, ServiceState, service_states

PURPOSES = {
    Purpose.CLUSTER_IP: "clusterIP",
    Purpose.LOAD_BALANCER: "load balancer",
    Purpose.EXTERNAL_IP: "externalIP",
    Purpose.NODE_PORT: "nodePort",
}
ANYBODY = {IPFamily.IPV4: "198.51.100.1", IPFamily.IPV6: "2001:db8:ffff::1"}
"""Somebody outside: addresses for documentation."""


@dataclass(frozen=True, slots=True)
class Client:
    """Who asks. `address` empty: for a Pod any of this node's, for anybody else one of `ANYBODY`."""

    name: str
    address: str = ""
    is_node: bool = False


@dataclass(frozen=True, slots=True)
class Route:
    """What becomes of a connection of one client to one frontend. `why`: where nothing answers."""

    frontend: str
    address: str
    port: int
    protocol: str
    family: str
    client: str
    source: str
    ways: tuple[Way, ...]
    why: str = ""


@dataclass(frozen=True, slots=True)
class EndpointNote:
    """An endpoint, and what it is used for: "" or why it is not."""

    address: str
    node: str
    state: str


@dataclass(frozen=True, slots=True)
class Explanation:
    service: str
    kind: str
    node: str
    mode: str
    remarks: tuple[str, ...]
    routes: tuple[Route, ...]
    endpoints: tuple[EndpointNote, ...]


@dataclass(frozen=True, slots=True)
class Cluster:
    """What is needed to explain one Service. `services`: all of them (addresses may be claimed twice)."""

    services: tuple[Service, ...]
    slices: tuple[EndpointSlice, ...]
    nodes: tuple[Node, ...]


def explain(
    cluster: Cluster,
    key: ObjectKey,
    node: Node,
    clients: Iterable[Client],
    config: NodeConfig,
    mode: Mode = Mode.IPTABLES,
) -> Explanation:
    """By the rules of one mode. Raises `UserError` where there is no such Service."""
    service = next((s for s in cluster.services if s.key == key), None)
    if service is None:
        near = difflib.get_close_matches(str(key), [str(s.key) for s in cluster.services], 3, 0.6)
        raise UserError(f"there is no Service {key}" + (f"; did you mean {', '.join(near)}?" if near else ""))
    facts = NodeFacts.of(node)
    own = tuple(s for s in cluster.slices if s.service_key == key)
    states = service_states(service, own, facts)
    routes = [
        route
        for family in IPFamily
        if any(state.key.family is family for state in states)
        for route in _Family(cluster, family, facts, config, mode).routes(states, clients)
    ]
    return Explanation(
        str(key),
        str(service.type),
        node.name,
        str(mode),
        tuple(_remarks(service, own, states, facts)),
        tuple(routes),
        tuple(_endpoints(own, facts)),
    )


class _Family:
    """One family's rules on one node, all Services in them."""

    def __init__(
        self, cluster: Cluster, family: IPFamily, node: NodeFacts, config: NodeConfig, mode: Mode
    ) -> None:
        self.family, self.node, self.config = family, node, config
        slices: dict[ObjectKey, list[EndpointSlice]] = {}
        for slice_ in cluster.slices:
            slices.setdefault(slice_.service_key, []).append(slice_)
        states = [
            (state.key, state)
            for service in cluster.services
            for state in service_states(service, slices.get(service.key, ()), node)
            if state.key.family is family
        ]
        own = [a for a in node.addresses if family_of(a) is family]
        self.own_address = own[0] if own else ""
        if mode is Mode.NFTABLES:
            table = NftablesRuleset(family, config, node)
            table.replace(states)
            self.table = table.table
            walker = NftablesWalker(table.chains, table.sets, table.elements, frozenset(own))
            self.ways = walker.ways
        else:
            rules = Ruleset(family, config, node)
            rules.replace(states)
            self.table = rules.table
            self.ways = Walker(rules.chains, frozenset(own)).ways

    def routes(self, states: Iterable[ServiceState], clients: Iterable[Client]) -> Iterator[Route]:
        for state in states:
            if state.key.family is not self.family:
                continue
            for frontend, purpose in state.frontends():
                address = frontend.address or self.own_address
                for client in clients:
                    source = client.address or self._source(client)
                    if not source or not address or family_of(source) is not self.family:
                        continue
                    packet = Packet(
                        source, address, frontend.port, str(frontend.protocol).lower(), client.is_node
                    )
                    ways = tuple(self.ways(packet))
                    yield Route(
                        PURPOSES[purpose],
                        address,
                        frontend.port,
                        str(frontend.protocol),
                        str(self.family),
                        client.name,
                        source,
                        ways,
                        self._why(state, frontend, purpose, source, ways),
                    )

    def _source(self, client: Client) -> str:
        return self.own_address if client.is_node else ANYBODY[self.family]

    def _why(
        self, state: ServiceState, frontend: Frontend, purpose: Purpose, source: str, ways: tuple[Way, ...]
    ) -> str:
        """Why nothing answers; or that somebody else does."""
        holder = self.table.holder(frontend)
        if holder is not None and holder.key != state.key:
            return f"{holder.key} has this address and port, too, and goes before this Service"
        fates = {way.fate for way in ways}
        if Fate.FORWARD in fates:
            return ""
        if fates == {Fate.UNTOUCHED}:
            return "no rule is for it: NodePorts are not served on this address (--nodeport-addresses)"
        if not state.has_endpoints:
            return "refused: no endpoint is ready, or finishing what it has"
        if (
            purpose is Purpose.LOAD_BALANCER
            and state.source_ranges
            and not _within(source, state.source_ranges)
        ):
            return (
                f"dropped: {source} is in none of loadBalancerSourceRanges ({', '.join(state.source_ranges)})"
            )
        field = "internalTrafficPolicy" if purpose is Purpose.CLUSTER_IP else "externalTrafficPolicy"
        return f"dropped: {field} is Local, and none of the endpoints is on node {self.node.name}"


def _within(address: str, ranges: Iterable[str]) -> bool:
    ip = ipaddress.ip_address(address)
    return any(ip in ipaddress.ip_network(cidr, strict=False) for cidr in ranges)


def _remarks(
    service: Service, slices: tuple[EndpointSlice, ...], states: tuple[ServiceState, ...], node: NodeFacts
) -> Iterator[str]:
    """Sentences about what is missing or special."""
    if service.type is ServiceType.EXTERNAL_NAME:
        yield "ExternalName: DNS answers for it, nodes forward nothing"
        return
    if PROXY_NAME_LABEL in service.labels:
        yield f"it is labelled {PROXY_NAME_LABEL}: another proxy serves it, we forward nothing"
        return
    if service.headless:
        yield "headless (clusterIP: None): DNS gives the endpoints' addresses, nodes forward nothing"
        return
    if not slices:
        selector = ",".join(f"{k}={v}" for k, v in (service.selector or {}).items())
        yield (
            f"it has no EndpointSlices: does a Pod match its selector {selector}?"
            if selector
            else "it has neither a selector nor EndpointSlices: somebody must write those"
        )
    yield from _port_remarks(service, slices)
    if any(HEADLESS_LABEL in s.labels for s in slices):
        yield f"slices labelled {HEADLESS_LABEL} are left out"
    if service.type is ServiceType.LOAD_BALANCER:
        if not service.ingress:
            yield "no load balancer has given it an address yet: status.loadBalancer.ingress is empty"
        for ingress in service.ingress:
            if ingress.ip and ingress.ip_mode is IPMode.PROXY:
                yield f"{ingress.ip}: ipMode Proxy, nodes leave it to the load balancer"
    for state in states:
        if state.affinity_s and state.key == states[0].key:
            yield f"sessionAffinity: a client comes to its last endpoint again within {state.affinity_s} s"
        if state.choice.cluster and len(state.choice.cluster) < len(state.choice.serving):
            left = len(state.choice.serving) - len(state.choice.cluster)
            yield (
                f"port {state.key.port_name or state.port} ({state.key.family}): {left} endpoints are passed "
                f"over, by hints (zone {node.zone or 'unknown'}) or because they only finish what they have"
            )


def _port_remarks(service: Service, slices: tuple[EndpointSlice, ...]) -> Iterator[str]:
    there = {(p.name, p.protocol) for s in slices for p in s.ports}
    known = ", ".join(sorted(f"{name or '(no name)'}/{protocol}" for name, protocol in there)) or "none"
    for port in service.ports:
        if slices and (port.name, port.protocol) not in there:
            known = (
                ", ".join(sorted(f"{name or '(no name)'}/{protocol}" for name, protocol in there)) or "none"
            )
            yield (
                f"no slice has a port {port.name or '(no name)'}/{port.protocol} (there are: {known}): does "
                "targetPort name a port of the Pods?"
            )


def _endpoints(slices: tuple[EndpointSlice, ...], node: NodeFacts) -> Iterator[EndpointNote]:
    for slice_ in sorted(slices, key=lambda s: s.key):
        ports = ", ".join(str(p.port) for p in slice_.ports) or "no port"
        for endpoint in slice_.endpoints:
            if endpoint.ready:
                state = "ready"
            elif endpoint.serving and endpoint.terminating:
                state = "finishing what it has: used if none is ready"
            else:
                state = "NOT USED: not ready"
            address = endpoint.addresses[0] if endpoint.addresses else "?"
            here = " (this one)" if endpoint.node_name == node.name else ""
            yield EndpointNote(f"{address}: {ports}", f"{endpoint.node_name or 'no node'}{here}", state)


def as_data(explanation: Explanation) -> Mapping[str, object]:
    """For `-o json`."""
    return {
        "service": explanation.service,
        "type": explanation.kind,
        "node": explanation.node,
        "mode": explanation.mode,
        "remarks": list(explanation.remarks),
        "endpoints": [
            {"address": e.address, "node": e.node, "state": e.state} for e in explanation.endpoints
        ],
        "routes": [
            {
                "frontend": r.frontend,
                "address": r.address,
                "port": r.port,
                "protocol": r.protocol,
                "family": r.family,
                "client": r.client,
                "source": r.source,
                "why": r.why,
                "ways": [
                    {
                        "probability": round(w.probability, 4),
                        "fate": str(w.fate),
                        "backend": w.backend,
                        "masqueraded": w.masqueraded,
                        "rules_met": w.rules_met,
                        "chains": list(w.path),
                    }
                    for w in r.ways
                ],
            }
            for r in explanation.routes
        ],
    }
