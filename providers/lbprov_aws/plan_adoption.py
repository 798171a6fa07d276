"""Taking over a load balancer that another controller has made for the same Service. Pure.

The load balancer is marked first, in one call: from then on it is ours, with a mark that says that the rest
is still to be taken over, which any later process goes on with, whatever the annotations say by then. Nothing
is taken away from it meanwhile: target groups keep their targets, listeners their target groups. What the
other controller knows its own by goes last, so that it never takes them for its own again.
"""

from __future__ import annotations

from collections.abc import Iterator

from lbprov.api import Action, Adopt, LoadBalancer, Notice, Owner, Plan, Severity, Step, UserError
from lbprov_aws import names, writes
from lbprov_aws.peers import THEIRS, Found, Kind, Maker, Takeover, is_of_another_uid
from lbprov_aws.resources import Observed, Tags, as_tags

ANNOTATION = "metadata.annotations[lbprov.io/adopt]"
REASON = "PeerLoadBalancerFound"


def plan(desired: LoadBalancer, observed: Observed) -> Plan | None:
    """None: there is nothing of that kind to be done. Raises `UserError` where the user has to decide."""
    found = observed.found
    if found is not None and observed.takeover is None:
        _refuse(found)
    if observed.takeover is None:
        return None
    if found is not None and is_of_another_uid(found, desired.owner):
        raise UserError(
            f"{found.name} was made by {found.maker} for a former Service of this name: not taken over. "
            "Delete it, or set lbprov.io/adopt: ignore to have a new load balancer made beside it",
            field=ANNOTATION,
            reason=REASON,
        )
    return _taken_over(desired.owner, observed.takeover)


def left_to_take_over(observed: Observed) -> Plan | None:
    """Of a takeover that was begun: what has to be marked as ours before it can be found and deleted."""
    return _taken_over(observed.owner, observed.takeover) if observed.takeover else None


def nothing_found(desired: LoadBalancer) -> tuple[Notice, ...]:
    """What is told of a Service that asks for a takeover and gets a new load balancer."""
    if desired.adopt is not Adopt.TAKE_OVER:
        return ()
    message = (
        f"nothing to take over: no load balancer has another controller's tags for {desired.owner.service} "
        f"of cluster {desired.owner.cluster}, so a new one is made"
    )
    return (Notice(Severity.NORMAL, "NothingToAdopt", message),)


def _refuse(found: Found) -> None:
    """Nothing is made beside a load balancer that may serve the Service's clients."""
    beside = "lbprov.io/adopt: ignore leaves it alone and makes a new one beside it"
    if found.kind is not Kind.NETWORK:
        raise UserError(
            f"{found.maker} has made the {found.kind} {found.name} for this Service, and it cannot be had. "
            "lbprov serves by Network Load Balancers, and AWS turns no other kind into one, nor gives it the "
            f"name and addresses of one. {beside}; delete the old one when its clients have moved",
            field=ANNOTATION,
            reason=REASON,
        )
    record = found.record
    assert record is not None
    raise UserError(
        f"{found.maker} has made the load balancer {found.name} ({record.dns_name}) for this Service. "
        "lbprov.io/adopt: take-over (or --adopt) takes it over, its name and addresses unchanged; stop the "
        f"other controller from serving this Service first. {beside}",
        field=ANNOTATION,
        reason=REASON,
    )


def _taken_over(owner: Owner, takeover: Takeover) -> Plan:
    balancer, maker = takeover.balancer, takeover.maker
    steps = [
        *_balancer(owner, takeover),
        *_security_group(owner, takeover),
        *_target_groups(owner, takeover),
        *_listeners(owner, takeover),
        *_disown(owner, balancer.arn, balancer.name, balancer.tags, names.ADOPTION, "load balancer"),
    ]
    finalizer = (
        " Its finalizer service.k8s.aws/resources is still on the Service: take it off if that controller is "
        "gone."
        if maker is Maker.LBC
        else ""
    )
    message = f"{balancer.name} is taken over from {maker}: {balancer.dns_name} stays.{finalizer}"
    return Plan(owner, tuple(steps), (Notice(Severity.NORMAL, "LoadBalancerAdopted", message),), {})


def _balancer(owner: Owner, takeover: Takeover) -> Iterator[Step]:
    balancer = takeover.balancer
    if names.owner_of(dict(balancer.tags)) == owner:
        return
    marks = {
        **names.marks(owner, "lb"),
        names.ADOPTED: names.tag_text(takeover.maker),
        names.ADOPTION: "begun",
    }
    body = writes.Adopt(owner, balancer.arn, as_tags(marks))
    why = f"made by {takeover.maker}; its name and addresses stay"
    yield Step(Action.UPDATE, "load balancer", "lb", why, balancer.name, body=body, expected=True)


def _security_group(owner: Owner, takeover: Takeover) -> Iterator[Step]:
    """Its rules are described as ours, so that they follow the Service; none is taken away for a moment."""
    group = takeover.security_group
    if group is None:
        return
    if names.owner_of(dict(group.tags)) != owner:
        body = writes.Adopt(owner, group.group_id, as_tags(names.marks(owner, "sg")))
        yield Step(
            Action.UPDATE,
            "security group",
            "sg",
            "it admits the clients",
            group.name,
            body=body,
            expected=True,
        )
    if group.foreign_rules:
        rules = tuple(sorted(group.foreign_rules))
        claim = writes.ClaimRules(owner, group.group_id, rules)
        why = "from now on they follow the Service"
        yield Step(Action.UPDATE, "ingress rules", "sg:claim", why, group.name, body=claim, expected=True)
    yield from _disown(owner, group.group_id, group.name, group.tags, "", "security group")


def _target_groups(owner: Owner, takeover: Takeover) -> Iterator[Step]:
    for group in takeover.target_groups:
        resource = f"tg:{group.port}-{group.protocol.lower()}"
        if names.owner_of(dict(group.tags)) != owner:
            body = writes.Adopt(owner, group.arn, as_tags(names.marks(owner, resource)))
            why = "its targets stay in it"
            yield Step(Action.UPDATE, "target group", group.arn, why, group.name, body=body, expected=True)
        yield from _disown(owner, group.arn, group.name, group.tags, "", "target group")


def _listeners(owner: Owner, takeover: Takeover) -> Iterator[Step]:
    """Those that lead to what was made for this Service; others are of somebody else."""
    ours = {group.arn for group in takeover.target_groups}
    for listener, tags in takeover.listeners:
        if listener.target_group_arn not in ours:
            continue
        name, resource = f"{listener.port}/{listener.protocol}", f"listener:{listener.port}"
        if names.owner_of(dict(tags)) != owner:
            marks = as_tags(names.marks(owner, resource))
            body = writes.TagListener(owner, takeover.balancer.arn, listener.arn, marks)
            why = "it leads where it led"
            yield Step(Action.UPDATE, "listener", resource, why, name, body=body, expected=True)
        if keys := _theirs(tags):
            body = writes.TagListener(owner, takeover.balancer.arn, listener.arn, (), keys)
            why = "nobody else takes it for its own any more"
            yield Step(Action.UPDATE, "listener", f"{resource}:disown", why, name, body=body, expected=True)


def _disown(owner: Owner, key: str, name: str, tags: Tags, more: str, kind: str) -> Iterator[Step]:
    """`more`: a mark that goes with theirs."""
    keys = _theirs(tags)
    if more:
        keys = (*keys, more)
    if keys:
        body = writes.RemoveTags(owner, key, keys)
        why = "nobody else takes it for its own any more"
        yield Step(Action.UPDATE, kind, f"{key}:disown", why, name, body=body, expected=True)


def _theirs(tags: Tags) -> tuple[str, ...]:
    return tuple(key for key, _ in tags if key in THEIRS)
