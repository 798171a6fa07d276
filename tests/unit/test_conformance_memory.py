"""The in-memory provider passes the conformance suite; providers with faults do not."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbprov.api import (
    Action,
    L4Protocol,
    Listener,
    LoadBalancer,
    Owner,
    Plan,
    Provider,
    ProviderContext,
    ProviderError,
    ProviderStatus,
    Replace,
    Step,
    Target,
)
from lbprov.testing.clock import FakeClock
from lbprov.testing.conformance import ProviderConformance
from lbprov.testing.harness import Harness, SimulatedCrash, apply, balancer, converge, plan_of
from lbprov.testing.memory import MemoryProvider
from lbprov.testing.memory_plan import Observed, balancer_name
from lbprov.testing.memory_world import MemoryWorld, Name, Resource


class MemoryHarness:
    def __init__(self, make: Callable[..., Any] = MemoryProvider, deletion_s: float = 0.0) -> None:
        self.clock = FakeClock()
        self.world = MemoryWorld(self.clock.now_s, deletion_s)
        self.make = make

    def provider(self, *, cluster: str = "conformance", read_only: bool = False) -> Provider[Any]:
        context = ProviderContext(cluster, {}, self.clock.now_s, read_only)
        provider: Provider[Any] = self.make(context, self.world)
        return provider

    def targets(self) -> tuple[Target, ...]:
        return tuple(Target(f"node-{n}", addresses=(f"192.0.2.{n}",)) for n in range(1, 5))

    def inventory(self) -> Collection[str]:
        return [
            " ".join(map(str, (*r.name, r.owner, r.owner.uid, *r.source_ranges, r.port, r.node_port)))
            for r in self.world.list_all()
        ]

    def free_ip(self) -> str:
        return "198.51.100.7"

    def unusable_ip(self) -> str:
        return "203.0.113.7"

    def settle(self, seconds: float) -> None:
        self.clock.advance(seconds)

    def damage(self) -> None:
        ours = next(
            r for r in self.world.list_all() if r.owner.cluster == "conformance" and r.name.kind == "target"
        )
        self.world.delete(ours.id)

    @contextmanager
    def crash_at_write(self, number: int, when: Literal["before", "after"]) -> Iterator[None]:
        first = self.world.writes

        def die(operation: str, write: int, moment: str) -> None:
            if (write - first, moment) == (number, when):
                raise SimulatedCrash(operation)

        self.world.on_write = die
        try:
            yield
        finally:
            self.world.on_write = None


class TestMemoryProvider(ProviderConformance):
    keeps_unread = True

    @pytest.fixture(params=[pytest.param(0.0, id="at-once"), pytest.param(30.0, id="slow-deletion")])
    def harness(self, request: pytest.FixtureRequest) -> Harness:
        return MemoryHarness(deletion_s=request.param)


class Stubborn(MemoryProvider):
    """Does not adopt what it made before a crash."""

    def _create(self, wanted: Resource) -> Resource:
        made = self._world.create(wanted)
        self._learn(made)
        return made


class Superficial(MemoryProvider):
    """Takes a load balancer without listeners for none at all."""

    def observe(self, owner: Owner, desired: LoadBalancer | None, *, fresh: bool = False) -> Observed:
        observed = super().observe(owner, desired, fresh=fresh)
        return observed if observed.listeners else Observed(owner)


class Forgetful(MemoryProvider):
    """Leaves the last listener behind."""

    def plan(self, desired: LoadBalancer | None, observed: Observed) -> Plan:
        plan = super().plan(desired, observed)
        return replace(plan, steps=plan.steps[1:]) if desired is None else plan


class Restless(MemoryProvider):
    """Plans something each time."""

    def plan(self, desired: LoadBalancer | None, observed: Observed) -> Plan:
        plan = super().plan(desired, observed)
        if desired is None or observed.frontend is None:
            return plan
        again = Step(Action.UPDATE, "frontend", "frontend", "to be sure", body=observed.frontend)
        return replace(plan, steps=(*plan.steps, again))


class Moody(MemoryProvider):
    """Plans in an order of its own each time."""

    def plan(self, desired: LoadBalancer | None, observed: Observed) -> Plan:
        plan = super().plan(desired, observed)
        Moody.turns += 1
        return replace(plan, steps=plan.steps[::-1]) if Moody.turns % 2 else plan

    turns = 0


class Reckless(MemoryProvider):
    """Writes in a dry run."""

    def __init__(self, context: ProviderContext, world: MemoryWorld) -> None:
        super().__init__(replace(context, read_only=False), world)


class Silent(MemoryProvider):
    """Does not say why an address was not used."""

    def plan(self, desired: LoadBalancer | None, observed: Observed) -> Plan:
        return replace(super().plan(desired, observed), notices=())


class Babbler(MemoryProvider):
    """Publishes an address and a hostname in one entry."""

    def status(self, desired: LoadBalancer, observed: Observed) -> ProviderStatus:
        status = super().status(desired, observed)
        return replace(status, ingress=tuple(replace(i, hostname="lb.example") for i in status.ingress))


class Greedy(MemoryProvider):
    """Takes every owner of the world for its cluster's."""

    def owners(self) -> frozenset[Owner]:
        return frozenset(r.owner for r in self._world.list_all())


class Blind(MemoryProvider):
    """Never looks again at what it has seen once."""

    def _refreshed(self) -> Any:
        return self._inventory or super()._refreshed()


class Bulldozer(MemoryProvider):
    """Makes all anew for any change."""

    def plan(self, desired: LoadBalancer | None, observed: Observed) -> Plan:
        plan = super().plan(desired, observed)
        if plan.is_empty or desired is None or observed.frontend is None or observed.frontend.deleting:
            return plan
        anew = super().plan(desired, Observed(observed.owner))
        return replace(plan, steps=(*super().plan(None, observed).steps, *anew.steps))


class Hasty(MemoryProvider):
    """Takes what cannot be changed for leave to replace."""

    def plan(self, desired: LoadBalancer | None, observed: Observed) -> Plan:
        return super().plan(desired and replace(desired, replace=Replace.SEAMLESS), observed)


class Careless(MemoryProvider):
    """Takes the old one away before the new one is there."""

    def plan(self, desired: LoadBalancer | None, observed: Observed) -> Plan:
        plan = super().plan(desired, observed)
        return replace(plan, steps=tuple(sorted(plan.steps, key=lambda s: s.action is not Action.DELETE)))


LISTENERS = st.lists(
    st.builds(Listener, st.integers(1, 4), st.sampled_from(L4Protocol), st.integers(30000, 30003)),
    min_size=1,
    max_size=6,
    unique_by=lambda listener: (listener.port, listener.protocol),
).map(tuple)
SHAPES = st.fixed_dictionaries(
    {
        "listeners": LISTENERS,
        "targets": st.sets(st.integers(0, 3)).map(lambda s: tuple(Target(f"node-{n}") for n in sorted(s))),
        "source_ranges": st.sampled_from([(), ("203.0.113.0/24",), ("203.0.113.0/24", "198.51.100.0/24")]),
        "internal": st.booleans(),
    }
)


@settings(max_examples=100, deadline=None)
@given(SHAPES, SHAPES)
def test_applying_the_plan_from_any_to_any_gives_the_other(
    before: dict[str, Any], after: dict[str, Any]
) -> None:
    fresh, changed = MemoryHarness(), MemoryHarness()
    converge(fresh, fresh.provider(), balancer(fresh, **after))
    provider = changed.provider()
    converge(changed, provider, balancer(changed, **before))
    after = {**after, "replace": Replace.SEAMLESS}
    plan = plan_of(provider, balancer(changed).owner, balancer(changed, **after))
    apply(provider, plan)
    assert sorted(changed.inventory()) == sorted(fresh.inventory())
    assert plan_of(provider, balancer(changed).owner, balancer(changed, **after)).is_empty
    if {**before, "replace": Replace.SEAMLESS} == after:
        assert plan.is_empty


@pytest.mark.parametrize(
    ("faulty", "caught_by"),
    [
        pytest.param(Superficial, "test_a_crash_at_any_write_converges", id="half-deleted-is-forgotten"),
        pytest.param(Stubborn, "test_every_step_may_be_done_twice", id="not-twice"),
        pytest.param(Forgetful, "test_deletion_leaves_nothing", id="leak"),
        pytest.param(Restless, "test_second_plan_is_empty", id="never-done"),
        pytest.param(Moody, "test_plan_is_deterministic_and_a_value", id="order-changes"),
        pytest.param(Reckless, "test_a_dry_run_writes_nothing", id="dry-run-writes"),
        pytest.param(Silent, "test_an_address_that_cannot_be_had_is_explained_once", id="no-reason"),
        pytest.param(Babbler, "test_status_is_what_kubernetes_accepts", id="ip-and-hostname"),
        pytest.param(Greedy, "test_owners_are_those_of_our_cluster_that_have_something", id="foreign-owners"),
        pytest.param(Blind, "test_damage_is_found_and_mended", id="never-looks-again"),
        pytest.param(Bulldozer, "test_a_change_touches_little", id="all-anew"),
        pytest.param(Hasty, "test_nothing_is_replaced_without_leave", id="replaces-unasked"),
        pytest.param(Careless, "test_what_takes_its_place_is_there_before_it_goes", id="gap"),
    ],
)
def test_the_suite_catches(faulty: Callable[..., Any], caught_by: str) -> None:
    test = getattr(ProviderConformance(), caught_by)
    test(MemoryHarness())
    with pytest.raises((AssertionError, ProviderError)):
        test(MemoryHarness(faulty))


def test_a_taken_name_is_not_adopted() -> None:
    """The world's names are ours by their marks, not by how they look."""
    harness = MemoryHarness()
    desired = balancer(harness)
    impostor = Resource(
        Name("frontend", balancer_name(desired.owner)), desired.owner._replace(cluster="elsewhere")
    )
    made = harness.world.create(impostor)
    with pytest.raises(ProviderError, match=r"belongs to elsewhere:default/web: not touched"):
        converge(harness, harness.provider(), desired)
    assert harness.world.list_all() == (made,)
    converge(harness, harness.provider(), None, desired.owner)
    assert harness.world.list_all() == (made,)
