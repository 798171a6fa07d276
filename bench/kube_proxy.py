"""Our node agent beside the real kube-proxy, all modes in one run: `python -m bench.kube_proxy`.

Every proxy runs with its defaults, alone on a node of the lab, on one real API server with the same Services
(two endpoints each). Measured from outside, by packets: from the write to the API server to the first answer
of the endpoint that it is about. One proxy after the other, never two at a time. What a connection costs is
measured by `bench.dataplane` and `bench.dataplane_nftables`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from bench.figures import Row, print_rows
from lbprov.lab import Lab, NodeHost, PodHost, Probe, Reply
from lbprov.lab.controlplane import CONTROL_PLANE, Api, ControlPlane, Object, programs
from lbprov.lab.controlplane.objects import add_node
from lbprov.lab.differential.case import CLUSTER_CIDRS, Case, Ep, State
from lbprov.lab.differential.world import NodeAgent, Proxy, Site
from lbprov.lab.doorway import Doorway
from lbprov.lab.kube_proxy import KubeProxy, KubeProxySetting

MODULE = Path(__file__).parents[1] / "tests/cluster/controlplane"
PROXIES = (
    "kube-proxy iptables",
    "lbprov iptables",
    "kube-proxy nftables",
    "lbprov nftables",
)
BASELINES = {"lbprov iptables": "kube-proxy iptables", "lbprov nftables": "kube-proxy nftables"}
CHANGES, ADDITIONS = 15, 5
CHURN_S, CHURN_PER_S = 15, 20
_PAUSE_S = 1.2  # kube-proxy gathers for a second what comes soon after a write
_PATIENCE_S = 900.0
_SOON_S = 0.02  # where no rule is yet, nobody says no
_TICKS = os.sysconf("SC_CLK_TCK")


def _state(host: str) -> State:
    return State((Ep(host), Ep("web-b")), protocols=("TCP",), families=(4,))


@dataclass
class Figures:
    """Of one proxy at one number of Services; seconds and bytes."""

    start_s: float = 0.0
    start_cpu_s: float = 0.0
    change_s: list[float] = field(default_factory=list)
    add_s: list[float] = field(default_factory=list)
    churn_cpu_s: float = 0.0
    rss_bytes: int = 0


@dataclass(frozen=True)
class Bench:
    """One node with two servers and one who asks, on an API server with `count` Services."""

    api: Api
    site: Site
    count: int
    fresh: Iterator[int]
    where: dict[int, str] = field(default_factory=dict)
    """Services that have been changed -> the endpoint that is not web-b."""

    def case(self, number: int) -> Case:
        return Case(f"bench-{number}", (), number)

    def slices(self, case: Case, host: str) -> list[Object]:
        addresses = {name: {4: ip, 6: ""} for name, ip in _POD_IPS.items()}
        return [s for s in case.slices(_state(host), addresses) if s["addressType"] == "IPv4"]

    def move(self, number: int) -> tuple[Object, str]:
        """A Service's slice with its first endpoint at another Pod, and that Pod."""
        host = self.where[number] = "web-1a" if self.where.get(number) == "web-1b" else "web-1b"
        (obj,) = self.slices(self.case(number), host)
        return obj, host

    def create(self, number: int) -> None:
        case = self.case(number)
        for obj in (case.service(_state("web-1a")), *self.slices(case, "web-1a")):
            self.api.create(obj)

    def measure(self, name: str) -> Figures:
        figures = Figures()
        with Lab.open() as lab:
            node = lab.add_node("node-1")
            pods = {pod: lab.add_pod(pod, node) for pod in _POD_IPS}
            asker = lab.add_pod("asker", node)
            for pod in pods.values():
                pod.serve(http=80)
            with Doorway([node], self.site.api_port):
                began_s = time.monotonic()
                proxy = _start(name, node, self.site)
                last = self.case(self.count - 1)
                _await(asker, last.cluster_ip(4), "", proxy)
                figures.start_s = time.monotonic() - began_s
                figures.start_cpu_s = _cpu_s(proxy)
                self._changes(asker, proxy, figures)
                self._churn(proxy, figures)
                figures.rss_bytes = _rss_bytes(proxy)
                proxy.end()
        return figures

    def _changes(self, asker: PodHost, proxy: Proxy, figures: Figures) -> None:
        """Each after a pause: what a proxy saves up for a while is paid by the next."""
        for turn in range(CHANGES):
            obj, host = self.move(turn % self.count)
            obj["endpoints"] = obj["endpoints"][:1]
            time.sleep(_PAUSE_S)
            began_s = time.monotonic()
            self.api.apply(obj)
            _await(asker, self.case(turn % self.count).cluster_ip(4), host, proxy)
            figures.change_s.append(time.monotonic() - began_s)
        for _ in range(ADDITIONS):
            number = next(self.fresh)
            time.sleep(_PAUSE_S)
            began_s = time.monotonic()
            self.create(number)
            _await(asker, self.case(number).cluster_ip(4), "", proxy)
            figures.add_s.append(time.monotonic() - began_s)

    def _churn(self, proxy: Proxy, figures: Figures) -> None:
        before_s = _cpu_s(proxy)
        began_s = time.monotonic()
        for turn in range(CHURN_S * CHURN_PER_S):
            self.api.apply(self.move(turn % self.count)[0])
            due_s = began_s + (turn + 1) / CHURN_PER_S
            time.sleep(max(0.0, due_s - time.monotonic()))
        time.sleep(2)
        figures.churn_cpu_s = (_cpu_s(proxy) - before_s) * 60 / CHURN_S


_POD_IPS = {"web-1a": "10.244.1.2", "web-1b": "10.244.1.3", "web-b": "10.244.1.4"}


def _start(name: str, node: NodeHost, site: Site) -> Proxy:
    program, _, mode = name.partition(" ")
    if program == "kube-proxy":
        setting = KubeProxySetting(mode, CLUSTER_CIDRS)
        return KubeProxy(node, site.kube_proxy, site.kubeconfig, setting, site.folder)
    return NodeAgent(node, site, ["--mode", mode, "--cluster-cidr", CLUSTER_CIDRS], name.replace(" ", "-"))


def _await(asker: PodHost, ip: str, host: str, proxy: Proxy) -> None:
    """Until `host` (empty: anybody) answers at `ip`."""
    deadline_s = time.monotonic() + _PATIENCE_S
    while True:
        (answer,) = asker.ask([Probe(ip, 80, timeout_s=_SOON_S)])[0]
        if isinstance(answer, Reply) and host in ("", answer.hostname):
            return
        if time.monotonic() > deadline_s or proxy.process.poll() is not None:
            raise RuntimeError(f"{ip} is not answered by {host or 'anybody'}: {proxy.last_words()}")


def _cpu_s(proxy: Proxy) -> float:
    """Its own and that of the children that it has waited for (iptables, nft)."""
    stat = Path(f"/proc/{proxy.process.program_pid()}/stat").read_text().rpartition(")")[2].split()
    return sum(int(ticks) for ticks in stat[11:15]) / _TICKS


def _rss_bytes(proxy: Proxy) -> int:
    status = Path(f"/proc/{proxy.process.program_pid()}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


def _compile(folder: str) -> None:
    """Our programs are started as installed ones are, with their bytecode, whatever the checkout has."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = folder + "/bytecode"
    lbprov = Path(sys.executable).parent / "lbprov"
    # An API server that nobody can reach: all is imported, nothing is done.
    kubeconfig = Path(folder, "nowhere")
    kubeconfig.write_text(_NOWHERE)
    argv = [str(lbprov), "node", "--kubeconfig", str(kubeconfig), "--node-name", "nobody", "--once"]
    subprocess.run(argv, check=False, capture_output=True)


_NOWHERE = """
current-context: c
contexts: [{name: c, context: {cluster: c, user: u}}]
clusters: [{name: c, cluster: {server: "https://127.0.0.1:1"}}]
users: [{name: u, user: {token: t}}]
"""


# ── the table ──


def measured(counts: tuple[int, ...]) -> dict[int, dict[str, Figures]]:
    paths = programs(MODULE, (*CONTROL_PLANE, "kube-proxy"), print)
    found: dict[int, dict[str, Figures]] = {}
    with ControlPlane.open(MODULE) as plane, tempfile.TemporaryDirectory() as folder:
        _compile(folder)
        port = urllib.parse.urlsplit(plane.server).port or 0
        site = Site(plane.admin_kubeconfig, port, paths["kube-proxy"], Path(folder))
        api = plane.admin.in_namespace("default")
        add_node(api, "node-1", ips=["192.0.2.11", "2001:db8:1::11"])
        where: dict[int, str] = {}
        there, fresh = 0, iter(range(max(counts), 10**6))
        for count in sorted(counts):
            bench = Bench(api, site, count, fresh, where)
            with ThreadPoolExecutor(4) as pool:
                list(pool.map(bench.create, range(there, count)))
            there = count
            found[count] = {}
            for name in PROXIES:
                load = os.getloadavg()[0]
                found[count][name] = bench.measure(name)
                print(f"{count:,} Services, {name}: {found[count][name]} (load before: {load:.1f})")
                sys.stdout.flush()
    return found


@dataclass(frozen=True)
class Figure:
    what: str
    unit: str
    of: Callable[[Figures], float]


FIGURES = (
    Figure("start → last Service answers", "s", lambda f: f.start_s),
    Figure("start, CPU", "s", lambda f: f.start_cpu_s),
    Figure("endpoint changed → new one answers, p50", "ms", lambda f: statistics.median(f.change_s) * 1e3),
    Figure("endpoint changed → new one answers, slowest", "ms", lambda f: max(f.change_s) * 1e3),
    Figure("Service added → it answers, p50", "ms", lambda f: statistics.median(f.add_s) * 1e3),
    Figure("a minute of 20 changes a second, CPU", "s", lambda f: f.churn_cpu_s),
    Figure("RSS", "MB", lambda f: f.rss_bytes / 1e6),
)


def rows(counts: tuple[int, ...] = (1000,)) -> list[Row]:
    found = []
    for count, by_proxy in measured(counts).items():
        for figure in FIGURES:
            for name, theirs in BASELINES.items():
                ours, base = figure.of(by_proxy[name]), figure.of(by_proxy[theirs])
                found.append(
                    Row(
                        f"{count:,} Services, {name.partition(' ')[2]}: {figure.what}",
                        f"{ours:.3g} {figure.unit}",
                        f"{base:.3g} {figure.unit}",
                        f"{base / ours:.1f}x" if ours else "",
                    )
                )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.kube_proxy", description=__doc__)
    parser.add_argument("--services", default="1000,5000", help="how many; several, separated by commas")
    counts = tuple(int(part) for part in parser.parse_args().services.split(","))
    print_rows("Beside the real kube-proxy", rows(counts))


if __name__ == "__main__":
    main()
