"""One turn of one key: from the Service as it is now to the queue's verdict."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from enum import StrEnum

from lbprov.api import Target
from lbprov.controller.drift import recheck_s
from lbprov.controller.guard import GuardedCluster
from lbprov.controller.holdings import Holdings
from lbprov.controller.live import LiveCluster
from lbprov.controller.news import Ledger
from lbprov.controller.queue import Failed, Later, Settled, Verdict
from lbprov.controller.reconcile import HOPELESS_S, Reconciler
from lbprov.logic.nodes import targets_of
from lbprov.logic.selection import owner_of
from lbprov.model import ObjectKey, Outcome, Owner, Result, Service
from lbprov.observe.metrics import Metrics


class State(StrEnum):
    """How a Service's load balancer is, for metrics."""

    UNKNOWN = "unknown"
    READY = "ready"
    PENDING = "pending"
    REFUSED = "refused"
    FAILED = "failed"


def verdict_of(outcome: Outcome, recheck_after_s: float | None) -> Verdict:
    """`recheck_after_s`: when to look again at what is settled (None: never)."""
    if outcome.result is Result.DELETED:
        return Settled()
    if outcome.retry_after_s is None:
        return Settled(recheck_after_s)
    if outcome.result is Result.FAILED:
        return Failed(hopeless=outcome.retry_after_s >= HOPELESS_S)
    return Later(outcome.retry_after_s)


def state_of(outcome: Outcome) -> State:
    if outcome.result is Result.FAILED:
        return State.FAILED if outcome.retry_after_s is not None else State.REFUSED
    return State.PENDING if outcome.result is Result.PENDING else State.READY


class Targets:
    """The nodes that take traffic, computed once per change of the nodes."""

    def __init__(self, cluster: LiveCluster) -> None:
        self._cluster = cluster
        self._lock = threading.Lock()
        self._version: int | None = None
        self._targets: tuple[Target, ...] = ()

    def __call__(self) -> tuple[Target, ...]:
        with self._lock:
            version = self._cluster.nodes.version
            if version != self._version:
                self._targets, self._version = targets_of(self._cluster.nodes.values()), version
            return self._targets


class Turn:
    """Called with a key by any worker, never by two at once for one key. Keeps the account of what the world
    holds, and of how each load balancer is (`states`)."""

    def __init__(
        self,
        cluster: LiveCluster,
        guarded: GuardedCluster,
        reconciler: Reconciler,
        holdings: Holdings,
        ledger: Ledger,
        metrics: Metrics,
        *,
        drift_period_s: float,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster = cluster
        self._guarded = guarded
        self._reconciler = reconciler
        self._holdings = holdings
        self._ledger = ledger
        self._metrics = metrics
        self._drift_period_s = drift_period_s
        self._now_s = now_s
        self._condemned: set[Owner] = set()
        self.targets = Targets(cluster)
        self.states: dict[ObjectKey, State] = {}

    def condemn(self, owner: Owner) -> None:
        """Its Service has vanished for good: what the world holds of it may go, at its next turn."""
        self._condemned.add(owner)

    def __call__(self, key: ObjectKey) -> Verdict:
        self._guarded.begin(key)
        service = self._cluster.services.get(key)
        with self._metrics.time("total"):
            return self._of_the_gone(key) if service is None else self._of(service)

    def _of(self, service: Service) -> Verdict:
        key, me = service.key, owner_of(self._cluster.name, service)
        held = self._holdings.of(key)
        former = tuple(owner for owner in held if owner != me)
        # What stands there is taken to be right, unless this turn writes something else.
        self._ledger.write(key, service.ingress, service.conditions)
        outcome = self._reconciler.reconcile(service, self.targets(), former=former, owns=me in held)
        if outcome is None or outcome.result is Result.DELETED:
            self._ledger.release(key)
            self.states.pop(key, None)
        else:
            self.states[key] = state_of(outcome)
        if outcome is None:
            return self._of_the_gone(key)
        self._account(me, outcome, former)
        self._count(outcome)
        period_s = self._drift_period_s
        return verdict_of(outcome, recheck_s(key, period_s, self._now_s()) if period_s else None)

    def _count(self, outcome: Outcome) -> None:
        """What the stages' own counts do not tell."""
        self._metrics.count_result(outcome.result)
        if outcome.bug:
            self._metrics.count_error("total", "bug")
        elif state_of(outcome) is State.REFUSED:
            self._metrics.count_error("plan", "user")

    def _account(self, me: Owner, outcome: Outcome, former: tuple[Owner, ...]) -> None:
        """What the world holds after this outcome."""
        if outcome.result is Result.DELETED:
            self._holdings.drop(me)
        elif outcome.plan is not None and (outcome.plan.steps or outcome.plan.bindings):
            self._holdings.add(me)
        if outcome.result not in (Result.PENDING, Result.FAILED):
            for owner in former:
                self._holdings.drop(owner)

    def _of_the_gone(self, key: ObjectKey) -> Verdict:
        """Load balancers of condemned Services: each as if its Service were there, its deletion begun."""
        self.states.pop(key, None)
        verdict: Verdict = Settled()
        for owner in self._holdings.of(key):
            if owner not in self._condemned:
                continue
            ghost = Service(key, uid=owner.uid, deleted_at="vanished")
            outcome = self._reconciler.reconcile(ghost, self.targets(), owns=True)
            assert outcome is not None, "what we own is ours to clean up"
            self._count(outcome)
            if outcome.result is Result.DELETED:
                self._holdings.drop(owner)
                self._condemned.discard(owner)
            else:
                verdict = verdict_of(outcome, None)
        return verdict
