"""Resources with our mark that no Service wants: found, and taken away when told to.

The world is listed before the cluster is read, so that a Service made meanwhile is never taken for missing;
and the cluster is read once more right before anything of an owner's goes.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from lbprov.api import Action, LbprovError, Owner, Plan, Provider, RetryLater
from lbprov.cluster.seam import Cluster, Problem, Snapshot
from lbprov.controller.clock import Clock
from lbprov.controller.reconcile import GONE_POLL_S
from lbprov.logic.brakes import mass_deletion
from lbprov.logic.orphans import why_unwanted
from lbprov.logic.selection import Claimant, Decision, decide, is_ours

MIN_WAIT_S = 0.05

_log = logging.getLogger(__name__)


class Fate(StrEnum):
    """What became of one owner's resources. `wanted`: a Service stands for them by now; `pending`: the world
    needs more time."""

    KEPT = "kept"
    DELETED = "deleted"
    WANTED = "wanted"
    PENDING = "pending"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Held:
    """A resource in the world. `since`: RFC 3339, empty where the world does not tell."""

    kind: str
    name: str
    id: str
    since: str = ""


@dataclass(frozen=True, slots=True)
class Orphan:
    """An owner that no Service stands for. `resources` in the order in which they can be deleted; `message`:
    why they are pending or failed."""

    owner: Owner
    why: str
    resources: tuple[Held, ...] = ()
    fate: Fate = Fate.KEPT
    message: str = ""
    retry_after_s: float = 0.0


@dataclass(frozen=True, slots=True)
class SweepResult:
    """`refusal`: why nothing was deleted although it was asked for (a brake)."""

    orphans: tuple[Orphan, ...]
    problems: tuple[Problem, ...] = ()
    refusal: str = ""

    @property
    def clean(self) -> bool:
        """Whether everything that was asked for is done."""
        bad = (Fate.PENDING, Fate.FAILED)
        return not self.refusal and not any(o.fate in bad for o in self.orphans)


@dataclass(frozen=True, slots=True)
class Sweep:
    """`force` lets a mass deletion through; `wait_s`: how long to go on with what needs time. A set `stop`
    lets what has begun end, and begins nothing more."""

    cluster: Cluster
    provider: Provider[Any]
    claimant: Claimant
    clock: Clock
    stop: threading.Event
    workers: int = 8
    force: bool = False
    wait_s: float = 0.0

    def run(self, *, delete: bool = False) -> SweepResult:
        """Raises what the world or the cluster raises when it cannot be listed."""
        owners = self.provider.owners()
        snapshot = self.cluster.snapshot()
        orphans = [o for o in self._orphans(owners, snapshot) if o.resources or o.fate is Fate.FAILED]
        if not delete or not orphans:
            return SweepResult(tuple(orphans), snapshot.problems)
        refusal = "" if self.force else self._refusal(len(orphans), len(owners), snapshot)
        if refusal:
            return SweepResult(tuple(orphans), snapshot.problems, refusal)
        return SweepResult(tuple(self._deleted(orphans)), snapshot.problems)

    def _orphans(self, owners: Iterable[Owner], snapshot: Snapshot) -> list[Orphan]:
        services = {s.key: s for s in snapshot.services}
        found = []
        for owner in sorted(owners):
            if why := why_unwanted(owner, services.get(owner.service), self.claimant):
                orphan = Orphan(owner, why)
                try:
                    found.append(replace(orphan, resources=_held(self._plan(owner))))
                except LbprovError as err:
                    found.append(replace(orphan, fate=Fate.FAILED, message=str(err)))
        return found

    def _plan(self, owner: Owner, *, fresh: bool = False) -> Plan:
        plan = self.provider.plan(None, self.provider.observe(owner, None, fresh=fresh))
        if plan.owner != owner:
            raise ValueError(f"the plan for {owner} is one for {plan.owner}: not carried out")
        return plan

    def _refusal(self, gone: int, total: int, snapshot: Snapshot) -> str:
        """A cluster that shows none of our Services may be the wrong one; one that is read in part may have
        just the Service that is missing."""
        broken = [str(problem) for problem in snapshot.problems if problem.fatal]
        if broken:
            return (
                f"{len(broken)} objects of the cluster cannot be read ({broken[0]}), and any of them may be "
                "a Service that wants these: nothing was deleted. Use --force if it is meant."
            )
        ours = any(
            is_ours(s, self.claimant) or decide(s, self.claimant) is not Decision.LEAVE
            for s in snapshot.services
        )
        return mass_deletion(gone, total, sound=ours, what="owners of load balancers") or ""

    def _deleted(self, orphans: Sequence[Orphan]) -> list[Orphan]:
        """In rounds: what the world needs time for is come back to when it said, until `wait_s` is over."""
        deadline_s = self.clock.now_s() + self.wait_s
        done = {orphan.owner: orphan for orphan in orphans}
        due_s = {orphan.owner: self.clock.now_s() for orphan in orphans}
        while due_s:
            now_s = self.clock.now_s()
            ready = [done[owner] for owner, at_s in sorted(due_s.items()) if at_s <= now_s]
            with ThreadPoolExecutor(max(1, min(self.workers, len(ready))), "sweep") as pool:
                for orphan in pool.map(self._delete, ready):
                    done[orphan.owner] = orphan
                    due_s.pop(orphan.owner)
                    if orphan.fate is Fate.PENDING and not self.stop.is_set():
                        due_s[orphan.owner] = self.clock.now_s() + orphan.retry_after_s
            if not due_s or (pause_s := min(due_s.values()) - self.clock.now_s()) > (
                deadline_s - self.clock.now_s()
            ):
                break
            self.clock.wait(self.stop, max(pause_s, MIN_WAIT_S))
        return [done[orphan.owner] for orphan in orphans]

    def _delete(self, orphan: Orphan) -> Orphan:
        """As far as the world lets it go now."""
        if self.stop.is_set():
            return replace(orphan, fate=Fate.PENDING, message="interrupted before its turn")
        owner = orphan.owner
        try:
            services = {s.key: s for s in self.cluster.snapshot().services}
            if not why_unwanted(owner, services.get(owner.service), self.claimant):
                return replace(orphan, fate=Fate.WANTED, message="a Service stands for them by now")
            plan = self._plan(owner)
            bindings = dict(plan.bindings)
            for step in plan.steps:
                self.provider.apply(step, bindings)
                _log.info("deleted", extra={"whose": str(owner), "kind": step.kind, "resource": step.name})
            left = self._plan(owner, fresh=True)
        except RetryLater as later:
            return replace(orphan, fate=Fate.PENDING, message=str(later), retry_after_s=later.after_s)
        except LbprovError as err:
            return replace(orphan, fate=Fate.FAILED, message=str(err))
        except Exception as err:
            _log.exception("bug", extra={"whose": str(owner)})
            return replace(orphan, fate=Fate.FAILED, message=f"a bug in lbprov: {type(err).__name__}: {err}")
        if left.steps:
            kinds = ", ".join(dict.fromkeys(step.kind for step in left.steps))
            message = f"still going away: {kinds}"
            return replace(orphan, fate=Fate.PENDING, message=message, retry_after_s=GONE_POLL_S)
        return replace(orphan, fate=Fate.DELETED, message="")


def _held(plan: Plan) -> tuple[Held, ...]:
    """What is to be deleted; or what is to be changed first, before it can be."""
    deletions = [step for step in plan.steps if step.action is Action.DELETE]
    return tuple(Held(step.kind, step.name, step.id, step.since) for step in deletions or plan.steps)
