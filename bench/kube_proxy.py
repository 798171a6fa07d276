"""Our node agent beside the real kube-proxy, all modes in one run: `python -m bench.kube_proxy`.

What is measured, and how: `bench.one_proxy`. One proxy after the other, never two at a time. Connections are
compared with a node of the same lab that has nothing but connection tracking.
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
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from bench import connections
from bench.connections import Cost
from bench.figures import Row, print_rows
from bench.one_proxy import USUAL, Bench, Effort, Figures
from lbprov.lab.controlplane import CONTROL_PLANE, ControlPlane, programs
from lbprov.lab.controlplane.objects import add_node
from lbprov.lab.differential.world import Site

MODULE = Path(__file__).parents[1] / "tests/cluster/controlplane"
PROXIES = ("kube-proxy iptables", "lbprov iptables", "kube-proxy nftables", "lbprov nftables")
BASELINES = {"lbprov iptables": "kube-proxy iptables", "lbprov nftables": "kube-proxy nftables"}


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


# ── all of them ──

Measured = dict[int, dict[str, Figures]]
"""Number of Services -> proxy -> what it was measured at."""


def measured(
    counts: tuple[int, ...], effort: Effort, *, after_each: Callable[[Measured], None] = lambda _: None
) -> Measured:
    """`after_each`: called with what was measured at one number of Services."""
    paths = programs(MODULE, (*CONTROL_PLANE, "kube-proxy"), print)
    found: Measured = {}
    with ControlPlane.open(MODULE) as plane, tempfile.TemporaryDirectory() as folder:
        _compile(folder)
        port = urllib.parse.urlsplit(plane.server).port or 0
        site = Site(plane.admin_kubeconfig, port, paths["kube-proxy"], Path(folder))
        api = plane.admin.in_namespace("default")
        add_node(api, "node-1", ips=["192.0.2.11", "2001:db8:1::11"])
        where: dict[int, str] = {}
        there, fresh = 0, iter(range(max(counts), 10**6))
        for count in sorted(counts):
            bench = Bench(api, site, count, fresh, effort, where)
            with ThreadPoolExecutor(4) as pool:
                list(pool.map(bench.create, range(there, count)))
            there = count
            found[count] = {}
            for name in PROXIES:
                begun_s = time.monotonic()
                found[count][name] = bench.measure(name)
                took_s = time.monotonic() - begun_s
                print(f"{count:,} Services, {name} ({took_s:.0f} s): {found[count][name]}", flush=True)
            after_each({count: found[count]})
    return found


@dataclass(frozen=True)
class Figure:
    """`of` 0: nothing to say. `is_rate`: more is better."""

    what: str
    unit: str
    of: Callable[[Figures], float]
    is_rate: bool = False


def _connect_p50_ratio(way: str) -> Callable[[Figures], float]:
    return lambda f: connections.ratio(f.connects[way], f.connects["empty"], lambda c: c.p50_s)


def _median(way: str, of: Callable[[Cost], float]) -> Callable[[Figures], float]:
    return lambda f: statistics.median(map(of, f.connects[way]))


FIGURES = (
    Figure("start → last Service answers", "s", lambda f: f.start_s),
    Figure("start, CPU until at rest", "s", lambda f: f.start_cpu_s),
    Figure("endpoint changed → new one answers, p50", "ms", lambda f: statistics.median(f.change_s) * 1e3),
    Figure("… slowest", "ms", lambda f: max(f.change_s) * 1e3),
    Figure("Service added → it answers, p50", "ms", lambda f: statistics.median(f.add_s) * 1e3),
    Figure("CPU for a minute of 20 changes a second", "s", lambda f: f.churn_cpu_s),
    Figure("RSS", "MB", lambda f: f.rss_bytes / 1e6),
    Figure("connect to the last Service, p50", "us", _median("last", lambda c: c.p50_s * 1e6)),
    Figure("… p99", "us", _median("last", lambda c: c.p99_s * 1e6)),
    Figure("… p50, over an empty ruleset", "x", _connect_p50_ratio("last")),
    Figure("… connections a second of one client", "/s", _median("last", lambda c: c.per_s), is_rate=True),
    Figure("connect to no Service, p50, over an empty ruleset", "x", _connect_p50_ratio("elsewhere")),
)
OWN_FIGURES = (
    Figure("a change came in → applied, p50", "ms", lambda f: _quantile(f.applied_s, 0.5) * 1e3),
    Figure("… slowest", "ms", lambda f: _quantile(f.applied_s, 1.0) * 1e3),
    Figure("… at 20 changes a second, p50", "ms", lambda f: _quantile(f.churn_applied_s, 0.5) * 1e3),
    Figure("… p99", "ms", lambda f: _quantile(f.churn_applied_s, 0.99) * 1e3),
)
"""Of our agent alone."""


def _quantile(times: list[float], share: float) -> float:
    return sorted(times)[min(len(times) - 1, int(len(times) * share))] if times else 0.0


def rows(counts: tuple[int, ...] = (1000,), effort: Effort = USUAL) -> list[Row]:
    return _rows(measured(counts, effort))


def _rows(found: Measured) -> list[Row]:
    made = []
    for count, by_proxy in found.items():
        for figure in (*FIGURES, *OWN_FIGURES):
            for name, theirs in BASELINES.items():
                ours = figure.of(by_proxy[name])
                base = figure.of(by_proxy[theirs])
                what = f"{count:,} Services, {name.partition(' ')[2]}: {figure.what}"
                told = f"{base:.3g} {figure.unit}" if base else ""
                made.append(Row(what, f"{ours:.3g} {figure.unit}", told, _times_better(figure, ours, base)))
    return made


def _times_better(figure: Figure, ours: float, base: float) -> str:
    if not ours or not base or figure.unit == "x":
        return ""
    return f"{ours / base if figure.is_rate else base / ours:.1f}x"


def page(found: Measured) -> str:
    """The table of docs/performance.md."""
    lines = [
        "| | kube-proxy iptables | lbprov iptables | ratio | kube-proxy nftables | lbprov nftables | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    for count, by_proxy in found.items():
        lines.append(f"| **{count:,} Services** | | | | | | |")
        for figure in (*FIGURES, *OWN_FIGURES):
            lines.append(f"| {figure.what} | {' | '.join(_cells(figure, by_proxy))} |")
    return "\n".join(lines)


def _cells(figure: Figure, by_proxy: Mapping[str, Figures]) -> list[str]:
    cells = []
    for name, theirs in BASELINES.items():
        ours, base = figure.of(by_proxy[name]), figure.of(by_proxy[theirs])
        cells += [_text(base, figure.unit), _text(ours, figure.unit), _times_better(figure, ours, base)]
    return cells


def _text(number: float, unit: str) -> str:
    if not number:
        return ""
    digits = f"{number:,.0f}" if number >= 100 else f"{number:.3g}"
    return digits if unit == "x" else f"{digits} {unit}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.kube_proxy", description=__doc__)
    parser.add_argument("--services", default="1000,5000", help="how many; several, separated by commas")
    parser.add_argument("--changes", type=int, default=USUAL.changes, help="changed endpoints, each proxy")
    parser.add_argument(
        "--limit",
        type=float,
        default=USUAL.limit_s,
        metavar="SECONDS",
        help="of one proxy's changes, or additions",
    )
    parser.add_argument("--markdown", action="store_true", help="print the table of docs/performance.md")
    arguments = parser.parse_args()
    counts = tuple(int(part) for part in arguments.services.split(","))
    measured(
        counts,
        Effort(arguments.changes, limit_s=arguments.limit),
        after_each=lambda found: (
            print(page(found), flush=True)
            if arguments.markdown
            else print_rows("Beside the real kube-proxy", _rows(found))
        ),
    )


if __name__ == "__main__":
    main()
