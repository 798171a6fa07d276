"""The strict layer over moto: rules of TLS, attributes, families, security groups and addresses, each on its
own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from botocore.exceptions import ClientError

from lbprov.lab.aws import defaults
from lbprov.lab.aws.world import AwsWorld, client

UNKNOWN = "arn:aws:acm:eu-west-1:123456789012:certificate/00000000-0000-0000-0000-000000000000"


def code_of(call: Callable[[], object]) -> str:
    with pytest.raises(ClientError) as caught:
        call()
    return str(caught.value.response["Error"]["Code"])


class Parts:
    """A load balancer with a target group in a world."""

    def __init__(self, world: AwsWorld) -> None:
        self.world = world
        self.subnets = list(world.subnet_ids.values())
        self.elbv2: Any = world.elbv2
        self.arn = self.balancer("balancer")["LoadBalancerArn"]

    def balancer(self, name: str, **changes: Any) -> dict[str, Any]:
        made = self.elbv2.create_load_balancer(
            **{
                "Name": name,
                "Type": "network",
                "Scheme": "internet-facing",
                "SubnetMappings": [{"SubnetId": self.subnets[0]}],
                **changes,
            }
        )
        return dict(made["LoadBalancers"][0])

    def group(self, name: str = "group", protocol: str = "TCP", **changes: Any) -> str:
        made = self.elbv2.create_target_group(
            **{
                "Name": name,
                "Protocol": protocol,
                "Port": 30080,
                "VpcId": self.world.vpc_id,
                "HealthCheckProtocol": "TCP",
                **changes,
            }
        )
        return str(made["TargetGroups"][0]["TargetGroupArn"])

    def listener(self, protocol: str = "TLS", group: str = "", **changes: Any) -> str:
        made = self.elbv2.create_listener(
            **{
                "LoadBalancerArn": self.arn,
                "Port": 443,
                "Protocol": protocol,
                "DefaultActions": [{"Type": "forward", "TargetGroupArn": group or self.group()}],
                **changes,
            }
        )
        return str(made["Listeners"][0]["ListenerArn"])

    def certificate(self, name: str = "one") -> str:
        acm = client(self.world.server, "acm")
        return str(acm.request_certificate(DomainName=f"{name}.example.com")["CertificateArn"])


def certificates(*arns: str) -> list[dict[str, str]]:
    return [{"CertificateArn": arn} for arn in arns]


@pytest.fixture
def parts(world: AwsWorld) -> Parts:
    return Parts(world)


def test_new_tls_listener(parts: Parts) -> None:
    one, two = parts.certificate("one"), parts.certificate("two")
    group = parts.group()
    make = partial(parts.listener, group=group)
    assert code_of(make) == "CertificateNotFound"
    assert code_of(lambda: make(Certificates=certificates(UNKNOWN))) == "CertificateNotFound"
    assert code_of(lambda: make(Certificates=certificates(one, two))) == "TooManyCertificates"
    assert code_of(lambda: make(Certificates=certificates(one), SslPolicy="old")) == "SSLPolicyNotFound"
    assert (
        code_of(lambda: make(Certificates=certificates(one), AlpnPolicy=["H3"])) == "ALPNPolicyNotSupported"
    )
    assert code_of(lambda: make("TCP", Certificates=certificates(one))) == "InvalidConfigurationRequest"
    make(Certificates=certificates(one), AlpnPolicy=["HTTP2Only"])


def test_tls_listener_changes(parts: Parts) -> None:
    one, two = parts.certificate("one"), parts.certificate("two")
    arn = parts.listener(Certificates=certificates(one))
    parts.elbv2.add_listener_certificates(ListenerArn=arn, Certificates=certificates(two))
    change = partial(parts.elbv2.modify_listener, ListenerArn=arn)
    assert code_of(lambda: change(Certificates=certificates(UNKNOWN))) == "CertificateNotFound"
    policy = "ELBSecurityPolicy-TLS13-1-2-2021-06"
    change(Certificates=certificates(two), SslPolicy=policy, AlpnPolicy=["HTTP2Only"])
    (seen,) = parts.elbv2.describe_listeners(ListenerArns=[arn])["Listeners"]
    assert (seen["SslPolicy"], seen["AlpnPolicy"]) == (policy, ["HTTP2Only"])
    assert seen["Certificates"] == certificates(two)
    listed = parts.elbv2.describe_listener_certificates(ListenerArn=arn)["Certificates"]
    assert [c["CertificateArn"] for c in listed if c["IsDefault"]] == [two]
    change(Protocol="TCP")
    (seen,) = parts.elbv2.describe_listeners(ListenerArns=[arn])["Listeners"]
    assert not seen.get("Certificates")
    assert code_of(lambda: change(Protocol="TLS")) == "CertificateNotFound"


def test_certificates_for_sni(parts: Parts) -> None:
    one = parts.certificate()
    arn = parts.listener(Certificates=certificates(one))
    add = partial(parts.elbv2.add_listener_certificates, ListenerArn=arn)
    remove = partial(parts.elbv2.remove_listener_certificates, ListenerArn=arn)
    assert code_of(lambda: add(Certificates=certificates(UNKNOWN))) == "CertificateNotFound"
    assert code_of(lambda: remove(Certificates=certificates(one))) == "OperationNotPermitted"
    plain = parts.listener("TCP", parts.group("other"), Port=80)
    unfit = partial(parts.elbv2.add_listener_certificates, ListenerArn=plain)
    assert code_of(lambda: unfit(Certificates=certificates(one))) == "InvalidConfigurationRequest"


@pytest.mark.parametrize(
    ("key", "value", "code"),
    [
        ("idle_timeout.timeout_seconds", "60", "InvalidConfigurationRequest"),
        ("load_balancing.cross_zone.enabled", "yes", "ValidationError"),
        ("access_logs.s3.enabled", "true", "InvalidConfigurationRequest"),
    ],
)
def test_balancer_attributes(parts: Parts, key: str, value: str, code: str) -> None:
    change = partial(parts.elbv2.modify_load_balancer_attributes, LoadBalancerArn=parts.arn)
    assert code_of(lambda: change(Attributes=[{"Key": key, "Value": value}])) == code


def test_attributes_begin_as_aws_has_them(parts: Parts) -> None:
    found = parts.elbv2.describe_load_balancer_attributes(LoadBalancerArn=parts.arn)["Attributes"]
    assert {a["Key"]: a["Value"] for a in found} == defaults.of_balancer("internet-facing")
    for protocol in ("TCP", "UDP"):
        arn = parts.group(protocol.lower(), protocol)
        found = parts.elbv2.describe_target_group_attributes(TargetGroupArn=arn)["Attributes"]
        assert {a["Key"]: a["Value"] for a in found} == defaults.of_group(protocol)


def test_dual_stack(parts: Parts) -> None:
    turn = partial(parts.elbv2.set_ip_address_type, LoadBalancerArn=parts.arn, IpAddressType="dualstack")
    assert code_of(turn) == "InvalidSubnet"
    assert code_of(lambda: parts.balancer("dual", IpAddressType="dualstack")) == "InvalidSubnet"
    parts.world.add_ipv6()
    udp = parts.listener("UDP", parts.group("udp", "UDP"), Port=53)
    assert code_of(turn) == "InvalidConfigurationRequest"
    parts.elbv2.delete_listener(ListenerArn=udp)
    turn()
    refused = partial(parts.listener, "UDP", parts.group("udp", "UDP"), Port=53)
    assert code_of(refused) == "InvalidConfigurationRequest"
    parts.balancer("dual", IpAddressType="dualstack")


def test_security_groups(parts: Parts) -> None:
    group = parts.world.ec2.create_security_group(GroupName="g", Description="d", VpcId=parts.world.vpc_id)
    ids = [group["GroupId"]]
    without = partial(parts.elbv2.set_security_groups, LoadBalancerArn=parts.arn)
    assert code_of(lambda: without(SecurityGroups=ids)) == "InvalidConfigurationRequest"
    made = parts.balancer("guarded", SecurityGroups=ids)["LoadBalancerArn"]
    change = partial(parts.elbv2.set_security_groups, LoadBalancerArn=made)
    assert code_of(lambda: change(SecurityGroups=[])) == "InvalidConfigurationRequest"
    change(SecurityGroups=ids, EnforceSecurityGroupInboundRulesOnPrivateLinkTraffic="off")
    (seen,) = parts.elbv2.describe_load_balancers(LoadBalancerArns=[made])["LoadBalancers"]
    assert seen["EnforceSecurityGroupInboundRulesOnPrivateLinkTraffic"] == "off"
    other = parts.world.ec2.create_security_group(GroupName="h", Description="d", VpcId=parts.world.vpc_id)
    change(SecurityGroups=[other["GroupId"]])
    parts.world.ec2.delete_security_group(GroupId=group["GroupId"])  # nobody uses it any more


@pytest.mark.parametrize(
    "changes",
    [
        {"HealthCheckIntervalSeconds": 301},
        {"HealthyThresholdCount": 11},
        {"HealthCheckIntervalSeconds": 5, "HealthCheckTimeoutSeconds": 6},
        {"HealthCheckProtocol": "HTTP", "Matcher": {"HttpCode": "ok"}},
    ],
)
def test_values_of_health_checks(parts: Parts, changes: dict[str, Any]) -> None:
    arn = parts.group()
    assert (
        code_of(lambda: parts.elbv2.modify_target_group(TargetGroupArn=arn, **changes)) == "ValidationError"
    )


def test_codes_of_health_checks_are_kept(parts: Parts) -> None:
    arn = parts.group()
    parts.elbv2.modify_target_group(
        TargetGroupArn=arn, HealthCheckProtocol="HTTP", HealthCheckPath="/", Matcher={"HttpCode": "204"}
    )
    (seen,) = parts.elbv2.describe_target_groups(TargetGroupArns=[arn])["TargetGroups"]
    assert seen["Matcher"] == {"HttpCode": "204"}


@pytest.mark.parametrize(
    ("scheme", "address"),
    [
        pytest.param("internal", {"PrivateIPv4Address": "10.0.9.9"}, id="another subnet's"),
        pytest.param("internal", {"PrivateIPv4Address": "10.0.0.9"}, id="in use"),
        pytest.param("internet-facing", {"IPv6Address": "2001:db8::1"}, id="IPv6, not dual stack"),
    ],
)
def test_addresses_of_the_subnet(parts: Parts, scheme: str, address: dict[str, str]) -> None:
    parts.world.ec2.create_network_interface(SubnetId=parts.subnets[0], PrivateIpAddress="10.0.0.9")
    mapping = {"SubnetId": parts.subnets[0], **address}
    refused = partial(parts.balancer, "other", Scheme=scheme, SubnetMappings=[mapping])
    assert code_of(refused) == "InvalidConfigurationRequest"
