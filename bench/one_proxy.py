"""One proxy on a node of the lab, measured from outside, by packets: starts, changes, churn, connections.

Every proxy runs with its defaults and alone on its node, on one real API server. A change is timed from the
API server's answer to the write until the endpoint that it is about has answered; a start's CPU is counted
when the proxy has come to rest, children included.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bench import connections
from bench.connections import Cost
from lbprov.lab import Lab, NodeHost, PodHost, Probe, Reply
from lbprov.lab.controlplane import Api, Object
from lbprov.lab.differential.case import CLUSTER_CIDRS, Case, Ep, State
from lbprov.lab.differential.world import NodeAgent, Proxy, Site
from lbprov.lab.doorway import Doorway
from lbprov.lab.kube_proxy import KubeProxy, KubeProxySetting

CHURN_PER_S = 20
ROUNDS = 5
POD_IPS = {"web-1a": "10.244.1.2", "web-1b": "10.244.1.3", "web-b": "10.244.1.4"}
_PAUSE_S = 1.2  # kube-proxy gathers for a second what comes soon after a write
_PATIENCE_S = 900.0
_SOON_S = 0.02  # where no rule is yet, nobody says no
_REST_S, _RESTS_WITHIN_S = 2.0, 60.0
_TICKS = os.sysconf("SC_CLK_TCK")

# Tracks connections and does nothing else; without a rule that asks for it the kernel does not.
_EMPTY = """
table ip empty {
  chain nat { type nat hook prerouting priority -100; }
  chain filter { type filter hook forward priority 0; ct state invalid drop; }
}
"""


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured of each proxy: so many, or for so long, whichever ends first."""

    changes: int = 15
    additions: int = 5
    limit_s: float = 40.0
    churn_s: int = 15


USUAL = Effort()


@dataclass
class Figures:
    """Of one proxy at one number of Services; seconds and bytes. `applied_s`: what our agent says of its own
    changes, from the event that came in to the kernel's answer."""

    start_s: float = 0.0
    start_cpu_s: float = 0.0
    change_s: list[float] = field(default_factory=list)
    applied_s: list[float] = field(default_factory=list)
    churn_applied_s: list[float] = field(default_factory=list)
    add_s: list[float] = field(default_factory=list)
    churn_cpu_s: float = 0.0
    rss_bytes: int = 0
    connects: dict[str, list[Cost]] = field(default_factory=dict)
    load: float = 0.0

    def __str__(self) -> str:
        p50_ms = {
            n: f"{statistics.median(c.p50_s for c in costs) * 1e6:.0f}" for n, costs in self.connects.items()
        }
        return (
            f"start {self.start_s:.2f} s, {self.start_cpu_s:.2f} s of CPU; change {_ms(self.change_s)}; "
            f"applied {_ms(self.applied_s)}; add {_ms(self.add_s)}; churn {self.churn_cpu_s:.2f} s/min, "
            f"applied {_ms(self.churn_applied_s)}; "
            f"RSS {self.rss_bytes / 1e6:.0f} MB; connect, us {p50_ms}; load before {self.load:.1f}"
        )


def _ms(times: list[float]) -> str:
    if not times:
        return "-"
    return f"{statistics.median(times) * 1e3:.2f} ms (most {max(times) * 1e3:.1f}, {len(times)} times)"


@dataclass(frozen=True)
class Bench:
    """One node with two servers and one who asks, on an API server with `count` Services; another node with
    nothing but connection tracking, to compare with."""

    api: Api
    site: Site
    count: int
    fresh: Iterator[int]
    effort: Effort = USUAL
    where: dict[int, str] = field(default_factory=dict)
    """Services that have been changed -> the endpoint that is not web-b."""

    def case(self, number: int) -> Case:
        return Case(f"bench-{number}", (), number)

    def create(self, number: int) -> None:
        case = self.case(number)
        for obj in (case.service(_state("web-1a")), *self._slices(case, "web-1a")):
            self.api.create(obj)

    def measure(self, name: str) -> Figures:
        figures = Figures(load=os.getloadavg()[0])
        with Lab.open() as lab:
            node, bare = lab.add_node("node-1"), lab.add_node("node-2")
            bare.run(["nft", "-f", "-"], input=_EMPTY)
            pods = {pod: lab.add_pod(pod, node) for pod in POD_IPS}
            asker = lab.add_pod("asker", node)
            far, far_asker = lab.add_pod("web-2", bare), lab.add_pod("asker-2", bare)
            for pod in (*pods.values(), far):
                connections.serve(pod)
            with Doorway([node], self.site.api_port):
                began_s = time.monotonic()
                proxy = start(name, node, self.site)
                last = self.case(self.count - 1).cluster_ip(4)
                _await(asker, last, "", proxy)
                figures.start_s = time.monotonic() - began_s
                figures.start_cpu_s = _cpu_at_rest_s(proxy)
                figures.connects = connections.in_turns(
                    {
                        "empty": lambda: connections.connect(far_asker, far.ipv4),
                        "last": lambda: connections.connect(asker, last),
                        "elsewhere": lambda: connections.connect(asker, pods["web-b"].ipv4),
                    },
                    ROUNDS,
                )
                log = _Log(name, self.site)
                self._changes(asker, proxy, figures)
                figures.applied_s = log.applied_s()
                self._additions(asker, proxy, figures)
                log_of_churn = _Log(name, self.site)
                self._churn(proxy, figures)
                figures.churn_applied_s = log_of_churn.applied_s()
                figures.rss_bytes = sum(map(_rss_bytes, _family(proxy.process.program_pid())))
                proxy.end()
        return figures

    def _changes(self, asker: PodHost, proxy: Proxy, figures: Figures) -> None:
        """Each after a pause: what a proxy saves up for a while is paid by the next."""
        ends_s = time.monotonic() + self.effort.limit_s
        for turn in range(self.effort.changes):
            number = turn % min(15, self.count)
            obj, host = self._move(number)
            obj["endpoints"] = obj["endpoints"][:1]
            time.sleep(_PAUSE_S)
            self.api.apply(obj)
            began_s = time.monotonic()
            _await(asker, self.case(number).cluster_ip(4), host, proxy)
            figures.change_s.append(time.monotonic() - began_s)
            if time.monotonic() > ends_s:
                break

    def _additions(self, asker: PodHost, proxy: Proxy, figures: Figures) -> None:
        ends_s = time.monotonic() + self.effort.limit_s
        for number in (next(self.fresh) for _ in range(self.effort.additions)):
            time.sleep(_PAUSE_S)
            self.create(number)
            began_s = time.monotonic()
            _await(asker, self.case(number).cluster_ip(4), "", proxy)
            figures.add_s.append(time.monotonic() - began_s)
            if time.monotonic() > ends_s:
                break

    def _churn(self, proxy: Proxy, figures: Figures) -> None:
        before_s, seconds = _cpu_s(proxy), self.effort.churn_s
        began_s = time.monotonic()
        for turn in range(seconds * CHURN_PER_S):
            self.api.apply(self._move(turn % min(15, self.count))[0])
            due_s = began_s + (turn + 1) / CHURN_PER_S
            time.sleep(max(0.0, due_s - time.monotonic()))
        time.sleep(2)
        figures.churn_cpu_s = (_cpu_s(proxy) - before_s) * 60 / seconds

    def _slices(self, case: Case, host: str) -> list[Object]:
        addresses = {name: {4: ip, 6: ""} for name, ip in POD_IPS.items()}
        return [s for s in case.slices(_state(host), addresses) if s["addressType"] == "IPv4"]

    def _move(self, number: int) -> tuple[Object, str]:
        """A Service's slice with its first endpoint at another Pod, and that Pod."""
        host = self.where[number] = "web-1a" if self.where.get(number) == "web-1b" else "web-1b"
        (obj,) = self._slices(self.case(number), host)
        return obj, host


def _state(host: str) -> State:
    return State((Ep(host), Ep("web-b")), protocols=("TCP",), families=(4,))


def start(name: str, node: NodeHost, site: Site) -> Proxy:
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


# ── what it costs ──


def _cpu_s(proxy: Proxy) -> float:
    """Its own and that of the children that it has waited for (iptables, nft)."""
    stat = Path(f"/proc/{proxy.process.program_pid()}/stat").read_text().rpartition(")")[2].split()
    return sum(int(ticks) for ticks in stat[11:15]) / _TICKS


def _cpu_at_rest_s(proxy: Proxy) -> float:
    """When it has done next to nothing for a while: a child's CPU counts when it has ended, which is after
    the first packet has found its rules."""
    deadline_s = time.monotonic() + _RESTS_WITHIN_S
    before_s, now_s = -1.0, _cpu_s(proxy)
    while now_s - before_s > 0.05 and time.monotonic() < deadline_s:
        time.sleep(_REST_S)
        before_s, now_s = now_s, _cpu_s(proxy)
    return now_s


def _family(pid: int) -> list[int]:
    """A process and its children, theirs included."""
    lists = [tasks / "children" for tasks in Path(f"/proc/{pid}/task").glob("*")]
    children = [int(word) for path in lists if path.exists() for word in path.read_text().split()]
    return [pid, *(p for child in children for p in _family(child))]


def _rss_bytes(pid: int) -> int:
    """Files that several programs have in common are counted for each."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


class _Log:
    """What our agent says from now on."""

    def __init__(self, name: str, site: Site) -> None:
        self._path = site.folder / f"node-1-{name.replace(' ', '-')}.log"
        self._begin = self._path.stat().st_size if self._path.exists() else 0

    def applied_s(self) -> list[float]:
        text = self._path.read_bytes()[self._begin :].decode() if self._path.exists() else ""
        lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
        return [line["waited_ms"] / 1e3 for line in lines if "waited_ms" in line]
