"""Kubernetes objects in the API's JSON form to values of `lbprov.model`: the one place that knows both.

Takes plain dicts as an API server sends them (defaulted; absent means the field's zero value), whatever they
come from. Raises nothing for an object that an API server has accepted.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any

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
    Pod,
    Service,
    ServicePort,
    ServiceType,
    SessionAffinity,
    Taint,
    TrafficPolicy,
)

Object = Mapping[str, Any]

SERVICE_NAME_LABEL = "kubernetes.io/service-name"


def key_of(obj: Object) -> ObjectKey:
    meta = obj["metadata"]
    return ObjectKey(meta.get("namespace", ""), meta["name"])


def service(obj: Object) -> Service:
    meta, spec = obj["metadata"], obj.get("spec", {})
    status = obj.get("status", {})
    ips = tuple(spec.get("clusterIPs") or ([spec["clusterIP"]] if spec.get("clusterIP") else ()))
    headless = ips[:1] == ("None",)
    return Service(
        key=key_of(obj),
        uid=meta.get("uid", ""),
        type=ServiceType(spec.get("type", "ClusterIP")),
        ports=tuple(_service_port(p) for p in spec.get("ports", ())),
        selector=spec.get("selector") or None,
        cluster_ips=() if headless else tuple(canonical_ip(ip) for ip in ips),
        headless=headless,
        ip_families=tuple(IPFamily(f) for f in spec.get("ipFamilies", ())) or (IPFamily.IPV4,),
        external_ips=tuple(canonical_ip(ip) for ip in spec.get("externalIPs", ())),
        load_balancer_ip=spec.get("loadBalancerIP", ""),
        load_balancer_class=spec.get("loadBalancerClass"),
        load_balancer_source_ranges=tuple(
            canonical_cidr(c) for c in spec.get("loadBalancerSourceRanges", ())
        ),
        external_traffic_policy=TrafficPolicy(spec.get("externalTrafficPolicy") or "Cluster"),
        internal_traffic_policy=TrafficPolicy(spec.get("internalTrafficPolicy") or "Cluster"),
        session_affinity=SessionAffinity(spec.get("sessionAffinity") or "None"),
        session_affinity_timeout_s=spec.get("sessionAffinityConfig", {})
        .get("clientIP", {})
        .get("timeoutSeconds", 10800),
        health_check_node_port=spec.get("healthCheckNodePort", 0),
        allocate_node_ports=spec.get("allocateLoadBalancerNodePorts", True),
        publish_not_ready_addresses=spec.get("publishNotReadyAddresses", False),
        annotations=meta.get("annotations") or {},
        labels=meta.get("labels") or {},
        finalizers=tuple(meta.get("finalizers", ())),
        created_at=meta.get("creationTimestamp", ""),
        deleted_at=meta.get("deletionTimestamp") or "",
        generation=meta.get("generation", 1),
        ingress=tuple(
            _ingress(i) for i in (status.get("loadBalancer") or {}).get("ingress") or () if _is_told(i)
        ),
        conditions=tuple(_condition(c) for c in status.get("conditions") or ()),
    )


def _service_port(port: Object) -> ServicePort:
    return ServicePort(
        port=port["port"],
        protocol=L4Protocol(port.get("protocol") or "TCP"),
        name=port.get("name", ""),
        target_port=port.get("targetPort") or port["port"],
        node_port=port.get("nodePort", 0),
        app_protocol=port.get("appProtocol", ""),
    )


def _is_told(ingress: Object) -> bool:
    return bool(ingress.get("ip") or ingress.get("hostname"))


def _ingress(ingress: Object) -> Ingress:
    """Some clouds tell both; the address is what nodes can use."""
    if not ingress.get("ip"):
        return Ingress(hostname=ingress["hostname"])
    mode = ingress.get("ipMode")
    return Ingress(ip=canonical_ip(ingress["ip"]), ip_mode=IPMode(mode) if mode else None)


def _condition(condition: Object) -> Condition:
    return Condition(
        type=condition["type"],
        status=condition["status"],
        reason=condition.get("reason", ""),
        message=condition.get("message", ""),
    )


def node(obj: Object) -> Node:
    meta, spec, status = obj["metadata"], obj.get("spec", {}), obj.get("status", {})
    cidrs = spec.get("podCIDRs") or ([spec["podCIDR"]] if spec.get("podCIDR") else ())
    return Node(
        name=meta["name"],
        uid=meta.get("uid", ""),
        provider_id=spec.get("providerID", ""),
        addresses=tuple(NodeAddress(a["type"], a["address"]) for a in status.get("addresses", ())),
        pod_cidrs=tuple(canonical_cidr(c) for c in cidrs),
        labels=meta.get("labels") or {},
        taints=tuple(Taint(t["key"], t["effect"], t.get("value", "")) for t in spec.get("taints", ())),
        unschedulable=spec.get("unschedulable", False),
        ready=is_ready(status.get("conditions"), default=True),
        deleted_at=meta.get("deletionTimestamp") or "",
    )


def is_ready(conditions: Sequence[Object] | None, *, default: bool) -> bool:
    """The Ready condition of a Pod or Node; `default` where there is none."""
    return next((c.get("status") == "True" for c in conditions or () if c.get("type") == "Ready"), default)


def pod(obj: Object) -> Pod:
    """`ports` are the containers' (and restartable init containers': sidecars) ports. A Pod is ready as
    its condition says; without one, as its phase lets it be."""
    meta, spec, status = obj["metadata"], obj.get("spec", {}), obj.get("status", {})
    ips = [i["ip"] for i in status.get("podIPs", ()) if i.get("ip")] or (
        [status["podIP"]] if status.get("podIP") else []
    )
    sidecars = [c for c in spec.get("initContainers", ()) if c.get("restartPolicy") == "Always"]
    owners = meta.get("ownerReferences", ())
    return Pod(
        key=key_of(obj),
        labels=meta.get("labels") or {},
        node_name=spec.get("nodeName", ""),
        ips=tuple(canonical_ip(ip) for ip in ips),
        ports=tuple(
            EndpointPort(p["containerPort"], L4Protocol(p.get("protocol") or "TCP"), p.get("name", ""))
            for container in (*spec.get("containers", ()), *sidecars)
            for p in container.get("ports", ())
        ),
        ready=is_ready(status.get("conditions"), default=status.get("phase", "Running") == "Running"),
        terminating=bool(meta.get("deletionTimestamp")),
        host_network=spec.get("hostNetwork", False),
        hostname=spec.get("hostname", ""),
        owner=owners[0]["name"] if owners else "",
    )


def endpoint_slice(obj: Object) -> EndpointSlice:
    """A slice of address type FQDN has no family and must be left out by the caller."""
    labels = obj["metadata"].get("labels") or {}
    return EndpointSlice(
        key=key_of(obj),
        service=labels.get(SERVICE_NAME_LABEL, ""),
        family=IPFamily(obj["addressType"]),
        ports=tuple(
            EndpointPort(p["port"], L4Protocol(p.get("protocol") or "TCP"), p.get("name") or "")
            for p in obj.get("ports") or ()
            if p.get("port")
        ),
        endpoints=tuple(_endpoint(e) for e in obj.get("endpoints") or ()),
        labels=labels,
    )


def _endpoint(endpoint: Object) -> Endpoint:
    conditions, hints = endpoint.get("conditions") or {}, endpoint.get("hints") or {}
    target = endpoint.get("targetRef") or {}
    return Endpoint(
        addresses=tuple(canonical_ip(a) for a in endpoint["addresses"]),
        node_name=endpoint.get("nodeName") or "",
        zone=endpoint.get("zone") or "",
        ready=_true_unless_said(conditions.get("ready")),
        serving=_true_unless_said(conditions.get("serving")),
        terminating=bool(conditions.get("terminating")),
        hostname=endpoint.get("hostname") or "",
        target=ObjectKey(target.get("namespace", ""), target["name"]) if target.get("name") else None,
        zone_hints=tuple(z["name"] for z in hints.get("forZones") or ()),
        node_hints=tuple(n["name"] for n in hints.get("forNodes") or ()),
    )


def _true_unless_said(value: bool | None) -> bool:
    return True if value is None else value


def canonical_ip(text: str) -> str:
    """Objects stored before strict validation may have leading zeros (decimal to Kubernetes)."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return str(ipaddress.ip_address(".".join(str(int(part)) for part in text.split("."))))


def canonical_cidr(text: str) -> str:
    address, _, prefix = text.strip().partition("/")
    return str(ipaddress.ip_network(f"{canonical_ip(address)}/{prefix}", strict=False))
