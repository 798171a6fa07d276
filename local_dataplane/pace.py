"""How soon after one write the next may follow. Pure."""

from __future__ import annotations

from dataclasses import dataclass

SHARE = 0.1
"""Of one core, for writing, in the long run: in iptables mode every write is a process of its own."""

BURST_S = 0.3
"""So much writing is done at any rate, saved up in quiet times: a Service that is added is two changes or
three, soon after one another."""

MAX_REST_S = 0.5
"""After a first load of seconds, too, the next change is not kept waiting for long."""


@dataclass(slots=True)
class Pace:
    """The first change after a quiet time is written at once; what comes in soon after is gathered. Two
    writes begin at least `min_period_s` apart. Where they go on and on, each is followed by a rest that keeps
    them to `SHARE` (but for `MAX_REST_S` at most)."""

    min_period_s: float
    _credit_s: float = BURST_S  # seconds of writing, as of _as_of_s
    _as_of_s: float = float("-inf")
    _earliest_s: float = float("-inf")

    def wrote(self, begun_s: float, ended_s: float) -> None:
        spent = self._credit_at(begun_s) - (ended_s - begun_s)
        self._credit_s, self._as_of_s = max(spent, -MAX_REST_S * SHARE), ended_s
        self._earliest_s = begun_s + self.min_period_s

    def pause_s(self, now_s: float) -> float:
        """How long to go on gathering before the next write."""
        return max(0.0, self._earliest_s - now_s, -self._credit_at(now_s) / SHARE)

    def _credit_at(self, now_s: float) -> float:
        return min(BURST_S, self._credit_s + (now_s - self._as_of_s) * SHARE)
