"""Listeners, written."""

from __future__ import annotations

import dataclasses

from lbprov.api import RetryLater
from lbprov_aws import elbv2, writes
from lbprov_aws.hands import Hands
from lbprov_aws.refusals import QUOTA, Refused
from lbprov_aws.refused import CODES, attribute_key, certificate_key
from lbprov_aws.resources import ListenerRecord, LoadBalancerRecord, TargetGroupRecord, as_tags
from lbprov_aws.room import LISTENERS, part_key


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
            tls=body.tls,
            tags=body.tags,
        )
    except Refused as refusal:
        _look_again_at_listeners(hands, balancer, refusal)
        if _is_remembered(hands, body, refusal):
            return ""
        if refusal.code in QUOTA:
            hands.refusals.add(body.owner, part_key(f"listener:{body.port}"), str(refusal))
            return ""
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
            tls=body.tls,
        )
    except Refused as refusal:
        _look_again_at_listeners(hands, balancer, refusal)
        if _is_remembered(hands, body, refusal):
            return
        raise
    before = next((x for x in balancer.listeners or () if x.arn == listener.arn), listener)
    if listener.protocol == "TLS":
        more = before.more_certificates or frozenset()
        listener = dataclasses.replace(listener, more_certificates=more)
    if listener.protocol == before.protocol:
        listener = dataclasses.replace(listener, attributes=before.attributes)
    _put_listener(hands, balancer, listener)


def change_certificates(hands: Hands, body: writes.ChangeCertificates) -> None:
    """One by one where AWS refuses some, which are remembered."""
    balancer = hands.own(hands.bindings[body.balancer_ref], body.owner, LoadBalancerRecord)
    arn = body.arn or hands.bindings.get(body.listener_ref, "")
    listener = next((x for x in balancer.listeners or () if x.arn == arn), None)
    if listener is None:
        return  # AWS refused the listener itself
    added = _add_certificates(hands, body, arn, body.add) if body.add else ()
    if body.remove:
        elbv2.change_certificates(hands.cloud, "RemoveListenerCertificates", arn, body.remove)
    more = ((listener.more_certificates or frozenset()) | set(added)) - set(body.remove)
    _put_listener(hands, balancer, dataclasses.replace(listener, more_certificates=more))


def set_attributes(hands: Hands, body: writes.SetListenerAttributes) -> None:
    """What AWS refuses is remembered."""
    balancer = hands.own(hands.bindings[body.balancer_ref], body.owner, LoadBalancerRecord)
    arn = body.arn or hands.bindings.get(body.listener_ref, "")
    listener = next((x for x in balancer.listeners or () if x.arn == arn), None)
    if listener is None:
        return  # AWS refused the listener itself
    try:
        elbv2.set_listener_attributes(hands.cloud, arn, body.attributes)
    except Refused as refusal:
        _look_again_at_listeners(hands, balancer, refusal)
        if refusal.code not in CODES:
            raise
        for key, value in body.attributes:
            hands.refusals.add(body.owner, attribute_key(body.listener_ref, key, value), str(refusal))
        return
    now = as_tags({**dict(listener.attributes or ()), **dict(body.attributes)})
    _put_listener(hands, balancer, dataclasses.replace(listener, attributes=now))


def _add_certificates(
    hands: Hands, body: writes.ChangeCertificates, arn: str, certificates: tuple[str, ...]
) -> tuple[str, ...]:
    try:
        elbv2.change_certificates(hands.cloud, "AddListenerCertificates", arn, certificates)
    except Refused as refusal:
        if refusal.code not in CODES:
            raise
        if len(certificates) > 1:
            return tuple(c for one in certificates for c in _add_certificates(hands, body, arn, (one,)))
        key = certificate_key(body.number, certificates[0])
        hands.refusals.add(body.owner, key, str(refusal))
        return ()
    return certificates


def delete_listener(hands: Hands, body: writes.DeleteListener) -> None:
    balancer = hands.own(hands.bindings[body.balancer_ref], body.owner, LoadBalancerRecord)
    elbv2.delete(hands.cloud, "DeleteListener", ListenerArn=body.arn)
    hands.refusals.withdraw(body.owner, LISTENERS)
    rest = tuple(x for x in balancer.listeners or () if x.arn != body.arn)
    hands.inventory.put(dataclasses.replace(balancer, listeners=rest))


def _is_remembered(
    hands: Hands, body: writes.CreateListener | writes.ChangeListener, refusal: Refused
) -> bool:
    """Whether how the listener should speak TLS was refused: then the other ports must not wait for it."""
    if not body.refusal_key or refusal.code not in CODES:
        return False
    hands.refusals.add(body.owner, body.refusal_key, str(refusal))
    return True


def _put_listener(hands: Hands, balancer: LoadBalancerRecord, listener: ListenerRecord) -> None:
    rest = [x for x in balancer.listeners or () if x.arn != listener.arn]
    listeners = tuple(sorted((*rest, listener), key=lambda x: x.port))
    hands.inventory.put(dataclasses.replace(balancer, listeners=listeners))


def _look_again_at_listeners(hands: Hands, balancer: LoadBalancerRecord, refusal: Refused) -> None:
    """Somebody else changes the listeners too: what we remember of them is not worth a plan."""
    if refusal.code in ("DuplicateListener", "ListenerNotFound"):
        hands.inventory.forget_details(balancer.arn)
        raise RetryLater(f"{refusal}: looking again", 1) from refusal
