"""What load balancers on the LAN are told by a node's agent, and what `lbprov node status` tells of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lbprov.lab import Answer, Host, Lab, NodeHost, Refused, Reply, TimedOut
from lbprov.lab.controlplane import eventually

CHECK_PORT = 32123
READ = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1], timeout=30).read().decode())"


def _manifests(*pods: Any, **spec: Any) -> list[dict[str, Any]]:
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "web"},
            "spec": {
                "type": "LoadBalancer",
                "ipFamilyPolicy": "RequireDualStack",
                "externalTrafficPolicy": "Local",
                "healthCheckNodePort": CHECK_PORT,
                "ports": [{"name": "http", "port": 80}],
                **spec,
            },
        },
        *(
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {"name": f"web-{family}", "labels": {"kubernetes.io/service-name": "web"}},
                "addressType": f"IPv{family}",
                "ports": [{"name": "http", "protocol": "TCP", "port": 80}],
                "endpoints": [
                    {"addresses": [pod.ipv4 if family == 4 else pod.ipv6], "nodeName": pod.node.name}
                    for pod in pods
                ],
            }
            for family in (4, 6)
        ),
    ]


@pytest.fixture
def cluster(
    two_nodes: tuple[Lab, NodeHost, NodeHost],
    tmp_path: Path,
    cluster_of: Callable[..., Any],
    start_agent: Callable[..., Any],
) -> Iterator[Any]:
    _, *nodes = two_nodes
    folder = cluster_of(tmp_path, nodes)
    folder.agents = [start_agent(node, tmp_path) for node in nodes]
    yield folder
    for node, agent in zip(nodes, folder.agents, strict=True):
        agent.end()
        node.run([sys.executable, "-m", "lbprov", "node", "cleanup"])


def _status(answer: Answer) -> int:
    assert isinstance(answer, Reply), answer
    return answer.status


def test_load_balancers_find_the_nodes_with_endpoints(
    two_nodes: tuple[Lab, NodeHost, NodeHost], cluster: Any
) -> None:
    lab, one, two = two_nodes
    outside = lab.hosts["client-1"]

    def codes() -> list[int]:
        return [_status(outside.http_get(ip, CHECK_PORT)) for node in (one, two) for ip in node.ips]

    cluster.put("web", *_manifests(lab.hosts["web-1a"], lab.hosts["web-1b"]))
    cluster.settle()
    assert codes() == [200, 200, 503, 503]
    answer = outside.http_get(one.ipv4, CHECK_PORT)
    assert isinstance(answer, Reply)
    assert json.loads(answer.body) == {
        "service": {"namespace": "default", "name": "web"},
        "localEndpoints": 2,
        "serviceProxyHealthy": True,
    }
    cluster.put("web", *_manifests(lab.hosts["web-2a"]))
    cluster.settle()
    assert codes() == [503, 503, 200, 200]
    cluster.put(
        "web", *_manifests(lab.hosts["web-2a"], externalTrafficPolicy="Cluster", healthCheckNodePort=0)
    )
    cluster.settle()
    assert isinstance(outside.http_get(two.ipv4, CHECK_PORT), Refused)


def test_a_firewall_that_lets_nothing_in(two_nodes: tuple[Lab, NodeHost, NodeHost], cluster: Any) -> None:
    """Health checks are let in, as kube-proxy does; nothing else is."""
    lab, one, _ = two_nodes
    outside = lab.hosts["client-1"]
    one.script(
        "iptables -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n"
        "iptables -A INPUT -i lo -j ACCEPT\niptables -P INPUT DROP\n"
    )
    try:
        cluster.put("web", *_manifests(lab.hosts["web-1a"]))
        cluster.settle()
        assert _status(outside.http_get(one.ipv4, CHECK_PORT)) == 200
        assert isinstance(outside.http_get(one.ipv4, 10256, timeout_s=0.5), TimedOut)
        cluster.remove("web")
        cluster.settle()
        assert isinstance(outside.http_get(one.ipv4, CHECK_PORT, timeout_s=0.5), TimedOut)
    finally:
        one.script("iptables -P INPUT ACCEPT; iptables -D INPUT 2; iptables -D INPUT 2")
    assert "LBP-HEALTH" not in one.script("iptables-save -t filter | grep -- '-j LBP-HEALTH' || true")


def test_a_port_that_another_program_has(two_nodes: tuple[Lab, NodeHost, NodeHost], cluster: Any) -> None:
    lab, one, _ = two_nodes
    thief = one.begin_serving(http=CHECK_PORT)
    one.await_ready(thief)
    cluster.put("web", *_manifests(lab.hosts["web-1a"]))
    cluster.settle()
    outside = lab.hosts["client-1"]
    vip = _node_port(one)
    assert _status(outside.http_get(one.ipv4, vip)) == 200, "the Service itself is forwarded"
    thief.kill()
    thief.collect()
    eventually(
        lambda: isinstance(a := outside.http_get(one.ipv4, CHECK_PORT), Reply) and "localEnd" in a.body
    )


def _node_port(node: Host) -> int:
    rows = json.loads(node.run([sys.executable, "-m", "lbprov", "node", "status", "-o", "json"]).stdout)
    (port,) = {row["port"] for row in rows["forwarded"] if row["address"] == "nodePort"}
    return int(port)


def test_the_node_says_how_it_is(two_nodes: tuple[Lab, NodeHost, NodeHost], cluster: Any) -> None:
    lab, one, _ = two_nodes
    cluster.put("web", *_manifests(lab.hosts["web-1a"]))
    cluster.settle()

    def page(path: str, port: int = 10256) -> str:
        return one.run([sys.executable, "-c", READ, f"http://127.0.0.1:{port}{path}"]).stdout

    body = json.loads(page("/healthz"))
    assert (body["healthy"], body["nodeEligible"], sorted(body["status"])) == (True, True, ["IPv4", "IPv6"])
    assert "nodeEligible" not in json.loads(page("/livez"))
    assert 'lbprov_node_sync_duration_seconds_count{family="IPv4"}' in page("/metrics", 10264)
    assert _status(lab.hosts["client-1"].http_get(one.ipv4, 10256)) == 404, "load balancers ask from outside"
    assert isinstance(lab.hosts["client-1"].http_get(one.ipv4, 10264), Refused), "metrics are asked for here"
    said = one.run([sys.executable, "-m", "lbprov", "node", "status"]).stdout
    assert f"on {one.name}, running since" in said
    assert "1 Services are forwarded" in said
    assert "default/web:http" in said
    cluster.agents[0].end()
    said = one.run([sys.executable, "-m", "lbprov", "node", "status"]).stdout
    assert "none answers here; its rules stay while it is away" in said
    assert "default/web:http" in said, "read from the kernel"
