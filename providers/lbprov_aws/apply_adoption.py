"""What others have made, or what somebody took marks off, marked as ours. Each is looked at once more right
before: it must still be what the plan took it for."""

from __future__ import annotations

import dataclasses

from lbprov.api import Owner, RetryLater
from lbprov_aws import ec2, elbv2, peers, writes
from lbprov_aws.decode import RULE_DESCRIPTION
from lbprov_aws.hands import Hands
from lbprov_aws.inventory import conflict
from lbprov_aws.names import has_lost_marks, owner_of
from lbprov_aws.resources import (
    LoadBalancerRecord,
    Record,
    SecurityGroupRecord,
    Tags,
    replace_tags,
)


def adopt(hands: Hands, body: writes.Adopt) -> str:
    record = _read(hands, body.key)
    if record is None:
        hands.inventory.doubt()
        hands.inventory.forget_others()
        raise RetryLater(f"{body.key} is not there any more: looking again", 2)
    if owner_of(dict(record.tags)) != body.owner:
        _require_theirs(hands, record, body.owner)
        if isinstance(record, SecurityGroupRecord):
            ec2.set_tags(hands.cloud, body.key, body.tags)
        else:
            elbv2.set_tags(hands.cloud, body.key, body.tags)
    hands.inventory.put_found(replace_tags(record, dict(body.tags), ()))
    return body.key


def _require_theirs(hands: Hands, record: Record, owner: Owner) -> None:
    """Raises `UserError` for what has become somebody else's."""
    if peers.is_of(record.tags, owner) or has_lost_marks(record.name, dict(record.tags), owner):
        return
    if isinstance(record, SecurityGroupRecord) and owner_of(dict(record.tags)) is None:
        balancers = [r for r in hands.inventory.of(owner) if isinstance(r, LoadBalancerRecord)]
        if any(peers.is_managed_group(record, owner, b.name) for b in balancers):
            return
    raise conflict(record.name, record.tags)


def _read(hands: Hands, key: str) -> Record | None:
    if key.startswith("sg-"):
        return ec2.security_group(hands.cloud, key)
    found: list[Record] = (
        [*elbv2.load_balancers(hands.cloud, [key])]
        if ":loadbalancer/" in key
        else [*elbv2.target_groups(hands.cloud, [key])]
    )
    tags: Tags = elbv2.tags(hands.cloud, [key]).get(key, ())
    return replace_tags(found[0], dict(tags), ()) if found else None


def claim_rules(hands: Hands, body: writes.ClaimRules) -> None:
    group = hands.own(body.group_id, body.owner, SecurityGroupRecord)
    ec2.describe_rules(hands.cloud, group.group_id, body.rules, RULE_DESCRIPTION)
    rules = frozenset(body.rules)
    changed = dataclasses.replace(group, rules=group.rules | rules, foreign_rules=group.foreign_rules - rules)
    hands.inventory.put(changed)


def tag_listener(hands: Hands, body: writes.TagListener) -> None:
    balancer = hands.own(body.balancer_arn, body.owner, LoadBalancerRecord)
    if body.tags:
        elbv2.set_tags(hands.cloud, body.arn, body.tags)
    if body.tag_keys:
        elbv2.remove_tags(hands.cloud, body.arn, body.tag_keys)
    hands.inventory.forget_details(balancer.arn)
