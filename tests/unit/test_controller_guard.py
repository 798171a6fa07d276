"""No write without the right to write; every stage timed, every error counted under its name."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from prometheus_client.parser import text_string_to_metric_families

from lbprov.api import LoadBalancer, Owner, ProviderContext, ProviderError, RetryLater, UserError
from lbprov.cluster.seam import Snapshot
from lbprov.controller.guard import GuardedCluster, GuardedProvider
from lbprov.controller.workers import Fenced
from lbprov.model import Condition, Event, Ingress, Listener, ObjectKey, Severity
from lbprov.model.service import L4Protocol
from lbprov.observe.metrics import Metrics
from lbprov.testing.clock import FakeClock
from lbprov.testing.memory import MemoryProvider
from lbprov.testing.memory_world import MemoryWorld

KEY = ObjectKey("default", "web")
OWNER = Owner("test", KEY, "uid-1")
WANTED = LoadBalancer(OWNER, (Listener(80, L4Protocol.TCP, 30080),), ())


class _Log:
    """A cluster that only writes down what reaches it, and the witness beside it."""

    name = "test"

    def __init__(self) -> None:
        self.lines: list[str] = []

    def snapshot(self) -> Snapshot:
        return Snapshot((), ())

    def add_finalizer(self, key: ObjectKey, finalizer: str) -> None:
        self.lines.append(f"add {finalizer}")

    def remove_finalizer(self, key: ObjectKey, finalizer: str) -> None:
        self.lines.append(f"remove {finalizer}")

    def record_status(self, key: ObjectKey, ingress: object, conditions: object) -> None:
        self.lines.append("status")

    def emit(self, key: ObjectKey, events: object) -> None:
        self.lines.append("event")

    def write(self, key: ObjectKey, ingress: object, conditions: object) -> None:
        self.lines.append("witness: status")

    def release(self, key: ObjectKey) -> None:
        self.lines.append("witness: release")


def _counts(metrics: Metrics, name: str) -> dict[str, float]:
    """(reason and) stage -> value of one metric's samples."""
    families = text_string_to_metric_families(metrics.exposition("")[0].decode())
    samples = [s for f in families for s in f.samples if s.name == name]
    return {" ".join(v for k, v in sorted(s.labels.items()) if k != "provider"): s.value for s in samples}


def _provider(may_write: Callable[[], bool], metrics: Metrics) -> tuple[GuardedProvider, MemoryWorld]:
    clock = FakeClock()
    world = MemoryWorld(clock.now_s)
    provider = MemoryProvider(ProviderContext("test", {}, clock.now_s), world)
    return GuardedProvider(provider, may_write, metrics), world


def test_the_right_is_asked_for_before_every_step() -> None:
    """It is lost between the first step and the second."""
    answers = iter([True, False])
    metrics = Metrics("memory")
    provider, world = _provider(lambda: next(answers), metrics)
    plan = provider.plan(WANTED, provider.observe(OWNER, WANTED))
    assert len(plan.steps) == 2
    provider.apply(plan.steps[0], {})
    with pytest.raises(Fenced):
        provider.apply(plan.steps[1], {})
    assert [r.name.kind for r in world.resources.values()] == ["frontend"]
    assert provider.owners() == {OWNER}, "reading is still allowed"
    assert provider.calls().write == 1
    durations = _counts(metrics, "lbprov_reconcile_duration_seconds_count")
    assert durations == {"observe": 1, "plan": 1, "apply": 2}
    assert _counts(metrics, "lbprov_reconcile_errors_total") == {}, (
        "to be fenced is no error of the Service's"
    )


def test_the_cluster_is_not_written_to_without_the_right() -> None:
    log = _Log()
    cluster = GuardedCluster(log, lambda: False, Metrics("memory"), log)
    writes: list[Callable[[], None]] = [
        lambda: cluster.add_finalizer(KEY, "f"),
        lambda: cluster.remove_finalizer(KEY, "f"),
        lambda: cluster.record_status(KEY, (), ()),
        lambda: cluster.emit(KEY, [Event(Severity.NORMAL, "Some", "thing")]),
    ]
    for write in writes:
        with pytest.raises(Fenced):
            write()
    cluster.emit(KEY, [])
    assert cluster.snapshot() == Snapshot((), ())
    assert log.lines == []


def test_the_witness_hears_before_the_cluster_does() -> None:
    log = _Log()
    cluster = GuardedCluster(log, lambda: True, Metrics("memory"), log)
    cluster.add_finalizer(KEY, "f")
    cluster.record_status(KEY, [Ingress(ip="192.0.2.1")], [Condition("lbprov.io/Ready", "True", "Ready", "")])
    cluster.emit(KEY, [Event(Severity.NORMAL, "Some", "thing")])
    cluster.remove_finalizer(KEY, "f")
    assert log.lines == ["add f", "witness: status", "status", "event", "witness: release", "remove f"]


@pytest.mark.parametrize(
    ("error", "counted"),
    [
        pytest.param(UserError("no"), {}, id="user-errors-are-counted-by-their-outcome"),
        pytest.param(ProviderError("no"), {"provider apply": 1}, id="provider"),
        pytest.param(RetryLater("wait", 1), {}, id="later-is-no-error"),
        pytest.param(KeyError("bug"), {}, id="so-are-bugs"),
    ],
)
def test_errors_are_counted_by_what_they_are(error: Exception, counted: dict[str, float]) -> None:
    metrics = Metrics("memory")
    provider, world = _provider(lambda: True, metrics)

    def refuse(*_: object) -> None:
        raise error

    world.on_write = refuse
    plan = provider.plan(WANTED, provider.observe(OWNER, WANTED))
    with pytest.raises(type(error)):
        provider.apply(plan.steps[0], {})
    assert _counts(metrics, "lbprov_reconcile_errors_total") == counted
