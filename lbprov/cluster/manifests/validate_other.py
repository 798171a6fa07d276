"""Is this Node, Pod, workload or EndpointSlice one that the API server would accept, as far as it is read?"""

from __future__ import annotations

from typing import Any

from lbprov.cluster.manifests import names
from lbprov.cluster.manifests.defaults import container_ports
from lbprov.cluster.manifests.marked_yaml import shown
from lbprov.cluster.manifests.schema import Findings, Path, path_text
from lbprov.cluster.manifests.validate_service import PROTOCOLS, names_and_values

Object = dict[str, Any]

ADDRESS_TYPES = ("InternalIP", "ExternalIP", "Hostname", "InternalDNS", "ExternalDNS")
TAINT_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
MAX_REPLICAS = 10_000
"""Far beyond one folder's use; a slip of the keyboard should not make millions of Pods."""


def validate_node(obj: Object, findings: Findings) -> None:
    spec = obj.get("spec", {})
    cidrs = spec.get("podCIDRs", [])
    for i, text in enumerate(cidrs):
        findings.refuse_if(("spec", "podCIDRs", i), names.cidr(text))
    if len(cidrs) > 2 or (len(cidrs) == 2 and names.is_ipv6(cidrs[0]) == names.is_ipv6(cidrs[1])):
        findings.refuse(("spec", "podCIDRs"), "at most one CIDR of each family is allowed")
    if spec.get("podCIDR"):
        findings.refuse_if(("spec", "podCIDR"), names.cidr(spec["podCIDR"]))
        if cidrs and cidrs[0] != spec["podCIDR"]:
            findings.refuse(("spec", "podCIDRs", 0), f"{cidrs[0]} is not spec.podCIDR ({spec['podCIDR']})")
    for i, taint in enumerate(spec.get("taints", ())):
        findings.refuse_if(("spec", "taints", i, "key"), names.qualified_name(taint["key"]))
        _one_of(taint, "effect", TAINT_EFFECTS, ("spec", "taints", i), findings)
    for i, address in enumerate(obj.get("status", {}).get("addresses", ())):
        path: Path = ("status", "addresses", i)
        _one_of(address, "type", ADDRESS_TYPES, path, findings)
        if address["type"] in ("InternalIP", "ExternalIP"):
            findings.refuse_if((*path, "address"), names.ip(address["address"]))


def validate_pod(obj: Object, findings: Findings) -> None:
    validate_pod_spec(obj["spec"], ("spec",), findings)
    status = obj.get("status", {})
    if status.get("podIP"):
        findings.refuse_if(("status", "podIP"), names.endpoint_ip(status["podIP"]))
    for i, entry in enumerate(status.get("podIPs", ())):
        path: Path = ("status", "podIPs", i, "ip")
        if entry.get("ip"):
            findings.refuse_if(path, names.endpoint_ip(entry["ip"]))
    ips = [entry.get("ip", "") for entry in status.get("podIPs", ())]
    if ips and status.get("podIP") and ips[0] != status["podIP"]:
        findings.refuse(
            ("status", "podIPs", 0, "ip"), f"{shown(ips[0])} is not status.podIP ({status['podIP']})"
        )
    if len({names.is_ipv6(ip) for ip in ips}) < len(ips):
        findings.refuse(("status", "podIPs"), "at most one IP of each family is allowed")


def validate_pod_spec(spec: Object, path: Path, findings: Findings) -> None:
    if not spec["containers"]:
        findings.refuse((*path, "containers"), "required: at least one container")
    for field in ("nodeName", "hostname", "subdomain"):
        if spec.get(field):
            check = names.dns_1123_subdomain if field == "nodeName" else names.dns_1123_label
            findings.refuse_if((*path, field), check(spec[field]))
    names_and_values(spec.get("nodeSelector", {}), (*path, "nodeSelector"), findings)
    for list_name in ("containers", "initContainers"):
        for c, container in enumerate(spec.get(list_name, ())):
            seen: set[str] = set()
            for p, port in enumerate(container_ports([container])):
                _container_port(port, (*path, list_name, c, "ports", p), seen, findings)


def _container_port(port: Object, path: Path, seen: set[str], findings: Findings) -> None:
    findings.refuse_if((*path, "containerPort"), names.port_number(port["containerPort"]))
    if port["protocol"]:  # empty is as good as absent, as for the API server
        _one_of(port, "protocol", PROTOCOLS, path, findings)
    if name := port.get("name"):
        findings.refuse_if((*path, "name"), names.port_name(name))
        if name in seen:
            findings.refuse((*path, "name"), f"{shown(name)} is given twice in this container")
        seen.add(name)


def validate_workload(obj: Object, findings: Findings) -> None:
    spec, template = obj["spec"], obj["spec"]["template"]
    replicas = spec.get("replicas", 1)
    if not 0 <= replicas <= MAX_REPLICAS:
        findings.refuse(("spec", "replicas"), f"{replicas} is outside 0-{MAX_REPLICAS}")
    labels = template["metadata"].get("labels", {})
    names_and_values(labels, ("spec", "template", "metadata", "labels"), findings)
    validate_pod_spec(template["spec"], ("spec", "template", "spec"), findings)
    before = len(findings)
    validate_selector(spec["selector"], ("spec", "selector"), findings)
    if len(findings) == before and (unmet := first_unmet(spec["selector"], labels)):
        findings.refuse(
            ("spec", "selector", *unmet),
            f"{path_text(unmet)} does not match the Pods' own labels (spec.template.metadata.labels)",
        )


_OPERATORS = ("In", "NotIn", "Exists", "DoesNotExist")


def validate_selector(selector: Object, path: Path, findings: Findings) -> None:
    match_labels, expressions = selector.get("matchLabels", {}), selector.get("matchExpressions", [])
    if not match_labels and not expressions:
        findings.refuse(path, "an empty selector is not allowed: it would match every Pod")
    names_and_values(match_labels, (*path, "matchLabels"), findings)
    for i, expression in enumerate(expressions):
        where: Path = (*path, "matchExpressions", i)
        findings.refuse_if((*where, "key"), names.qualified_name(expression["key"]))
        _one_of(expression, "operator", _OPERATORS, where, findings)
        values, operator = expression.get("values", []), expression["operator"]
        if operator in ("In", "NotIn") and not values:
            findings.refuse((*where, "values"), f"required with operator {operator}")
        if operator in ("Exists", "DoesNotExist") and values:
            findings.refuse((*where, "values"), f"not allowed with operator {operator}")
        for j, value in enumerate(values):
            findings.refuse_if((*where, "values", j), names.label_value(value))


def first_unmet(selector: Object, labels: dict[str, str]) -> Path:
    """The first requirement of a selector that `labels` do not meet; () where they meet all."""
    for key, value in selector.get("matchLabels", {}).items():
        if labels.get(key) != value:
            return ("matchLabels", key)
    for i, expression in enumerate(selector.get("matchExpressions", ())):
        key, values = expression["key"], expression.get("values", ())
        met = {
            "In": key in labels and labels[key] in values,
            "NotIn": labels.get(key) not in values,
            "Exists": key in labels,
            "DoesNotExist": key not in labels,
        }[expression["operator"]]
        if not met:
            return ("matchExpressions", i)
    return ()


def validate_endpoint_slice(obj: Object, findings: Findings) -> None:
    _one_of(obj, "addressType", ("IPv4", "IPv6", "FQDN"), (), findings)
    if len(obj.get("endpoints", ())) > 1000:
        findings.refuse(("endpoints",), f"{len(obj['endpoints'])} endpoints; at most 1000 in one slice")
    for i, endpoint in enumerate(obj.get("endpoints", ())):
        path: Path = ("endpoints", i, "addresses")
        if not 1 <= len(endpoint["addresses"]) <= 100:
            findings.refuse(path, "1 to 100 addresses are needed")
        for j, text in enumerate(endpoint["addresses"]):
            if obj["addressType"] == "FQDN":
                findings.refuse_if((*path, j), names.dns_1123_subdomain(text))
            elif wrong := names.endpoint_ip(text):
                findings.refuse((*path, j), wrong)
            elif names.is_ipv6(text) != (obj["addressType"] == "IPv6"):
                findings.refuse((*path, j), f"{text} is not {obj['addressType']}, which addressType says")
    endpoint_ports(obj.get("ports", ()), ("ports",), findings)


def validate_endpoints(obj: Object, findings: Findings) -> None:
    for i, subset in enumerate(obj.get("subsets", ())):
        path: Path = ("subsets", i)
        for field in ("addresses", "notReadyAddresses"):
            for j, address in enumerate(subset.get(field, ())):
                findings.refuse_if((*path, field, j, "ip"), names.endpoint_ip(address["ip"]))
        endpoint_ports(subset.get("ports", ()), (*path, "ports"), findings)


def endpoint_ports(ports: list[Object] | tuple[()], path: Path, findings: Findings) -> None:
    seen: set[str] = set()
    for i, port in enumerate(ports):
        if "port" not in port:
            findings.refuse((*path, i, "port"), "required")
        else:
            findings.refuse_if((*path, i, "port"), names.port_number(port["port"]))
        if port.get("protocol"):
            _one_of(port, "protocol", PROTOCOLS, (*path, i), findings)
        name = port.get("name", "")
        if name:
            findings.refuse_if((*path, i, "name"), names.dns_1123_label(name))
        if name in seen:
            findings.refuse((*path, i, "name"), f"{shown(name)} is the name of two ports")
        seen.add(name)


def _one_of(value: Object, field: str, allowed: tuple[str, ...], path: Path, findings: Findings) -> None:
    if field in value and value[field] not in allowed:
        findings.refuse((*path, field), f"{shown(value[field])} is not one of {', '.join(allowed)}")
