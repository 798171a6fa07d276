"""Which Services are ours to serve, to clean up or only to hold, and which are left alone.

A Service is claimed before anything is made for it: the condition `lbprov.io/Provider` says by whom, then
comes the finalizer. Both outlast a change of type or class, after which nothing else tells whose load
balancer it was; the finalizer alone does not, as every service controller uses the same one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from lbprov.model import Condition, Owner, Service, ServiceType, UserError

FINALIZER = "service.kubernetes.io/load-balancer-cleanup"
"""k8s.io/cloud-provider/service/helpers: a Service with it is not gone before its load balancer is."""

CLAIM = "lbprov.io/Provider"

_OURS = "lbprov.io/"
_CLASS = re.compile(r"([a-z0-9]([-.a-z0-9]*[a-z0-9])?/)?[A-Za-z0-9]([-._A-Za-z0-9]{0,61}[A-Za-z0-9])?")
"""A qualified name, as the API server checks it."""


@dataclass(frozen=True, slots=True)
class Claimant:
    """Who asks. `own_classless`: also Services without `spec.loadBalancerClass` are ours (the API server has
    no word of who serves those, so only one controller of a cluster may say so). `more_classes`: those of
    another controller that does not run any more, see `checked_classes`."""

    provider: str
    load_balancer_class: str
    own_classless: bool = False
    more_classes: tuple[str, ...] = ()


class Decision(StrEnum):
    """`HOLD`: it has a load balancer of ours, and a class that we are not told to serve. `CONFLICT`: it asks
    for us, but another provider still has a load balancer for it."""

    ENSURE = "ensure"
    CLEAN_UP = "clean up"
    HOLD = "hold"
    CONFLICT = "conflict"
    LEAVE = "leave"


def decide(service: Service, claimant: Claimant, *, owns: bool = False) -> Decision:
    """`owns`: the world is known to hold resources with this very Service's mark."""
    claimed_by = claimed(service)
    if is_ours(service, claimant) and not service.deleted_at:
        return Decision.ENSURE if claimed_by in ("", claimant.provider) else Decision.CONFLICT
    if owns or claimed_by == claimant.provider:
        return Decision.HOLD if _may_be_a_lost_flag(service) else Decision.CLEAN_UP
    if FINALIZER in service.finalizers and not claimed_by and is_ours(service, claimant):
        return Decision.CLEAN_UP
    return Decision.LEAVE


def _may_be_a_lost_flag(service: Service) -> bool:
    """Of a Service that has something of ours, and does not ask for us. A class cannot be changed while the
    type is LoadBalancer (core/v1 ServiceSpec), so it is we who are told otherwise; unless it was of another
    type between two looks, which is certain only where no flag can have served its class."""
    if service.deleted_at or service.type is not ServiceType.LOAD_BALANCER:
        return False
    return not (service.load_balancer_class or "").startswith(_OURS)


def why_held(service: Service) -> str:
    """What is wrong, and the remedies."""
    name = service.load_balancer_class
    if name is None:
        asks, flag = "has no spec.loadBalancerClass", "--own-classless (LBPROV_OWN_CLASSLESS=true)"
    else:
        asks = f"is of spec.loadBalancerClass {name}"
        flag = f"--load-balancer-class {name} (LBPROV_LOAD_BALANCER_CLASS)"
    return (
        f"the Service {asks}, which lbprov served before and is not told to serve now: its load balancer is "
        f"kept, and no change reaches it. Start lbprov with {flag} again; or, to have the load balancer "
        "taken away, delete the Service or change its type"
    )


def is_ours(service: Service, claimant: Claimant) -> bool:
    """Whether it asks for a load balancer, and us for it."""
    if service.type is not ServiceType.LOAD_BALANCER:
        return False
    if service.load_balancer_class is None:
        return claimant.own_classless
    return service.load_balancer_class in (claimant.load_balancer_class, *claimant.more_classes)


def checked_classes(classes: Iterable[str], own: str) -> tuple[str, ...]:
    """Classes that are to be served beside `own`, each once. Raises `UserError` for what can be no Service's,
    and for those of other providers of lbprov, which serve them."""
    found = tuple(name for name in dict.fromkeys(classes) if name != own)
    for name in found:
        if not _CLASS.fullmatch(name):
            raise UserError(
                f"{name!r} can be no spec.loadBalancerClass: those look like example.com/name",
                field="--load-balancer-class",
            )
        if name.startswith(_OURS):
            raise UserError(f"{name} is served by another provider of lbprov", field="--load-balancer-class")
    return found


def claimed(service: Service) -> str:
    """The provider that has claimed the Service, or empty."""
    condition = service.condition(CLAIM)
    return condition.reason if condition else ""


def claim(claimant: Claimant) -> Condition:
    return Condition(CLAIM, "True", claimant.provider, f"served by provider {claimant.provider}")


def owner_of(cluster: str, service: Service) -> Owner:
    return Owner(cluster, service.key, service.uid)
