"""The difference between what a Service wants on AWS and what there is, as ordered steps. Pure.

Order of building: security group and its rules, load balancer, target groups, targets, listeners. A load
balancer made without a security group can never get one, and targets stand before traffic can reach them.
What is taken away goes last, in the opposite order, so that nothing is missing in between.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lbprov.api import Action, Change, LoadBalancer, Notice, Plan, Severity, Step, UserError
from lbprov_aws import (
    address_lists,
    addresses,
    attributes,
    denied,
    names,
    plan_attributes,
    plan_listener_attributes,
    plan_listeners,
    plan_security,
    plan_targets,
    refused,
    room,
    settled,
    writes,
)
from lbprov_aws.desired import Wanted, want_of
from lbprov_aws.resources import (
    LoadBalancerRecord,
    Network,
    Observed,
    SecurityGroupRecord,
    Tags,
    as_tags,
)
from lbprov_aws.wishes import refuse_unread_wishes

LB, SG = "lb", "sg"
"""The step ids of the load balancer and its security group."""


def plan(desired: LoadBalancer | None, observed: Observed) -> Plan:
    """Raises `UserError` where the Service cannot be served or another owner is in the way."""
    return _remove(observed) if desired is None else _converge(desired, observed)


def of_sealed(desired: LoadBalancer, observed: Observed) -> Plan:
    """Nothing to do, and what is to be said that no detail is needed for."""
    live = observed.load_balancer
    assert live is not None
    wanted = want_of(desired, observed.generation)
    _refuse_taken(observed)
    told = _keep(desired, wanted, observed, live).notices
    return Plan(desired.owner, (), (*told, *wanted.notices), _bindings(observed, {}))


def _remove(observed: Observed) -> Plan:
    """Everything of the owner's. The load balancer first: it holds the others in use."""
    owner = observed.owner
    why = "the Service does not want it any more"
    steps = [
        *(delete_load_balancer(observed, lb, why) for lb in observed.load_balancers),
        *(plan_targets.delete(owner, group, why) for group in observed.target_groups),
        *(_delete_security_group(observed, group, why) for group in observed.security_groups),
    ]
    return Plan(owner, tuple(steps), (), {})


def _converge(desired: LoadBalancer, observed: Observed) -> Plan:
    wanted = want_of(desired, observed.generation)
    _refuse_taken(observed)
    live = observed.load_balancer
    network = observed.network
    if live is None:
        assert network is not None, "observe finds a network for a load balancer that does not exist"
        balancer = _create(desired, wanted, observed, network)
        vpc_id = network.vpc_id
    else:
        wanted = plan_security.with_sources(wanted, observed)
        balancer = _keep(desired, wanted, observed, live)
        vpc_id = live.vpc_id
    rules = plan_security.rules(wanted, observed)
    refusals = dict(observed.refused)
    fits = room.with_groups(wanted, plan_targets.groups_by_id(observed.target_groups, vpc_id), refusals)
    targets = plan_targets.plan(fits, observed, vpc_id)
    numbers = [listener.port for listener in (live.listeners if live else None) or ()]
    fits = room.with_listeners(fits, numbers, refusals)
    room.refuse_nothing_left(wanted, fits, refusals)
    listeners = plan_listeners.plan(fits, live, targets.known, refusals)
    steps = (
        *plan_security.own_group(wanted, observed, vpc_id),
        *(rules.revoke if rules.revoke_first else ()),
        *rules.allow,
        *balancer.before,
        *targets.before,
        *listeners.steps,
        *plan_listener_attributes.unmark(wanted, live, refusals),
        *balancer.after,
        *targets.after,
        *(() if rules.revoke_first else rules.revoke),
        *_superfluous(wanted, observed),
    )
    steps = plan_targets.keep_used(steps, wanted, observed)
    foreign = _foreign(observed, listeners.foreign, listeners.blocked)
    return Plan(
        owner=desired.owner,
        steps=room.marked(denied.without(steps, refusals, observed.once_refused), observed.once_refused),
        notices=(
            *balancer.notices,
            *wanted.notices,
            *targets.notices,
            *plan_security.missing_notices(wanted, observed),
            *plan_security.nobody_notices(wanted, observed),
            *refused.notices(wanted, observed.refused),
            *_subnets_notice(observed),
            *room.notices(wanted, refusals),
            *denied.notices(steps, refusals),
            *foreign,
        ),
        bindings=_bindings(observed, {**targets.known, **plan_targets.used_bindings(steps)}),
    )


def _bindings(observed: Observed, groups: dict[str, str]) -> dict[str, str]:
    known = dict(groups)
    if observed.load_balancer is not None:
        known[LB] = observed.load_balancer.arn
    if observed.security_group is not None:
        known[SG] = observed.security_group.group_id
    return known


def _refuse_taken(observed: Observed) -> None:
    if observed.taken:
        taken = "; ".join(f"{name} ({whose})" for name, whose in observed.taken)
        raise UserError(
            f"names that this Service's resources would have belong to somebody else: {taken}. Nothing was "
            "changed: rename or delete those first",
            reason="LoadBalancerOwnershipConflict",
        )


@dataclass(frozen=True, slots=True)
class _Balancer:
    """The load balancer's own part: steps `before` its listeners and `after` them, and what is to be said."""

    before: list[Step]
    after: list[Step]
    notices: list[Notice]


def _create(desired: LoadBalancer, wanted: Wanted, observed: Observed, network: Network) -> _Balancer:
    refuse_unread_wishes(desired)
    plan_security.refuse_missing(wanted, observed)
    placement = (
        address_lists.place(desired, wanted, network, observed)
        if wanted.addresses
        else addresses.place(desired, wanted, network, observed.address, observed.region)
    )
    dual_stack = wanted.dual_stack and all(s.ipv6_cidrs for s in network.subnets)
    tags = {**wanted.tags(LB), **settled.made_for(wanted), **plan_security.marks(wanted, observed)}
    asked = desired.requested_ip
    if wanted.addresses:
        asked = tags[names.REQUESTED_ADDRESSES] = address_lists.text(wanted.addresses)
    elif asked:
        tags[names.REQUESTED_IP] = names.tag_text(asked)
    body = writes.CreateLoadBalancer(
        owner=wanted.owner,
        name=wanted.balancer_name,
        internal=wanted.internal,
        ip_address_type="dualstack" if dual_stack else "ipv4",
        mappings=placement.mappings,
        group_ref=plan_security.own_ref(wanted),
        tags=as_tags(tags),
        requested_ip=asked,
        fallback=placement.fallback,
        more_groups=plan_security.named(wanted, observed),
        listed=bool(wanted.addresses),
    )
    places = ", ".join(mapping.zone for mapping in body.mappings)
    if any(mapping.has_address for mapping in body.mappings):
        places += f" at {addresses.canonical(asked)}"
    scheme = "internal" if wanted.internal else "internet-facing"
    step = Step(Action.CREATE, "load balancer", LB, f"{scheme}, in {places}", body.name, body=body)
    asked_of = attributes_in(wanted, [mapping.zone for mapping in body.mappings])
    after = plan_attributes.of_new(wanted, observed, LB, body.name, asked_of, zones=len(body.mappings))
    if wanted.access.private_link is False:
        groups = writes.SetSecurityGroups(wanted.owner, LB, body.group_ref, body.more_groups, False)
        why = "PrivateLink is to be treated otherwise"
        after.append(Step(Action.UPDATE, "load balancer security groups", LB, why, body.name, body=groups))
    notices = (placement.notice, _families_notice(wanted, dual_stack))
    return _Balancer([step], after, [n for n in notices if n is not None])


def _keep(desired: LoadBalancer, wanted: Wanted, observed: Observed, live: LoadBalancerRecord) -> _Balancer:
    """A load balancer that exists keeps its zones, its addresses, its scheme and its name."""
    groups = plan_security.attach(wanted, observed, live)
    marked = plan_attributes.of_record(
        wanted,
        observed,
        LB,
        live,
        attributes_in(wanted, [zone.zone for zone in live.zones]),
        {**plan_security.marks(wanted, observed), **plan_listener_attributes.kept_mark(wanted, live)},
        zones=len(live.zones),
    )
    before = [*groups, *marked] if plan_security.takes_off(wanted, observed, live) else [*marked, *groups]
    after: list[Step] = []
    dual_stack = live.ip_address_type == "dualstack"
    if wanted.dual_stack != dual_stack and (dual_stack or _has_ipv6(observed, live)):
        step = _ip_address_type(wanted, live)
        # UDP listeners exist only while it is IPv4, so it turns to that before them and from it after them.
        (before if dual_stack else after).append(step)
        dual_stack = wanted.dual_stack
    listed = wanted.addresses or names.REQUESTED_ADDRESSES in dict(live.tags)
    notices = (
        address_lists.judge(wanted, live, observed)
        if listed
        else addresses.judge(desired, wanted, live, observed.network, observed.address, observed.region),
        _families_notice(wanted, dual_stack),
        *(difference.notice for difference in settled.differences(wanted, live)),
    )
    return _Balancer(before, after, [n for n in notices if n is not None])


def attributes_in(wanted: Wanted, zones: Iterable[str]) -> Tags:
    """Of a load balancer in these zones. It serves the nodes of other zones too, unless the Service says
    otherwise: without cross-zone they would get nothing."""
    usual = {attributes.CROSS_ZONE: "true"} if wanted.spans_zones(zones) else {}
    return as_tags({**usual, **dict(wanted.attributes)})


def _has_ipv6(observed: Observed, live: LoadBalancerRecord) -> bool:
    """Whether every subnet that it stands in has an IPv6 range."""
    found = {s.subnet_id for s in observed.standing if s.ipv6_cidrs}
    return {zone.subnet_id for zone in live.zones} <= found


def _ip_address_type(wanted: Wanted, live: LoadBalancerRecord) -> Step:
    type_ = "dualstack" if wanted.dual_stack else "ipv4"
    change = Change("type", live.ip_address_type, type_)
    body = writes.SetIpAddressType(wanted.owner, LB, type_)
    why = "the Service asks for it"
    return Step(Action.UPDATE, "load balancer addresses", LB, why, live.name, (change,), body)


def _subnets_notice(observed: Observed) -> tuple[Notice, ...]:
    if observed.no_network:
        message = f"{observed.no_network}; until then the load balancer stays where it is"
        return (Notice(Severity.WARNING, "SubnetsNotUsed", message, "UnusedSubnets"),)
    if not observed.subnet_complaints:
        return ()
    message = (
        f"aws-load-balancer-subnets: {'; '.join(observed.subnet_complaints)}; the others are used: name one "
        "subnet of each zone, by id or tag Name"
    )
    return (Notice(Severity.WARNING, "SubnetsNotUsed", message, "UnusedSubnets"),)


def _families_notice(wanted: Wanted, dual_stack: bool) -> Notice | None:
    if dual_stack or not wanted.dual_stack:
        return None
    message = (
        "IPv4 only: IPv6 addresses need an IPv6 range in every subnet of the load balancer: add them, or ask "
        "for IPv4 alone (spec.ipFamilies, aws-load-balancer-ip-address-type)"
    )
    return Notice(Severity.WARNING, "IPv6NotServed", message, "IPFamilies")


def _superfluous(wanted: Wanted, observed: Observed) -> list[Step]:
    """What a crash or two controllers at once may have left: more than one of what there should be one; and
    our own security group, where the Service names others."""
    why = "a second one of this Service"
    needed = plan_security.own_ref(wanted) or not plan_security.are_known(wanted, observed)
    unused = (
        [] if needed else [g for g in observed.security_groups[:1] if g.group_id not in observed.attached]
    )
    return [
        *(delete_load_balancer(observed, lb, why) for lb in observed.load_balancers[1:]),
        *(_delete_security_group(observed, group, "the Service names others") for group in unused),
        *(_delete_security_group(observed, group, why) for group in observed.security_groups[1:]),
    ]


def delete_load_balancer(observed: Observed, lb: LoadBalancerRecord, why: str) -> Step:
    body = writes.DeleteLoadBalancer(observed.owner, lb.arn)
    return Step(
        Action.DELETE, "load balancer", lb.arn, why, lb.name, body=body, disruptive=True, since=lb.created_at
    )


def _delete_security_group(observed: Observed, group: SecurityGroupRecord, why: str) -> Step:
    body = writes.DeleteSecurityGroup(observed.owner, group.group_id)
    return Step(Action.DELETE, "security group", group.group_id, why, group.name, body=body, disruptive=True)


def _foreign(observed: Observed, listeners: tuple[int, ...], blocked: tuple[str, ...]) -> tuple[Notice, ...]:
    said = [f"the listener on port {port} of the load balancer" for port in listeners]
    group = observed.security_group
    if group is not None and (count := len(group.foreign_rules) + group.other_rules):
        said.append(f"{count} rule{'s' if count > 1 else ''} of the security group {group.name}")
    parts = [f"not made by lbprov and left alone: {', '.join(said)}"] if said else []
    if blocked:
        parts.append(f"not served because of that: {', '.join(blocked)}; delete the listener in the way")
    if not parts:
        return ()
    return (Notice(Severity.WARNING, "ForeignResourcesIgnored", "; ".join(parts), "Foreign"),)
