"""A provider and a cluster that write only while we may, and whose work is timed.

The reconcile of one Service knows nothing of leases and metrics: it is handed these in place of the real.
"""

from __future__ import annotations

import contextlib
import time
import typing
from collections.abc import Callable, Iterator, Sequence

from lbprov.api import (
    Bindings,
    CallCount,
    LoadBalancer,
    Owner,
    Plan,
    Provider,
    ProviderError,
    ProviderStatus,
    RetryLater,
    Step,
)
from lbprov.cluster.seam import Cluster, Snapshot
from lbprov.controller.reminders import AGAIN_S
from lbprov.controller.workers import Fenced
from lbprov.model import Condition, Event, Ingress, ObjectKey
from lbprov.observe.metrics import Metrics

MayWrite = Callable[[], bool]
"""True only while nobody else may. Asked right before every write."""


class Witness(typing.Protocol):
    """Hears of what is about to be written: what the watch then shows is known to be ours."""

    def write(self, key: ObjectKey, ingress: Sequence[Ingress], conditions: Sequence[Condition]) -> None: ...

    def release(self, key: ObjectKey) -> None: ...


class GuardedProvider:
    """Writes (`apply`) raise `Fenced` when we may not; reading stays allowed."""

    def __init__(self, provider: Provider[typing.Any], may_write: MayWrite, metrics: Metrics) -> None:
        self._provider = provider
        self._may_write = may_write
        self._metrics = metrics

    def observe(self, owner: Owner, desired: LoadBalancer | None, *, fresh: bool = False) -> typing.Any:
        with _stage(self._metrics, "observe", "provider"):
            return self._provider.observe(owner, desired, fresh=fresh)

    def plan(self, desired: LoadBalancer | None, observed: typing.Any) -> Plan:
        with _stage(self._metrics, "plan", "provider"):
            return self._provider.plan(desired, observed)

    def apply(self, step: Step, bindings: Bindings) -> None:
        with _stage(self._metrics, "apply", "provider"):
            _check(self._may_write)
            self._provider.apply(step, bindings)

    def status(self, desired: LoadBalancer, observed: typing.Any) -> ProviderStatus:
        return self._provider.status(desired, observed)

    def owners(self) -> frozenset[Owner]:
        return self._provider.owners()

    def calls(self) -> CallCount:
        return self._provider.calls()


class GuardedCluster:
    """Every write raises `Fenced` when we may not."""

    def __init__(
        self,
        cluster: Cluster,
        may_write: MayWrite,
        metrics: Metrics,
        witness: Witness,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster = cluster
        self._may_write = may_write
        self._metrics = metrics
        self._witness = witness
        self._unreached: set[ObjectKey] = set()
        self._last_event: dict[ObjectKey, tuple[Event, float]] = {}
        self._now_s = now_s

    @property
    def name(self) -> str:
        return self._cluster.name

    def snapshot(self) -> Snapshot:
        return self._cluster.snapshot()

    def unreached(self) -> tuple[ObjectKey, ...]:
        """Services that the last turn of could not be told to the cluster, which did not answer."""
        return tuple(self._unreached)

    def begin(self, key: ObjectKey) -> None:
        """A turn of this Service begins."""
        self._unreached.discard(key)

    def add_finalizer(self, key: ObjectKey, finalizer: str) -> None:
        with self._writing("finalizer", key):
            self._cluster.add_finalizer(key, finalizer)

    def remove_finalizer(self, key: ObjectKey, finalizer: str) -> None:
        with self._writing("finalizer", key):
            self._witness.release(key)
            self._last_event.pop(key, None)
            self._cluster.remove_finalizer(key, finalizer)

    def record_status(
        self, key: ObjectKey, ingress: Sequence[Ingress], conditions: Sequence[Condition]
    ) -> None:
        with self._writing("status", key):
            self._witness.write(key, ingress, conditions)
            self._cluster.record_status(key, ingress, conditions)

    def emit(self, key: ObjectKey, events: Sequence[Event]) -> None:
        """But for one that says once more what the last one said: nothing has happened since. (A reminder is
        let through.)"""
        now_s = self._now_s()
        last, last_s = self._last_event.get(key, (None, 0.0))
        before = last if now_s - last_s < AGAIN_S else None
        news = [e for e, said in zip(events, (before, *events), strict=False) if e != said]
        if news:
            _check(self._may_write)
            self._last_event[key] = news[-1], now_s
            self._cluster.emit(key, news)

    @contextlib.contextmanager
    def _writing(self, stage: str, key: ObjectKey) -> Iterator[None]:
        with _stage(self._metrics, stage, "cluster"):
            _check(self._may_write)
            try:
                yield
            except RetryLater:
                self._unreached.add(key)
                raise


def _check(may_write: MayWrite) -> None:
    if not may_write():
        raise Fenced


@contextlib.contextmanager
def _stage(metrics: Metrics, stage: str, refuser: str) -> Iterator[None]:
    """Time a stage, and count a refusal that ends it: `refuser` is who a `ProviderError` here comes from.
    Users' errors and bugs are counted where the outcome tells of them."""
    with metrics.time(stage):
        try:
            yield
        except ProviderError:
            metrics.count_error(stage, refuser)
            raise
