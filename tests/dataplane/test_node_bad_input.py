"""Odd input on a real kernel: it harms nobody else."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lbprov.lab import Lab, NodeHost, Refused, Reply, TimedOut, Unreachable

MANY = 1000
NODE_PORT = 31777


def _service(name: str, vip: str, ports: int = 1, **spec: Any) -> dict[str, Any]:
    listed = [{"name": f"p{n}", "port": 1000 + n, "targetPort": 80} for n in range(ports)]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"clusterIP": vip, "ports": listed, **spec},
    }


def _slice(name: str, *addresses: str, ports: int = 1) -> dict[str, Any]:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "ports": [{"name": f"p{n}", "protocol": "TCP", "port": 80} for n in range(ports)],
        "endpoints": [{"addresses": [address]} for address in addresses],
    }


@pytest.fixture(params=["iptables", "nftables"])
def cluster(
    request: pytest.FixtureRequest,
    two_nodes: tuple[Lab, NodeHost, NodeHost],
    tmp_path: Path,
    cluster_of: Callable[..., Any],
    start_agent: Callable[..., Any],
) -> Iterator[Any]:
    _, *nodes = two_nodes
    folder = cluster_of(tmp_path, nodes)
    folder.agents = [start_agent(nodes[0], tmp_path, "--mode", request.param)]
    yield folder
    folder.agents[0].end()
    nodes[0].run([sys.executable, "-m", "lbprov", "node", "cleanup"])


def test_odd_services_beside_a_good_one(two_nodes: tuple[Lab, NodeHost, NodeHost], cluster: Any) -> None:
    """A thousand ports; an endpoint that is a clusterIP, its own or another's, or its own NodePort; the
    node's own address as externalIP, where somebody listens, and the same for two Services."""
    lab, node, _ = two_nodes
    web, asker, outside = (lab.hosts[name] for name in ("web-1a", "ask-1", "client-1"))
    own: dict[str, Any] = {"externalIPs": [node.ipv4]}
    listening = node.serve(http=9000)
    cluster.put("good", _service("good", "10.96.20.1"), _slice("good", web.ipv4))
    cluster.put("many", _service("many", "10.96.20.2", MANY), _slice("many", web.ipv4, ports=MANY))
    cluster.put("self", _service("self", "10.96.20.3"), _slice("self", "10.96.20.3"))
    cluster.put("other", _service("other", "10.96.20.4"), _slice("other", "10.96.20.1"))
    noded = _slice("noded", node.ipv4)
    noded["ports"] = [{"name": "p0", "protocol": "TCP", "port": NODE_PORT}]
    by_node_port = _service("noded", "10.96.20.7", type="NodePort")
    by_node_port["spec"]["ports"][0]["nodePort"] = NODE_PORT
    cluster.put("noded", by_node_port, noded)
    cluster.put("local-a", _service("local-a", "10.96.20.5", **own), _slice("local-a", web.ipv4))
    cluster.put("local-b", _service("local-b", "10.96.20.6", **own), _slice("local-b", web.ipv4))
    cluster.settle()
    for ip, port in (("10.96.20.1", 1000), ("10.96.20.2", 1000), ("10.96.20.2", 1000 + MANY - 1)):
        assert isinstance(asker.http_get(ip, port), Reply), (ip, port)
    for ip in ("10.96.20.3", "10.96.20.4"):  # DNAT is done once
        assert isinstance(asker.http_get(ip, 1000, timeout_s=0.5), TimedOut | Unreachable)
    assert isinstance(asker.http_get("10.96.20.7", 1000), Refused), "a NodePort is nobody's endpoint"
    answer = outside.http_get(node.ipv4, 1000)
    assert isinstance(answer, Reply)
    assert answer.hostname == "web-1a"
    elsewhere = outside.http_get(node.ipv4, 9000)
    assert isinstance(elsewhere, Reply)
    assert elsewhere.hostname == "node-1", "other ports of the node's own address are its own"
    listening.kill()
    listening.collect()
    (claimed,) = [word for word in cluster.agents[0].words if "is claimed twice" in word]
    assert "default/local-a:p0 has it, default/local-b:p0 does not" in claimed
