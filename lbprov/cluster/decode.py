"""Kubernetes objects as plain dicts (from JSON or YAML) to values of `lbprov.model`, through `wire`.

Takes objects as an API server sends them. Raises nothing for an object that an API server has accepted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from lbprov.cluster import wire
from lbprov.cluster.wire import SERVICE_NAME_LABEL, canonical_cidr, canonical_ip
from lbprov.model import EndpointPort, EndpointSlice, L4Protocol, Node, ObjectKey, Pod, Service

__all__ = [
    "SERVICE_NAME_LABEL",
    "Object",
    "canonical_cidr",
    "canonical_ip",
    "endpoint_slice",
    "is_ready",
    "key_of",
    "node",
    "pod",
    "service",
]

Object = Mapping[str, Any]


def key_of(obj: Object) -> ObjectKey:
    meta = obj["metadata"]
    return ObjectKey(meta.get("namespace", ""), meta["name"])


def service(obj: Object) -> Service:
    return wire.service(msgspec.convert(obj, wire.ServiceObject))


def node(obj: Object) -> Node:
    return wire.node(msgspec.convert(obj, wire.NodeObject))


def endpoint_slice(obj: Object) -> EndpointSlice:
    """A slice of address type FQDN has no family and must be left out by the caller."""
    value = wire.endpoint_slice(msgspec.convert(obj, wire.EndpointSliceObject))
    if value is None:
        raise ValueError("an EndpointSlice of names")
    return value


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
