"""Everything of an owner's goes, whatever is left of it, and nothing of anybody else's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from lbprov.api import ProviderError, RetryLater

if TYPE_CHECKING:
    from collections.abc import Callable

    from lbprov.api import Listener
    from tests.aws.conftest import Lab


@pytest.mark.parametrize("ports", [1, 3])
def test_costs_and_leaves_nothing(lab: Lab, make_port: Callable[..., Listener], ports: int) -> None:
    desired = lab.desired("web", *(make_port(80 + n, 30080 + n) for n in range(ports)))
    lab.reconcile(desired)
    calls = lab.delete(desired.owner).calls
    assert calls == {
        "DeleteLoadBalancer": 1,
        "DeleteTargetGroup": ports,
        "DeleteSecurityGroup": 1,
        "GetResources": 1,
        "DescribeSecurityGroups": 1,
    }
    assert sum(calls.values()) == 4 + ports
    assert lab.world.leftovers() == ()


@pytest.mark.parametrize("restart", [False, True])
def test_load_balancer_deleted_by_hand(lab: Lab, restart: bool) -> None:
    desired = lab.desired()
    lab.reconcile(desired)
    (balancer,) = lab.world.load_balancers()
    lab.world.elbv2.delete_load_balancer(LoadBalancerArn=balancer.arn)
    if restart:
        lab.restart()
    lab.delete(desired.owner)
    assert lab.world.leftovers() == ()


def test_resources_that_the_tagging_api_does_not_show_yet(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """It lags; the process that made them is gone."""
    desired = lab.desired()
    lab.reconcile(desired)
    monkeypatch.setattr("lbprov_aws.elbv2.tagged", lambda cloud, cluster, uid="": {})
    lab.restart()
    lab.delete(desired.owner)
    assert lab.world.leftovers() == ()


def test_resources_that_the_tagging_api_shows_still(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """It lags the other way too: what it shows is looked at before it is believed."""
    from lbprov_aws import elbv2

    desired = lab.desired()
    lab.reconcile(desired)
    stale = elbv2.tagged(lab.provider._cloud, desired.owner.cluster, desired.owner.uid)  # type: ignore[attr-defined]
    assert len(stale) == 2
    monkeypatch.setattr("lbprov_aws.elbv2.tagged", lambda cloud, cluster, uid="": stale)
    lab.delete(desired.owner)
    assert lab.world.leftovers() == ()


def test_tagging_api_denied(lab: Lab) -> None:
    lab.server.fail("GetResources", "AccessDeniedException", times=100)
    lab.restart()
    desired = lab.desired()
    lab.reconcile(desired)
    lab.restart()
    assert lab.reconcile(desired).writes == {}
    assert lab.provider.owners() == {desired.owner}
    lab.delete(desired.owner)
    assert lab.world.leftovers() == ()


def test_network_interfaces_that_linger_are_waited_for(lab: Lab) -> None:
    desired = lab.desired()
    lab.reconcile(desired)
    lab.server.linger(True)
    for _ in range(2):
        with pytest.raises(RetryLater) as caught:
            lab.delete(desired.owner)
        assert caught.value.after_s == 15
    assert lab.world.load_balancers() == ()
    assert [line.split()[0] for line in lab.world.leftovers()] == ["security"]
    lab.restart()
    with pytest.raises(RetryLater):
        lab.delete(desired.owner)
    lab.server.linger(False)
    lab.delete(desired.owner)
    assert lab.world.leftovers() == ()


def test_target_group_still_in_use_is_waited_for(lab: Lab) -> None:
    desired = lab.desired()
    lab.reconcile(desired)
    lab.server.fail("DeleteTargetGroup", "ResourceInUse")
    with pytest.raises(RetryLater) as caught:
        lab.delete(desired.owner)
    assert caught.value.after_s == 5
    lab.delete(desired.owner)
    assert lab.world.leftovers() == ()


def test_deletion_protection_is_respected_and_said(lab: Lab) -> None:
    desired = lab.desired()
    lab.reconcile(desired)
    (balancer,) = lab.world.load_balancers()
    protect(lab, balancer.arn, "true")
    before = lab.world.inventory()
    with pytest.raises(ProviderError, match=r"deletion_protection\.enabled off") as caught:
        lab.delete(desired.owner)
    assert not caught.value.retryable
    assert lab.world.inventory() == before
    protect(lab, balancer.arn, "false")
    lab.delete(desired.owner)
    assert lab.world.leftovers() == ()


def protect(lab: Lab, arn: str, value: str) -> None:
    attributes: Any = [{"Key": "deletion_protection.enabled", "Value": value}]
    lab.world.elbv2.modify_load_balancer_attributes(LoadBalancerArn=arn, Attributes=attributes)


def test_others_stay(lab: Lab) -> None:
    kept, gone = lab.desired("kept"), lab.desired("gone")
    lab.reconcile(kept)
    before = lab.world.inventory()
    lab.reconcile(gone)
    lab.delete(gone.owner)
    assert lab.world.inventory() == before
    assert lab.provider.owners() == {kept.owner}


def test_nothing_there_is_nothing_to_do(lab: Lab) -> None:
    gone = lab.delete(lab.desired("never").owner)
    assert gone.plan.is_empty
    assert gone.writes == {}


def test_foreign_listener_of_our_load_balancer_goes_with_it_and_its_target_group_stays(lab: Lab) -> None:
    desired = lab.desired()
    lab.reconcile(desired)
    (balancer,) = lab.world.load_balancers()
    group = lab.world.elbv2.create_target_group(
        Name="theirs", Protocol="TCP", Port=9, VpcId=lab.world.vpc_id, HealthCheckProtocol="TCP"
    )["TargetGroups"][0]["TargetGroupArn"]
    action: Any = [{"Type": "forward", "TargetGroupArn": group}]
    lab.world.elbv2.create_listener(
        LoadBalancerArn=balancer.arn, Protocol="TCP", Port=9, DefaultActions=action
    )
    lab.delete(desired.owner)
    assert [line.split(":")[0] for line in lab.world.leftovers()] == ["target group theirs"]
