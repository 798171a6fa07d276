"""Carrying out plan steps: one write each, the owner's mark checked before anything of it is changed.

Everything may be done twice: what is made already is adopted if it bears the owner's mark, what is gone is
gone. What AWS needs time for is `RetryLater`; nobody waits here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from lbprov.api import Bindings, RetryLater, Step
from lbprov_aws import (
    apply_adoption,
    apply_attributes,
    apply_listeners,
    apply_load_balancers,
    apply_security_groups,
    apply_target_groups,
    denied,
    ec2,
    elbv2,
    writes,
)
from lbprov_aws.hands import Hands
from lbprov_aws.refusals import GONE, Denied, Refused
from lbprov_aws.resources import SecurityGroupRecord, replace_tags

_NOT_YET = GONE | {"InvalidSecurityGroup"}
"""Codes for a thing that is gone, or that another part of AWS does not know yet."""


def apply(hands: Hands, step: Step, bindings: Bindings) -> None:
    if _belongs_to_what_was_refused(step.body, bindings):
        return
    try:
        made = _HANDLERS[type(step.body)](dataclasses.replace(hands, bindings=bindings), step.body)
    except Refused as refusal:
        if isinstance(refusal, Denied) and (body := denied.alone(step)) is not None:
            hands.refusals.add(body.owner, denied.key(step), str(refusal))
            return
        if refusal.code not in _NOT_YET:
            raise
        hands.inventory.doubt()
        raise RetryLater(f"{refusal}: looking again", 2) from refusal
    if made is not None:
        bindings[step.id] = made


def _belongs_to_what_was_refused(body: object, bindings: Bindings) -> bool:
    """A step that AWS refused and that others need not wait for has made nothing, which is bound as such."""
    refs = (getattr(body, name, "") for name in ("group_ref", "ref"))
    return any(ref and bindings.get(ref) == "" for ref in refs)


def _set_tags(hands: Hands, body: writes.SetTags) -> None:
    record = hands.inventory.require_own(body.key, body.owner)
    if isinstance(record, SecurityGroupRecord):
        ec2.set_tags(hands.cloud, body.key, body.tags)
    else:
        elbv2.set_tags(hands.cloud, body.key, body.tags)
    hands.inventory.put(replace_tags(record, dict(body.tags), ()))


def _remove_tags(hands: Hands, body: writes.RemoveTags) -> None:
    record = hands.inventory.require_own(body.key, body.owner)
    if isinstance(record, SecurityGroupRecord):
        ec2.remove_tags(hands.cloud, body.key, body.tag_keys)
    else:
        elbv2.remove_tags(hands.cloud, body.key, body.tag_keys)
    hands.inventory.put(replace_tags(record, {}, body.tag_keys))


_HANDLERS: dict[type, Callable[[Hands, Any], str | None]] = {
    writes.CreateSecurityGroup: apply_security_groups.create_security_group,
    writes.AllowIngress: apply_security_groups.allow_ingress,
    writes.RevokeIngress: apply_security_groups.revoke_ingress,
    writes.DeleteSecurityGroup: apply_security_groups.delete_security_group,
    writes.CreateLoadBalancer: apply_load_balancers.create_load_balancer,
    writes.SetAttributes: apply_attributes.set_attributes,
    writes.SetIpAddressType: apply_load_balancers.set_ip_address_type,
    writes.SetSecurityGroups: apply_load_balancers.set_security_groups,
    writes.DeleteLoadBalancer: apply_load_balancers.delete_load_balancer,
    writes.CreateTargetGroup: apply_target_groups.create_target_group,
    writes.SetHealthCheck: apply_target_groups.set_health_check,
    writes.RegisterTargets: apply_target_groups.register,
    writes.DeregisterTargets: apply_target_groups.deregister,
    writes.DeleteTargetGroup: apply_target_groups.delete_target_group,
    writes.CreateListener: apply_listeners.create_listener,
    writes.ChangeListener: apply_listeners.change_listener,
    writes.ChangeCertificates: apply_listeners.change_certificates,
    writes.SetListenerAttributes: apply_listeners.set_attributes,
    writes.DeleteListener: apply_listeners.delete_listener,
    writes.SetTags: _set_tags,
    writes.RemoveTags: _remove_tags,
    writes.Adopt: apply_adoption.adopt,
    writes.ClaimRules: apply_adoption.claim_rules,
    writes.TagListener: apply_adoption.tag_listener,
}
