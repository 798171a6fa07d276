"""What of a change to a Service is news to the controller.

Most that a watch shows is not: labels, selectors, and the echo of what the controller has written itself. A
reconcile for each would cost no cloud call, but a turn; and one that failed would start again by the echo of
its own condition.
"""

from __future__ import annotations

import dataclasses
import operator
import threading
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum, auto

from lbprov.model import Condition, Ingress, IPMode, ObjectKey, Service

OUR_CONDITIONS = "lbprov.io/"

_INDIFFERENT = {
    "labels",
    "selector",
    "generation",
    "created_at",
    "internal_traffic_policy",
    "publish_not_ready_addresses",
}
_LOOKED_AT_APART = {"ingress", "conditions", "finalizers"}
_asked_for = operator.attrgetter(
    *(f.name for f in dataclasses.fields(Service) if f.name not in _INDIFFERENT | _LOOKED_AT_APART)
)
"""All that a load balancer may depend on: a field new to the model is news until it is named above."""


class News(Enum):
    """`CHANGED`: something else is asked for. `OVERWRITTEN`: somebody else has changed what we write."""

    NONE = auto()
    CHANGED = auto()
    OVERWRITTEN = auto()


@dataclass(frozen=True, slots=True)
class Written:
    """The part of a status that is ours to write."""

    ingress: tuple[Ingress, ...]
    conditions: frozenset[Condition]

    @classmethod
    def of(cls, ingress: Iterable[Ingress], conditions: Iterable[Condition]) -> Written:
        """As the API server will show it: an address that does not say how is a VIP (KEP-1860)."""
        shown = (replace(i, ip_mode=IPMode.VIP) if i.ip and i.ip_mode is None else i for i in ingress)
        return cls(tuple(shown), frozenset(c for c in conditions if c.type.startswith(OUR_CONDITIONS)))


def news(old: Service | None, new: Service | None, written: Written | None, finalizer: str) -> News:
    """What `new` is, after `old`, to a controller that has last written, or found right, `written` (None:
    this Service's status is not its business). A status that is neither as before nor as written was
    overwritten; so was a finalizer that is gone while nothing else is asked for."""
    if old is None or new is None or _asked_for(old) != _asked_for(new):
        return News.CHANGED
    status = Written.of(new.ingress, new.conditions)
    if written is not None and status not in (written, Written.of(old.ingress, old.conditions)):
        return News.OVERWRITTEN
    if written is not None and finalizer in old.finalizers and finalizer not in new.finalizers:
        return News.OVERWRITTEN
    return News.NONE


class Ledger:
    """What was last seen and last written of every Service. Thread-safe: the watch sees, workers write."""

    def __init__(self, finalizer: str) -> None:
        self._finalizer = finalizer
        self._lock = threading.Lock()
        self._seen: dict[ObjectKey, Service] = {}
        self._written: dict[ObjectKey, Written] = {}

    def see(self, key: ObjectKey, new: Service | None) -> tuple[Service | None, News]:
        """(what was seen before, what the change is)."""
        with self._lock:
            old = self._seen.get(key)
            found = news(old, new, self._written.get(key), self._finalizer)
            if new is not None:
                self._seen[key] = new
            else:
                self._seen.pop(key, None)
                self._written.pop(key, None)
            return old, found

    def write(self, key: ObjectKey, ingress: Iterable[Ingress], conditions: Iterable[Condition]) -> None:
        """Right before it is written (the echo may be here before the answer), or found to be right."""
        with self._lock:
            self._written[key] = Written.of(ingress, conditions)

    def release(self, key: ObjectKey) -> None:
        """Right before the finalizer is taken off: its status is nobody's to repair any more."""
        with self._lock:
            self._written.pop(key, None)
