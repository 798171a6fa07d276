"""One Service carried through: every path on a real little world and a real little cluster."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from lbprov.api import (
    Bindings,
    LoadBalancer,
    Notice,
    ObjectKey,
    Owner,
    Plan,
    ProviderContext,
    ProviderError,
    ProviderStatus,
    RetryLater,
    Severity,
    Step,
    UserError,
)
from lbprov.controller.reconcile import Reconciler
from lbprov.logic.nodes import targets_of
from lbprov.logic.selection import CLAIM, FINALIZER
from lbprov.model import Ingress, IPMode, Node, Outcome, Result, Service, ServicePort, ServiceType
from lbprov.testing.clock import FakeClock
from lbprov.testing.cluster import MemoryCluster
from lbprov.testing.harness import SimulatedCrash
from lbprov.testing.memory import MemoryProvider, spec_for
from lbprov.testing.memory_plan import Observed
from lbprov.testing.memory_world import MemoryWorld

KEY = ObjectKey("default", "web")
CLASS = "lbprov.io/memory"
SERVICE = Service(
    KEY,
    "",
    type=ServiceType.LOAD_BALANCER,
    ports=(ServicePort(80, node_port=30080),),
    load_balancer_class=CLASS,
)


class Bench:
    """A cluster, a world and an engine between the two."""

    def __init__(self, make: Callable[..., Any] = MemoryProvider, deletion_s: float = 0.0) -> None:
        self.clock = FakeClock()
        self.world = MemoryWorld(self.clock.now_s, deletion_s)
        self.cluster = MemoryCluster(nodes=[Node("node-1"), Node("node-2")])
        self.make = make
        self.restart()

    def restart(self, **options: Any) -> None:
        """A new process: nothing cached."""
        context = ProviderContext("test", {}, self.clock.now_s, read_only=options.get("dry_run", False))
        self.provider = self.make(context, self.world)
        self.engine = Reconciler(self.cluster, self.provider, spec_for(self.world), **options)

    def run(self, key: ObjectKey = KEY, **arguments: Any) -> Outcome | None:
        targets = targets_of(self.cluster.nodes)
        return self.engine.reconcile(self.cluster.get(key), targets, **arguments)

    def outcome(self, key: ObjectKey = KEY, **arguments: Any) -> Outcome:
        outcome = self.run(key, **arguments)
        assert outcome is not None
        return outcome

    def reasons(self, key: ObjectKey = KEY) -> list[str]:
        return [event.reason for about, event in self.cluster.events if about == key]

    def condition(self, topic: str) -> tuple[str, str]:
        condition = self.cluster.get(KEY).condition(f"lbprov.io/{topic}")
        assert condition is not None
        return condition.status, condition.reason

    @property
    def kinds(self) -> list[str]:
        return sorted(r.name.kind for r in self.world.resources.values())


ALL = ["frontend", "listener", "target", "target"]


def test_created_then_unchanged_without_a_write_or_a_call() -> None:
    bench = Bench()
    bench.cluster.put(SERVICE)
    made = bench.outcome()
    assert (made.result, made.ingress) == (Result.CREATED, (Ingress("198.18.0.1", ip_mode=IPMode.PROXY),))
    assert bench.kinds == ALL
    assert [e.reason for e in made.events] == ["EnsuringLoadBalancer", "EnsuredLoadBalancer"]
    assert bench.reasons() == ["EnsuringLoadBalancer", "EnsuredLoadBalancer"]
    assert bench.condition("Ready") == ("True", "EnsuredLoadBalancer")
    assert bench.cluster.get(KEY).ingress == made.ingress
    before, reads = list(bench.cluster.writes), bench.world.reads
    again = bench.outcome()
    assert (again.result, again.events, again.ingress) == (Result.UNCHANGED, (), made.ingress)
    assert (bench.cluster.writes, bench.world.reads) == (before, reads)


def test_claim_and_finalizer_are_durable_before_the_first_write_to_the_world() -> None:
    bench = Bench()
    bench.cluster.put(SERVICE)
    seen: list[tuple[bool, bool]] = []

    def look(operation: str, number: int, when: str) -> None:
        service = bench.cluster.get(KEY)
        seen.append((service.condition(CLAIM) is not None, FINALIZER in service.finalizers))

    bench.world.on_write = look
    bench.outcome()
    assert set(seen) == {(True, True)}
    assert bench.cluster.writes[:2] == [f"record_status {KEY}", f"add_finalizer {KEY}"]


def test_a_changed_port_is_that_change_only() -> None:
    bench = Bench()
    bench.cluster.put(SERVICE)
    bench.outcome()
    bench.cluster.put(replace(SERVICE, ports=(ServicePort(80, node_port=31080),)))
    changed = bench.outcome()
    assert changed.result is Result.UPDATED
    assert changed.plan is not None
    assert [(s.action, s.kind) for s in changed.plan.steps] == [("update", "listener")]
    assert bench.condition("Ready") == ("True", "EnsuredLoadBalancer")


def test_deleted_leaves_nothing_and_lets_the_service_go() -> None:
    bench = Bench()
    bench.cluster.put(SERVICE)
    bench.outcome()
    bench.cluster.delete(KEY)
    gone = bench.outcome()
    assert (gone.result, gone.ingress) == (Result.DELETED, ())
    assert [e.reason for e in gone.events] == ["DeletingLoadBalancer", "DeletedLoadBalancer"]
    assert bench.kinds == []
    assert KEY not in bench.cluster


@pytest.mark.parametrize("load_balancer_class", [CLASS, None])
def test_type_changes_both_ways(load_balancer_class: str | None) -> None:
    bench = Bench()
    bench.restart(own_classless=True)
    service = replace(SERVICE, load_balancer_class=load_balancer_class)
    bench.cluster.put(service)
    assert bench.outcome().result is Result.CREATED
    bench.cluster.put(replace(service, type=ServiceType.CLUSTER_IP, load_balancer_class=None))
    assert bench.outcome().result is Result.DELETED
    left = bench.cluster.get(KEY)
    assert (left.ingress, left.conditions, left.finalizers) == ((), (), ())
    assert bench.kinds == []
    assert bench.run() is None
    bench.cluster.put(service)
    assert bench.outcome().result is Result.CREATED
    assert bench.kinds == ALL


def test_a_foreign_service_is_not_looked_at() -> None:
    bench = Bench()
    bench.cluster.put(replace(SERVICE, load_balancer_class="example.com/other"))
    assert bench.run() is None
    assert (bench.cluster.writes, bench.world.reads, bench.cluster.events) == ([], 0, [])


def test_a_new_uid_under_an_old_name_first_loses_the_old_load_balancer() -> None:
    bench = Bench()
    bench.cluster.put(SERVICE)
    bench.outcome()
    old = bench.cluster.get(KEY)
    bench.cluster.remove_finalizer(KEY, FINALIZER)  # somebody forces the deletion
    bench.cluster.delete(KEY)
    bench.cluster.put(SERVICE)
    new = bench.cluster.get(KEY)
    assert new.uid != old.uid
    order: list[str] = []
    bench.world.on_write = lambda operation, number, when: order.append(operation)
    made = bench.outcome(former=[Owner("test", KEY, old.uid)])
    assert made.result is Result.CREATED
    assert order.index("create frontend") > max(i for i, o in enumerate(order) if o == "delete")
    assert {r.owner.uid for r in bench.world.resources.values()} == {new.uid}
    assert made.plan is not None
    assert [s.action for s in made.plan.steps] == ["delete"] * 4 + ["create"] * 4


def test_what_takes_time_is_pending_and_told_once() -> None:
    bench = Bench(deletion_s=30.0)
    bench.cluster.put(SERVICE)
    bench.outcome()
    bench.cluster.delete(KEY)
    first = bench.outcome()
    assert first.result is Result.PENDING
    assert first.retry_after_s
    assert "frontend" in first.message
    assert bench.condition("Ready") == ("False", "DeletingLoadBalancer")
    assert bench.outcome().result is Result.PENDING
    assert FINALIZER in bench.cluster.get(KEY).finalizers
    bench.clock.advance(31.0)
    assert bench.outcome().result is Result.DELETED
    assert bench.reasons().count("DeletingLoadBalancer") == 1
    assert bench.reasons()[-1] == "DeletedLoadBalancer"


def test_requested_address_honoured_and_fallen_back() -> None:
    bench = Bench()
    bench.cluster.put(replace(SERVICE, load_balancer_ip="198.51.100.3"))
    made = bench.outcome()
    assert [i.ip for i in made.ingress] == ["198.51.100.3"]
    assert bench.condition("RequestedIP") == ("True", "LoadBalancerIPAssigned")

    other = ObjectKey("default", "late")
    bench.cluster.put(replace(SERVICE, key=other, load_balancer_ip="198.51.100.3"))
    late = bench.outcome(other)
    assert late.result is Result.CREATED
    assert [i.ip for i in late.ingress] == ["198.18.0.1"]
    assert [(e.severity, e.reason) for e in late.events] == [
        ("Normal", "EnsuringLoadBalancer"),
        ("Warning", "LoadBalancerIPInUse"),
        ("Normal", "EnsuredLoadBalancer"),
    ]
    assert "default/web" in late.events[1].message
    again = bench.outcome(other)
    assert (again.result, again.events) == (Result.UNCHANGED, ())


def test_a_required_address_that_cannot_be_had_is_a_failure_told_once() -> None:
    bench = Bench()
    bench.cluster.put(
        replace(SERVICE, load_balancer_ip="203.0.113.3", annotations={"lbprov.io/ip-policy": "require"})
    )
    failed = bench.outcome()
    assert (failed.result, failed.retry_after_s) == (Result.FAILED, None)
    assert [e.reason for e in failed.events] == ["LoadBalancerIPNotFound"]
    assert bench.condition("Ready") == ("False", "LoadBalancerIPNotFound")
    assert bench.kinds == []
    assert FINALIZER not in bench.cluster.get(KEY).finalizers
    again = bench.outcome()
    assert (again.result, again.events) == (Result.FAILED, ())
    assert again.message == failed.message
    bench.cluster.put(replace(SERVICE, type=ServiceType.CLUSTER_IP, load_balancer_class=None))
    assert bench.run() is None
    assert bench.cluster.get(KEY).conditions == ()


def test_a_bad_change_keeps_the_load_balancer_and_its_status() -> None:
    bench = Bench()
    bench.cluster.put(SERVICE)
    made = bench.outcome()
    bench.cluster.put(replace(SERVICE, ports=(ServicePort(80),), allocate_node_ports=False))
    failed = bench.outcome()
    assert failed.result is Result.FAILED
    assert failed.ingress == made.ingress == bench.cluster.get(KEY).ingress
    assert bench.kinds == ALL
    bench.cluster.put(SERVICE)
    assert bench.outcome().result is Result.UNCHANGED
    assert bench.condition("Ready") == ("True", "EnsuredLoadBalancer")


def test_no_nodes_is_an_event_and_a_load_balancer_that_waits_for_them() -> None:
    bench = Bench()
    bench.cluster.nodes = ()
    bench.cluster.put(SERVICE)
    made = bench.outcome()
    assert made.result is Result.CREATED
    assert bench.kinds == ["frontend", "listener"]
    assert "UnAvailableLoadBalancer" in bench.reasons()
    assert bench.condition("Nodes") == ("False", "UnAvailableLoadBalancer")
    assert bench.outcome().events == ()
    bench.cluster.nodes = (Node("node-1"),)
    assert bench.outcome().result is Result.UPDATED
    assert bench.cluster.get(KEY).condition("lbprov.io/Nodes") is None


class Refusing(MemoryProvider):
    """Raises what it is told to, in the method it is told to, while `error` is set."""

    error: Exception | None = None
    where = "apply"

    def _maybe(self, where: str) -> None:
        if self.error is not None and self.where == where:
            raise self.error

    def observe(self, owner: Owner, desired: LoadBalancer | None, *, fresh: bool = False) -> Observed:
        self._maybe("observe")
        return super().observe(owner, desired, fresh=fresh)

    def plan(self, desired: LoadBalancer | None, observed: Observed) -> Plan:
        self._maybe("plan")
        return super().plan(desired, observed)

    def apply(self, step: Step, bindings: Bindings) -> None:
        if step.kind == "listener":
            self._maybe("apply")
        super().apply(step, bindings)

    def status(self, desired: LoadBalancer, observed: Observed) -> ProviderStatus:
        self._maybe("status")
        return super().status(desired, observed)


@pytest.mark.parametrize("where", ["observe", "plan", "apply", "status"])
@pytest.mark.parametrize(
    ("error", "result", "retry_after_s", "reason"),
    [
        pytest.param(RetryLater("busy", 7.5), "pending", 7.5, "WaitingForLoadBalancer", id="later"),
        pytest.param(
            UserError("no such zone", reason="BadZone"), "failed", None, "BadZone", id="the-user-must-act"
        ),
        pytest.param(ProviderError("throttled"), "failed", 5.0, "SyncLoadBalancerFailed", id="refused"),
        pytest.param(
            ProviderError("forbidden", retryable=False),
            "failed",
            300.0,
            "SyncLoadBalancerFailed",
            id="hopeless",
        ),
        pytest.param(
            ProviderError("no credit", retryable=False, reason="QuotaReached"),
            "failed",
            300.0,
            "QuotaReached",
            id="hopeless, by a name of the provider's",
        ),
        pytest.param(ZeroDivisionError("oops"), "failed", 5.0, "SyncLoadBalancerFailed", id="bug"),
    ],
)
def test_errors_by_what_the_caller_does_next(
    where: str, error: Exception, result: str, retry_after_s: float | None, reason: str
) -> None:
    bench = Bench(Refusing)
    bench.cluster.put(SERVICE)
    bench.provider.error, bench.provider.where = error, where
    outcome = bench.outcome()
    assert (outcome.result, outcome.retry_after_s) == (result, retry_after_s)
    assert str(error) in outcome.message
    assert bench.condition("Ready") == ("False", reason)
    warnings = [e for e in outcome.events if e.severity is Severity.WARNING]
    assert [e.reason for e in warnings] == ([] if result == "pending" else [reason])
    told = len(bench.cluster.events)
    bench.outcome()
    assert [e for _, e in bench.cluster.events[told:] if e.severity is Severity.WARNING] == []
    bench.provider.error = None
    assert bench.outcome().result is Result.CREATED
    assert bench.kinds == ALL
    assert bench.condition("Ready") == ("True", "EnsuredLoadBalancer")


@pytest.mark.parametrize(
    "error", [RetryLater("busy", 3.0), ProviderError("throttled"), ZeroDivisionError("oops")], ids=repr
)
def test_a_deletion_that_fails_keeps_the_finalizer(error: Exception) -> None:
    bench = Bench(Refusing)
    bench.cluster.put(SERVICE)
    bench.outcome()
    bench.cluster.delete(KEY)
    bench.provider.error = error
    outcome = bench.outcome()
    assert outcome.result in (Result.PENDING, Result.FAILED)
    assert FINALIZER in bench.cluster.get(KEY).finalizers
    if outcome.result is Result.FAILED:
        assert bench.reasons()[-1] == "DeleteLoadBalancerFailed"
    bench.provider.error = None
    assert bench.outcome().result is Result.DELETED
    assert bench.kinds == []
    assert KEY not in bench.cluster


def test_a_ready_service_stays_ready_while_the_world_needs_time() -> None:
    bench = Bench(Refusing)
    bench.cluster.put(SERVICE)
    bench.outcome()
    bench.provider.error, bench.provider.where = RetryLater("busy", 3.0), "observe"
    assert bench.outcome().result is Result.PENDING
    assert bench.condition("Ready") == ("True", "EnsuredLoadBalancer")


class Slow(MemoryProvider):
    """Its load balancers serve nothing before the world is asked again."""

    looks = 0

    def observe(self, owner: Owner, desired: LoadBalancer | None, *, fresh: bool = False) -> Observed:
        self.looks += fresh
        return super().observe(owner, desired, fresh=fresh)

    def status(self, desired: LoadBalancer, observed: Observed) -> ProviderStatus:
        status = super().status(desired, observed)
        return status if self.looks else replace(status, ready=False, message="being provisioned")


def test_not_ready_yet_is_pending_with_its_address_published() -> None:
    bench = Bench(Slow)
    bench.cluster.put(SERVICE)
    first = bench.outcome()
    assert (first.result, first.message) == (Result.PENDING, "being provisioned")
    assert first.ingress == bench.cluster.get(KEY).ingress != ()
    assert bench.condition("Ready") == ("False", "WaitingForLoadBalancer")
    assert bench.reasons() == ["EnsuringLoadBalancer"]
    second = bench.outcome()
    assert second.result is Result.UNCHANGED
    assert bench.condition("Ready") == ("True", "EnsuredLoadBalancer")
    assert bench.reasons() == ["EnsuringLoadBalancer", "EnsuredLoadBalancer"]


def test_what_the_provider_knows_already_is_not_asked_for_again() -> None:
    """Of a thousand Services that wait, the first one to look may have seen them all."""
    bench = Bench(Slow)
    bench.cluster.put(SERVICE)
    bench.outcome()
    bench.provider.looks = 1
    reads = bench.world.reads
    assert bench.outcome().result is Result.UNCHANGED
    assert (bench.provider.looks, bench.world.reads) == (1, reads)


class InTwoGoes(MemoryProvider):
    """Plans one step at a time."""

    def plan(self, desired: LoadBalancer | None, observed: Observed) -> Plan:
        plan = super().plan(desired, observed)
        return replace(plan, steps=plan.steps[:1])


def test_a_plan_that_was_not_enough_is_gone_on_with() -> None:
    bench = Bench(InTwoGoes)
    bench.cluster.put(SERVICE)
    results = [bench.outcome().result for _ in range(5)]
    assert results == ["pending"] * 3 + ["updated", "unchanged"]
    assert bench.kinds == ALL


class Mistaken(MemoryProvider):
    def plan(self, desired: LoadBalancer | None, observed: Observed) -> Plan:
        plan = super().plan(desired, observed)
        return replace(plan, owner=plan.owner._replace(uid="somebody-else"))


def test_a_plan_for_somebody_else_is_not_carried_out() -> None:
    bench = Bench(Mistaken)
    bench.cluster.put(SERVICE)
    outcome = bench.outcome()
    assert outcome.result is Result.FAILED
    assert "somebody-else" in outcome.message or "is one for" in outcome.message
    assert bench.world.writes == 0


class Telling(MemoryProvider):
    notice = Notice(Severity.WARNING, "Odd", "odd", "Oddity")

    def plan(self, desired: LoadBalancer | None, observed: Observed) -> Plan:
        return replace(super().plan(desired, observed), notices=(self.notice,))


def test_notices_are_conditions_and_events_when_they_change() -> None:
    bench = Bench(Telling)
    bench.cluster.put(SERVICE)
    bench.outcome()
    bench.outcome()
    assert bench.reasons().count("Odd") == 1
    bench.provider.notice = Notice(Severity.NORMAL, "Odd", "less odd", "Oddity")
    told = bench.outcome()
    assert (told.result, [e.message for e in told.events]) == (Result.UNCHANGED, ["less odd"])
    assert bench.condition("Oddity") == ("True", "Odd")


def test_a_brake_stops_everything_for_a_service_and_says_so_once() -> None:
    bench = Bench()
    bench.cluster.put(SERVICE)
    bench.outcome()
    bench.cluster.delete(KEY)
    refusal = UserError("9 of 9 Services are gone at once", reason="MassDeletionRefused")
    assert bench.outcome(refusal=refusal).result is Result.FAILED
    assert bench.outcome(refusal=refusal).events == ()
    assert bench.reasons()[-1] == "MassDeletionRefused"
    assert bench.kinds == ALL
    assert bench.outcome().result is Result.DELETED


def test_another_providers_service_is_a_conflict_that_changes_nothing() -> None:
    bench = Bench()
    bench.cluster.put(SERVICE)
    bench.outcome()
    before = bench.cluster.get(KEY)
    other = MemoryWorld(bench.clock.now_s)
    spec = replace(spec_for(other), name="other")
    engine = Reconciler(
        bench.cluster, MemoryProvider(ProviderContext("test", {}, bench.clock.now_s), other), spec
    )
    outcome = engine.reconcile(before, targets_of(bench.cluster.nodes))
    assert outcome is not None
    assert (outcome.result, outcome.events[0].reason) == (Result.FAILED, "ServedByOtherProvider")
    assert "provider memory" in outcome.message
    assert bench.cluster.get(KEY) == before
    assert other.writes == 0


def test_a_dry_run_writes_nothing_anywhere_and_says_what_would_be() -> None:
    bench = Bench()
    bench.cluster.put(SERVICE)
    bench.restart(dry_run=True)
    would = bench.outcome()
    assert would.result is Result.CREATED
    assert would.plan is not None
    assert len(would.plan.steps) == 4
    assert (bench.cluster.writes, bench.cluster.events, bench.world.writes) == ([], [], 0)
    bench.restart()
    bench.outcome()
    bench.cluster.delete(KEY)
    bench.restart(dry_run=True)
    writes = len(bench.cluster.writes)
    would = bench.outcome()
    assert would.result is Result.DELETED
    assert would.plan is not None
    assert [s.action for s in would.plan.steps] == ["delete"] * 4
    assert len(bench.cluster.writes) == writes
    assert bench.kinds == ALL


class BrokenCluster(MemoryCluster):
    def record_status(self, *arguments: Any) -> None:
        raise UserError("the disk is full", field="--state")


def test_a_cluster_that_cannot_be_written_is_a_failure_and_nothing_is_made() -> None:
    bench = Bench()
    bench.cluster = BrokenCluster(nodes=[Node("node-1")])
    bench.restart()
    bench.cluster.put(SERVICE)
    outcome = bench.outcome()
    assert outcome.result is Result.FAILED
    assert "the disk is full" in outcome.message
    assert bench.world.writes == 0
    assert [e.reason for _, e in bench.cluster.events] == ["SyncLoadBalancerFailed"], "where it can be told"


class DeafCluster(MemoryCluster):
    """The answer to its second status is lost; `arrives`: but not what was written."""

    def __init__(self, arrives: bool) -> None:
        super().__init__(nodes=[Node("node-1")])
        self.arrives = arrives
        self.statuses = 0

    def record_status(self, *arguments: Any) -> None:
        self.statuses += 1
        if self.statuses != 2:
            super().record_status(*arguments)
            return
        if self.arrives:
            super().record_status(*arguments)
        raise RetryLater("no answer in time", 5.0)


@pytest.mark.parametrize("arrives", [True, False])
def test_an_answer_of_the_cluster_that_was_lost_costs_neither_status_nor_events(arrives: bool) -> None:
    bench = Bench()
    bench.cluster = DeafCluster(arrives)
    bench.restart()
    bench.cluster.put(SERVICE)
    assert bench.outcome().result is Result.FAILED
    stored = bench.cluster.get(KEY)
    assert bool(stored.ingress) is arrives, "what has arrived is not overwritten by what was there before"
    _until_settled(bench)
    stored = bench.cluster.get(KEY)
    assert stored.ingress
    assert stored.condition("lbprov.io/Ready").status == "True"  # type: ignore[union-attr]
    told = [e.reason for _, e in bench.cluster.events]
    assert list(dict.fromkeys(told)) == ["EnsuringLoadBalancer", "EnsuredLoadBalancer"]


def _life(bench: Bench, moment: str) -> None:
    """A Service's life up to, and with, the moment that is looked at."""
    bench.cluster.put(replace(SERVICE, load_balancer_ip="198.51.100.3"))
    if moment == "creating":
        return
    _until_settled(bench)
    if moment == "changing":
        ports = (ServicePort(443, node_port=30443), ServicePort(80, node_port=31080))
        bench.cluster.put(replace(SERVICE, ports=ports, load_balancer_source_ranges=("203.0.113.0/24",)))
    elif moment == "changing type":
        bench.cluster.put(replace(SERVICE, type=ServiceType.CLUSTER_IP, load_balancer_class=None))
    else:
        bench.cluster.delete(KEY)


def _until_settled(bench: Bench) -> None:
    for _ in range(20):
        if KEY not in bench.cluster:
            return
        outcome = bench.run()
        if outcome is None or outcome.result is Result.UNCHANGED:
            return
        bench.clock.advance(outcome.retry_after_s or 0.0)
    raise AssertionError("it does not settle")


def _end(bench: Bench) -> tuple[list[str], object]:
    world = sorted(
        " ".join(map(str, (*r.name, r.owner, r.address, r.source_ranges, r.port, r.node_port, r.deleting)))
        for r in bench.world.resources.values()
    )
    return world, bench.cluster.get(KEY) if KEY in bench.cluster else None


@pytest.mark.parametrize("deletion_s", [0.0, 30.0], ids=["at-once", "slow-deletion"])
@pytest.mark.parametrize("moment", ["creating", "changing", "deleting", "changing type"])
def test_a_crash_before_or_after_any_write_to_world_or_cluster_converges(
    moment: str, deletion_s: float
) -> None:
    """Killed at every single write, then a new process: the end is the same, nothing leaked or doubled."""
    undisturbed = Bench(deletion_s=deletion_s)
    _life(undisturbed, moment)
    _until_settled(undisturbed)
    crashes = 0
    for number in range(1, 100):
        for when in ("before", "after"):
            bench = Bench(deletion_s=deletion_s)
            _life(bench, moment)
            crashed = _crash_at(bench, number, when)
            crashes += crashed
            bench.restart()
            _until_settled(bench)
            assert _end(bench) == _end(undisturbed), f"crash {when} write {number}"
        if not crashed:
            break
    assert crashes >= 2 * {"creating": 7, "changing": 4, "deleting": 5, "changing type": 7}[moment]


def _crash_at(bench: Bench, number: int, when: str) -> bool:
    """Counts writes to the world and to the cluster together."""
    count = 0

    def maybe(moment: str) -> None:
        nonlocal count
        count += moment == "before"
        if (count, moment) == (number, when):
            raise SimulatedCrash

    bench.world.on_write = lambda operation, write, moment: maybe(moment)
    cluster = bench.cluster

    class Dying:
        def __getattr__(self, name: str) -> Any:
            method = getattr(cluster, name)
            if name not in ("add_finalizer", "remove_finalizer", "record_status"):
                return method

            def write(*arguments: Any) -> None:
                maybe("before")
                method(*arguments)
                maybe("after")

            return write

    bench.engine = Reconciler(Dying(), bench.provider, spec_for(bench.world))
    try:
        _until_settled(bench)
    except SimulatedCrash:
        return True
    finally:
        bench.world.on_write = None
    return False


def _lose(bench: Bench, kind: str) -> None:
    """Somebody deletes it behind the provider's back."""
    bench.world.delete(next(r.id for r in bench.world.resources.values() if r.name.kind == kind))
    bench.provider.owners()


def test_drift_is_told_with_what_was_found() -> None:
    bench = Bench()
    bench.cluster.put(SERVICE)
    bench.outcome()
    _lose(bench, "listener")
    outcome = bench.outcome()
    (told,) = [e for e in outcome.events if e.reason == "DriftRepaired"]
    assert told.message.startswith("changed by somebody else, and put right: listener default-web-")
    assert told.message.endswith(" was missing (a port of the Service; it leads to nodePort 30080)")
    assert bench.kinds == ALL
    assert bench.outcome().events == ()


@pytest.mark.parametrize("how", ["another wish", "a new process", "a Service made anew", "a dry run"])
def test_what_is_no_drift_or_cannot_be_known_as_such(how: str) -> None:
    bench = Bench()
    bench.cluster.put(SERVICE)
    bench.outcome()
    _lose(bench, "listener")
    if how == "another wish":
        bench.cluster.put(replace(SERVICE, ports=(ServicePort(81, node_port=30080),)))
    elif how == "a new process":
        bench.restart()
    elif how == "a Service made anew":
        bench.cluster.delete(KEY)
        bench.outcome()
        bench.cluster.put(SERVICE)
    else:
        bench.restart(dry_run=True)
    assert "DriftRepaired" not in [e.reason for e in bench.outcome().events]


def test_other_nodes_are_told_in_the_cloud_providers_words_and_nothing_else_is() -> None:
    bench = Bench()
    bench.cluster.put(SERVICE)
    bench.outcome()
    bench.cluster.nodes = (Node("node-2"), Node("node-3"))
    bench.outcome()
    assert bench.reasons()[2:] == ["UpdatedLoadBalancer"]
    assert bench.cluster.events[-1][1].message == "Updated load balancer with new hosts"
    bench.outcome()
    assert len(bench.reasons()) == 3


def test_nodes_that_are_refused_are_named() -> None:
    bench = Bench()
    bench.cluster.put(SERVICE)
    bench.outcome()
    bench.cluster.nodes = tuple(Node(f"node-{number:02}") for number in range(1, 24))

    def refuse(operation: str, number: int, when: str) -> None:
        raise ProviderError("quota exceeded")

    bench.world.on_write = refuse
    assert bench.outcome().result is Result.FAILED
    told = bench.cluster.events[-1][1]
    assert told.reason == "UpdateLoadBalancerFailed"
    named = " ".join(f"node-{number:02}" for number in range(1, 21))
    assert told.message == (
        f"Error updating load balancer with new hosts [{named} <3 more>] "
        "[node names limited, total number of nodes: 23], error: quota exceeded"
    )
    assert bench.condition("Ready") == ("False", "UpdateLoadBalancerFailed")
    bench.world.on_write = None
    bench.outcome()
    assert bench.reasons()[2:] == ["UpdateLoadBalancerFailed", "UpdatedLoadBalancer"]


def test_nodes_and_something_else_are_a_change_like_any_other() -> None:
    bench = Bench()
    bench.cluster.put(SERVICE)
    bench.outcome()
    bench.cluster.nodes = (Node("node-2"),)
    bench.cluster.put(replace(SERVICE, ports=(ServicePort(81, node_port=30080),)))
    bench.outcome()
    assert bench.reasons()[2:] == ["EnsuringLoadBalancer", "EnsuredLoadBalancer"]


def test_a_warning_that_stands_is_said_again_before_it_is_forgotten() -> None:
    """By the API server, after an hour; re-checks come every ten minutes."""
    bench = Bench()
    bench.engine = Reconciler(bench.cluster, bench.provider, spec_for(bench.world), now_s=bench.clock.now_s)
    bench.cluster.put(replace(SERVICE, ports=(ServicePort(80),)))
    other = ObjectKey("default", "taken")
    bench.cluster.put(replace(SERVICE, key=other, load_balancer_ip="nonsense"))
    for _ in range(13):
        bench.outcome()
        bench.outcome(other)
        bench.clock.advance(600)
    assert bench.reasons() == ["SyncLoadBalancerFailed"] * 4, "every fourth time, in two hours"
    assert bench.reasons(other).count("LoadBalancerIPInvalid") == 3
    assert len({event for about, event in bench.cluster.events if about == KEY}) == 1
    bench.cluster.put(SERVICE)
    bench.outcome()
    bench.clock.advance(6000)
    bench.outcome()
    assert bench.reasons().count("SyncLoadBalancerFailed") == 4


def test_a_long_turn_goes_on_in_another_one() -> None:
    bench = Bench()
    bench.engine = Reconciler(
        bench.cluster, bench.provider, spec_for(bench.world), turn_s=10, now_s=bench.clock.now_s
    )
    bench.world.on_write = lambda operation, number, when: bench.clock.advance(6 if when == "after" else 0)
    ports = tuple(ServicePort(port, node_port=30000 + port) for port in range(80, 86))
    bench.cluster.put(replace(SERVICE, ports=ports))
    turns = 0
    while (outcome := bench.outcome()).result is Result.PENDING:
        turns += 1
        assert outcome.retry_after_s == 0.0
        assert bench.world.writes == 2 * turns
        assert bench.condition("Ready") == ("False", "WaitingForLoadBalancer")
    assert turns == 4
    assert bench.kinds.count("listener") == 6
    bench.cluster.delete(KEY)
    while (outcome := bench.outcome()).result is Result.PENDING:
        assert bench.condition("Ready") == ("False", "DeletingLoadBalancer")
    assert bench.kinds == []


def test_what_may_take_minutes_is_told_when_it_begins() -> None:
    bench = Bench()
    seen: list[list[str]] = []
    bench.world.on_write = lambda operation, number, when: seen.append(bench.reasons())
    bench.cluster.put(SERVICE)
    bench.outcome()
    assert seen[0] == ["EnsuringLoadBalancer"]


def test_a_value_of_any_length_leaves_room_for_the_remedy() -> None:
    bench = Bench()
    bench.cluster.put(replace(SERVICE, annotations={"lbprov.io/scheme": "y" * 250_000}))
    bench.outcome()
    condition = bench.cluster.get(KEY).condition("lbprov.io/Ready")
    assert condition is not None
    assert len(condition.message) < 250
    assert "(250000 characters) is not allowed: internet-facing or internal" in condition.message


@pytest.mark.parametrize("late", [True, False])
def test_what_a_killed_process_had_asked_for_may_come_after_the_first_look(late: bool) -> None:
    """What is being made while its maker is killed and its Service deleted is not leaked."""
    bench = Bench()
    bench.cluster.put(SERVICE)
    bench.outcome()
    under_way = dict(bench.world.resources)
    bench.world.resources.clear()
    bench.cluster.delete(KEY)
    bench.restart(in_flight_s=15.0, now_s=bench.clock.now_s)
    bench.clock.advance(5)
    outcome = bench.outcome()
    assert (outcome.result, outcome.retry_after_s) == (Result.PENDING, 10.0)
    assert bench.kinds == []
    assert FINALIZER in bench.cluster.get(KEY).finalizers
    if late:
        bench.world.resources.update(under_way)
    bench.clock.advance(10)
    while (outcome := bench.outcome()).result is Result.PENDING:
        assert FINALIZER in bench.cluster.get(KEY).finalizers
    assert outcome.result is Result.DELETED
    assert bench.kinds == []


def test_what_no_former_process_has_worked_on_is_deleted_at_once() -> None:
    bench = Bench()
    bench.restart(in_flight_s=15.0, now_s=bench.clock.now_s)
    bench.cluster.put(SERVICE)
    bench.outcome()
    bench.cluster.delete(KEY)
    assert bench.outcome().result is Result.DELETED
    assert bench.kinds == []
