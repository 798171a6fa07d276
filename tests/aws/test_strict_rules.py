"""The strict layer over moto: each rule on its own, as an SDK meets it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from botocore.exceptions import ClientError
from moto.ec2.models import ec2_backends
from moto.ec2.models.core import TaggedEC2Resource

from lbprov.lab.aws.quick import tags_of
from lbprov.lab.aws.rules import RULES
from lbprov.lab.aws.world import AwsWorld


def code_of(call: Callable[[], object]) -> str:
    with pytest.raises(ClientError) as caught:
        call()
    return str(caught.value.response["Error"]["Code"])


class Parts:
    """Ready-made parts in a world, so that a test is about one rule."""

    def __init__(self, world: AwsWorld) -> None:
        self.world = world
        self.zones = list(world.subnet_ids)
        self.subnets = list(world.subnet_ids.values())

    def group(self, name: str = "group") -> str:
        made = self.world.ec2.create_security_group(GroupName=name, Description="d", VpcId=self.world.vpc_id)
        return made["GroupId"]

    def balancer(self, name: str = "balancer", **changes: Any) -> dict[str, Any]:
        arguments = {
            "Name": name,
            "Type": "network",
            "Scheme": "internet-facing",
            "SubnetMappings": [{"SubnetId": self.subnets[0]}],
            **changes,
        }
        made: Any = self.world.elbv2.create_load_balancer(**arguments)
        return dict(made["LoadBalancers"][0])

    def targets(self, name: str = "targets", protocol: str = "TCP", **changes: Any) -> str:
        arguments = {
            "Name": name,
            "Protocol": protocol,
            "Port": 30080,
            "VpcId": self.world.vpc_id,
            "HealthCheckProtocol": "TCP",
            **changes,
        }
        made: Any = self.world.elbv2.create_target_group(**arguments)
        return str(made["TargetGroups"][0]["TargetGroupArn"])

    def listener(self, balancer: str, targets: str, port: int = 80, protocol: str = "TCP") -> str:
        made: Any = self.world.elbv2.create_listener(
            LoadBalancerArn=balancer,
            Port=port,
            Protocol=protocol,  # type: ignore[arg-type]
            DefaultActions=[{"Type": "forward", "TargetGroupArn": targets}],
        )
        return str(made["Listeners"][0]["ListenerArn"])


@pytest.fixture
def parts(world: AwsWorld) -> Parts:
    return Parts(world)


def test_every_rule_names_its_source() -> None:
    assert all(rule.source.startswith("https://docs.aws.amazon.com/") for rule in RULES)
    assert len({rule.name for rule in RULES}) == len(RULES)


@pytest.mark.parametrize("name", ["a" * 33, "-a", "a-", "a_b", "A.b", "internal-x"])
def test_load_balancer_names(parts: Parts, name: str) -> None:
    assert code_of(lambda: parts.balancer(name)) == "ValidationError"


def test_network_load_balancer_looks_like_one(parts: Parts) -> None:
    made = parts.balancer("web")
    assert ":loadbalancer/net/web/" in made["LoadBalancerArn"]
    identity = made["LoadBalancerArn"].rpartition("/")[2]
    assert made["DNSName"] == f"web-{identity}.elb.eu-west-1.amazonaws.com"
    assert made["AvailabilityZones"][0]["LoadBalancerAddresses"] == []


def test_address_is_used_while_the_load_balancer_is(parts: Parts) -> None:
    allocation = parts.world.allocate_address("203.0.113.10")
    made = parts.balancer(SubnetMappings=[{"SubnetId": parts.subnets[0], "AllocationId": allocation}])
    described = parts.world.elbv2.describe_load_balancers()["LoadBalancers"][0]
    for seen in (made, described):
        assert seen["AvailabilityZones"][0]["LoadBalancerAddresses"] == [
            {"IpAddress": "203.0.113.10", "AllocationId": allocation}
        ]
    address = parts.world.ec2.describe_addresses()["Addresses"][0]
    assert address["AssociationId"]
    interface = parts.world.ec2.describe_network_interfaces(
        NetworkInterfaceIds=[address["NetworkInterfaceId"]]
    )["NetworkInterfaces"][0]
    assert interface["Description"].startswith("ELB net/balancer/")
    assert (
        code_of(lambda: parts.world.ec2.release_address(AllocationId=allocation)) == "InvalidIPAddress.InUse"
    )
    mapping = {"SubnetId": parts.subnets[1], "AllocationId": allocation}
    again = partial(parts.balancer, "other", SubnetMappings=[mapping])
    assert code_of(again) == "ResourceInUse"

    parts.world.elbv2.delete_load_balancer(LoadBalancerArn=made["LoadBalancerArn"])
    assert not parts.world.ec2.describe_addresses()["Addresses"][0].get("AssociationId")
    again()


def test_interfaces_linger(parts: Parts) -> None:
    server, world = parts.world.server, parts.world
    group, allocation = parts.group(), world.allocate_address("203.0.113.10")
    mapping = {"SubnetId": parts.subnets[0], "AllocationId": allocation}
    made = parts.balancer(SubnetMappings=[mapping], SecurityGroups=[group])
    server.linger(True)
    world.elbv2.delete_load_balancer(LoadBalancerArn=made["LoadBalancerArn"])
    assert code_of(lambda: world.ec2.delete_security_group(GroupId=group)) == "DependencyViolation"
    assert code_of(lambda: parts.balancer("next", SubnetMappings=[mapping])) == "ResourceInUse"
    server.linger(False)
    world.ec2.delete_security_group(GroupId=group)
    parts.balancer("next", SubnetMappings=[mapping])


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        pytest.param({"AllocationId": "eipalloc-0"}, "AllocationIdNotFound", id="unknown"),
        pytest.param({"PrivateIPv4Address": "10.0.0.9"}, "InvalidConfigurationRequest", id="private-public"),
        pytest.param({"SubnetId": "subnet-0"}, "SubnetNotFound", id="subnet"),
    ],
)
def test_mappings(parts: Parts, changes: dict[str, str], code: str) -> None:
    mapping = {"SubnetId": parts.subnets[0], **changes}
    assert code_of(lambda: parts.balancer(SubnetMappings=[mapping])) == code


def test_internal_load_balancer_takes_private_addresses_only(parts: Parts) -> None:
    allocation = parts.world.allocate_address("203.0.113.10")
    elastic = [{"SubnetId": parts.subnets[0], "AllocationId": allocation}]
    refused = partial(parts.balancer, Scheme="internal", SubnetMappings=elastic)
    assert code_of(refused) == "InvalidConfigurationRequest"
    private = [{"SubnetId": parts.subnets[0], "PrivateIPv4Address": "10.0.0.9"}]
    made = parts.balancer(Scheme="internal", SubnetMappings=private)
    assert made["AvailabilityZones"][0]["LoadBalancerAddresses"] == [{"PrivateIPv4Address": "10.0.0.9"}]


def test_one_allocation_is_not_given_twice(parts: Parts) -> None:
    allocation = parts.world.allocate_address("203.0.113.10")
    mappings = [{"SubnetId": s, "AllocationId": allocation} for s in parts.subnets[:2]]
    assert code_of(lambda: parts.balancer(SubnetMappings=mappings)) == "InvalidConfigurationRequest"


def test_one_subnet_per_zone(parts: Parts) -> None:
    second = parts.world.add_subnet(parts.zones[0], "10.0.100.0/24")
    mappings = [{"SubnetId": parts.subnets[0]}, {"SubnetId": second}]
    assert code_of(lambda: parts.balancer(SubnetMappings=mappings)) == "InvalidConfigurationRequest"


def test_security_group_must_exist(parts: Parts) -> None:
    assert code_of(lambda: parts.balancer(SecurityGroups=["sg-0"])) == "InvalidSecurityGroup"


def test_same_load_balancer_again(parts: Parts) -> None:
    made = parts.balancer()
    assert parts.balancer()["LoadBalancerArn"] == made["LoadBalancerArn"]
    other = [{"SubnetId": parts.subnets[1]}]
    assert code_of(lambda: parts.balancer(SubnetMappings=other)) == "DuplicateLoadBalancerName"


def test_same_target_group_again(parts: Parts) -> None:
    assert parts.targets() == parts.targets()
    assert code_of(lambda: parts.targets(Port=30081)) == "DuplicateTargetGroupName"


def test_at_most_20_at_once(parts: Parts) -> None:
    arns = [parts.balancer()["LoadBalancerArn"]] * 21
    assert code_of(lambda: parts.world.elbv2.describe_tags(ResourceArns=arns)) == "ValidationError"
    assert (
        code_of(lambda: parts.world.elbv2.describe_load_balancers(LoadBalancerArns=arns)) == "ValidationError"
    )
    names = [f"n{i}" for i in range(21)]
    assert code_of(lambda: parts.world.elbv2.describe_target_groups(Names=names)) == "ValidationError"


def test_one_unknown_name_spoils_the_listing(parts: Parts) -> None:
    parts.balancer("known")
    unknown = partial(parts.world.elbv2.describe_load_balancers, Names=["known", "unknown"])
    assert code_of(unknown) == "LoadBalancerNotFound"


def test_tags_of_what_is_gone(parts: Parts) -> None:
    arn = parts.targets()
    parts.world.elbv2.delete_target_group(TargetGroupArn=arn)
    assert code_of(lambda: parts.world.elbv2.describe_tags(ResourceArns=[arn])) == "TargetGroupNotFound"


def test_deletion_protection(parts: Parts) -> None:
    arn = parts.balancer()["LoadBalancerArn"]
    on = [{"Key": "deletion_protection.enabled", "Value": "true"}]
    parts.world.elbv2.modify_load_balancer_attributes(LoadBalancerArn=arn, Attributes=on)  # type: ignore[arg-type]
    deletion = partial(parts.world.elbv2.delete_load_balancer, LoadBalancerArn=arn)
    assert code_of(deletion) == "OperationNotPermitted"


def test_security_groups_from_the_start(parts: Parts) -> None:
    without = parts.balancer("without")["LoadBalancerArn"]
    with_one = parts.balancer("with", SecurityGroups=[parts.group()])["LoadBalancerArn"]
    other = parts.group("other")
    set_groups = parts.world.elbv2.set_security_groups
    assert set_groups(LoadBalancerArn=with_one, SecurityGroups=[other])["SecurityGroupIds"] == [other]
    refused = partial(set_groups, LoadBalancerArn=without, SecurityGroups=[other])
    assert code_of(refused) == "InvalidConfigurationRequest"


def test_one_listener_per_port(parts: Parts) -> None:
    balancer = parts.balancer()["LoadBalancerArn"]
    tcp, udp = parts.targets("tcp"), parts.targets("udp", "UDP")
    first = parts.listener(balancer, tcp)
    assert parts.listener(balancer, tcp) == first
    assert code_of(lambda: parts.listener(balancer, udp, protocol="UDP")) == "DuplicateListener"


@pytest.mark.parametrize(
    ("listener", "targets", "fits"),
    [("TCP", "TCP", True), ("TCP", "TCP_UDP", True), ("TCP_UDP", "TCP", False), ("UDP", "TCP", False)],
)
def test_listener_protocols(parts: Parts, listener: str, targets: str, fits: bool) -> None:
    balancer, group = parts.balancer()["LoadBalancerArn"], parts.targets(protocol=targets)
    if fits:
        parts.listener(balancer, group, protocol=listener)
    else:
        assert code_of(lambda: parts.listener(balancer, group, protocol=listener)) == "IncompatibleProtocols"


def test_target_group_serves_one_load_balancer(parts: Parts) -> None:
    group = parts.targets()
    parts.listener(parts.balancer("one")["LoadBalancerArn"], group)
    second = parts.balancer("two")["LoadBalancerArn"]
    assert code_of(lambda: parts.listener(second, group)) == "TargetGroupAssociationLimit"


def test_listeners_change(parts: Parts) -> None:
    balancer = parts.balancer()["LoadBalancerArn"]
    tcp = parts.targets("tcp")
    arn = parts.listener(balancer, tcp)
    parts.listener(balancer, parts.targets("other", Port=30081), port=81)
    both = parts.targets("both", "TCP_UDP")
    changed = parts.world.elbv2.modify_listener(
        ListenerArn=arn,
        Protocol="TCP_UDP",
        Port=443,
        DefaultActions=[{"Type": "forward", "TargetGroupArn": both}],
    )["Listeners"][0]
    seen = parts.world.elbv2.describe_listeners(ListenerArns=[arn])["Listeners"][0]
    for listener in (changed, seen):
        assert (listener["Port"], listener["Protocol"]) == (443, "TCP_UDP")
        assert listener["DefaultActions"][0]["TargetGroupArn"] == both
    parts.world.elbv2.delete_target_group(TargetGroupArn=tcp)  # nobody uses it any more
    taken = partial(parts.world.elbv2.modify_listener, ListenerArn=arn, Port=81)
    assert code_of(taken) == "DuplicateListener"


@pytest.mark.parametrize("protocol", ["UDP", "TCP_UDP", "TLS"])
def test_health_checks(parts: Parts, protocol: str) -> None:
    assert code_of(lambda: parts.targets(HealthCheckProtocol=protocol)) == "InvalidConfigurationRequest"


def test_targets_are_instances_of_the_network(parts: Parts) -> None:
    group = parts.targets()

    def register(instance_id: str) -> None:
        parts.world.elbv2.register_targets(TargetGroupArn=group, Targets=[{"Id": instance_id}])

    assert code_of(lambda: register("i-0123456789abcdef0")) == "InvalidTarget"
    elsewhere = AwsWorld.create(parts.world.server, zones=1, nodes=1)
    assert code_of(lambda: register(elsewhere.instance_id("node-1"))) == "InvalidTarget"
    register(parts.world.instance_id("node-1"))


def states(parts: Parts, group: str) -> dict[str, str]:
    """Node -> state of the target."""
    names = {parts.world.instance_id(name): name for name in parts.world.provider_ids}
    health = parts.world.elbv2.describe_target_health(TargetGroupArn=group)["TargetHealthDescriptions"]
    return {names[h["Target"]["Id"]]: h["TargetHealth"]["State"] for h in health}


def test_targets_begin_and_drain(parts: Parts) -> None:
    group, world = parts.targets(), parts.world
    nodes: Any = [{"Id": world.instance_id(name)} for name in ("node-1", "node-2")]
    world.elbv2.register_targets(TargetGroupArn=group, Targets=nodes)
    assert states(parts, group) == {"node-1": "unused", "node-2": "unused"}
    world.server.settle_targets(3600)
    parts.listener(parts.balancer()["LoadBalancerArn"], group)
    assert states(parts, group) == {"node-1": "initial", "node-2": "initial"}
    world.server.settle_targets(0)
    assert states(parts, group) == {"node-1": "healthy", "node-2": "healthy"}
    world.elbv2.deregister_targets(TargetGroupArn=group, Targets=nodes[:1])
    assert states(parts, group) == {"node-1": "draining", "node-2": "healthy"}
    assert world.load_balancers()[0].listeners[0].targets == (world.instance_id("node-2"),)
    world.elbv2.register_targets(TargetGroupArn=group, Targets=nodes[:1])
    assert states(parts, group) == {"node-1": "healthy", "node-2": "healthy"}


def test_no_delay_no_draining(parts: Parts) -> None:
    group, node = parts.targets(), [{"Id": parts.world.instance_id("node-1")}]
    delay: Any = [{"Key": "deregistration_delay.timeout_seconds", "Value": "0"}]
    parts.world.elbv2.modify_target_group_attributes(TargetGroupArn=group, Attributes=delay)
    parts.world.elbv2.register_targets(TargetGroupArn=group, Targets=node)  # type: ignore[arg-type]
    parts.world.elbv2.deregister_targets(TargetGroupArn=group, Targets=node)  # type: ignore[arg-type]
    assert states(parts, group) == {}


def test_deregistering_twice_is_harmless(parts: Parts) -> None:
    group, node = parts.targets(), [{"Id": parts.world.instance_id("node-1")}]
    parts.world.elbv2.register_targets(TargetGroupArn=group, Targets=node)  # type: ignore[arg-type]
    for _ in range(2):
        parts.world.elbv2.deregister_targets(TargetGroupArn=group, Targets=node)  # type: ignore[arg-type]
    assert states(parts, group) == {"node-1": "draining"}


@pytest.mark.parametrize(
    ("protocol", "key", "value", "code"),
    [
        ("TCP", "no.such.key", "true", "ValidationError"),
        ("UDP", "preserve_client_ip.enabled", "false", "InvalidConfigurationRequest"),
    ],
)
def test_target_group_attributes(parts: Parts, protocol: str, key: str, value: str, code: str) -> None:
    group = parts.targets(protocol=protocol)
    change = partial(
        parts.world.elbv2.modify_target_group_attributes,
        TargetGroupArn=group,
        Attributes=[{"Key": key, "Value": value}],
    )
    assert code_of(change) == code


def test_security_group_that_another_names_stays(parts: Parts) -> None:
    named, naming = parts.group("named"), parts.group("naming")
    rule: Any = {"IpProtocol": "tcp", "FromPort": 1, "ToPort": 2, "UserIdGroupPairs": [{"GroupId": named}]}
    parts.world.ec2.authorize_security_group_ingress(GroupId=naming, IpPermissions=[rule])
    deletion = partial(parts.world.ec2.delete_security_group, GroupId=named)
    assert code_of(deletion) == "DependencyViolation"


@pytest.mark.parametrize("name", ["sg-web", "größe", "a" * 256])
def test_security_group_names(parts: Parts, name: str) -> None:
    assert code_of(lambda: parts.group(name)) == "InvalidParameterValue"


def test_faults_come_in_order_and_run_out(parts: Parts) -> None:
    server, describe = parts.world.server, parts.world.elbv2.describe_load_balancers
    server.fail("DescribeLoadBalancers", "Throttling", times=2)
    assert [code_of(describe), code_of(describe)] == ["Throttling", "Throttling"]
    describe()
    assert server.calls() == {"DescribeLoadBalancers": 3}


def test_lost_answer_leaves_the_deed(parts: Parts) -> None:
    parts.world.server.fail("CreateLoadBalancer", "InternalFailure", when="after", status=500)
    assert code_of(lambda: parts.balancer("made")) == "InternalFailure"
    assert [b.name for b in parts.world.load_balancers()] == ["made"]


def test_quick_tags_are_motos_own() -> None:
    """In this process: the quick look-up and the one that it stands in for."""
    backend = ec2_backends["123456789012"]["eu-west-1"]
    try:
        vpc = backend.create_vpc("10.9.0.0/16")
        groups = [
            backend.create_security_group(f"g{n}", "d", vpc_id=vpc.id, tags={"a": str(n), "b": "x"})
            for n in range(2)
        ]
        for resource in (*groups, vpc):
            assert tags_of(resource) == TaggedEC2Resource.get_tags(resource)
        assert [tag["value"] for tag in tags_of(groups[1])] == ["1", "x"]
    finally:
        backend.reset()


def test_requests_are_recorded_as_sent(parts: Parts) -> None:
    parts.balancer("seen")
    assert code_of(lambda: parts.balancer("-")) == "ValidationError"
    first, second = parts.world.server.requests()
    assert (first["operation"], first["code"]) == ("CreateLoadBalancer", "")
    assert first["params"]["SubnetMappings.member.1.SubnetId"] == parts.subnets[0]
    assert second["code"] == "ValidationError"
