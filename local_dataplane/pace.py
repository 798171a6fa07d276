"""How soon after one write the next may follow. Pure."""

from __future__ import annotations

from dataclasses import dataclass

NEVER_S = float("-inf")

MAX_REST_S = 0.5
"""After a first load of seconds, too, the next change is not kept waiting for long."""


@dataclass(slots=True)
class Pace:
    """The first change after a quiet time is written at once; what comes in soon after is gathered. Two
    writes begin at least `min_period_s` apart, and the pause between them is as long as the first one took
    (but for `MAX_REST_S` at most), so that writing seldom takes more than half of one core."""

    min_period_s: float
    _due_s: float = NEVER_S

    def wrote(self, begun_s: float, ended_s: float) -> None:
        self._due_s = max(begun_s + self.min_period_s, ended_s + min(ended_s - begun_s, MAX_REST_S))

    def pause_s(self, now_s: float) -> float:
        """How long to go on gathering before the next write."""
        return max(0.0, self._due_s - now_s)
