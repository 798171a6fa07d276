"""What of a Service's last accepted spec goes over into its next, and what may not change.

Follows the API server's patchAllocatedValues, initIPFamilyFields and ValidateServiceUpdate
(k8s.io/kubernetes/pkg/registry/core/service, pkg/apis/core/validation).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lbprov.cluster.manifests import names
from lbprov.cluster.manifests.defaults import (
    is_headless,
    needs_cluster_ip,
    needs_health_check,
    needs_node_port,
)
from lbprov.cluster.manifests.marked_yaml import shown
from lbprov.cluster.manifests.schema import Findings, Path

Spec = dict[str, Any]


def next_spec(new: Spec, old: Spec | None, families: Sequence[str], findings: Findings) -> Spec:
    """`new` as written (defaulted, valid by itself) with what it leaves open taken over from `old`, the spec
    in force, and its families settled. `families`: those that the cluster has, the default one first."""
    spec = {**new, "ports": [dict(p) for p in new["ports"]]}
    if old is not None:
        _immutable(spec, old, findings)
        _carry_over(spec, old)
        if is_headless(spec) and needs_node_port(spec) and not findings.fatal:
            findings.refuse(
                ("spec", "type"), f"{spec['type']} is not allowed: clusterIP is None and cannot change"
            )
    if spec["type"] == "ExternalName":
        for field in ("ipFamilies", "ipFamilyPolicy", "clusterIP", "clusterIPs"):
            spec.pop(field, None)
    elif not findings.fatal:
        _settle_families(spec, old, families, findings)
    return spec


def _immutable(spec: Spec, old: Spec, findings: Findings) -> None:
    has_ip = needs_cluster_ip(old) or is_headless(old)
    if spec["type"] != "ExternalName" and has_ip:
        for i, (given, held) in enumerate(zip(spec.get("clusterIPs", ()), old["clusterIPs"], strict=False)):
            if given != held:
                path: Path = ("spec", "clusterIPs", i) if i else ("spec", "clusterIP")
                _unchangeable(path, given, held, findings)
    if spec["type"] == "LoadBalancer" == old["type"]:
        given, held = spec.get("loadBalancerClass"), old.get("loadBalancerClass")
        if given != held:
            _unchangeable(("spec", "loadBalancerClass"), given, held, findings)
    if needs_health_check(spec) and needs_health_check(old) and spec.get("healthCheckNodePort"):
        given, held = spec["healthCheckNodePort"], old["healthCheckNodePort"]
        if given != held:
            _unchangeable(("spec", "healthCheckNodePort"), given, held, findings)


def _unchangeable(path: Path, given: object, held: object, findings: Findings) -> None:
    findings.refuse(
        path,
        f"{shown(given)} is given but it is {shown(held)} and cannot change: put that back, "
        "or delete the Service and make it anew",
    )


def _carry_over(spec: Spec, old: Spec) -> None:
    if spec["type"] != "ExternalName" and (needs_cluster_ip(old) or is_headless(old)):
        given, held = spec.get("clusterIPs", []), old["clusterIPs"]
        if held[: len(given)] == given:
            spec["clusterIPs"] = list(held)
        spec["clusterIP"] = spec["clusterIPs"][0]
        if "ipFamilies" not in spec and old.get("ipFamilies"):
            spec["ipFamilies"] = list(old["ipFamilies"])
    if needs_node_port(spec) and needs_node_port(old):
        _carry_node_ports(spec["ports"], old["ports"])
    if needs_health_check(spec) and needs_health_check(old) and not spec.get("healthCheckNodePort"):
        spec["healthCheckNodePort"] = old["healthCheckNodePort"]


def _carry_node_ports(ports: Sequence[Spec], old_ports: Sequence[Spec]) -> None:
    """By the ports' names, as the API server does: a renamed port gets a new nodePort."""
    used = {p["nodePort"] for p in ports if p.get("nodePort")}
    held = {p.get("name", ""): p for p in old_ports if p.get("nodePort")}
    carried: set[tuple[int, str]] = set()
    for port in ports:
        before = held.get(port.get("name", ""))
        if port.get("nodePort") or before is None or before["nodePort"] in used:
            continue
        if (before["nodePort"], port["protocol"]) not in carried:
            port["nodePort"] = before["nodePort"]
            carried.add((before["nodePort"], port["protocol"]))


def _settle_families(spec: Spec, old: Spec | None, families: Sequence[str], findings: Findings) -> None:
    headless_without_selector = is_headless(spec) and not spec.get("selector")
    if not spec.get("ipFamilyPolicy"):
        inherited = (old or {}).get("ipFamilyPolicy") if old and old["type"] != "ExternalName" else None
        default = "RequireDualStack" if headless_without_selector else "SingleStack"
        if not inherited and not headless_without_selector and _names_two(spec):
            findings.refuse(
                ("spec", "ipFamilyPolicy"), "required with two families: PreferDualStack or RequireDualStack"
            )
        spec["ipFamilyPolicy"] = inherited or default
    policy = spec["ipFamilyPolicy"]
    if old is not None and policy == "SingleStack":
        for field in ("clusterIPs", "ipFamilies"):
            spec[field] = spec.get(field, [])[:1]
    wanted = _wanted_families(spec, families)
    if old is not None and old.get("ipFamilies") and old["type"] != "ExternalName":
        _family_change(wanted, old["ipFamilies"], policy, findings)
    if headless_without_selector:
        spec["ipFamilies"] = wanted if policy == "SingleStack" or len(wanted) == 2 else _both(wanted[0])
        return
    for i, family in enumerate(wanted):
        if family not in families:
            findings.refuse(
                ("spec", "ipFamilies", i), f"{family} is not a family of this cluster ({', '.join(families)})"
            )
    if policy == "RequireDualStack" and len(families) < 2:
        findings.refuse(
            ("spec", "ipFamilyPolicy"),
            f"RequireDualStack, but this cluster has {families[0]} only; PreferDualStack is allowed",
        )
    if policy != "SingleStack" and len(wanted) == 1 and len(families) == 2:
        wanted = _both(wanted[0])
    spec["ipFamilies"] = wanted


def _names_two(spec: Spec) -> bool:
    return len(spec.get("clusterIPs", ())) == 2 or len(spec.get("ipFamilies", ())) == 2


def _wanted_families(spec: Spec, families: Sequence[str]) -> list[str]:
    """As given, else as the given addresses are, else the cluster's default."""
    wanted = list(spec.get("ipFamilies", ()))
    for ip in spec.get("clusterIPs", ())[len(wanted) :]:
        if ip != "None":
            wanted.append("IPv6" if names.is_ipv6(ip) else "IPv4")
    return wanted or [families[0]]


def _both(first: str) -> list[str]:
    return ["IPv4", "IPv6"] if first == "IPv4" else ["IPv6", "IPv4"]


def _family_change(wanted: list[str], held: list[str], policy: str, findings: Findings) -> None:
    if wanted[0] != held[0]:
        _unchangeable(("spec", "ipFamilies", 0), wanted[0], held[0], findings)
    elif len(wanted) < len(held) and policy != "SingleStack":
        findings.refuse(
            ("spec", "ipFamilyPolicy"), f"{policy} with one family; SingleStack gives the second one up"
        )
