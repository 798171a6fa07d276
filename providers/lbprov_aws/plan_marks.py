"""Marks that somebody took off a resource of ours: put back before anything else is done, or it could neither
be changed nor found when it is to go. Pure."""

from __future__ import annotations

from lbprov.api import Action, Change, Owner, Plan, Step
from lbprov_aws import names, writes
from lbprov_aws.resources import (
    LoadBalancerRecord,
    Observed,
    Record,
    TargetGroupRecord,
    as_tags,
)


def plan(observed: Observed) -> Plan | None:
    """None: all marks are there."""
    if not observed.unmarked:
        return None
    return Plan(observed.owner, tuple(_restored(observed.owner, record) for record in observed.unmarked))


def _restored(owner: Owner, record: Record) -> Step:
    had, marks = dict(record.tags), names.marks(owner, _resource(record))
    changes = tuple(
        Change(key, had.get(key, ""), value) for key, value in sorted(marks.items()) if had.get(key) != value
    )
    body = writes.Adopt(owner, record.key, as_tags(marks))
    why = "marks of ours were taken off"
    return Step(Action.UPDATE, "tags", record.key, why, record.name, changes, body)


def _resource(record: Record) -> str:
    """Its place in the plan."""
    if isinstance(record, LoadBalancerRecord):
        return "lb"
    if isinstance(record, TargetGroupRecord):
        return f"tg:{record.port}-{record.protocol.lower()}"
    return "sg"
