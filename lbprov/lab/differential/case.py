"""A Service and its endpoints in one or more states, and what they are as API objects."""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lbprov.lab.controlplane import Object

FAMILIES = (4, 6)
PORTS = {"TCP": ("http", 80), "UDP": ("dns", 53), "SCTP": ("diameter", 3868)}
OTHER_PORT = 99
"""A port that no Service of a case has."""

NODES = ("node-1", "node-2")
ZONES = {"node-1": "zone-a", "node-2": "zone-b"}
PODS = {"web-1a": "node-1", "web-1b": "node-1", "web-2a": "node-2", "ask-1": "node-1", "ask-2": "node-2"}
SERVING = ("web-1a", "web-1b", "web-2a")
CLIENT = "client"
CLUSTER_CIDRS = "10.244.0.0/16,fd00:10:244::/48"
OUTSIDE_NETWORKS = ("198.18.0.0/15", "10.96.0.0/12", "2001:db8:113::/48", "fd00:10:96::/112")
"""What the client sends by way of node-1."""

PROXY_NAME = "service.kubernetes.io/service-proxy-name"
HEADLESS = "service.kubernetes.io/headless"
_SERVICE_NAME = "kubernetes.io/service-name"


@dataclass(frozen=True, slots=True)
class Ep:
    """An endpoint. `host`: which machine of the lab. Conditions None: absent. `node` None: the host's own,
    empty: none. `in_slice`: endpoints with the same number share a slice."""

    host: str
    ready: bool | None = True
    serving: bool | None = None
    terminating: bool | None = None
    node: str | None = None
    zones: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    in_slice: int = 0

    def as_object(self, address: str) -> Object:
        conditions = {"ready": self.ready, "serving": self.serving, "terminating": self.terminating}
        node = PODS.get(self.host, self.host) if self.node is None else self.node
        hints = {
            "forZones": [{"name": zone} for zone in self.zones],
            "forNodes": [{"name": node} for node in self.nodes],
        }
        found: Object = {
            "addresses": [address],
            "conditions": {name: value for name, value in conditions.items() if value is not None},
        }
        if node:
            found["nodeName"] = node
        if self.zones or self.nodes:
            found["hints"] = {name: value for name, value in hints.items() if value}
        return found


@dataclass(frozen=True, slots=True)
class State:
    """What a Service is for a while.

    - `load_balancer`: the ipMode of each address in its status; empty text: no ipMode.
    - `affinity_s` 0: none.
    - `odd`: garbage beside its slices, see `_ODD`.
    """

    endpoints: tuple[Ep, ...] = ()
    type: str = "ClusterIP"
    protocols: tuple[str, ...] = ("TCP", "UDP")
    families: tuple[int, ...] = FAMILIES
    internal: str = "Cluster"
    external: str = "Cluster"
    affinity_s: int = 0
    external_ips: int = 0
    load_balancer: tuple[str, ...] = ()
    ranges: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    slice_labels: tuple[str, ...] = ()
    odd: tuple[str, ...] = ()

    @property
    def has_node_port(self) -> bool:
        return self.type != "ClusterIP"

    def __str__(self) -> str:
        """Only what is not the default."""
        parts = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name == "endpoints":
                value = [_brief(e) for e in value]
            if field.name == "endpoints" or value != field.default:
                parts.append(f"{field.name}={value}")
        return " ".join(parts)


def _brief(endpoint: Ep) -> str:
    marks = [
        f"{f.name}={getattr(endpoint, f.name)}"
        for f in dataclasses.fields(endpoint)
        if f.name != "host" and getattr(endpoint, f.name) != f.default
    ]
    return f"{endpoint.host}({', '.join(marks)})" if marks else endpoint.host


@dataclass(frozen=True, slots=True)
class Case:
    """`states`: what the Service is, one after the other; None: it is deleted, its slices with it. `number`
    decides its addresses and ports."""

    name: str
    states: tuple[State | None, ...]
    number: int = 0

    def at(self, phase: int) -> State | None:
        return self.states[min(phase, len(self.states) - 1)]

    def changes_at(self, phase: int) -> bool:
        return 0 < phase < len(self.states)

    def __str__(self) -> str:
        return f"{self.name}: " + "  THEN  ".join(str(state or "deleted") for state in self.states)

    # Where it is found

    def cluster_ip(self, family: int) -> str:
        return _address("10.100.0.0" if family == 4 else "fd00:10:96::1000", self.number)

    def external_ip(self, family: int, index: int = 0) -> str:
        return _address("198.18.0.0" if family == 4 else "2001:db8:113::e:0", 4 * self.number + index)

    def load_balancer_ip(self, family: int, index: int = 0) -> str:
        return _address("198.19.0.0" if family == 4 else "2001:db8:113::f:0", 4 * self.number + index)

    def node_port(self, protocol: str) -> int:
        return 30000 + 3 * self.number + tuple(PORTS).index(protocol)

    @property
    def health_port(self) -> int:
        return 32700 - self.number

    # As API objects

    def service(self, state: State) -> Object:
        ports = []
        for protocol in state.protocols:
            name, number = PORTS[protocol]
            port = {"name": name, "protocol": protocol, "port": number, "targetPort": number}
            ports.append(port | ({"nodePort": self.node_port(protocol)} if state.has_node_port else {}))
        cluster_ips = [self.cluster_ip(family) for family in state.families]
        spec: dict[str, Any] = {
            "type": state.type,
            "clusterIP": cluster_ips[0],
            "clusterIPs": cluster_ips,
            "ipFamilies": [f"IPv{family}" for family in state.families],
            "ipFamilyPolicy": "RequireDualStack" if len(state.families) == 2 else "SingleStack",
            "ports": ports,
            "internalTrafficPolicy": state.internal,
        }
        if state.external_ips:
            spec["externalIPs"] = [
                self.external_ip(f, i) for f in state.families for i in range(state.external_ips)
            ]
        if state.has_node_port:
            spec["externalTrafficPolicy"] = state.external
        if state.type == "LoadBalancer" and state.external == "Local":
            spec["healthCheckNodePort"] = self.health_port
        if state.type == "LoadBalancer" and state.ranges:
            spec["loadBalancerSourceRanges"] = list(state.ranges)
        if state.affinity_s:
            spec["sessionAffinity"] = "ClientIP"
            spec["sessionAffinityConfig"] = {"clientIP": {"timeoutSeconds": state.affinity_s}}
        labels = dict.fromkeys(state.labels, "other")
        return {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": self.name, "labels": labels},
            "spec": spec,
        }

    def ingress(self, state: State) -> list[Object]:
        """For its status."""
        if state.type != "LoadBalancer":
            return []
        return [
            {"ip": self.load_balancer_ip(family, index), **({"ipMode": mode} if mode else {})}
            for index, mode in enumerate(state.load_balancer)
            for family in state.families
        ]

    def slices(self, state: State, addresses: Mapping[str, Mapping[int, str]]) -> Iterator[Object]:
        """`addresses`: host -> family -> address."""
        for family in FAMILIES:
            for number in sorted({endpoint.in_slice for endpoint in state.endpoints}):
                members = [e for e in state.endpoints if e.in_slice == number]
                own = [e.as_object(addresses[e.host][family]) for e in members]
                yield self._slice(state, f"{family}-{number}", f"IPv{family}", own)
        for what in state.odd:
            yield _ODD[what](self, state, addresses)

    def _slice(self, state: State, name: str, address_type: str, endpoints: list[Object]) -> Object:
        ports = [
            {"name": PORTS[protocol][0], "protocol": protocol, "port": PORTS[protocol][1]}
            for protocol in state.protocols
        ]
        labels = {_SERVICE_NAME: self.name, **dict.fromkeys(state.slice_labels, "")}
        return {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": f"{self.name}-{name}", "labels": labels},
            "addressType": address_type,
            "ports": ports,
            "endpoints": endpoints,
        }


def _address(base: str, offset: int) -> str:
    return str(ipaddress.ip_address(base) + offset)


Addresses = Mapping[str, Mapping[int, str]]


def _names(case: Case, state: State, _: Addresses) -> Object:
    return case._slice(state, "odd-names", "FQDN", [{"addresses": ["web.example.com"]}])


def _without_ports(case: Case, state: State, addresses: Addresses) -> Object:
    own = case._slice(state, "odd-ports", "IPv4", [{"addresses": [addresses["ask-1"][4]]}])
    return own | {"ports": []}


def _port_without_number(case: Case, state: State, addresses: Addresses) -> Object:
    own = case._slice(state, "odd-number", "IPv4", [{"addresses": [addresses["ask-1"][4]]}])
    return own | {"ports": [{"name": "http", "protocol": "TCP"}]}


def _other_port(case: Case, state: State, addresses: Addresses) -> Object:
    own = case._slice(state, "odd-other", "IPv4", [{"addresses": [addresses["ask-1"][4]]}])
    return own | {"ports": [{"name": "other", "protocol": "TCP", "port": 80}]}


def _copy_terminates(case: Case, state: State, addresses: Addresses) -> Object:
    """Of web-1a, in a slice that comes first by name."""
    copy = Ep("web-1a", ready=False, serving=True, terminating=True)
    return case._slice(state, "0-copy", "IPv4", [copy.as_object(addresses["web-1a"][4])])


_ODD = {
    "names": _names,
    "no-ports": _without_ports,
    "no-number": _port_without_number,
    "other-port": _other_port,
    "copy-terminates": _copy_terminates,
}
ODD = tuple(_ODD)
