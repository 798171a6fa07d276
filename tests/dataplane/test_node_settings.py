"""Flags of the agent, by what packets see of them: local detectors, NodePorts on localhost."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lbprov.lab import Host, Lab, NodeHost, Refused, Reply, TimedOut

VIP, NODE_PORT = "10.96.9.1", 31900
SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "web"},
    "spec": {
        "type": "NodePort",
        "clusterIP": VIP,
        "ports": [{"name": "http", "port": 80, "nodePort": NODE_PORT}],
    },
}


def _slice(*pods: Any) -> dict[str, Any]:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "web", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "protocol": "TCP", "port": 80}],
        "endpoints": [{"addresses": [pod.ipv4], "nodeName": pod.node.name} for pod in pods],
    }


@pytest.fixture
def agent(
    two_nodes: tuple[Lab, NodeHost, NodeHost],
    tmp_path: Path,
    cluster_of: Callable[..., Any],
    start_agent: Callable[..., Any],
) -> Iterator[Callable[..., NodeHost]]:
    """`agent(flags)`: node-1, where one with these flags forwards VIP to web-2a, elsewhere."""
    lab, *nodes = two_nodes
    folder = cluster_of(tmp_path, nodes)
    folder.put("web", SERVICE, _slice(lab.hosts["web-2a"]))

    def begin(*flags: str) -> NodeHost:
        for one in folder.agents:
            assert one.end() == 0, one.words
        folder.agents = [start_agent(nodes[0], tmp_path, *flags)]
        folder.settle()
        return nodes[0]

    yield begin
    for one in folder.agents:
        one.end()
    nodes[0].run([sys.executable, "-m", "lbprov", "node", "cleanup"])


def _client(asking: Host, ip: str = VIP, port: int = 80) -> str:
    """Who the Pod says has asked."""
    answer = asking.http_get(ip, port, timeout_s=5)
    assert isinstance(answer, Reply), answer
    return answer.client


MODES = [
    pytest.param(("--iptables-backend", "nft"), id="iptables-nft"),
    pytest.param(("--iptables-backend", "legacy"), id="iptables-legacy"),
    pytest.param(("--mode", "nftables"), id="nftables"),
]


@pytest.mark.parametrize("mode", MODES)
def test_pods_are_told_by_their_interfaces(
    two_nodes: tuple[Lab, NodeHost, NodeHost], agent: Callable[..., NodeHost], mode: tuple[str, ...]
) -> None:
    lab, *_ = two_nodes
    node = agent(
        "--detect-local", "interface-name-prefix", "--pod-interface-name-prefix", "pod", *mode,
    )  # fmt: skip
    assert _client(lab.hosts["ask-1"]) == lab.hosts["ask-1"].ipv4
    assert _client(lab.hosts["client-1"]) == node.ipv4
    assert _client(node) == node.ipv4
    agent("--detect-local", "none", *mode)
    # Nobody is masqueraded, so the answer goes past node-1, and the client knows nobody there.
    assert isinstance(lab.hosts["client-1"].http_get(VIP, 80, timeout_s=1), TimedOut)


@pytest.mark.parametrize("mode", ["iptables", "nftables"])
def test_nodeports_on_the_first_address(
    two_nodes: tuple[Lab, NodeHost, NodeHost], agent: Callable[..., NodeHost], mode: str
) -> None:
    lab, *_ = two_nodes
    client = lab.hosts["client-1"]
    node = agent("--mode", mode, "--nodeport-addresses", "primary")
    second = str(node.pod_cidr[1])  # the gateway of its Pods
    client.route(second, via=node)
    assert isinstance(client.http_get(node.ipv4, NODE_PORT), Reply)
    assert isinstance(client.http_get(second, NODE_PORT), Refused)
    agent("--mode", mode)
    assert isinstance(client.http_get(second, NODE_PORT), Reply)


@pytest.mark.parametrize("mode", ["iptables", "nftables"])
def test_nodeports_on_localhost_and_the_guard(
    two_nodes: tuple[Lab, NodeHost, NodeHost], agent: Callable[..., NodeHost], mode: str
) -> None:
    """An intruder on the LAN sends packets to 127.0.0.1 by way of the node."""
    lab, *_ = two_nodes
    node = agent("--mode", mode)
    assert isinstance(node.http_get("127.0.0.1", NODE_PORT), Refused), "off unless asked for"
    assert _route_localnet(node) == "0"
    agent("--mode", mode, "--localhost-nodeports")
    assert _route_localnet(node) == "1"
    assert _client(node, "127.0.0.1", NODE_PORT) == node.ipv4

    listening = node.serve(http=8631)
    intruder = lab.add_client(f"intruder-{mode}")
    intruder.script(
        "ip address del 127.0.0.1/8 dev lo; echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet\n"
        f"ip route add 127.0.0.0/8 via {node.ipv4}\n"
    )
    assert isinstance(intruder.http_get(node.ipv4, 8631), Reply)
    assert isinstance(intruder.http_get("127.0.0.1", 8631, timeout_s=1), TimedOut)
    assert isinstance(intruder.http_get("127.0.0.1", NODE_PORT, timeout_s=1), TimedOut)
    assert isinstance(node.http_get("127.0.0.1", 8631), Reply), "the node's own programs are let in"
    agent("--mode", mode)
    assert _route_localnet(node) == "0", "closed before the guard goes"
    node.script("echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet")
    assert isinstance(intruder.http_get("127.0.0.1", 8631), Reply), "what the guard is for"
    node.script("echo 0 > /proc/sys/net/ipv4/conf/all/route_localnet")
    listening.kill()
    listening.collect()


def _route_localnet(node: Host) -> str:
    return node.script("cat /proc/sys/net/ipv4/conf/all/route_localnet").strip()
