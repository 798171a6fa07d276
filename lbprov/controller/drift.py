"""When to look again although nothing is known to have changed, and when not to look again too soon.

Pure: the clock is the caller's, in monotonic seconds.
"""

from __future__ import annotations

import hashlib
import typing
from collections.abc import Hashable

K = typing.TypeVar("K", bound=Hashable)

MAX_PAUSE_S = 300.0
CALM_S = 600.0


def recheck_s(key: object, period_s: float, now_s: float) -> float:
    """Seconds until a settled Service is due for its next re-check: between half a period and one and a half.

    Every key has its own place in the period, so that re-checks are spread over it evenly and stay so,
    whatever made the Services settle at the same moment (a start, a change of nodes)."""
    digest = hashlib.blake2b(str(key).encode("utf-8", "surrogatepass"), digest_size=4).digest()
    place_s = int.from_bytes(digest, "big") / 2**32 * period_s
    earliest_s = now_s + period_s / 2
    return earliest_s + (place_s - earliest_s) % period_s - now_s


class Debounce:
    """A burst is one piece of news: due `window_s` after its first, however long it lasts."""

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._due_s: float | None = None

    def news(self, now_s: float) -> None:
        if self._due_s is None:
            self._due_s = now_s + self._window_s

    def take(self, now_s: float) -> bool:
        """Whether a burst is due; it is over then."""
        if self._due_s is None or now_s < self._due_s:
            return False
        self._due_s = None
        return True


class Repairs(typing.Generic[K]):
    """Keys whose status somebody else has overwritten. The first repair is due at once; one that does not
    last (two controllers at odds) is repeated ever more seldom, down to once in `MAX_PAUSE_S`."""

    def __init__(self) -> None:
        self._due_s: dict[K, float] = {}
        self._last: dict[K, tuple[float, float]] = {}  # key -> (when it was last due, the pause before it)

    def ask(self, key: K, now_s: float) -> None:
        if key in self._due_s:
            return
        last_s, pause_s = self._last.get(key, (now_s - CALM_S, 0.0))
        pause_s = 0.0 if now_s - last_s >= CALM_S else min(max(2 * pause_s, 1.0), MAX_PAUSE_S)
        self._due_s[key] = max(now_s, last_s + pause_s)
        self._last[key] = (self._due_s[key], pause_s)

    def take(self, now_s: float) -> list[K]:
        """Keys that are due; they are not any more after this."""
        due = [key for key, due_s in self._due_s.items() if due_s <= now_s]
        for key in due:
            del self._due_s[key]
        for key in [k for k, (last_s, _) in self._last.items() if now_s - last_s >= CALM_S]:
            del self._last[key]
        return due
