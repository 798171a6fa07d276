"""Passes over whole clusters, and watching one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from lbprov.api import (
    LoadBalancer,
    ObjectKey,
    Owner,
    Plan,
    ProviderContext,
    ProviderError,
    RetryLater,
    UserError,
)
from lbprov.cluster.seam import Problem, Snapshot
from lbprov.controller.one_pass import Pass, PassResult
from lbprov.controller.reconcile import Reconciler
from lbprov.controller.schedule import Schedule
from lbprov.controller.watch import watch
from lbprov.model import Node, Outcome, Result, Service, ServicePort, ServiceType, Target
from lbprov.testing.clock import FakeClock
from lbprov.testing.cluster import MemoryCluster
from lbprov.testing.memory import MemoryProvider, spec_for
from lbprov.testing.memory_plan import Observed
from lbprov.testing.memory_world import MemoryWorld


def _key(name: str) -> ObjectKey:
    return ObjectKey("default", name)


def _service(name: str, **fields: Any) -> Service:
    ports = (ServicePort(80, node_port=30080),)
    return Service(_key(name), "", **{"type": ServiceType.LOAD_BALANCER, "ports": ports} | fields)


class Stage:
    def __init__(self, make: Callable[..., Any] = MemoryProvider, deletion_s: float = 0.0) -> None:
        self.clock = FakeClock()
        self.world = MemoryWorld(self.clock.now_s, deletion_s)
        self.cluster = MemoryCluster(nodes=[Node("node-1")], clock=self.clock)
        self.stop = threading.Event()
        self.provider: Any = make(ProviderContext("test", {}, self.clock.now_s), self.world)
        self.own_classless = True

    def put(self, *names: str, **fields: Any) -> None:
        for name in names:
            self.cluster.put(_service(name, **fields))

    def make_pass(self, **options: Any) -> Pass:
        engine = Reconciler(
            self.cluster, self.provider, spec_for(self.world), own_classless=self.own_classless
        )
        return Pass(self.cluster, self.provider, engine, self.clock, self.stop, **options)

    def run(self, **options: Any) -> PassResult:
        return self.make_pass(**options).run()

    def balancers(self) -> set[str]:
        return {r.owner.service.name for r in self.world.resources.values()}


def _results(result: PassResult) -> dict[str, str]:
    return {outcome.key.name: outcome.result.value for outcome in result.outcomes}


def test_every_service_of_ours_sorted_and_a_second_pass_changes_nothing() -> None:
    stage = Stage()
    stage.put("b", "c", "a")
    stage.put("cluster-ip", type=ServiceType.CLUSTER_IP)
    stage.put("foreign", load_balancer_class="example.com/x")
    first = stage.run()
    assert [o.key.name for o in first.outcomes] == ["a", "b", "c"]
    assert set(_results(first).values()) == {"created"}
    assert first.converged
    writes = (stage.world.writes, len(stage.cluster.writes), len(stage.cluster.events))
    second = stage.run()
    assert set(_results(second).values()) == {"unchanged"}
    assert (stage.world.writes, len(stage.cluster.writes), len(stage.cluster.events)) == writes


class Poisoned(MemoryProvider):
    """Breaks down over one Service, in whatever way."""

    error: BaseException = ZeroDivisionError("poison")

    def plan(self, desired: LoadBalancer | None, observed: Observed) -> Plan:
        if observed.owner.service.name == "poison":
            raise self.error
        return super().plan(desired, observed)


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("x"), UserError("x"), ProviderError("x"), RecursionError("x")], ids=repr
)
@pytest.mark.parametrize("workers", [1, 8])
def test_one_poisonous_service_stops_no_other(error: Exception, workers: int) -> None:
    stage = Stage(Poisoned)
    stage.provider.error = error
    stage.put("a", "poison", "z")
    result = stage.run(workers=workers)
    assert _results(result) == {"a": "created", "poison": "failed", "z": "created"}
    assert not result.converged


def test_services_are_worked_on_at_once() -> None:
    """Four workers meet at a barrier that lets none pass alone."""
    barrier = threading.Barrier(4, timeout=20)

    class Meeting(MemoryProvider):
        def plan(self, desired: LoadBalancer | None, observed: Observed) -> Plan:
            if observed.frontend is None:
                barrier.wait()
            return super().plan(desired, observed)

    stage = Stage(Meeting)
    stage.put("a", "b", "c", "d")
    assert set(_results(stage.run(workers=4)).values()) == {"created"}


def test_of_two_that_want_one_address_the_older_gets_it() -> None:
    stage = Stage()
    stage.put("z-older", load_balancer_ip="198.51.100.5")
    stage.put("a-younger", load_balancer_ip="198.51.100.5")
    result = stage.run(workers=1)
    addresses = {o.key.name: o.ingress[0].ip for o in result.outcomes}
    assert addresses == {"z-older": "198.51.100.5", "a-younger": "198.18.0.1"}


def test_what_needs_time_is_waited_for_and_told_as_one() -> None:
    stage = Stage(deletion_s=10.0)
    stage.put("a", "b")
    stage.run()
    stage.cluster.delete(_key("a"))
    result = stage.run(wait_s=60.0)
    assert _results(result) == {"a": "deleted", "b": "unchanged"}
    assert [e.reason for e in result.outcomes[0].events] == ["DeletingLoadBalancer", "DeletedLoadBalancer"]
    assert 10.0 <= sum(stage.clock.waits_s) < 20.0


def test_waiting_is_bounded() -> None:
    stage = Stage(deletion_s=1000.0)
    stage.put("a", "b")
    stage.run()
    stage.cluster.delete(_key("a"))
    result = stage.run(wait_s=30.0)
    assert _results(result) == {"a": "pending", "b": "unchanged"}
    assert not result.converged
    assert sum(stage.clock.waits_s) == pytest.approx(30.0)


def test_a_cluster_that_vanishes_during_the_wait_ends_it_with_what_is_known() -> None:
    stage = Stage(deletion_s=10.0)
    stage.put("a", "b")
    stage.run()
    stage.cluster.delete(_key("a"))
    original = stage.cluster.snapshot
    seen: list[bool] = []

    def once() -> Snapshot:
        if seen:
            raise UserError("no such folder")
        seen.append(True)
        return original()

    stage.cluster.snapshot = once  # type: ignore[method-assign]
    assert _results(stage.run(wait_s=60.0)) == {"a": "pending", "b": "unchanged"}


class Hesitant(MemoryProvider):
    """Lets the first plan of each Service come to nothing after its first write."""

    def apply(self, step: Any, bindings: Any) -> None:
        super().apply(step, bindings)
        if step.kind == "frontend" and not bindings.get("again"):
            raise RetryLater("half done", 1.0)


def test_created_after_a_pause_is_created() -> None:
    stage = Stage(Hesitant)
    stage.put("a")
    result = stage.run(wait_s=10.0)
    assert _results(result) == {"a": "created"}
    assert result.outcomes[0].plan is not None
    assert len(result.outcomes[0].plan.steps) == 3


def test_stopping_begins_nothing_more() -> None:
    stage = Stage()

    class Stopping(MemoryProvider):
        def plan(self, desired: LoadBalancer | None, observed: Observed) -> Plan:
            stage.stop.set()
            return super().plan(desired, observed)

    stage.provider = Stopping(ProviderContext("test", {}, stage.clock.now_s), stage.world)
    stage.put("a", "b", "c")
    result = stage.run(workers=1, wait_s=60.0)
    assert _results(result) == {"a": "created", "b": "pending", "c": "pending"}
    assert stage.balancers() == {"a"}
    assert stage.clock.waits_s == []


def test_problems_of_manifests_are_part_of_the_result() -> None:
    stage = Stage()
    stage.put("a")
    odd = Problem("web.yaml:3", "Service default/x", "spec.ports", "odd", fatal=False)
    stage.cluster.problems = (odd,)
    assert stage.run().converged
    stage.cluster.problems = (replace(odd, fatal=True),)
    result = stage.run()
    assert not result.converged
    assert _results(result) == {"a": "unchanged"}


NAMES = [f"s{n}" for n in range(8)]


def test_a_lost_flag_takes_nothing_away_however_few_they_are_and_not_by_force() -> None:
    """A class cannot be changed while the type is LoadBalancer: it is the flag that is missing, and there are
    clearer ways to say that a load balancer should go."""
    stage = Stage()
    stage.put(*NAMES)
    stage.run()
    stage.put("ours", load_balancer_class="lbprov.io/memory")
    stage.own_classless = False
    result = stage.run()
    assert _results(result) == dict.fromkeys(NAMES, "failed") | {"ours": "created"}
    assert [e.reason for e in result.outcomes[1].events] == ["LoadBalancerClassNotServed"]
    assert "--own-classless" in result.outcomes[1].message
    assert not result.converged
    writes = (stage.world.writes, len(stage.cluster.writes), len(stage.cluster.events))
    forced = stage.run(force=True)
    assert _results(forced) == dict.fromkeys(NAMES, "failed") | {"ours": "unchanged"}
    assert (stage.world.writes, len(stage.cluster.writes), len(stage.cluster.events)) == writes
    assert stage.balancers() == {*NAMES, "ours"}
    stage.put("s0", type=ServiceType.CLUSTER_IP)
    stage.cluster.delete(_key("s1"))
    result = stage.run()
    assert _results(result) == dict.fromkeys(NAMES[2:], "failed") | {
        "s0": "deleted",
        "s1": "deleted",
        "ours": "unchanged",
    }
    assert stage.balancers() == {*NAMES[2:], "ours"}
    stage.own_classless = True
    assert set(_results(stage.run()).values()) == {"unchanged"}


def test_a_few_type_changes_go_and_so_does_the_only_one() -> None:
    stage = Stage()
    stage.put("a")
    stage.run()
    stage.put("a", type=ServiceType.CLUSTER_IP)
    assert _results(stage.run()) == {"a": "deleted"}


def test_a_brake_spares_the_rest() -> None:
    stage = Stage()
    stage.put(*NAMES)
    stage.run()
    stage.put(*NAMES[:6], type=ServiceType.CLUSTER_IP)
    stage.put("new")
    result = _results(stage.run())
    assert result == dict.fromkeys(NAMES[:6], "failed") | dict.fromkeys(NAMES[6:], "unchanged") | {
        "new": "created"
    }


def test_deletions_that_have_begun_are_not_held_up() -> None:
    """Of what users have deleted the cluster has decided, by brakes of its own."""
    stage = Stage()
    stage.put(*NAMES)
    stage.run()
    for name in NAMES:
        stage.cluster.delete(_key(name))
    assert set(_results(stage.run()).values()) == {"deleted"}


def test_a_lost_state_does_not_make_everything_anew() -> None:
    stage = Stage()
    stage.put(*NAMES)
    stage.run()
    stage.cluster = MemoryCluster(nodes=[Node("node-1")], clock=stage.clock)
    for name in NAMES:
        stage.cluster.put(replace(_service(name), uid=f"another-{name}"))
    before = dict(stage.world.resources)
    assert set(_results(stage.run()).values()) == {"failed"}
    assert stage.world.resources == before
    result = stage.run(force=True)
    assert set(_results(result).values()) == {"created"}
    assert {r.owner.uid for r in stage.world.resources.values()} == {f"another-{n}" for n in NAMES}


@pytest.mark.parametrize("deletion_s", [0.0, 10.0], ids=["at-once", "slow-deletion"])
def test_a_service_made_anew_behind_our_back_loses_the_old_balancer_first(deletion_s: float) -> None:
    stage = Stage(deletion_s=deletion_s)
    stage.put("a", "b")
    stage.run()
    stage.cluster.remove_finalizer(_key("a"), stage.cluster.get(_key("a")).finalizers[0])
    stage.cluster.delete(_key("a"))
    stage.put("a")
    result = stage.run(wait_s=60.0)
    assert _results(result) == {"a": "created", "b": "unchanged"}
    assert len({r.owner for r in stage.world.resources.values()}) == 2
    assert stage.cluster.get(_key("a")).uid in {r.owner.uid for r in stage.world.resources.values()}


def test_orphans_are_told_and_left() -> None:
    stage = Stage()
    stage.put("a", "b")
    stage.run()
    stage.cluster.remove_finalizer(_key("a"), stage.cluster.get(_key("a")).finalizers[0])
    uid = stage.cluster.get(_key("a")).uid
    stage.cluster.delete(_key("a"))
    result = stage.run()
    assert result.orphans == (Owner("test", _key("a"), uid),)
    assert stage.balancers() == {"a", "b"}


class Speechless(MemoryProvider):
    error: Exception = ProviderError("not allowed to list", retryable=False)

    def owners(self) -> frozenset[Owner]:
        raise self.error


@pytest.mark.parametrize("error", [Speechless.error, ZeroDivisionError("bug")], ids=repr)
def test_a_world_that_does_not_say_what_it_holds_does_not_stop_the_pass(error: Exception) -> None:
    stage = Stage(Speechless)
    stage.provider.error = error
    stage.put("a")
    assert _results(stage.run()) == {"a": "created"}


def test_a_thousand_services_cost_one_snapshot_and_one_listing() -> None:
    """Counted, not timed: what grows with the square of the number would show here."""
    stage = Stage()
    stage.put(*(f"s{n:04}" for n in range(1000)))
    stage.run()
    assert (stage.world.reads, stage.world.writes) == (1, 3000)
    snapshots = 0
    original = stage.cluster.snapshot

    def counted() -> Snapshot:
        nonlocal snapshots
        snapshots += 1
        return original()

    stage.cluster.snapshot = counted  # type: ignore[method-assign]
    assert set(_results(stage.run()).values()) == {"unchanged"}
    assert (snapshots, stage.world.reads, stage.world.writes) == (1, 2, 3000)


# -- schedule


SERVICE = _service("a")
FAILED = Outcome(_key("a"), Result.FAILED, retry_after_s=5.0)


@pytest.mark.parametrize(
    ("outcome", "due_after_s"),
    [
        pytest.param(None, None, id="not-ours"),
        pytest.param(Outcome(_key("a"), Result.CREATED), None, id="settled"),
        pytest.param(Outcome(_key("a"), Result.FAILED), None, id="the-user-must-act"),
        pytest.param(Outcome(_key("a"), Result.PENDING, retry_after_s=7.0), 7.0, id="pending"),
        pytest.param(Outcome(_key("a"), Result.PENDING, retry_after_s=0.0), 0.2, id="pending-at-once"),
        pytest.param(FAILED, 5.0, id="failed"),
    ],
)
def test_schedule_of_one_outcome(outcome: Outcome | None, due_after_s: float | None) -> None:
    schedule = Schedule()
    schedule.begin((), {SERVICE.key})
    assert schedule.is_due(SERVICE, 100.0)
    schedule.note(SERVICE, outcome, 100.0)
    assert not schedule.is_due(SERVICE, 100.0)
    assert schedule.next_s() == (None if due_after_s is None else 100.0 + due_after_s)
    assert schedule.is_due(SERVICE, 1000.0) is (due_after_s is not None)


def test_failures_back_off_and_success_forgets_them() -> None:
    schedule = Schedule()
    pauses = []
    for _ in range(9):
        schedule.note(SERVICE, FAILED, 0.0)
        pauses.append(schedule.next_s())
    assert pauses == [5, 10, 20, 40, 80, 160, 300, 300, 300]
    schedule.note(SERVICE, Outcome(SERVICE.key, Result.UPDATED), 0.0)
    schedule.note(SERVICE, FAILED, 0.0)
    assert schedule.next_s() == 5


def test_what_makes_a_service_due() -> None:
    schedule = Schedule()
    schedule.begin((), {SERVICE.key})
    schedule.note(SERVICE, FAILED, 0.0)
    assert schedule.is_due(replace(SERVICE, load_balancer_ip="203.0.113.1"), 0.0)
    assert schedule.is_due(replace(SERVICE, deleted_at="2026-01-01T00:00:00Z"), 0.0)
    assert not schedule.is_due(replace(SERVICE, finalizers=("x",)), 0.0)
    schedule.begin((), {SERVICE.key})
    assert not schedule.is_due(SERVICE, 0.0)
    schedule.begin((Target("node-1"),), {SERVICE.key})
    assert schedule.is_due(SERVICE, 0.0)


def test_a_service_that_is_gone_is_not_waited_for() -> None:
    schedule = Schedule()
    schedule.note(SERVICE, FAILED, 0.0)
    schedule.begin((), set())
    assert schedule.next_s() is None


# -- watch


def _watch(stage: Stage, script: list[Callable[[], None]], **options: Any) -> list[dict[str, str]]:
    """Watches; before each pass but the first, one action of the script; stops when it is used up."""
    seen: list[dict[str, str]] = []

    def report(result: PassResult) -> None:
        seen.append(_results(result))
        if script:
            script.pop(0)()
        else:
            stage.stop.set()

    watch(stage.cluster, stage.make_pass(), report, chance=lambda: 0.5, **options)
    return seen


def _nothing() -> None:
    pass


def test_watch_carries_through_what_changes_and_only_that() -> None:
    stage = Stage()
    stage.put("a", "b")
    ports = (ServicePort(81, node_port=30081),)
    seen = _watch(
        stage, [_nothing, lambda: stage.put("b", ports=ports), lambda: stage.cluster.delete(_key("a"))]
    )
    assert seen == [{"a": "created", "b": "created"}, {}, {"b": "updated"}, {"a": "deleted"}]


def test_watch_takes_retries_up_when_they_are_due() -> None:
    stage = Stage(deletion_s=10.0)
    stage.put("a", "b")
    _watch(stage, [])
    stage.stop.clear()
    stage.cluster.delete(_key("a"))
    seen = _watch(stage, [_nothing] * 7)
    assert seen[0] == {"a": "pending", "b": "unchanged"}
    assert {"a": "deleted"} in seen[1:]
    assert _key("a") not in stage.cluster


def test_watch_mends_drift_on_its_timer() -> None:
    stage = Stage()
    stage.put("a")
    _watch(stage, [])
    stage.stop.clear()
    begun_s = stage.clock.now_s()

    def damage() -> None:
        stage.world.delete(next(i for i, r in stage.world.resources.items() if r.name.kind == "target"))

    seen = _watch(stage, [damage], drift_s=600.0)
    assert seen == [{"a": "unchanged"}, {"a": "updated"}]
    assert stage.clock.now_s() - begun_s == pytest.approx(600.0)


def test_watch_goes_on_when_the_cluster_cannot_be_read_for_a_while() -> None:
    stage = Stage()
    stage.put("a")
    original, failures = stage.cluster.snapshot, [UserError("no such folder"), RetryLater("locked", 1.0)]

    def flaky() -> Snapshot:
        if failures:
            raise failures.pop()
        return original()

    stage.cluster.snapshot = flaky  # type: ignore[method-assign]
    assert _watch(stage, []) == [{"a": "created"}]
    assert stage.clock.waits_s[:2] == [5.0, 5.0]


def test_watch_backs_off_from_a_failing_service() -> None:
    stage = Stage(Poisoned)
    stage.provider.error = ProviderError("no")
    stage.put("poison")
    begun_s = stage.clock.now_s()
    seen = _watch(stage, [_nothing] * 8, drift_s=1e9)
    assert sum(1 for s in seen if s) <= 8
    assert stage.clock.now_s() - begun_s >= 5 + 10 + 20 + 40
