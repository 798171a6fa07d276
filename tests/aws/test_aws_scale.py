"""Many Services: what is shared between them, and what their number costs."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, cast

from lbprov_aws import elbv2

if TYPE_CHECKING:
    from lbprov.api import LoadBalancer
    from lbprov_aws.cloud import Cloud
    from tests.aws.conftest import Lab


def in_threads(lab: Lab, wanted: list[LoadBalancer], *, delete: bool = False) -> None:
    with ThreadPoolExecutor(len(wanted)) as pool:
        work = pool.map(lambda d: lab.go(d.owner, None if delete else d), wanted)
        assert len(list(work)) == len(wanted)


def test_thirty_at_once(lab: Lab) -> None:
    wanted = [lab.desired(f"web-{n}") for n in range(30)]
    in_threads(lab, wanted)
    calls = lab.server.calls()
    shared = ("DescribeTargetGroups", "DescribeInstances", "DescribeSubnets")
    assert {operation: calls[operation] for operation in shared} == dict.fromkeys(shared, 1)
    assert calls["GetResources"] == 3  # ours, and what either other controller has made
    assert calls["CreateLoadBalancer"] == calls["CreateListener"] == 30
    assert sum(calls.values()) == 30 * 7 + 9
    assert all(len(b.listeners[0].targets) == 3 for b in lab.world.load_balancers())
    assert lab.provider.owners() == {d.owner for d in wanted}
    lab.restart()
    in_threads(lab, wanted)
    assert lab.provider.calls().write == 0
    in_threads(lab, wanted, delete=True)
    assert lab.world.leftovers() == ()


def test_one_address_wanted_by_ten_at_once(lab: Lab) -> None:
    lab.world.allocate_address("203.0.113.10")
    wanted = [
        lab.desired(f"web-{n}", requested_ip="203.0.113.10", created_at=f"2026-01-01T00:00:0{n}Z")
        for n in range(10)
    ]
    in_threads(lab, wanted)
    balancers = lab.world.load_balancers()
    assert len(balancers) == 10
    assert all(len(b.listeners) == 1 for b in balancers)
    assert [b.addresses for b in balancers if b.addresses] == [("203.0.113.10",)]


def test_start_reads_pages_and_one_look_per_resource(lab: Lab) -> None:
    lab.server.quotas(load_balancers=55)
    wanted = [lab.desired(f"web-{n}") for n in range(55)]
    for desired in wanted:
        lab.reconcile(desired)
    lab.restart()
    for desired in wanted:
        assert lab.reconcile(desired).writes == {}
    assert lab.provider.calls().by_operation == {
        "GetResources": 6,  # 110 resources with 5 tags each; the emulator's pages end at 100 tags
        "DescribeLoadBalancers": 1,
        "DescribeTargetGroups": 1,
        "DescribeSecurityGroups": 1,
        "DescribeListeners": 55,
        "DescribeTargetHealth": 55,
    }


def test_waiting_services_ask_together(lab: Lab) -> None:
    wanted = [lab.desired(f"web-{n}") for n in range(25)]
    for desired in wanted:
        lab.reconcile(desired)
    before = lab.server.calls()["DescribeLoadBalancers"]
    for desired in wanted:
        observed = lab.provider.observe(desired.owner, desired, fresh=True)
        assert lab.provider.status(desired, observed).ready
    assert lab.server.calls()["DescribeLoadBalancers"] == before + 2  # 20 in one call
    lab.reconcile(wanted[0])
    lab.provider.observe(wanted[0].owner, wanted[0], fresh=True)
    assert lab.server.calls()["DescribeLoadBalancers"] == before + 3  # the next question is asked again


def test_others_with_names_like_ours_are_asked_for_their_tags_once(lab: Lab) -> None:
    """Another cluster of lbprov in the account costs us its tags once, not with every listing."""
    elsewhere = lab.start(cluster="elsewhere")
    ours = lab.provider
    for n in range(3):
        theirs = lab.desired(f"theirs-{n}")
        lab.provider = elsewhere
        lab.reconcile(_of(theirs, "elsewhere"))
    lab.provider = ours
    lab.reconcile(lab.desired())
    before = ours.calls().by_operation["DescribeTags"]
    assert ours.owners() == {lab.desired().owner}
    assert ours.calls().by_operation["DescribeTags"] == before


def _of(desired: LoadBalancer, cluster: str) -> LoadBalancer:

    return dataclasses.replace(desired, owner=desired.owner._replace(cluster=cluster))


def test_targets_go_by_the_two_hundred() -> None:
    asked: list[tuple[str, int]] = []

    class Recorder:
        def call(self, service: str, operation: str, **parameters: Any) -> None:
            asked.append((operation, len(parameters["Targets"])))

    instances = [f"i-{n:08x}" for n in range(450)]
    elbv2.change_targets(cast("Cloud", Recorder()), "RegisterTargets", "arn", instances)
    assert asked == [("RegisterTargets", 200), ("RegisterTargets", 200), ("RegisterTargets", 50)]
