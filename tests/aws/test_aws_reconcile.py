"""One Service's load balancer through its life: what each change costs, and what it leaves alone."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pytest

from lbprov.api import LoadBalancer, Owner, SessionAffinity, UserError
from lbprov_aws import names

if TYPE_CHECKING:
    from collections.abc import Callable

    from lbprov.api import Listener
    from tests.aws.conftest import Lab, Pass

TAGS = "service.beta.kubernetes.io/aws-load-balancer-additional-resource-tags"
SUBNETS = "service.beta.kubernetes.io/aws-load-balancer-subnets"


def warm(lab: Lab) -> None:
    """Inventory and network known, as in a process that has served a Service before."""
    other = lab.desired("other")
    lab.reconcile(other)


def arns(lab: Lab) -> dict[str, str]:
    groups = lab.world.elbv2.describe_target_groups()["TargetGroups"]
    return {g["TargetGroupName"]: g["TargetGroupArn"] for g in groups}


# What a Service costs


@pytest.mark.parametrize("ports", [1, 2, 3])
def test_new_service(lab: Lab, make_port: Callable[..., Listener], ports: int) -> None:
    warm(lab)
    wanted = lab.desired("web", *(make_port(80 + n, 30080 + n) for n in range(ports)))
    calls = lab.reconcile(wanted).calls
    assert calls == {
        "CreateSecurityGroup": 1,
        "AuthorizeSecurityGroupIngress": 1,
        "CreateLoadBalancer": 1,
        "CreateTargetGroup": ports,
        "DescribeTags": 1,
        "RegisterTargets": ports,
        "CreateListener": ports,
    }
    assert sum(calls.values()) == 4 + 3 * ports


def test_new_service_with_an_address(lab: Lab) -> None:
    warm(lab)
    lab.world.allocate_address("203.0.113.10")
    calls = lab.reconcile(lab.desired(requested_ip="203.0.113.10")).calls
    assert calls["DescribeAddresses"] == calls["ModifyLoadBalancerAttributes"] == 1
    assert sum(calls.values()) == 7 + 2


def test_nothing_changed(lab: Lab) -> None:
    warm(lab)
    lab.reconcile(lab.desired())
    assert lab.reconcile(lab.desired()).calls == {}


def test_nothing_changed_since_another_process(lab: Lab) -> None:
    lab.reconcile(lab.desired())
    lab.restart()
    result = lab.reconcile(lab.desired())
    assert result.writes == {}
    assert sum(result.calls.values()) == 4 + 2


@pytest.mark.parametrize("ports", [1, 2])
def test_node_set(lab: Lab, make_port: Callable[..., Listener], ports: int) -> None:
    listeners = tuple(make_port(80 + n, 30080 + n) for n in range(ports))
    lab.reconcile(lab.desired("web", *listeners, nodes=["node-1", "node-2"]))
    added = lab.reconcile(lab.desired("web", *listeners, nodes=["node-1", "node-2", "node-3"]))
    assert added.calls == {"RegisterTargets": ports}
    swapped = lab.reconcile(lab.desired("web", *listeners, nodes=["node-1", "node-3"]))
    assert swapped.calls == {"DeregisterTargets": ports}
    both = lab.reconcile(lab.desired("web", *listeners, nodes=["node-2"]))
    assert both.calls == {"RegisterTargets": ports, "DeregisterTargets": ports}
    (balancer,) = lab.world.load_balancers()
    assert {x.targets for x in balancer.listeners} == {(lab.world.instance_id("node-2"),)}


# Only what changed is changed


def test_source_ranges(lab: Lab) -> None:
    lab.reconcile(lab.desired())
    result = lab.reconcile(lab.desired(source_ranges=("198.51.100.0/24", "2001:db8::/32")))
    assert result.calls == {"AuthorizeSecurityGroupIngress": 1, "RevokeSecurityGroupIngress": 1}
    operations = [r["operation"] for r in lab.server.requests() if "SecurityGroupIngress" in r["operation"]]
    assert operations[-2:] == ["AuthorizeSecurityGroupIngress", "RevokeSecurityGroupIngress"]
    (balancer,) = lab.world.load_balancers()
    assert balancer.source_ranges == ("198.51.100.0/24", "2001:db8::/32")


def test_port_number_keeps_the_target_group(lab: Lab, make_port: Callable[..., Listener]) -> None:
    lab.reconcile(lab.desired())
    before = arns(lab)
    result = lab.reconcile(lab.desired("web", make_port(8080, 30080)))
    assert result.writes == {
        "AuthorizeSecurityGroupIngress": 1,
        "ModifyListener": 1,
        "RevokeSecurityGroupIngress": 1,
    }
    assert arns(lab) == before
    (balancer,) = lab.world.load_balancers()
    assert [(x.port, x.target_port) for x in balancer.listeners] == [(8080, 30080)]


def test_swapped_ports(lab: Lab, make_port: Callable[..., Listener]) -> None:
    lab.reconcile(lab.desired("web", make_port(80, 30080), make_port(81, 30081)))
    result = lab.reconcile(lab.desired("web", make_port(80, 30081), make_port(81, 30080)))
    assert result.writes == {"ModifyListener": 2}
    (balancer,) = lab.world.load_balancers()
    assert [(x.port, x.target_port) for x in balancer.listeners] == [(80, 30081), (81, 30080)]


def test_node_port_replaces_the_target_group(lab: Lab, make_port: Callable[..., Listener]) -> None:
    lab.reconcile(lab.desired())
    result = lab.reconcile(lab.desired("web", make_port(80, 31080)))
    assert result.writes == {
        "CreateTargetGroup": 1,
        "RegisterTargets": 1,
        "ModifyListener": 1,
        "DeleteTargetGroup": 1,
    }
    (balancer,) = lab.world.load_balancers()
    assert [(x.port, x.target_port, len(x.targets)) for x in balancer.listeners] == [(80, 31080, 3)]


def test_udp_joins_tcp(lab: Lab, make_port: Callable[..., Listener]) -> None:
    tcp, udp = make_port(53, 30053), make_port(53, 30053, "UDP")
    lab.reconcile(lab.desired("web", tcp))
    result = lab.reconcile(lab.desired("web", tcp, udp))
    assert result.writes["ModifyListener"] == 1
    (balancer,) = lab.world.load_balancers()
    assert [(x.port, x.protocol) for x in balancer.listeners] == [(53, "TCP_UDP")]
    lab.reconcile(lab.desired("web", udp))
    (balancer,) = lab.world.load_balancers()
    assert [(x.port, x.protocol) for x in balancer.listeners] == [(53, "UDP")]
    assert len(arns(lab)) == 1


def test_health_check_is_changed_in_place(lab: Lab) -> None:
    lab.reconcile(lab.desired())
    before = arns(lab)
    result = lab.reconcile(lab.desired(health_check_node_port=32000))
    assert result.calls == {"ModifyTargetGroup": 1}
    assert arns(lab) == before
    group = lab.world.elbv2.describe_target_groups()["TargetGroups"][0]
    assert (group["HealthCheckProtocol"], group["HealthCheckPort"], group["HealthCheckPath"]) == (
        "HTTP",
        "32000",
        "/healthz",
    )
    back = lab.reconcile(lab.desired())
    assert back.calls == {"ModifyTargetGroup": 1}


@pytest.mark.parametrize("restart", [False, True])
def test_session_affinity(lab: Lab, restart: bool) -> None:
    sticky = lab.desired(session_affinity=SessionAffinity.CLIENT_IP)
    plain = lab.desired()
    lab.reconcile(plain)
    for desired, value in ((sticky, "true"), (plain, "false"), (sticky, "true")):
        if restart:
            lab.restart()
        result = lab.reconcile(desired)
        assert result.writes["ModifyTargetGroupAttributes"] == 1
        (arn,) = arns(lab).values()
        attributes = lab.world.elbv2.describe_target_group_attributes(TargetGroupArn=arn)["Attributes"]
        assert {a["Key"]: a["Value"] for a in attributes}["stickiness.enabled"] == value
        if restart:
            lab.restart()
        assert lab.reconcile(desired).writes == {}


def test_every_resource_has_the_marks_and_the_extra_tags(lab: Lab) -> None:
    desired = lab.desired(annotations={TAGS: "team=shop"})
    lab.reconcile(desired)
    expected = {**names.marks(desired.owner, ""), "team": "shop"}
    del expected[names.RESOURCE]
    found = [*tags_of_all(lab).values()]
    assert len(found) == 4  # load balancer, target group, listener, security group
    assert all(expected.items() <= tags.items() for tags in found)
    assert {tags[names.RESOURCE] for tags in found} == {"lb", "tg:30080-tcp", "listener:80", "sg"}


def tags_of_all(lab: Lab) -> dict[str, dict[str, str]]:
    elbv2 = lab.world.elbv2
    found = [b.arn for b in lab.world.load_balancers()]
    found += [
        x["ListenerArn"] for arn in found for x in elbv2.describe_listeners(LoadBalancerArn=arn)["Listeners"]
    ]
    found += arns(lab).values()
    described = elbv2.describe_tags(ResourceArns=found)["TagDescriptions"]
    tags: dict[str, Any] = {d["ResourceArn"]: d["Tags"] for d in described}
    groups = lab.world.ec2.describe_security_groups(Filters=[{"Name": "group-name", "Values": ["lbp-*"]}])
    tags |= {g["GroupId"]: g["Tags"] for g in groups["SecurityGroups"]}
    return {key: {t["Key"]: t["Value"] for t in pairs} for key, pairs in tags.items()}


def test_extra_tags_come_and_go_and_others_stay(lab: Lab) -> None:
    lab.reconcile(lab.desired(annotations={TAGS: "team=shop,env=prod"}))
    (balancer,) = lab.world.load_balancers()
    theirs: Any = [{"Key": "cost-centre", "Value": "42"}]
    lab.world.elbv2.add_tags(ResourceArns=[balancer.arn], Tags=theirs)
    lab.restart()
    result = lab.reconcile(lab.desired(annotations={TAGS: "team=web"}))
    assert set(result.writes) == {"AddTags", "RemoveTags", "CreateTags", "DeleteTags"}
    (balancer,) = lab.world.load_balancers()
    assert balancer.tags["team"] == "web"
    assert balancer.tags["cost-centre"] == "42"
    assert "env" not in balancer.tags
    lab.restart()
    assert lab.reconcile(lab.desired(annotations={TAGS: "team=web"})).writes == {}


def test_named_subnets(lab: Lab) -> None:
    zone = "eu-west-1b"
    wanted = lab.desired(annotations={SUBNETS: lab.world.subnet_ids[zone]})
    result = lab.reconcile(wanted)
    (balancer,) = lab.world.load_balancers()
    assert balancer.zones == (zone,)
    assert result.calls["ModifyLoadBalancerAttributes"] == 1, "one zone serves the nodes of all"
    with pytest.raises(UserError, match=r"annotations\[.*subnets\]: there is no subnet 'subnet-0'"):
        lab.reconcile(lab.desired("other", annotations={SUBNETS: "subnet-0"}))


def test_scheme_of_a_live_load_balancer_stays(lab: Lab) -> None:
    lab.reconcile(lab.desired())
    result = lab.reconcile(lab.desired(internal=True))
    assert result.writes == {}
    assert "SchemeChangeIgnored" in result.notices


def test_instance_that_aws_refuses_does_not_keep_the_others_out(lab: Lab) -> None:
    desired = lab.desired()
    gone = dataclasses.replace(
        desired.targets[0], node_name="gone", provider_id="aws:///eu-west-1a/i-0deadbeef"
    )
    more = dataclasses.replace(desired, targets=(*desired.targets, gone))
    result = lab.reconcile(more)
    assert result.calls["RegisterTargets"] == 2
    (balancer,) = lab.world.load_balancers()
    assert len(balancer.listeners[0].targets) == 3
    again = lab.reconcile(more)
    assert again.calls == {}
    assert "i-0deadbeef" in again.notices["TargetsRejected"]
    lab.clock.now += 301
    retried = lab.go(more.owner, more)
    assert retried.writes == {"RegisterTargets": 1}


# What others do


def test_drift_is_found_after_the_resync_time_and_mended(lab: Lab) -> None:
    lab.reconcile(lab.desired())
    expected = lab.world.inventory()
    (balancer,) = lab.world.load_balancers()
    listener = lab.world.elbv2.describe_listeners(LoadBalancerArn=balancer.arn)["Listeners"][0]
    lab.world.elbv2.delete_listener(ListenerArn=listener["ListenerArn"])
    group: Any = lab.world.ec2.describe_security_groups(Filters=[{"Name": "group-name", "Values": ["lbp-*"]}])
    (group,) = group["SecurityGroups"]
    lab.world.ec2.revoke_security_group_ingress(
        GroupId=group["GroupId"], IpPermissions=group["IpPermissions"]
    )
    (arn,) = arns(lab).values()
    node: Any = [{"Id": lab.world.instance_id("node-1")}]
    lab.world.elbv2.deregister_targets(TargetGroupArn=arn, Targets=node)
    assert lab.reconcile(lab.desired()).calls == {}
    lab.clock.now += 301
    result = lab.reconcile(lab.desired())
    assert result.writes == {"AuthorizeSecurityGroupIngress": 1, "RegisterTargets": 1, "CreateListener": 1}
    assert "it is missing" in result.plan.to_text()
    assert lab.world.inventory() == expected


def test_vanished_load_balancer_is_made_anew(lab: Lab) -> None:
    lab.reconcile(lab.desired())
    expected = lab.world.inventory()
    (balancer,) = lab.world.load_balancers()
    lab.world.elbv2.delete_load_balancer(LoadBalancerArn=balancer.arn)
    lab.provider.owners()
    result = lab.reconcile(lab.desired())
    assert result.writes == {"CreateLoadBalancer": 1, "CreateListener": 1}
    assert lab.world.inventory() == expected


def test_detached_security_group_is_attached_and_others_stay(lab: Lab) -> None:
    lab.reconcile(lab.desired())
    (balancer,) = lab.world.load_balancers()
    made = lab.world.ec2.create_security_group(GroupName="theirs", Description="d", VpcId=lab.world.vpc_id)
    lab.world.elbv2.set_security_groups(LoadBalancerArn=balancer.arn, SecurityGroups=[made["GroupId"]])
    lab.restart()
    assert lab.reconcile(lab.desired()).writes == {"SetSecurityGroups": 1}
    (seen,) = lab.world.elbv2.describe_load_balancers()["LoadBalancers"]
    assert len(seen["SecurityGroups"]) == 2
    assert made["GroupId"] in seen["SecurityGroups"]


def foreign_group(lab: Lab, protocol: Any = "TCP") -> str:
    made = lab.world.elbv2.create_target_group(
        Name="theirs", Protocol=protocol, Port=9, VpcId=lab.world.vpc_id, HealthCheckProtocol="TCP"
    )
    return made["TargetGroups"][0]["TargetGroupArn"]


def foreign_listener(lab: Lab, number: int, group: str) -> str:
    (balancer,) = lab.world.load_balancers()
    action: Any = [{"Type": "forward", "TargetGroupArn": group}]
    made = lab.world.elbv2.create_listener(
        LoadBalancerArn=balancer.arn, Protocol="TCP", Port=number, DefaultActions=action
    )
    return made["Listeners"][0]["ListenerArn"]


@pytest.mark.parametrize("to_our_group", [False, True])
def test_foreign_listener_is_left_alone(
    lab: Lab, make_port: Callable[..., Listener], to_our_group: bool
) -> None:
    lab.reconcile(lab.desired())
    foreign_listener(lab, 9999, next(iter(arns(lab).values())) if to_our_group else foreign_group(lab))
    lab.restart()
    result = lab.reconcile(lab.desired())
    assert result.writes == {}
    assert "the listener on port 9999" in result.notices["ForeignResourcesIgnored"]
    lab.reconcile(lab.desired("web", make_port(81, 30080), make_port(82, 30082)))
    (balancer,) = lab.world.load_balancers()
    assert [x.port for x in balancer.listeners] == [81, 82, 9999]


def test_foreign_listener_on_our_port_is_left_alone_and_said(
    lab: Lab, make_port: Callable[..., Listener]
) -> None:
    lab.reconcile(lab.desired())
    arn = foreign_listener(lab, 443, foreign_group(lab))
    lab.restart()
    wanted = lab.desired("web", make_port(80, 30080), make_port(443, 30443))
    result = lab.reconcile(wanted)
    assert "CreateListener" not in result.writes
    assert "ModifyListener" not in result.writes
    assert "not served because of that: 443/TCP" in result.notices["ForeignResourcesIgnored"]
    lab.world.elbv2.delete_listener(ListenerArn=arn)
    lab.provider.owners()
    assert lab.reconcile(wanted).writes == {"CreateListener": 1}


def test_foreign_rules_are_left_alone(lab: Lab) -> None:
    lab.reconcile(lab.desired())
    groups: Any = lab.world.ec2.describe_security_groups(
        Filters=[{"Name": "group-name", "Values": ["lbp-*"]}]
    )
    group_id = groups["SecurityGroups"][0]["GroupId"]
    theirs: Any = [
        {"IpProtocol": "tcp", "FromPort": 9, "ToPort": 9, "IpRanges": [{"CidrIp": "10.0.0.0/8"}]},
        {"IpProtocol": "tcp", "FromPort": 1, "ToPort": 99, "IpRanges": [{"CidrIp": "10.0.0.0/8"}]},
        {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group_id}]},
    ]
    lab.world.ec2.authorize_security_group_ingress(GroupId=group_id, IpPermissions=theirs)
    lab.restart()
    result = lab.reconcile(lab.desired(source_ranges=("198.51.100.0/24",)))
    assert "3 rules of the security group" in result.notices["ForeignResourcesIgnored"]
    (balancer,) = lab.world.load_balancers()
    assert balancer.source_ranges == ("10.0.0.0/8", "198.51.100.0/24")


def test_rule_that_is_there_already_is_success(lab: Lab) -> None:
    """Somebody added it between our look and our call."""
    lab.reconcile(lab.desired())
    groups: Any = lab.world.ec2.describe_security_groups(
        Filters=[{"Name": "group-name", "Values": ["lbp-*"]}]
    )
    group_id = groups["SecurityGroups"][0]["GroupId"]
    rule: Any = [{"IpProtocol": "tcp", "FromPort": 80, "ToPort": 80, "IpRanges": [{"CidrIp": "10.0.0.0/8"}]}]
    wanted = lab.desired(source_ranges=("10.0.0.0/8", "198.51.100.0/24"))
    lab.reconcile(
        wanted,
        before_apply=lambda: lab.world.ec2.authorize_security_group_ingress(
            GroupId=group_id, IpPermissions=rule
        ),
    )
    (balancer,) = lab.world.load_balancers()
    assert balancer.source_ranges == ("10.0.0.0/8", "198.51.100.0/24")


# Whose it is


def test_name_taken_by_a_stranger_stops_everything(lab: Lab) -> None:
    desired = lab.desired()
    strange_balancer(lab, desired.owner)
    before = lab.world.inventory()
    with pytest.raises(UserError, match="belong to somebody else") as caught:
        lab.reconcile(desired)
    assert caught.value.reason == "LoadBalancerOwnershipConflict"
    assert lab.world.inventory() == before
    assert all(r["operation"].startswith(("Describe", "Get")) for r in lab.server.requests()[1:])


def strange_balancer(lab: Lab, owner: Owner, tags: dict[str, str] | None = None) -> None:
    lab.world.elbv2.create_load_balancer(
        Name=names.load_balancer_name(owner, internal=False),
        Type="network",
        Scheme="internet-facing",
        SubnetMappings=[{"SubnetId": next(iter(lab.world.subnet_ids.values()))}],
        Tags=[{"Key": k, "Value": v} for k, v in (tags or {"who": "knows"}).items()],
    )


def test_name_taken_by_another_cluster(lab: Lab) -> None:
    """A cluster that was copied with its etcd: the same uids, another name."""
    desired = lab.desired()
    copy = desired.owner._replace(cluster="copy")
    strange_balancer(lab, desired.owner, names.marks(copy, "lb"))
    with pytest.raises(UserError, match=r"Service default/web \(uid uid-web\) of cluster copy"):
        lab.reconcile(desired)


def test_load_balancer_that_appears_meanwhile_is_not_adopted(lab: Lab) -> None:
    desired = lab.desired()
    with pytest.raises(UserError, match="it has no tags of lbprov") as caught:
        lab.reconcile(desired, before_apply=lambda: strange_balancer(lab, desired.owner))
    assert caught.value.reason == "LoadBalancerOwnershipConflict"
    (balancer,) = lab.world.load_balancers()
    assert balancer.tags == {"who": "knows"}
    assert balancer.listeners == ()


def test_idempotent_create_that_answers_with_a_strangers_is_not_used(lab: Lab) -> None:
    """AWS gives a create of the same name and settings the existing resource, whoever's it is."""
    desired = lab.desired()
    name = names.target_group_name(desired.owner, "TCP", 30080, lab.world.vpc_id)

    def stranger_comes_first() -> None:
        lab.world.elbv2.create_target_group(
            Name=name,
            Protocol="TCP",
            Port=30080,
            VpcId=lab.world.vpc_id,
            HealthCheckProtocol="TCP",
            HealthCheckIntervalSeconds=10,
            HealthCheckPort="traffic-port",
        )

    with pytest.raises(UserError, match="nobody of ours") as caught:
        lab.reconcile(desired, before_apply=stranger_comes_first)
    assert caught.value.reason == "LoadBalancerOwnershipConflict"
    (arn,) = arns(lab).values()
    assert lab.world.elbv2.describe_target_health(TargetGroupArn=arn)["TargetHealthDescriptions"] == []
    with pytest.raises(UserError, match="belong to somebody else"):
        lab.reconcile(desired)
    lab.delete(desired.owner)
    assert list(arns(lab)) == [name], "the stranger's stays"


def test_mark_taken_off_behind_our_back(lab: Lab) -> None:
    """Somebody claims the load balancer: from the next listing on it is not ours."""
    desired = lab.desired()
    lab.reconcile(desired)
    (balancer,) = lab.world.load_balancers()
    lab.world.elbv2.add_tags(ResourceArns=[balancer.arn], Tags=[{"Key": names.CLUSTER, "Value": "another"}])
    lab.provider.owners()
    with pytest.raises(UserError, match="belong to somebody else"):
        lab.reconcile(desired)


def test_two_services_of_one_name_in_turn(lab: Lab) -> None:
    """Deleted and made again: another uid, another owner; nothing of one is the other's."""
    former: LoadBalancer = lab.desired()
    lab.reconcile(former)
    latter = dataclasses.replace(former, owner=former.owner._replace(uid="uid-2"))
    lab.reconcile(latter)
    assert len(lab.world.load_balancers()) == 2
    lab.delete(former.owner)
    (balancer,) = lab.world.load_balancers()
    assert balancer.tags[names.UID] == "uid-2"
    assert lab.reconcile(latter).calls == {}


def test_status_says_what_is_awaited(lab: Lab) -> None:
    desired = lab.desired()
    result: Pass = lab.reconcile(desired)
    assert result.status is not None
    assert not result.status.ready
    assert "provisioning" in result.status.message
    before = dict(lab.provider.calls().by_operation)
    observed = lab.provider.observe(desired.owner, desired, fresh=True)
    assert lab.provider.status(desired, observed).ready
    assert lab.provider.calls().by_operation == {
        **before,
        "DescribeLoadBalancers": before["DescribeLoadBalancers"] + 1,
    }


def test_status_before_there_is_anything(lab: Lab) -> None:
    desired = lab.desired()
    status = lab.provider.status(desired, lab.provider.observe(desired.owner, desired))
    assert (status.ingress, status.ready) == ((), False)
