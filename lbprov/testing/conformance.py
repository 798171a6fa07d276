"""What every provider must do, as tests that its author runs over a world of his own.

Subclass `ProviderConformance` in a test module and give it a `harness`; pytest does the rest::

    pytest.register_assert_rewrite("lbprov.testing.conformance")   # in conftest.py: better messages

    class TestConformance(ProviderConformance):
        @pytest.fixture
        def harness(self) -> Harness:
            return MyHarness()

Each test gets a harness of its own. Nothing here imports pytest, so another runner does as well.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any, Literal

from lbprov.api import (
    Action,
    Bindings,
    LoadBalancer,
    Notice,
    Owner,
    Plan,
    Provider,
    ProviderError,
    Replace,
    RetryLater,
    Severity,
    UserError,
)
from lbprov.testing.harness import (
    DNS,
    MAX_ROUNDS,
    TLS,
    WEB,
    Harness,
    SimulatedCrash,
    apply,
    balancer,
    converge,
    plan_of,
    status_of,
    variants,
)

__all__ = ["Harness", "ProviderConformance", "SimulatedCrash"]


class ProviderConformance:
    """The tests. A provider that passes them all fits under the controller. `keeps_unread`: as its
    `ProviderSpec` says."""

    keeps_unread = False

    def test_second_plan_is_empty(self, harness: Harness) -> None:
        for name, desired in variants(harness).items():
            provider = harness.provider()
            converge(harness, provider, desired)
            writes = provider.calls().write
            for who, again in (("the same process", provider), ("a new process", harness.provider())):
                plan = plan_of(again, desired.owner, desired)
                assert plan.is_empty, f"{name}: {who} would do it again:\n{plan.to_text()}"
            assert provider.calls().write == writes

    def test_plan_is_deterministic_and_a_value(self, harness: Harness) -> None:
        for desired in variants(harness).values():
            plan = plan_of(harness.provider(), desired.owner, desired)
            again = plan_of(harness.provider(), desired.owner, desired)
            assert plan.to_text() == again.to_text()
            assert plan.owner == desired.owner
            assert json.loads(json.dumps(plan.to_json()))["name"] == desired.owner.service.name
            ids = [(step.action, step.kind, step.id) for step in plan.steps]
            assert len(ids) == len(set(ids)), "ids of steps are unique per action and kind"
            assert all(step.reason for step in plan.steps), "every step says why"

    def test_from_each_variant_to_each(self, harness: Harness) -> None:
        wanted = variants(harness)
        made: dict[str, Collection[str]] = {}
        for name, desired in wanted.items():
            converge(harness, harness.provider(), desired)
            made[name] = sorted(harness.inventory())
            converge(harness, harness.provider(), None, desired.owner)
        provider = harness.provider()
        for before, after in itertools.permutations(wanted, 2):
            converge(harness, provider, wanted[before])
            converge(harness, provider, wanted[after])
            assert sorted(harness.inventory()) == made[after], f"from {before!r} to {after!r}"

    def test_a_change_touches_little(self, harness: Harness) -> None:
        three = balancer(harness, listeners=(WEB, TLS, DNS))
        provider = harness.provider()
        converge(harness, provider, three)
        changes = {
            "a node more": (replace(three, targets=harness.targets()[:3]), 3, False),
            "a node less": (replace(three, targets=harness.targets()[:1]), 3, False),
            "source ranges": (replace(three, source_ranges=("203.0.113.0/24",)), 6, False),
            "a port less": (replace(three, listeners=(WEB, TLS)), 3, True),
        }
        for what, (changed, most, takes_away) in changes.items():
            plan = plan_of(provider, changed.owner, changed)
            assert 0 < len(plan.steps) <= most, f"{what}: {len(plan.steps)} steps:\n{plan.to_text()}"
            if not takes_away:
                disruptive = [step.to_text() for step in plan.steps if step.disruptive]
                assert not disruptive, f"{what} takes away what serves traffic: {disruptive}"
            converge(harness, provider, changed)
            converge(harness, provider, three)

    def test_deletion_leaves_nothing(self, harness: Harness) -> None:
        before = sorted(harness.inventory())
        desired = balancer(harness, listeners=(WEB, TLS, DNS), requested_ip=harness.free_ip())
        converge(harness, harness.provider(), desired)
        assert sorted(harness.inventory()) != before, "the inventory shows load balancers"
        plan = converge(harness, harness.provider(), None, desired.owner)
        assert all(step.action is not Action.CREATE for step in plan.steps), plan.to_text()
        assert sorted(harness.inventory()) == before

    def test_nothing_is_replaced_without_leave(self, harness: Harness) -> None:
        """What cannot be changed in place is left as it is, told, and all else is done."""
        desired = balancer(harness)
        provider = harness.provider()
        converge(harness, provider, desired)
        before = status_of(provider, desired)
        other = replace(desired, internal=True, listeners=(WEB, TLS))
        plan = self._plan_if_possible(provider, other)
        if plan is None:
            return
        assert not any(step.disruptive for step in plan.steps), plan.to_text()
        converge(harness, provider, other)
        assert status_of(provider, other).ingress == before.ingress
        told = [n for n in plan_of(provider, other.owner, other).notices if n.severity is Severity.WARNING]
        assert told, "what is not done is told"
        assert any("443" in line for line in harness.inventory()), "the rest is done"

    def test_what_nobody_understands_stays_as_it_is(self, harness: Harness) -> None:
        """Scheme and source ranges are kept, all else is followed; and nothing is made that a guess could
        expose. (Of other providers the core refuses such a Service before they hear of it.)"""
        if not self.keeps_unread:
            return
        narrow = balancer(harness, source_ranges=("203.0.113.0/24",))
        plain = balancer(harness)
        changed: dict[str, Any] = {"listeners": (TLS,), "targets": harness.targets()[1:]}
        unread: dict[str, dict[str, Any]] = {
            "source ranges": {"source_ranges": (), "unread_source_ranges": "ranges: 'x' is no range"},
            "scheme": {"internal": True, "unread_scheme": "scheme: 'x' is not allowed"},
        }
        for desired in (narrow, plain):
            converge(harness, harness.provider(), replace(desired, **changed))
            as_wanted = sorted(harness.inventory())
            converge(harness, harness.provider(), None, desired.owner)
            for what, guess in unread.items():
                converge(harness, harness.provider(), desired)
                provider = harness.provider()
                converge(harness, provider, replace(desired, **changed, **guess))
                assert sorted(harness.inventory()) == as_wanted, f"{what} that nobody understands"
                converge(harness, harness.provider(), None, desired.owner)
        before = sorted(harness.inventory())
        for what, guess in unread.items():
            assert self._plan_if_possible(harness.provider(), replace(plain, **guess)) is None, what
            assert sorted(harness.inventory()) == before, f"nothing is made: {what}"

    def test_what_takes_its_place_is_there_before_it_goes(self, harness: Harness) -> None:
        """With leave: whatever the moment, the status names something that serves; and nothing is left."""
        empty = sorted(harness.inventory())
        desired = balancer(harness, listeners=(WEB, TLS))
        provider = harness.provider()
        converge(harness, provider, desired)
        other = replace(desired, internal=True, replace=Replace.SEAMLESS)
        if self._plan_if_possible(provider, other) is None:
            return
        for _ in range(MAX_ROUNDS):
            plan = plan_of(provider, other.owner, other)
            try:
                self._apply_served(provider, plan, other)
            except RetryLater as later:
                harness.settle(max(later.after_s, 0.01))
                continue
            status = status_of(provider, other)
            assert status.ready, status.message
            if plan.is_empty and status.again_after_s is None:
                break
            harness.settle(status.again_after_s or 1.0)
        else:
            raise AssertionError(f"no end in {MAX_ROUNDS} rounds; left to do:\n{plan.to_text()}")
        assert plan_of(harness.provider(), other.owner, other).is_empty
        converge(harness, provider, None, other.owner)
        assert sorted(harness.inventory()) == empty

    @staticmethod
    def _plan_if_possible(provider: Provider[Any], desired: LoadBalancer) -> Plan | None:
        """None: the provider knows one scheme only, and says so."""
        try:
            return plan_of(provider, desired.owner, desired)
        except UserError:
            return None

    @staticmethod
    def _apply_served(provider: Provider[Any], plan: Plan, desired: LoadBalancer) -> None:
        bindings: Bindings = dict(plan.bindings)
        for step in plan.steps:
            provider.apply(step, bindings)
            assert status_of(provider, desired).ingress, f"nothing serves behind {step.to_text()}"

    def test_deleting_what_is_not_there_is_no_work(self, harness: Harness) -> None:
        assert plan_of(harness.provider(), balancer(harness).owner, None).is_empty

    def test_others_are_spared(self, harness: Harness) -> None:
        """Another Service, the same name in another cluster, and an older Service of the same name."""
        desired = balancer(harness)
        others = [
            balancer(harness, "other"),
            replace(desired, owner=desired.owner._replace(cluster="elsewhere")),
            replace(desired, owner=desired.owner._replace(uid="uid-former")),
        ]
        for other in others:
            converge(harness, harness.provider(cluster=other.owner.cluster), other)
        theirs = sorted(harness.inventory())
        provider = harness.provider()
        converge(harness, provider, desired)
        converge(harness, provider, replace(desired, listeners=(TLS,)))
        assert set(theirs) <= set(harness.inventory())
        converge(harness, provider, None, desired.owner)
        assert sorted(harness.inventory()) == theirs

    def test_owners_are_those_of_our_cluster_that_have_something(self, harness: Harness) -> None:
        desired = balancer(harness)
        elsewhere = replace(desired, owner=desired.owner._replace(cluster="elsewhere"))
        former = replace(desired, owner=desired.owner._replace(uid="uid-former"))
        converge(harness, harness.provider(cluster="elsewhere"), elsewhere)
        provider = harness.provider()
        assert provider.owners() == frozenset()
        for wanted in (desired, former):
            converge(harness, provider, wanted)
        assert provider.owners() == {desired.owner, former.owner}
        assert harness.provider().owners() == {desired.owner, former.owner}
        converge(harness, provider, None, former.owner)
        assert provider.owners() == {desired.owner}

    def test_a_crash_at_any_write_converges(self, harness: Harness) -> None:
        before = sorted(harness.inventory())
        first = balancer(harness, listeners=(WEB, DNS), requested_ip=harness.free_ip())
        second = replace(
            first, listeners=(WEB, TLS), targets=harness.targets()[1:], source_ranges=("203.0.113.0/24",)
        )
        ways: dict[str, tuple[LoadBalancer | None, LoadBalancer | None]] = {
            "creating": (None, first),
            "changing": (first, second),
            "deleting": (first, None),
        }
        for name, (start, end) in ways.items():
            expected = self._without_crash(harness, start, end, first.owner)
            for number, when in _moments():
                converge(harness, harness.provider(), start, first.owner)
                crashed = self._crash(harness, end, first.owner, number, when)
                converge(harness, harness.provider(), end, first.owner)
                found = sorted(harness.inventory())
                assert found == expected, f"{name}, crash {when} write {number}"
                converge(harness, harness.provider(), None, first.owner)
                assert sorted(harness.inventory()) == before, (
                    f"{name}, crash {when} write {number}: left over"
                )
                if not crashed:
                    break
            assert number > 1, f"{name}: no write was seen, so no crash was tried"

    @staticmethod
    def _without_crash(
        harness: Harness, start: LoadBalancer | None, end: LoadBalancer | None, owner: Owner
    ) -> list[str]:
        converge(harness, harness.provider(), start, owner)
        converge(harness, harness.provider(), end, owner)
        expected = sorted(harness.inventory())
        converge(harness, harness.provider(), None, owner)
        return expected

    @staticmethod
    def _crash(
        harness: Harness,
        end: LoadBalancer | None,
        owner: Owner,
        number: int,
        when: Literal["before", "after"],
    ) -> bool:
        """False: it was all done in fewer writes."""
        try:
            with harness.crash_at_write(number, when):
                converge(harness, harness.provider(), end, owner)
        except SimulatedCrash:
            return True
        return False

    def test_every_step_may_be_done_twice(self, harness: Harness) -> None:
        first = balancer(harness, listeners=(WEB, DNS))
        second = replace(
            first, listeners=(WEB, TLS), targets=harness.targets()[1:], source_ranges=("203.0.113.0/24",)
        )
        for desired in (first, second, None):
            for _ in range(MAX_ROUNDS):
                provider = harness.provider()
                plan = plan_of(provider, first.owner, desired)
                if plan.is_empty:
                    break
                try:
                    apply(provider, plan, twice=True)
                except RetryLater as later:
                    harness.settle(max(later.after_s, 0.01))
            assert plan_of(harness.provider(), first.owner, desired).is_empty
            once = sorted(harness.inventory())
            if desired is not None:
                converge(harness, harness.provider(), None, first.owner)
                converge(harness, harness.provider(), desired)
                assert sorted(harness.inventory()) == once

    def test_an_old_plan_does_no_harm(self, harness: Harness) -> None:
        """A plan made before the load balancer went is refused or does nothing to others; then all is made
        anew."""
        desired = balancer(harness)
        provider = harness.provider()
        converge(harness, provider, desired)
        expected = sorted(harness.inventory())
        deletion = plan_of(provider, desired.owner, None)
        converge(harness, harness.provider(), None, desired.owner)
        with suppress(RetryLater, ProviderError):
            apply(provider, deletion)
        converge(harness, harness.provider(), desired)
        assert sorted(harness.inventory()) == expected

    def test_a_dry_run_writes_nothing(self, harness: Harness) -> None:
        before = sorted(harness.inventory())
        provider = harness.provider(read_only=True)
        desired = balancer(harness)
        plan = plan_of(provider, desired.owner, desired)
        assert not plan.is_empty
        refused = 0
        for step in plan.steps:
            try:
                provider.apply(step, dict(plan.bindings))
            except ProviderError:
                refused += 1
        assert refused == len(plan.steps)
        assert provider.calls().write == 0
        assert sorted(harness.inventory()) == before

    def test_status_is_what_kubernetes_accepts(self, harness: Harness) -> None:
        for desired in (balancer(harness), balancer(harness, requested_ip=harness.free_ip())):
            provider = harness.provider()
            converge(harness, provider, desired)
            for _ in range(MAX_ROUNDS):
                status = provider.status(desired, provider.observe(desired.owner, desired, fresh=True))
                if status.ready:
                    break
                assert status.message, "not ready: the message says what is awaited"
                harness.settle(5.0)
            assert status.ready
            assert status.ingress
            for entry in status.ingress:
                assert bool(entry.ip) != bool(entry.hostname), "an address or a hostname, never both"
                assert entry.ip_mode is None or entry.ip, "ipMode only with ip"
            converge(harness, provider, None, desired.owner)

    def test_a_requested_address_is_used(self, harness: Harness) -> None:
        desired = balancer(harness, requested_ip=harness.free_ip())
        provider = harness.provider()
        plan = converge(harness, provider, desired)
        assert all(notice.severity is Severity.NORMAL for notice in _about_ip(plan)), plan.to_text()
        shown = [entry.ip for entry in status_of(provider, desired).ingress]
        assert harness.free_ip() in shown or plan.notices, (
            "the address is in the status, or a notice says why not"
        )

    def test_an_address_that_cannot_be_had_is_explained_once(self, harness: Harness) -> None:
        desired = balancer(harness, requested_ip=harness.unusable_ip())
        provider = harness.provider()
        told = _about_ip(converge(harness, provider, desired))
        assert told, "a Warning with the topic RequestedIP says why"
        assert all(n.severity is Severity.WARNING and desired.requested_ip in n.message for n in told)
        assert status_of(provider, desired).ingress, "and there is a load balancer, with another address"
        for again in (provider, harness.provider()):
            plan = plan_of(again, desired.owner, desired)
            assert plan.is_empty, plan.to_text()
            assert _about_ip(plan) == told, "repeated word for word, or it would be a new Event each time"

    def test_a_required_address_that_cannot_be_had_makes_nothing(self, harness: Harness) -> None:
        before = sorted(harness.inventory())
        desired = balancer(harness, requested_ip=harness.unusable_ip(), require_ip=True)
        refusal = ""
        try:
            converge(harness, harness.provider(), desired)
        except UserError as err:
            refusal = str(err)
        assert desired.requested_ip in refusal, "a UserError that names the address is due"
        assert sorted(harness.inventory()) == before

    def test_damage_is_found_and_mended(self, harness: Harness) -> None:
        desired = balancer(harness, listeners=(WEB, DNS))
        provider = harness.provider()
        converge(harness, provider, desired)
        expected = sorted(harness.inventory())
        harness.damage()
        assert sorted(harness.inventory()) != expected
        provider.owners()  # asks the world, and observe answers from what it found
        assert not plan_of(provider, desired.owner, desired).is_empty
        converge(harness, provider, desired)
        assert sorted(harness.inventory()) == expected

    def test_damage_is_no_obstacle_to_deletion(self, harness: Harness) -> None:
        before = sorted(harness.inventory())
        desired = balancer(harness, listeners=(WEB, DNS))
        provider = harness.provider()
        converge(harness, provider, desired)
        harness.damage()
        converge(harness, provider, None, desired.owner)
        assert sorted(harness.inventory()) == before

    def test_many_at_once(self, harness: Harness) -> None:
        before = sorted(harness.inventory())
        wanted = [balancer(harness, f"web-{n}") for n in range(8)]
        provider = harness.provider()
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda d: converge(harness, provider, d), wanted))
        assert provider.owners() == {d.owner for d in wanted}
        fresh = harness.provider()
        assert all(plan_of(fresh, d.owner, d).is_empty for d in wanted)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda d: converge(harness, provider, None, d.owner), wanted))
        assert sorted(harness.inventory()) == before


def _moments() -> Iterator[tuple[int, Literal["before", "after"]]]:
    """A crash before and after every write. The end is reached when no crash happens any more."""
    for number in itertools.count(1):
        yield number, "before"
        yield number, "after"


def _about_ip(plan: Plan) -> list[Notice]:
    return [notice for notice in plan.notices if notice.topic == "RequestedIP"]
