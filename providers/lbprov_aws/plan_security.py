"""Who may connect: the security groups of the load balancer, and the rules of the one that is ours. Pure.

Usually there is one group of our own. A Service can name others, instead of it or beside it; those are
attached and taken off, and never changed. What somebody else attached stays.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from lbprov.api import Action, Notice, Severity, Step, UserError
from lbprov_aws import names, peer_annotations, writes
from lbprov_aws.desired import PRIVATE_LINK, Wanted, rules_from
from lbprov_aws.resources import IngressRule, LoadBalancerRecord, Observed, SecurityGroupRecord, as_tags
from lbprov_aws.room import rule_key
from lbprov_aws.tags import tag_steps

RULES_PER_GROUP = 60
"""The default quota of inbound rules of a security group, of each family ("Amazon VPC quotas")."""

LB, SG = "lb", "sg"


@dataclass(frozen=True, slots=True)
class Rules:
    """Rules to add and rules to take away, each as one write; `revoke_first` where both do not fit in."""

    allow: tuple[Step, ...]
    revoke: tuple[Step, ...]
    revoke_first: bool


def own_ref(wanted: Wanted) -> str:
    """The step id of our own group; empty if the Service wants others instead."""
    return "" if wanted.access.groups else SG


def named(wanted: Wanted, observed: Observed) -> tuple[str, ...]:
    """Ids of the groups that the Service names."""
    found = dict(observed.groups)
    wishes = (*wanted.access.groups, *wanted.access.extra_groups)
    return tuple(dict.fromkeys(found[name] for name in wishes if name in found))


def refuse_missing(wanted: Wanted, observed: Observed) -> None:
    """For a load balancer about to be made: other groups than those that are named, or everybody instead of
    those that cannot be read, might let anybody in."""
    missing = [name for name in wanted.access.groups if name not in dict(observed.groups)]
    if missing:
        raise UserError(
            f"there is no security group {', '.join(missing)} in the VPC: name them by id or tag Name; until "
            "then nothing is made",
            field=peer_annotations.field(peer_annotations.SECURITY_GROUPS),
        )
    if not wanted.knows_sources and not wanted.rules:
        raise UserError(
            f"none of {', '.join(wanted.access.unread_prefix_lists)} is the id of a prefix list (pl-…), and "
            "nobody else may connect; until then nothing is made",
            field=peer_annotations.field(peer_annotations.PREFIX_LISTS),
        )


def with_sources(wanted: Wanted, observed: Observed) -> Wanted:
    """For a load balancer that exists. Where nobody can tell who may connect, they are those who may now: by
    a typing error nobody is let in or locked out, and ports are followed nevertheless."""
    if wanted.knows_sources:
        return wanted
    group = observed.security_group
    sources = tuple(sorted({rule.cidr for rule in group.rules})) if group else ()
    rules_ = rules_from(sources, wanted.ports, path_mtu=wanted.access.path_mtu)
    return dataclasses.replace(wanted, rules=rules_)


def nobody_notices(wanted: Wanted, observed: Observed) -> tuple[Notice, ...]:
    """Of `wanted` as `with_sources` has it: nothing is left that tells who could connect before."""
    if wanted.knows_sources or wanted.rules or _can_have_none(observed):
        return ()
    message = (
        "nobody is admitted: who may connect cannot be read, and the security group does not tell who might "
        "before; put the annotation right"
    )
    return (Notice(Severity.WARNING, "AnnotationsIgnored", message, "Annotations"),)


def missing_notices(wanted: Wanted, observed: Observed) -> tuple[Notice, ...]:
    found = dict(observed.groups)
    missing = [n for n in (*wanted.access.groups, *wanted.access.extra_groups) if n not in found]
    if not missing:
        return ()
    named_by = {peer_annotations.SECURITY_GROUPS: wanted.access.groups}
    named_by[peer_annotations.EXTRA_SECURITY_GROUPS] = wanted.access.extra_groups
    fields = [f"aws-load-balancer-{name}" for name, ids in named_by.items() if set(ids) & set(missing)]
    message = (
        f"{' and '.join(fields)}: there is no security group {', '.join(missing)} in the load balancer's "
        "VPC, so that it is not attached; name groups by id or tag Name"
    )
    return (Notice(Severity.WARNING, "SecurityGroupNotFound", message, "SecurityGroups"),)


def are_known(wanted: Wanted, observed: Observed) -> bool:
    """Whether the groups that are to replace ours exist."""
    return all(name in dict(observed.groups) for name in wanted.access.groups)


def marks(wanted: Wanted, observed: Observed) -> dict[str, str]:
    """The tag that says which groups are attached because the Service names them."""
    live = observed.load_balancer
    had = dict(live.tags).get(names.GROUPS, "") if live else ""
    ids = " ".join(sorted(named(wanted, observed))) if are_known(wanted, observed) else had
    return {names.GROUPS: names.tag_text(ids)} if ids else {}


def attach(wanted: Wanted, observed: Observed, live: LoadBalancerRecord) -> list[Step]:
    """What is attached to a load balancer that exists. By a typing error nobody is let in or locked out."""
    if not are_known(wanted, observed) or not live.security_groups:
        return []
    own, ref = observed.security_group, own_ref(wanted)
    ids = named(wanted, observed)
    tags = dict(live.tags)
    leaving = set(tags.get(names.GROUPS, "").split()) | {own.group_id if own else ""}
    others = (*(g for g in live.security_groups if g not in leaving and g not in ids), *ids)
    own_is_there = not ref or (own is not None and own.group_id in live.security_groups)
    wanted_ids = {*others, *([own.group_id] if own and ref else [])}
    private_link = _private_link(wanted, live, tags)
    if own_is_there and wanted_ids == set(live.security_groups):
        if private_link == live.private_link:
            return []
        why = "PrivateLink is to be treated otherwise"
    else:
        why = (
            "they are not those that it should have" if own_is_there else "its security group is not attached"
        )
    body = writes.SetSecurityGroups(wanted.owner, LB, ref, others, private_link)
    return [Step(Action.UPDATE, "load balancer security groups", LB, why, live.name, body=body)]


def takes_off(wanted: Wanted, observed: Observed, live: LoadBalancerRecord) -> bool:
    """Whether a named group is to go: then it goes before the tag that tells of it."""
    before = set(dict(live.tags).get(names.GROUPS, "").split())
    return are_known(wanted, observed) and bool(before - set(named(wanted, observed)))


def _private_link(wanted: Wanted, live: LoadBalancerRecord, tags: dict[str, str]) -> bool:
    """As asked for; AWS's default where it was asked for once; otherwise whatever it is."""
    if wanted.access.private_link is not None:
        return wanted.access.private_link
    return True if names.marked_extra(tags.get(names.ATTRIBUTES, ""), PRIVATE_LINK) else live.private_link


def own_group(wanted: Wanted, observed: Observed, vpc_id: str) -> list[Step]:
    """Our own group, made or kept."""
    group = observed.security_group
    if not own_ref(wanted) or _can_have_none(observed):
        return []
    if group is not None:
        return tag_steps(wanted.owner, group, wanted.tags(SG))
    name = names.security_group_name(wanted.owner)
    description = f"Load balancer of Service {wanted.owner.service} (lbprov)"
    body = writes.CreateSecurityGroup(wanted.owner, name, vpc_id, description, as_tags(wanted.tags(SG)))
    return [Step(Action.CREATE, "security group", SG, "it says who may connect", name, body=body)]


def _can_have_none(observed: Observed) -> bool:
    """Whether it was made without any (see `settled`)."""
    live = observed.load_balancer
    return live is not None and not live.security_groups


def rules(wanted: Wanted, observed: Observed) -> Rules:
    """Of our own group. A rule that somebody else made counts as there."""
    group = observed.security_group
    if not own_ref(wanted) or _can_have_none(observed):
        return Rules((), (), revoke_first=False)
    ours = group.rules if group else frozenset()
    there = ours | (group.foreign_rules if group else frozenset())
    name = group.name if group else ""
    no_room = {rule for rule in wanted.rules - there if rule_key(rule) in dict(observed.refused)}
    missing, superfluous = tuple(sorted(wanted.rules - there - no_room)), tuple(sorted(ours - wanted.rules))
    allow: tuple[Step, ...] = ()
    revoke: tuple[Step, ...] = ()
    if missing:
        body = writes.AllowIngress(wanted.owner, SG, missing)
        allow = (Step(Action.CREATE, "ingress rules", f"{SG}:allow", _listed(missing), name, body=body),)
    if superfluous:
        revoked = writes.RevokeIngress(wanted.owner, SG, superfluous)
        reason = _listed(superfluous)
        revoke = (Step(Action.DELETE, "ingress rules", f"{SG}:revoke", reason, name, body=revoked),)
    return Rules(allow, revoke, _must_revoke_first(wanted, group))


def _must_revoke_first(wanted: Wanted, group: SecurityGroupRecord | None) -> bool:
    """Whether old and new rules do not fit into the group together. Otherwise nobody is locked out for a
    moment: the new ones come first."""
    if group is None:
        return False
    together = wanted.rules | group.rules | group.foreign_rules
    ipv6 = sum(":" in rule.cidr for rule in together)
    return max(ipv6, len(together) - ipv6) + group.other_rules > RULES_PER_GROUP


def _listed(rules_: tuple[IngressRule, ...]) -> str:
    shown = ", ".join(str(rule) for rule in rules_[:4])
    return shown + (f" and {len(rules_) - 4} more" if len(rules_) > 4 else "")
