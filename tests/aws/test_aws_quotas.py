"""Where a quota or the permissions end, the rest of a Service is served, and what is left out is named."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbprov.api import ProviderError
from lbprov.model import Result, ServicePort, SessionAffinity
from lbprov_aws.refused import REFUSED_S
from lbprov_aws.room import fill
from tests.aws.conftest import Lab
from tests.aws.desk import KEY, Desk


@given(n=st.integers(0, 600), room=st.integers(0, 600))
def test_fill_takes_what_fits_in_few_calls(n: int, room: int) -> None:
    added: list[int] = []
    calls = 0

    def add(some: Sequence[int]) -> bool:
        nonlocal calls
        calls += 1
        if len(added) + len(some) > room:
            return False
        added.extend(some)
        return True

    assert list(fill(range(n), add)) == added == list(range(min(n, room)))
    assert calls <= 2 * (n.bit_length() + 1)


def test_ports_beyond_the_target_groups(lab: Lab) -> None:
    """A Service that has what it has goes on being kept up: nodes come and go."""
    lab.server.quotas(target_groups=2)
    desk = Desk(lab)
    desk.change(ports=(*desk.service.ports, ServicePort(8443, node_port=30843, name="more")))
    desk.settle()
    assert [x.port for x in lab.world.load_balancers()[0].listeners] == [80, 443]
    reason, message = desk.condition("Quota")
    assert reason == "QuotaReached"
    assert message.startswith("ports left out: 8443/TCP; ")
    assert '"Target Groups per Region"' in message
    assert desk.condition("Ready")[0] == "EnsuredLoadBalancer"
    calls = dict(lab.provider.calls().by_operation)
    assert desk.reconcile().result is Result.UNCHANGED
    assert lab.provider.calls().by_operation == calls, "nothing is tried again at once"
    desk.cluster.nodes = desk.cluster.nodes[:2]
    desk.settle()
    assert {len(x.targets) for x in lab.world.load_balancers()[0].listeners} == {2}
    lab.clock.now += REFUSED_S
    assert desk.reconcile().result is not Result.FAILED
    lab.server.quotas(target_groups=3000)
    lab.clock.now += REFUSED_S
    desk.settle()
    assert [x.port for x in lab.world.load_balancers()[0].listeners] == [80, 443, 8443]
    assert desk.condition("Quota") == ("", "")
    assert "DriftRepaired" not in desk.reasons()
    desk.cluster.delete(KEY)
    assert desk.settle()[-1].result is Result.DELETED
    assert lab.world.leftovers() == ()


def test_ports_beyond_the_listeners(lab: Lab) -> None:
    lab.server.quotas(listeners=1)
    desk = Desk(lab)
    desk.settle()
    assert [x.port for x in lab.world.load_balancers()[0].listeners] == [80]
    assert "ports left out: 443/TCP" in desk.condition("Quota")[1]
    for _ in range(3):
        lab.clock.now += REFUSED_S
        desk.settle()
    assert "DriftRepaired" not in desk.reasons()
    lab.server.quotas(listeners=50)
    lab.clock.now += REFUSED_S
    desk.settle()
    assert [x.port for x in lab.world.load_balancers()[0].listeners] == [80, 443]


def test_not_one_port(lab: Lab) -> None:
    lab.server.quotas(target_groups=0)
    desk = Desk(lab)
    failed = desk.reconcile()
    assert failed.result is Result.FAILED
    assert desk.condition("Ready")[0] == "QuotaReached"
    assert "no port can be served" in failed.message
    lab.server.quotas(target_groups=3000)
    lab.clock.now += REFUSED_S
    desk.settle()
    assert desk.condition("Ready")[0] == "EnsuredLoadBalancer"


def test_no_load_balancer(lab: Lab) -> None:
    """Nothing can be served: nothing but the group and its rules is made, and there are no more of those."""
    lab.server.quotas(load_balancers=0)
    for _ in range(2):
        with pytest.raises(
            ProviderError, match='quota "Network Load Balancers per Region" is reached'
        ) as caught:
            lab.reconcile(lab.desired())
        assert (caught.value.reason, caught.value.retryable) == ("QuotaReached", False)
    assert [line.split()[0] for line in lab.world.leftovers()] == ["security"]


def test_source_ranges_beyond_the_rules(lab: Lab) -> None:
    ranges = tuple(f"10.{n}.0.0/16" for n in range(64))
    desk = Desk(lab, load_balancer_source_ranges=ranges, ports=(ServicePort(80, node_port=30080),))
    desk.settle()
    (balancer,) = lab.world.load_balancers()
    assert len([r for r in balancer.source_ranges if ":" not in r]) == 60
    reason, message = desk.condition("Quota")
    assert reason == "QuotaReached"
    assert "source ranges left out: tcp 80 from 10." in message
    assert "Inbound or outbound rules per security group" in message
    writes = lab.provider.calls().write
    desk.reconcile()
    assert lab.provider.calls().write == writes
    desk.change(load_balancer_source_ranges=ranges[:10])
    desk.settle()
    assert lab.world.load_balancers()[0].source_ranges == tuple(sorted(ranges[:10]))
    assert desk.condition("Quota") == ("", "")


def test_nodes_beyond_the_targets(lab: Lab) -> None:
    lab.server.quotas(targets_per_group=2)
    desk = Desk(lab)
    desk.settle()
    assert {len(x.targets) for x in lab.world.load_balancers()[0].listeners} == {2}
    assert "nodes left out: i-" in desk.condition("Quota")[1]
    assert desk.condition("Ready")[0] == "EnsuredLoadBalancer"
    desk.cluster.nodes = desk.cluster.nodes[:1]
    desk.settle()
    assert {len(x.targets) for x in lab.world.load_balancers()[0].listeners} == {1}
    assert desk.condition("Quota") == ("", "")


def test_a_change_that_is_not_permitted(lab: Lab) -> None:
    """Nodes come and go, and everything else goes on, whatever attribute may not be set."""
    lab.server.fail("ModifyTargetGroupAttributes", "AccessDenied", status=403, times=4)
    desk = Desk(lab, session_affinity=SessionAffinity.CLIENT_IP)
    desk.settle()
    reason, message = desk.condition("Permission")
    assert reason == "PermissionMissing"
    assert "elasticloadbalancing:ModifyTargetGroupAttributes" in message
    assert desk.condition("Ready")[0] == "EnsuredLoadBalancer"
    assert {len(x.targets) for x in lab.world.load_balancers()[0].listeners} == {3}
    writes = lab.provider.calls().write
    assert desk.reconcile().result is Result.UNCHANGED
    assert lab.provider.calls().write == writes, "nothing is tried again at once"
    desk.cluster.nodes = desk.cluster.nodes[:2]
    desk.settle()
    assert {len(x.targets) for x in lab.world.load_balancers()[0].listeners} == {2}
    for _ in range(2):
        lab.clock.now += REFUSED_S
        desk.settle()
    assert desk.condition("Permission") == ("", "")
    assert "DriftRepaired" not in desk.reasons()
    assert any("sticky true" in line for line in lab.world.inventory())


def test_without_the_permission_to_make_it(lab: Lab) -> None:
    lab.server.fail("CreateTargetGroup", "AccessDenied", status=403)
    desk = Desk(lab)
    assert desk.reconcile().result is Result.FAILED
    assert desk.condition("Ready")[0] == "PermissionMissing"
    desk.settle()
    assert desk.condition("Ready")[0] == "EnsuredLoadBalancer"
