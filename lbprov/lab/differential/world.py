"""A small cluster whose nodes run one proxy in one mode: real packets tell what it does."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from lbprov.lab.differential.asking import FIRST_TRY_S, VANTAGES, Ask, Outcome, outcome, probe
from lbprov.lab.differential.case import CLIENT, CLUSTER_CIDRS, NODES, OUTSIDE_NETWORKS, PODS, SERVING
from lbprov.lab.doorway import Doorway
from lbprov.lab.holder import LabProcess
from lbprov.lab.host import Host
from lbprov.lab.kube_proxy import MODES, KubeProxy, KubeProxySetting
from lbprov.lab.network import Lab, NodeHost
from lbprov.lab.probes import Probe, Reply

OURS = ("lbprov-iptables-nft", "lbprov-iptables-legacy", "lbprov-nftables")
THEIRS = tuple(f"kube-proxy-{mode}" for mode in MODES)
VARIANTS = {"default": (True, False), "masquerade-all": (True, True), "no-detector": (False, False)}
"""Whether Pods are told from everybody else, and whether every client of a clusterIP is masqueraded."""

_SETTLES_WITHIN_S = 90.0
_POLL_S = 0.05
_FIRST_PORT, _PORTS, _EPOCHS = 10000, 5000, 6

# ICMP errors to one address are limited to one a second, and all of them together; here, many questions come
# from one. Held UDP flows must be remembered from one phase to the next.
_NODE_SETTINGS = """
echo 0 > /proc/sys/net/ipv4/icmp_ratelimit
[ ! -d /proc/sys/net/ipv6 ] || echo 0 > /proc/sys/net/ipv6/icmp/ratelimit
for limit in icmp_msgs_per_sec icmp_msgs_burst; do
    [ ! -w /proc/sys/net/ipv4/$limit ] || echo 100000 > /proc/sys/net/ipv4/$limit
done
echo 3600 > /proc/sys/net/netfilter/nf_conntrack_udp_timeout
echo 3600 > /proc/sys/net/netfilter/nf_conntrack_udp_timeout_stream
"""


class Proxy(Protocol):
    """What runs on a node."""

    process: LabProcess

    def last_words(self) -> str: ...

    def end(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Site:
    """What every world is given. `kube_proxy`: the program. `folder`: for logs. `agent`: how ours is called.
    `variant`: how all proxies are set up, one of VARIANTS."""

    kubeconfig: Path
    api_port: int
    kube_proxy: Path
    folder: Path
    agent: tuple[str, ...] = (sys.executable, "-m", "lbprov", "node")
    variant: str = "default"


class NodeAgent:
    """`lbprov node` on one node."""

    def __init__(self, node: NodeHost, site: Site, flags: Sequence[str], name: str) -> None:
        self._log = site.folder / f"{node.name}-{name}.log"
        with self._log.open("ab") as log:
            self.process: LabProcess = node.popen(
                [
                    *(*site.agent, "--kubeconfig", str(site.kubeconfig)),
                    *("--node-name", node.name, *flags),
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def last_words(self) -> str:
        return self._log.read_bytes()[-3000:].decode(errors="replace")

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=30)


def start_proxy(name: str, node: NodeHost, site: Site) -> Proxy:
    """`name`: one of OURS and THEIRS."""
    program, _, mode = name.partition("-" if name.startswith("lbprov") else "-proxy-")
    knows_pods, masquerades_all = VARIANTS[site.variant]
    cidrs = CLUSTER_CIDRS if knows_pods else ""
    if program == "kube":
        more = {m: {"minSyncPeriod": "50ms", "masqueradeAll": masquerades_all} for m in MODES}
        setting = KubeProxySetting(mode, cidrs, more=more)
        return KubeProxy(node, site.kube_proxy, site.kubeconfig, setting, site.folder)
    mode, _, backend = mode.partition("-")
    flags = ["--mode", mode, *(["--iptables-backend", backend] if backend else [])]
    flags += ["--cluster-cidr", cidrs] if cidrs else []
    flags += ["--masquerade-all"] if masquerades_all else []
    return NodeAgent(node, site, flags, name)


@dataclass
class World:
    """`name`: of its proxies. `open` starts everything but waits for nothing."""

    name: str
    lab: Lab
    proxies: dict[str, Proxy] = field(default_factory=dict)

    @classmethod
    @contextlib.contextmanager
    def open(cls, name: str, site: Site) -> Iterator[World]:
        with Lab.open() as lab:
            nodes = [lab.add_node(node) for node in NODES]
            for node in nodes:
                node.script(_NODE_SETTINGS)
            for pod, node_name in PODS.items():
                lab.add_pod(pod, nodes[NODES.index(node_name)])
            client = lab.add_client(CLIENT)
            for network in OUTSIDE_NETWORKS:
                client.route(network, via=nodes[0])
            hosts = [lab.hosts[host] for host in (*SERVING, *NODES)]
            servers = [(host, host.begin_serving(http=80, udp=53)) for host in hosts]
            with Doorway(nodes, site.api_port):
                world = cls(name, lab)
                for node in nodes:
                    world.proxies[node.name] = start_proxy(name, node, site)
                for host, server in servers:
                    host.await_ready(server)
                yield world

    @property
    def addresses(self) -> dict[str, dict[int, str]]:
        """Host -> family -> address; the same in every world."""
        return {name: {4: host.ipv4, 6: host.ipv6} for name, host in self.lab.hosts.items()}

    @property
    def node_addresses(self) -> dict[str, str]:
        node = self.lab.nodes[0]
        own = {"4": node.ipv4, "6": node.ipv6}
        return own | {"gateway-4": str(node.pod_cidr[1]), "gateway-6": str(node.pod_cidr6[1])}

    def begin_epoch(self, number: int) -> None:
        """From now on, new sockets of those who ask have ports that none had in the five epochs before."""
        first = _FIRST_PORT + number % _EPOCHS * _PORTS
        for vantage in VANTAGES:
            setting = f"echo {first} {first + _PORTS - 1} > /proc/sys/net/ipv4/ip_local_port_range"
            self.lab.hosts[vantage].script(setting)

    def await_answers(self, ips: Iterable[str]) -> None:
        """Until Pods of both nodes are answered on port 80 of each of `ips`."""
        deadline_s = time.monotonic() + _SETTLES_WITHIN_S
        missing = {host: list(ips) for host in ("ask-1", "ask-2")}
        while missing:
            for host, own in list(missing.items()):
                answers = self.lab.hosts[host].ask([Probe(ip, 80, timeout_s=0.5) for ip in own])
                left = [ip for ip, (a,) in zip(own, answers, strict=True) if not isinstance(a, Reply)]
                missing[host] = left
            missing = {host: own for host, own in missing.items() if own}
            ended = [node for node, proxy in self.proxies.items() if proxy.process.poll() is not None]
            if missing and (ended or time.monotonic() > deadline_s):
                raise AssertionError(f"{self.name}: no answer from {missing}\n{self._words()}")
            if missing:
                time.sleep(_POLL_S)

    def _words(self) -> str:
        return "\n".join(f"── {name}\n{proxy.last_words()}" for name, proxy in self.proxies.items())

    def ask(
        self, asks: Sequence[Ask], times: Mapping[Ask, int] | int = 1, timeout_s: float = FIRST_TRY_S
    ) -> dict[Ask, Outcome]:
        """All questions, from every vantage point at the same time."""
        node = self.node_addresses
        own = {vantage: [ask for ask in asks if ask.vantage == vantage] for vantage in VANTAGES}

        def ask_from(host: Host, mine: list[Ask]) -> dict[Ask, Outcome]:
            tries = [times if isinstance(times, int) else times[ask] for ask in mine]
            answers = host.ask([probe(a, node, n, timeout_s) for a, n in zip(mine, tries, strict=True)])
            return {ask: outcome(given) for ask, given in zip(mine, answers, strict=True)}

        with ThreadPoolExecutor(len(VANTAGES)) as pool:
            parts = pool.map(ask_from, (self.lab.hosts[v] for v in own), own.values())
            return {ask: seen for part in parts for ask, seen in part.items()}
