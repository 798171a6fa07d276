"""The world that a provider is tested in, and how a test leads a provider through it.

`Harness` is what the author of a provider writes; `conformance` has the tests that use it.
"""

from __future__ import annotations

import typing
from collections.abc import Collection
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Literal

from lbprov.api import (
    Bindings,
    L4Protocol,
    Listener,
    LoadBalancer,
    ObjectKey,
    Owner,
    Plan,
    Provider,
    ProviderStatus,
    RetryLater,
    Target,
)

MAX_ROUNDS = 60


class SimulatedCrash(BaseException):
    """The process dies here. Not an `Exception`: nobody should survive it by accident."""


class Harness(typing.Protocol):
    """A world to test a provider in, empty of load balancers, and the test's hands and eyes in it."""

    def provider(self, *, cluster: str = "conformance", read_only: bool = False) -> Provider[Any]:
        """A provider as a new process would have it (nothing cached), always over the same world."""

    def targets(self) -> tuple[Target, ...]:
        """Three nodes or more that can take traffic in this world, sorted by name."""

    def inventory(self) -> Collection[str]:
        """Everything that there is, whoever made it: a line per resource, with what it does (ports,
        targets, ranges), and without what differs between two equal worlds (ids, times, automatic
        addresses)."""

    def free_ip(self) -> str:
        """An address that can be asked for, and had."""

    def unusable_ip(self) -> str:
        """A well-formed one that cannot be had."""

    def settle(self, seconds: float) -> None:
        """Let so much time pass, of the clock that the provider was given and the world goes by."""

    def damage(self) -> None:
        """Take away, behind the provider's back, one resource that belongs to cluster "conformance"."""

    def crash_at_write(self, number: int, when: Literal["before", "after"]) -> AbstractContextManager[None]:
        """Within it, the `number`-th write to the world (from 1) raises `SimulatedCrash` in the provider:
        "before" it is carried out, or right "after", when nothing of its answer has been seen."""


WEB = Listener(80, L4Protocol.TCP, 30080, "web")
TLS = Listener(443, L4Protocol.TCP, 30443, "tls")
DNS = Listener(53, L4Protocol.UDP, 30053, "dns")


def balancer(harness: Harness, name: str = "web", **changes: Any) -> LoadBalancer:
    """What Service default/NAME wants; `changes` are fields of LoadBalancer."""
    owner = Owner("conformance", ObjectKey("default", name), f"uid-{name}")
    base = LoadBalancer(owner, (WEB,), harness.targets()[:2], created_at="2026-01-01T00:00:00Z")
    return replace(base, **changes)


def variants(harness: Harness) -> dict[str, LoadBalancer]:
    """Shapes of one Service's load balancer, to go from each to each."""
    nodes = harness.targets()
    return {
        "plain": balancer(harness),
        "more ports": balancer(harness, listeners=(WEB, TLS, DNS)),
        "another port": balancer(harness, listeners=(TLS,)),
        "another nodePort": balancer(harness, listeners=(replace(WEB, node_port=31080),)),
        "other nodes": balancer(harness, targets=nodes[1:]),
        "no nodes": balancer(harness, targets=()),
        "some clients": balancer(harness, source_ranges=("203.0.113.0/24", "198.51.100.0/24")),
    }


def plan_of(provider: Provider[Any], owner: Owner, desired: LoadBalancer | None) -> Plan:
    return provider.plan(desired, provider.observe(owner, desired))


def converge(
    harness: Harness, provider: Provider[Any], desired: LoadBalancer | None, owner: Owner | None = None
) -> Plan:
    """Reconcile until the world is as desired; returns the first plan. `owner`: whose, to delete."""
    owner = desired.owner if desired else owner
    assert owner is not None
    first: Plan | None = None
    for _ in range(MAX_ROUNDS):
        try:
            plan = provider.plan(desired, provider.observe(owner, desired, fresh=first is not None))
            first = first or plan
            if plan.is_empty:
                return first
            apply(provider, plan)
        except RetryLater as later:
            harness.settle(max(later.after_s, 0.01))
    raise AssertionError(f"no convergence in {MAX_ROUNDS} rounds; left to do:\n{plan.to_text()}")


def apply(provider: Provider[Any], plan: Plan, *, twice: bool = False) -> None:
    bindings: Bindings = dict(plan.bindings)
    for step in plan.steps:
        provider.apply(step, bindings)
        if twice:
            provider.apply(step, bindings)


def status_of(provider: Provider[Any], desired: LoadBalancer) -> ProviderStatus:
    return provider.status(desired, provider.observe(desired.owner, desired))
