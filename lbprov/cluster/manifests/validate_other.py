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
    if spec.get("podCIDR") and not cidrs:  # the plural wins
        findings.refuse_if(("spec", "podCIDR"), names.cidr(spec["podCIDR"]))
    seen: set[tuple[str, str]] = set()
    for i, taint in enumerate(spec.get("taints", ())):
        findings.refuse_if(("spec", "taints", i, "key"), names.qualified_name(taint["key"]))
        findings.refuse_if(("spec", "taints", i, "value"), names.label_value(taint.get("value", "")))
        _one_of(taint, "effect", TAINT_EFFECTS, ("spec", "taints", i), findings)
        if (taint["key"], taint["effect"]) in seen:
            findings.refuse(("spec", "taints", i), f"{shown(taint['key'])} has two taints of one effect")
        seen.add((taint["key"], taint["effect"]))
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
    for i, toleration in enumerate(spec.get("tolerations", ())):
        _toleration(toleration, (*path, "tolerations", i), findings)
    container_names: set[str] = set()
    host_ports: set[tuple[object, ...]] = set()
    for list_name in ("containers", "initContainers"):
        for c, container in enumerate(spec.get(list_name, ())):
            where: Path = (*path, list_name, c)
            _container(container, where, container_names, findings)
            seen: set[str] = set()
            for p, port in enumerate(container_ports([container])):
                _container_port(port, (*where, "ports", p), seen, findings)
                if list_name == "containers":
                    _host_port(
                        port, spec.get("hostNetwork", False), (*where, "ports", p), host_ports, findings
                    )


def _toleration(toleration: Object, path: Path, findings: Findings) -> None:
    key, operator = toleration.get("key", ""), toleration.get("operator") or "Equal"
    if key:
        findings.refuse_if((*path, "key"), names.qualified_name(key))
    if operator not in ("Equal", "Exists"):
        findings.refuse((*path, "operator"), f"{shown(operator)} is not one of Equal, Exists")
    elif operator == "Equal" and not key:
        findings.refuse((*path, "operator"), "without a key, which stands for every taint, it must be Exists")
    elif operator == "Exists" and toleration.get("value"):
        findings.refuse((*path, "operator"), f"Exists, but a value ({shown(toleration['value'])}) is given")
    elif operator == "Equal":
        findings.refuse_if((*path, "value"), names.label_value(toleration.get("value", "")))
    if toleration.get("effect"):
        _one_of(toleration, "effect", TAINT_EFFECTS, path, findings)


def _container(container: Object, path: Path, seen: set[str], findings: Findings) -> None:
    name = container.get("name", "")
    findings.refuse_if((*path, "name"), names.dns_1123_label(name) if name else "required")
    if name and name in seen:
        findings.refuse((*path, "name"), f"{shown(name)} is the name of two containers")
    seen.add(name)
    image = container.get("image", "")
    if not image:
        findings.refuse((*path, "image"), "required")
    elif image != image.strip():
        findings.refuse((*path, "image"), f"{shown(image)} begins or ends with a space")


def _host_port(
    port: Object, host_network: bool, path: Path, seen: set[tuple[object, ...]], findings: Findings
) -> None:
    number = port.get("hostPort", 0)
    if not number:
        return
    findings.refuse_if((*path, "hostPort"), names.port_number(number))
    if host_network and number != port["containerPort"]:
        findings.refuse(
            (*path, "hostPort"), f"{number} is not the containerPort, with hostNetwork it must be"
        )
    pair = (port["protocol"], port.get("hostIP", ""), number)
    if pair in seen:
        findings.refuse((*path, "hostPort"), f"{number}/{port['protocol']} is given twice")
    seen.add(pair)


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
            ("spec", "template", "metadata", "labels"),
            f"do not match spec.{path_text(('selector', *unmet))}: the Pods would not be the {obj['kind']}'s",
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
        path: Path = ("endpoints", i)
        if not 1 <= len(endpoint["addresses"]) <= 100:
            findings.refuse((*path, "addresses"), "1 to 100 addresses are needed")
        for j, text in enumerate(endpoint["addresses"]):
            findings.refuse_if((*path, "addresses", j), _slice_address(text, obj["addressType"]))
        _endpoint_names(endpoint, path, findings)
        for field in ("forZones", "forNodes"):
            _hints(endpoint.get("hints", {}).get(field, ()), (*path, "hints", field), findings)
    seen: set[str] = set()
    for i, port in enumerate(obj.get("ports", ())):
        # Without a number it stands for every port: consumers leave it out.
        _endpoint_port(port, ("ports", i), findings)
        if port.get("name", "") in seen:
            findings.refuse(("ports", i, "name"), f"{shown(port.get('name', ''))} is the name of two ports")
        seen.add(port.get("name", ""))


def _slice_address(text: str, address_type: str) -> str:
    if address_type == "FQDN":
        return names.dns_1123_subdomain(text)
    if wrong := names.endpoint_ip(text):
        return wrong
    if names.is_ipv6(text) != (address_type == "IPv6"):
        return f"{text} is not {address_type}, which addressType says"
    canonical = names.canonical_ip(text)
    return "" if text == canonical else f"{shown(text)} is not in its short form: write {canonical}"


def _endpoint_names(endpoint: Object, path: Path, findings: Findings) -> None:
    for field, check in (("hostname", names.dns_1123_label), ("nodeName", names.dns_1123_subdomain)):
        if field in endpoint:
            findings.refuse_if((*path, field), check(endpoint[field]))


def _hints(hints: list[Object] | tuple[()], path: Path, findings: Findings) -> None:
    seen: set[str] = set()
    for i, hint in enumerate(hints):
        findings.refuse_if((*path, i, "name"), names.label_value(hint["name"]))
        if hint["name"] in seen:
            findings.refuse((*path, i, "name"), f"{shown(hint['name'])} is given twice")
        seen.add(hint["name"])


def validate_endpoints(obj: Object, findings: Findings) -> None:
    for i, subset in enumerate(obj.get("subsets", ())):
        path: Path = ("subsets", i)
        if not subset.get("addresses") and not subset.get("notReadyAddresses"):
            findings.refuse(path, "addresses or notReadyAddresses are needed")
        for field in ("addresses", "notReadyAddresses"):
            for j, address in enumerate(subset.get(field, ())):
                findings.refuse_if((*path, field, j, "ip"), names.endpoint_ip(address["ip"]))
                _endpoint_names(address, (*path, field, j), findings)
        ports = subset.get("ports", ())
        for j, port in enumerate(ports):
            if "port" not in port:
                findings.refuse((*path, "ports", j, "port"), "required")
            if len(ports) > 1 and not port.get("name"):
                message = "required: with several ports each needs a name"
                findings.refuse((*path, "ports", j, "name"), message)
            _endpoint_port(port, (*path, "ports", j), findings)


def _endpoint_port(port: Object, path: Path, findings: Findings) -> None:
    if "port" in port:
        findings.refuse_if((*path, "port"), names.port_number(port["port"]))
    _one_of(port, "protocol", PROTOCOLS, path, findings)
    if port.get("name"):
        findings.refuse_if((*path, "name"), names.dns_1123_label(port["name"]))
    if port.get("appProtocol"):
        findings.refuse_if((*path, "appProtocol"), names.qualified_name(port["appProtocol"]))


def _one_of(value: Object, field: str, allowed: tuple[str, ...], path: Path, findings: Findings) -> None:
    if field in value and value[field] not in allowed:
        findings.refuse((*path, field), f"{shown(value[field])} is not one of {', '.join(allowed)}")
