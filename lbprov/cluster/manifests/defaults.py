"""What the API server fills in before it validates (k8s.io/kubernetes/pkg/apis/core/v1/defaults.go)."""

from __future__ import annotations

from typing import Any


def service_spec(given: dict[str, Any]) -> dict[str, Any]:
    """A Service's spec with the defaults that need no knowledge of other objects."""
    spec = {k: v for k, v in given.items() if v not in ([], {})}
    type_ = spec["type"] = spec.get("type") or "ClusterIP"
    spec["ports"] = [service_port(port) for port in spec.get("ports", [])]
    spec["sessionAffinity"] = spec.get("sessionAffinity") or "None"
    if spec["sessionAffinity"] == "ClientIP":
        timeout_s = spec.get("sessionAffinityConfig", {}).get("clientIP", {}).get("timeoutSeconds", 10800)
        spec["sessionAffinityConfig"] = {"clientIP": {"timeoutSeconds": timeout_s}}
    else:
        spec.pop("sessionAffinityConfig", None)
    if type_ in ("ClusterIP", "NodePort", "LoadBalancer"):
        spec.setdefault("internalTrafficPolicy", "Cluster")
    if externally_accessible(spec):
        spec["externalTrafficPolicy"] = spec.get("externalTrafficPolicy") or "Cluster"
    if type_ == "LoadBalancer":
        spec.setdefault("allocateLoadBalancerNodePorts", True)
    for absent_when_empty in (
        "clusterIP",
        "externalTrafficPolicy",
        "externalName",
        "healthCheckNodePort",
        "loadBalancerIP",
        "publishNotReadyAddresses",
    ):
        if not spec.get(absent_when_empty):
            spec.pop(absent_when_empty, None)
    return spec


def service_port(given: dict[str, Any]) -> dict[str, Any]:
    port = {k: v for k, v in given.items() if not (k in ("nodePort", "name") and not v)}
    port["protocol"] = port.get("protocol") or "TCP"
    if port.get("targetPort", 0) in (0, "") and "port" in port:
        port["targetPort"] = port["port"]
    return port


def externally_accessible(spec: dict[str, Any]) -> bool:
    """Can traffic from outside of the cluster reach it by the Service's own doing?"""
    return spec.get("type") in ("NodePort", "LoadBalancer") or (
        spec.get("type") == "ClusterIP" and bool(spec.get("externalIPs"))
    )


def needs_health_check(spec: dict[str, Any]) -> bool:
    return spec.get("type") == "LoadBalancer" and spec.get("externalTrafficPolicy") == "Local"


def needs_cluster_ip(spec: dict[str, Any]) -> bool:
    return spec.get("type") != "ExternalName" and not is_headless(spec)


def needs_node_port(spec: dict[str, Any]) -> bool:
    return spec.get("type") in ("NodePort", "LoadBalancer")


def allocates_node_ports(spec: dict[str, Any]) -> bool:
    """Whether ports without one get one."""
    return spec.get("type") == "NodePort" or (
        spec.get("type") == "LoadBalancer" and bool(spec.get("allocateLoadBalancerNodePorts", True))
    )


def cluster_ips(spec: dict[str, Any]) -> list[str]:
    """Those that are said, in either of the two fields."""
    return list(spec.get("clusterIPs") or ([spec["clusterIP"]] if spec.get("clusterIP") else ()))


def is_headless(spec: dict[str, Any]) -> bool:
    return cluster_ips(spec)[:1] == ["None"]


def container_ports(containers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every port of the containers, protocol filled in."""
    return [{"protocol": "TCP", **port} for container in containers for port in container.get("ports", ())]
