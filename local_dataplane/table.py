"""The forwarding table: what this node does with packets for each port of each Service. Pure.

Every mode renders this table and nothing else; a behaviour that is not in it exists in no mode.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import NamedTuple

from lbprov.model import (
    EndpointSlice,
    IPFamily,
    IPMode,
    L4Protocol,
    ObjectKey,
    Service,
    ServicePort,
    ServiceType,
    SessionAffinity,
    TrafficPolicy,
)
from local_dataplane.config import NodeFacts, family_of
from local_dataplane.endpoints import Choice, candidates, choose

PROXY_NAME_LABEL = "service.kubernetes.io/service-proxy-name"
"""Services with this label, whatever its value, are served by another proxy."""


class PortKey(NamedTuple):
    """One port of one Service, in one family: what chains are named after."""

    service: ObjectKey
    port_name: str
    protocol: L4Protocol
    family: IPFamily

    def __str__(self) -> str:
        return f"{self.service}:{self.port_name}" if self.port_name else str(self.service)


class Frontend(NamedTuple):
    """What a packet's destination is compared with. `address` empty: any address of this node that serves
    NodePorts."""

    address: str
    protocol: L4Protocol
    port: int


class Purpose(IntEnum):
    """Why a frontend is one. Where two Services claim the same, the lower number has it: clusterIPs are
    the cluster's own, a load balancer's address was assigned, an externalIP anybody can write."""

    CLUSTER_IP = 0
    LOAD_BALANCER = 1
    EXTERNAL_IP = 2
    NODE_PORT = 3


class Verdict(StrEnum):
    """What becomes of a connection. REFUSE: the client is told at once. DROP: it is told nothing, because
    another node would have served it (a load balancer's health check must not be answered either)."""

    FORWARD = "forward"
    REFUSE = "refuse"
    DROP = "drop"


@dataclass(frozen=True, slots=True)
class ServiceState:
    """One port of one Service in one family, seen from one node.

    - `cluster_ip`, `external_ips`, `load_balancer_ips`, `node_port`: where clients connect (text empty or
      port 0: not that way).
    - `source_ranges`: who may use the load balancer's addresses; empty: everybody.
    - `affinity_s` 0: every connection is a new choice.
    - `created_at`: the older of two Services that claim one frontend keeps it.
    """

    key: PortKey
    port: int
    cluster_ip: str
    choice: Choice = field(default_factory=Choice)
    node_port: int = 0
    external_ips: tuple[str, ...] = ()
    load_balancer_ips: tuple[str, ...] = ()
    source_ranges: tuple[str, ...] = ()
    internal_policy: TrafficPolicy = TrafficPolicy.CLUSTER
    external_policy: TrafficPolicy = TrafficPolicy.CLUSTER
    affinity_s: int = 0
    created_at: str = ""

    @property
    def has_endpoints(self) -> bool:
        """Whether anybody, anywhere, could answer."""
        return bool(self.choice.cluster or self.choice.local)

    def verdict(self, policy: TrafficPolicy) -> Verdict:
        """For traffic that comes under `policy`. External traffic of Pods and of the node itself is an
        exception to Local: it may go to every endpoint (KEP-2086, kube-proxy's short circuit)."""
        if not self.has_endpoints:
            return Verdict.REFUSE
        usable = self.choice.local if policy is TrafficPolicy.LOCAL else self.choice.cluster
        return Verdict.FORWARD if usable else Verdict.DROP

    def frontends(self) -> tuple[tuple[Frontend, Purpose], ...]:
        protocol = self.key.protocol
        found = [(Frontend(self.cluster_ip, protocol, self.port), Purpose.CLUSTER_IP)]
        found += [(Frontend(ip, protocol, self.port), Purpose.LOAD_BALANCER) for ip in self.load_balancer_ips]
        found += [(Frontend(ip, protocol, self.port), Purpose.EXTERNAL_IP) for ip in self.external_ips]
        if self.node_port:
            found.append((Frontend("", protocol, self.node_port), Purpose.NODE_PORT))
        return tuple(found)


def service_states(
    service: Service, slices: Iterable[EndpointSlice], node: NodeFacts
) -> tuple[ServiceState, ...]:
    """One state per port and family that the Service has a clusterIP in; none for headless Services, for
    ExternalName, and for those that another proxy serves. `slices`: the Service's own."""
    if service.headless or service.type is ServiceType.EXTERNAL_NAME or PROXY_NAME_LABEL in service.labels:
        return ()
    slices = tuple(slices)
    return tuple(
        _state(service, port, address, slices, node)
        for address in service.cluster_ips
        for port in service.ports
    )


def _state(
    service: Service, port: ServicePort, cluster_ip: str, slices: tuple[EndpointSlice, ...], node: NodeFacts
) -> ServiceState:
    family = family_of(cluster_ip)
    own = _OwnFamily(family)
    affine = service.session_affinity is SessionAffinity.CLIENT_IP
    has_node_port = service.type in (ServiceType.NODE_PORT, ServiceType.LOAD_BALANCER)
    is_load_balancer = service.type is ServiceType.LOAD_BALANCER
    return ServiceState(
        key=PortKey(service.key, port.name, port.protocol, family),
        port=port.port,
        cluster_ip=cluster_ip,
        choice=choose(candidates(slices, port.name, port.protocol, family), node),
        node_port=port.node_port if has_node_port else 0,
        external_ips=own(service.external_ips),
        load_balancer_ips=own(_addresses_nodes_forward(service)) if is_load_balancer else (),
        source_ranges=own(service.load_balancer_source_ranges) if is_load_balancer else (),
        internal_policy=service.internal_traffic_policy,
        external_policy=service.external_traffic_policy,
        affinity_s=service.session_affinity_timeout_s if affine else 0,
        created_at=service.created_at,
    )


@dataclass(frozen=True, slots=True)
class _OwnFamily:
    family: IPFamily

    def __call__(self, addresses: Iterable[str]) -> tuple[str, ...]:
        """Sorted, without duplicates."""
        return tuple(sorted({a.strip() for a in addresses if family_of(a) is self.family}))


def _addresses_nodes_forward(service: Service) -> list[str]:
    """Not hostnames, and not addresses whose load balancer must see every packet (KEP-1860)."""
    return [i.ip for i in service.ingress if i.ip and i.ip_mode is not IPMode.PROXY]


class Claim(NamedTuple):
    """A Service port's wish for a frontend; the least one has it."""

    purpose: Purpose
    created_at: str
    key: PortKey


class ForwardingTable:
    """The states of one family, and who has which frontend. A plain in-memory index."""

    def __init__(self) -> None:
        self.states: dict[PortKey, ServiceState] = {}
        self._claims: dict[Frontend, set[Claim]] = {}
        self._contested: set[Frontend] = set()
        self._by_protocol: dict[L4Protocol, set[Frontend]] = {protocol: set() for protocol in L4Protocol}

    def replace(self, key: PortKey, state: ServiceState | None) -> set[Frontend]:
        """Put a state in the place of the old one (None: take it away); the frontends that this touches."""
        before = self._claims_of(self.states.pop(key, None))
        after = self._claims_of(state)
        for frontend, claim in before - after:
            self._claims[frontend].discard(claim)
        for frontend, claim in after - before:
            self._claims.setdefault(frontend, set()).add(claim)
        if state is not None:
            self.states[key] = state
        for frontend, _ in before ^ after:
            self._index(frontend)
        return {frontend for frontend, _ in before | after}

    def _index(self, frontend: Frontend) -> None:
        claims = self._claims[frontend]
        is_contested = len({claim.key for claim in claims}) > 1
        (self._contested.add if is_contested else self._contested.discard)(frontend)
        own = self._by_protocol[frontend.protocol]
        (own.add if claims else own.discard)(frontend)

    @staticmethod
    def _claims_of(state: ServiceState | None) -> set[tuple[Frontend, Claim]]:
        if state is None:
            return set()
        # One Service may name an address twice, as externalIP and as load balancer.
        return {(f, Claim(purpose, state.created_at, state.key)) for f, purpose in state.frontends()}

    def holder(self, frontend: Frontend) -> Claim | None:
        return min(self._claims.get(frontend, ()), default=None)

    def frontends(self, protocol: L4Protocol) -> frozenset[Frontend]:
        return frozenset(self._by_protocol[protocol])

    def conflicts(self) -> list[tuple[Frontend, Claim, Claim]]:
        """Frontends that two Service ports claim: (frontend, who has it, who does not)."""
        ordered = [(f, sorted(self._claims[f])) for f in sorted(self._contested)]
        return [(f, c[0], lost) for f, c in ordered for lost in c[1:] if lost.key != c[0].key]


class TableBuilder:
    """Turns snapshots into changes of states, deciding again only what may have changed."""

    def __init__(self) -> None:
        self._node: NodeFacts | None = None
        self._inputs: dict[ObjectKey, tuple[Service, tuple[EndpointSlice, ...]]] = {}
        self._states: dict[ObjectKey, tuple[ServiceState, ...]] = {}
        self._forwarded = 0

    def update(
        self, services: Iterable[Service], slices: Iterable[EndpointSlice], node: NodeFacts
    ) -> dict[PortKey, ServiceState | None]:
        """Port key -> its new state, None where it is gone; only keys whose state differs."""
        if node != self._node:
            self._inputs.clear()
            self._node = node
        by_service: dict[ObjectKey, list[EndpointSlice]] = {}
        for slice_ in slices:
            by_service.setdefault(slice_.service_key, []).append(slice_)
        changed: dict[PortKey, ServiceState | None] = {}
        seen = set()
        for service in services:
            seen.add(service.key)
            changed |= self.set_service(service, tuple(by_service.get(service.key, ())), node)
        for key in self._states.keys() - seen:
            changed |= self.remove_service(key)
        return changed

    def set_service(
        self, service: Service, slices: tuple[EndpointSlice, ...], node: NodeFacts
    ) -> Mapping[PortKey, ServiceState | None]:
        inputs = (service, slices)
        if self._inputs.get(service.key) == inputs:
            return {}
        self._inputs[service.key] = inputs
        before = {state.key: state for state in self._states.get(service.key, ())}
        states = service_states(service, slices, node)
        self._states[service.key] = states
        self._forwarded += bool(states) - bool(before)
        changed: dict[PortKey, ServiceState | None] = {
            s.key: s for s in states if before.pop(s.key, None) != s
        }
        return changed | dict.fromkeys(before)

    def set_node(self, node: NodeFacts) -> dict[PortKey, ServiceState | None]:
        """Decide everything again if the node is another than before."""
        changed: dict[PortKey, ServiceState | None] = {}
        if node != self._node:
            self._node = node
            inputs, self._inputs = self._inputs, {}
            for service, slices in inputs.values():
                changed |= self.set_service(service, slices, node)
        return changed

    def service(self, key: ObjectKey) -> Service | None:
        """As it was last taken over."""
        inputs = self._inputs.get(key)
        return inputs[0] if inputs else None

    def known(self) -> tuple[ObjectKey, ...]:
        """All Services that were taken over, forwarded or not."""
        return tuple(self._inputs)

    def remove_service(self, key: ObjectKey) -> Mapping[PortKey, ServiceState | None]:
        self._inputs.pop(key, None)
        states = self._states.pop(key, ())
        self._forwarded -= bool(states)
        return {state.key: None for state in states}

    @property
    def service_count(self) -> int:
        """Services that the table forwards for."""
        return self._forwarded
