"""One load balancer in the place of another: which one serves, which one comes, which ones go. Pure.

What cannot be changed on a load balancer (scheme, name, subnets, addresses) is had by making another one
beside it. Everything that is to be known of that is in tags: which generation a load balancer and its target
groups are of, and since when one is retired. The oldest one that is not retired serves: its name or address
is in the Service's status. So every moment may be the last one of a process, and the next one goes on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from lbprov.api import LoadBalancer, Owner, Replace
from lbprov_aws import address_lists, addresses, names, settled
from lbprov_aws.desired import Wanted
from lbprov_aws.resources import LoadBalancerRecord, Observed, TargetGroupRecord, as_tags

PREPARING_POLL_S = 10.0
"""How often to look whether a new load balancer can take its place."""
DRAINING_POLL_S = 60.0
BLOCKED_POLL_S = 300.0


@dataclass(frozen=True, slots=True)
class Misfit:
    """Something that AWS cannot change on a load balancer. `field`: where it is asked for."""

    field: str
    is_: str
    asked: str

    def __str__(self) -> str:
        return f"{self.field}: {self.is_} -> {self.asked}"


@dataclass(frozen=True, slots=True)
class Cast:
    """`serving` None: there is none but retired ones. `successor`: made to take its place. `superfluous`:
    nobody ever met them, or nobody should."""

    serving: LoadBalancerRecord | None = None
    successor: LoadBalancerRecord | None = None
    retired: tuple[LoadBalancerRecord, ...] = ()
    superfluous: tuple[LoadBalancerRecord, ...] = ()
    misfits: tuple[Misfit, ...] = ()
    """Of the one that serves."""


def in_order(owner: Owner, balancers: Iterable[LoadBalancerRecord]) -> tuple[LoadBalancerRecord, ...]:
    """The one that serves first. Of two that are as old, a crash's leftover, one with a usual name."""
    usual = {names.load_balancer_name(owner, internal=i) for i in (True, False)}

    def rank(balancer: LoadBalancerRecord) -> tuple[int, str, bool, str, str]:
        retired_at_s = names.retired_at_s(balancer.tags)
        # Of retired ones, the last one to serve.
        order = 0 if retired_at_s is None else 2**40 - retired_at_s
        return (order, balancer.created_at, balancer.name not in usual, balancer.name, balancer.arn)

    return tuple(sorted(balancers, key=rank))


def cast(desired: LoadBalancer, wanted: Wanted, balancers: tuple[LoadBalancerRecord, ...]) -> Cast:
    """`balancers` as `in_order` has them."""
    active = [b for b in balancers if names.retired_at_s(b.tags) is None]
    retired = tuple(b for b in balancers if names.retired_at_s(b.tags) is not None)
    if not active:
        return Cast(retired=retired)
    serving, *others = active
    found = misfits(desired, wanted, serving)
    successor = None
    if found and desired.replace is not Replace.NEVER:
        successor = next((b for b in others if not misfits(desired, wanted, b)), None)
    superfluous = tuple(b for b in others if b is not successor)
    return Cast(serving, successor, retired, superfluous, found)


def stand_in(desired: LoadBalancer, wanted: Wanted, cast_: Cast) -> LoadBalancerRecord | None:
    """The one that serves, or a retired one that may again, as it is as asked for; None: one is missing."""
    if cast_.serving is not None:
        return cast_.serving
    return next((b for b in cast_.retired if not misfits(desired, wanted, b)), None)


def misfits(desired: LoadBalancer, wanted: Wanted, live: LoadBalancerRecord) -> tuple[Misfit, ...]:
    """Whether an address that is asked for can be had is another question."""
    found = [Misfit(x.field, x.is_, x.asked) for x in settled.differences(wanted, live)]
    if wanted.addresses:
        missing = address_lists.unsatisfied(wanted.addresses, live)
        if missing:
            has = ", ".join(live.ips) or "addresses of AWS's choice"
            found.append(Misfit("addresses", has, ", ".join(missing)))
        return tuple(found)
    made_for = dict(live.tags).get(names.REQUESTED_IP, "")
    asked_ip = desired.requested_ip
    honoured = addresses.is_honoured(asked_ip, live)
    if not honoured and (asked_ip or (made_for and live.ips)):
        has = ", ".join(live.ips) or "addresses of AWS's choice"
        found.append(Misfit("spec.loadBalancerIP", has, asked_ip or "any"))
    return tuple(found)


def held_addresses(desired: LoadBalancer, wanted: Wanted, live: LoadBalancerRecord) -> tuple[str, ...]:
    """Those that are asked for and that it has: no other load balancer can have them beside it. (One of the
    other scheme could not have them at all.)"""
    same_scheme = wanted.internal == live.internal or not wanted.knows_scheme
    if wanted.addresses and same_scheme:
        return address_lists.held(wanted.addresses, live)
    if not same_scheme or not addresses.is_honoured(desired.requested_ip, live):
        return ()
    return (desired.requested_ip,)


def is_about_to_begin(desired: LoadBalancer, cast_: Cast) -> bool:
    """Whether a successor is wanted that does not exist yet."""
    return desired.replace is not Replace.NEVER and bool(cast_.misfits) and cast_.successor is None


def new_generation(desired: LoadBalancer, wanted: Wanted, balancers: Iterable[LoadBalancerRecord]) -> str:
    """Of a successor: the same for the same wishes, so that a create repeated after a crash meets its own
    work, and none that is there already."""
    there = {names.generation_of(b.tags) for b in balancers}
    listed = address_lists.text(wanted.addresses)
    wishes = (str(wanted.internal), desired.requested_ip, listed, wanted.name, *wanted.subnets)
    for salt in range(len(there) + 1):
        found = names.generation(*wishes, str(salt))
        if found not in there:
            return found
    raise AssertionError("one of n + 1 names is not among n")


def is_healthy(observed: Observed, successor: LoadBalancerRecord) -> bool:
    """Whether a client that comes would be served: it is set up, and every target group has a healthy target
    (or there are none that could be)."""
    groups = groups_of(observed.target_groups, successor)
    return successor.state.startswith("active") and all(
        g.arn in observed.healthy or not g.targets for g in groups
    )


def is_overdue(observed: Observed, successor: LoadBalancerRecord) -> bool:
    """Whether its targets had all the time that they are given."""
    made_at_s = _seconds(successor.created_at, observed.now_s)
    return successor.state.startswith("active") and observed.now_s - made_at_s >= observed.patience_s


def _seconds(moment: str, otherwise: float) -> float:
    """RFC 3339 as seconds since 1970."""
    return datetime.fromisoformat(moment).timestamp() if moment else otherwise


def drains_for_s(observed: Observed, retired: LoadBalancerRecord) -> float:
    """Seconds until it may go. A clock that was set back does not keep it for longer than it may take."""
    since_s = names.retired_at_s(retired.tags) or 0
    return min(max(0.0, since_s + observed.drain_s - observed.now_s), observed.drain_s)


def groups_of(
    groups: Iterable[TargetGroupRecord], balancer: LoadBalancerRecord
) -> tuple[TargetGroupRecord, ...]:
    generation = names.generation_of(balancer.tags)
    return tuple(g for g in groups if names.generation_of(g.tags) == generation)


def alone(observed: Observed, balancer: LoadBalancerRecord | None, generation: str = "") -> Observed:
    """The owner's world, were this load balancer the only one (None: one of that generation is still to be
    made)."""
    if balancer is not None:
        generation = names.generation_of(balancer.tags)
        tags = {k: v for k, v in balancer.tags if k not in names.OF_ITS_LIFE}
        balancer = dataclasses.replace(balancer, tags=as_tags(tags))
    groups = tuple(g for g in observed.target_groups if names.generation_of(g.tags) == generation)
    others = [b for b in observed.load_balancers if balancer is None or b.arn != balancer.arn]
    return dataclasses.replace(
        observed,
        attached=frozenset(group_id for other in others for group_id in other.security_groups),
        load_balancers=(balancer,) if balancer else (),
        target_groups=groups,
        generation=generation,
    )


def again_after_s(desired: LoadBalancer, wanted: Wanted, observed: Observed) -> float | None:
    """When there is something to be done next, though nothing changes; None: never."""
    cast_ = cast(desired, wanted, observed.load_balancers)
    waits = [max(1.0, min(drains_for_s(observed, b), DRAINING_POLL_S)) for b in cast_.retired]
    if any(b.arn in observed.protected for b in (cast_.serving, *cast_.retired) if b):
        waits = [BLOCKED_POLL_S]
    if cast_.successor is not None:
        waits.append(PREPARING_POLL_S)
    return min(waits, default=None)
