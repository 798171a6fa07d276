"""The dataplane's nftables mode beside its iptables mode and beside a ruleset that only tracks connections.

All in one kernel, in a lab node, one after the other: `python -m bench.dataplane_nftables [--services N]`.
"Event to applied" is from a changed EndpointSlice in hand to the kernel's answer: decided, rendered, written.
Connections are timed in turns, with our table and without, so that the machine's moods fall on both.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from bench import connections
from bench.connections import Cost
from bench.figures import Row, print_rows
from lbprov.lab import Host, Lab
from lbprov.model import Endpoint, EndpointPort, EndpointSlice, IPFamily, ObjectKey, Service, ServicePort
from local_dataplane.config import NodeConfig, NodeFacts
from local_dataplane.iptables.ruleset import Ruleset as IptablesRuleset
from local_dataplane.kernel.iptables_command import IptablesCommand, find_programs
from local_dataplane.kernel.nft_socket import KernelNftables
from local_dataplane.kernel.nft_watch import NftWatch
from local_dataplane.kernel.seam import Backend
from local_dataplane.kernel.watch import RuleWatch
from local_dataplane.mode import Program
from local_dataplane.nftables.objects import DeleteTable
from local_dataplane.nftables.program import NftablesProgram
from local_dataplane.nftables.ruleset import Ruleset
from local_dataplane.program import FamilyProgram
from local_dataplane.table import TableBuilder

PODS = ("10.244.1.2", "10.244.1.3")
NODE = NodeFacts("node-1")
CONFIG = NodeConfig(("10.244.0.0/16",))
CHANGES = {"nftables": 400, "iptables": 15}
ROUNDS = 7
COUNTS = (1000, 10_000)
EMPTY = """
table ip empty {
  chain nat { type nat hook prerouting priority -100; }
  chain filter {
    type filter hook forward priority 0;
    ct state invalid drop
  }
}
"""
"""Tracks connections and does nothing else; without a rule that asks for it the kernel does not."""
ONE_RULE = """
table ip one {{
  chain nat {{
    type nat hook prerouting priority -105;
    ip daddr {vip} tcp dport 80 dnat to {pod}
  }}
}}
"""


def rows(services: int = 10_000) -> list[Row]:
    found = []
    for count in sorted({COUNTS[0], services}):
        with Lab.open() as lab:
            node = lab.add_node("node-1")
            servers = [lab.add_pod(f"web-{i}", node) for i in (1, 2)]
            client = lab.add_pod("client", node)
            for server in servers:
                connections.serve(server)
            node.run(["nft", "-f", "-"], input=EMPTY)
            modes = {mode: _inside(node, "measure", mode, count) for mode in ("iptables", "nftables")}
            found += _control_rows(count, modes["nftables"], modes["iptables"])
            found += _packet_rows(count, _connects(node, client, servers[0].ipv4, count))
    return found


def _control_rows(count: int, ours: dict[str, float], iptables: dict[str, float]) -> list[Row]:
    where = f"{count:,} Services"
    what = {
        "load_s": "load all",
        "change_p50_s": "an endpoint changes, event to applied, p50",
        "change_p99_s": "… p99",
        "size_p50_s": "an endpoint more or less, event to applied, p50",
        "size_p99_s": "… p99",
        "add_p50_s": "a Service is added, event to applied, p50",
        "restart_s": "start with all rules in place",
    }
    return [
        Row(
            f"{where}: {name}",
            f"{ours[key] * 1e3:.3g} ms",
            f"iptables mode {iptables[key] * 1e3:.3g} ms",
            f"{iptables[key] / ours[key]:.0f}x",
        )
        for key, name in what.items()
    ]


def _packet_rows(count: int, costs: dict[str, list[Cost]]) -> list[Row]:
    base = statistics.median(cost.p10_s for cost in costs["empty"]) * 1e6
    return [
        Row(
            f"{count:,} Services: connect {name}",
            f"{statistics.median(cost.p10_s for cost in costs[way]) * 1e6:.1f} us",
            f"conntrack alone {base:.1f} us",
            f"{connections.ratio(costs[way], costs['empty'], lambda c: c.p10_s):.3f}",
        )
        for way, name in (
            ("one rule", "by one rule that translates, the least there is"),
            ("last", "to the last one"),
            ("elsewhere", "elsewhere"),
        )
    ]


def _connects(node: Host, client: Host, pod: str, count: int) -> dict[str, list[Cost]]:
    """Without our table, with one rule in its place, with it to the last Service, and to no Service."""
    vip = _service(count).cluster_ips[0]

    def one_rule() -> Cost:
        node.run(["nft", "-f", "-"], input=ONE_RULE.format(vip=vip, pod=pod))
        cost = connections.connect(client, vip)
        node.run(["nft", "delete", "table", "ip", "one"])
        _inside(node, "load", "nftables", count)
        return cost

    def elsewhere() -> Cost:
        cost = connections.connect(client, pod)
        node.run(["nft", "delete", "table", "ip", "lbprov"])
        return cost

    ways = {
        "empty": lambda: connections.connect(client, pod),
        "one rule": one_rule,
        "last": lambda: connections.connect(client, vip),
        "elsewhere": elsewhere,
    }
    return connections.in_turns(ways, ROUNDS)


def _inside(node: Host, what: str, mode: str, count: int) -> dict[str, float]:
    words = [sys.executable, str(Path(__file__)), "--inside", what, mode, str(count)]
    figures: dict[str, float] = json.loads(node.run(words, timeout_s=170).stdout)
    return figures


# ── in the node ──


def _service(n: int) -> Service:
    # Scattered over 10.96.0.0/12, as allocation at random scatters them.
    vip = f"10.{96 + (n * 7919 >> 16 & 15)}.{n * 7919 >> 8 & 255}.{n * 7919 & 255}"
    return Service(ObjectKey("default", f"svc-{n}"), f"svc-{n}", ports=(ServicePort(80),), cluster_ips=(vip,))


def _slice(n: int, *pods: str) -> EndpointSlice:
    endpoints = tuple(Endpoint((pod,), "node-1") for pod in pods)
    key = ObjectKey("default", f"svc-{n}-abcde")
    return EndpointSlice(key, f"svc-{n}", IPFamily.IPV4, (EndpointPort(80),), endpoints)


class _Node:
    """The path of a change through the agent, without its waiting."""

    def __init__(self, mode: str) -> None:
        self._builder = TableBuilder()
        self.program = _program(mode)

    def load(self, count: int) -> None:
        services = [_service(n) for n in range(1, count + 1)]
        slices = [_slice(n, *PODS) for n in range(1, count + 1)]
        self.program.apply(self._builder.update(services, slices, NODE))

    def put(self, n: int, *pods: str) -> None:
        self.program.apply(self._builder.set_service(_service(n), (_slice(n, *pods),), NODE))


def _program(mode: str) -> Program:
    if mode == "nftables":
        kernel = KernelNftables(IPFamily.IPV4)
        return NftablesProgram(kernel, Ruleset(IPFamily.IPV4, CONFIG, NODE), NftWatch())
    iptables = IptablesCommand(find_programs(IPFamily.IPV4)[Backend.NFT], ahead=True)
    return FamilyProgram(iptables, IptablesRuleset(IPFamily.IPV4, CONFIG, NODE), RuleWatch())


def _measure(mode: str, count: int) -> dict[str, float]:
    node = _Node(mode)
    load_s = _time(lambda: node.load(count))
    middle, changes = count // 2, range(CHANGES[mode])
    change = [_time(partial(node.put, middle, PODS[0], f"10.244.2.{i % 250 + 1}")) for i in changes]
    size = [_time(partial(node.put, middle, *PODS[: 1 + i % 2])) for i in changes]
    added = [_time(partial(node.put, count + 1 + i, *PODS)) for i in changes]
    begin = time.perf_counter()
    again = _Node(mode)
    again.load(count)
    restart_s = time.perf_counter() - begin
    _remove(mode)
    return {
        "load_s": load_s,
        "change_p50_s": statistics.median(change),
        "change_p99_s": _p99(change),
        "size_p50_s": statistics.median(size),
        "size_p99_s": _p99(size),
        "add_p50_s": statistics.median(added),
        "restart_s": restart_s,
    }


def _p99(times: list[float]) -> float:
    return sorted(times)[int(len(times) * 0.99)]


def _remove(mode: str) -> None:
    if mode == "nftables":
        KernelNftables(IPFamily.IPV4).commit([[DeleteTable()]])
    else:
        for table in ("nat", "filter"):
            for word in ("-F", "-X"):
                subprocess.run(["iptables-nft", "-t", table, word], check=True)


def _time(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--services", type=int, default=10_000)
    parser.add_argument("--inside", nargs=3, metavar=("WHAT", "MODE", "SERVICES"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.inside:
        print_rows("Dataplane, nftables", rows(arguments.services))
        return
    what, mode, count = arguments.inside
    if what == "measure":
        print(json.dumps(_measure(mode, int(count))))
    else:
        _Node(mode).load(int(count))
        print("{}")


if __name__ == "__main__":
    main()
