"""One pass over a cluster: every Service that is ours carried through, several at once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from lbprov.api import LbprovError, Owner, Provider, Reason, Target, UserError
from lbprov.cluster.seam import Cluster, Problem, Snapshot
from lbprov.controller.asked import Asked
from lbprov.controller.clock import Clock
from lbprov.controller.reconcile import Reconciler, is_being_deleted, result_of
from lbprov.controller.schedule import Schedule
from lbprov.logic.brakes import mass_deletion
from lbprov.logic.nodes import targets_of
from lbprov.logic.orphans import why_orphaned
from lbprov.logic.selection import Decision
from lbprov.model import ObjectKey, Outcome, Result, Service

MIN_WAIT_S = 0.05

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PassResult:
    """`outcomes` of the Services that are ours, sorted by key. `orphans`: owners of resources that no Service
    stands for."""

    outcomes: tuple[Outcome, ...]
    problems: tuple[Problem, ...] = ()
    orphans: tuple[Owner, ...] = ()

    @property
    def converged(self) -> bool:
        bad = (Result.FAILED, Result.PENDING)
        return not any(o.result in bad for o in self.outcomes) and not any(p.fatal for p in self.problems)


@dataclass(frozen=True, slots=True)
class Pass:
    """What a pass works with. `force` lets a mass deletion through; `wait_s`: how long to go on with what
    needs time; `asked` is told of all Services. A set `stop` lets what has begun end, and begins nothing
    more."""

    cluster: Cluster
    provider: Provider[Any]
    engine: Reconciler
    clock: Clock
    stop: threading.Event
    workers: int = 8
    force: bool = False
    wait_s: float = 0.0
    asked: Asked | None = None

    def run(self, schedule: Schedule | None = None, *, full: bool = True) -> PassResult:
        """`full`: over all Services, after asking the world what it holds (for drift, former owners and
        orphans); otherwise over those that are due by the schedule. Raises what the cluster raises when it
        cannot be read."""
        snapshot = self._read()
        schedule = schedule or Schedule()
        targets = targets_of(snapshot.nodes)
        schedule.begin(targets, {s.key for s in snapshot.services})
        if full:
            schedule.held = self._held()
        orphans = self._orphans(snapshot, schedule.held) if full else ()
        jobs = self._braked(self._jobs(snapshot.services, schedule))
        if not full:
            jobs = [job for job in jobs if schedule.is_due(job.service, self.clock.now_s())]
        attempts: dict[ObjectKey, list[Outcome]] = {}
        self._round(jobs, targets, attempts, schedule)
        self._wait_for_pending(attempts, schedule)
        first = {job.service.key: job.service for job in jobs}
        outcomes = [merged(first[key], tried) for key, tried in sorted(attempts.items())]
        return PassResult(tuple(outcomes), snapshot.problems, orphans)

    def _read(self) -> Snapshot:
        snapshot = self.cluster.snapshot()
        if self.asked is not None:
            self.asked.follow(lambda: snapshot.services)
        return snapshot

    def _held(self) -> dict[ObjectKey, list[Owner]]:
        """What the world holds of our cluster, by Service name."""
        held: dict[ObjectKey, list[Owner]] = {}
        try:
            for owner in sorted(self.provider.owners()):
                held.setdefault(owner.service, []).append(owner)
        except LbprovError as err:
            _log.warning("the world does not say what it holds", extra={"why": str(err)})
        except Exception:
            _log.exception("bug")
        return held

    def _jobs(self, services: Iterable[Service], schedule: Schedule) -> list[_Job]:
        """Older Services first: of two that want one address, the older one should get it."""
        jobs = []
        for service in sorted(services, key=lambda s: (s.created_at, s.key)):
            owners = schedule.held.get(service.key, ())
            owns = any(o.uid == service.uid for o in owners)
            decision = self.engine.decide(service, owns=owns)
            stays = decision in (Decision.LEAVE, Decision.HOLD)
            former = () if stays else tuple(o for o in owners if o.uid != service.uid)
            jobs.append(_Job(service, decision, owns, former))
        return jobs

    def _braked(self, jobs: list[_Job]) -> list[_Job]:
        gone = sum(job.takes_away for job in jobs)
        total = sum(job.decision is not Decision.LEAVE for job in jobs)
        reason = None if self.force else mass_deletion(gone, total, sound=True)  # the snapshot was read
        if reason is None:
            return jobs
        refusal = UserError(reason, reason=Reason.MASS_DELETION)
        return [replace(job, refusal=refusal) if job.takes_away else job for job in jobs]

    def _round(
        self,
        jobs: Sequence[_Job],
        targets: tuple[Target, ...],
        attempts: dict[ObjectKey, list[Outcome]],
        schedule: Schedule,
    ) -> None:
        def carry_through(job: _Job) -> Outcome | None:
            if self.stop.is_set():
                return _interrupted(job)
            return self.engine.reconcile(
                job.service, targets, former=job.former, owns=job.owns, refusal=job.refusal
            )

        with ThreadPoolExecutor(max(1, min(self.workers, len(jobs))), "reconcile") as pool:
            for job, outcome in zip(jobs, pool.map(carry_through, jobs), strict=True):
                if outcome is not None:
                    attempts.setdefault(job.service.key, []).append(outcome)
                schedule.note(job.service, outcome, self.clock.now_s())

    def _wait_for_pending(self, attempts: dict[ObjectKey, list[Outcome]], schedule: Schedule) -> None:
        """Again and again, each when it asked to be, until all are settled or the time is over."""
        deadline_s = self.clock.now_s() + self.wait_s
        due_s = _due(attempts, attempts, self.clock.now_s())
        while due_s and not self.stop.is_set():
            now_s = self.clock.now_s()
            if now_s >= deadline_s:
                return
            pause_s = max(min(due_s.values()) - now_s, MIN_WAIT_S)
            if self.clock.wait(self.stop, min(pause_s, deadline_s - now_s)):
                return
            now_s = self.clock.now_s()
            ready = {key for key, at_s in due_s.items() if at_s <= now_s}
            try:
                snapshot = self._read()
            except LbprovError as err:
                _log.warning("the cluster cannot be read any more", extra={"why": str(err)})
                return
            services = [s for s in snapshot.services if s.key in ready]
            self._round(self._jobs(services, schedule), targets_of(snapshot.nodes), attempts, schedule)
            due_s = {k: v for k, v in due_s.items() if k not in ready} | _due(attempts, ready, now_s)

    def _orphans(self, snapshot: Snapshot, held: Mapping[ObjectKey, list[Owner]]) -> tuple[Owner, ...]:
        """Nothing is done about them here: why a Service is missing is not ours to guess."""
        services = {s.key: s for s in snapshot.services}
        orphans: list[Owner] = []
        for key, owners in held.items():
            orphans += [o for o in owners if why_orphaned(o, services.get(key), self.engine.claimant)]
        if orphans:
            shown = ", ".join(str(o) for o in orphans[:5])
            _log.warning("resources of Services that are no more", extra={"n": len(orphans), "whose": shown})
        return tuple(orphans)


@dataclass(frozen=True, slots=True)
class _Job:
    service: Service
    decision: Decision
    owns: bool = False
    former: tuple[Owner, ...] = ()
    refusal: UserError | None = None

    @property
    def takes_away(self) -> bool:
        """A load balancer would go that nobody has deleted: by another type or class, by a state
        that was lost. (Of a Service whose deletion has begun, the cluster has decided.)"""
        begun = bool(self.service.deleted_at) or is_being_deleted(self.service)
        return bool(self.former) or (self.decision is Decision.CLEAN_UP and not begun)


def _interrupted(job: _Job) -> Outcome | None:
    if job.decision is Decision.LEAVE:
        return None
    return Outcome(
        job.service.key,
        Result.PENDING,
        job.service.ingress,
        retry_after_s=0.0,
        message="interrupted before its turn",
    )


def _due(
    attempts: Mapping[ObjectKey, list[Outcome]], keys: Iterable[ObjectKey], now_s: float
) -> dict[ObjectKey, float]:
    last = {key: attempts[key][-1] for key in keys}
    return {key: now_s + (o.retry_after_s or 0.0) for key, o in last.items() if o.result is Result.PENDING}


def merged(before: Service, attempts: Sequence[Outcome]) -> Outcome:
    """One Service's several attempts as one outcome; `before` is the Service as the first one found it."""
    last = attempts[-1]
    if len(attempts) == 1:
        return last
    result = last.result
    if result in (Result.UNCHANGED, Result.UPDATED, Result.CREATED):
        changed = any(a.plan and a.plan.steps for a in attempts) or last.ingress != before.ingress
        result = result_of(before, changed=changed)
    return replace(
        last,
        result=result,
        events=tuple(event for attempt in attempts for event in attempt.events),
        plan=next((a.plan for a in attempts if a.plan and a.plan.steps), last.plan),
    )
