"""The manners of a client whose API server is in trouble: how often to ask, and when it is back.

Together the users of one transport (reflectors, an elector, a probe, workers) ask fewer than once a second
while nothing answers, and all go on as soon as the first of them is answered.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

LONG_ENOUGH_S = 2.0
"""An outage shorter than this wakes nobody: everybody's own pace is quick enough."""

SILENT_AFTER_S = 1.0
"""From then on those who need not be first stay silent."""

FRESH_S = 6.0
"""A failure older than this says nothing about now. Longer than the longest pause between two requests."""

APART_S = (0.0, 0.5, 1.5, 2.5)
"""After so many requests of an outage, the next is that much later: whoever asks, asks for everybody."""


class Backoff:
    """Pauses for one user's failures in a row: 0.2, 0.6, 1.8, then 4.8 s, each cut by up to a tenth at
    random so that replicas spread."""

    FIRST_S, FACTOR, CAP_S = 0.2, 3.0, 4.8

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._failures = 0

    def next_s(self) -> float:
        pause_s = min(self.FIRST_S * self.FACTOR**self._failures, self.CAP_S)
        self._failures = min(self._failures + 1, 10)
        return pause_s * self._rng.uniform(0.9, 1.0)

    def reset(self) -> None:
        self._failures = 0


class Outage:
    """Whether the API server answers, as all users of one transport see it together. Thread-safe."""

    def __init__(self, now_s: Callable[[], float], rng: random.Random | None = None) -> None:
        self._now_s = now_s
        self._rng = rng or random.Random()  # noqa: S311 - jitter, no secret
        self._lock = threading.Lock()
        self._since_s: float | None = None
        self._last_failure_s = 0.0
        self._asks = 0  # since it began
        self._next_ask_s = 0.0
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
                self._asks, self._next_ask_s = 0, 0.0

    def asks(self) -> None:
        """Somebody is about to ask who cannot wait until it is his turn: the others hold back after him."""
        with self._lock:
            self._note_ask()

    def hold_s(self) -> float:
        """0: ask now, and for a while the others hold back. Else somebody has just asked: after so many
        seconds, or when woken, it is time to look at this again."""
        with self._lock:
            left_s = self._next_ask_s - self._now_s()
            if self._since_s is None or left_s <= 0:
                self._note_ask()
                return 0.0
            return left_s

    def _note_ask(self) -> None:
        self._asks = min(self._asks + 1, len(APART_S) - 1)
        self._next_ask_s = self._now_s() + APART_S[self._asks] * self._rng.uniform(0.9, 1.0)

    def is_on(self) -> bool:
        """True: asking is futile, somebody has just tried. Those who need not be first stay silent."""
        with self._lock:
            now_s = self._now_s()
            return (
                self._since_s is not None
                and now_s - self._since_s >= SILENT_AFTER_S
                and now_s - self._last_failure_s < FRESH_S
            )
