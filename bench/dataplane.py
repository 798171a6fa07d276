"""The dataplane's tree of chains against the linear layout that kube-proxy's iptables mode has.

Both layouts hold the same Services (two endpoints each) in the same kernel, in a lab node, one after the
other: `python -m bench.dataplane [--services 10000]`. The linear layout is loaded as fast as it can be (in
pieces with iptables-nft, whose single restore of it takes minutes) and changed as kube-proxy does it: the
chain of all Services anew, and the chains of the Service that changed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench import connections
from bench.figures import Row, print_rows
from lbprov.lab import Host, Lab
from lbprov.model import IPFamily, L4Protocol, ObjectKey
from local_dataplane.config import NodeConfig, NodeFacts
from local_dataplane.endpoints import Backend as Endpoint
from local_dataplane.endpoints import Choice
from local_dataplane.iptables.choice import probability
from local_dataplane.iptables.ruleset import Ruleset
from local_dataplane.iptables.trace import Packet, Walker
from local_dataplane.kernel.iptables_command import IptablesCommand, find_programs
from local_dataplane.kernel.seam import Backend
from local_dataplane.kernel.watch import RuleWatch
from local_dataplane.program import FamilyProgram
from local_dataplane.table import PortKey, ServiceState

PODS = "10.244.0.0/16"
ENDPOINTS = (Endpoint("10.244.1.2", 80), Endpoint("10.244.1.3", 80))
CHANGES = 7
PIECE = 200
SMALL = 1000


def rows(services: int = 10_000) -> list[Row]:
    found = [_rules_met(services)]
    for backend in Backend:
        figures = {count: _measure(backend, count) for count in sorted({SMALL, services})}
        for count, (tree, linear) in figures.items():
            where = f"{backend}, {count:,} Services"
            found += [
                _ratio(f"{where}: load all", tree, linear, "load_s", "s", 1.0),
                _ratio(f"{where}: one endpoint changes", tree, linear, "change_s", "ms", 1e3),
                _ratio(f"{where}: one Service is added", tree, linear, "add_s", "ms", 1e3),
                _ratio(f"{where}: connect to the last one", tree, linear, "connect_s", "us", 1e6),
                _ratio(f"{where}: connect elsewhere", tree, linear, "elsewhere_s", "us", 1e6),
            ]
        tree = figures[services][0]
        found.append(
            Row(f"{backend}, {services:,} Services: of a change, Python", f"{tree['python_s'] * 1e3:.2f} ms")
        )
    return found


def _ratio(
    what: str, tree: dict[str, float], linear: dict[str, float], key: str, unit: str, scale: float
) -> Row:
    ours, theirs = tree[key] * scale, linear[key] * scale
    return Row(what, f"{ours:.3g} {unit}", f"linear {theirs:.3g} {unit}", f"{theirs / ours:.1f}x")


def _rules_met(services: int) -> Row:
    """By the first packet of a connection to the last Service, from any chain it passes."""
    states = _states(services)
    rules = Ruleset(IPFamily.IPV4, NodeConfig((PODS,)), NodeFacts("node-1"))
    rules.replace([(s.key, s) for s in states])
    walker = Walker(rules.chains)
    met = max(
        way.rules_met
        for s in states[::97] + states[-1:]
        for way in walker.ways(Packet("10.244.9.9", s.cluster_ip, 80))
    )
    linear = services + 6  # the Service's rule, masquerade, two to choose by, two of the endpoint, the jump
    return Row(
        f"rules met, {services:,} Services",
        f"{met} (most)",
        f"linear {linear:,} (last)",
        f"{linear / met:.0f}x fewer",
    )


def _measure(backend: Backend, count: int) -> tuple[dict[str, float], dict[str, float]]:
    with Lab.open() as lab:
        node = lab.add_node("node-1")
        servers = [lab.add_pod(f"web-{i}", node) for i in (1, 2)]
        client = lab.add_pod("client", node)
        for server in servers:
            connections.serve(server)
        found = []
        for layout in ("tree", "linear"):
            figures = _inside(node, layout, backend, count)
            last = _states(count)[-1].cluster_ip
            figures["connect_s"], figures["elsewhere_s"] = (
                connections.connect(client, last).p50_s,
                connections.connect(client, servers[0].ipv4).p50_s,
            )
            found.append(figures)
            node.run(
                [
                    "sh",
                    "-c",
                    f"for t in nat filter; do iptables-{backend} -t $t -F; iptables-{backend} -t $t -X; done",
                ]
            )
    return found[0], found[1]


def _inside(node: Host, layout: str, backend: Backend, count: int) -> dict[str, float]:
    done = node.run(
        [sys.executable, str(Path(__file__)), "--inside", layout, backend, str(count)], timeout_s=170
    )
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


# ── in the node ──


def _states(count: int) -> list[ServiceState]:
    choice = Choice(ENDPOINTS, (), ENDPOINTS)
    return [
        ServiceState(
            PortKey(ObjectKey("default", f"svc-{n}"), "http", L4Protocol.TCP, IPFamily.IPV4),
            80,
            # Scattered over 10.96.0.0/12, as allocation at random scatters them.
            f"10.{96 + (n * 7919 >> 16 & 15)}.{n * 7919 >> 8 & 255}.{n * 7919 & 255}",
            choice,
        )
        for n in range(1, count + 1)
    ]


def _inside_tree(iptables: IptablesCommand, states: list[ServiceState]) -> dict[str, float]:
    program = FamilyProgram(
        iptables, Ruleset(IPFamily.IPV4, NodeConfig((PODS,)), NodeFacts("node-1")), RuleWatch()
    )
    extra = _states(len(states) + CHANGES)[len(states) :]
    load_s = _time(lambda: program.apply({s.key: s for s in states}))
    middle = states[len(states) // 2]
    changes, python = [], []
    for n in range(CHANGES):
        choice = Choice((ENDPOINTS[n % 2],))
        state = ServiceState(middle.key, middle.port, middle.cluster_ip, choice)
        spent = [0.0]
        restore = IptablesCommand.restore

        def timed(
            self: IptablesCommand, text: str, spent: list[float] = spent, restore: Any = restore
        ) -> None:
            spent[0] += _time(lambda: restore(self, text))

        IptablesCommand.restore = timed  # type: ignore[method-assign]
        whole = _time(lambda s=state: program.apply({s.key: s}))
        IptablesCommand.restore = restore  # type: ignore[method-assign]
        changes.append(whole)
        python.append(whole - spent[0])
    added = [_time(lambda s=s: program.apply({s.key: s})) for s in extra]
    program.apply({**dict.fromkeys(s.key for s in extra), **{middle.key: middle}})
    return {
        "load_s": load_s,
        "change_s": statistics.median(changes),
        "python_s": statistics.median(python),
        "add_s": statistics.median(added),
    }


def _inside_linear(iptables: IptablesCommand, states: list[ServiceState]) -> dict[str, float]:
    extra = _states(len(states) + CHANGES)[len(states) :]
    piece = PIECE if iptables.backend is Backend.NFT else len(states)
    dispatch: list[str] = []

    def load() -> None:
        iptables.restore("*nat\n:LIN-MASQ - [0:0]\n-A LIN-MASQ -j MARK --set-xmark 0x4000/0x4000\nCOMMIT\n")
        for i in range(0, len(states), piece):
            chains, rules = _linear_text(states[i : i + piece])
            iptables.restore(f"*nat\n{chains}{rules}COMMIT\n")
        dispatch.extend(_dispatch(s) for s in states)
        jump = "".join(f"-A {chain} -j LIN-SERVICES\n" for chain in ("PREROUTING", "OUTPUT"))
        iptables.restore(f"*nat\n:LIN-SERVICES - [0:0]\n{''.join(dispatch)}{jump}COMMIT\n")

    def sync(changed: Iterable[ServiceState], lines: list[str]) -> None:
        chains, rules = _linear_text(changed)
        iptables.restore(f"*nat\n:LIN-SERVICES - [0:0]\n{chains}{rules}{''.join(lines)}COMMIT\n")

    load_s = _time(load)
    middle = states[len(states) // 2]
    changes = [_time(lambda: sync([middle], dispatch)) for _ in range(CHANGES)]
    added = []
    for n in range(1, CHANGES + 1):
        lines = dispatch + [_dispatch(s) for s in extra[:n]]
        added.append(_time(lambda n=n, lines=lines: sync([extra[n - 1]], lines)))
    sync([], dispatch)
    return {"load_s": load_s, "change_s": statistics.median(changes), "add_s": statistics.median(added)}


def _dispatch(state: ServiceState) -> str:
    return (
        f"-A LIN-SERVICES -d {state.cluster_ip}/32 -p tcp -m comment --comment {state.key.service.name} "
        f"-m tcp --dport {state.port} -j LIN-{state.key.service.name}\n"
    )


def _linear_text(states: Iterable[ServiceState]) -> tuple[str, str]:
    """The chains of these Services, one each and one per endpoint, and their rules."""
    chains, rules = [], []
    for state in states:
        name, backends = f"LIN-{state.key.service.name}", state.choice.cluster
        chains += [f":{name} - [0:0]\n", *(f":{name}-{i} - [0:0]\n" for i in range(len(backends)))]
        rules.append(f"-A {name} ! -s {PODS} -d {state.cluster_ip}/32 -p tcp -m tcp --dport 80 -j LIN-MASQ\n")
        for i, backend in enumerate(backends):
            left = len(backends) - i
            chance = f"-m statistic --mode random --probability {probability(1, left)} " if left > 1 else ""
            rules.append(f"-A {name} {chance}-j {name}-{i}\n")
            rules.append(f"-A {name}-{i} -s {backend.address}/32 -j LIN-MASQ\n")
            rules.append(
                f"-A {name}-{i} -p tcp -m tcp -j DNAT --to-destination {backend.address}:{backend.port}\n"
            )
    return "".join(chains), "".join(rules)


def _time(work: Any) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--services", type=int, default=10_000)
    parser.add_argument(
        "--inside", nargs=3, metavar=("LAYOUT", "BACKEND", "SERVICES"), help=argparse.SUPPRESS
    )
    arguments = parser.parse_args()
    if not arguments.inside:
        print_rows("Dataplane, iptables", rows(arguments.services))
        return
    layout, backend, count = arguments.inside
    iptables = IptablesCommand(find_programs(IPFamily.IPV4)[Backend(backend)], ahead=True)
    work = _inside_tree if layout == "tree" else _inside_linear
    print(json.dumps(work(iptables, _states(int(count)))))


if __name__ == "__main__":
    main()
