"""The plan of a Service that may have several load balancers for a while, each as `plan` has it. Pure.

the one that serves     kept as the Service asks for, but for what cannot be changed on it
its successor           made whole beside it, until its targets are healthy or have had their time
the switch              one tag: from then on the successor serves, and the status names it
retired ones            kept for as long as clients may still know them, and then deleted
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from lbprov.api import Action, LoadBalancer, Notice, Plan, Replace, Severity, Step, UserError
from lbprov_aws import names, plan_adoption, plan_marks, plan_security, plan_targets, succession, writes
from lbprov_aws import plan as single
from lbprov_aws.desired import want
from lbprov_aws.resources import LoadBalancerRecord, Observed
from lbprov_aws.succession import Cast
from lbprov_aws.wishes import refuse_unread_wishes

TOPIC = "Replacement"
_SETTLED_TOPICS = ("Scheme", "Name", "Subnets", "SecurityGroup", "RequestedIP")
"""What is told of a load balancer that is not as asked for. While it is replaced, that alone is told."""
_OF_THE_GROUP = (
    writes.CreateSecurityGroup,
    writes.AllowIngress,
    writes.RevokeIngress,
    writes.DeleteSecurityGroup,
)


def plan(desired: LoadBalancer | None, observed: Observed) -> Plan:
    """Raises as `plan.plan`."""
    if (marks := plan_marks.plan(observed)) is not None:
        return marks
    if desired is None:
        return plan_adoption.left_to_take_over(observed) or single.plan(None, observed)
    if (takeover := plan_adoption.plan(desired, observed)) is not None:
        return takeover
    cast = succession.cast(desired, want(desired), observed.load_balancers)
    if cast.serving is None:
        return _revived_or_made(desired, observed, cast)
    main = single.plan(desired, succession.alone(observed, cast.serving))
    if not cast.misfits or desired.replace is Replace.NEVER:
        return _with_others(desired, observed, cast, main, ())
    why_not = _obstacle(desired, observed, cast)
    if why_not is not None:
        return _with_others(desired, observed, cast, main, (why_not,))
    main = dataclasses.replace(main, notices=tuple(n for n in main.notices if n.topic not in _SETTLED_TOPICS))
    return _replaced(desired, observed, cast, main)


def _replaced(desired: LoadBalancer, observed: Observed, cast: Cast, main: Plan) -> Plan:
    serving = cast.serving
    assert serving is not None
    fit = [b for b in cast.retired if not succession.misfits(desired, want(desired), b)]
    if fit:
        return _with_others(desired, observed, cast, main, (), _exchange(observed, serving, fit[0]))
    if cast.successor is None and (why := _why_not_made(desired, observed)):
        return _with_others(desired, observed, cast, main, (_blocked(cast, why),))
    if succession.held_addresses(desired, want(desired), serving):
        return _taken_away_first(desired, observed, cast, main)
    changes = "; ".join(map(str, cast.misfits))
    successor = cast.successor
    if successor is None:
        return _begun(desired, observed, cast, main, changes)
    made = _part(
        single.plan(desired, succession.alone(observed, successor)), "new:", group=not serving.security_groups
    )
    switch: tuple[Step, ...] = ()
    healthy, overdue = succession.is_healthy(observed, successor), succession.is_overdue(observed, successor)
    if made.is_empty and (healthy or overdue):
        why = "its targets are healthy" if healthy else "its targets are not healthy, and had all their time"
        switch = (_retire(observed, serving, f"{successor.name} takes its place: {why}"),)
    notice = _preparing(serving, successor.name, changes)
    return _with_others(desired, observed, cast, _together(main, made), (notice,), switch)


def _why_not_made(desired: LoadBalancer, observed: Observed) -> str:
    """What would be in the way of a new one, whatever its addresses: nothing is taken away for it then."""
    try:
        refuse_unread_wishes(desired)
        plan_security.refuse_missing(want(desired), observed)
    except UserError as refusal:
        return str(refusal)
    return observed.no_network


def _begun(desired: LoadBalancer, observed: Observed, cast: Cast, main: Plan, changes: str) -> Plan:
    """A successor is made, unless what is asked for cannot be had."""
    assert cast.serving is not None
    generation = succession.new_generation(desired, want(desired), observed.load_balancers)
    try:
        made = single.plan(desired, succession.alone(observed, None, generation))
    except UserError as refusal:
        return _with_others(desired, observed, cast, main, (_blocked(cast, str(refusal)),))
    refusals = [n for n in made.notices if n.topic == "RequestedIP" and n.severity is Severity.WARNING]
    if refusals:
        return _with_others(desired, observed, cast, main, (_blocked(cast, refusals[0].message),))
    made = _part(made, "new:", group=not cast.serving.security_groups)
    names_ = [s.name for s in made.steps if isinstance(s.body, writes.CreateLoadBalancer)]
    notice = _preparing(cast.serving, names_[0], changes)
    return _with_others(desired, observed, cast, _together(main, made), (notice,))


def _taken_away_first(desired: LoadBalancer, observed: Observed, cast: Cast, main: Plan) -> Plan:
    """What is asked for has an address that the old one holds. Its target groups stay, and the targets in
    them; only the load balancer is made anew."""
    serving = cast.serving
    assert serving is not None
    changes = "; ".join(map(str, cast.misfits))
    why = f"its address moves to a new one ({changes}): not reachable until that is set up"
    step = dataclasses.replace(single.delete_load_balancer(observed, serving, why), expected=True)
    notice = Notice(
        Severity.WARNING,
        "ReplacingLoadBalancer",
        f"{serving.name} is taken away, since no other load balancer can have its address "
        f"{', '.join(succession.held_addresses(desired, want(desired), serving))} beside it, and made anew: "
        f"{changes}. The Service is not reachable until that is set up",
        TOPIC,
    )
    return Plan(main.owner, (step,), (*main.notices, notice), main.bindings, outage=True)


def _revived_or_made(desired: LoadBalancer, observed: Observed, cast: Cast) -> Plan:
    """There is none that serves: a retired one that is as asked for, or a new one. Target groups that are
    left of one that somebody deleted are used again."""
    fit = succession.stand_in(desired, want(desired), cast)
    if fit is not None:
        main = single.plan(desired, succession.alone(observed, fit))
        again = Cast(fit, None, tuple(b for b in cast.retired if b is not fit))
        return _with_others(desired, observed, again, main, (), (_revive(observed, fit),))
    in_use = {names.generation_of(b.tags) for b in cast.retired}
    left = {names.generation_of(g.tags) for g in observed.target_groups} - in_use
    generation = "" if "" not in in_use else succession.new_generation(desired, want(desired), cast.retired)
    if left:
        generation = min(left)
    main = single.plan(desired, succession.alone(observed, None, generation))
    told = plan_adoption.nothing_found(desired) if not cast.retired else ()
    return _with_others(desired, observed, cast, main, told, kept={generation})


def _with_others(
    desired: LoadBalancer,
    observed: Observed,
    cast: Cast,
    main: Plan,
    notices: Iterable[Notice],
    switch: tuple[Step, ...] = (),
    *,
    kept: Iterable[str] = (),
) -> Plan:
    """The plan with what becomes of the other load balancers, and of target groups that none leads to."""
    going: list[tuple[LoadBalancerRecord, str]] = [
        (b, "a second one of this Service") for b in cast.superfluous
    ]
    said: list[Notice] = list(notices)
    whole = main
    for number, balancer in enumerate(cast.retired):
        if succession.drains_for_s(observed, balancer) > 0:
            whole = _together(whole, _part(_kept(desired, observed, balancer), f"old{number or ''}:"))
            said += _draining(observed, cast, balancer)
        elif balancer.arn in observed.protected:
            said.append(_protected_leftover(balancer))
        else:
            going.append((balancer, "another one has taken its place, and its clients have had time to move"))
    gone = {balancer.arn for balancer, _ in going}
    staying = {names.generation_of(b.tags) for b in observed.load_balancers if b.arn not in gone} | set(kept)
    deletions = [single.delete_load_balancer(observed, balancer, why) for balancer, why in going]
    deletions += [
        plan_targets.delete(observed.owner, group, "no load balancer leads to it")
        for group in observed.target_groups
        if names.generation_of(group.tags) not in staying
    ]
    late = tuple(dataclasses.replace(step, expected=True) for step in deletions)
    return dataclasses.replace(
        whole,
        steps=(*whole.steps, *switch, *late),
        notices=(*whole.notices, *_once_per_topic(said)),
    )


def _kept(desired: LoadBalancer, observed: Observed, balancer: LoadBalancerRecord) -> Plan:
    """One that drains keeps the address that it has: whether it could have another one, nobody asks."""
    desired = dataclasses.replace(desired, requested_ip="")
    return single.plan(desired, succession.alone(observed, balancer))


def _exchange(observed: Observed, serving: LoadBalancerRecord, back: LoadBalancerRecord) -> tuple[Step, ...]:
    """The wish is back at what was before: the one that was retired is still there, and whole."""
    return (_retire(observed, serving, f"{back.name} is as asked for"), _revive(observed, back))


def _retire(observed: Observed, balancer: LoadBalancerRecord, why: str) -> Step:
    tags = ((names.RETIRED, str(int(observed.now_s))),)
    body = writes.SetTags(observed.owner, balancer.arn, tags)
    return Step(Action.UPDATE, "load balancer", "lb:retire", why, balancer.name, body=body, expected=True)


def _revive(observed: Observed, balancer: LoadBalancerRecord) -> Step:
    body = writes.RemoveTags(observed.owner, balancer.arn, (names.RETIRED,))
    why = "it is as asked for: it serves again"
    return Step(Action.UPDATE, "load balancer", "lb:revive", why, balancer.name, body=body, expected=True)


# -- several plans as one


def _part(plan_: Plan, prefix: str, *, group: bool = False) -> Plan:
    """The plan of another load balancer than the one that serves: its steps have ids of their own, and the
    security group, which they share, is not its business (`group`: unless the one that serves has none)."""
    steps = tuple(_renamed(step, prefix) for step in plan_.steps if group or not _is_of_the_group(step))
    bindings = {key if key == single.SG else prefix + key: value for key, value in plan_.bindings.items()}
    return Plan(plan_.owner, steps, (), bindings)


def _is_of_the_group(step: Step) -> bool:
    body = step.body
    if isinstance(body, _OF_THE_GROUP):
        return True
    return isinstance(body, writes.SetTags | writes.RemoveTags) and body.key.startswith("sg-")


def _renamed(step: Step, prefix: str) -> Step:
    if _is_of_the_group(step):
        return dataclasses.replace(step, expected=True)
    body: Any = step.body
    refs = {
        field.name: prefix + value
        for field in dataclasses.fields(body)
        if field.name.endswith("ref") and (value := getattr(body, field.name)) not in ("", single.SG)
    }
    if isinstance(body, writes.CreateLoadBalancer):
        refs["fallback"] = ()  # rather none than one that is not as asked for
    return dataclasses.replace(
        step, id=prefix + step.id, body=dataclasses.replace(body, **refs), expected=True
    )


def _together(first: Plan, second: Plan) -> Plan:
    return dataclasses.replace(
        first,
        steps=(*first.steps, *second.steps),
        bindings={**second.bindings, **first.bindings},
    )


# -- what is told


def _obstacle(desired: LoadBalancer, observed: Observed, cast: Cast) -> Notice | None:
    """Why it is not replaced, although that is allowed."""
    serving = cast.serving
    assert serving is not None
    if serving.arn in observed.protected:
        return _blocked(
            cast,
            f"{serving.name} is protected against deletion: "
            f"{names.PROTECTION_REMEDY.format(arn=serving.arn)}, and it will be replaced",
        )
    held = succession.held_addresses(desired, want(desired), serving)
    if held and desired.replace is not Replace.OUTAGE:
        return _blocked(
            cast,
            f"{', '.join(held)} can have one holder only, so that no new load balancer can stand beside the "
            "old one; lbprov.io/replace: outage takes the old one away first, and the Service is not "
            "reachable until the new one is set up (minutes)",
        )
    return None


def _blocked(cast: Cast, why: str) -> Notice:
    assert cast.serving is not None
    asked = "; ".join(map(str, cast.misfits))
    message = f"{asked}: not followed, {cast.serving.name} goes on serving as it is. {why}"
    return Notice(Severity.WARNING, "ReplacementBlocked", message, TOPIC)


def _preparing(serving: LoadBalancerRecord, successor: str, changes: str) -> Notice:
    message = (
        f"{successor} is made beside {serving.name} ({changes}) and takes its place when its targets are "
        "healthy"
    )
    return Notice(Severity.NORMAL, "ReplacingLoadBalancer", message, TOPIC)


def _draining(observed: Observed, cast: Cast, retired: LoadBalancerRecord) -> list[Notice]:
    if cast.serving is None or cast.successor is not None:
        return []
    message = (
        f"{cast.serving.name} has taken the place of {retired.name}, which goes on serving clients that "
        f"still know it for {observed.drain_s:.0f} s"
    )
    return [Notice(Severity.NORMAL, "ReplacingLoadBalancer", message, TOPIC)]


def _protected_leftover(retired: LoadBalancerRecord) -> Notice:
    message = (
        f"{retired.name} was replaced and is protected against deletion: "
        f"{names.PROTECTION_REMEDY.format(arn=retired.arn)}, and it will be deleted"
    )
    return Notice(Severity.WARNING, "ReplacementBlocked", message, TOPIC)


def _once_per_topic(notices: Iterable[Notice]) -> list[Notice]:
    """A condition says one thing: the gravest."""
    said: dict[str, Notice] = {}
    for notice in sorted(notices, key=lambda n: n.severity is not Severity.WARNING):
        said.setdefault(notice.topic, notice)
    return list(said.values())
