"""Security groups and their rules, written."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from lbprov.api import RetryLater
from lbprov_aws import ec2, writes
from lbprov_aws.decode import RULE_DESCRIPTION
from lbprov_aws.hands import Hands
from lbprov_aws.refusals import DUPLICATE, QUOTA, Refused
from lbprov_aws.resources import IngressRule, SecurityGroupRecord
from lbprov_aws.room import RULES, fill, rule_key


def create_security_group(hands: Hands, body: writes.CreateSecurityGroup) -> str:
    try:
        group = ec2.create_security_group(
            hands.cloud,
            name=body.name,
            vpc_id=body.vpc_id,
            description=body.description,
            tags=body.tags,
        )
    except Refused as refusal:
        if refusal.code not in DUPLICATE:
            raise
        named = ec2.security_group_named(hands.cloud, body.name, body.vpc_id)
        group = hands.adopt(body.owner, body.name, named)
    hands.inventory.put(group)
    return group.group_id


def allow_ingress(hands: Hands, body: writes.AllowIngress) -> None:
    group = hands.own(hands.bindings[body.group_ref], body.owner, SecurityGroupRecord)
    rules = frozenset(body.rules)
    try:
        rules = _allow_what_fits(hands, body, group.group_id, rules)
    except Refused as refusal:
        if refusal.code != "InvalidPermission.Duplicate":
            raise
        group = _read_security_group(hands, group)
        rules = _allow_what_fits(hands, body, group.group_id, rules - group.rules - group.foreign_rules)
    hands.inventory.put(dataclasses.replace(group, rules=group.rules | rules))


def _allow_what_fits(
    hands: Hands, body: writes.AllowIngress, group_id: str, rules: frozenset[IngressRule]
) -> frozenset[IngressRule]:
    """Those that were admitted; the others are remembered. Each family has a quota of its own, so that one
    without room for more does not shut the other out."""
    why: list[str] = []

    def allow(some: Sequence[IngressRule]) -> bool:
        try:
            ec2.allow_ingress(hands.cloud, group_id, some, RULE_DESCRIPTION)
        except Refused as refusal:
            if refusal.code not in QUOTA:
                raise
            why.append(str(refusal))
            return False
        return True

    if not rules or allow(sorted(rules)):
        return rules
    ipv6 = sorted(rule for rule in rules if ":" in rule.cidr)
    admitted = {*fill(sorted(rules.difference(ipv6)), allow), *fill(ipv6, allow)}
    for rule in rules - admitted:
        hands.refusals.add(body.owner, rule_key(rule), why[-1])
    return frozenset(admitted)


def revoke_ingress(hands: Hands, body: writes.RevokeIngress) -> None:
    group = hands.own(hands.bindings[body.group_ref], body.owner, SecurityGroupRecord)
    rules = frozenset(body.rules)
    try:
        ec2.revoke_ingress(hands.cloud, group.group_id, rules)
    except Refused as refusal:
        if refusal.code != "InvalidPermission.NotFound":
            raise
        group = _read_security_group(hands, group)
        if rest := rules & group.rules:
            ec2.revoke_ingress(hands.cloud, group.group_id, rest)
    hands.refusals.withdraw(body.owner, RULES)
    hands.inventory.put(dataclasses.replace(group, rules=group.rules - rules))


def _read_security_group(hands: Hands, group: SecurityGroupRecord) -> SecurityGroupRecord:
    read = ec2.security_group(hands.cloud, group.group_id)
    if read is None:
        hands.inventory.doubt()
        raise RetryLater(f"security group {group.name} is gone: looking again", 1)
    return read


def delete_security_group(hands: Hands, body: writes.DeleteSecurityGroup) -> None:
    if hands.inventory.is_gone(body.group_id):
        return
    hands.own(body.group_id, body.owner, SecurityGroupRecord)
    try:
        ec2.delete_security_group(hands.cloud, body.group_id)
    except Refused as refusal:
        if refusal.code != "DependencyViolation":
            raise
        raise RetryLater("the load balancer's network interfaces still hold its security group", 15) from None
    hands.inventory.drop(body.group_id)
