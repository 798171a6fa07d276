"""Load balancers, written. The one place where an address is really taken."""

from __future__ import annotations

import dataclasses

from lbprov.api import ProviderError, RetryLater
from lbprov_aws import elbv2, names, writes
from lbprov_aws.hands import Hands
from lbprov_aws.refusals import ADDRESS_REFUSED, DUPLICATE, Refused
from lbprov_aws.resources import (
    LoadBalancerRecord,
    SecurityGroupRecord,
    SubnetMapping,
    as_tags,
)


def create_load_balancer(hands: Hands, body: writes.CreateLoadBalancer) -> str:
    group = hands.own(hands.bindings[body.group_ref], body.owner, SecurityGroupRecord)
    try:
        made = _make(hands, body, group, body.mappings)
    except Refused as refusal:
        address_refused = any(m.has_address for m in body.mappings) and refusal.code in ADDRESS_REFUSED
        if not address_refused and refusal.code not in DUPLICATE:
            raise
        named = elbv2.load_balancer_named(hands.cloud, body.name)
        if address_refused and named is None:
            made = _make_elsewhere(hands, body, group, refusal)
        else:
            made = hands.adopt(body.owner, body.name, named)
    return made.arn


def _make(
    hands: Hands,
    body: writes.CreateLoadBalancer,
    group: SecurityGroupRecord,
    mappings: tuple[SubnetMapping, ...],
    refusal: str = "",
) -> LoadBalancerRecord:
    more = {names.REFUSED_IP: refusal} if refusal else {}
    made = elbv2.create_load_balancer(
        hands.cloud,
        name=body.name,
        internal=body.internal,
        ip_address_type=body.ip_address_type,
        mappings=mappings,
        security_groups=[group.group_id],
        tags=as_tags({**dict(body.tags), **more}),
    )
    # A new one has AWS's defaults, of which we care for one.
    hands.inventory.put_created(dataclasses.replace(made, cross_zone=False))
    return made


def _make_elsewhere(
    hands: Hands, body: writes.CreateLoadBalancer, group: SecurityGroupRecord, refusal: Refused
) -> LoadBalancerRecord:
    """The address went to somebody else between our look and our call. If that is a load balancer of
    ours on its way out, it is worth waiting for; otherwise the Service gets another address now."""
    if any(mapping.allocation_id for mapping in body.mappings):
        hands.addresses.look_again(body.owner, body.requested_ip)
    if not body.fallback:
        raise RetryLater(f"{body.requested_ip} was taken meanwhile: looking again", 1)
    return _make(hands, body, group, body.fallback, refusal.code)


def set_cross_zone(hands: Hands, body: writes.SetCrossZone) -> None:
    balancer = hands.own(hands.bindings[body.balancer_ref], body.owner, LoadBalancerRecord)
    if len(balancer.zones) > 1:
        return  # made without the requested address after all
    elbv2.set_cross_zone(hands.cloud, balancer.arn)
    hands.inventory.put(dataclasses.replace(balancer, cross_zone=True))


def set_security_groups(hands: Hands, body: writes.SetSecurityGroups) -> None:
    balancer = hands.own(hands.bindings[body.balancer_ref], body.owner, LoadBalancerRecord)
    group = hands.own(hands.bindings[body.group_ref], body.owner, SecurityGroupRecord)
    ids = (*(other for other in body.others if other != group.group_id), group.group_id)
    elbv2.set_security_groups(hands.cloud, balancer.arn, ids)
    hands.inventory.put(dataclasses.replace(balancer, security_groups=ids))


def delete_load_balancer(hands: Hands, body: writes.DeleteLoadBalancer) -> None:
    if hands.inventory.is_gone(body.arn):
        return
    balancer = hands.own(body.arn, body.owner, LoadBalancerRecord)
    try:
        elbv2.delete(hands.cloud, "DeleteLoadBalancer", LoadBalancerArn=body.arn)
    except Refused as refusal:
        if refusal.code != "OperationNotPermitted":
            raise
        raise ProviderError(
            f"load balancer {balancer.name} is protected against deletion: turn its attribute "
            "deletion_protection.enabled off, and it will be deleted",
            retryable=False,
        ) from refusal
    hands.addresses.released(tuple(zone.allocation_id for zone in balancer.zones))
    hands.inventory.drop(body.arn)
