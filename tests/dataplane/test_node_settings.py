"""Flags of the agent, and what is left after it, by what packets see of them: local detectors, NodePorts on
localhost, a cleanup."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from lbprov.lab import Host, Lab, NodeHost, Probe, Refused, Reply, TimedOut

VIP, NODE_PORT = "10.96.9.1", 31900
SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "web"},
    "spec": {
        "type": "NodePort",
        "clusterIP": VIP,
        "ports": [
            {"name": "http", "port": 80, "nodePort": NODE_PORT},
            {"name": "dns", "port": 53, "protocol": "UDP", "nodePort": NODE_PORT + 1},
        ],
    },
}


def _slice(*pods: Any) -> dict[str, Any]:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "web", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "ports": [
            {"name": "http", "protocol": "TCP", "port": 80},
            {"name": "dns", "protocol": "UDP", "port": 53},
        ],
        "endpoints": [{"addresses": [pod.ipv4], "nodeName": pod.node.name} for pod in pods],
    }


class Agents:
    """One after the other, on one node."""

    def __init__(self, folder: Any, node: NodeHost, start: Callable[..., Any]) -> None:
        self._folder, self._node, self._start = folder, node, start

    def __call__(self, *flags: str) -> NodeHost:
        """The node, where one with these flags has applied the folder, and the one before has ended."""
        self.end()
        self._folder.agents = [self._start(self._node, self._folder.path, *flags)]
        self._folder.settle()
        return self._node

    def end(self) -> None:
        agents, self._folder.agents = self._folder.agents, []
        for one in agents:
            assert one.end() == 0, one.words

    def clean_up(self) -> str:
        self.end()
        return self._node.run([sys.executable, "-m", "lbprov", "node", "cleanup"]).stdout


@pytest.fixture
def agent(
    two_nodes: tuple[Lab, NodeHost, NodeHost],
    tmp_path: Path,
    cluster_of: Callable[..., Any],
    start_agent: Callable[..., Any],
) -> Iterator[Agents]:
    """`agent(flags)`: node-1, where one with these flags forwards VIP to web-2a, elsewhere."""
    lab, *nodes = two_nodes
    folder = cluster_of(tmp_path, nodes)
    folder.put("web", SERVICE, _slice(lab.hosts["web-2a"]))
    agents = Agents(folder, nodes[0], start_agent)
    yield agents
    agents.clean_up()


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
    two_nodes: tuple[Lab, NodeHost, NodeHost], agent: Agents, mode: tuple[str, ...]
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
    two_nodes: tuple[Lab, NodeHost, NodeHost], agent: Agents, mode: str
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
    two_nodes: tuple[Lab, NodeHost, NodeHost], agent: Agents, mode: str
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


@pytest.mark.parametrize("mode", MODES)
def test_a_cleanup_ends_the_udp_flows_that_the_rules_began(
    two_nodes: tuple[Lab, NodeHost, NodeHost], agent: Agents, mode: tuple[str, ...]
) -> None:
    """Our own only: not one of somebody else's NAT to the same Pod, nor one that goes there directly."""
    lab, *_ = two_nodes
    web, asker, client = (lab.hosts[name] for name in ("web-2a", "ask-1", "client-1"))
    node = agent(*mode)
    # As on a node with a firewall: packets are tracked, and translated at both ends, without us.
    firewall = ("FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT", "POSTROUTING -t nat -o lo -j ACCEPT")
    node.script("\n".join(f"iptables -A {rule}" for rule in firewall))
    foreign = "PREROUTING -d 198.51.100.53/32 -p udp -m udp --dport 53 -j DNAT --to-destination"
    node.script(f"iptables -t nat -A {foreign} {web.ipv4}:53")
    ours = ((asker, VIP, 53, 5301), (client, node.ipv4, NODE_PORT + 1, 5302))
    others = ((asker, "198.51.100.53", 53, 5303), (asker, web.ipv4, 53, 5304))

    def answered(flows: Sequence[tuple[Host, str, int, int]], timeout_s: float = 5) -> list[bool]:
        probes = [(host, Probe(ip, port, "udp", timeout_s, source_port=own)) for host, ip, port, own in flows]
        return [isinstance(host.ask([probe])[0][0], Reply) for host, probe in probes]

    assert answered(ours) == [True, True]
    assert answered(others) == [True, True]
    node.script(f"iptables -t nat -D {foreign} {web.ipv4}:53")
    agent(*mode)  # another run: what it did not begin is ours all the same
    assert "IPv4: 2 UDP flows ended" in agent.clean_up()
    assert answered(ours, 0.5) == [False, False]
    assert answered(others) == [True, True], "by connection tracking alone"
    node.script("\n".join(f"iptables -D {rule}" for rule in firewall))
