"""Any history of a cluster, with crashes anywhere in it, ends in the world that its Services ask for."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lbprov.api import ObjectKey, ProviderContext
from lbprov.controller.one_pass import Pass
from lbprov.controller.reconcile import Reconciler
from lbprov.logic.selection import FINALIZER
from lbprov.model import Node, Result, Service, ServicePort, ServiceType
from lbprov.testing.clock import FakeClock
from lbprov.testing.cluster import MemoryCluster
from lbprov.testing.harness import SimulatedCrash
from lbprov.testing.memory import MemoryProvider, spec_for
from lbprov.testing.memory_world import MemoryWorld

NAMES = st.sampled_from(["a", "b", "c"])
PORTS = st.lists(st.integers(1, 3), min_size=1, max_size=3, unique=True).map(
    lambda numbers: tuple(ServicePort(80 + n, name=f"p{n}", node_port=30080 + n) for n in numbers)
)


@dataclass(frozen=True)
class Put:
    """Make the Service, or change it."""

    name: str
    ports: tuple[ServicePort, ...]
    type: ServiceType
    ip: str


@dataclass(frozen=True)
class Delete:
    name: str


@dataclass(frozen=True)
class ForceDelete:
    """Somebody takes the finalizer off; the name may be given to another Service then."""

    name: str


@dataclass(frozen=True)
class Nodes:
    count: int


@dataclass(frozen=True)
class Damage:
    """Somebody deletes a listener or target by hand."""


@dataclass(frozen=True)
class Reconcile:
    """A new process makes a pass; it dies at the `crash_at`-th write to the world, if it makes as many."""

    crash_at: int
    when: str


ACTIONS = st.one_of(
    st.builds(
        Put,
        NAMES,
        PORTS,
        st.sampled_from([ServiceType.LOAD_BALANCER, ServiceType.LOAD_BALANCER, ServiceType.CLUSTER_IP]),
        st.sampled_from(["", "", "198.51.100.1", "203.0.113.1"]),
    ),
    st.builds(Delete, NAMES),
    st.builds(ForceDelete, NAMES),
    st.builds(Nodes, st.integers(0, 3)),
    st.builds(Damage),
    st.builds(Reconcile, st.integers(1, 15), st.sampled_from(["before", "after"])),
)


class History:
    def __init__(self, deletion_s: float) -> None:
        self.clock = FakeClock()
        self.world = MemoryWorld(self.clock.now_s, deletion_s)
        self.cluster = MemoryCluster(nodes=[Node("node-1")], clock=self.clock)

    def act(self, action: object) -> None:
        match action:
            case Put(name, ports, type_, ip):
                key = ObjectKey("default", name)
                if key in self.cluster and self.cluster.get(key).deleted_at:
                    return
                self.cluster.put(Service(key, "", type=type_, ports=ports, load_balancer_ip=ip))
            case Delete(name) if (key := ObjectKey("default", name)) in self.cluster:
                self.cluster.delete(key)
            case ForceDelete(name) if (key := ObjectKey("default", name)) in self.cluster:
                self.cluster.remove_finalizer(key, FINALIZER)
                if key in self.cluster:
                    self.cluster.delete(key)
            case Nodes(count):
                self.cluster.nodes = tuple(Node(f"node-{n}") for n in range(count))
            case Damage():
                parts = [i for i, r in self.world.resources.items() if r.name.kind != "frontend"]
                if parts:
                    self.world.delete(parts[0])
            case Reconcile(crash_at, when):
                self.reconcile(crash_at, when)

    def reconcile(self, crash_at: int = 0, when: str = "") -> None:
        first = self.world.writes

        def die(operation: str, number: int, moment: str) -> None:
            if (number - first, moment) == (crash_at, when):
                raise SimulatedCrash(operation)

        self.world.on_write = die
        provider = MemoryProvider(ProviderContext("test", {}, self.clock.now_s), self.world)
        engine = Reconciler(self.cluster, provider, spec_for(self.world), own_classless=True)
        # One worker: a crash in a thread would let the others live on, which a killed process does not.
        pass_ = Pass(self.cluster, provider, engine, self.clock, threading.Event(), workers=1, wait_s=600.0)
        try:
            self.result = pass_.run()
        except SimulatedCrash:
            pass
        finally:
            self.world.on_write = None


def _is(world: MemoryWorld) -> set[tuple[str, ...]]:
    return {
        (r.owner.service.name, r.owner.uid, r.name.kind, r.name.detail, str(r.node_port))
        for r in world.resources.values()
    }


def _should_be(cluster: MemoryCluster) -> set[tuple[str, ...]]:
    snapshot = cluster.snapshot()
    wanted: set[tuple[str, ...]] = set()
    for service in snapshot.services:
        if service.type is ServiceType.LOAD_BALANCER:
            mine = (service.key.name, service.uid)
            wanted.add((*mine, "frontend", "", "0"))
            wanted |= {(*mine, "target", node.name, "0") for node in snapshot.nodes}
            wanted |= {(*mine, "listener", str(p), str(p.node_port)) for p in service.ports}
    return wanted


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(ACTIONS, max_size=14), st.sampled_from([0.0, 20.0]))
def test_every_history_ends_well(actions: list[object], deletion_s: float) -> None:
    history = History(deletion_s)
    for action in actions:
        history.act(action)
    history.reconcile()
    orphaned = {o.uid for o in history.result.orphans}
    assert {r for r in _is(history.world) if r[1] not in orphaned} == _should_be(history.cluster)
    assert all(o.result is not Result.FAILED for o in history.result.outcomes)
    services = history.cluster.snapshot().services
    assert not any(s.deleted_at for s in services)
    for service in services:
        wants = service.type is ServiceType.LOAD_BALANCER
        assert (FINALIZER in service.finalizers) is wants
        assert bool(service.ingress) is wants
        assert bool(service.conditions) is wants
    addresses = {s.ingress[0].ip for s in services if s.ingress}
    assert addresses == {r.address for r in history.world.resources.values() if r.address} - {
        r.address for r in history.world.resources.values() if r.owner.uid in orphaned
    }
    writes, told = history.world.writes, len(history.cluster.writes)
    history.reconcile()
    assert (history.world.writes, len(history.cluster.writes)) == (writes, told)
    assert {o.result for o in history.result.outcomes} <= {Result.UNCHANGED}
