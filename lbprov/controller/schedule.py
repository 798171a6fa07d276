"""Which Services are due in a pass that is not over all of them. Pure: the clock is the caller's."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from lbprov.controller.news import News, news
from lbprov.logic.selection import FINALIZER
from lbprov.model import ObjectKey, Outcome, Owner, Result, Service, Target

MAX_PAUSE_S = 300.0
MIN_PAUSE_S = 0.2


@dataclass(slots=True)
class _Seen:
    """`due_s` None: not before the Service asks for something else."""

    service: Service
    due_s: float | None = None
    failures: int = 0


class Schedule:
    """A Service is due when it is new or asks for something else, when the targets are others, or when its
    retry is: what needs time after as long as it said, what failed after pauses that double up to
    MAX_PAUSE_S. `held`: what the world was last known to hold, less what was settled since."""

    def __init__(self) -> None:
        self.held: dict[ObjectKey, list[Owner]] = {}
        self._seen: dict[ObjectKey, _Seen] = {}
        self._targets: tuple[Target, ...] | None = None

    def begin(self, targets: tuple[Target, ...], keys: Collection[ObjectKey]) -> None:
        """Before a pass over a cluster with these Services. Other targets make every Service due."""
        self._seen = {k: s for k, s in self._seen.items() if k in keys} if targets == self._targets else {}
        self._targets = targets

    def is_due(self, service: Service, now_s: float) -> bool:
        seen = self._seen.get(service.key)
        if seen is None or news(seen.service, service, None, FINALIZER) is not News.NONE:
            return True
        return seen.due_s is not None and seen.due_s <= now_s

    def note(self, service: Service, outcome: Outcome | None, now_s: float) -> None:
        before = self._seen.get(service.key)
        seen = self._seen[service.key] = _Seen(service)
        if outcome is None or outcome.result not in (Result.FAILED, Result.PENDING):
            self.held.pop(service.key, None)
        if outcome is None or outcome.retry_after_s is None:
            return
        pause_s = outcome.retry_after_s
        if outcome.result is Result.FAILED:
            seen.failures = 1 + (before.failures if before else 0)
            pause_s *= 2 ** min(seen.failures - 1, 32)
        seen.due_s = now_s + min(max(pause_s, MIN_PAUSE_S), MAX_PAUSE_S)

    def next_s(self) -> float | None:
        """When the next retry is due."""
        return min((s.due_s for s in self._seen.values() if s.due_s is not None), default=None)
