"""What of a Service's last accepted spec goes over into its next, and what may not change.

Follows the API server's patchAllocatedValues, initIPFamilyFields and ValidateServiceUpdate
(k8s.io/kubernetes/pkg/registry/core/service, pkg/apis/core/validation).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lbprov.cluster.manifests import names
from lbprov.cluster.manifests.defaults import (
    allocates_node_ports,
    cluster_ips,
    is_headless,
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
                ("spec", "clusterIP"), f"is None and cannot change: type {spec['type']} is not allowed"
            )
    if spec["type"] == "ExternalName":
        spec.pop("internalTrafficPolicy", None)
    elif not findings.fatal:
        if cluster_ips(spec):
            spec["clusterIPs"] = cluster_ips(spec)
        with_families = old if old is not None and old["type"] != "ExternalName" else None
        _settle_families(spec, with_families, families, findings)
    return spec


def _immutable(spec: Spec, old: Spec, findings: Findings) -> None:
    if spec["type"] != "ExternalName" and old["type"] != "ExternalName":
        for i, (given, held) in enumerate(zip(cluster_ips(spec), old["clusterIPs"], strict=False)):
            if given != held:
                path: Path = ("spec", "clusterIPs", i) if i else ("spec", "clusterIP")
                _unchangeable(path, given, held, findings)
    if spec["type"] == "LoadBalancer" == old["type"]:
        _kept("loadBalancerClass", spec, old, findings)
    if needs_health_check(spec) and needs_health_check(old) and spec.get("healthCheckNodePort"):
        _kept("healthCheckNodePort", spec, old, findings)


def _kept(field: str, spec: Spec, old: Spec, findings: Findings) -> None:
    if spec.get(field) != old.get(field):
        _unchangeable(("spec", field), spec.get(field), old.get(field), findings)


def _unchangeable(path: Path, given: object, held: object, findings: Findings) -> None:
    findings.refuse(
        path,
        f"{shown(given)} is given but it is {shown(held)} and cannot change: put that back, "
        "or delete the Service and make it anew",
    )


def _carry_over(spec: Spec, old: Spec) -> None:
    if spec["type"] != "ExternalName" and old["type"] != "ExternalName":
        spec.setdefault("clusterIP", old["clusterIP"])
        if spec["clusterIP"] == old["clusterIP"]:
            spec.setdefault("clusterIPs", list(old["clusterIPs"]))
    if allocates_node_ports(spec) and needs_node_port(old):
        _carry_node_ports(spec["ports"], old["ports"])
    if needs_health_check(spec) and needs_health_check(old) and not spec.get("healthCheckNodePort"):
        spec["healthCheckNodePort"] = old["healthCheckNodePort"]


def _carry_node_ports(ports: Sequence[Spec], old_ports: Sequence[Spec]) -> None:
    """By the ports' names, as the API server does; else by number and protocol, as `kubectl apply` does."""
    used = {p["nodePort"] for p in ports if p.get("nodePort")}
    by_name = {p.get("name", ""): p for p in old_ports if p.get("nodePort")}
    by_number = {(p["port"], p["protocol"]): p for p in old_ports if p.get("nodePort")}
    new_names = {p.get("name", "") for p in ports}
    carried: set[tuple[int, str]] = set()
    for port in ports:
        before = by_name.get(port.get("name", ""))
        if before is None:
            before = by_number.get((port["port"], port["protocol"]))
            if before and before.get("name", "") in new_names:  # another port has its name, and its nodePort
                continue
        if port.get("nodePort") or before is None or before["nodePort"] in used:
            continue
        if (before["nodePort"], port["protocol"]) not in carried:
            port["nodePort"] = before["nodePort"]
            carried.add((before["nodePort"], port["protocol"]))


def _settle_families(spec: Spec, old: Spec | None, families: Sequence[str], findings: Findings) -> None:
    """`old` None: there is none, or none with families (ExternalName)."""
    headless_without_selector = is_headless(spec) and not spec.get("selector")
    if not spec.get("ipFamilyPolicy"):
        default = "RequireDualStack" if headless_without_selector else "SingleStack"
        if old is None and not headless_without_selector and _names_two(spec):
            findings.refuse(
                ("spec", "ipFamilyPolicy"), "required with two families: PreferDualStack or RequireDualStack"
            )
        spec["ipFamilyPolicy"] = (old or {}).get("ipFamilyPolicy", default)
    policy = spec["ipFamilyPolicy"]
    if old is not None:
        _second_family(spec, old, policy, findings)
    wanted = _wanted_families(spec, families)
    if old is not None and not is_headless(spec):
        for i, (given, held) in enumerate(zip(wanted, old["ipFamilies"], strict=False)):
            if given != held:
                _unchangeable(("spec", "ipFamilies", i), given, held, findings)
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


def _second_family(spec: Spec, old: Spec, policy: str, findings: Findings) -> None:
    """It is given up by SingleStack, and by nothing else."""
    for field in ("clusterIPs", "ipFamilies"):
        values, held = spec.get(field, []), old.get(field, [])
        if policy == "SingleStack" and len(values) == 2:
            if values == held:
                spec[field] = values[:1]
            else:
                findings.refuse(
                    ("spec", "ipFamilyPolicy"),
                    f"SingleStack, but spec.{field} has 2; PreferDualStack or RequireDualStack is needed",
                )
        elif policy != "SingleStack" and 0 < len(values) < len(held):
            findings.refuse(
                ("spec", "ipFamilyPolicy"),
                f"{policy}, but spec.{field} has 1 of {len(held)}; SingleStack gives the second one up",
            )


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
