"""AWS API calls of each operation, counted at the server, beside those that other controllers make.

Counts are exact and do not hang on the machine. Ours are those of a controller: with seals, which a single
pass of the command line does without.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import lbprov_aws
from bench.figures import Row
from lbprov.api import (
    L4Protocol,
    Listener,
    LoadBalancer,
    ObjectKey,
    Owner,
    Provider,
    ProviderContext,
    Target,
)
from lbprov.lab.aws.server import MotoServer
from lbprov.lab.aws.world import AwsWorld
from lbprov.testing.memo import MemoryMemo

WORKERS = 4
RECHECK_S = 600.0

PEERS: Mapping[str, tuple[int, int]] = {
    "new Service, 1 port": (15, 25),
    "new Service, 3 ports": (21, 48),
    "event that changes nothing": (11, 12),
    "node joined, 1 port": (13, 4),
    "node joined, 3 ports": (17, 9),
    "port number changed": (15, 27),
    "deleted, 1 port": (10, 13),
    "deleted, 3 ports": (12, 23),
    "20 Services at once": (262, 464),
    "restart with 20 Services": (222, 293),
}
"""cloud-provider-aws 1.36.2 (NLB) and the AWS Load Balancer Controller 3.5.0, each with a real kube-apiserver
over moto 5.2.5, counted by a proxy: one HTTP request is one call. Warm; the least of several runs."""


class Desk:
    """A provider as a controller has it, and a world of three zones with a node in each."""

    def __init__(self, server: MotoServer) -> None:
        server.reset()
        self.server = server
        self.world = AwsWorld.create(server, nodes=4)
        server.control(reset=True)
        self.now_s = 0.0
        self.memo = MemoryMemo()
        self.restart()

    def restart(self) -> None:
        self.memo.keep()
        values = {o.name: o.parse(o.default) for o in lbprov_aws.SPEC.options}
        context = ProviderContext("bench", values, lambda: self.now_s, recheck_s=RECHECK_S, memo=self.memo)
        self.provider: Provider[Any] = lbprov_aws.SPEC.build(context)

    def desired(self, name: str, ports: int = 1, first_port: int = 80, nodes: int = 3) -> LoadBalancer:
        targets = sorted(self.world.provider_ids.items())[:nodes]
        return LoadBalancer(
            Owner("bench", ObjectKey("default", name), f"uid-{name}"),
            tuple(Listener(first_port + n, L4Protocol.TCP, 30080 + n, f"p{n}") for n in range(ports)),
            tuple(Target(node, id_, zone=self.world.node_zones[node]) for node, id_ in targets),
            created_at="2026-01-01T00:00:00Z",
        )

    def reconcile(self, desired: LoadBalancer, *, delete: bool = False) -> None:
        """As the engine does it: observe, plan, apply, observe; a deletion asks the world in the end."""
        wanted, owner = (None if delete else desired), desired.owner
        plan = self.provider.plan(wanted, self.provider.observe(owner, wanted))
        bindings = dict(plan.bindings)
        for step in plan.steps:
            self.provider.apply(step, bindings)
        if plan.steps or delete:
            observed = self.provider.observe(owner, wanted, fresh=delete)
            assert self.provider.plan(wanted, observed).is_empty

    def all_at_once(self, wanted: Sequence[LoadBalancer]) -> None:
        with ThreadPoolExecutor(WORKERS) as pool:
            list(pool.map(self.reconcile, wanted))

    def count(self) -> int:
        """Calls since this was asked last."""
        count = sum(self.server.calls().values())
        self.server.control(reset=True)
        return count


def measure(server: MotoServer) -> dict[str, int]:
    """Operation -> calls, in the words of `PEERS`."""
    desk, found = Desk(server), {}
    desk.reconcile(desk.desired("other"))
    desk.count()
    for ports, words in ((1, "1 port"), (3, "3 ports")):
        name = f"web-{ports}"
        desk.reconcile(desk.desired(name, ports))
        found[f"new Service, {words}"] = desk.count()
        desk.reconcile(desk.desired(name, ports))
        found["event that changes nothing"] = desk.count()
        desk.reconcile(desk.desired(name, ports, nodes=4))
        found[f"node joined, {words}"] = desk.count()
        desk.reconcile(desk.desired(name, ports))
        found[f"node left, {words}"] = desk.count()
        if ports == 1:
            desk.reconcile(desk.desired(name, first_port=81))
            found["port number changed"] = desk.count()
        desk.reconcile(desk.desired(name, ports), delete=True)
        found[f"deleted, {words}"] = desk.count()
    return found | crowd(server, 20)


def crowd(server: MotoServer, services: int) -> dict[str, int]:
    """What many Services cost together, with `writes at restart` and `re-check` beside the calls."""
    desk = Desk(server)
    server.quotas(load_balancers=services, security_groups=services + 10)
    wanted = [desk.desired(f"web-{n}") for n in range(services)]
    desk.all_at_once(wanted)
    found = {f"{services} Services at once": sum(desk.server.calls().values())}
    desk.server.control(reset=True)
    desk.restart()
    desk.provider.owners()
    desk.all_at_once(wanted)
    found["writes at restart"] = desk.provider.calls().write
    found[f"restart with {services} Services"] = desk.count()
    desk.now_s += RECHECK_S
    desk.provider.owners()
    desk.all_at_once(wanted)
    found[f"re-check of {services} Services"] = desk.count()
    assert desk.provider.calls().write == 0
    return found


def rows(services: int = 200) -> list[Row]:
    with MotoServer() as server:
        os.environ.update(server.environment)
        ours = measure(server)
        many = crowd(server, services)
    table = [_row(what, calls) for what, calls in ours.items() if what in PEERS]
    for what in (f"restart with {services} Services", f"re-check of {services} Services"):
        table.append(Row(what, f"{many[what]} calls, {many[what] / services:.2f} each"))
    return table


def _row(what: str, calls: int) -> Row:
    aws, lbc = PEERS[what]
    least = min(aws, lbc)
    ratio = "none" if not calls else f"{calls / least:.2f}x of the fewer"
    return Row(what, f"{calls} calls", f"cloud-provider-aws {aws}, LB controller {lbc}", ratio)


if __name__ == "__main__":
    from bench.figures import print_rows

    print_rows("AWS calls", rows())
