"""What a quota of the account has no room for: left out and told, while all else is served. Pure.

A target group (and so its port), a listener, a rule or a target that AWS refused for a quota is remembered
(`Refusals`) by a key of its own, and tried again when that has been forgotten. A load balancer or security
group that there is no room for is no part: without it nothing is served, and the refusal is the Service's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from lbprov.api import Notice, ProviderError, Severity, Step
from lbprov_aws import writes
from lbprov_aws.desired import Port, Wanted
from lbprov_aws.refusals import QUOTA_REACHED
from lbprov_aws.refused import is_retry
from lbprov_aws.resources import IngressRule

T = TypeVar("T")

_PREFIX = "room for "
GROUPS, LISTENERS = f"{_PREFIX}tg:", f"{_PREFIX}listener:"
RULES, TARGETS = f"{_PREFIX}rule ", f"{_PREFIX}target "
"""What the keys of each kind begin with: where one goes, there is room for another."""
_SHOWN = 5


def part_key(ref: str) -> str:
    """Of a target group or a listener, by its step id."""
    return f"{_PREFIX}{ref}"


def rule_key(rule: IngressRule) -> str:
    return f"{RULES}{rule}"


def target_key(group_ref: str, instance: str) -> str:
    return f"{TARGETS}{instance} in {group_ref}"


def fill(items: Sequence[T], add: Callable[[Sequence[T]], bool]) -> tuple[T, ...]:
    """As many of them as there is room for, from the first. `add` adds all that it is given or, and says so,
    none. Asked some 2 log2(n) times, however little room there is."""
    if not items or add(items):
        return tuple(items)
    if len(items) == 1:
        return ()
    middle = len(items) // 2
    first = fill(items[:middle], add)
    return first if len(first) < middle else (*first, *fill(items[middle:], add))


def with_groups(wanted: Wanted, groups: Iterable[str], refused: Mapping[str, str]) -> Wanted:
    """Without ports whose target group does not exist (`groups`: ids of those that do) and has no room."""
    there = set(groups)
    return _only(wanted, lambda p: p.group_id in there or part_key(p.group_id) not in refused)


def with_listeners(wanted: Wanted, numbers: Iterable[int], refused: Mapping[str, str]) -> Wanted:
    """Without ports that no listener stands on (`numbers`: where one does) and that there is no room for."""
    there = set(numbers)
    return _only(wanted, lambda p: p.port in there or part_key(p.listener_id) not in refused)


def _only(wanted: Wanted, has_room: Callable[[Port], bool]) -> Wanted:
    ports = tuple(port for port in wanted.ports if has_room(port))
    return wanted if len(ports) == len(wanted.ports) else dataclasses.replace(wanted, ports=ports)


def refuse_nothing_left(wanted: Wanted, fits: Wanted, refused: Mapping[str, str]) -> None:
    """Raises `ProviderError` where not one port is left: a load balancer of that kind serves nobody."""
    if wanted.ports and not fits.ports:
        (notice,) = notices(wanted, refused)
        raise ProviderError(f"no port can be served: {notice.message}", retryable=False, reason=notice.reason)


def notices(wanted: Wanted, refused: Mapping[str, str]) -> tuple[Notice, ...]:
    """What is left out of what is wanted now, and AWS's words for why."""
    if not any(key.startswith(_PREFIX) for key in refused):
        return ()
    left_out: dict[str, dict[str, str]] = {}
    for kind, name, key in _parts(wanted):
        if key in refused:
            left_out.setdefault(kind, {})[name] = refused[key]
    if not left_out:
        return ()
    said = [f"{kind} left out: {_listed(list(names))}" for kind, names in left_out.items()]
    why = dict.fromkeys(message for names in left_out.values() for message in names.values())
    return (Notice(Severity.WARNING, QUOTA_REACHED, "; ".join([*said, *why]), "Quota"),)


def _parts(wanted: Wanted) -> Iterator[tuple[str, str, str]]:
    """Kind, name and key of all that there may be no room for."""
    for port in wanted.ports:
        yield "ports", str(port), part_key(port.group_id)
        yield "ports", str(port), part_key(port.listener_id)
    for rule in sorted(wanted.rules):
        yield "source ranges", str(rule), rule_key(rule)
    for instance in sorted(wanted.targets):
        for port in wanted.ports:
            yield "nodes", instance, target_key(port.group_id, instance)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def marked(steps: Iterable[Step], once: frozenset[str]) -> tuple[Step, ...]:
    """What there was no room for before, and what goes with it, or was refused before for another reason, is
    nobody's doing when it is tried again."""
    again: set[str] = set()
    marked_steps: list[Step] = []
    for step in steps:
        keys = _keys(step)
        ref = getattr(step.body, "group_ref", "") or getattr(step.body, "ref", "")
        if (keys and once.issuperset(keys)) or ref in again:
            again.add(step.id)
            step = dataclasses.replace(step, expected=True)  # noqa: PLW2901 - the same step, marked
        elif is_retry(step.body, once):
            step = dataclasses.replace(step, expected=True)  # noqa: PLW2901
        marked_steps.append(step)
    return tuple(marked_steps)


def _keys(step: Step) -> tuple[str, ...]:
    match step.body:
        case writes.CreateTargetGroup() | writes.CreateListener():
            return (part_key(step.id),)
        case writes.AllowIngress(rules=rules):
            return tuple(map(rule_key, rules))
        case writes.RegisterTargets(group_ref=ref, instances=instances):
            return tuple(target_key(ref, instance) for instance in instances)
    return ()
