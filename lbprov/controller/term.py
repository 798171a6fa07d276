"""One stretch of leadership: everything that lives from the moment when we may write until we may not.

A new term begins with nothing but the cluster as it is seen now: queue, provider (with its picture of the
world) and accounts are made anew, and what is left of an old term writes nothing any more.
"""

from __future__ import annotations

import logging
import random
import threading
import time
import typing
from collections.abc import Callable
from dataclasses import dataclass

from lbprov.api import Provider, ProviderError, ProviderSpec, RetryLater
from lbprov.controller.drift import Debounce, Repairs
from lbprov.controller.guard import GuardedCluster, GuardedProvider
from lbprov.controller.holdings import Holdings
from lbprov.controller.live import LiveCluster
from lbprov.controller.news import Ledger, News
from lbprov.controller.queue import Lane, Turns, WorkQueue
from lbprov.controller.reconcile import TURN_S, Reconciler
from lbprov.controller.turn import State, Turn
from lbprov.controller.workers import Workers
from lbprov.logic import events
from lbprov.logic.brakes import mass_deletion
from lbprov.logic.orphans import why_orphaned
from lbprov.logic.selection import FINALIZER, Decision
from lbprov.model import ObjectKey, Owner, Service
from lbprov.observe.health import Pulse
from lbprov.observe.metrics import Metrics

log = logging.getLogger(__name__)

TICK_S = 0.1
VANISHED_WINDOW_S = 2.0
LISTING_RETRY_S, LISTING_RETRY_MAX_S = 5.0, 60.0
HOUSE_MAY_BE_SILENT_S = 30.0
TOLD_AT_ONCE = 20
KNOWN_BY_THE_WORLD = (Decision.CLEAN_UP, Decision.HOLD)
"""Where the world may tell what the Service does not any more: its claim was wiped out."""


@dataclass(frozen=True, slots=True)
class Settings:
    """`drift_period_s` 0: nothing is looked at again without a reason. `grace_s`: how long what is under way
    at the end may take. `node_window_s`: for how long changes of nodes are gathered. `more_classes`: served
    beside the provider's own."""

    workers: int = 4
    own_classless: bool = False
    drift_period_s: float = 600.0
    grace_s: float = 20.0
    node_window_s: float = 1.0
    more_classes: tuple[str, ...] = ()


class Term:
    """`begin`, then `fence` (writes end at once) or `end` (what is under way may finish first)."""

    def __init__(
        self,
        cluster: LiveCluster,
        provider: Provider[typing.Any],
        spec: ProviderSpec,
        settings: Settings,
        metrics: Metrics,
        pulse: Pulse,
        *,
        is_leader: Callable[[], bool] = lambda: True,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster = cluster
        self._settings = settings
        self._pulse = pulse
        self._is_leader = is_leader
        self._now_s = now_s
        self._fenced = False
        self._over = threading.Event()
        self._lock = threading.Lock()  # of what the watch tells and the house-keeper takes
        self._nodes_changed = Debounce(settings.node_window_s)
        self._vanished_changed = Debounce(VANISHED_WINDOW_S)
        self._vanished: set[ObjectKey] = set()
        self._repairs: Repairs[ObjectKey] = Repairs()
        self._orphans: frozenset[Owner] = frozenset()
        self._holdings = Holdings()
        self._ledger = Ledger(FINALIZER)
        self._provider = GuardedProvider(provider, self.may_write, metrics)
        self._guarded = GuardedCluster(cluster, self.may_write, metrics, self._ledger, now_s)
        self._reconciler = Reconciler(
            self._guarded,
            self._provider,
            spec,
            own_classless=settings.own_classless,
            more_classes=settings.more_classes,
            turn_s=TURN_S,
            in_flight_s=spec.in_flight_s,
            now_s=now_s,
        )
        self._turn = Turn(
            cluster,
            self._guarded,
            self._reconciler,
            self._holdings,
            self._ledger,
            metrics,
            drift_period_s=settings.drift_period_s,
            now_s=now_s,
        )
        self._targets = self._turn.targets()
        chance = random.random
        self.queue: WorkQueue[ObjectKey] = WorkQueue(
            Turns(group=lambda key: key.namespace, chance=chance), now_s
        )
        self._workers = Workers(
            self.queue, self._turn, settings.workers, on_bug=lambda _: metrics.count_error("total", "bug")
        )
        self._threads = [
            threading.Thread(target=self._keep_house, name="house-keeper", daemon=True),
            threading.Thread(target=self._list_the_world, name="lister", daemon=True),
        ]

    def may_write(self) -> bool:
        return not self._fenced and self._is_leader()

    def begin(self) -> None:
        """Returns soon. Everything of ours is looked at: what is new first, and what was served before after
        it; the oldest first."""
        for service in sorted(self._cluster.services.values(), key=lambda s: (s.created_at, s.key)):
            self._ledger.see(service.key, service)
            decision = self._reconciler.decide(service)
            if decision is Decision.LEAVE:
                continue
            served = decision in (Decision.ENSURE, Decision.HOLD) and FINALIZER in service.finalizers
            self._add(service.key, Lane.RECHECK if served else Lane.CHANGED)
        self._workers.start()
        for thread in self._threads:
            thread.start()

    def fence(self) -> None:
        """Nothing is written any more, and nothing begun."""
        self._fenced = True
        self.end(0.0)

    def end(self, grace_s: float) -> bool:
        """Whether everything that was under way has ended within the grace. Idempotent."""
        self._over.set()
        self._pulse.end("house-keeper")
        drained = self._workers.stop(grace_s)
        self._fenced = True
        return drained

    # -- what the watch tells (on its threads; must return at once)

    def on_service(self, key: ObjectKey) -> None:
        new = self._cluster.services.get(key)
        old, news = self._ledger.see(key, new)
        if news is News.OVERWRITTEN:
            with self._lock:
                self._repairs.ask(key, self._now_s())
        elif news is News.CHANGED:
            if new is None or (old is not None and old.uid != new.uid):
                with self._lock:
                    self._vanished.add(key)
                    self._vanished_changed.news(self._now_s())
            if new is not None and (self._concerns_us(new) or self._concerns_us(old)):
                self._add(key, Lane.CHANGED)

    def on_recovery(self) -> None:
        """The API server answers again: what it could not be told is not kept waiting by a back-off."""
        for key in self._guarded.unreached():
            self.queue.add(key, Lane.CHANGED)

    def on_nodes(self) -> None:
        with self._lock:
            self._nodes_changed.news(self._now_s())

    def _concerns_us(self, service: Service | None) -> bool:
        if service is None:
            return False
        return self._reconciler.decide(service) is not Decision.LEAVE or bool(self._holdings.of(service.key))

    def _add(self, key: ObjectKey, lane: Lane) -> None:
        self._turn.states.setdefault(key, State.UNKNOWN)
        self.queue.add(key, lane)

    # -- the house-keeper

    def _keep_house(self) -> None:
        while not self._over.wait(TICK_S):
            self._pulse.beat("house-keeper", HOUSE_MAY_BE_SILENT_S)
            try:
                self._tick()
            except Exception:
                log.exception("a bug in lbprov: the house-keeper goes on")

    def _tick(self) -> None:
        with self._lock:
            now_s = self._now_s()
            nodes, repairs = self._nodes_changed.take(now_s), self._repairs.take(now_s)
            vanished: set[ObjectKey] = set()
            if self._vanished_changed.take(now_s):
                vanished, self._vanished = self._vanished, set()
        for key in repairs:
            self.queue.add(key, Lane.AFFECTED)
        if nodes:
            self._compare_targets()
        if vanished:
            self._judge(vanished)

    def _compare_targets(self) -> None:
        """Whatever happened to the nodes: what counts is whether other ones take traffic now."""
        targets = self._turn.targets()
        if targets == self._targets:
            return
        log.info("the targets have changed", extra={"before": len(self._targets), "now": len(targets)})
        self._targets = targets
        for service in self._cluster.services.values():
            if self._reconciler.decide(service) is Decision.ENSURE:
                self._add(service.key, Lane.AFFECTED)

    def _judge(self, vanished: set[ObjectKey]) -> None:
        """Services that are gone although their load balancers are not: somebody took the finalizer off, or
        the API server has forgotten them. Few may be cleaned up; if they are many, it is a mistake."""
        gone = [owner for key in vanished for owner in self._holdings.of(key) if self._is_nobodys(owner)]
        for key in vanished:
            if self._cluster.services.get(key) is None:
                self._turn.states.pop(key, None)
        total = len(gone) + len(self._turn.states)
        if mass_deletion(len(gone), total):
            self._keep(gone, total)
            return
        for owner in gone:
            log.warning("vanished with its finalizer: cleaning up", extra={"service": str(owner.service)})
            self._turn.condemn(owner)
            self.queue.add(owner.service, Lane.CHANGED)

    def _keep(self, gone: list[Owner], total: int) -> None:
        """Told where people look for what became of a Service, which is not there any more itself."""
        told = events.vanished(len(gone), total)
        log.error("load balancers of vanished Services are kept", extra={"why": told.message})
        for owner in sorted(gone)[:TOLD_AT_ONCE]:
            self._guarded.emit(owner.service, [told])

    def _is_nobodys(self, owner: Owner) -> bool:
        """No Service stands for it. (One of ours that has taken the name cleans up what was there before.)"""
        service = self._cluster.services.get(owner.service)
        return bool(why_orphaned(owner, service, self._reconciler.claimant))

    # -- the listing of the world

    def _list_the_world(self) -> None:
        retry_s = LISTING_RETRY_S
        while not self._over.is_set():
            if self._listed():
                retry_s = LISTING_RETRY_S
                if not self._settings.drift_period_s:
                    return
                pause_s = self._settings.drift_period_s / 2 * random.uniform(0.8, 1.2)  # noqa: S311
            else:
                pause_s, retry_s = retry_s, min(2 * retry_s, LISTING_RETRY_MAX_S)
            self._over.wait(pause_s)

    def _listed(self) -> bool:
        """Learn what the world holds. The provider refreshes its own picture by it, so that the re-checks
        that follow see what has drifted without a call of their own."""
        self._holdings.begin_listing()
        try:
            owners = self._provider.owners()
        except (ProviderError, RetryLater) as error:
            log.warning("the world cannot be listed", extra={"why": str(error)})
            return False
        except Exception:
            log.exception("a bug in lbprov or the provider: the world cannot be listed")
            return False
        self._holdings.end_listing(owners)
        self._sort_out()
        return True

    def _sort_out(self) -> None:
        """Give a turn to Services whose names, or selves, hold what they should not; tell of what is
        nobody's."""
        orphans = set()
        for owner in self._holdings.owners():
            service = self._cluster.services.get(owner.service)
            if service is None or why_orphaned(owner, service, self._reconciler.claimant):
                orphans.add(owner)
            elif (
                service.uid != owner.uid or self._reconciler.decide(service, owns=True) in KNOWN_BY_THE_WORLD
            ):
                self._add(owner.service, Lane.CHANGED)
        if orphans - self._orphans:
            names = sorted(str(owner.service) for owner in orphans)
            log.warning(
                "the world holds load balancers of Services that do not exist: they are left alone; "
                f"`lbprov gc --provider {self._reconciler.claimant.provider} "
                f"--cluster-name {self._cluster.name}` lists them, and deletes them with --delete",
                extra={"count": len(names), "services": ", ".join(names[:TOLD_AT_ONCE])},
            )
        self._orphans = frozenset(orphans)

    # -- for metrics and health

    def workers_check(self) -> str:
        alive = self._workers.alive()
        dead = self._settings.workers - alive
        return f"{dead} of {self._settings.workers} died" if dead and not self._over.is_set() else ""

    def states(self) -> dict[State, int]:
        counts = dict.fromkeys(State, 0)
        for state in tuple(self._turn.states.values()):
            counts[state] += 1
        return counts

    def orphans(self) -> int:
        return len(self._orphans)
