"""The manners of a client whose API server is in trouble: how often to ask, and when it is back.

Together the users of one transport (two reflectors, an elector, workers) ask fewer than once a second
while nothing answers, and all go on as soon as the first of them is answered.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

LONG_ENOUGH_S = 2.0
"""An outage shorter than this wakes nobody and stops nobody: everybody's own pace is quick enough."""

FRESH_S = 6.0
"""A failure older than this says nothing about now. Longer than the reflectors' longest pause."""


class Backoff:
    """Pauses for one user's failures in a row: 0.2, 0.6, 1.8, then 5 s, each cut by up to a fifth at
    random so that replicas spread."""

    FIRST_S, FACTOR, CAP_S = 0.2, 3.0, 5.0

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._failures = 0

    def next_s(self) -> float:
        pause_s = min(self.FIRST_S * self.FACTOR**self._failures, self.CAP_S)
        self._failures = min(self._failures + 1, 10)
        return pause_s * self._rng.uniform(0.8, 1.0)

    def reset(self) -> None:
        self._failures = 0


class Outage:
    """Whether the API server answers, as all users of one transport see it together. Thread-safe."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._lock = threading.Lock()
        self._since_s: float | None = None
        self._last_failure_s = 0.0
        self._wakers: list[Callable[[], None]] = []

    def on_recovery(self, wake: Callable[[], None]) -> None:
        """`wake` is called, from any thread, when the first answer after an outage has come."""
        self._wakers.append(wake)

    def answered(self) -> None:
        with self._lock:
            was_out = self._since_s is not None and self._now_s() - self._since_s >= LONG_ENOUGH_S
            self._since_s = None
        if was_out:
            for wake in self._wakers:
                wake()

    def failed(self) -> None:
        with self._lock:
            self._last_failure_s = self._now_s()
            if self._since_s is None:
                self._since_s = self._last_failure_s

    def is_on(self) -> bool:
        """True: asking is futile, somebody has just tried. Those who need not be first stay silent."""
        with self._lock:
            now_s = self._now_s()
            return (
                self._since_s is not None
                and now_s - self._since_s >= LONG_ENOUGH_S
                and now_s - self._last_failure_s < FRESH_S
            )
