"""What somebody changes or deletes by hand is put right at the next look, and an Event says what it was."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from lbprov.model import Result
from lbprov_aws import names
from tests.aws.conftest import CLUSTER, Lab
from tests.aws.desk import KEY, Desk


def look(desk: Desk) -> list[str]:
    """The drift timer: the world is listed, and the Service looked at. The Events on drift."""
    desk.lab.provider.owners()
    outcomes = desk.settle()
    assert outcomes[-1].result in (Result.UPDATED, Result.UNCHANGED), outcomes[-1]
    return [e.message for outcome in outcomes for e in outcome.events if e.reason == "DriftRepaired"]


@pytest.fixture
def desk(lab: Lab) -> Desk:
    made = Desk(lab, load_balancer_source_ranges=("198.51.100.0/24",))
    made.settle()
    assert made.reconcile().result is Result.UNCHANGED
    return made


def balancer(lab: Lab) -> Any:
    (found,) = lab.world.elbv2.describe_load_balancers()["LoadBalancers"]
    return found


def listener(lab: Lab, port: int) -> Any:
    found = lab.world.elbv2.describe_listeners(LoadBalancerArn=balancer(lab)["LoadBalancerArn"])["Listeners"]
    return next(x for x in found if x["Port"] == port)


def target_group(lab: Lab, port: int) -> Any:
    return next(g for g in lab.world.elbv2.describe_target_groups()["TargetGroups"] if g["Port"] == port)


def security_group(lab: Lab) -> Any:
    (group_id,) = balancer(lab)["SecurityGroups"]
    return lab.world.ec2.describe_security_groups(GroupIds=[group_id])["SecurityGroups"][0]


def _load_balancer(lab: Lab) -> None:
    lab.world.elbv2.delete_load_balancer(LoadBalancerArn=balancer(lab)["LoadBalancerArn"])


def _listener(lab: Lab) -> None:
    lab.world.elbv2.delete_listener(ListenerArn=listener(lab, 443)["ListenerArn"])


def _listener_elsewhere(lab: Lab) -> None:
    action: Any = [{"Type": "forward", "TargetGroupArn": target_group(lab, 30443)["TargetGroupArn"]}]
    lab.world.elbv2.modify_listener(ListenerArn=listener(lab, 80)["ListenerArn"], DefaultActions=action)


def _target_group(lab: Lab) -> None:
    lab.world.elbv2.delete_listener(ListenerArn=listener(lab, 443)["ListenerArn"])
    lab.world.elbv2.delete_target_group(TargetGroupArn=target_group(lab, 30443)["TargetGroupArn"])


def _target(lab: Lab) -> None:
    arn = target_group(lab, 30080)["TargetGroupArn"]
    lab.world.elbv2.deregister_targets(TargetGroupArn=arn, Targets=[{"Id": lab.world.instance_id("node-2")}])


def _health_check(lab: Lab) -> None:
    arn = target_group(lab, 30080)["TargetGroupArn"]
    lab.world.elbv2.modify_target_group(TargetGroupArn=arn, HealthCheckIntervalSeconds=30)


def _rule(lab: Lab) -> None:
    group = security_group(lab)
    rule = next(r for r in group["IpPermissions"] if r["FromPort"] == 80)
    ranges = [{"CidrIp": r["CidrIp"]} for r in rule["IpRanges"]]
    permission: Any = [{"IpProtocol": "tcp", "FromPort": 80, "ToPort": 80, "IpRanges": ranges}]
    lab.world.ec2.revoke_security_group_ingress(GroupId=group["GroupId"], IpPermissions=permission)


def _tag(lab: Lab) -> None:
    arn = balancer(lab)["LoadBalancerArn"]
    key = names.cluster_tag(CLUSTER)
    lab.world.elbv2.add_tags(ResourceArns=[arn], Tags=[{"Key": key, "Value": "shared"}])


def _tag_of_group(lab: Lab) -> None:
    group_id = security_group(lab)["GroupId"]
    lab.world.ec2.delete_tags(Resources=[group_id], Tags=[{"Key": names.RESOURCE}])


def _mark_of_balancer(lab: Lab) -> None:
    arn = balancer(lab)["LoadBalancerArn"]
    lab.world.elbv2.remove_tags(ResourceArns=[arn], TagKeys=[names.SERVICE, names.CLUSTER])


def _mark_of_target_group(lab: Lab) -> None:
    arn = target_group(lab, 30080)["TargetGroupArn"]
    lab.world.elbv2.remove_tags(ResourceArns=[arn], TagKeys=[names.SERVICE])


def _uid_of_group(lab: Lab) -> None:
    lab.world.ec2.delete_tags(Resources=[security_group(lab)["GroupId"]], Tags=[{"Key": names.UID}])


def _group_detached(lab: Lab) -> None:
    """moto's own default group takes its place, as AWS wants one at least."""
    other = lab.world.ec2.create_security_group(GroupName="o", Description="o", VpcId=lab.world.vpc_id)
    lab.world.elbv2.set_security_groups(
        LoadBalancerArn=balancer(lab)["LoadBalancerArn"], SecurityGroups=[other["GroupId"]]
    )


BY_HAND = [
    pytest.param(_load_balancer, ("load balancer lbp-", "listener 80/TCP"), id="load balancer deleted"),
    pytest.param(_listener, ("listener 443/TCP was missing",), id="listener deleted"),
    pytest.param(_listener_elsewhere, ("listener 80/TCP: target group was",), id="listener redirected"),
    pytest.param(_target_group, ("target group lbp-", "listener 443/TCP"), id="target group deleted"),
    pytest.param(_target, ("targets tg:30080-tcp was missing",), id="target taken out"),
    pytest.param(_health_check, ("health check lbp-", "every 30 s"), id="health check changed"),
    pytest.param(_rule, ("ingress rules", "tcp 80 from 198.51.100.0/24"), id="rule deleted"),
    pytest.param(_tag, ("tags lbp-", "was shared instead of owned"), id="tag changed"),
    pytest.param(_tag_of_group, ("lbprov/resource was (none) instead of sg",), id="tag deleted"),
    pytest.param(
        _mark_of_balancer, ("lbprov/service was (none) instead of default/web",), id="marks deleted"
    ),
    pytest.param(_mark_of_target_group, ("tags lbp-default-web",), id="mark of a target group deleted"),
    pytest.param(_uid_of_group, ("instead of uid-web",), id="mark of the security group deleted"),
    pytest.param(_group_detached, ("security group is not attached",), id="security group detached"),
]


@pytest.mark.parametrize(("damage", "told"), BY_HAND)
def test_put_right_and_told_once(desk: Desk, damage: Callable[[Lab], None], told: tuple[str, ...]) -> None:
    lab = desk.lab
    before = _without_groups_of_others(lab)
    damage(lab)
    assert _without_groups_of_others(lab) != before or damage in (_group_detached, _mark_of_target_group)
    (message,) = look(desk)
    assert message.startswith("changed by somebody else, and put right: ")
    assert all(part in message for part in told), message
    assert _without_groups_of_others(lab) == before
    assert look(desk) == []
    assert desk.reconcile().result is Result.UNCHANGED


def _without_groups_of_others(lab: Lab) -> set[str]:
    """Nor how many are attached: what somebody else has attached stays."""
    lines = (line for line in lab.world.inventory() if " o: " not in line)
    return {re.sub(r"\d+ security groups", "security groups", line) for line in lines}


def test_security_group_deleted_by_hand(desk: Desk) -> None:
    """Only possible once it is attached to nothing: the load balancer is without any rules of ours then."""
    lab = desk.lab
    before = _without_groups_of_others(lab)
    group_id = security_group(lab)["GroupId"]
    _group_detached(lab)
    for interface in lab.world.ec2.describe_network_interfaces()["NetworkInterfaces"]:
        if any(g["GroupId"] == group_id for g in interface["Groups"]):
            groups = [g["GroupId"] for g in interface["Groups"] if g["GroupId"] != group_id]
            other = groups or [lab.world.ec2.describe_security_groups()["SecurityGroups"][0]["GroupId"]]
            lab.world.ec2.modify_network_interface_attribute(
                NetworkInterfaceId=interface["NetworkInterfaceId"], Groups=other
            )
    lab.world.ec2.delete_security_group(GroupId=group_id)
    (message,) = look(desk)
    assert "security group lbp-default-web" in message
    assert _without_groups_of_others(lab) == before
    assert look(desk) == []


def test_what_is_asked_for_is_no_drift(desk: Desk) -> None:
    desk.change(load_balancer_source_ranges=("203.0.113.0/24",))
    assert look(desk) == []
    desk.cluster.nodes = desk.cluster.nodes[:2]
    assert look(desk) == []


def test_instances_that_were_refused_and_are_tried_again_are_no_drift(desk: Desk) -> None:
    lab = desk.lab
    instance = lab.world.instance_id("node-3")
    lab.world.ec2.terminate_instances(InstanceIds=[instance])
    first = look(desk)
    assert len(first) <= 1  # that AWS took it out is news at most once
    lab.clock.now += 400
    assert look(desk) == []


def test_what_others_added_is_told_once_and_left_alone(desk: Desk) -> None:
    lab = desk.lab
    group = lab.world.elbv2.create_target_group(
        Name="theirs", Protocol="TCP", Port=9, VpcId=lab.world.vpc_id, HealthCheckProtocol="TCP"
    )["TargetGroups"][0]["TargetGroupArn"]
    action: Any = [{"Type": "forward", "TargetGroupArn": group}]
    lab.world.elbv2.create_listener(
        LoadBalancerArn=balancer(lab)["LoadBalancerArn"], Protocol="TCP", Port=9, DefaultActions=action
    )
    rule: Any = [{"IpProtocol": "tcp", "FromPort": 9, "ToPort": 9, "IpRanges": [{"CidrIp": "192.0.2.0/24"}]}]
    lab.world.ec2.authorize_security_group_ingress(GroupId=security_group(lab)["GroupId"], IpPermissions=rule)
    before = lab.world.inventory()
    lab.provider.owners()
    outcome = desk.reconcile()
    told = [e for e in outcome.events if e.reason == "ForeignResourcesIgnored"]
    assert len(told) == 1
    assert "listener on port 9" in told[0].message
    assert "1 rule of the security group" in told[0].message
    assert lab.world.inventory() == before
    lab.provider.owners()
    assert desk.reconcile().events == ()


def test_a_process_that_starts_repairs_without_a_guess_whose_doing_it_was(desk: Desk) -> None:
    lab = desk.lab
    before = lab.world.inventory()
    _listener(lab)
    desk.restart()
    assert look(desk) == []
    assert lab.world.inventory() == before


def test_the_cluster_mark_of_the_security_group_deleted(desk: Desk) -> None:
    """Groups are listed by it: the group is met again by its name."""
    lab = desk.lab
    before = _without_groups_of_others(lab)
    lab.world.ec2.delete_tags(Resources=[security_group(lab)["GroupId"]], Tags=[{"Key": names.CLUSTER}])
    look(desk)
    assert _without_groups_of_others(lab) == before
    assert desk.reconcile().result is Result.UNCHANGED


@pytest.mark.parametrize("damage", [_mark_of_balancer, _mark_of_target_group, _uid_of_group])
def test_nothing_is_left_of_what_lost_marks(desk: Desk, damage: Callable[[Lab], None]) -> None:
    damage(desk.lab)
    desk.restart()
    desk.cluster.delete(KEY)
    assert desk.settle()[-1].result is Result.DELETED
    assert desk.lab.world.leftovers() == ()


def test_without_any_mark_it_is_not_ours_any_more(desk: Desk) -> None:
    lab = desk.lab
    arn = balancer(lab)["LoadBalancerArn"]
    keys = [names.CLUSTER, names.SERVICE, names.UID]
    lab.world.elbv2.remove_tags(ResourceArns=[arn], TagKeys=keys)
    before = lab.world.inventory()
    lab.provider.owners()
    outcome = desk.reconcile()
    assert outcome.result is Result.FAILED
    assert [e.reason for e in outcome.events] == ["LoadBalancerOwnershipConflict"]
    assert lab.world.inventory() == before
