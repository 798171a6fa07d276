"""The difference between what a Service wants on AWS and what there is, as ordered steps. Pure.

Order of building: security group and its rules, load balancer, target groups, targets, listeners. A load
balancer made without a security group can never get one, and targets stand before traffic can reach them.
What is taken away goes last, in the opposite order, so that nothing is missing in between.
"""

from __future__ import annotations

from lbprov.api import Action, LoadBalancer, Notice, Plan, Severity, Step, UserError
from lbprov_aws import addresses, names, plan_listeners, plan_targets, writes
from lbprov_aws.desired import Wanted, want_of
from lbprov_aws.resources import (
    IngressRule,
    LoadBalancerRecord,
    Network,
    Observed,
    SecurityGroupRecord,
    as_tags,
)
from lbprov_aws.tags import tag_steps

RULES_PER_GROUP = 60
"""The default quota of inbound rules of a security group, of each family ("Amazon VPC quotas")."""

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
    _, _, notices = _keep(desired, wanted, observed, live)
    return Plan(desired.owner, (), (*notices, *wanted.notices), _bindings(observed, {}))


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
        balancer, cross_zone, notices = _create(desired, wanted, observed, network)
        vpc_id = network.vpc_id
    else:
        balancer, cross_zone, notices = _keep(desired, wanted, observed, live)
        vpc_id = live.vpc_id
    allow, revoke = _ingress(wanted, observed.security_group)
    targets = plan_targets.plan(wanted, observed, vpc_id)
    listeners = plan_listeners.plan(wanted, live, targets.known)
    steps = (
        *_security_group(wanted, observed, vpc_id),
        *(revoke if _must_revoke_first(wanted, observed.security_group) else ()),
        *allow,
        *balancer,
        *targets.before,
        *cross_zone,
        *listeners.steps,
        *targets.after,
        *(() if _must_revoke_first(wanted, observed.security_group) else revoke),
        *_superfluous(observed),
    )
    foreign = _foreign(observed, listeners.foreign, listeners.blocked)
    return Plan(
        owner=desired.owner,
        steps=steps,
        notices=(*notices, *wanted.notices, *targets.notices, *foreign),
        bindings=_bindings(observed, targets.known),
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


def _create(
    desired: LoadBalancer, wanted: Wanted, observed: Observed, network: Network
) -> tuple[list[Step], list[Step], list[Notice]]:
    """The steps that make it, those for after its target groups are made, and what is to be said."""
    placement = addresses.place(desired, wanted, network, observed.address, observed.region)
    dual_stack = wanted.dual_stack and all(s.ipv6_cidrs for s in network.subnets)
    tags = wanted.tags(LB)
    if desired.requested_ip:
        tags[names.REQUESTED_IP] = names.tag_text(desired.requested_ip)
    body = writes.CreateLoadBalancer(
        owner=wanted.owner,
        name=names.load_balancer_name(wanted.owner, internal=wanted.internal, generation=wanted.generation),
        internal=wanted.internal,
        ip_address_type="dualstack" if dual_stack else "ipv4",
        mappings=placement.mappings,
        group_ref=SG,
        tags=as_tags(tags),
        requested_ip=desired.requested_ip,
        fallback=placement.fallback,
    )
    places = ", ".join(mapping.zone for mapping in body.mappings)
    if any(mapping.has_address for mapping in body.mappings):
        places += f" at {addresses.canonical(desired.requested_ip)}"
    scheme = "internal" if wanted.internal else "internet-facing"
    step = Step(Action.CREATE, "load balancer", LB, f"{scheme}, in {places}", body.name, body=body)
    notices = (placement.notice, _families_notice(wanted, dual_stack))
    cross_zone = [_cross_zone(wanted, body.name)] if len(body.mappings) == 1 else []
    return [step], cross_zone, [n for n in notices if n is not None]


def _keep(
    desired: LoadBalancer, wanted: Wanted, observed: Observed, live: LoadBalancerRecord
) -> tuple[list[Step], list[Step], list[Notice]]:
    """As `_create`. A load balancer that exists keeps its zones, its addresses and its scheme."""
    steps: list[Step] = []
    group = observed.security_group
    if group is None or group.group_id not in live.security_groups:
        body = writes.SetSecurityGroups(wanted.owner, LB, SG, live.security_groups)
        reason = "its security group is not attached"
        steps.append(Step(Action.UPDATE, "load balancer security groups", LB, reason, live.name, body=body))
    extra = {k: v for k, v in live.tags if k in (names.REQUESTED_IP, names.REFUSED_IP)}
    steps += tag_steps(wanted.owner, live, {**wanted.tags(LB), **extra})
    notices = (
        addresses.judge(desired, wanted, live, observed.network, observed.address, observed.region),
        _families_notice(wanted, live.ip_address_type == "dualstack"),
        _scheme_notice(wanted, live),
    )
    off = live.cross_zone is False and len(live.zones) == 1
    cross_zone = [_cross_zone(wanted, live.name)] if off else []
    return steps, cross_zone, [n for n in notices if n is not None]


def _cross_zone(wanted: Wanted, name: str) -> Step:
    reason = "cross-zone on: it stands in one zone and serves the nodes of all"
    body = writes.SetCrossZone(wanted.owner, LB)
    return Step(Action.UPDATE, "load balancer attributes", LB, reason, name, body=body)


def _families_notice(wanted: Wanted, dual_stack: bool) -> Notice | None:
    if dual_stack or not wanted.dual_stack:
        return None
    message = (
        "IPv4 only: a load balancer gets IPv6 addresses when it is made, in subnets that all have "
        "an IPv6 range"
    )
    return Notice(Severity.WARNING, "IPv6NotServed", message, "IPFamilies")


def _scheme_notice(wanted: Wanted, live: LoadBalancerRecord) -> Notice | None:
    if wanted.internal == live.internal:
        return None
    is_, wish = ("internal", "internet-facing") if live.internal else ("internet-facing", "internal")
    message = f"the load balancer stays {is_}: AWS cannot make it {wish}; {names.REPLACE_REMEDY}"
    return Notice(Severity.WARNING, "SchemeChangeIgnored", message, "Scheme")


def _security_group(wanted: Wanted, observed: Observed, vpc_id: str) -> list[Step]:
    group = observed.security_group
    if group is not None:
        return tag_steps(wanted.owner, group, wanted.tags(SG))
    name = names.security_group_name(wanted.owner)
    description = f"Load balancer of Service {wanted.owner.service} (lbprov)"
    body = writes.CreateSecurityGroup(wanted.owner, name, vpc_id, description, as_tags(wanted.tags(SG)))
    return [Step(Action.CREATE, "security group", SG, "it says who may connect", name, body=body)]


def _ingress(wanted: Wanted, group: SecurityGroupRecord | None) -> tuple[tuple[Step, ...], tuple[Step, ...]]:
    """Rules to add and rules to take away, each as one write. One that somebody else made counts as there."""
    ours = group.rules if group else frozenset()
    there = ours | (group.foreign_rules if group else frozenset())
    name = group.name if group else ""
    missing, superfluous = tuple(sorted(wanted.rules - there)), tuple(sorted(ours - wanted.rules))
    allow: tuple[Step, ...] = ()
    revoke: tuple[Step, ...] = ()
    if missing:
        body = writes.AllowIngress(wanted.owner, SG, missing)
        allow = (Step(Action.CREATE, "ingress rules", f"{SG}:allow", _listed(missing), name, body=body),)
    if superfluous:
        revoked = writes.RevokeIngress(wanted.owner, SG, superfluous)
        reason = _listed(superfluous)
        revoke = (Step(Action.DELETE, "ingress rules", f"{SG}:revoke", reason, name, body=revoked),)
    return allow, revoke


def _must_revoke_first(wanted: Wanted, group: SecurityGroupRecord | None) -> bool:
    """Whether old and new rules do not fit into the group together. Otherwise nobody is locked out for a
    moment: the new ones come first."""
    if group is None:
        return False
    together = wanted.rules | group.rules | group.foreign_rules
    ipv6 = sum(":" in rule.cidr for rule in together)
    return max(ipv6, len(together) - ipv6) + group.other_rules > RULES_PER_GROUP


def _listed(rules: tuple[IngressRule, ...]) -> str:
    shown = ", ".join(str(rule) for rule in rules[:4])
    return shown + (f" and {len(rules) - 4} more" if len(rules) > 4 else "")


def _superfluous(observed: Observed) -> list[Step]:
    """What a crash or two controllers at once may have left: more than one of what there should be one."""
    why = "a second one of this Service"
    return [
        *(delete_load_balancer(observed, lb, why) for lb in observed.load_balancers[1:]),
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
