"""Annotations carried out on AWS: what they cost, what a change costs, what goes back when they go."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import pytest

from lbprov.api import IPFamily, Listener, LoadBalancer, ProviderError, Replace, UserError
from lbprov.lab.aws.world import client
from lbprov_aws.peer_annotations import PREFIX
from lbprov_aws.refused import REFUSED_S

if TYPE_CHECKING:
    from tests.aws.conftest import Lab, Pass

UNKNOWN = "arn:aws:acm:eu-west-1:123456789012:certificate/00000000-0000-0000-0000-000000000000"


def saying(
    lab: Lab, *ports: Listener, name: str = "web", says: dict[str, str], **changes: Any
) -> LoadBalancer:
    annotations = {PREFIX + key: value for key, value in says.items()}
    desired: LoadBalancer = lab.desired(name, *ports, annotations=annotations, **changes)
    return desired


def balancer_attributes(lab: Lab) -> dict[str, str]:
    (balancer,) = lab.world.load_balancers()
    found: Any = lab.world.elbv2.describe_load_balancer_attributes(LoadBalancerArn=balancer.arn)
    return {a["Key"]: a["Value"] for a in found["Attributes"]}


def group_attributes(lab: Lab) -> dict[int, dict[str, str]]:
    """By nodePort."""
    groups = lab.world.elbv2.describe_target_groups()["TargetGroups"]
    found: dict[int, dict[str, str]] = {}
    for group in groups:
        answer: Any = lab.world.elbv2.describe_target_group_attributes(TargetGroupArn=group["TargetGroupArn"])
        found[group["Port"]] = {a["Key"]: str(a["Value"]) for a in answer["Attributes"]}
    return found


def assert_settled(lab: Lab, desired: LoadBalancer) -> None:
    """Nothing is asked or written any more, and a new process writes nothing either."""
    assert lab.reconcile(desired).calls == {}
    lab.restart()
    assert lab.reconcile(desired).writes == {}


# Attributes


def test_balancer_attributes_come_change_and_go_back(lab: Lab) -> None:
    lab.reconcile(lab.desired("other"))
    lab.delete(lab.desired("other").owner)
    asked = saying(
        lab, says={"attributes": "deletion_protection.enabled=false,zonal_shift.config.enabled=true"}
    )
    first = lab.reconcile(asked)
    assert first.calls["ModifyLoadBalancerAttributes"] == 1
    assert sum(first.calls.values()) == 8
    assert balancer_attributes(lab)["zonal_shift.config.enabled"] == "true"
    assert_settled(lab, asked)

    other = saying(lab, says={"cross-zone-load-balancing-enabled": "true"})
    lab.reconcile(other)
    found = balancer_attributes(lab)
    assert found["load_balancing.cross_zone.enabled"] == "true"
    assert found["zonal_shift.config.enabled"] == "false"
    assert_settled(lab, other)

    plain = lab.desired()
    assert lab.reconcile(plain).writes == {
        "ModifyLoadBalancerAttributes": 1,
        "RemoveTags": 1,
    }
    assert balancer_attributes(lab)["load_balancing.cross_zone.enabled"] == "false"
    assert_settled(lab, plain)


@pytest.mark.parametrize("restart", [False, True])
def test_group_attributes_come_change_and_go_back(
    lab: Lab, make_port: Callable[..., Listener], restart: bool
) -> None:
    ports = (make_port(80, 30080), make_port(443, 30443))
    asked = saying(
        lab,
        *ports,
        says={
            "target-group-attributes": "deregistration_delay.timeout_seconds=30",
            "target-group-attributes.443": "preserve_client_ip.enabled=false",
            "proxy-protocol-per-target-group": "80",
        },
    )
    lab.reconcile(asked)
    found = group_attributes(lab)
    assert {port: values["deregistration_delay.timeout_seconds"] for port, values in found.items()} == {
        30080: "30",
        30443: "30",
    }
    assert found[30080]["proxy_protocol_v2.enabled"] == "true"
    assert found[30443]["preserve_client_ip.enabled"] == "false"
    assert_settled(lab, asked)
    if restart:
        lab.restart()
    plain = lab.desired("web", *ports)
    assert lab.reconcile(plain).writes["ModifyTargetGroupAttributes"] == 2
    found = group_attributes(lab)
    assert {values["deregistration_delay.timeout_seconds"] for values in found.values()} == {"300"}
    assert found[30080]["proxy_protocol_v2.enabled"] == "false"
    assert found[30443]["preserve_client_ip.enabled"] == "true"
    assert_settled(lab, plain)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("operation", ["ModifyTargetGroupAttributes", "RemoveTags", "AddTags"])
def test_attribute_that_is_set_is_never_forgotten(
    lab: Lab, when: Literal["before", "after"], operation: str
) -> None:
    """Broken off around each of the calls of an attribute's coming and going, in any process."""
    plain = lab.desired()
    asked = saying(lab, says={"proxy-protocol": "*"})
    lab.reconcile(plain)
    before = lab.world.inventory()
    for desired in (asked, plain):
        lab.server.fail(operation, "InvalidAction", when=when)
        with contextlib.suppress(ProviderError):
            lab.reconcile(desired)
        lab.restart()
    lab.server.control(reset=True)
    lab.reconcile(plain)
    assert lab.world.inventory() == before
    assert_settled(lab, plain)


def test_attribute_changed_by_hand_is_set_again(lab: Lab) -> None:
    asked = saying(lab, says={"cross-zone-load-balancing-enabled": "true"})
    lab.reconcile(asked)
    (balancer,) = lab.world.load_balancers()
    off: Any = [{"Key": "load_balancing.cross_zone.enabled", "Value": "false"}]
    lab.world.elbv2.modify_load_balancer_attributes(LoadBalancerArn=balancer.arn, Attributes=off)
    lab.clock.now += 301
    assert lab.reconcile(asked).writes == {"ModifyLoadBalancerAttributes": 1}
    assert balancer_attributes(lab)["load_balancing.cross_zone.enabled"] == "true"


def test_bucket_that_aws_refuses_costs_the_logs_alone(lab: Lab) -> None:
    asked = saying(
        lab,
        says={
            "access-log-enabled": "true",
            "access-log-s3-bucket-name": "logs",
            "cross-zone-load-balancing-enabled": "true",
        },
    )
    result = lab.go(asked.owner, asked)
    assert balancer_attributes(lab)["load_balancing.cross_zone.enabled"] == "true"
    assert result.status is not None
    again = lab.reconcile(asked)
    assert again.calls == {}
    assert "aws-load-balancer-attributes: access_logs.s3.enabled=true" in again.notices["AnnotationRefused"]
    assert "Access Denied for bucket: logs" in again.notices["AnnotationRefused"]

    client(lab.server, "s3").create_bucket(
        Bucket="logs", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"}
    )
    assert lab.reconcile(asked).calls == {}
    lab.clock.now += REFUSED_S
    mended = lab.reconcile(asked)
    assert mended.writes == {"ModifyLoadBalancerAttributes": 1}
    assert "AnnotationRefused" not in mended.notices
    assert balancer_attributes(lab)["access_logs.s3.enabled"] == "true"


# TLS


@pytest.fixture
def certificates(lab: Lab) -> tuple[str, ...]:
    acm = client(lab.server, "acm")
    return tuple(
        acm.request_certificate(DomainName=f"{name}.example.com")["CertificateArn"]
        for name in ("one", "two", "three")
    )


def listeners(lab: Lab) -> dict[int, dict[str, Any]]:
    (balancer,) = lab.world.load_balancers()
    found: Any = lab.world.elbv2.describe_listeners(LoadBalancerArn=balancer.arn)["Listeners"]
    for listener in found:
        answer: Any = lab.world.elbv2.describe_listener_certificates(ListenerArn=listener["ListenerArn"])
        listener["SNI"] = {c["CertificateArn"] for c in answer["Certificates"] if not c["IsDefault"]}
        listener["Default"] = next((c["CertificateArn"] for c in listener.get("Certificates", ())), "")
    return {listener["Port"]: listener for listener in found}


def test_tls_listener(lab: Lab, make_port: Callable[..., Listener], certificates: tuple[str, ...]) -> None:
    lab.reconcile(lab.desired("other"))
    lab.delete(lab.desired("other").owner)
    one, two, three = certificates
    web, tls = make_port(80, 30080), make_port(443, 30443)
    says = {"ssl-cert": f"{one},{two}", "ssl-ports": "443"}
    asked = saying(lab, web, tls, says=says)
    assert sum(lab.reconcile(asked).calls.values()) == 4 + 3 * 2 + 1
    found = listeners(lab)
    assert (found[80]["Protocol"], found[443]["Protocol"]) == ("TCP", "TLS")
    assert (found[443]["Default"], found[443]["SNI"]) == (one, {two})
    assert found[443]["SslPolicy"] == "ELBSecurityPolicy-2016-08"
    assert_settled(lab, asked)

    policy = "ELBSecurityPolicy-TLS13-1-2-2021-06"
    changed = saying(
        lab, web, tls, says={**says, "ssl-cert": f"{two},{three}", "ssl-negotiation-policy": policy}
    )
    result = lab.reconcile(changed)
    assert result.writes == {"ModifyListener": 1, "AddListenerCertificates": 1}
    found = listeners(lab)
    assert (found[443]["Default"], found[443]["SNI"]) == (two, {three})
    assert found[443]["SslPolicy"] == policy
    assert_settled(lab, changed)

    fewer = saying(lab, web, tls, says={**says, "ssl-cert": two, "ssl-negotiation-policy": policy})
    assert lab.reconcile(fewer).writes == {"RemoveListenerCertificates": 1}
    assert listeners(lab)[443]["SNI"] == set()

    plain = lab.desired("web", web, tls)
    assert lab.reconcile(plain).writes == {"ModifyListener": 1}
    assert (listeners(lab)[443]["Protocol"], listeners(lab)[443]["Default"]) == ("TCP", "")
    assert_settled(lab, plain)


def test_tls_to_the_targets_with_alpn(lab: Lab, certificates: tuple[str, ...]) -> None:
    says = {"ssl-cert": certificates[0], "backend-protocol": "ssl", "alpn-policy": "HTTP2Preferred"}
    asked = saying(lab, says=says)
    lab.reconcile(asked)
    assert listeners(lab)[80]["AlpnPolicy"] == ["HTTP2Preferred"]
    assert [g["Protocol"] for g in lab.world.elbv2.describe_target_groups()["TargetGroups"]] == ["TLS"]
    assert_settled(lab, asked)
    plain = saying(lab, says={"ssl-cert": certificates[0]})
    lab.reconcile(plain)
    assert [g["Protocol"] for g in lab.world.elbv2.describe_target_groups()["TargetGroups"]] == ["TCP"]
    assert listeners(lab)[80]["AlpnPolicy"] in ([], ["None"])
    assert_settled(lab, plain)


def test_tls_port_moves_with_its_certificates(
    lab: Lab, make_port: Callable[..., Listener], certificates: tuple[str, ...]
) -> None:
    says = {"ssl-cert": ",".join(certificates[:2])}
    lab.reconcile(saying(lab, make_port(443, 30443), says=says))
    lab.restart()
    moved = saying(lab, make_port(8443, 30443), says=says)
    assert lab.reconcile(moved).writes["ModifyListener"] == 1
    found = listeners(lab)
    assert list(found) == [8443]
    assert (found[8443]["Default"], found[8443]["SNI"]) == (certificates[0], {certificates[1]})


def test_certificate_that_does_not_exist_costs_its_port_alone(
    lab: Lab, make_port: Callable[..., Listener], certificates: tuple[str, ...]
) -> None:
    web, tls = make_port(80, 30080), make_port(443, 30443)
    asked = saying(lab, web, tls, says={"ssl-cert": UNKNOWN, "ssl-ports": "443"})
    lab.reconcile(asked)
    assert list(listeners(lab)) == [80]
    again = lab.reconcile(asked)
    assert again.calls == {}
    assert f"aws-load-balancer-ssl-cert: {UNKNOWN}" in again.notices["AnnotationRefused"]
    assert "CertificateNotFound" in again.notices["AnnotationRefused"]
    lab.clock.now += REFUSED_S
    retried = lab.reconcile(asked)
    assert retried.writes == {"CreateListener": 1}, "tried again, once"
    assert all(step.expected for step in retried.plan.steps), "that is no drift"
    assert lab.reconcile(asked).calls == {}
    mended = saying(lab, web, tls, says={"ssl-cert": certificates[0], "ssl-ports": "443"})
    assert lab.reconcile(mended).writes == {"CreateListener": 1}
    assert "AnnotationRefused" not in lab.reconcile(mended).notices


@pytest.mark.parametrize(
    ("says", "said"),
    [
        pytest.param({"ssl-cert": UNKNOWN}, "CertificateNotFound", id="certificate"),
        pytest.param({"ssl-negotiation-policy": "ELBSecurityPolicy-1999"}, "SSLPolicyNotFound", id="policy"),
    ],
)
def test_tls_that_serves_stays_when_a_change_is_refused(
    lab: Lab, certificates: tuple[str, ...], says: dict[str, str], said: str
) -> None:
    good = {"ssl-cert": certificates[0]}
    lab.reconcile(saying(lab, says=good))
    before = listeners(lab)[80]
    bad = saying(lab, says={**good, **says})
    lab.reconcile(bad)
    assert listeners(lab)[80] == before
    again = lab.reconcile(bad)
    assert again.calls == {}
    assert said in again.notices["AnnotationRefused"]
    assert lab.reconcile(saying(lab, says=good)).calls == {}


def test_listener_that_a_refusal_keeps_goes_on_being_served(lab: Lab) -> None:
    """Its target group is none that the Service asks for, and neither deleted nor forgotten."""
    lab.reconcile(lab.desired())
    (before,) = listeners(lab).values()
    group = before["DefaultActions"][0]["TargetGroupArn"]
    says = {"ssl-cert": UNKNOWN, "backend-protocol": "ssl"}
    lab.reconcile(saying(lab, says=says))
    assert listeners(lab)[80]["DefaultActions"][0]["TargetGroupArn"] == group
    assert lab.reconcile(saying(lab, says=says)).calls == {}
    lab.restart()
    assert lab.reconcile(saying(lab, says=says)).writes == {"ModifyListener": 1}, "tried again"

    def targets() -> set[str]:
        health = lab.world.elbv2.describe_target_health(TargetGroupArn=group)["TargetHealthDescriptions"]
        return {x["Target"]["Id"] for x in health if x["TargetHealth"]["State"] != "draining"}

    one, *others = sorted(lab.world.provider_ids)
    lab.reconcile(saying(lab, says=says, nodes=others))
    assert targets() == {lab.world.instance_id(node) for node in others}
    lab.reconcile(saying(lab, says=says, nodes=[one, *others]))
    assert targets() == {lab.world.instance_id(node) for node in (one, *others)}

    lab.reconcile(lab.desired())
    assert [g["TargetGroupArn"] for g in lab.world.elbv2.describe_target_groups()["TargetGroups"]] == [group]


def test_target_group_behind_somebody_elses_listener_stays(
    lab: Lab, make_port: Callable[..., Listener]
) -> None:
    web, other = make_port(80, 30080), make_port(443, 30443)
    lab.reconcile(lab.desired("web", web, other))
    (balancer,) = lab.world.load_balancers()
    action: Any = listeners(lab)[443]["DefaultActions"]
    theirs: Any = lab.world.elbv2.create_listener(
        LoadBalancerArn=balancer.arn, Protocol="TCP", Port=9, DefaultActions=action
    )["Listeners"][0]
    lab.restart()
    plain = lab.desired("web", web)
    assert "port 9" in lab.reconcile(plain).notices["ForeignResourcesIgnored"]
    assert set(listeners(lab)) == {80, 9}
    assert_settled(lab, plain)
    lab.world.elbv2.delete_listener(ListenerArn=theirs["ListenerArn"])
    lab.restart()
    assert lab.reconcile(plain).writes == {"DeleteTargetGroup": 1}


def test_typing_error_in_a_certificate_changes_nothing(lab: Lab, certificates: tuple[str, ...]) -> None:
    lab.reconcile(saying(lab, says={"ssl-cert": certificates[0]}))
    result = lab.reconcile(saying(lab, says={"ssl-cert": "arn:oops"}))
    assert result.calls == {}
    assert "'arn:oops' is not allowed" in result.notices["AnnotationsIgnored"]


def test_certificate_for_sni_that_does_not_exist(lab: Lab, certificates: tuple[str, ...]) -> None:
    one, two, _ = certificates
    asked = saying(lab, says={"ssl-cert": f"{one},{UNKNOWN},{two}"})
    lab.reconcile(asked)
    assert listeners(lab)[80]["SNI"] == {two}
    again = lab.reconcile(asked)
    assert again.calls == {}
    assert f"aws-load-balancer-ssl-cert: SNI {UNKNOWN} (port 80)" in again.notices["AnnotationRefused"]


# Health checks and targets


def test_health_check_is_changed_in_place(lab: Lab) -> None:
    lab.reconcile(lab.desired())
    says = {
        "healthcheck-protocol": "https",
        "healthcheck-path": "/ready",
        "healthcheck-success-codes": "200,204",
        "healthcheck-interval": "30",
    }
    asked = saying(lab, says=says)
    assert lab.reconcile(asked).calls == {"ModifyTargetGroup": 1}
    (group,) = lab.world.elbv2.describe_target_groups()["TargetGroups"]
    assert (group["HealthCheckProtocol"], group["HealthCheckPath"]) == ("HTTPS", "/ready")
    assert (group["Matcher"], group["HealthCheckIntervalSeconds"]) == ({"HttpCode": "200,204"}, 30)
    assert_settled(lab, asked)
    assert lab.reconcile(lab.desired()).writes == {"ModifyTargetGroup": 1}


# Security groups


def make_group(lab: Lab, name: str) -> str:
    made = lab.world.ec2.create_security_group(
        GroupName=name,
        Description="d",
        VpcId=lab.world.vpc_id,
        TagSpecifications=[
            {"ResourceType": "security-group", "Tags": [{"Key": "Name", "Value": f"the {name}"}]}
        ],
    )
    return made["GroupId"]


def attached(lab: Lab) -> list[str]:
    """Names of the groups."""
    (seen,) = lab.world.elbv2.describe_load_balancers()["LoadBalancers"]
    groups = lab.world.ec2.describe_security_groups(GroupIds=seen["SecurityGroups"])["SecurityGroups"]
    return sorted(group["GroupName"] for group in groups)


@pytest.mark.parametrize("by_name", [False, True])
def test_groups_of_the_users(lab: Lab, by_name: bool) -> None:
    theirs = make_group(lab, "theirs")
    asked = saying(lab, says={"security-groups": "the theirs" if by_name else theirs})
    first = lab.reconcile(asked)
    assert "CreateSecurityGroup" not in first.calls
    assert attached(lab) == ["theirs"]
    assert_settled(lab, asked)

    plain = lab.desired()
    lab.reconcile(plain)
    (own,) = attached(lab)
    assert own.startswith("lbp-")
    assert_settled(lab, plain)

    lab.reconcile(asked)
    assert attached(lab) == ["theirs"]
    names = {g["GroupName"] for g in lab.world.ec2.describe_security_groups()["SecurityGroups"]}
    assert own not in names, "ours is not needed any more"
    lab.delete(asked.owner)
    assert "theirs" in {g["GroupName"] for g in lab.world.ec2.describe_security_groups()["SecurityGroups"]}


def test_groups_beside_ours(lab: Lab) -> None:
    for name in ("one", "two", "foreign"):
        make_group(lab, name)
    asked = saying(lab, says={"extra-security-groups": "the one, the two"})
    lab.reconcile(asked)
    own = next(name for name in attached(lab) if name.startswith("lbp-"))
    assert attached(lab) == sorted([own, "one", "two"])
    assert_settled(lab, asked)
    (seen,) = lab.world.elbv2.describe_load_balancers()["LoadBalancers"]
    foreign = lab.world.ec2.describe_security_groups(Filters=[{"Name": "group-name", "Values": ["foreign"]}])
    lab.world.elbv2.set_security_groups(
        LoadBalancerArn=seen["LoadBalancerArn"],
        SecurityGroups=[*seen["SecurityGroups"], foreign["SecurityGroups"][0]["GroupId"]],
    )
    lab.restart()
    lab.reconcile(saying(lab, says={"extra-security-groups": "the two"}))
    assert attached(lab) == sorted([own, "two", "foreign"])
    lab.reconcile(lab.desired())
    assert attached(lab) == sorted([own, "foreign"])


def test_group_that_does_not_exist(lab: Lab) -> None:
    missing = saying(lab, says={"security-groups": "no such group"})
    with pytest.raises(
        UserError, match=r"annotations\[.*security-groups\]: there is no security group no such"
    ):
        lab.reconcile(missing)
    assert lab.world.load_balancers() == ()
    lab.reconcile(lab.desired())
    before = attached(lab)
    result = lab.reconcile(missing)
    assert result.writes == {}
    assert "no such group" in result.notices["SecurityGroupNotFound"]
    assert attached(lab) == before
    assert lab.reconcile(missing).calls == {}


def test_private_link(lab: Lab) -> None:
    def enforced() -> str:
        (seen,) = lab.world.elbv2.describe_load_balancers()["LoadBalancers"]
        return str(seen.get("EnforceSecurityGroupInboundRulesOnPrivateLinkTraffic", "on"))

    asked = saying(lab, says={"inbound-sg-rules-on-private-link-traffic": "off"})
    lab.reconcile(asked)
    assert enforced() == "off"
    assert_settled(lab, asked)
    lab.reconcile(lab.desired())
    assert enforced() == "on"
    assert_settled(lab, lab.desired())


def test_prefix_lists_and_path_mtu(lab: Lab) -> None:
    made = lab.world.ec2.create_managed_prefix_list(
        PrefixListName="office",
        MaxEntries=2,
        AddressFamily="IPv4",
        Entries=[{"Cidr": "198.51.100.0/24"}],
    )
    prefix_list = made["PrefixList"]["PrefixListId"]
    asked = saying(
        lab,
        says={"security-group-prefix-lists": prefix_list, "enable-icmp-for-path-mtu-discovery": "on"},
        source_ranges=("203.0.113.0/24", "2001:db8::/32"),
    )
    lab.reconcile(asked)
    rules = own_rules(lab)
    assert rules == {
        ("tcp", 80, 80, prefix_list),
        ("tcp", 80, 80, "203.0.113.0/24"),
        ("tcp", 80, 80, "2001:db8::/32"),
        ("icmp", 3, 4, "203.0.113.0/24"),
        ("icmpv6", 2, 0, "2001:db8::/32"),
    }
    assert_settled(lab, asked)
    lab.reconcile(saying(lab, says={"security-group-prefix-lists": prefix_list}))
    assert own_rules(lab) == {("tcp", 80, 80, prefix_list)}


def own_rules(lab: Lab) -> set[tuple[str, int, int, str]]:
    answer: Any = lab.world.ec2.describe_security_groups(
        Filters=[{"Name": "group-name", "Values": ["lbp-*"]}]
    )
    (group,) = answer["SecurityGroups"]
    return {
        (rule["IpProtocol"], rule["FromPort"], rule["ToPort"], entry[field])
        for rule in group["IpPermissions"]
        for source, field in (
            ("IpRanges", "CidrIp"),
            ("Ipv6Ranges", "CidrIpv6"),
            ("PrefixListIds", "PrefixListId"),
        )
        for entry in rule.get(source, ())
    }


# What is settled when the load balancer is made, and what is not


def test_name(lab: Lab) -> None:
    asked = saying(lab, says={"name": "my-shop"})
    lab.reconcile(asked)
    assert [b.name for b in lab.world.load_balancers()] == ["my-shop"]
    assert_settled(lab, asked)
    result = lab.reconcile(saying(lab, says={"name": "other"}))
    assert result.writes == {}
    assert "stays my-shop" in result.notices["NameChangeIgnored"]
    assert lab.reconcile(lab.desired()).notices == {}, "who asks for no name is content with any"
    lab.restart()
    lab.delete(asked.owner)
    assert lab.world.leftovers() == ()


def test_name_of_somebody_else(lab: Lab) -> None:
    subnet = next(iter(lab.world.subnet_ids.values()))
    lab.world.elbv2.create_load_balancer(
        Name="my-shop", Type="network", Scheme="internet-facing", SubnetMappings=[{"SubnetId": subnet}]
    )
    with pytest.raises(UserError, match="my-shop exists and belongs to nobody of ours"):
        lab.reconcile(saying(lab, says={"name": "my-shop"}))
    (theirs,) = lab.world.load_balancers()
    assert (theirs.tags, theirs.listeners) == ({}, ())


def test_subnets_stay(lab: Lab) -> None:
    one, two, three = lab.world.subnet_ids.values()
    asked = saying(lab, says={"subnets": f"{one},{two}"})
    lab.reconcile(asked)
    assert_settled(lab, asked)
    result = lab.reconcile(saying(lab, says={"subnets": f"{one},{three}"}))
    assert result.writes == {}
    assert "its subnets are chosen when it is made" in result.notices["SubnetsChangeIgnored"]
    assert lab.reconcile(asked).notices == {}


def test_subnets_of_one_zone(lab: Lab) -> None:
    """The first is used; the rest of the Service is served, and it is said."""
    one, two, _ = lab.world.subnet_ids.values()
    second = lab.world.add_subnet("eu-west-1a", "10.0.100.0/24")
    asked = saying(lab, says={"subnets": f"{one},{second},{two},subnet-0"})
    lab.reconcile(asked)
    (balancer,) = lab.world.load_balancers()
    assert balancer.zones == ("eu-west-1a", "eu-west-1b")
    again = lab.reconcile(asked)
    assert again.calls == {}
    assert f"{one} and {second} are both in eu-west-1a" in again.notices["SubnetsNotUsed"]
    assert "there is no subnet 'subnet-0'" in again.notices["SubnetsNotUsed"]
    lab.restart()
    assert lab.reconcile(asked).writes == {}


def test_dual_stack_comes_and_goes_in_place(lab: Lab, make_port: Callable[..., Listener]) -> None:
    both = (IPFamily.IPV4, IPFamily.IPV6)
    lab.reconcile(lab.desired())
    result = lab.reconcile(lab.desired(ip_families=both))
    assert "IPv6 range" in result.notices["IPv6NotServed"]
    lab.world.add_ipv6()
    lab.restart()
    dual = lab.desired(ip_families=both)
    assert lab.reconcile(dual).writes == {"SetIpAddressType": 1}
    assert address_type(lab) == "dualstack"
    assert_settled(lab, dual)
    with_udp = lab.desired("web", make_port(80, 30080), make_port(53, 30053, "UDP"), ip_families=both)
    lab.reconcile(with_udp)
    assert address_type(lab) == "ipv4"
    lab.reconcile(dual)
    assert address_type(lab) == "dualstack"
    assert_settled(lab, dual)


def test_dual_stack_from_the_start(lab: Lab) -> None:
    lab.world.add_ipv6()
    asked = saying(lab, says={"ip-address-type": "dualstack"})
    lab.reconcile(asked)
    assert address_type(lab) == "dualstack"
    (balancer,) = lab.world.load_balancers()
    assert balancer.source_ranges == ("0.0.0.0/0", "::/0")


def address_type(lab: Lab) -> str:
    (seen,) = lab.world.elbv2.describe_load_balancers()["LoadBalancers"]
    return str(seen["IpAddressType"])


def test_everything_goes(lab: Lab, certificates: tuple[str, ...]) -> None:
    result: Pass = lab.reconcile(
        saying(
            lab,
            says={
                "ssl-cert": ",".join(certificates),
                "attributes": "load_balancing.cross_zone.enabled=true",
                "target-group-attributes": "deregistration_delay.timeout_seconds=5",
                "additional-resource-tags": "team=shop",
                "name": "my-shop",
            },
        )
    )
    assert result.notices == {}
    lab.restart()
    lab.delete(lab.desired().owner)
    assert lab.world.leftovers() == ()


@pytest.mark.parametrize("replace", list(Replace))
def test_scheme_that_is_none(lab: Lab, make_port: Callable[..., Listener], replace: Replace) -> None:
    """Nothing is made on a guess; what is there goes on being followed, with the scheme that it has."""
    says = {"scheme": "intern"}
    with pytest.raises(UserError, match=r"aws-load-balancer-scheme\]: 'intern' is not allowed"):
        lab.reconcile(saying(lab, says=says))
    assert lab.world.load_balancers() == ()
    lab.reconcile(lab.desired())
    mistaken = saying(lab, make_port(81, 30080), says=says, replace=replace, nodes=["node-1"])
    changed = lab.reconcile(mistaken)
    assert "'intern' is not allowed: internal or internet-facing" in changed.notices["AnnotationsIgnored"]
    (balancer,) = lab.world.load_balancers()
    assert (balancer.scheme, [(x.port, len(x.targets)) for x in balancer.listeners]) == (
        "internet-facing",
        [(81, 1)],
    )
    assert_settled(lab, mistaken)
