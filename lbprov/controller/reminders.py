"""Warnings that stand, said again before they are forgotten.

The API server forgets an Event after an hour (`--event-ttl`), and `kubectl describe service` shows no
conditions: a refusal that was told once would be a riddle from then on. So what still stands is said again,
counted on the Event that told of it first, which then stays.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence

from lbprov.model import Event, ObjectKey

AGAIN_S = 2400.0
"""With re-checks of ten minutes, give or take five, an Event is said again within the hour."""


class Reminders:
    """Thread-safe for different Services. What stood when the process began counts as told then."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._lock = threading.Lock()
        self._told_s: dict[ObjectKey, dict[Event, float]] = {}

    def due(self, key: ObjectKey, standing: Iterable[Event]) -> Sequence[Event]:
        """Those that are to be said again; `standing`: all warnings about this Service that hold now."""
        now_s = self._now_s()
        with self._lock:
            before = self._told_s.get(key, {})
            told_s = {event: before.get(event, now_s) for event in standing}
            due = tuple(event for event, at_s in told_s.items() if now_s - at_s >= AGAIN_S)
            told_s |= dict.fromkeys(due, now_s)
            if told_s:
                self._told_s[key] = told_s
            else:
                self._told_s.pop(key, None)
        return due

    def forget(self, key: ObjectKey) -> None:
        with self._lock:
            self._told_s.pop(key, None)
