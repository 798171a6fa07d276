"""From a load balancer as a Service asks for it to what that means on AWS."""

from __future__ import annotations

from typing import Any

import pytest

from lbprov.api import (
    IPFamily,
    L4Protocol,
    Listener,
    LoadBalancer,
    ObjectKey,
    Owner,
    Target,
    UserError,
)
from lbprov_aws.desired import want
from lbprov_aws.wishes import refuse_unread_wishes

NODE = Target("node-1", "aws:///eu-west-1a/i-0aaaaaaaaaaaaaaa1", zone="eu-west-1a")
V4, V6 = IPFamily.IPV4, IPFamily.IPV6


def listener(port: int, node_port: int, protocol: str = "TCP") -> Listener:
    return Listener(port, L4Protocol(protocol), node_port)


def service(*listeners: Listener, **changes: Any) -> LoadBalancer:
    owner = Owner("lab", ObjectKey("default", "web"), "uid-web")
    values: dict[str, Any] = {"targets": (NODE,), **changes}
    return LoadBalancer(owner, listeners or (listener(80, 30080),), **values)


@pytest.mark.parametrize(
    ("listeners", "served", "said"),
    [
        pytest.param([(80, 30080, "TCP")], ["80/TCP>30080"], "", id="tcp"),
        pytest.param([(53, 30053, "UDP")], ["53/UDP>30053"], "", id="udp"),
        pytest.param(
            [(53, 30053, "TCP"), (53, 30053, "UDP")], ["53/TCP_UDP>30053"], "", id="both, one nodePort"
        ),
        pytest.param(
            [(53, 30053, "UDP"), (53, 30054, "TCP"), (80, 30080, "TCP")],
            ["53/UDP>30053", "80/TCP>30080"],
            "spec.ports[1]: 53/TCP is not served: a Network Load Balancer has one listener on port 53, which "
            "goes to nodePort 30053 for UDP; give both ports the same nodePort "
            "(spec.ports[1].nodePort: 30053)",
            id="both, two nodePorts",
        ),
        pytest.param(
            [(80, 30080, "TCP"), (3868, 30068, "SCTP")],
            ["80/TCP>30080"],
            "spec.ports[1]: 3868/SCTP is not served: AWS load balancers do not carry SCTP",
            id="sctp beside others",
        ),
        pytest.param(
            [(80, 30080, "TCP"), (81, 0, "TCP")],
            ["80/TCP>30080"],
            "spec.ports[1]: 81/TCP is not served: it has no nodePort",
            id="no nodePort",
        ),
    ],
)
def test_ports(listeners: list[tuple[int, int, str]], served: list[str], said: str) -> None:
    wanted = want(service(*(listener(*x) for x in listeners)))
    assert [f"{p}>{p.node_port}" for p in wanted.ports] == served
    assert [n.message for n in wanted.notices if n.topic == "Ports"] == ([said] if said else [])


def test_nothing_to_serve_is_the_users_error() -> None:
    with pytest.raises(UserError, match=r"spec\.ports: no port can be served on AWS: .*SCTP"):
        want(service(listener(3868, 30068, "SCTP")))


@pytest.mark.parametrize(
    ("protocol", "health_check_node_port", "check"),
    [
        pytest.param("TCP", 0, "TCP traffic-port every 10 s, 3/3", id="cluster tcp"),
        pytest.param("UDP", 0, "HTTP 10256/healthz every 10 s, 3/3", id="cluster udp"),
        pytest.param("TCP", 32000, "HTTP 32000/healthz every 10 s, 2/2", id="local tcp"),
        pytest.param("UDP", 32000, "HTTP 32000/healthz every 10 s, 2/2", id="local udp"),
    ],
)
def test_health_checks(protocol: str, health_check_node_port: int, check: str) -> None:
    wanted = want(service(listener(80, 30080, protocol), health_check_node_port=health_check_node_port))
    assert [str(port.check) for port in wanted.ports] == [check]


@pytest.mark.parametrize(
    ("ranges", "families", "rules"),
    [
        pytest.param((), (V4,), ["tcp 80 from 0.0.0.0/0"], id="everybody"),
        pytest.param((), (V4, V6), ["tcp 80 from 0.0.0.0/0", "tcp 80 from ::/0"], id="everybody, both"),
        pytest.param(
            ("203.0.113.0/24", "2001:db8::/32"),
            (V4, V6),
            ["tcp 80 from 2001:db8::/32", "tcp 80 from 203.0.113.0/24"],
            id="ranges of both families",
        ),
    ],
)
def test_rules(ranges: tuple[str, ...], families: tuple[IPFamily, ...], rules: list[str]) -> None:
    wanted = want(service(source_ranges=ranges, ip_families=families))
    assert sorted(str(rule) for rule in wanted.rules) == rules


def test_rules_of_a_port_for_both_protocols() -> None:
    wanted = want(service(listener(53, 30053), listener(53, 30053, "UDP")))
    assert sorted(map(str, wanted.rules)) == ["tcp 53 from 0.0.0.0/0", "udp 53 from 0.0.0.0/0"]


@pytest.mark.parametrize(
    ("provider_id", "instance"),
    [
        ("aws:///eu-west-1a/i-0123456789abcdef0", "i-0123456789abcdef0"),
        ("aws:///eu-west-1a/i-01234567", "i-01234567"),
        ("aws://123456789012/eu-west-1a/i-0123456789abcdef0", "i-0123456789abcdef0"),
        ("", None),
        ("gce://project/zone/name", None),
        ("aws:///eu-west-1a/5f2c/fargate-ip-10-0-0-1.ec2.internal", None),
        ("aws:///eu-west-1a/i-xyz", None),
        ("kind://docker/kind/node", None),
    ],
)
def test_provider_ids(provider_id: str, instance: str | None) -> None:
    wanted = want(service(targets=(NODE, Target("other", provider_id))))
    said = [n.message for n in wanted.notices if n.topic == "Targets"]
    if instance:
        assert wanted.targets == {"i-0aaaaaaaaaaaaaaa1", instance}
        assert said == []
    else:
        assert wanted.targets == {"i-0aaaaaaaaaaaaaaa1"}
        (message,) = said
        told = "no EC2 instance in spec.providerID (aws:///ZONE/i-…) of other: these nodes get no traffic"
        assert message.startswith(told)
        assert "kubelet --provider-id" in message


def test_many_nodes_without_instance_are_said_in_short() -> None:
    wanted = want(service(targets=tuple(Target(f"node-{i}") for i in range(9))))
    assert "node-0, node-1, node-2, node-3, node-4 and 4 more" in wanted.notices[0].message


def test_zones_by_number_of_targets_then_by_name() -> None:
    zones = ["eu-west-1c", "eu-west-1b", "eu-west-1a", "eu-west-1b", "eu-west-1a"]
    targets = tuple(Target(f"n{i}", f"aws:///{z}/i-0000000{i}") for i, z in enumerate(zones))
    assert want(service(targets=targets)).zones == ("eu-west-1a", "eu-west-1b", "eu-west-1c")


def test_ipv6_alone_is_refused() -> None:
    with pytest.raises(UserError, match=r"spec\.ipFamilies: AWS load balancers reach nodes by IPv4"):
        want(service(ip_families=(V6,)))


def test_udp_and_both_families_is_ipv4_and_said() -> None:
    wanted = want(service(listener(53, 30053, "UDP"), ip_families=(V4, V6)))
    assert not wanted.dual_stack
    assert [n.reason for n in wanted.notices] == ["IPv6NotServed"]


PREFIX = "service.beta.kubernetes.io/aws-load-balancer-"


@pytest.mark.parametrize(
    ("annotations", "own", "internal"),
    [
        pytest.param({}, False, False, id="default"),
        pytest.param({}, True, True, id="the core's word"),
        pytest.param({PREFIX + "internal": "true"}, False, True, id="internal"),
        pytest.param({PREFIX + "internal": "0.0.0.0/0"}, False, True, id="internal, the old value"),
        pytest.param({PREFIX + "internal": "false"}, False, False, id="internal: false"),
        pytest.param({PREFIX + "scheme": "internal"}, False, True, id="scheme"),
        pytest.param(
            {PREFIX + "scheme": "internet-facing", PREFIX + "internal": "true"},
            False,
            False,
            id="scheme wins",
        ),
        pytest.param(
            {"lbprov.io/scheme": "internet-facing", PREFIX + "internal": "true"}, False, False, id="ours wins"
        ),
    ],
)
def test_scheme(annotations: dict[str, str], own: bool, internal: bool) -> None:
    assert want(service(internal=own, annotations=annotations)).internal is internal


def test_unknown_scheme_is_refused_where_it_decides() -> None:
    mistaken = service(annotations={PREFIX + "scheme": "intern"})
    with pytest.raises(UserError, match=r"annotations\[.*scheme\]: 'intern' is not allowed"):
        refuse_unread_wishes(mistaken)
    assert (want(mistaken).knows_scheme, want(mistaken).internal) == (False, True)
    decided = service(annotations={PREFIX + "scheme": "intern", "lbprov.io/scheme": "internal"})
    refuse_unread_wishes(decided)
    assert want(decided).knows_scheme


def test_extra_tags_and_what_is_wrong_with_some() -> None:
    text = "team=shop, env = prod,aws:x=1,lbprov/cluster=mine,bad*=1,=empty"
    wanted = want(service(annotations={PREFIX + "additional-resource-tags": text}))
    assert wanted.extra_tags == (("env", "prod"), ("team", "shop"))
    (notice,) = wanted.notices
    assert notice.topic == "Annotations"
    for complaint in (
        "aws:x is reserved",
        "lbprov/cluster is reserved",
        "'bad*=1' is not",
        "'=empty' is not",
    ):
        assert complaint in notice.message
