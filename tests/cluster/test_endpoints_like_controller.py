"""Services of a folder of manifests have the endpoints that kube-controller-manager would give them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from lbprov.cluster import decode
from lbprov.cluster.manifests import ManifestCluster
from lbprov.lab.controlplane import Api, eventually
from lbprov.lab.controlplane.objects import add_node
from lbprov.model import EndpointSlice

NODES = {"n1": ("192.0.2.11", "2001:db8::11"), "n2": ("192.0.2.12", "2001:db8::12")}
HTTP = [{"name": "http", "containerPort": 8080}]
INIT = {"name": "init", "image": "registry.invalid/none", "ports": HTTP}
PODS: Mapping[str, tuple[dict[str, Any], dict[str, Any]]] = {
    # name: (spec, status; both added to what is usual). Without an address or a Ready condition the folder
    # plays the scheduler and the kubelet: there is nothing to compare.
    "ready": ({}, {}),
    "other-port": ({"ports": [{"name": "http", "containerPort": 9090}]}, {}),
    "no-port": ({"ports": [{"containerPort": 8080}]}, {}),
    "udp-port": ({"ports": [{"name": "http", "containerPort": 8080, "protocol": "UDP"}]}, {}),
    "two-ports": ({"ports": [*HTTP, {"name": "dns", "containerPort": 53, "protocol": "UDP"}]}, {}),
    "unready": ({}, {"conditions": [{"type": "Ready", "status": "False"}]}),
    "other-node": ({"nodeName": "n2"}, {}),
    "host": ({"hostNetwork": True}, {"podIP": "192.0.2.11", "podIPs": [{"ip": "192.0.2.11"}]}),
    "v6": ({}, {"podIP": "2001:db8:1::99", "podIPs": [{"ip": "2001:db8:1::99"}]}),
    "named": ({"hostname": "one", "subdomain": "headless"}, {}),
    "succeeded": ({"restartPolicy": "Never"}, {"phase": "Succeeded"}),
    "failed": ({"restartPolicy": "Never"}, {"phase": "Failed"}),
    "terminating": ({}, {}),
    "terminating-unready": ({}, {"conditions": [{"type": "Ready", "status": "False"}]}),
    "sidecar": ({"ports": [], "initContainers": [{**INIT, "restartPolicy": "Always"}]}, {}),
    "init": ({"ports": [], "initContainers": [INIT]}, {}),
}  # fmt: skip
SELECTOR: Mapping[str, Any] = {"selector": {"app": "web"}}
SERVICES: Mapping[str, Mapping[str, Any]] = {
    "by-number": {**SELECTOR, "ports": [{"port": 80, "targetPort": 8080}]},
    "by-name": {**SELECTOR, "ports": [{"port": 80, "targetPort": "http"}]},
    "by-udp-name": {**SELECTOR, "ports": [{"port": 80, "targetPort": "http", "protocol": "UDP"}]},
    "several": {
        **SELECTOR,
        "ports": [
            {"name": "w", "port": 80, "targetPort": "http"},
            {"name": "d", "port": 53, "targetPort": "dns", "protocol": "UDP"},
            {"name": "x", "port": 90, "appProtocol": "http"},
        ],
    },
    "published": {**SELECTOR, "ports": [{"port": 80}], "publishNotReadyAddresses": True},
    "headless": {**SELECTOR, "clusterIP": "None", "ports": [{"port": 80}]},
    "headless-no-ports": {**SELECTOR, "clusterIP": "None"},
    "dual": {**SELECTOR, "ports": [{"port": 80}], "ipFamilyPolicy": "RequireDualStack"},
    "v6": {**SELECTOR, "ports": [{"port": 80}], "ipFamilies": ["IPv6"]},
    "narrower": {"selector": {"app": "web", "pod": "ready"}, "ports": [{"port": 80}]},
    "nobody": {"selector": {"app": "none"}, "ports": [{"port": 80}]},
    "no-selector": {"ports": [{"port": 80}]},
    "balanced": {**SELECTOR, "type": "LoadBalancer", "ports": [{"port": 80, "targetPort": "http"}]},
    "name": {**SELECTOR, "type": "ExternalName", "externalName": "a.b", "ports": [{"port": 80}]},
}


def test_endpoints(api: Api, tmp_path: Path) -> None:
    """Pods and Services in every condition; the folder is what the API server exports."""
    for node, ips in NODES.items():
        add_node(api, node, ips=ips, zone=f"zone-{node}")
    for number, (name, (spec, status)) in enumerate(PODS.items(), 10):
        _make_pod(api, name, number, spec, status)
    for name, service_spec in SERVICES.items():
        made = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": dict(service_spec)}
        api.create(made)
    for name in ("terminating", "terminating-unready"):
        api.delete("Pod", name)  # a kubelet would end it; there is none
    objects = [
        o | {"kind": kind, "apiVersion": "v1"} for kind in ("Node", "Pod", "Service") for o in api.list(kind)
    ]
    (tmp_path / "exported.yaml").write_text(yaml.safe_dump_all(objects))
    snapshot = ManifestCluster.open(tmp_path).snapshot()
    assert [str(p) for p in snapshot.problems if p.fatal] == []
    ours = _lines(snapshot.endpoint_slices)
    assert {line.split()[0] for line in ours} == SERVICES.keys() - {"nobody", "no-selector", "name"}

    def theirs() -> frozenset[str]:
        return _lines(decode.endpoint_slice(s) for s in api.list("EndpointSlice.discovery.k8s.io"))

    with contextlib.suppress(TimeoutError):
        eventually(lambda: theirs() == ours, timeout_s=75)
    assert sorted(ours - theirs()) == []
    assert sorted(theirs() - ours) == []


def _make_pod(api: Api, name: str, number: int, spec: dict[str, Any], status: dict[str, Any]) -> None:
    container = {"name": "main", "image": "registry.invalid/none", "ports": spec.get("ports", HTTP)}
    rest = {k: v for k, v in spec.items() if k != "ports"}
    api.create(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": {"app": "web", "pod": name}},
            "spec": {"nodeName": "n1", "containers": [container], **rest},
        }
    )
    ips = [f"10.244.1.{number}", f"2001:db8:1::{number}"]
    usual = {
        "phase": "Running",
        "podIP": ips[0],
        "podIPs": [{"ip": ip} for ip in ips],
        "conditions": [{"type": "Ready", "status": "True"}],
    }
    api.patch("Pod", name, {"status": {**usual, **status}}, subresource="status")


def _lines(slices: Iterable[EndpointSlice]) -> frozenset[str]:
    """An endpoint a line, for differences that can be read. How endpoints are cut into slices is the
    controller's business; that it makes empty ones, too."""
    lines = set()
    for piece in slices:
        ports = sorted(f"{p.name}:{p.port}/{p.protocol}" for p in piece.ports)
        for e in piece.endpoints:
            state = f"ready={e.ready} serving={e.serving} terminating={e.terminating}"
            where = f"{e.addresses} {e.node_name} {e.zone} {e.hostname} {e.target}"
            lines.add(f"{piece.service} {piece.family} {ports}: {where} {state}")
    return frozenset(lines)
