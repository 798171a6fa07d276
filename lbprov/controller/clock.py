"""Time, as the controller takes it: `lbprov.testing.clock.FakeClock` is another one."""

from __future__ import annotations

import threading
import time
import typing


class Clock(typing.Protocol):
    def now_s(self) -> float:
        """Monotonic seconds."""

    def wait(self, stop: threading.Event, timeout_s: float) -> bool:
        """True as soon as `stop` is set; False after `timeout_s`."""


class MonotonicClock:
    def now_s(self) -> float:
        return time.monotonic()

    def wait(self, stop: threading.Event, timeout_s: float) -> bool:
        return stop.wait(timeout_s)
