"""A small cluster in the lab: two nodes that run `lbprov node` for real, in each mode: iptables (one node
with each backend), then nftables."""

from __future__ import annotations

import collections
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from lbprov.cluster.manifests import ManifestCluster
from lbprov.lab import Host, Lab, LabProcess, NodeHost
from lbprov.model import Ingress, IPMode, ObjectKey

CLUSTER_CIDRS = "10.244.0.0/16,fd00:10:244::/48"
PATIENCE_S = 60.0

Manifest = dict[str, Any]


class NodeAgent:
    """`lbprov node` on one node, following a folder; what it has applied, by its log."""

    def __init__(self, node: Host, folder: Path, *flags: str) -> None:
        self.node = node
        self.flags = flags
        self.words: collections.deque[str] = collections.deque(maxlen=50)
        self._changed = threading.Condition()
        self._version = ""
        self.process: LabProcess = node.popen(
            [
                *(sys.executable, "-m", "lbprov", "node", "-f", str(folder), "--node-name", node.name),
                *("--cluster-cidr", CLUSTER_CIDRS, "--log-format", "json", *flags),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.words.append(line.rstrip())
            record = json.loads(line) if line.startswith("{") else {}
            if record.get("msg") == "applied":
                with self._changed:
                    self._version = record["version"]
                    self._changed.notify_all()

    def await_applied(self, version: str) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: self._version == version, PATIENCE_S):
                raise AssertionError(f"{self.node.name} has not applied {version}: " + "\n".join(self.words))

    def end(self) -> int:
        """As systemd or kubelet would; returns the exit code."""
        self.process.terminate()
        code = self.process.wait(timeout=60)
        self._listener.join()
        return code


class ManifestFolder:
    """A folder of manifests and everybody who follows it."""

    def __init__(self, path: Path, nodes: Sequence[Host]) -> None:
        self.path = path
        self.agents: list[NodeAgent] = []
        self.put("nodes", *(_node(node) for node in nodes))
        self.cluster = ManifestCluster.open(path)

    def put(self, name: str, *manifests: Manifest) -> None:
        file = self.path / f"{name}.yaml"
        partial = file.with_suffix(".partial")
        partial.write_text("\n---\n".join(json.dumps(m, indent=1) for m in manifests))
        partial.rename(file)

    def remove(self, name: str) -> None:
        (self.path / f"{name}.yaml").unlink()

    def give_addresses(self, addresses: Mapping[str, Sequence[str]]) -> None:
        """What a load balancer's controller does: Service -> the addresses of its status."""
        for name, ips in addresses.items():
            ingress = [Ingress(ip, ip_mode=IPMode.VIP) for ip in ips]
            self.cluster.record_status(ObjectKey("default", name), ingress, ())

    def settle(self) -> None:
        """Returns when every agent has applied the folder as it is now."""
        snapshot = self.cluster.snapshot()
        assert not [p for p in snapshot.problems if p.fatal], snapshot.problems
        for agent in self.agents:
            agent.await_applied(snapshot.version)


def _node(node: Host) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": node.name},
        "status": {
            "addresses": [{"type": "InternalIP", "address": ip} for ip in node.ips],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[tuple[Lab, NodeHost, NodeHost]]:
    """node-1 and node-2, each with two Pods that serve (`web-1a` …) and one that asks (`ask-1`), and two
    clients outside: client-1 knows the cluster by way of node-1, client-2 by way of node-2."""
    with Lab.open() as lab:
        nodes = (lab.add_node("node-1"), lab.add_node("node-2"))
        servers = []
        for number, node in enumerate(nodes, 1):
            # ICMP errors to one address are limited to one a second; here, many probes come from one.
            node.script(
                "echo 0 > /proc/sys/net/ipv4/icmp_ratelimit; echo 0 > /proc/sys/net/ipv6/icmp/ratelimit"
            )
            for letter in "ab":
                pod = lab.add_pod(f"web-{number}{letter}", node)
                servers.append((pod, pod.begin_serving(http=80, udp=53)))
            lab.add_pod(f"ask-{number}", node)
            client = lab.add_client(f"client-{number}")
            for network in ("203.0.113.0/24", "10.96.0.0/12", "2001:db8:113::/48", "fd00:10:96::/112"):
                client.route(network, via=node)
        for host, server in servers:
            host.await_ready(server)
        yield lab, *nodes


@pytest.fixture
def start_agent() -> Callable[..., NodeAgent]:
    """`start_agent(node, folder, *flags)`: `lbprov node`, whose end is the test's affair."""
    return NodeAgent


@pytest.fixture
def cluster_of() -> Callable[[Path, Sequence[Host]], ManifestFolder]:
    """`cluster_of(path, nodes)`: a folder with these Nodes that nobody follows yet."""
    return ManifestFolder


MODES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "iptables": (("--iptables-backend", "nft"), ("--iptables-backend", "legacy")),
    "nftables": (("--mode", "nftables"), ("--mode", "nftables")),
}
"""Mode -> the flags of node-1 and node-2."""


@pytest.fixture(scope="module", params=list(MODES))
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def follow(mode: str) -> Iterator[Callable[[Path, Sequence[Host]], ManifestFolder]]:
    """`follow(path, nodes)`: a folder that agents on node-1 and node-2 follow, in every mode. The second mode
    finds the rules of the first."""
    running: list[ManifestFolder] = []

    def begin(path: Path, nodes: Sequence[Host]) -> ManifestFolder:
        folder = ManifestFolder(path, nodes)
        running.append(folder)
        for node, flags in zip(nodes, MODES[mode], strict=False):
            folder.agents.append(NodeAgent(node, path, *flags))
        return folder

    yield begin
    for agent in (agent for folder in running for agent in folder.agents):
        agent.end()
