"""Attributes that should change, of a load balancer or a target group. Pure.

The tag that says which were asked for is there before the first is set and until the last is back at its
default: so a crash in between forgets none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lbprov.api import Action, Change, Step
from lbprov_aws import attributes, names, writes
from lbprov_aws.attributes import OF_LOAD_BALANCERS, OF_TARGET_GROUPS, Attribute, difference, left_alone
from lbprov_aws.desired import Wanted
from lbprov_aws.refused import attribute_key
from lbprov_aws.resources import Attributed, Observed, Tags, as_tags
from lbprov_aws.tags import tag_steps

LB = "lb"


@dataclass(frozen=True, slots=True)
class _Thing:
    """A load balancer or a target group: its step id, its kind, the attributes that its kind can have."""

    ref: str
    kind: str
    known: Mapping[str, Attribute]
    protocol: str = ""
    zones: int = 0


def of_new(
    wanted: Wanted, observed: Observed, ref: str, name: str, asked: Tags, protocol: str = "", zones: int = 0
) -> list[Step]:
    """For what is about to be made: AWS's defaults are in force. `zones`: that a load balancer stands in."""
    thing = _thing(ref, protocol, zones)
    set_ = _possible(observed, ref, difference(asked, (), "", thing.known, protocol).set_)
    return [_step(wanted, thing, name, set_, (), "the Service asks for them")] if set_ else []


def of_record(
    wanted: Wanted,
    observed: Observed,
    ref: str,
    record: Attributed,
    asked: Tags,
    marks: Mapping[str, str] | None = None,
    zones: int = 0,
) -> list[Step]:
    """For what exists, with its tags (`marks`: more of them). `zones`: that the load balancer stands in."""
    protocol = getattr(record, "protocol", "")
    thing = _thing(ref, protocol, zones)
    had = dict(record.tags)
    mark = had.get(names.ATTRIBUTES, "")
    left = left_alone(wanted.unread_of(ref), mark)
    found = difference(asked, record.attributes, mark, thing.known, protocol, left)
    set_ = _possible(observed, ref, found.set_)
    reset = _possible(observed, ref, found.reset)
    why = "they differ from what the Service asks for"
    steps: list[Step] = []
    if reset:
        gone = "the Service does not ask for them any more"
        steps.append(_step(wanted, thing, record.name, reset, record.attributes or (), gone, ":default"))
    steps += tag_steps(wanted.owner, record, {**_kept(wanted.tags(ref, left), had), **(marks or {})})
    if set_:
        steps.append(_step(wanted, thing, record.name, set_, record.attributes or (), why))
    return steps


def _kept(wanted: dict[str, str], had: Mapping[str, str]) -> dict[str, str]:
    """What the load balancer was made for stays written on it."""
    return {**wanted, **{key: had[key] for key in names.MADE_FOR if key in had}}


def _thing(ref: str, protocol: str, zones: int) -> _Thing:
    if ref == LB:
        return _Thing(ref, "load balancer attributes", OF_LOAD_BALANCERS, zones=zones)
    return _Thing(ref, "target group attributes", OF_TARGET_GROUPS, protocol)


def _possible(observed: Observed, ref: str, values: Tags) -> Tags:
    """Without those that AWS refused a short time ago."""
    refused = dict(observed.refused)
    return as_tags({k: v for k, v in values if attribute_key(ref, k, v) not in refused})


def _step(
    wanted: Wanted,
    thing: _Thing,
    name: str,
    values: Tags,
    had: Iterable[tuple[str, str]],
    why: str,
    part: str = "",
) -> Step:
    now = dict(had)
    changes = tuple(Change(key, now.get(key, "(default)"), value) for key, value in values)
    # One address means one zone, unless AWS refuses it at the last moment.
    implied = attributes.CROSS_ZONE not in dict(wanted.attributes)
    spanning = thing.ref == LB and implied and (attributes.CROSS_ZONE, "true") in values
    if spanning and len(values) == 1:
        where = "one zone" if thing.zones == 1 else f"{thing.zones} zones"
        why = f"it stands in {where} and serves the nodes of all"
    body = writes.SetAttributes(wanted.owner, thing.ref, thing.ref, values, thing.zones if spanning else 0)
    return Step(Action.UPDATE, thing.kind, thing.ref + part, why, name, changes, body)
