"""The Plan: the difference between what should be and what is, as a value.

A dry run prints it, a diff asks whether it is empty, the log keeps it, golden tests compare its text,
`apply` walks it. A plan never holds a secret.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import Any

from lbprov.model.loadbalancer import Owner


class Action(StrEnum):
    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"

    @property
    def sign(self) -> str:
        return {"create": "+", "update": "~", "delete": "-"}[self.value]


class Severity(StrEnum):
    """An Event's type."""

    NORMAL = "Normal"
    WARNING = "Warning"


@dataclass(frozen=True, slots=True)
class Change:
    """One field that a step changes; both sides as a person reads them."""

    field: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Step:
    """One write to the world: idempotent, and its object findable by its owner mark after a crash
    right behind it.

    - `kind`: the provider's word for the resource ("target group").
    - `id`: the resource's place in the plan ("tg:80-tcp"), unique per kind; later steps refer to what an
      earlier one made by it (see `Bindings`).
    - `name`: its name in the world, where it has one.
    - `body`: a frozen value of the provider's with the arguments of the write; printed, never parsed.
    - `disruptive`: takes away something that may be serving traffic.
    - `expected`: nobody's doing, although nothing else is asked for: something tried again, or due by now.
    - `since`: of a deletion, when the resource was made (RFC 3339), where the world tells.
    """

    action: Action
    kind: str
    id: str
    reason: str
    name: str = ""
    changes: tuple[Change, ...] = ()
    body: object | None = None
    disruptive: bool = False
    since: str = ""
    expected: bool = False

    def to_text(self) -> str:
        head = f"{self.action.sign} {self.action} {self.kind} {self.name or self.id}"
        lines = [f"{head}: {self.reason}"]
        lines += [f"    {c.field}: {c.before or '(none)'} -> {c.after or '(none)'}" for c in self.changes]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that the user of a Service should read as an Event.

    `topic` names what it is about ("RequestedIP"): it is kept as the condition `lbprov.io/<topic>` for as
    long as plans repeat it, and the Event is emitted only when reason or message change. Without a topic
    the Event is emitted whenever the plan has steps.
    """

    severity: Severity
    reason: str
    message: str
    topic: str = ""


Bindings = dict[str, str]
"""`step.id` -> the world's id (an ARN, a group id). Begins with what was observed; applying a create
step adds what it made."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Ordered steps for one owner; empty when the world is as it should be. `outage`: what serves goes with
    them, and what takes its place is only made after that."""

    owner: Owner
    steps: tuple[Step, ...] = ()
    notices: tuple[Notice, ...] = ()
    bindings: Mapping[str, str] = field(default_factory=dict, hash=False)
    outage: bool = False

    @property
    def is_empty(self) -> bool:
        return not self.steps

    def to_text(self) -> str:
        """A line per step and notice; ends without a newline. The text that golden tests hold."""
        title = f"{self.owner.service}: " + (_count(self.steps) if self.steps else "no change")
        body = [step.to_text() for step in self.steps]
        body += [f"! {n.severity} {n.reason}: {n.message}" for n in self.notices]
        return "\n".join([title, *("  " + line for part in body for line in part.splitlines())])

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, for `-o json` and logs."""
        return {
            "namespace": self.owner.service.namespace,
            "name": self.owner.service.name,
            "steps": [_plain(step) for step in self.steps],
            "notices": [_plain(notice) for notice in self.notices],
        }


def _count(steps: Iterable[Step]) -> str:
    actions = [step.action for step in steps]
    counts = [f"{actions.count(a)} to {a}" for a in Action if a in actions]
    return ", ".join(counts)


def _plain(value: object) -> Any:
    """Frozen values as JSON values. Fields that are None, empty or False are left out of dataclasses."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        pairs = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
        return {name: _plain(v) for name, v in pairs if v not in (None, "", (), False)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {k: _plain(v) for k, v in value._asdict().items()}
    if isinstance(value, list | tuple | set | frozenset):
        items = sorted(value) if isinstance(value, set | frozenset) else value
        return [_plain(v) for v in items]
    return value
