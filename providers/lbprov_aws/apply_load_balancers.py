"""Load balancers, written. The one place where an address is really taken."""

from __future__ import annotations

import dataclasses

from lbprov.api import Owner, ProviderError, RetryLater
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
    groups = _groups(hands, body.owner, body.group_ref, body.more_groups)
    try:
        made = _make(hands, body, groups, body.mappings)
    except Refused as refusal:
        address_refused = any(m.has_address for m in body.mappings) and refusal.code in ADDRESS_REFUSED
        if not address_refused and refusal.code not in DUPLICATE:
            raise
        named = elbv2.load_balancer_named(hands.cloud, body.name)
        if address_refused and named is None:
            made = _make_elsewhere(hands, body, groups, refusal)
        else:
            made = hands.adopt(body.owner, body.name, named)
    return made.arn


def _groups(hands: Hands, owner: Owner, ref: str, others: tuple[str, ...]) -> tuple[str, ...]:
    """Ids of all security groups to attach; our own first, checked to be that."""
    own = (hands.own(hands.bindings[ref], owner, SecurityGroupRecord).group_id,) if ref else ()
    return (*own, *(other for other in others if other not in own))


def _make(
    hands: Hands,
    body: writes.CreateLoadBalancer,
    groups: tuple[str, ...],
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
        security_groups=groups,
        tags=as_tags({**dict(body.tags), **more}),
    )
    hands.inventory.put_created(made)
    return made


def _make_elsewhere(
    hands: Hands, body: writes.CreateLoadBalancer, groups: tuple[str, ...], refusal: Refused
) -> LoadBalancerRecord:
    """The address went to somebody else between our look and our call. If that is a load balancer of
    ours on its way out, it is worth waiting for; otherwise the Service gets another address now."""
    allocations = tuple(m.allocation_id for m in body.mappings if m.allocation_id)
    all_free = True
    if body.listed:
        all_free = hands.addresses.are_free(body.owner, allocations)
    elif allocations:
        hands.addresses.look_again(body.owner, body.requested_ip)
    if not body.fallback or not all_free:  # of several, the others may be had
        raise RetryLater(f"{body.requested_ip} was taken meanwhile: looking again", 1)
    return _make(hands, body, groups, body.fallback, refusal.code)


def set_security_groups(hands: Hands, body: writes.SetSecurityGroups) -> None:
    balancer = hands.own(hands.bindings[body.balancer_ref], body.owner, LoadBalancerRecord)
    ids = _groups(hands, body.owner, body.group_ref, body.others)
    elbv2.set_security_groups(hands.cloud, balancer.arn, ids, private_link=body.private_link)
    hands.inventory.put(dataclasses.replace(balancer, security_groups=ids, private_link=body.private_link))


def set_ip_address_type(hands: Hands, body: writes.SetIpAddressType) -> None:
    balancer = hands.own(hands.bindings[body.balancer_ref], body.owner, LoadBalancerRecord)
    elbv2.set_ip_address_type(hands.cloud, balancer.arn, body.ip_address_type)
    hands.inventory.put(dataclasses.replace(balancer, ip_address_type=body.ip_address_type))


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
            f"load balancer {balancer.name} is protected against deletion: "
            f"{names.PROTECTION_REMEDY.format(arn=balancer.arn)}, and it will be deleted",
            retryable=False,
            reason="DeletionProtected",
        ) from refusal
    hands.addresses.released(tuple(zone.allocation_id for zone in balancer.zones))
    hands.inventory.drop(body.arn)
