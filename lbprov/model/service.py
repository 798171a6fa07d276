"""Services: what the cluster's users ask for.

Values here are decoded and defaulted: a field that the API server would have filled in is filled in.
IP addresses and CIDRs are text in the canonical form of `ipaddress` (lower case, zeros compressed).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple


class ObjectKey(NamedTuple):
    """Namespace and name: what identifies an object of one kind at one time (its uid, for ever)."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class L4Protocol(StrEnum):
    """The transport of a port, spelled as Kubernetes spells it."""

    TCP = "TCP"
    UDP = "UDP"
    SCTP = "SCTP"


class ServiceType(StrEnum):
    """`spec.type`. A LoadBalancer has all that a NodePort has, and that all of a ClusterIP."""

    CLUSTER_IP = "ClusterIP"
    NODE_PORT = "NodePort"
    LOAD_BALANCER = "LoadBalancer"
    EXTERNAL_NAME = "ExternalName"


class TrafficPolicy(StrEnum):
    """Whether traffic may go to endpoints of every node (Cluster) or of this node only (Local)."""

    CLUSTER = "Cluster"
    LOCAL = "Local"


class SessionAffinity(StrEnum):
    NONE = "None"
    CLIENT_IP = "ClientIP"


class IPFamily(StrEnum):
    IPV4 = "IPv4"
    IPV6 = "IPv6"


class IPMode(StrEnum):
    """How nodes treat a load balancer's address (KEP-1860): VIP, they forward to it themselves;
    Proxy, they leave it to the load balancer."""

    VIP = "VIP"
    PROXY = "Proxy"


@dataclass(frozen=True, slots=True)
class ServicePort:
    """One port of a Service. `node_port` 0: none allocated. `target_port` text: a port's name."""

    port: int
    protocol: L4Protocol = L4Protocol.TCP
    name: str = ""
    target_port: int | str = 0
    node_port: int = 0
    app_protocol: str = ""

    def __str__(self) -> str:
        return f"{self.port}/{self.protocol}"


@dataclass(frozen=True, slots=True)
class Ingress:
    """One entry of `status.loadBalancer.ingress`: an address or a hostname, never both (DNS
    controllers would publish both). `ip_mode` only with `ip`; the API server refuses it otherwise."""

    ip: str = ""
    hostname: str = ""
    ip_mode: IPMode | None = None

    def __str__(self) -> str:
        return self.ip or self.hostname


@dataclass(frozen=True, slots=True)
class Condition:
    """One entry of `status.conditions`; `type` is `lbprov.io/…` for ours. `status`: True, False, Unknown."""

    type: str
    status: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Service:
    """A Service as stored, defaults filled in.

    - `cluster_ips` is empty for ExternalName and for headless Services (`headless` tells which).
    - `selector` None: the Service has none and its endpoints are written by somebody else.
    - `health_check_node_port` 0: none.
    - `created_at`, `deleted_at`: RFC 3339 text; `deleted_at` empty unless the deletion has begun.
    - `annotations`, `labels`, `selector` are never changed after construction.
    """

    key: ObjectKey
    uid: str
    type: ServiceType = ServiceType.CLUSTER_IP
    ports: tuple[ServicePort, ...] = ()
    selector: Mapping[str, str] | None = field(default=None, hash=False)
    cluster_ips: tuple[str, ...] = ()
    headless: bool = False
    ip_families: tuple[IPFamily, ...] = (IPFamily.IPV4,)
    external_ips: tuple[str, ...] = ()
    load_balancer_ip: str = ""
    load_balancer_class: str | None = None
    load_balancer_source_ranges: tuple[str, ...] = ()
    external_traffic_policy: TrafficPolicy = TrafficPolicy.CLUSTER
    internal_traffic_policy: TrafficPolicy = TrafficPolicy.CLUSTER
    session_affinity: SessionAffinity = SessionAffinity.NONE
    session_affinity_timeout_s: int = 10800
    health_check_node_port: int = 0
    allocate_node_ports: bool = True
    publish_not_ready_addresses: bool = False
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    finalizers: tuple[str, ...] = ()
    created_at: str = ""
    deleted_at: str = ""
    generation: int = 1
    ingress: tuple[Ingress, ...] = ()
    conditions: tuple[Condition, ...] = ()

    def condition(self, type_: str) -> Condition | None:
        return next((c for c in self.conditions if c.type == type_), None)
