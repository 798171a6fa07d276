"""`lbprov explain`: where each address leads, and why nothing answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from lbprov.cli.main import main
from lbprov.cluster.manifests import ManifestCluster
from lbprov.model import Ingress, IPMode, ObjectKey
from local_dataplane.http_ports import Answer, HttpPorts

Manifest = dict[str, Any]
Explain = Callable[..., str]


def _node(name: str, number: int, zone: str = "") -> Manifest:
    labels = {"topology.kubernetes.io/zone": zone} if zone else {}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "spec": {"podCIDR": f"10.244.{number}.0/24"},
        "status": {"addresses": [{"type": "InternalIP", "address": f"192.0.2.{10 + number}"}]},
    }


def _service(name: str = "web", **spec: Any) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"clusterIP": "10.96.0.7", "ports": [{"name": "http", "port": 80}], **spec},
    }


def _slice(*endpoints: tuple[str, str, bool], port: str = "http", name: str = "web") -> Manifest:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": f"{name}-1", "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "ports": [{"name": port, "protocol": "TCP", "port": 8080}],
        "endpoints": [
            {"addresses": [ip], "nodeName": node, "conditions": {"ready": ready}}
            for ip, node, ready in endpoints
        ],
    }


POD: Manifest = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "asker"},
    "spec": {"nodeName": "node-2", "containers": [{"name": "a", "image": "a"}]},
    "status": {
        "podIP": "10.244.2.9",
        "podIPs": [{"ip": "10.244.2.9"}],
        "conditions": [{"type": "Ready", "status": "True"}],
    },
}
NODES = (_node("node-1", 1), _node("node-2", 2))
BOTH = (("10.244.1.2", "node-1", True), ("10.244.2.2", "node-2", True))


@pytest.fixture
def explain(tmp_path: Path) -> Explain:
    """`explain(*manifests, flags=…)`: what it prints."""

    def run(*manifests: Manifest, service: str = "web", flags: tuple[str, ...] = (), code: int = 0) -> str:
        documents = "\n---\n".join(json.dumps(m) for m in (*NODES, *manifests))
        (tmp_path / "cluster.yaml").write_text(documents)
        done = CliRunner().invoke(
            main, ["explain", service, "-f", str(tmp_path), "--cluster-cidr", "10.244.0.0/16", *flags]
        )
        assert done.exit_code == code, done.output
        return done.output

    return run


def test_the_way_to_each_endpoint(explain: Explain) -> None:
    said = explain(_service(type="NodePort"), _slice(*BOTH), flags=("--node", "node-1", "-v"))
    assert said.startswith("default/web (NodePort), by the iptables rules of node node-1\n")
    assert "clusterIP 10.96.0.7:80/TCP\n  from a Pod (10.244.255.254):\n" in said
    assert " 50% 10.244.1.2:8080, which sees the client\n" in said
    assert " 50% 10.244.2.2:8080, which sees the node\n" in said, "from outside"
    assert "nodePort 192.0.2.11:3" in said
    assert "by LBP-SERVICES > LBP-IP-" in said
    assert "  10.244.1.2: 8080 on node-1 (this one): ready\n" in said


def test_the_way_in_nftables_mode(explain: Explain) -> None:
    flags = ("--node", "node-1", "-v", "--mode", "nftables")
    said = explain(_service(type="NodePort"), _slice(*BOTH), flags=flags)
    assert "by the nftables rules of node node-1\n" in said
    assert " 50% 10.244.2.2:8080, which sees the node\n" in said, "from outside"
    assert (
        "by services > @cluster-ips-2 { 10.96.0.7 . tcp . 80 } > internal-all-2 > "
        "@endpoints { 10.96.0.7 . tcp . 80 . 0 }\n"
    ) in said
    assert "LBP-" not in said


@pytest.mark.parametrize(
    ("node", "mode"),
    [pytest.param("node-1", "nftables", id="its"), pytest.param("node-2", "iptables", id="another's")],
)
def test_the_mode_of_the_agent_that_runs_here(explain: Explain, node: str, mode: str) -> None:
    status = json.dumps({"left_out": [], "mode": "nftables", "node": "node-1"}).encode()
    ports = HttpPorts()
    ports.start()
    ports.open(
        "metrics", [("127.0.0.1", 0)], lambda path, _: Answer(200 if path == "/status" else 404, status)
    )
    where = f"127.0.0.1:{ports.ports('metrics')[0]}"
    said = explain(_service(), _slice(*BOTH), flags=("--node", node, "--metrics-address", where))
    ports.stop()
    assert f"by the {mode} rules of node {node}\n" in said


@pytest.mark.parametrize(
    ("manifests", "sentence"),
    [
        pytest.param((_service(),), "it has neither a selector nor EndpointSlices", id="no slices"),
        pytest.param(
            (_service(selector={"app": "web"}),), "does a Pod match its selector app=web?", id="no Pods"
        ),
        pytest.param(
            (_service(), _slice(("10.244.1.2", "node-1", False))),
            "10.244.1.2: 8080 on node-1 (this one): NOT USED: not ready",
            id="none ready",
        ),
        pytest.param(
            (_service(), _slice(("10.244.1.2", "node-1", False))),
            "from the node (192.0.2.11): refused: no endpoint is ready",
            id="refused",
        ),
        pytest.param(
            (_service(), _slice(*BOTH, port="web")),
            "no slice has a port http/TCP (there are: web/TCP): does targetPort name a port of the Pods?",
            id="another port",
        ),
        pytest.param(
            (_service(internalTrafficPolicy="Local"), _slice(BOTH[1])),
            "dropped: internalTrafficPolicy is Local, and none of the endpoints is on node node-1",
            id="policy Local inside",
        ),
        pytest.param(
            (_service(type="NodePort", externalTrafficPolicy="Local"), _slice(BOTH[1])),
            "from outside (198.51.100.1): dropped: externalTrafficPolicy is Local, and none",
            id="policy Local outside",
        ),
        pytest.param(
            (_service(type="LoadBalancer"), _slice(*BOTH)),
            "no load balancer has given it an address yet",
            id="no address",
        ),
        pytest.param((_service(clusterIP="None"),), "headless (clusterIP: None)", id="headless"),
        pytest.param(
            (
                {
                    "apiVersion": "v1",
                    "kind": "Service",
                    "metadata": {"name": "web"},
                    "spec": {"type": "ExternalName", "externalName": "example.com"},
                },
            ),
            "ExternalName: DNS answers for it",
            id="ExternalName",
        ),
        pytest.param(
            (
                _service(externalIPs=["203.0.113.1"]),
                _service("other", clusterIP="10.96.0.8", externalIPs=["203.0.113.1"]),
                _slice(*BOTH),
            ),
            "default/other:http has this address and port, too, and goes before this Service",
            id="claimed twice",
        ),
    ],
)
def test_why_nothing_answers(explain: Explain, manifests: tuple[Manifest, ...], sentence: str) -> None:
    assert sentence in explain(*manifests, flags=("--node", "node-1"))


def test_source_ranges_and_ip_mode(explain: Explain, tmp_path: Path) -> None:
    ranged = _service(type="LoadBalancer", loadBalancerSourceRanges=["198.51.100.0/24"])
    explain(ranged, _slice(*BOTH))
    cluster = ManifestCluster.open(tmp_path)
    cluster.snapshot()
    ingress = [Ingress("203.0.113.9", ip_mode=IPMode.VIP), Ingress("203.0.113.10", ip_mode=IPMode.PROXY)]
    cluster.record_status(ObjectKey("default", "web"), ingress, ())
    said = explain(ranged, _slice(*BOTH), flags=("--from", "198.51.100.7", "--from", "203.0.113.77"))
    part = said[said.index("load balancer 203.0.113.9:80") :].partition("\n\n")[0]
    assert "  from 198.51.100.7:\n     50% 10.244.1.2:8080, which sees the node\n" in part
    assert "  from 203.0.113.77: dropped: 203.0.113.77 is in none of loadBalancerSourceRanges" in part
    assert "! 203.0.113.10: ipMode Proxy, nodes leave it to the load balancer" in said


def test_from_a_pod_by_its_nodes_rules(explain: Explain) -> None:
    local = _service(internalTrafficPolicy="Local")
    said = explain(local, _slice(*BOTH), POD, flags=("--from", "asker"))
    assert "by the iptables rules of node node-2" in said
    assert "  from Pod asker (10.244.2.9):\n    100% 10.244.2.2:8080, which sees the client\n" in said


def test_as_json(explain: Explain) -> None:
    said = json.loads(explain(_service(), _slice(*BOTH), flags=("--from", "10.244.2.9", "-o", "json")))
    (route,) = said["routes"]
    assert (route["frontend"], route["port"], route["why"]) == ("clusterIP", 80, "")
    assert [(w["backend"], w["probability"], w["masqueraded"]) for w in route["ways"]] == [
        ("10.244.1.2:8080", 0.5, False),
        ("10.244.2.2:8080", 0.5, False),
    ]
    assert route["ways"][0]["chains"][0] == "LBP-SERVICES"


@pytest.mark.parametrize(
    ("service", "flags", "sentence"),
    [
        pytest.param(
            "wep", (), "there is no Service default/wep; did you mean default/web?", id="no Service"
        ),
        pytest.param("web", ("--node", "node-9"), "there is no Node node-9", id="no Node"),
        pytest.param("web", ("--from", "nobody"), "neither an address nor a Pod", id="no Pod"),
    ],
)
def test_wrong_names(explain: Explain, service: str, flags: tuple[str, ...], sentence: str) -> None:
    code = 2 if flags else 1
    assert sentence in explain(_service(), _slice(*BOTH), service=service, flags=flags, code=code)
