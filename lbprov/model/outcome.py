"""What became of one Service in one reconcile."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from lbprov.model.plan import Plan, Severity
from lbprov.model.service import Ingress, ObjectKey


class Result(StrEnum):
    """`pending`: nothing is wrong, the world needs time; a later reconcile goes on from here."""

    CREATED = "created"
    UPDATED = "updated"
    UNCHANGED = "unchanged"
    DELETED = "deleted"
    PENDING = "pending"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Event:
    """An Event on a Service, as `kubectl describe` shows it."""

    severity: Severity
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """`retry_after_s` None: nothing to come back for until something changes. `message`: why it is pending or
    failed; an Event says so only when that is new. `bug`: it failed by what nobody expected."""

    key: ObjectKey
    result: Result
    ingress: tuple[Ingress, ...] = ()
    events: tuple[Event, ...] = ()
    plan: Plan | None = None
    retry_after_s: float | None = None
    message: str = ""
    bug: bool = False
