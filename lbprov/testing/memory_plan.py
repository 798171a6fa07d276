"""The pure half of the in-memory provider: what is wanted, what there is, and the steps between the two."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from lbprov.api import (
    Action,
    Change,
    LoadBalancer,
    Notice,
    Owner,
    Plan,
    Reason,
    Replace,
    RetryLater,
    Severity,
    Step,
    UserError,
    refuse_unread,
)
from lbprov.testing.memory_world import RESERVABLE, Name, Resource

POLL_S = 2.0
"""How often to look whether something has gone away."""


@dataclass(frozen=True, slots=True)
class Observed:
    """One owner's resources, sorted, and who else holds the address that is asked for. `beside`: of a second
    balancer, while one takes the place of the other, in the order in which they are made."""

    owner: Owner
    frontend: Resource | None = None
    targets: tuple[Resource, ...] = ()
    listeners: tuple[Resource, ...] = ()
    address_holder: Owner | None = None
    beside: tuple[Resource, ...] = ()

    def resources(self) -> tuple[Resource, ...]:
        """In the order in which they are made."""
        return (*((self.frontend,) if self.frontend else ()), *self.targets, *self.listeners)


def observed_of(owner: Owner, mine: Iterable[Resource], address_holder: Owner | None) -> Observed:
    """Of two balancers, the one that was made first serves, for as long as anybody can connect to it."""
    balancers: dict[str, list[Resource]] = {}
    for resource in mine:
        balancers.setdefault(resource.name.balancer, []).append(resource)

    def rank(resources: list[Resource]) -> tuple[bool, int]:
        made = [int(r.id.rpartition("-")[2]) for r in resources]
        return (not any(r.name.kind == "listener" for r in resources), min(made))

    first, *others = sorted(balancers.values(), key=rank) or [[]]
    frontend, targets, listeners = _sorted(first)
    beside = [_sorted(resources) for resources in others]
    return Observed(
        owner,
        frontend,
        targets,
        listeners,
        address_holder,
        tuple(r for f, t, x in beside for r in (*((f,) if f else ()), *t, *x)),
    )


def _sorted(
    resources: Iterable[Resource],
) -> tuple[Resource | None, tuple[Resource, ...], tuple[Resource, ...]]:
    kinds: dict[str, list[Resource]] = {"frontend": [], "target": [], "listener": []}
    for resource in resources:
        kinds[resource.name.kind].append(resource)
    return (
        next(iter(kinds["frontend"]), None),
        tuple(sorted(kinds["target"], key=lambda r: r.name.detail)),
        tuple(sorted(kinds["listener"], key=lambda r: (r.port, r.protocol))),
    )


def plan(desired: LoadBalancer | None, observed: Observed) -> Plan:
    bindings = {step_id(r): r.id for r in observed.resources()}
    if desired is None:
        everything = (*observed.resources(), *observed.beside)
        steps = tuple(_deletions(everything, "the Service does not want it any more"))
        return Plan(observed.owner, steps, bindings=bindings)
    if not desired.listeners:
        raise UserError("a load balancer needs at least one port", field="spec.ports")
    if observed.frontend and observed.frontend.deleting:
        raise RetryLater("the former load balancer is still going away", POLL_S)
    serving = observed.frontend
    desired = _understood(desired, serving)
    if serving is None or serving.internal == desired.internal:
        address, notices = _address(desired, observed)
        left = _deletions(observed.beside, "another one has its place")
        return Plan(observed.owner, (*_changes(desired, address, observed), *left), notices, bindings)
    return _other_scheme(desired, observed, serving, bindings)


def _understood(desired: LoadBalancer, serving: Resource | None) -> LoadBalancer:
    """What nobody understands stays as it is; where nothing is yet, it is refused."""
    if serving is None:
        refuse_unread(desired)
        return desired
    if desired.unread_scheme:
        desired = replace(desired, internal=serving.internal)
    if desired.unread_source_ranges:
        desired = replace(desired, source_ranges=serving.source_ranges)
    return desired


def _other_scheme(
    desired: LoadBalancer, observed: Observed, serving: Resource, bindings: Mapping[str, str]
) -> Plan:
    """The scheme of a frontend cannot be changed: another one takes its place, if that is allowed."""
    why = "the scheme has changed, which needs a new one"
    moves = bool(desired.requested_ip) and serving.address == desired.requested_ip
    if desired.replace is Replace.NEVER or (moves and desired.replace is not Replace.OUTAGE):
        as_it_is = replace(desired, internal=serving.internal)
        kept = plan(as_it_is, observed)
        is_ = "internal" if serving.internal else "internet-facing"
        message = f"it stays {is_}: lbprov.io/replace: {'outage' if moves else 'seamless'} replaces it"
        notice = Notice(Severity.WARNING, "SchemeChangeIgnored", message, "Scheme")
        return replace(kept, notices=(*kept.notices, notice))
    old = tuple(_deletions(observed.resources(), why))
    if moves:
        new = tuple(_changes(desired, desired.requested_ip, Observed(observed.owner)))
        return Plan(observed.owner, (*old, *new), (), bindings, outage=True)
    frontend, targets, listeners = _sorted(observed.beside)
    successor = Observed(observed.owner, frontend, targets, listeners, observed.address_holder)
    address, notices = _address(desired, successor)
    new = tuple(_changes(desired, address, successor))
    return Plan(observed.owner, (*new, *old), notices, bindings)


def balancer_name(owner: Owner, *, internal: bool = False) -> str:
    """Readable, and another one for each owner and scheme."""
    digest = hashlib.sha256("\0".join((owner.cluster, *owner.service, owner.uid)).encode()).hexdigest()
    name = f"{owner.service.namespace}-{owner.service.name}-{digest[:10]}"
    return f"{name}-internal" if internal else name


def step_id(resource: Resource) -> str:
    return ":".join(filter(None, (resource.name.kind, resource.name.detail)))


def _changes(desired: LoadBalancer, address: str, observed: Observed) -> Iterator[Step]:
    """What is missing or different, in an order in which the first client meets a load balancer that works;
    then what is too much, listeners before the targets that they lead to."""
    held = {r.name: r for r in observed.resources()}
    wanted = list(_wanted(desired, address))
    for resource in wanted:
        old = held.pop(resource.name, None)
        if old is None:
            yield Step(
                Action.CREATE,
                resource.name.kind,
                step_id(resource),
                _why(resource),
                body=resource,
                name=_shown(resource),
            )
        elif changes := _differences(old, resource):
            body = replace(resource, id=old.id, address=old.address)
            yield Step(
                Action.UPDATE,
                resource.name.kind,
                step_id(resource),
                "it is not as wanted",
                _shown(resource),
                changes,
                body,
            )
    yield from _deletions(held.values(), "it is not wanted any more")


def _wanted(desired: LoadBalancer, address: str) -> Iterator[Resource]:
    owner, balancer = desired.owner, balancer_name(desired.owner, internal=desired.internal)
    yield Resource(
        Name("frontend", balancer),
        owner,
        address=address,
        internal=desired.internal,
        source_ranges=desired.source_ranges,
    )
    for target in desired.targets:
        yield Resource(Name("target", balancer, target.node_name), owner)
    for listener in desired.listeners:
        yield Resource(
            Name("listener", balancer, str(listener)),
            owner,
            port=listener.port,
            protocol=listener.protocol,
            node_port=listener.node_port,
        )


def _deletions(resources: Iterable[Resource], reason: str) -> Iterator[Step]:
    for resource in reversed(list(resources)):
        yield Step(
            Action.DELETE,
            resource.name.kind,
            step_id(resource),
            reason,
            _shown(resource),
            body=resource,
            disruptive=resource.name.kind != "target",
        )


def _differences(old: Resource, new: Resource) -> tuple[Change, ...]:
    pairs = (
        ("source ranges", ", ".join(old.source_ranges), ", ".join(new.source_ranges)),
        ("nodePort", str(old.node_port), str(new.node_port)),
    )
    return tuple(Change(name, before, after) for name, before, after in pairs if before != after)


def _why(resource: Resource) -> str:
    return {
        "frontend": "clients need an address to connect to",
        "target": "the node takes traffic",
        "listener": f"a port of the Service; it leads to nodePort {resource.node_port}",
    }[resource.name.kind]


def _shown(resource: Resource) -> str:
    return " ".join(filter(None, (resource.name.balancer, resource.name.detail)))


def _address(desired: LoadBalancer, observed: Observed) -> tuple[str, tuple[Notice, ...]]:
    """The address to ask the world for (empty: any), and what to tell about it.

    The same on every reconcile, so that a refusal is told once. Raises `UserError` where the address is
    required and cannot be had."""
    wanted = desired.requested_ip
    if not wanted:
        return "", ()
    current = observed.frontend.address if observed.frontend else ""
    refusal = _refusal(wanted, observed.address_holder)
    if refusal is None and current not in ("", wanted):
        refusal = (
            Reason.IP_CHANGE_IGNORED,
            f"{wanted} could be had, but {current} is in use and kept: delete the Service and make it anew",
        )
    if refusal is None:
        notice = Notice(Severity.NORMAL, Reason.IP_ASSIGNED, f"{wanted} is used as requested", "RequestedIP")
        return wanted, (notice,)
    reason, message = refusal
    if desired.require_ip:
        raise UserError(message, field="spec.loadBalancerIP", reason=reason)
    return "", (
        Notice(Severity.WARNING, reason, f"{message}; an automatic address is used instead", "RequestedIP"),
    )


def _refusal(wanted: str, holder: Owner | None) -> tuple[str, str] | None:
    try:
        address = str(ipaddress.ip_address(wanted))
    except ValueError:
        return Reason.IP_INVALID, f"{wanted!r} is no IP address"
    if holder is not None:
        return Reason.IP_IN_USE, f"{wanted} is used by {holder}"
    if address not in RESERVABLE:
        return Reason.IP_NOT_FOUND, f"{wanted} is not ours to give (198.51.100.1 to 198.51.100.9 are)"
    return None
