"""The API's JSON as msgspec structs (only the fields used), and from them the model's values: the one place
that knows both.

An object is as an API server sends it: defaulted; unknown fields are skipped; null and absent mean the
field's zero value. Structs decode 5,000 Services in 20 ms where dicts cost 150.
"""

from __future__ import annotations

import ipaddress
import re

from msgspec import Struct, field

from lbprov.model import (
    Condition,
    Endpoint,
    EndpointPort,
    EndpointSlice,
    Ingress,
    IPFamily,
    IPMode,
    L4Protocol,
    Node,
    NodeAddress,
    ObjectKey,
    Service,
    ServicePort,
    ServiceType,
    SessionAffinity,
    Taint,
    TrafficPolicy,
)

SERVICE_NAME_LABEL = "kubernetes.io/service-name"

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
"""kubectl's own copy of the whole manifest: not kept, it would be most of our memory."""


class Meta(Struct, rename="camel", gc=False):
    """What identifies an object. `name` empty in a bookmark."""

    name: str = ""
    namespace: str = ""
    resource_version: str = ""


class _ObjectMeta(Meta, rename="camel", gc=False):
    uid: str = ""
    generation: int = 1
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    finalizers: list[str] | None = None


class _Port(Struct, rename="camel", gc=False):
    port: int
    protocol: str = "TCP"
    name: str = ""
    target_port: int | str = 0
    node_port: int = 0
    app_protocol: str | None = None


class _ClientIP(Struct, rename="camel", gc=False):
    timeout_seconds: int = 10800


class _AffinityConfig(Struct, gc=False):
    client_ip: _ClientIP | None = field(name="clientIP", default=None)


class _ServiceSpec(Struct, rename="camel", gc=False):
    type: str = "ClusterIP"
    ports: list[_Port] | None = None
    selector: dict[str, str] | None = None
    cluster_ip: str = field(name="clusterIP", default="")
    cluster_ips: list[str] | None = field(name="clusterIPs", default=None)
    ip_families: list[str] | None = None
    external_ips: list[str] | None = field(name="externalIPs", default=None)
    load_balancer_ip: str = field(name="loadBalancerIP", default="")
    load_balancer_class: str | None = None
    load_balancer_source_ranges: list[str] | None = None
    external_traffic_policy: str | None = None
    internal_traffic_policy: str | None = None
    session_affinity: str | None = None
    session_affinity_config: _AffinityConfig | None = None
    health_check_node_port: int = 0
    allocate_load_balancer_node_ports: bool | None = None
    publish_not_ready_addresses: bool = False


class _Ingress(Struct, rename="camel", gc=False):
    ip: str = ""
    hostname: str = ""
    ip_mode: str | None = None


class _LoadBalancerStatus(Struct, gc=False):
    ingress: list[_Ingress] | None = None


class _Condition(Struct, gc=False):
    type: str = ""
    status: str = ""
    reason: str = ""
    message: str = ""


class _ServiceStatus(Struct, rename="camel", gc=False):
    load_balancer: _LoadBalancerStatus | None = None
    conditions: list[_Condition] | None = None


class ServiceObject(Struct, gc=False):
    metadata: _ObjectMeta
    spec: _ServiceSpec = field(default_factory=_ServiceSpec)
    status: _ServiceStatus = field(default_factory=_ServiceStatus)


def service(obj: ServiceObject) -> Service:
    meta, spec, status = obj.metadata, obj.spec, obj.status
    cluster_ips = spec.cluster_ips or ([spec.cluster_ip] if spec.cluster_ip else [])
    headless = cluster_ips[:1] == ["None"]
    affinity = spec.session_affinity_config and spec.session_affinity_config.client_ip
    ingress = (status.load_balancer and status.load_balancer.ingress) or ()
    return Service(
        key=ObjectKey(meta.namespace, meta.name),
        uid=meta.uid,
        type=ServiceType(spec.type),
        ports=tuple(_service_port(port) for port in spec.ports or ()),
        selector=spec.selector or None,
        cluster_ips=() if headless else _ips(cluster_ips),
        headless=headless,
        ip_families=tuple(IPFamily(f) for f in spec.ip_families or ()) or (IPFamily.IPV4,),
        external_ips=_ips(spec.external_ips),
        load_balancer_ip=spec.load_balancer_ip,
        load_balancer_class=spec.load_balancer_class,
        load_balancer_source_ranges=tuple(_cidr(c) for c in spec.load_balancer_source_ranges or ()),
        external_traffic_policy=TrafficPolicy(spec.external_traffic_policy or "Cluster"),
        internal_traffic_policy=TrafficPolicy(spec.internal_traffic_policy or "Cluster"),
        session_affinity=SessionAffinity(spec.session_affinity or "None"),
        session_affinity_timeout_s=affinity.timeout_seconds if affinity else 10800,
        health_check_node_port=spec.health_check_node_port,
        allocate_node_ports=spec.allocate_load_balancer_node_ports is not False,
        publish_not_ready_addresses=spec.publish_not_ready_addresses,
        annotations={k: v for k, v in (meta.annotations or {}).items() if k != LAST_APPLIED},
        labels=meta.labels or {},
        finalizers=tuple(meta.finalizers or ()),
        created_at=meta.creation_timestamp or "",
        deleted_at=meta.deletion_timestamp or "",
        generation=meta.generation,
        ingress=tuple(_ingress(i) for i in ingress if i.ip or i.hostname),
        conditions=tuple(Condition(c.type, c.status, c.reason, c.message) for c in status.conditions or ()),
    )


def _service_port(port: _Port) -> ServicePort:
    return ServicePort(
        port=port.port,
        protocol=L4Protocol(port.protocol),
        name=port.name,
        target_port=port.target_port or port.port,
        node_port=port.node_port,
        app_protocol=port.app_protocol or "",
    )


def _ingress(ingress: _Ingress) -> Ingress:
    """Some clouds tell both; the address is what nodes can use."""
    if not ingress.ip:
        return Ingress(hostname=ingress.hostname)
    return Ingress(ip=_ip(ingress.ip), ip_mode=IPMode(ingress.ip_mode) if ingress.ip_mode else None)


class _NodeSpec(Struct, rename="camel", gc=False):
    provider_id: str = field(name="providerID", default="")
    pod_cidr: str = field(name="podCIDR", default="")
    pod_cidrs: list[str] | None = field(name="podCIDRs", default=None)
    taints: list[_Taint] | None = None
    unschedulable: bool = False


class _Taint(Struct, gc=False):
    key: str = ""
    effect: str = ""
    value: str = ""


class _Address(Struct, gc=False):
    type: str = ""
    address: str = ""


class _NodeStatus(Struct, gc=False):
    addresses: list[_Address] | None = None
    conditions: list[_Condition] | None = None


class NodeObject(Struct, gc=False):
    metadata: _ObjectMeta
    spec: _NodeSpec = field(default_factory=_NodeSpec)
    status: _NodeStatus = field(default_factory=_NodeStatus)


def node(obj: NodeObject) -> Node:
    meta, spec, status = obj.metadata, obj.spec, obj.status
    ready = [c.status for c in status.conditions or () if c.type == "Ready"]
    return Node(
        name=meta.name,
        uid=meta.uid,
        provider_id=spec.provider_id,
        addresses=tuple(NodeAddress(a.type, a.address) for a in status.addresses or ()),
        pod_cidrs=tuple(_cidr(c) for c in spec.pod_cidrs or ([spec.pod_cidr] if spec.pod_cidr else ())),
        labels=meta.labels or {},
        taints=tuple(Taint(t.key, t.effect, t.value) for t in spec.taints or ()),
        unschedulable=spec.unschedulable,
        ready=ready[0] == "True" if ready else True,
        deleted_at=meta.deletion_timestamp or "",
    )


class _SlicePort(Struct, gc=False):
    port: int | None = None
    protocol: str | None = None
    name: str | None = None


class _EndpointConditions(Struct, gc=False):
    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class _Named(Struct, gc=False):
    name: str = ""
    namespace: str = ""


class _Hints(Struct, rename="camel", gc=False):
    for_zones: list[_Named] | None = None
    for_nodes: list[_Named] | None = None


_NO_CONDITIONS, _NO_HINTS = _EndpointConditions(), _Hints()


class _Endpoint(Struct, rename="camel", gc=False):
    addresses: list[str]
    conditions: _EndpointConditions | None = None
    node_name: str | None = None
    zone: str | None = None
    hostname: str | None = None
    target_ref: _Named | None = None
    hints: _Hints | None = None


class EndpointSliceObject(Struct, rename="camel", gc=False):
    metadata: _ObjectMeta
    address_type: str
    ports: list[_SlicePort] | None = None
    endpoints: list[_Endpoint] | None = None


def endpoint_slice(obj: EndpointSliceObject) -> EndpointSlice | None:
    """None for address type FQDN, which kube-proxy ignores too."""
    if obj.address_type == "FQDN":
        return None
    labels = obj.metadata.labels or {}
    return EndpointSlice(
        key=ObjectKey(obj.metadata.namespace, obj.metadata.name),
        service=labels.get(SERVICE_NAME_LABEL, ""),
        family=IPFamily(obj.address_type),
        ports=tuple(
            EndpointPort(p.port, L4Protocol(p.protocol or "TCP"), p.name or "")
            for p in obj.ports or ()
            if p.port
        ),
        endpoints=tuple(_endpoint(e) for e in obj.endpoints or ()),
        labels=labels,
    )


def _endpoint(endpoint: _Endpoint) -> Endpoint:
    """ready and serving are true unless the contrary is said (discovery.k8s.io/v1)."""
    conditions, hints = endpoint.conditions or _NO_CONDITIONS, endpoint.hints or _NO_HINTS
    target = endpoint.target_ref
    return Endpoint(
        addresses=_ips(endpoint.addresses),
        node_name=endpoint.node_name or "",
        zone=endpoint.zone or "",
        ready=conditions.ready is not False,
        serving=conditions.serving is not False,
        terminating=bool(conditions.terminating),
        hostname=endpoint.hostname or "",
        target=ObjectKey(target.namespace, target.name) if target and target.name else None,
        zone_hints=tuple(z.name for z in hints.for_zones or ()),
        node_hints=tuple(n.name for n in hints.for_nodes or ()),
    )


def _ips(texts: list[str] | None) -> tuple[str, ...]:
    return tuple(_ip(text) for text in texts or ())


def _ip(text: str) -> str:
    """As written where Python knows no such address: whoever uses it can name the field, we cannot."""
    try:
        return canonical_ip(text)
    except ValueError:
        return text


def _cidr(text: str) -> str:
    try:
        return canonical_cidr(text)
    except ValueError:
        return text


def canonical_ip(text: str) -> str:
    """Objects stored before strict validation may have leading zeros (decimal to Kubernetes)."""
    if is_dotted_quad(text):
        return text
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return str(ipaddress.ip_address(".".join(str(int(part)) for part in text.split("."))))


def is_dotted_quad(text: str) -> bool:
    """An IPv4 address in the one form that it is written in: most addresses are, and there are very many."""
    return _DOTTED_QUAD.fullmatch(text) is not None


_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_DOTTED_QUAD = re.compile(rf"{_OCTET}(?:\.{_OCTET}){{3}}")


def canonical_cidr(text: str) -> str:
    address, _, prefix = text.strip().partition("/")
    return str(ipaddress.ip_network(f"{canonical_ip(address)}/{prefix}", strict=False))
