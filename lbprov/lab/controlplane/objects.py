"""Nodes and Pods, and what kubelets and the node controller would write about them."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any

from lbprov.lab.controlplane.api import STRATEGIC_PATCH, Api, Object

_NOT_READY = "node.kubernetes.io/not-ready"


def add_node(
    api: Api,
    name: str,
    *,
    ips: Sequence[str] = ("192.0.2.10",),
    provider_id: str = "",
    zone: str = "",
    labels: Mapping[str, str] | None = None,
    taints: Sequence[Mapping[str, str]] = (),
    ready: bool = True,
) -> Object:
    """A Node as its kubelet registers it, with InternalIP addresses `ips`, then `set_node_ready`."""
    spec: dict[str, Any] = {"taints": [dict(taint) for taint in taints]}
    if provider_id:
        spec["providerID"] = provider_id
    all_labels = {"kubernetes.io/hostname": name, **(labels or {})}
    if zone:
        all_labels["topology.kubernetes.io/zone"] = zone
    metadata = {"name": name, "labels": all_labels}
    api.create({"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": spec})
    addresses = [{"type": "InternalIP", "address": ip} for ip in ips]
    addresses.append({"type": "Hostname", "address": name})
    api.patch("Node", name, {"status": {"addresses": addresses}}, subresource="status")
    return set_node_ready(api, name, ready)


def set_node_ready(api: Api, name: str, ready: bool) -> Object:
    """The kubelet's condition and the node controller's taint, which every Node gets at its creation."""
    condition = {
        "type": "Ready",
        "status": "True" if ready else "False",
        "reason": "KubeletReady" if ready else "KubeletNotReady",
        "message": "as told",
    }
    change = {"status": {"conditions": [condition]}}
    node = api.patch("Node", name, change, subresource="status", content_type=STRATEGIC_PATCH)
    taints = [t for t in node["spec"].get("taints", ()) if t["key"] != _NOT_READY]
    if not ready:
        taints.append({"key": _NOT_READY, "effect": "NoSchedule"})
    return api.patch("Node", name, {"spec": {"taints": taints or None}})


def add_pod(
    api: Api,
    name: str,
    *,
    ips: Sequence[str],
    node: str = "",
    labels: Mapping[str, str] | None = None,
    ports: Mapping[str, int] | None = None,
    ready: bool = True,
) -> Object:
    """A Pod that runs, as far as the cluster can tell. `ports`: name -> containerPort."""
    container: dict[str, Any] = {"name": "main", "image": "registry.invalid/none"}
    container["ports"] = [{"name": n, "containerPort": port} for n, port in (ports or {}).items()]
    spec: dict[str, Any] = {"containers": [container]}
    if node:
        spec["nodeName"] = node
    metadata = {"name": name, "labels": dict(labels or {})}
    api.create({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    status = {
        "phase": "Running",
        "podIP": ips[0],
        "podIPs": [{"ip": ip} for ip in ips],
        "conditions": [_pod_ready(ready)],
    }
    return api.patch("Pod", name, {"status": status}, subresource="status")


def set_pod_ready(api: Api, name: str, ready: bool) -> Object:
    change = {"status": {"conditions": [_pod_ready(ready)]}}
    return api.patch("Pod", name, change, subresource="status", content_type=STRATEGIC_PATCH)


def service(name: str, *, ports: Mapping[str, int] | None = None, **spec: Any) -> Object:
    """A Service of type LoadBalancer for Pods labelled `app: NAME`, TCP ports by name; `spec` overrides."""
    listed = [{"name": n, "port": port, "protocol": "TCP"} for n, port in (ports or {"http": 80}).items()]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"type": "LoadBalancer", "selector": {"app": name}, "ports": listed, **spec},
    }


def endpoint_ips(api: Api, service_name: str, namespace: str | None = None) -> frozenset[str]:
    """The ready endpoints that the EndpointSlice controller has found."""
    selector = f"kubernetes.io/service-name={service_name}"
    found = set()
    for endpoint_slice in api.list("EndpointSlice.discovery.k8s.io", namespace, labelSelector=selector):
        for endpoint in endpoint_slice.get("endpoints") or ():
            if endpoint["conditions"].get("ready"):
                found |= {str(ipaddress.ip_address(ip)) for ip in endpoint["addresses"]}
    return frozenset(found)


def _pod_ready(ready: bool) -> dict[str, str]:
    return {"type": "Ready", "status": "True" if ready else "False"}
