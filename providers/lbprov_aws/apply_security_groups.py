"""Security groups and their rules, written."""

from __future__ import annotations

import dataclasses

from lbprov.api import RetryLater
from lbprov_aws import ec2, writes
from lbprov_aws.decode import RULE_DESCRIPTION
from lbprov_aws.hands import Hands
from lbprov_aws.refusals import DUPLICATE, Refused
from lbprov_aws.resources import SecurityGroupRecord


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
        ec2.allow_ingress(hands.cloud, group.group_id, rules, RULE_DESCRIPTION)
    except Refused as refusal:
        if refusal.code != "InvalidPermission.Duplicate":
            raise
        group = _read_security_group(hands, group)
        if missing := rules - group.rules - group.foreign_rules:
            ec2.allow_ingress(hands.cloud, group.group_id, missing, RULE_DESCRIPTION)
        rules -= group.foreign_rules
    hands.inventory.put(dataclasses.replace(group, rules=group.rules | rules))


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
