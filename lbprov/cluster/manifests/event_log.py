"""The Events of a folder's Services, kept in the state. Pure.

State keys: `events/NAMESPACE/NAME` -> [{"severity", "reason", "message", "count", "first_at", "last_at"}, …].
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from lbprov.cluster.manifests.state import EVENTS
from lbprov.model import Event, ObjectKey, Severity

MAX_EVENTS = 20


@dataclass(frozen=True, slots=True)
class RecordedEvent:
    """An Event and how often it has happened. `first_at`, `last_at`: RFC 3339."""

    event: Event
    count: int
    first_at: str
    last_at: str


def events_key(key: ObjectKey) -> str:
    return f"{EVENTS}{key.namespace}/{key.name}"


def with_events(
    recorded: Sequence[dict[str, Any]], events: Iterable[Event], now: str
) -> list[dict[str, Any]]:
    """The newest last; at most MAX_EVENTS."""
    kept = list(recorded)
    for event in events:
        kept = _with_event(kept, event, now)
    return kept[-MAX_EVENTS:]


def _with_event(recorded: list[dict[str, Any]], event: Event, now: str) -> list[dict[str, Any]]:
    """The same Event again is counted and moves to the end."""
    same = {"severity": str(event.severity), "reason": event.reason, "message": event.message}
    old = next((e for e in recorded if same.items() <= e.items()), None)
    if old is None:
        return [*recorded, {**same, "count": 1, "first_at": now, "last_at": now}]
    again = {**old, "count": old["count"] + 1, "last_at": now}
    return [*(e for e in recorded if e is not old), again]


def recorded_event(stored: dict[str, Any]) -> RecordedEvent:
    event = Event(Severity(stored["severity"]), stored["reason"], stored["message"])
    return RecordedEvent(event, stored["count"], stored["first_at"], stored["last_at"])
