"""Listeners: the part of the plan that clients meet. Pure.

A listener is changed in place where it can be: its port, protocol and target group. One that does not bear
our mark is left alone, also where it is in the way of a port that the Service wants.
"""

from __future__ import annotations

from dataclasses import dataclass

from lbprov.api import Action, Change, Step
from lbprov_aws import writes
from lbprov_aws.desired import Port, Wanted
from lbprov_aws.resources import ListenerRecord, LoadBalancerRecord, Protocol, as_tags


@dataclass(frozen=True, slots=True)
class ListenerPlan:
    """`foreign`: ports of listeners that are not ours. `blocked`: wanted ports that such a one takes."""

    steps: tuple[Step, ...]
    foreign: tuple[int, ...] = ()
    blocked: tuple[str, ...] = ()


def unsettled(
    wanted: Wanted, listeners: tuple[ListenerRecord, ...], groups: dict[str, str]
) -> tuple[str, ...]:
    """ARNs of the listeners whose owner matters: all that are not just as wanted."""
    as_wanted = {(p.port, p.protocol.value, groups.get(p.group_id, "")) for p in wanted.ports}
    return tuple(x.arn for x in listeners if (x.port, x.protocol, x.target_group_arn) not in as_wanted)


def plan(wanted: Wanted, live: LoadBalancerRecord | None, groups: dict[str, str]) -> ListenerPlan:
    """`groups`: group id -> ARN of the target groups that exist."""
    if live is None:
        return ListenerPlan(tuple(_create(wanted, port, "") for port in wanted.ports))
    existing = {x.port: x for x in live.listeners or ()}
    wanted_numbers = {port.port for port in wanted.ports}
    unwanted = [x for x in existing.values() if x.ours and x.port not in wanted_numbers]
    steps: list[Step] = []
    blocked: list[str] = []
    for port in wanted.ports:
        group_arn = groups.get(port.group_id, "")
        here = existing.get(port.port)
        if here is None:
            spare = next((x for x in unwanted if x.target_group_arn == group_arn), None)
            if spare is None:
                steps.append(_create(wanted, port, "; it is missing"))
            else:
                unwanted.remove(spare)
                steps.append(_move(wanted, port, spare))
        elif (here.protocol, here.target_group_arn) == (port.protocol, group_arn):
            continue
        elif here.ours:
            steps.append(_redirect(wanted, port, here, group_arn))
        else:
            blocked.append(str(port))
    steps += [_delete(wanted, listener) for listener in unwanted]
    foreign = sorted(x.port for x in existing.values() if x.ours is False)
    return ListenerPlan(tuple(steps), tuple(foreign), tuple(blocked))


def _create(wanted: Wanted, port: Port, why: str) -> Step:
    body = writes.CreateListener(
        wanted.owner, "lb", port.group_id, port.port, port.protocol, as_tags(wanted.tags(port.listener_id))
    )
    reason = f"to nodePort {port.node_port}{why}"
    return Step(Action.CREATE, "listener", port.listener_id, reason, str(port), body=body)


def _move(wanted: Wanted, port: Port, listener: ListenerRecord) -> Step:
    """The same backend under another number: the listener moves, the target group does not notice."""
    changes = [Change("port", str(listener.port), str(port.port))]
    protocol = _new_protocol(port, listener, changes)
    body = writes.ChangeListener(wanted.owner, "lb", listener.arn, port.port, protocol)
    return _change(port, "its port changed", changes, body)


def _redirect(wanted: Wanted, port: Port, listener: ListenerRecord, group_arn: str) -> Step:
    changes: list[Change] = []
    protocol = _new_protocol(port, listener, changes)
    group_ref = ""
    if not group_arn or listener.target_group_arn != group_arn:
        group_ref = port.group_id
        changes.append(Change("target group", _short(listener.target_group_arn), port.group_id))
    body = writes.ChangeListener(wanted.owner, "lb", listener.arn, 0, protocol, group_ref)
    return _change(port, "it leads elsewhere", changes, body)


def _new_protocol(port: Port, listener: ListenerRecord, changes: list[Change]) -> Protocol | None:
    if listener.protocol == port.protocol:
        return None
    changes.append(Change("protocol", listener.protocol, port.protocol))
    return port.protocol


def _change(port: Port, why: str, changes: list[Change], body: writes.ChangeListener) -> Step:
    return Step(
        Action.UPDATE, "listener", port.listener_id, why, str(port), tuple(changes), body, disruptive=True
    )


def _delete(wanted: Wanted, listener: ListenerRecord) -> Step:
    body = writes.DeleteListener(wanted.owner, "lb", listener.arn)
    step_id, name = f"listener:{listener.port}", f"{listener.port}/{listener.protocol}"
    reason = "the Service has no such port"
    return Step(Action.DELETE, "listener", step_id, reason, name, body=body, disruptive=True)


def _short(arn: str) -> str:
    """`arn:…:targetgroup/NAME/ID` -> NAME."""
    return arn.split("/")[1] if "/" in arn else arn
