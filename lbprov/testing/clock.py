"""A clock that moves only when it is told to."""

from __future__ import annotations

import threading


class FakeClock:
    """Stands in for a provider's (`ProviderContext.now_s`) and the controller's clock. Safe for threads."""

    def __init__(self, now_s: float = 1000.0) -> None:
        self._lock = threading.Lock()
        self._now_s = now_s
        self.waits_s: list[float] = []
        """How long was waited, in order."""

    def now_s(self) -> float:
        with self._lock:
            return self._now_s

    def advance(self, seconds: float) -> None:
        with self._lock:
            self._now_s += seconds

    def wait(self, stop: threading.Event, timeout_s: float) -> bool:
        """`stop.wait` that takes no time: the whole timeout has passed when it returns."""
        if stop.is_set():
            return True
        self.waits_s.append(timeout_s)
        self.advance(timeout_s)
        return stop.is_set()
