"""The strict layer's limits: quotas, tags, request rates, and reads that are behind. Each rule on its own."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from lbprov.lab.aws.quotas import Quotas
from lbprov.lab.aws.world import client

if TYPE_CHECKING:
    from lbprov.lab.aws.world import AwsWorld


def code_of(call: Callable[[], object]) -> str:
    with pytest.raises(ClientError) as caught:
        call()
    return str(caught.value.response["Error"]["Code"])


def balancer(world: AwsWorld, name: str = "web", **changes: Any) -> str:
    mappings: Any = [{"SubnetId": subnet} for subnet in world.subnet_ids.values()]
    made: Any = world.elbv2.create_load_balancer(
        Name=name, Type="network", Scheme="internal", SubnetMappings=mappings, **changes
    )
    return str(made["LoadBalancers"][0]["LoadBalancerArn"])


def target_group(world: AwsWorld, name: str = "web", **changes: Any) -> str:
    made: Any = world.elbv2.create_target_group(
        Name=name, Protocol="TCP", Port=30080, VpcId=world.vpc_id, HealthCheckProtocol="TCP", **changes
    )
    return str(made["TargetGroups"][0]["TargetGroupArn"])


def listener(world: AwsWorld, arn: str, group: str, port: int = 80) -> str:
    made: Any = world.elbv2.create_listener(
        LoadBalancerArn=arn,
        Port=port,
        Protocol="TCP",
        DefaultActions=[{"Type": "forward", "TargetGroupArn": group}],
    )
    return str(made["Listeners"][0]["ListenerArn"])


def register(world: AwsWorld, group: str, *nodes: str) -> None:
    targets: Any = [{"Id": world.instance_id(node)} for node in nodes]
    world.elbv2.register_targets(TargetGroupArn=group, Targets=targets)


def security_group(world: AwsWorld, name: str = "web") -> str:
    return world.ec2.create_security_group(GroupName=name, Description="d", VpcId=world.vpc_id)["GroupId"]


# Quotas


def test_quotas_are_those_of_a_new_account() -> None:
    most = Quotas()
    assert (most.load_balancers, most.listeners, most.target_groups) == (50, 50, 3000)
    assert (most.targets_per_group, most.targets, most.targets_per_zone) == (1000, 3000, 500)
    assert (most.security_groups, most.tags) == (2500, 50)


@pytest.mark.parametrize(
    ("quota", "make", "code"),
    [
        pytest.param({"load_balancers": 1}, balancer, "TooManyLoadBalancers", id="load-balancers"),
        pytest.param({"target_groups": 1}, target_group, "TooManyTargetGroups", id="target-groups"),
    ],
)
def test_how_many_there_may_be(
    world: AwsWorld, quota: Mapping[str, int], make: Callable[..., str], code: str
) -> None:
    world.server.quotas(**quota)
    first = make(world, "first")
    assert code_of(lambda: make(world, "second")) == code
    assert make(world, "first") == first, "the same again is no other"
    world.server.quotas(**dict.fromkeys(quota, 2))
    make(world, "second")


def test_security_groups(world: AwsWorld) -> None:
    there = len(world.ec2.describe_security_groups()["SecurityGroups"])
    world.server.quotas(security_groups=there + 1)
    security_group(world, "first")
    assert code_of(lambda: security_group(world, "second")) == "SecurityGroupLimitExceeded"


def test_rules_of_a_security_group(world: AwsWorld) -> None:
    group = security_group(world)

    def allow(*ports: int) -> None:
        rules: Any = [
            {"IpProtocol": "tcp", "FromPort": p, "ToPort": p, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}
            for p in ports
        ]
        world.ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=rules)

    allow(*range(1, 61))
    assert code_of(lambda: allow(61)) == "RulesPerSecurityGroupLimitExceeded"


def test_listeners(world: AwsWorld) -> None:
    world.server.quotas(listeners=2)
    arn, group = balancer(world), target_group(world)
    for port in (80, 81):
        listener(world, arn, group, port)
    assert code_of(lambda: listener(world, arn, group, 82)) == "TooManyListeners"


def test_targets_of_a_group(world: AwsWorld) -> None:
    world.server.quotas(targets_per_group=2)
    group = target_group(world)
    register(world, group, "node-1", "node-2")
    register(world, group, "node-1")
    assert code_of(lambda: register(world, group, "node-3")) == "TooManyTargets"


@pytest.mark.parametrize("quota", ["targets", "targets_per_zone"])
def test_targets_of_a_load_balancer(world: AwsWorld, quota: str) -> None:
    """A target counts once per target group."""
    most = {"targets": 4, "targets_per_zone": 1}[quota]
    world.server.quotas(**{quota: most})
    arn = balancer(world)
    one, two = target_group(world, "one"), target_group(world, "two", HealthCheckPort="1")
    register(world, one, "node-1", "node-2", "node-3")
    register(world, two, "node-1", "node-2")
    listener(world, arn, one)
    assert code_of(lambda: listener(world, arn, two, 81)) == "TooManyTargets"
    world.elbv2.deregister_targets(
        TargetGroupArn=two, Targets=[{"Id": world.instance_id(node)} for node in ("node-1", "node-2")]
    )
    listener(world, arn, two, 81)
    assert code_of(lambda: register(world, two, "node-1", "node-2")) == "TooManyTargets"


def test_targets_of_a_load_balancer_across_zones(world: AwsWorld) -> None:
    world.server.quotas(targets_cross_zone=2)
    arn, group = balancer(world), target_group(world)
    register(world, group, "node-1", "node-2", "node-3")
    on: Any = [{"Key": "load_balancing.cross_zone.enabled", "Value": "true"}]
    world.elbv2.modify_load_balancer_attributes(LoadBalancerArn=arn, Attributes=on)
    assert code_of(lambda: listener(world, arn, group)) == "TooManyTargets"


# Tags


def tags(count: int, prefix: str = "k") -> Any:
    return [{"Key": f"{prefix}{n}", "Value": "v"} for n in range(count)]


def test_fifty_tags_and_no_more(world: AwsWorld) -> None:
    assert code_of(lambda: balancer(world, Tags=tags(51))) == "TooManyTags"
    arn = balancer(world, Tags=tags(49))
    world.elbv2.add_tags(ResourceArns=[arn], Tags=tags(1, "more"))
    world.elbv2.add_tags(ResourceArns=[arn], Tags=tags(49))
    assert code_of(lambda: world.elbv2.add_tags(ResourceArns=[arn], Tags=tags(1, "last"))) == "TooManyTags"
    assert len(world.elbv2.describe_tags(ResourceArns=[arn])["TagDescriptions"][0]["Tags"]) == 50


@pytest.mark.parametrize(
    ("key", "value"),
    [
        pytest.param("aws:mine", "v", id="reserved"),
        pytest.param("k" * 129, "v", id="long key"),
        pytest.param("k", "v" * 257, id="long value"),
    ],
)
def test_tags_that_are_none(world: AwsWorld, key: str, value: str) -> None:
    tag: Any = [{"Key": key, "Value": value}]
    assert code_of(lambda: balancer(world, Tags=tag)) == "ValidationError"
    group = security_group(world)
    assert code_of(lambda: world.ec2.create_tags(Resources=[group], Tags=tag)) == "InvalidParameterValue"


def test_one_tag_key_twice(world: AwsWorld) -> None:
    assert code_of(lambda: target_group(world, Tags=[*tags(1), *tags(1)])) == "DuplicateTagKeys"


def test_tags_of_a_security_group(world: AwsWorld) -> None:
    group = security_group(world)
    world.ec2.create_tags(Resources=[group], Tags=tags(50))
    more = partial(world.ec2.create_tags, Resources=[group], Tags=tags(1, "more"))
    assert code_of(more) == "TagLimitExceeded"


# Rates


@pytest.mark.parametrize(
    ("operation", "tokens", "code"),
    [
        pytest.param("describe_load_balancers", 40, "Throttling", id="elbv2-describe"),
        pytest.param("register_targets", 20, "Throttling", id="elbv2-register"),
        pytest.param("add_tags", 20, "Throttling", id="elbv2-mutate"),
        pytest.param("create_tags", 50, "RequestLimitExceeded", id="ec2-mutate"),
        pytest.param("describe_vpcs", 100, "RequestLimitExceeded", id="ec2-describe"),
    ],
)
def test_rates(world: AwsWorld, operation: str, tokens: int, code: str) -> None:
    """As many as there are tokens, and no more, however long they take: time stands nearly still."""
    arn, node = target_group(world), world.instance_id("node-1")
    tag: Any = [{"Key": "a", "Value": "b"}]
    calls: dict[str, Callable[[], object]] = {
        "describe_load_balancers": world.elbv2.describe_load_balancers,
        "register_targets": partial(world.elbv2.register_targets, TargetGroupArn=arn, Targets=[{"Id": node}]),
        "add_tags": partial(world.elbv2.add_tags, ResourceArns=[arn], Tags=tag),
        "create_tags": partial(world.ec2.create_tags, Resources=[node], Tags=tag),
        "describe_vpcs": world.ec2.describe_vpcs,
    }
    call = calls[operation]
    world.server.limit_rates(1e-6)
    for _ in range(tokens):
        call()
    assert code_of(call) == code
    world.ec2.describe_subnets()  # the other buckets have theirs
    world.server.limit_rates(0)
    call()


def test_tokens_come_back(world: AwsWorld) -> None:
    describe = world.elbv2.describe_load_balancers
    world.server.limit_rates(1e-6)
    for _ in range(40):
        describe()
    assert code_of(describe) == "Throttling"
    world.server.limit_rates(1e6)
    for _ in range(50):
        describe()


# Pages


def test_listings_come_in_pages(world: AwsWorld) -> None:
    arn, group = balancer(world), target_group(world, "group-0")
    made = {group, *(target_group(world, f"group-{n}") for n in range(1, 5))}
    listeners = {listener(world, arn, group, port) for port in range(80, 85)}
    first = world.elbv2.describe_target_groups(PageSize=2)
    assert len(first["TargetGroups"]) == 2
    paging: Any = {"PageSize": 2}
    groups = list(world.elbv2.get_paginator("describe_target_groups").paginate(PaginationConfig=paging))
    assert [len(page["TargetGroups"]) for page in groups] == [2, 2, 1]
    assert {g["TargetGroupArn"] for page in groups for g in page["TargetGroups"]} == made
    pages = world.elbv2.get_paginator("describe_listeners").paginate(
        LoadBalancerArn=arn, PaginationConfig=paging
    )
    assert {x["ListenerArn"] for page in pages for x in page["Listeners"]} == listeners
    assert len(world.elbv2.describe_target_groups()["TargetGroups"]) == 5


def test_size_of_pages(world: AwsWorld) -> None:
    assert code_of(lambda: world.elbv2.describe_target_groups(PageSize=401)) == "ValidationError"


# Reads that are behind


def shown(world: AwsWorld) -> set[str]:
    """The names that each API shows."""
    arns = [
        mapping["ResourceARN"]
        for mapping in client(world.server, "resourcegroupstaggingapi").get_resources()[
            "ResourceTagMappingList"
        ]
    ]
    balancers = world.elbv2.describe_load_balancers()["LoadBalancers"]
    groups = world.ec2.describe_security_groups()["SecurityGroups"]
    return {
        *(f"tagging {arn.split('/')[-2]}" for arn in arns if "loadbalancer" in arn),
        *(f"elbv2 {b['LoadBalancerName']}" for b in balancers),
        *(f"ec2 {g['GroupName']}" for g in groups if g["GroupName"] != "default"),
    }


@pytest.mark.parametrize("api", ["tagging", "elbv2", "ec2"])
def test_reads_that_are_behind(world: AwsWorld, api: str) -> None:
    tag: Any = tags(1)
    old_arn, old_group = balancer(world, "old", Tags=tag), security_group(world, "old")
    world.server.lag(**{api: math.inf})
    balancer(world, "new", Tags=tag)
    security_group(world, "new")
    world.elbv2.delete_load_balancer(LoadBalancerArn=old_arn)
    world.ec2.delete_security_group(GroupId=old_group)
    others = {"tagging", "elbv2", "ec2"} - {api}
    assert shown(world) == {f"{api} old", *(f"{other} new" for other in others)}
    if api == "elbv2":
        named = partial(world.elbv2.describe_load_balancers, Names=["new"])
        assert code_of(named) == "LoadBalancerNotFound"
    world.server.lag()
    assert shown(world) == {f"{each} new" for each in ("tagging", "elbv2", "ec2")}


def test_tags_that_are_behind(world: AwsWorld) -> None:
    arn = balancer(world, Tags=tags(1))
    world.server.lag(elbv2=math.inf)
    world.elbv2.add_tags(ResourceArns=[arn], Tags=tags(1, "more"))

    def keys() -> set[str]:
        described = world.elbv2.describe_tags(ResourceArns=[arn])["TagDescriptions"][0]["Tags"]
        return {tag["Key"] for tag in described}

    assert keys() == {"k0"}
    world.server.lag()
    assert keys() == {"k0", "more0"}


def test_what_is_behind_catches_up_by_itself(world: AwsWorld) -> None:
    world.server.lag(elbv2=0.5)
    began_s = time.monotonic()
    balancer(world, "new")
    while "elbv2 new" not in shown(world):
        assert time.monotonic() - began_s < 60
    assert time.monotonic() - began_s >= 0.5
