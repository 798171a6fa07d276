"""Target groups and the nodes in them: the part of the plan behind the listeners. Pure.

A target group is known by its protocol and nodePort, which cannot be changed on it. Health checks,
attributes, tags and targets are changed in place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from lbprov.api import Action, Change, Notice, Owner, Severity, Step
from lbprov_aws import health, names, plan_attributes, writes
from lbprov_aws.desired import Port, Wanted
from lbprov_aws.rejected import REJECTED_S
from lbprov_aws.resources import Observed, TargetGroupRecord, as_tags
from lbprov_aws.room import target_key

TARGETS_PER_CALL = 200


@dataclass(frozen=True, slots=True)
class TargetPlan:
    """`known`: group id -> ARN of the target groups that exist. `before`: what must stand before listeners
    change, `after`: what goes when they have."""

    before: tuple[Step, ...]
    after: tuple[Step, ...]
    known: dict[str, str]
    notices: tuple[Notice, ...]


def plan(wanted: Wanted, observed: Observed, vpc_id: str) -> TargetPlan:
    before: list[Step] = []
    joining: list[Step] = []
    leaving: list[Step] = []
    known: dict[str, str] = {}
    by_id = groups_by_id(observed.target_groups, vpc_id)
    for port in _groups(wanted):
        record = by_id.get(port.group_id)
        if record is None:
            before += _create(wanted, observed, port, vpc_id)
            joining += _register(wanted, port.group_id, wanted.targets - observed.rejected, observed)
            continue
        known[port.group_id] = record.arn
        before += _update(wanted, observed, port, record)
        joined, left = _difference(wanted, observed, record)
        joining += _register(wanted, port.group_id, joined, observed)
        leaving += _deregister(wanted, port.group_id, left)
    stale = [g for g in observed.target_groups if g.arn not in known.values()]
    deletions = [delete(wanted.owner, group, "no port needs it") for group in stale]
    return TargetPlan((*before, *joining), (*leaving, *deletions), known, _rejected(wanted, observed))


def delete(owner: Owner, group: TargetGroupRecord, why: str) -> Step:
    body = writes.DeleteTargetGroup(owner, group.arn)
    return Step(Action.DELETE, "target group", group.arn, why, group.name, body=body, disruptive=True)


def keep_used(steps: Iterable[Step], wanted: Wanted, observed: Observed) -> tuple[Step, ...]:
    """`steps` without the deletion of groups that listeners still lead to when all is done: one that is
    somebody else's, or whose certificate AWS refuses. What such a listener serves goes on following the
    nodes."""
    kept: list[Step] = []
    used = _used_in_the_end(steps := tuple(steps), observed)
    records = {group.arn: group for group in observed.target_groups}
    for step in steps:
        if not (isinstance(step.body, writes.DeleteTargetGroup) and step.body.arn in used):
            kept.append(step)
        elif (record := records[step.body.arn]).target_type == "instance":
            joined, left = _difference(wanted, observed, record)
            kept += _register(wanted, record.arn, joined, observed)
            kept += _deregister(wanted, record.arn, left)
    return tuple(kept)


def _used_in_the_end(steps: tuple[Step, ...], observed: Observed) -> frozenset[str]:
    live = observed.load_balancer
    leads_to = {x.arn: x.target_group_arn for x in (live.listeners if live else None) or ()}
    for step in steps:
        body = step.body
        if isinstance(body, writes.DeleteListener) or (
            isinstance(body, writes.ChangeListener) and body.group_ref
        ):
            leads_to.pop(body.arn, None)
    return frozenset(leads_to.values())


def used_bindings(steps: Iterable[Step]) -> dict[str, str]:
    """Of the groups that `keep_used` keeps: they go by their ARN."""
    bodies = (step.body for step in steps)
    refs = (b.group_ref for b in bodies if isinstance(b, writes.RegisterTargets | writes.DeregisterTargets))
    return {ref: ref for ref in refs if ref.startswith("arn:")}


def _groups(wanted: Wanted) -> Iterator[Port]:
    """Each target group once, whatever the number of listeners in front of it."""
    seen: set[str] = set()
    for port in wanted.ports:
        if port.group_id not in seen:
            seen.add(port.group_id)
            yield port


def groups_by_id(groups: Iterable[TargetGroupRecord], vpc_id: str) -> dict[str, TargetGroupRecord]:
    found: dict[str, TargetGroupRecord] = {}
    for group in groups:
        if group.vpc_id == vpc_id and group.target_type == "instance":
            found.setdefault(group_id(group), group)
    return found


def group_id(group: TargetGroupRecord) -> str:
    """The step id that a target group has in plans (see `desired.Port.group_id`)."""
    return f"tg:{group.port}-{group.protocol.lower()}"


def _create(wanted: Wanted, observed: Observed, port: Port, vpc_id: str) -> Iterator[Step]:
    name = names.target_group_name(
        wanted.owner, port.group_protocol, port.node_port, vpc_id, wanted.generation
    )
    body = writes.CreateTargetGroup(
        owner=wanted.owner,
        name=name,
        vpc_id=vpc_id,
        protocol=port.group_protocol,
        port=port.node_port,
        health_check=port.check,
        tags=as_tags(wanted.tags(port.group_id)),
    )
    reason = f"nodePort {port.node_port}/{port.group_protocol}, health by {port.check}"
    yield Step(Action.CREATE, "target group", port.group_id, reason, name, body=body)
    yield from plan_attributes.of_new(
        wanted, observed, port.group_id, name, port.attributes, port.group_protocol
    )


def _update(wanted: Wanted, observed: Observed, port: Port, record: TargetGroupRecord) -> Iterator[Step]:
    check = health.kept(port.check, record.health_check, port.unread_check)
    if record.health_check != check:
        body = writes.SetHealthCheck(wanted.owner, record.arn, check)
        change = Change("check", str(record.health_check), str(check))
        reason = "it differs from what the Service asks for"
        yield Step(Action.UPDATE, "health check", port.group_id, reason, record.name, (change,), body)
    yield from plan_attributes.of_record(wanted, observed, port.group_id, record, port.attributes)


def _difference(
    wanted: Wanted, observed: Observed, record: TargetGroupRecord
) -> tuple[frozenset[str], frozenset[str]]:
    there = record.targets or frozenset()
    return wanted.targets - there - observed.rejected, there - wanted.targets


def _register(wanted: Wanted, group_id: str, instances: frozenset[str], observed: Observed) -> Iterator[Step]:
    refused = dict(observed.refused)
    fit = frozenset(i for i in instances if target_key(group_id, i) not in refused)
    for number, chunk in enumerate(_chunks(fit)):
        body = writes.RegisterTargets(wanted.owner, group_id, chunk)
        step_id = _chunk_id(group_id, number, "join")
        again = observed.once_rejected.issuperset(chunk)
        yield Step(Action.CREATE, "targets", step_id, _listed(chunk), group_id, body=body, expected=again)


def _deregister(wanted: Wanted, group_id: str, instances: frozenset[str]) -> Iterator[Step]:
    for number, chunk in enumerate(_chunks(instances)):
        body = writes.DeregisterTargets(wanted.owner, group_id, chunk)
        step_id = _chunk_id(group_id, number, "leave")
        yield Step(Action.DELETE, "targets", step_id, _listed(chunk), group_id, body=body)


def _chunks(instances: frozenset[str]) -> Iterator[tuple[str, ...]]:
    ids = sorted(instances)
    for start in range(0, len(ids), TARGETS_PER_CALL):
        yield tuple(ids[start : start + TARGETS_PER_CALL])


def _chunk_id(group_id: str, number: int, verb: str) -> str:
    return f"{group_id}:{verb}" + (f"-{number + 1}" if number else "")


def _listed(instances: Iterable[str]) -> str:
    ids = list(instances)
    return ", ".join(ids[:5]) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")


def _rejected(wanted: Wanted, observed: Observed) -> tuple[Notice, ...]:
    rejected = sorted(wanted.targets & observed.rejected)
    if not rejected:
        return ()
    message = (
        f"AWS refuses these instances as targets (gone, stopped or of another VPC): {_listed(rejected)}: "
        "take their Nodes away, or put spec.providerID right; they are tried again in "
        f"{REJECTED_S / 60:.0f} minutes"
    )
    return (Notice(Severity.WARNING, "TargetsRejected", message, "RejectedTargets"),)
