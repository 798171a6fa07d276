"""What AWS settles when it makes a load balancer: scheme, name, subnets, addresses. Pure.

A later wish for something else is told and not followed; whoever replaces load balancers finds here what asks
for it.
"""

from __future__ import annotations

from dataclasses import dataclass

from lbprov.api import Notice, Severity
from lbprov_aws import names
from lbprov_aws.desired import Wanted
from lbprov_aws.resources import LoadBalancerRecord

_NAME, _SUBNETS = "aws-load-balancer-name", "aws-load-balancer-subnets"


@dataclass(frozen=True, slots=True)
class Settled:
    """One thing that is not as it is asked for. `field`: where; `notice`: how that is told."""

    field: str
    is_: str
    asked: str
    notice: Notice


def made_for(wanted: Wanted) -> dict[str, str]:
    """Tags of a new load balancer that say what it was made for."""
    return {names.REQUESTED_SUBNETS: _subnets(wanted)} if wanted.subnets else {}


def differences(wanted: Wanted, live: LoadBalancerRecord) -> tuple[Settled, ...]:
    """Without addresses: see `addresses.judge`."""
    found = [_scheme(wanted, live), _name(wanted, live), _subnet_set(wanted, live), _group(live)]
    return tuple(x for x in found if x is not None)


def _scheme(wanted: Wanted, live: LoadBalancerRecord) -> Settled | None:
    if wanted.internal == live.internal or not wanted.knows_scheme:
        return None
    is_, asked = ("internal", "internet-facing") if live.internal else ("internet-facing", "internal")
    field = wanted.scheme_field or "scheme"
    default = "" if wanted.scheme_field else " (no annotation says one)"
    message = (
        f"{field}: {asked} is asked for{default}, but the load balancer stays {is_}: AWS cannot change it; "
        f"{names.REPLACE_REMEDY}; to keep it as it is, set lbprov.io/scheme: {is_}"
    )
    return Settled(field, is_, asked, _warning("SchemeChangeIgnored", message, "Scheme"))


def _name(wanted: Wanted, live: LoadBalancerRecord) -> Settled | None:
    """Who asks for none is content with any."""
    asked = wanted.name
    if not asked or live.name == names.with_generation(asked, names.generation_of(live.tags)):
        return None
    message = (
        f"{_NAME}: the load balancer stays {live.name}: AWS cannot rename it to {asked}; "
        f"{names.REPLACE_REMEDY}"
    )
    return Settled(_NAME, live.name, asked, _warning("NameChangeIgnored", message, "Name"))


def _subnet_set(wanted: Wanted, live: LoadBalancerRecord) -> Settled | None:
    was, asked = dict(live.tags).get(names.REQUESTED_SUBNETS, ""), _subnets(wanted)
    there = {zone.subnet_id for zone in live.zones}
    if not wanted.subnets or was == asked or set(wanted.subnets) == there:
        return None
    is_ = ", ".join(sorted(there))
    message = (
        f"{_SUBNETS}: the load balancer stays in {is_}: its subnets are chosen when it is made; "
        f"{names.REPLACE_REMEDY}"
    )
    return Settled(
        _SUBNETS, is_, ", ".join(wanted.subnets), _warning("SubnetsChangeIgnored", message, "Subnets")
    )


def _group(live: LoadBalancerRecord) -> Settled | None:
    """One that was made without, by another controller, gets none any more ("Security groups for your Network
    Load Balancer", ELB user guide)."""
    if live.security_groups:
        return None
    message = (
        "the load balancer was made without a security group, and AWS gives it none later: who may connect "
        f"is said by the nodes' security groups alone; {names.REPLACE_REMEDY}"
    )
    return Settled(
        "security groups", "none", "one", _warning("WithoutSecurityGroup", message, "SecurityGroup")
    )


def uses_fewer_subnets(wanted: Wanted, live: LoadBalancerRecord) -> bool:
    """Whether it stands in fewer subnets than the Service named when it was made, for no other reason than
    that they cannot be used."""
    tags = dict(live.tags)
    by_address = {names.REQUESTED_IP, names.REQUESTED_ADDRESSES} & tags.keys()
    as_named = tags.get(names.REQUESTED_SUBNETS) == _subnets(wanted)
    return bool(wanted.subnets) and as_named and not by_address and len(live.zones) < len(wanted.subnets)


def _subnets(wanted: Wanted) -> str:
    return names.tag_text(" ".join(wanted.subnets))


def _warning(reason: str, message: str, topic: str) -> Notice:
    return Notice(Severity.WARNING, reason, message, topic)
