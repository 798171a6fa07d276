"""Listeners: the part of the plan that clients meet. Pure.

A listener is changed in place where it can be: its port, protocol, certificates and target group. One that
does not bear our mark is left alone, also where it is in the way of a port that the Service wants. A TLS
listener whose certificate AWS refuses stays as it is, or is not made; nothing else takes its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from lbprov.api import Action, Change, Step
from lbprov_aws import plan_listener_attributes, writes
from lbprov_aws.desired import Port, Wanted
from lbprov_aws.refused import certificate_key, tls_key
from lbprov_aws.resources import ListenerRecord, LoadBalancerRecord, Protocol, Tls, as_tags


@dataclass(frozen=True, slots=True)
class ListenerPlan:
    """`foreign`: ports of listeners that are not ours. `blocked`: wanted ports that such a one takes."""

    steps: tuple[Step, ...]
    foreign: tuple[int, ...] = ()
    blocked: tuple[str, ...] = ()


def unsettled(wanted: Wanted, live: LoadBalancerRecord, groups: dict[str, str]) -> tuple[str, ...]:
    """ARNs of the listeners whose owner matters: all that are not just as wanted."""
    ports = {port.port: port for port in wanted.ports}
    mark = plan_listener_attributes.mark_of(live)
    return tuple(
        x.arn
        for x in live.listeners or ()
        if not _is_as_wanted(x, ports.get(x.port), groups)
        or plan_listener_attributes.differ(ports.get(x.port), x, mark)
    )


def _is_as_wanted(listener: ListenerRecord, port: Port | None, groups: Mapping[str, str]) -> bool:
    if port is None or listener.protocol != port.protocol:
        return False
    if listener.target_group_arn != groups.get(port.group_id, ""):
        return False
    return port.tls is None or (
        _speaks_as_wanted(listener, port.tls) and not any(_certificates(listener, port.tls))
    )


def _speaks_as_wanted(listener: ListenerRecord, tls: Tls) -> bool:
    return (listener.certificate, listener.policy, listener.alpn) == (tls.certificate, tls.policy, tls.alpn)


def _certificates(listener: ListenerRecord, tls: Tls) -> tuple[frozenset[str], frozenset[str]]:
    """Those for SNI to add and to remove. The default one may be among them on AWS, and cannot be removed."""
    had = listener.more_certificates or frozenset()
    default = {tls.certificate}
    return tls.more_certificates - had - default, had - tls.more_certificates - default


def plan(
    wanted: Wanted,
    live: LoadBalancerRecord | None,
    groups: dict[str, str],
    refused: Mapping[str, str] | None = None,
) -> ListenerPlan:
    """`groups`: group id -> ARN of the target groups that exist. `refused`: see `Refusals`."""
    refused = refused or {}
    existing = {x.port: x for x in (live.listeners if live else None) or ()}
    wanted_numbers = {port.port for port in wanted.ports}
    unwanted = [x for x in existing.values() if x.ours and x.port not in wanted_numbers]
    mark = plan_listener_attributes.mark_of(live)
    steps: list[Step] = []
    blocked: list[str] = []
    for port in (_possible(port, refused) for port in wanted.ports):
        group_arn = groups.get(port.group_id, "")
        here = existing.get(port.port)
        if here is not None and not here.ours:
            if not _is_as_wanted(here, port, groups):
                blocked.append(str(port))
            continue
        if port.tls is not None and (not port.tls.certificate or tls_key(port) in refused):
            continue
        if here is not None:
            steps += _change_in_place(wanted, port, here, group_arn)
        else:
            here = next((x for x in unwanted if _can_move(x, port, groups)), None)
            if here is None:
                steps += _create(wanted, port, "" if live is None else "; it is missing")
            else:
                unwanted.remove(here)
                steps.append(_move(wanted, port, here))
        steps += plan_listener_attributes.steps(wanted, port, here, mark, refused)
    steps += [_delete(wanted, listener) for listener in unwanted]
    foreign = sorted(x.port for x in existing.values() if x.ours is False)
    return ListenerPlan(tuple(steps), tuple(foreign), tuple(blocked))


def _can_move(listener: ListenerRecord, port: Port, groups: Mapping[str, str]) -> bool:
    if port.tls is not None:
        return _is_as_wanted(listener, port, groups)
    return listener.target_group_arn == groups.get(port.group_id, "")


def _possible(port: Port, refused: Mapping[str, str]) -> Port:
    """Without certificates for SNI that AWS refused."""
    if port.tls is None:
        return port
    more = {c for c in port.tls.more_certificates if certificate_key(port.port, c) not in refused}
    return replace(port, tls=replace(port.tls, more_certificates=frozenset(more)))


def _create(wanted: Wanted, port: Port, why: str) -> list[Step]:
    tags = as_tags(wanted.tags(port.listener_id))
    body = writes.CreateListener(
        wanted.owner, "lb", port.group_id, port.port, port.protocol, tags, port.tls, _refusal(port)
    )
    reason = f"to nodePort {port.node_port}{_spoken(port.tls)}{why}"
    steps = [Step(Action.CREATE, "listener", port.listener_id, reason, str(port), body=body)]
    if port.tls is not None and (more := port.tls.more_certificates - {port.tls.certificate}):
        steps.append(_more_certificates(wanted, port, "", more, frozenset()))
    return steps


def _spoken(tls: Tls | None) -> str:
    if tls is None:
        return ""
    alpn = f", ALPN {tls.alpn}" if tls.alpn else ""
    return f", certificate {_short(tls.certificate)}, {tls.policy}{alpn}"


def _refusal(port: Port) -> str:
    return tls_key(port) if port.tls else ""


def _move(wanted: Wanted, port: Port, listener: ListenerRecord) -> Step:
    """The same backend under another number: the listener moves, the target group does not notice."""
    changes = [Change("port", str(listener.port), str(port.port))]
    protocol = _new_protocol(port, listener, changes)
    body = writes.ChangeListener(wanted.owner, "lb", listener.arn, port.port, protocol)
    return _change(port, "its port changed", changes, body)


def _change_in_place(wanted: Wanted, port: Port, listener: ListenerRecord, group_arn: str) -> list[Step]:
    changes: list[Change] = []
    protocol = _new_protocol(port, listener, changes)
    group_ref = ""
    if not group_arn or listener.target_group_arn != group_arn:
        group_ref = port.group_id
        changes.append(Change("target group", _short(listener.target_group_arn), port.group_id))
    tls = port.tls if port.tls and not _speaks_as_wanted(listener, port.tls) else None
    if tls is not None:
        changes += _tls_changes(listener, tls)
    steps: list[Step] = []
    if changes:
        body = writes.ChangeListener(
            wanted.owner, "lb", listener.arn, 0, protocol, group_ref, tls, _refusal(port)
        )
        reason = (
            "it leads elsewhere"
            if group_ref
            else "it speaks another protocol"
            if protocol
            else "it speaks TLS otherwise"
        )
        steps.append(_change(port, reason, changes, body))
    if port.tls is not None:
        add, remove = _certificates(listener, port.tls)
        if add or remove:
            steps.append(_more_certificates(wanted, port, listener.arn, add, remove))
    return steps


def _tls_changes(listener: ListenerRecord, tls: Tls) -> list[Change]:
    pairs = (
        ("certificate", _short(listener.certificate), _short(tls.certificate)),
        ("policy", listener.policy, tls.policy),
        ("ALPN", listener.alpn, tls.alpn),
    )
    return [Change(field, before, after) for field, before, after in pairs if before != after]


def _more_certificates(
    wanted: Wanted, port: Port, arn: str, add: frozenset[str], remove: frozenset[str]
) -> Step:
    body = writes.ChangeCertificates(
        wanted.owner, "lb", port.listener_id, arn, port.port, tuple(sorted(add)), tuple(sorted(remove))
    )
    changes = [Change("SNI", "", _short(c)) for c in sorted(add)]
    changes += [Change("SNI", _short(c), "") for c in sorted(remove)]
    step_id = f"{port.listener_id}:certificates"
    why = "certificates that are chosen by name (SNI)"
    return Step(Action.UPDATE, "listener certificates", step_id, why, str(port), tuple(changes), body)


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
    """`arn:…:targetgroup/NAME/ID` -> NAME, `arn:…:certificate/ID` -> ID."""
    return arn.split("/")[1] if "/" in arn else arn
