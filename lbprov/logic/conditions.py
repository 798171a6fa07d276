"""What a Service's conditions should say, and which Events follow from a difference.

A condition is an Event that lasts: of notices with a topic, and of whether traffic passes, an Event is
emitted when the condition changes and not again as long as it stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from lbprov.logic.events import Reason
from lbprov.logic.selection import CLAIM
from lbprov.model import Condition, Event, Notice, Service, Severity

PREFIX = "lbprov.io/"
READY = "lbprov.io/Ready"

MAX_MESSAGE = 4096
"""Characters. The API server would cut at 32768 (metav1.Condition) and so never show what was written; people
read less."""


def ready(reason: str, message: str, *, is_ready: bool = False) -> Condition:
    return Condition(READY, "True" if is_ready else "False", reason, _cut(message))


def is_ready(service: Service) -> bool:
    condition = service.condition(READY)
    return condition is not None and condition.status == "True"


def is_refused(service: Service) -> bool:
    """Whether a former reconcile found that it asks for what cannot be: the message begins with the field
    that has to be changed. (An address that cannot be had is no such case: it may become free.)"""
    condition = service.condition(READY)
    return (
        condition is not None
        and condition.status == "False"
        and condition.reason == Reason.SYNC_FAILED
        and condition.message.startswith(("spec.", "metadata."))
    )


def in_order(conditions: Iterable[Condition]) -> tuple[Condition, ...]:
    return tuple(sorted(conditions, key=lambda c: c.type))


def ours(service: Service) -> tuple[Condition, ...]:
    """Sorted by type."""
    return in_order(c for c in service.conditions if c.type.startswith(PREFIX))


def with_(service: Service, *changed: Condition) -> tuple[Condition, ...]:
    """Ours as they are, but for these."""
    types = {c.type for c in changed}
    return in_order([*(c for c in ours(service) if c.type not in types), *changed])


def of_notices(notices: Iterable[Notice]) -> tuple[Condition, ...]:
    """One per topic: False where anything about it is a warning."""
    return tuple(_of_topic(topic, told) for topic, told in _by_topic(notices).items())


def new_events(service: Service, notices: Iterable[Notice], *, has_steps: bool) -> tuple[Event, ...]:
    """Of what these notices say, what the Service's conditions do not say already."""
    notices = tuple(notices)
    changed = {
        topic
        for topic, told in _by_topic(notices).items()
        if service.condition(PREFIX + topic) != _of_topic(topic, told)
    }
    return tuple(
        Event(n.severity, n.reason, n.message)
        for n in notices
        if n.topic in changed or (not n.topic and has_steps)
    )


def about(notices: Iterable[Notice], reason: str) -> tuple[str, ...]:
    """What is said for one reason."""
    return tuple(n.message for n in notices if n.reason == reason)


def standing(service: Service, notices: Iterable[Notice]) -> tuple[Event, ...]:
    """Warnings that the Service's conditions say already, and that still hold."""
    return tuple(
        Event(n.severity, n.reason, n.message)
        for topic, told in _by_topic(notices).items()
        if service.condition(PREFIX + topic) == _of_topic(topic, told)
        for n in told
        if n.severity is Severity.WARNING
    )


def _by_topic(notices: Iterable[Notice]) -> Mapping[str, list[Notice]]:
    topics: dict[str, list[Notice]] = {}
    for notice in notices:
        if notice.topic:
            topics.setdefault(notice.topic, []).append(notice)
    return topics


def _of_topic(topic: str, told: list[Notice]) -> Condition:
    type_ = PREFIX + topic
    if type_ in (READY, CLAIM):
        raise ValueError(f"the topic {topic!r} is the core's: a provider's notice needs another one")
    worst = next((n for n in told if n.severity is Severity.WARNING), told[0])
    status = "False" if worst.severity is Severity.WARNING else "True"
    return Condition(type_, status, worst.reason, _cut("; ".join(n.message for n in told)))


def _cut(message: str) -> str:
    """In the middle: it ends with the remedy."""
    if len(message) <= MAX_MESSAGE:
        return message
    end = MAX_MESSAGE // 4
    return f"{message[: MAX_MESSAGE - end - 3]} … {message[-end:]}"
