"""Listeners, written."""

from __future__ import annotations

import dataclasses

from lbprov.api import RetryLater
from lbprov_aws import elbv2, writes
from lbprov_aws.hands import Hands
from lbprov_aws.refusals import Refused
from lbprov_aws.resources import ListenerRecord, LoadBalancerRecord, TargetGroupRecord


def create_listener(hands: Hands, body: writes.CreateListener) -> str:
    balancer = hands.own(hands.bindings[body.balancer_ref], body.owner, LoadBalancerRecord)
    group = hands.own(hands.bindings[body.group_ref], body.owner, TargetGroupRecord)
    try:
        listener = elbv2.create_listener(
            hands.cloud,
            balancer_arn=balancer.arn,
            group_arn=group.arn,
            port=body.port,
            protocol=body.protocol,
            tags=body.tags,
        )
    except Refused as refusal:
        _look_again_at_listeners(hands, balancer, refusal)
        raise
    _put_listener(hands, balancer, listener)
    return listener.arn


def change_listener(hands: Hands, body: writes.ChangeListener) -> None:
    balancer = hands.own(hands.bindings[body.balancer_ref], body.owner, LoadBalancerRecord)
    group_arn = ""
    if body.group_ref:
        group_arn = hands.own(hands.bindings[body.group_ref], body.owner, TargetGroupRecord).arn
    try:
        listener = elbv2.change_listener(
            hands.cloud,
            body.arn,
            port=body.port,
            protocol=body.protocol or "",
            group_arn=group_arn,
        )
    except Refused as refusal:
        _look_again_at_listeners(hands, balancer, refusal)
        raise
    _put_listener(hands, balancer, listener)


def delete_listener(hands: Hands, body: writes.DeleteListener) -> None:
    balancer = hands.own(hands.bindings[body.balancer_ref], body.owner, LoadBalancerRecord)
    elbv2.delete(hands.cloud, "DeleteListener", ListenerArn=body.arn)
    rest = tuple(x for x in balancer.listeners or () if x.arn != body.arn)
    hands.inventory.put(dataclasses.replace(balancer, listeners=rest))


def _put_listener(hands: Hands, balancer: LoadBalancerRecord, listener: ListenerRecord) -> None:
    rest = [x for x in balancer.listeners or () if x.arn != listener.arn]
    listeners = tuple(sorted((*rest, listener), key=lambda x: x.port))
    hands.inventory.put(dataclasses.replace(balancer, listeners=listeners))


def _look_again_at_listeners(hands: Hands, balancer: LoadBalancerRecord, refusal: Refused) -> None:
    """Somebody else changes the listeners too: what we remember of them is not worth a plan."""
    if refusal.code in ("DuplicateListener", "ListenerNotFound"):
        hands.inventory.forget_details(balancer.arn)
        raise RetryLater(f"{refusal}: looking again", 1) from refusal
