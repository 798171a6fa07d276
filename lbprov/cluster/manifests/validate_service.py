"""Is this Service one that the API server would accept? One object by itself; no other is looked at.

Rules and their order follow ValidateService in k8s.io/kubernetes/pkg/apis/core/validation (1.36).
"""

from __future__ import annotations

from typing import Any

from lbprov.cluster.manifests import defaults, names
from lbprov.cluster.manifests.defaults import (
    externally_accessible,
    is_headless,
    needs_health_check,
    needs_node_port,
)
from lbprov.cluster.manifests.marked_yaml import shown
from lbprov.cluster.manifests.schema import Findings, Path

Spec = dict[str, Any]

TYPES = ("ClusterIP", "NodePort", "LoadBalancer", "ExternalName")
PROTOCOLS = ("TCP", "UDP", "SCTP")
POLICIES = ("Cluster", "Local")
FAMILIES = ("IPv4", "IPv6")
FAMILY_POLICIES = ("SingleStack", "PreferDualStack", "RequireDualStack")
DISTRIBUTIONS = ("PreferClose", "PreferSameZone", "PreferSameNode")
MAX_AFFINITY_S = 86400


def validate_service_spec(spec: Spec, findings: Findings) -> None:
    """`spec` has its defaults (`defaults.service_spec`) and conforms to its shape."""
    _one_of(spec, "type", TYPES, findings)
    _ports(spec, findings)
    names_and_values(spec.get("selector", {}), ("spec", "selector"), findings)
    _type_rules(spec, findings)
    _affinity(spec, findings)
    cluster_ips(spec, findings)
    for i, text in enumerate(spec.get("externalIPs", ())):
        findings.refuse_if(("spec", "externalIPs", i), names.endpoint_ip(text))
    _source_ranges(spec, findings)
    _traffic_policies(spec, findings)
    _load_balancer_class(spec, findings)


def _one_of(spec: Spec, field: str, allowed: tuple[str, ...], findings: Findings) -> None:
    if field in spec and spec[field] not in allowed:
        findings.refuse(("spec", field), f"{shown(spec[field])} is not one of {', '.join(allowed)}")


def names_and_values(labels: dict[str, str], path: Path, findings: Findings) -> None:
    """Labels, or a selector made of them."""
    for key, value in labels.items():
        findings.refuse_if((*path, key), names.qualified_name(key) or names.label_value(value))


def _ports(spec: Spec, findings: Findings) -> None:
    ports = spec["ports"]
    if not ports and not is_headless(spec) and spec["type"] != "ExternalName":
        findings.refuse(("spec", "ports"), "required: at least one port")
    by_name: dict[str, int] = {}
    by_port: dict[tuple[int, str], int] = {}
    by_node_port: dict[tuple[int, str], int] = {}
    for i, port in enumerate(ports):
        path: Path = ("spec", "ports", i)
        _port(port, path, len(ports) > 1, findings)
        if name := port.get("name"):
            if name in by_name:
                findings.refuse(
                    (*path, "name"), f"{shown(name)} is the name of spec.ports[{by_name[name]}] too"
                )
            by_name.setdefault(name, i)
        for seen, field in ((by_port, "port"), (by_node_port, "nodePort")):
            if field not in port:
                continue
            pair = (port[field], port["protocol"])
            if pair in seen:
                findings.refuse((*path, field), f"{pair[0]}/{pair[1]} is spec.ports[{seen[pair]}]'s too")
            seen.setdefault(pair, i)
        if "nodePort" in port and needs_node_port(spec):
            first = next(p for p in ports if p.get("nodePort") == port["nodePort"])
            if first.get("port") != port.get("port") and first["protocol"] != port["protocol"]:
                findings.refuse(
                    (*path, "nodePort"),
                    f"{port['nodePort']} is port {first.get('port')}'s; only protocols of one port share one",
                )
        if "nodePort" in port and spec["type"] == "ClusterIP":
            findings.refuse(
                (*path, "nodePort"),
                f"{port['nodePort']} is given, but only types NodePort and LoadBalancer have nodePorts "
                f"(spec.type is {spec['type']})",
            )


def _port(port: Spec, path: Path, name_needed: bool, findings: Findings) -> None:
    if port.get("name"):
        findings.refuse_if((*path, "name"), names.dns_1123_label(port["name"]))
    elif name_needed:
        findings.refuse((*path, "name"), "required: with several ports each needs a name")
    if "port" in port:
        findings.refuse_if((*path, "port"), names.port_number(port["port"]))
    if port["protocol"] not in PROTOCOLS:
        findings.refuse(
            (*path, "protocol"), f"{shown(port['protocol'])} is not one of {', '.join(PROTOCOLS)}"
        )
    target = port.get("targetPort")
    if isinstance(target, int) and target != port.get("port"):  # else it is what was said already
        findings.refuse_if((*path, "targetPort"), names.port_number(target))
    elif isinstance(target, str):
        findings.refuse_if((*path, "targetPort"), names.port_name(target))
    if "appProtocol" in port:
        findings.refuse_if((*path, "appProtocol"), names.qualified_name(port["appProtocol"]))


def _type_rules(spec: Spec, findings: Findings) -> None:
    type_ = spec["type"]
    if type_ in ("NodePort", "LoadBalancer") and is_headless(spec):
        findings.refuse(
            ("spec", "clusterIP"), f"None is not allowed with type {type_}, which needs an address"
        )
    if type_ != "ExternalName":
        return
    for field in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"):
        if field in spec:
            findings.refuse(("spec", field), "not allowed with type ExternalName, which has no address")
    target = spec.get("externalName", "").removesuffix(".")
    if target:
        findings.refuse_if(("spec", "externalName"), names.dns_1123_subdomain(target))
    else:
        findings.refuse(("spec", "externalName"), "required with type ExternalName: a DNS name")


def _affinity(spec: Spec, findings: Findings) -> None:
    _one_of(spec, "sessionAffinity", ("None", "ClientIP"), findings)
    path: Path = ("spec", "sessionAffinityConfig")
    if spec["sessionAffinity"] == "ClientIP":
        timeout_s = spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"]
        if not 1 <= timeout_s <= MAX_AFFINITY_S:
            findings.refuse(
                (*path, "clientIP", "timeoutSeconds"), f"{timeout_s} is outside 1-{MAX_AFFINITY_S} (one day)"
            )


def cluster_ips(spec: Spec, findings: Findings) -> None:
    """clusterIP, clusterIPs, ipFamilies and ipFamilyPolicy among themselves."""
    if spec["type"] == "ExternalName":
        return
    _one_of(spec, "ipFamilyPolicy", FAMILY_POLICIES, findings)
    families = spec.get("ipFamilies", [])
    _families(families, findings)
    ips, path = defaults.cluster_ips(spec), ("spec", "clusterIPs")
    if len(ips) > 2:
        findings.refuse(path, f"{len(ips)} values; at most 2, one of each family")
    if ips and not spec.get("clusterIP"):
        findings.refuse(path, "only allowed together with spec.clusterIP, which is its first value")
    elif ips and ips[0] != spec["clusterIP"]:
        findings.refuse((*path, 0), f"{shown(ips[0])} is not spec.clusterIP ({shown(spec['clusterIP'])})")
    sound = True
    for i, text in enumerate(ips):
        if text == "None":
            if len(ips) > 1:
                findings.refuse((*path, i), "None must be the first and only value")
                sound = False
            continue
        wrong = names.ip(text)
        sound = sound and not wrong
        findings.refuse_if(_ip_path(spec, i), wrong)
        family = families[i] if i < len(families) else ""
        if not wrong and family in FAMILIES and (family == "IPv6") != names.is_ipv6(text):
            findings.refuse(_ip_path(spec, i), f"{text} is not {family}, which spec.ipFamilies[{i}] says")
    if sound and len(ips) == 2 and names.is_ipv6(ips[0]) == names.is_ipv6(ips[1]):
        findings.refuse(path, "both are of one family; at most one IP of each")
    if spec.get("ipFamilyPolicy") == "SingleStack":
        for field in ("clusterIPs", "ipFamilies"):
            if len(spec.get(field, ())) == 2:
                findings.refuse(
                    ("spec", "ipFamilyPolicy"),
                    f"SingleStack, but spec.{field} has 2; PreferDualStack or RequireDualStack is needed",
                )


def _ip_path(spec: Spec, index: int) -> Path:
    """The first address under the name that most people write it by."""
    return ("spec", "clusterIP") if index == 0 and spec.get("clusterIP") else ("spec", "clusterIPs", index)


def _families(families: list[str], findings: Findings) -> None:
    path: Path = ("spec", "ipFamilies")
    if len(families) > 2:
        findings.refuse(path, f"{len(families)} values; at most 2")
    for i, family in enumerate(families):
        if family not in FAMILIES:
            findings.refuse((*path, i), f"{shown(family)} is not one of {', '.join(FAMILIES)}")
        elif family in families[:i]:
            findings.refuse((*path, i), f"{family} is given twice")


_RANGES_ANNOTATION = "service.beta.kubernetes.io/load-balancer-source-ranges"
_TOPOLOGY_ANNOTATION = "service.kubernetes.io/topology-mode"
_OLD_TOPOLOGY_ANNOTATION = "service.kubernetes.io/topology-aware-hints"


def _source_ranges(spec: Spec, findings: Findings) -> None:
    path: Path = ("spec", "loadBalancerSourceRanges")
    ranges = spec.get("loadBalancerSourceRanges", ())
    if ranges and spec["type"] != "LoadBalancer":
        findings.refuse(path, f"only allowed with type LoadBalancer (it is {spec['type']})")
    for i, text in enumerate(ranges):
        findings.refuse_if((*path, i), names.cidr(text.strip()))


def known_annotations(annotations: dict[str, str], spec: Spec, findings: Findings) -> None:
    """Those whose values the API server looks at. The one for source ranges is older than the field, and is
    checked where the field is not given."""
    mode, old_mode = annotations.get(_TOPOLOGY_ANNOTATION), annotations.get(_OLD_TOPOLOGY_ANNOTATION)
    if mode is not None and old_mode is not None and mode != old_mode:
        path: Path = ("metadata", "annotations", _TOPOLOGY_ANNOTATION)
        findings.refuse(
            path, f"{shown(mode)} is not {shown(old_mode)}, which {_OLD_TOPOLOGY_ANNOTATION} says"
        )
    text = annotations.get(_RANGES_ANNOTATION)
    if text is None or spec.get("loadBalancerSourceRanges"):
        return
    path = ("metadata", "annotations", _RANGES_ANNOTATION)
    if spec["type"] != "LoadBalancer":
        findings.refuse(path, f"only allowed with type LoadBalancer (it is {spec['type']})")
    for part in text.split(",") if text.strip() else ():
        findings.refuse_if(path, names.cidr(part.strip()))


def _traffic_policies(spec: Spec, findings: Findings) -> None:
    _one_of(spec, "internalTrafficPolicy", POLICIES, findings)
    _one_of(spec, "trafficDistribution", DISTRIBUTIONS, findings)
    if spec.get("externalTrafficPolicy"):
        if externally_accessible(spec):
            _one_of(spec, "externalTrafficPolicy", POLICIES, findings)
        else:
            findings.refuse(
                ("spec", "externalTrafficPolicy"),
                "only allowed where traffic comes from outside: NodePort, LoadBalancer, or externalIPs",
            )
    port, path = spec.get("healthCheckNodePort", 0), ("spec", "healthCheckNodePort")
    if not port:
        return
    if not needs_health_check(spec):
        findings.refuse(path, "only allowed with type LoadBalancer and externalTrafficPolicy: Local")
    else:
        findings.refuse_if(path, names.port_number(port))


def _load_balancer_class(spec: Spec, findings: Findings) -> None:
    if spec["type"] != "LoadBalancer":
        for field in ("loadBalancerClass", "allocateLoadBalancerNodePorts"):
            if field in spec:
                findings.refuse(
                    ("spec", field), f"only allowed with type LoadBalancer (it is {spec['type']})"
                )
    elif "loadBalancerClass" in spec:
        findings.refuse_if(("spec", "loadBalancerClass"), names.qualified_name(spec["loadBalancerClass"]))


def validate_service_status(status: Spec, findings: Findings) -> None:
    """`status.loadBalancer.ingress` of a manifest."""
    for i, entry in enumerate(status.get("loadBalancer", {}).get("ingress", ())):
        path: Path = ("status", "loadBalancer", "ingress", i)
        if "ip" in entry:
            findings.refuse_if((*path, "ip"), names.ip(entry["ip"]))
        if "hostname" in entry:
            hostname = entry["hostname"]
            findings.refuse_if((*path, "hostname"), names.dns_1123_subdomain(hostname))
        if "ipMode" in entry:
            if "ip" not in entry:
                findings.refuse((*path, "ipMode"), "only allowed together with ip")
            if entry["ipMode"] not in ("VIP", "Proxy"):
                findings.refuse((*path, "ipMode"), f"{shown(entry['ipMode'])} is not one of VIP, Proxy")
