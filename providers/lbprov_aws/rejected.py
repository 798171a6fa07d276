"""Instances that AWS refused as targets: not tried again for a while."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

REJECTED_S = 300.0


class RejectedTargets:
    """Safe for threads. A Node object outlives its instance by minutes; nobody needs a refusal per Service
    and event for it."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._lock = threading.Lock()
        self._until_s: dict[str, float] = {}
        self._ever: set[str] = set()

    def add(self, instances: Iterable[str]) -> None:
        refused = tuple(instances)
        with self._lock:
            self._until_s |= dict.fromkeys(refused, self._now_s() + REJECTED_S)
            self._ever.update(refused)

    def now(self) -> frozenset[str]:
        now_s = self._now_s()
        with self._lock:
            self._until_s = {i: until_s for i, until_s in self._until_s.items() if until_s > now_s}
            return frozenset(self._until_s)

    def ever(self) -> frozenset[str]:
        """Those that were refused at any time: that one of them is no target is nobody's doing."""
        with self._lock:
            return frozenset(self._ever)
