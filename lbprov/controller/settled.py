"""What each Service was last brought to, and so whether what is to be done now was asked for by anybody.

Where the same is asked for as when all was in place, and still something differs, somebody has changed the
world behind our back. Known for as long as the process lives: what happened while nobody looked is put right
like any other difference, without a word on whose doing it was.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import replace

from lbprov.api import Action, LoadBalancer, Plan, Step
from lbprov.logic.events import Reason
from lbprov.model import Event, ObjectKey, Severity

TOLD_STEPS = 6
TOLD_CHARACTERS = 900
"""An Event's message has 1024 at most."""


class Settled:
    """Thread-safe for different Services."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._desired: dict[ObjectKey, LoadBalancer] = {}

    def drift(self, desired: LoadBalancer, plan: Plan) -> tuple[Step, ...]:
        """The steps of the plan that put right what somebody else has changed."""
        with self._lock:
            before = self._desired.get(desired.owner.service)
        if before is None or before != desired:
            return ()
        return tuple(step for step in plan.steps if not step.expected)

    def is_about_hosts(self, desired: LoadBalancer) -> bool:
        """Other Nodes are to take the traffic, and all else is as it was when all was in place."""
        with self._lock:
            before = self._desired.get(desired.owner.service)
        if before is None or before.targets == desired.targets:
            return False
        return replace(before, targets=desired.targets) == desired

    def settle(self, desired: LoadBalancer) -> None:
        """All is as desired."""
        with self._lock:
            self._desired[desired.owner.service] = desired

    def forget(self, key: ObjectKey) -> None:
        with self._lock:
            self._desired.pop(key, None)


def repaired(steps: Iterable[Step]) -> Event:
    """What was found, and is put right."""
    found = [_told(step) for step in steps]
    more = f"; and {len(found) - TOLD_STEPS} more" if len(found) > TOLD_STEPS else ""
    text = "; ".join(found[:TOLD_STEPS])
    if len(text) > TOLD_CHARACTERS:
        text = text[: TOLD_CHARACTERS - 1] + "…"
    message = f"changed by somebody else, and put right: {text}{more}"
    return Event(Severity.WARNING, Reason.DRIFT_REPAIRED, message)


def _told(step: Step) -> str:
    what = f"{step.kind} {step.name or step.id}"
    if step.action is Action.CREATE:
        return f"{what} was missing ({step.reason})"
    if step.action is Action.DELETE:
        return f"{what} was too much ({step.reason})"
    changes = ", ".join(
        f"{c.field} was {c.before or '(none)'} instead of {c.after or '(none)'}" for c in step.changes
    )
    return f"{what}: {changes or step.reason}"
