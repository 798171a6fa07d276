"""From the real kube-proxy to our node agent and back, from every mode to every mode, on both nodes of a
cluster, while endpoints move and requests are made from everywhere: none fails.

`tests/dataplane/test_replace_kube_proxy.py` follows the page on one node, every time."""

from __future__ import annotations

import datetime
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from lbprov.lab import Host, Probe, Reply
from lbprov.lab.controlplane import Api, ControlPlane, eventually
from lbprov.lab.controlplane.objects import add_node
from lbprov.lab.differential.case import CLIENT, NODES, ZONES, Case, Ep, State
from lbprov.lab.differential.world import Site, World, start_proxy

WEB = Case("web", (State((Ep("web-1a"), Ep("web-2a")), type="NodePort"),), 700)
MOVED = State((Ep("web-1b"),), type="NodePort")
PAIRS = [
    pytest.param("kube-proxy-iptables", "lbprov-iptables-nft", id="iptables to iptables"),
    pytest.param("kube-proxy-nftables", "lbprov-nftables", id="nftables to nftables"),
    pytest.param("kube-proxy-iptables", "lbprov-nftables", id="iptables to nftables", marks=pytest.mark.soak),
    pytest.param(
        "kube-proxy-nftables", "lbprov-iptables-legacy", id="nftables to iptables", marks=pytest.mark.soak
    ),
]
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def _plane(untouched_plane: ControlPlane) -> ControlPlane:
    return untouched_plane


@pytest.fixture
def site(control_plane: ControlPlane, kube_proxy: Path, tmp_path: Path) -> Site:
    port = int(control_plane.server.rpartition(":")[2])
    return Site(control_plane.admin_kubeconfig, port, kube_proxy, tmp_path)


@pytest.fixture
def cluster(api: Api) -> Api:
    for number, name in enumerate(NODES):
        add_node(api, name, ips=(f"192.0.2.{11 + number}", f"2001:db8:1::{11 + number}"), zone=ZONES[name])
    return api


def _apply(api: Api, world: World, state: State) -> None:
    for obj in (WEB.service(state), *WEB.slices(state, world.addresses)):
        api.apply(obj)


def _probes(world: World, host: str) -> list[Probe]:
    node = world.node_addresses
    own = [Probe(node[str(family)], WEB.node_port("TCP"), timeout_s=5) for family in (4, 6)]
    return own if host == CLIENT else [*own, *(Probe(WEB.cluster_ip(f), 80, timeout_s=5) for f in (4, 6))]


def _answerers(world: World, host: str) -> set[str]:
    given = world.lab.hosts[host].ask(_probes(world, host))
    return {a.hostname if isinstance(a, Reply) else str(a) for answers in given for a in answers}


def _has(node: Host, mode: str) -> bool:
    """Whether that kube-proxy has the Service in the kernel, both families."""
    commands = {"iptables": ("iptables-save -t nat", "ip6tables-save -t nat"),
                "nftables": ("nft list table ip kube-proxy", "nft list table ip6 kube-proxy")}  # fmt: skip
    texts = [node.run(["sh", "-c", f"{command} || true"]).stdout for command in commands[mode]]
    return all("KUBE-SVC" in t or "service-" in t for t in texts) and all(
        WEB.cluster_ip(family) in text for family, text in zip((4, 6), texts, strict=True)
    )


def _note(history: list[str], what: str) -> None:
    history.append(f"{datetime.datetime.now(datetime.UTC).time().isoformat('milliseconds')} {what}")


def _lbprov(nodes: Sequence[Host], *arguments: str) -> str:
    argv = [sys.executable, "-m", "lbprov", "node", *arguments]
    return "".join(node.run(argv).stdout for node in nodes)


def _rules(nodes: Sequence[Host]) -> str:
    return "".join(
        node.script("iptables-save; ip6tables-save; iptables-legacy-save; nft list tables; true")
        for node in nodes
    )


@pytest.mark.parametrize(("theirs", "ours"), PAIRS)
def test_take_over_and_back(theirs: str, ours: str, cluster: Api, site: Site) -> None:
    with World.open(theirs, site) as world:
        nodes = world.lab.nodes
        state = WEB.states[0]
        assert state
        _apply(cluster, world, state)
        world.await_answers([WEB.cluster_ip(4), WEB.cluster_ip(6)])
        askers = [world.lab.hosts[host] for host in ("ask-1", "node-1", "ask-2", CLIENT)]
        loops = [host.keep_asking(_probes(world, host.name)) for host in askers]

        history: list[str] = []
        _note(history, "ours starts")
        agents = {node.name: start_proxy(ours, node, site) for node in nodes}
        for node in nodes:
            eventually(lambda node=node: WEB.cluster_ip(6) in _lbprov([node], "status"))  # type: ignore[misc]
        _note(history, "theirs ends")
        for proxy in world.proxies.values():
            proxy.end()
        _note(history, "their rules go")
        _lbprov(nodes, "cleanup", "--kube-proxy")
        left = _rules(nodes)
        assert not [line for line in left.splitlines() if "KUBE-S" in line or "table ip kube-proxy" in line]
        _apply(cluster, world, MOVED)
        eventually(lambda: _answerers(world, "ask-1") == _answerers(world, CLIENT) == {"web-1b"})

        _note(history, "theirs comes back")
        back = {node.name: start_proxy(theirs, node, site) for node in nodes}
        for node in nodes:
            eventually(lambda node=node: _has(node, theirs.rpartition("-")[2]))  # type: ignore[misc]
        _note(history, "ours ends")
        for proxy in agents.values():
            proxy.end()
        _note(history, "our rules go")
        _lbprov(nodes, "cleanup")
        _note(history, "our rules are gone")
        assert "LBP-" not in _rules(nodes)
        assert "table ip lbprov" not in _rules(nodes)
        asked = [loop.stop() for loop in loops]
        assert [a.failures for a in asked] == [()] * len(asked), history
        assert all(a.made > 100 for a in asked)
        _apply(cluster, world, state)
        eventually(lambda: _answerers(world, "ask-1") <= {"web-1a", "web-2a"})
        for proxy in back.values():
            proxy.end()
