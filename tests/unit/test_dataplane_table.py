"""The forwarding table: what a Service comes to, and who gets a frontend that two want."""

from __future__ import annotations

import dataclasses

import pytest

from lbprov.model import (
    Endpoint,
    EndpointPort,
    EndpointSlice,
    Ingress,
    IPFamily,
    IPMode,
    L4Protocol,
    ObjectKey,
    Service,
    ServicePort,
    ServiceType,
    SessionAffinity,
    TrafficPolicy,
)
from local_dataplane.config import NodeFacts
from local_dataplane.table import (
    PROXY_NAME_LABEL,
    ForwardingTable,
    Frontend,
    PortKey,
    Purpose,
    ServiceState,
    TableBuilder,
    Verdict,
    service_states,
)

NODE = NodeFacts("here")
WEB = Service(
    ObjectKey("default", "web"),
    "uid",
    ServiceType.LOAD_BALANCER,
    (ServicePort(80, node_port=30080),),
    cluster_ips=("10.96.0.1", "fd00:96::1"),
    ip_families=(IPFamily.IPV4, IPFamily.IPV6),
    external_ips=("203.0.113.1", "2001:db8::1"),
    load_balancer_source_ranges=("198.51.100.0/24", "2001:db8:9::/48"),
    ingress=(Ingress("192.0.2.1"), Ingress("2001:db8::2", ip_mode=IPMode.VIP)),
)


def _slice(*addresses: str, service: str = "web", node: str = "there") -> EndpointSlice:
    endpoints = tuple(Endpoint((a,), node) for a in addresses)
    family = IPFamily.IPV6 if ":" in addresses[0] else IPFamily.IPV4
    return EndpointSlice(
        ObjectKey("default", f"{service}-{family}"), service, family, (EndpointPort(8080),), endpoints
    )


def test_a_dual_stack_service_is_one_state_per_family() -> None:
    v4, v6 = service_states(WEB, [_slice("10.244.1.2"), _slice("fd00:244::2")], NODE)
    assert (v4.key.family, v4.cluster_ip, v4.node_port) == (IPFamily.IPV4, "10.96.0.1", 30080)
    assert (v4.external_ips, v4.load_balancer_ips) == (("203.0.113.1",), ("192.0.2.1",))
    assert v4.source_ranges == ("198.51.100.0/24",)
    assert v4.choice.cluster == (("10.244.1.2", 8080),)
    assert (v6.key.family, v6.cluster_ip, v6.node_port) == (IPFamily.IPV6, "fd00:96::1", 30080)
    assert (v6.external_ips, v6.load_balancer_ips) == (("2001:db8::1",), ("2001:db8::2",))
    assert v6.source_ranges == ("2001:db8:9::/48",)
    assert v6.choice.cluster == (("fd00:244::2", 8080),)


@pytest.mark.parametrize(
    "service",
    [
        pytest.param(dataclasses.replace(WEB, headless=True, cluster_ips=()), id="headless"),
        pytest.param(dataclasses.replace(WEB, type=ServiceType.EXTERNAL_NAME), id="external-name"),
        pytest.param(dataclasses.replace(WEB, labels={PROXY_NAME_LABEL: "other"}), id="another-proxy"),
        pytest.param(dataclasses.replace(WEB, cluster_ips=()), id="no-cluster-ip-yet"),
    ],
)
def test_services_that_are_not_forwarded(service: Service) -> None:
    assert service_states(service, [_slice("10.244.1.2")], NODE) == ()


@pytest.mark.parametrize(
    ("ingress", "addresses"),
    [
        pytest.param(Ingress("192.0.2.1"), ("192.0.2.1",), id="no-mode-is-vip"),
        pytest.param(Ingress("192.0.2.1", ip_mode=IPMode.VIP), ("192.0.2.1",), id="vip"),
        pytest.param(Ingress("192.0.2.1", ip_mode=IPMode.PROXY), (), id="proxy"),
        pytest.param(Ingress(hostname="lb.example"), (), id="hostname"),
        pytest.param(Ingress("2001:db8::2"), (), id="other-family"),
    ],
)
def test_load_balancer_addresses(ingress: Ingress, addresses: tuple[str, ...]) -> None:
    service = dataclasses.replace(WEB, ingress=(ingress,))
    assert service_states(service, [], NODE)[0].load_balancer_ips == addresses


@pytest.mark.parametrize(
    ("type_", "node_port", "vips"),
    [
        pytest.param(ServiceType.CLUSTER_IP, 0, (), id="cluster-ip"),
        pytest.param(ServiceType.NODE_PORT, 30080, (), id="node-port"),
        pytest.param(ServiceType.LOAD_BALANCER, 30080, ("192.0.2.1",), id="load-balancer"),
    ],
)
def test_each_type_has_what_the_one_before_has(
    type_: ServiceType, node_port: int, vips: tuple[str, ...]
) -> None:
    state = service_states(dataclasses.replace(WEB, type=type_), [], NODE)[0]
    assert (state.cluster_ip, state.external_ips) == ("10.96.0.1", ("203.0.113.1",))
    assert (state.node_port, state.load_balancer_ips) == (node_port, vips)


@pytest.mark.parametrize(
    ("nodes", "policy", "verdict"),
    [
        pytest.param([], TrafficPolicy.CLUSTER, Verdict.REFUSE, id="nobody"),
        pytest.param([], TrafficPolicy.LOCAL, Verdict.REFUSE, id="nobody-anywhere-though-local"),
        pytest.param(["there"], TrafficPolicy.CLUSTER, Verdict.FORWARD, id="elsewhere"),
        pytest.param(["there"], TrafficPolicy.LOCAL, Verdict.DROP, id="elsewhere-but-local"),
        pytest.param(["here"], TrafficPolicy.LOCAL, Verdict.FORWARD, id="here-and-local"),
    ],
)
def test_verdicts(nodes: list[str], policy: TrafficPolicy, verdict: Verdict) -> None:
    slices = [_slice("10.244.1.2", node=node) for node in nodes]
    assert service_states(WEB, slices, NODE)[0].verdict(policy) is verdict


def test_affinity_is_a_time() -> None:
    affine = dataclasses.replace(
        WEB, session_affinity=SessionAffinity.CLIENT_IP, session_affinity_timeout_s=60
    )
    assert service_states(affine, [], NODE)[0].affinity_s == 60
    assert service_states(WEB, [], NODE)[0].affinity_s == 0


def _state(name: str, created_at: str = "", **facts: object) -> ServiceState:
    key = PortKey(ObjectKey("default", name), "", L4Protocol.TCP, IPFamily.IPV4)
    return ServiceState(key, 80, f"10.96.0.{len(name)}", created_at=created_at, **facts)  # type: ignore[arg-type]


VIP = Frontend("192.0.2.1", L4Protocol.TCP, 80)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(
            _state("zz", load_balancer_ips=("192.0.2.1",)),
            _state("a", external_ips=("192.0.2.1",)),
            id="load-balancer-before-external-ip",
        ),
        pytest.param(
            _state("zz", "2024-01-01T00:00:00Z", external_ips=("192.0.2.1",)),
            _state("a", "2025-01-01T00:00:00Z", external_ips=("192.0.2.1",)),
            id="older-first",
        ),
        pytest.param(
            _state("a", external_ips=("192.0.2.1",)),
            _state("bb", external_ips=("192.0.2.1",)),
            id="then-by-name",
        ),
    ],
)
@pytest.mark.parametrize("swapped", [False, True], ids=["first-comes-first", "first-comes-last"])
def test_two_services_want_one_frontend(one: ServiceState, other: ServiceState, swapped: bool) -> None:
    table = ForwardingTable()
    for state in (other, one) if swapped else (one, other):
        table.replace(state.key, state)
    holder = table.holder(VIP)
    assert holder is not None
    assert holder.key == one.key
    assert [(f, won.key, lost.key) for f, won, lost in table.conflicts()] == [(VIP, one.key, other.key)]
    assert VIP in table.replace(one.key, None)
    successor = table.holder(VIP)
    assert successor is not None
    assert successor.key == other.key
    table.replace(other.key, None)
    assert table.holder(VIP) is None
    assert not table.frontends(L4Protocol.TCP)
    assert table.conflicts() == []


def test_one_service_may_name_an_address_twice() -> None:
    table = ForwardingTable()
    state = _state("web", load_balancer_ips=("192.0.2.1",), external_ips=("192.0.2.1",))
    table.replace(state.key, state)
    holder = table.holder(VIP)
    assert holder is not None
    assert holder.purpose is Purpose.LOAD_BALANCER
    assert table.conflicts() == []


def test_the_builder_reports_differences_only() -> None:
    builder = TableBuilder()
    slices = [_slice("10.244.1.2")]
    first = builder.update([WEB], slices, NODE)
    assert {key.family for key in first} == {IPFamily.IPV4, IPFamily.IPV6}
    assert builder.update([dataclasses.replace(WEB)], [dataclasses.replace(slices[0])], NODE) == {}
    renamed = dataclasses.replace(WEB, annotations={"a": "b"})
    assert builder.update([renamed], slices, NODE) == {}, "nothing that forwards has changed"
    grown = builder.update([WEB], [_slice("10.244.1.2", "10.244.1.3")], NODE)
    assert [(key.family, s.choice.cluster if s else None) for key, s in grown.items()] == [
        (IPFamily.IPV4, (("10.244.1.2", 8080), ("10.244.1.3", 8080)))
    ]
    assert builder.service_count == 1
    without_v6 = dataclasses.replace(WEB, cluster_ips=("10.96.0.1",))
    dropped = builder.update([without_v6], [_slice("10.244.1.2", "10.244.1.3")], NODE)
    assert [(key.family, s) for key, s in dropped.items()] == [(IPFamily.IPV6, None)]
    gone = builder.update([], slices, NODE)
    assert [(key.family, s) for key, s in gone.items()] == [(IPFamily.IPV4, None)]
    assert builder.update([], slices, NODE) == {}
    assert builder.service_count == 0


def test_a_node_that_moves_decides_all_again() -> None:
    builder = TableBuilder()
    slices = [_slice("10.244.1.2", node="there")]
    builder.update([WEB], slices, NODE)
    moved = builder.update([WEB], slices, NodeFacts("there"))
    assert [s.choice.local for s in moved.values() if s] == [(("10.244.1.2", 8080),)]


def test_slices_belong_to_the_service_of_their_namespace() -> None:
    builder = TableBuilder()
    foreign = dataclasses.replace(_slice("10.244.1.2"), key=ObjectKey("other", "web-IPv4"))
    states = builder.update([WEB], [foreign], NODE)
    assert all(s is not None and s.choice.cluster == () for s in states.values())
