"""From a Service to the load balancer it asks for; annotations; what is told of it whichever the provider."""

from dataclasses import replace
from typing import Any

import pytest

from lbprov.logic.annotations import ADOPT, IP_POLICY, REPLACE, SCHEME, SOURCE_RANGES
from lbprov.logic.desired import desired_for, notices_for
from lbprov.model import (
    Adopt,
    IPFamily,
    L4Protocol,
    Listener,
    ObjectKey,
    Owner,
    Replace,
    Service,
    ServicePort,
    ServiceType,
    SessionAffinity,
    Target,
    TrafficPolicy,
    UserError,
)

KEY = ObjectKey("default", "web")
OWNER = Owner("test", KEY, "uid-1")
NODES = (Target("node-1"),)
SERVICE = Service(
    KEY,
    "uid-1",
    type=ServiceType.LOAD_BALANCER,
    ports=(
        ServicePort(80, name="http", node_port=30080),
        ServicePort(53, L4Protocol.UDP, "dns", node_port=30053),
    ),
    created_at="2026-01-01T00:00:00Z",
)


def test_everything_that_a_provider_may_need_is_carried_over() -> None:
    service = replace(
        SERVICE,
        load_balancer_ip="203.0.113.7",
        load_balancer_source_ranges=("10.0.0.0/8", "10.0.0.0/8", "2001:db8::/32"),
        ip_families=(IPFamily.IPV6, IPFamily.IPV4),
        external_traffic_policy=TrafficPolicy.LOCAL,
        health_check_node_port=32000,
        session_affinity=SessionAffinity.CLIENT_IP,
        session_affinity_timeout_s=60,
        annotations={IP_POLICY: "require", SCHEME: "internal", "example.com/a": "b"},
    )
    desired = desired_for(service, NODES, OWNER)
    assert desired.owner == OWNER
    assert desired.listeners == (
        Listener(80, L4Protocol.TCP, 30080, "http"),
        Listener(53, L4Protocol.UDP, 30053, "dns"),
    )
    assert desired.targets == NODES
    assert desired.source_ranges == ("10.0.0.0/8", "2001:db8::/32")
    assert (desired.requested_ip, desired.require_ip, desired.internal) == ("203.0.113.7", True, True)
    assert desired.ip_families == (IPFamily.IPV6, IPFamily.IPV4)
    assert (desired.external_traffic_policy, desired.health_check_node_port) == (TrafficPolicy.LOCAL, 32000)
    assert (desired.session_affinity, desired.session_affinity_timeout_s) == (SessionAffinity.CLIENT_IP, 60)
    assert desired.created_at == SERVICE.created_at
    assert desired.annotations["example.com/a"] == "b"


def test_without_annotations_it_is_public_and_prefers_its_address() -> None:
    desired = desired_for(SERVICE, NODES, OWNER)
    assert (desired.require_ip, desired.internal, desired.source_ranges) == (False, False, ())


def test_typing_error_in_what_may_be_replaced_replaces_nothing() -> None:
    mistaken = replace(SERVICE, annotations={REPLACE: "seemless", "lbprov.io/x": ""})
    assert desired_for(mistaken, NODES, OWNER).replace is Replace.NEVER
    (notice,) = notices_for(mistaken, NODES)
    assert notice.reason == "UnknownAnnotation"
    assert f"[{REPLACE}]: 'seemless' is not allowed: never or seamless or outage" in notice.message
    assert "not known and ignored: lbprov.io/x" in notice.message
    assert notices_for(replace(SERVICE, annotations={REPLACE: "outage"}), NODES) == ()


def test_source_ranges_of_the_annotation_where_the_field_is_empty() -> None:
    annotated = replace(SERVICE, annotations={SOURCE_RANGES: " 10.1.2.3/8, 2001:DB8::/32,,10.0.0.0/8 "})
    assert desired_for(annotated, NODES, OWNER).source_ranges == ("10.0.0.0/8", "2001:db8::/32")
    both = replace(annotated, load_balancer_source_ranges=("192.0.2.0/24",))
    assert desired_for(both, NODES, OWNER).source_ranges == ("192.0.2.0/24",)


@pytest.mark.parametrize(
    ("annotations", "cautious", "said"),
    [
        pytest.param(
            {IP_POLICY: "required"}, {"require_ip": True}, "no other address is used", id="ip-policy"
        ),
        pytest.param({ADOPT: "ignored"}, {"adopt": Adopt.ASK}, "nothing is taken over", id="adopt"),
        pytest.param({REPLACE: "seemless"}, {"replace": Replace.NEVER}, "nothing is replaced", id="replace"),
        pytest.param({SCHEME: "Internet-facing"}, {"internal": True}, "stays as it is", id="scheme"),
        pytest.param(
            {SOURCE_RANGES: "10.0.0.0/8 world"}, {"source_ranges": ()}, "stays as it is", id="ranges"
        ),
    ],
)
def test_what_means_nothing_counts_as_the_cautious_value_and_is_told(
    annotations: dict[str, str], cautious: dict[str, Any], said: str
) -> None:
    service = replace(SERVICE, annotations=annotations)
    desired = desired_for(service, NODES, OWNER, keeps_unread=True)
    assert {field: getattr(desired, field) for field in cautious} == cautious
    ((name, value),) = annotations.items()
    (notice,) = notices_for(service, NODES)
    assert notice.message.startswith(f"metadata.annotations[{name}]: {value!r} is no")
    assert "allowed" in notice.message
    assert notice.message.endswith(said) or said in notice.message.rpartition("; ")[2]
    unread = {SCHEME: desired.unread_scheme, SOURCE_RANGES: desired.unread_source_ranges}
    assert {n for n, why in unread.items() if why} == annotations.keys() & unread.keys()


def test_the_field_is_looked_at_before_the_annotation() -> None:
    service = replace(
        SERVICE, load_balancer_source_ranges=("192.0.2.0/24",), annotations={SOURCE_RANGES: "world"}
    )
    assert desired_for(service, NODES, OWNER).source_ranges == ("192.0.2.0/24",)
    assert notices_for(service, NODES) == ()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        pytest.param({"ports": ()}, ("spec.ports", "at least one port"), id="no-ports"),
        pytest.param(
            {"ports": (ServicePort(80), ServicePort(81))},
            ("spec.ports[0].nodePort", "spec.allocateLoadBalancerNodePorts"),
            id="no-node-ports",
        ),
        pytest.param(
            {"annotations": {SCHEME: "intern"}},
            (f"metadata.annotations[{SCHEME}]", "'intern'", "internet-facing or internal"),
            id="bad-scheme",
        ),
        pytest.param(
            {"annotations": {SOURCE_RANGES: "10.0.0.0/8, world"}},
            (f"metadata.annotations[{SOURCE_RANGES}]", "'world'", "203.0.113.0/24"),
            id="bad-range-never-opens-to-everybody",
        ),
    ],
)
def test_what_cannot_be_is_refused_naming_field_and_remedy(
    fields: dict[str, Any], said: tuple[str, ...]
) -> None:
    with pytest.raises(UserError) as refusal:
        desired_for(replace(SERVICE, **fields), NODES, OWNER)
    assert refusal.value.field == said[0]
    assert all(part in str(refusal.value) for part in said)


def test_node_ports_only_where_they_are_needed() -> None:
    bare = replace(SERVICE, ports=(ServicePort(80),), allocate_node_ports=False)
    assert desired_for(bare, NODES, OWNER, needs_node_ports=False).listeners[0].node_port == 0
    one_of_two = replace(SERVICE, ports=(ServicePort(80), ServicePort(81, node_port=30081)))
    assert [x.node_port for x in desired_for(one_of_two, NODES, OWNER).listeners] == [0, 30081]


@pytest.mark.parametrize(
    ("annotations", "targets", "known", "reasons"),
    [
        pytest.param({}, NODES, (), [], id="nothing-to-tell"),
        pytest.param({}, (), (), ["UnAvailableLoadBalancer"], id="no-nodes"),
        pytest.param({"lbprov.io/shceme": "internal"}, NODES, (), ["UnknownAnnotation"], id="typing-error"),
        pytest.param({"lbprov.io/tier": "x"}, NODES, ("lbprov.io/tier",), [], id="the-provider-knows-it"),
        pytest.param({SCHEME: "internal", "example.com/x": ""}, NODES, (), [], id="known-and-foreign"),
    ],
)
def test_notices(
    annotations: dict[str, str], targets: tuple[Target, ...], known: tuple[str, ...], reasons: list[str]
) -> None:
    notices = notices_for(replace(SERVICE, annotations=annotations), targets, known)
    assert [n.reason for n in notices] == reasons
    assert all(n.topic for n in notices)
    if "UnknownAnnotation" in reasons:
        assert "lbprov.io/shceme" in notices[0].message
        assert SCHEME in notices[0].message
