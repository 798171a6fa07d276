"""Target groups and the targets in them, written."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from lbprov.api import RetryLater
from lbprov_aws import elbv2, writes
from lbprov_aws.hands import Hands
from lbprov_aws.refusals import DUPLICATE, QUOTA, Refused
from lbprov_aws.resources import LoadBalancerRecord, TargetGroupRecord
from lbprov_aws.room import GROUPS, TARGETS, fill, part_key, target_key


def create_target_group(hands: Hands, body: writes.CreateTargetGroup) -> str:
    try:
        group = elbv2.create_target_group(
            hands.cloud,
            name=body.name,
            vpc_id=body.vpc_id,
            protocol=body.protocol,
            port=body.port,
            check=body.health_check,
            tags=body.tags,
        )
        hands.inventory.put_created(group)
    except Refused as refusal:
        if refusal.code in QUOTA:
            group_ref = f"tg:{body.port}-{body.protocol.lower()}"
            hands.refusals.add(body.owner, part_key(group_ref), str(refusal))
            return ""
        if refusal.code not in DUPLICATE:
            raise
        named = elbv2.target_group_named(hands.cloud, body.name)
        group = hands.adopt(body.owner, body.name, named)
    return group.arn


def set_health_check(hands: Hands, body: writes.SetHealthCheck) -> None:
    group = hands.own(body.arn, body.owner, TargetGroupRecord)
    elbv2.set_health_check(hands.cloud, group.arn, body.health_check)
    hands.inventory.put(dataclasses.replace(group, health_check=body.health_check))


def register(hands: Hands, body: writes.RegisterTargets) -> None:
    group = hands.own(hands.bindings[body.group_ref], body.owner, TargetGroupRecord)

    def register(instances: Sequence[str]) -> bool:
        """Those that are refused for another reason than a quota do not count."""
        try:
            joined.update(_register_possible(hands, group.arn, tuple(instances)))
        except Refused as refusal:
            if refusal.code not in QUOTA:
                raise
            why.append(str(refusal))
            return False
        return True

    joined: set[str] = set()
    why: list[str] = []
    tried = fill(body.instances, register)
    for instance in body.instances[len(tried) :]:
        hands.refusals.add(body.owner, target_key(body.group_ref, instance), why[-1])
    hands.inventory.put(dataclasses.replace(group, targets=(group.targets or frozenset()) | joined))


def _register_possible(hands: Hands, arn: str, instances: tuple[str, ...]) -> frozenset[str]:
    """One bad instance makes AWS refuse all of a call; it names the bad ones. The others must not wait
    for somebody to clean up."""
    left = set(instances)
    while left:
        try:
            elbv2.change_targets(hands.cloud, "RegisterTargets", arn, sorted(left))
            break
        except Refused as refusal:
            bad = left & set(re.findall(r"i-[0-9a-f]{8,17}\b", str(refusal)))
            if refusal.code != "InvalidTarget" or not bad:
                raise
            hands.rejected.add(bad)
            left -= bad
    return frozenset(left)


def deregister(hands: Hands, body: writes.DeregisterTargets) -> None:
    group = hands.own(hands.bindings[body.group_ref], body.owner, TargetGroupRecord)
    try:
        elbv2.change_targets(hands.cloud, "DeregisterTargets", group.arn, body.instances)
    except Refused as refusal:
        if refusal.code != "InvalidTarget":
            raise
    hands.refusals.withdraw(body.owner, TARGETS)
    targets = (group.targets or frozenset()) - frozenset(body.instances)
    hands.inventory.put(dataclasses.replace(group, targets=targets))


def delete_target_group(hands: Hands, body: writes.DeleteTargetGroup) -> None:
    if hands.inventory.is_gone(body.arn):
        return
    group = hands.own(body.arn, body.owner, TargetGroupRecord)
    if _is_led_to(hands, body):
        return
    try:
        elbv2.delete(hands.cloud, "DeleteTargetGroup", TargetGroupArn=body.arn)
    except Refused as refusal:
        if refusal.code != "ResourceInUse":
            raise
        raise RetryLater(f"target group {group.name} is still in use by a listener", 5) from None
    hands.refusals.withdraw(body.owner, GROUPS)
    hands.inventory.drop(body.arn)


def _is_led_to(hands: Hands, body: writes.DeleteTargetGroup) -> bool:
    """Whether a listener keeps the group, as AWS refused the change that should have come before."""
    balancers = (r for r in hands.inventory.of(body.owner) if isinstance(r, LoadBalancerRecord))
    return any(x.target_group_arn == body.arn for b in balancers for x in b.listeners or ())
