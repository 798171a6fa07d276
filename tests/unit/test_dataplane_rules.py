"""What rendered rules do with a packet, by walking them as the kernel would."""

from __future__ import annotations

import dataclasses
import ipaddress
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbprov.model import IPFamily, L4Protocol, ObjectKey, TrafficPolicy
from local_dataplane.config import Detect, NodeConfig, NodeFacts
from local_dataplane.endpoints import Backend, Choice
from local_dataplane.iptables.names import MAX_LENGTH, PREFIX, affinity_chain
from local_dataplane.iptables.ruleset import Ruleset
from local_dataplane.iptables.trace import Fate, Packet, Walker, Way
from local_dataplane.nftables.chains import StickyEndpoint
from local_dataplane.nftables.ruleset import Ruleset as NftablesRuleset
from local_dataplane.nftables.trace import Walker as NftablesWalker
from local_dataplane.table import PortKey, ServiceState

CONFIG = NodeConfig(cluster_cidrs=("10.244.0.0/16", "fd00:10:244::/56"))
NODE_IP, OTHER_NODE_IP, OUTSIDE, POD, POD_HERE = (
    "192.0.2.11", "192.0.2.12", "198.51.100.7", "10.244.2.9", "10.244.1.2",
)  # fmt: skip
NODE = NodeFacts("node-1", addresses=(NODE_IP,))
HERE, THERE = Backend(POD_HERE, 8080), Backend("10.244.2.2", 8080)
MASQ = True


def _state(name: str = "web", here: bool = True, there: bool = True, **facts: object) -> ServiceState:
    cluster = tuple(b for b, there_is in ((HERE, here), (THERE, there)) if there_is)
    local = (HERE,) if here else ()
    choice = Choice(cluster, local, cluster, tuple(b.address for b in local))
    base = ServiceState(
        PortKey(ObjectKey("default", name), "http", L4Protocol.TCP, IPFamily.IPV4), 80, "10.96.0.1", choice
    )
    return dataclasses.replace(base, **facts)  # type: ignore[arg-type]


both = pytest.mark.parametrize("mode", ["iptables", "nftables"])


def _walker(
    mode: str,
    *states: ServiceState,
    config: NodeConfig = CONFIG,
    node: NodeFacts = NODE,
    remembered: frozenset[str] = frozenset(),
) -> Walker | NftablesWalker:
    own = frozenset({NODE_IP, "10.244.1.1"})
    if mode == "iptables":
        rules = Ruleset(IPFamily.IPV4, config, node)
        rules.replace([(s.key, s) for s in states])
        return Walker(rules.chains, own, remembered)
    table = NftablesRuleset(IPFamily.IPV4, config, node)
    table.replace([(s.key, s) for s in states])
    return NftablesWalker(table.chains, table.sets, table.elements, own, remembered)


def _came_to(ways: list[Way]) -> set[tuple[Fate | str, bool]]:
    return {(w.backend or w.fate, w.masqueraded) for w in ways}


CLIENTS = {
    "pod": Packet(POD, ""),
    "node": Packet(NODE_IP, "", from_node=True),
    "outside": Packet(OUTSIDE, ""),
}
FRONTENDS = {
    "clusterIP": ("10.96.0.1", 80),
    "nodePort": (NODE_IP, 30080),
    "externalIP": ("203.0.113.1", 80),
    "loadBalancer": ("203.0.113.9", 80),
}
ALL_WAYS = _state(node_port=30080, external_ips=("203.0.113.1",), load_balancer_ips=("203.0.113.9",))
LOCAL = TrafficPolicy.LOCAL

TO_BOTH = {("10.244.1.2:8080", False), ("10.244.2.2:8080", False)}
TO_BOTH_MASQ = {("10.244.1.2:8080", MASQ), ("10.244.2.2:8080", MASQ)}
TO_HERE = {("10.244.1.2:8080", False)}
TO_HERE_MASQ = {("10.244.1.2:8080", MASQ)}
TO_THERE = {("10.244.2.2:8080", False)}
TO_THERE_MASQ = {("10.244.2.2:8080", MASQ)}
REFUSED = {(Fate.REFUSE, False)}
DROPPED = {(Fate.DROP, False)}
EXTERNAL = ("nodePort", "externalIP", "loadBalancer")


def _matrix() -> list[object]:
    """(service, client, frontend, where it comes to): the masquerade matrix and the policies."""
    rows: list[tuple[str, dict[str, object], str, str, object]] = []

    def add(name: str, facts: dict[str, object], frontends: tuple[str, ...], **ends: object) -> None:
        rows.extend((name, facts, client, f, end) for f in frontends for client, end in ends.items())

    cluster_ip = ("clusterIP",)
    add("plain", {}, cluster_ip, pod=TO_BOTH, node=TO_BOTH_MASQ, outside=TO_BOTH_MASQ)
    add("plain", {}, EXTERNAL, pod=TO_BOTH_MASQ, node=TO_BOTH_MASQ, outside=TO_BOTH_MASQ)
    nobody: dict[str, object] = {"choice": Choice()}
    add("nobody", nobody, (*cluster_ip, *EXTERNAL), pod=REFUSED, node=REFUSED, outside=REFUSED)
    inner: dict[str, object] = {"internal_policy": LOCAL}
    add("iTP Local", inner, cluster_ip, pod=TO_HERE, node=TO_HERE_MASQ, outside=TO_HERE_MASQ)
    add("iTP Local", inner, EXTERNAL, pod=TO_BOTH_MASQ, node=TO_BOTH_MASQ, outside=TO_BOTH_MASQ)
    elsewhere: dict[str, object] = {"choice": Choice((THERE,), (), (THERE,))}
    far_inner = inner | elsewhere
    add("iTP Local, none here", far_inner, cluster_ip, pod=DROPPED, node=DROPPED, outside=DROPPED)
    add("iTP Local, none here", far_inner, EXTERNAL, pod=TO_THERE_MASQ, outside=TO_THERE_MASQ)
    outer: dict[str, object] = {"external_policy": LOCAL}
    add("eTP Local", outer, cluster_ip, pod=TO_BOTH, node=TO_BOTH_MASQ)
    add("eTP Local", outer, EXTERNAL, pod=TO_BOTH, node=TO_BOTH_MASQ, outside=TO_HERE)
    add(
        "eTP Local, none here", outer | elsewhere, EXTERNAL, pod=TO_THERE, node=TO_THERE_MASQ, outside=DROPPED
    )
    add("eTP Local, nobody", outer | nobody, EXTERNAL, pod=REFUSED, node=REFUSED, outside=REFUSED)
    return [pytest.param(f, c, fr, e, id=f"{n}, {c} to {fr}") for n, f, c, fr, e in rows]


@pytest.mark.parametrize(("facts", "client", "frontend", "end"), _matrix())
@both
def test_who_comes_where(
    facts: dict[str, object], client: str, frontend: str, end: object, mode: str
) -> None:
    walker = _walker(mode, dataclasses.replace(ALL_WAYS, **facts))  # type: ignore[arg-type]
    destination, port = FRONTENDS[frontend]
    packet = dataclasses.replace(CLIENTS[client], destination=destination, port=port)
    assert _came_to(walker.ways(packet)) == end


@pytest.mark.parametrize(
    ("packet", "end"),
    [
        pytest.param(Packet(POD, "10.96.0.1", 81), REFUSED, id="port the clusterIP lacks"),
        pytest.param(Packet(NODE_IP, "10.96.0.1", 81, from_node=True), REFUSED, id="the same, from the node"),
        pytest.param(Packet(POD, "10.96.0.1", 80, "udp"), REFUSED, id="protocol the clusterIP lacks"),
        pytest.param(Packet(POD, "10.96.0.1", 0, "icmp"), REFUSED, id="ping"),
        pytest.param(Packet(POD, "10.96.0.2", 80), {(Fate.UNTOUCHED, False)}, id="no Service's address"),
        pytest.param(Packet(POD, "203.0.113.1", 22), {(Fate.UNTOUCHED, False)}, id="externalIP, other port"),
        pytest.param(Packet(POD, "203.0.113.9", 22), {(Fate.UNTOUCHED, False)}, id="LB address, other port"),
        pytest.param(Packet(OUTSIDE, NODE_IP, 22), {(Fate.UNTOUCHED, False)}, id="node, other port"),
        pytest.param(
            Packet(OUTSIDE, NODE_IP, 30080, "udp"), {(Fate.UNTOUCHED, False)}, id="node, other protocol"
        ),
        pytest.param(Packet(OUTSIDE, "10.244.1.1", 30080), TO_BOTH_MASQ, id="every node address"),
        pytest.param(
            Packet(OUTSIDE, OTHER_NODE_IP, 30080), {(Fate.UNTOUCHED, False)}, id="another node's address"
        ),
        pytest.param(
            Packet("127.0.0.1", "127.0.0.1", 30080, from_node=True),
            {(Fate.UNTOUCHED, False)},
            id="not on loopback",
        ),
        pytest.param(
            Packet(POD_HERE, "10.96.0.1", 80),
            {("10.244.1.2:8080", MASQ), ("10.244.2.2:8080", False)},
            id="hairpin: masqueraded only towards itself",
        ),
    ],
)
@both
def test_packets_at_the_edges(packet: Packet, end: object, mode: str) -> None:
    assert _came_to(_walker(mode, ALL_WAYS).ways(packet)) == end


@pytest.mark.parametrize(
    ("config", "client", "end"),
    [
        pytest.param(NodeConfig(), "outside", TO_BOTH, id="nothing known of pods: nothing masqueraded"),
        pytest.param(NodeConfig(masquerade_all=True), "pod", TO_BOTH_MASQ, id="masquerade-all"),
    ],
)
@both
def test_masquerade_settings(config: NodeConfig, client: str, end: object, mode: str) -> None:
    packet = dataclasses.replace(CLIENTS[client], destination="10.96.0.1", port=80)
    assert _came_to(_walker(mode, ALL_WAYS, config=config).ways(packet)) == end


BRIDGE = NodeConfig(detect_local=Detect.BRIDGE_INTERFACE, pod_interface="cni")
VETH = NodeConfig(detect_local=Detect.INTERFACE_NAME_PREFIX, pod_interface="veth")
NODE_CIDR = NodeConfig(detect_local=Detect.NODE_CIDR)
NOBODY = NodeConfig(detect_local=Detect.NONE)


@pytest.mark.parametrize(
    ("config", "packet", "end"),
    [
        pytest.param(BRIDGE, Packet(OUTSIDE, "", interface="cni"), TO_BOTH, id="the bridge"),
        pytest.param(BRIDGE, Packet(POD, "", interface="eth0"), TO_BOTH_MASQ, id="not the bridge"),
        pytest.param(BRIDGE, Packet(POD, "", interface="cni0"), TO_BOTH_MASQ, id="more than its name"),
        pytest.param(VETH, Packet(POD, "", interface="veth12"), TO_BOTH, id="the prefix"),
        pytest.param(VETH, Packet(POD, "", interface="eth0"), TO_BOTH_MASQ, id="another prefix"),
        pytest.param(VETH, Packet(NODE_IP, "", from_node=True), TO_BOTH_MASQ, id="the node itself"),
        pytest.param(NOBODY, Packet(OUTSIDE, ""), TO_BOTH, id="nobody is a Pod"),
        pytest.param(NODE_CIDR, Packet(POD, ""), TO_BOTH_MASQ, id="a Pod of another node"),
        pytest.param(NODE_CIDR, Packet("10.244.1.9", ""), TO_BOTH, id="a Pod of this node"),
    ],
)
def test_who_is_a_pod(config: NodeConfig, packet: Packet, end: object) -> None:
    """For the clusterIP; under policy Local, Pods reach every endpoint by the external ways, too."""
    node = dataclasses.replace(NODE, pod_cidrs=("10.244.1.0/24", "fd00:10:244:1::/64"))
    rules = Ruleset(IPFamily.IPV4, config, NODE)
    rules.replace([(ALL_WAYS.key, dataclasses.replace(ALL_WAYS, external_policy=LOCAL))])
    rules.set_node(node)
    walker = Walker(rules.chains, frozenset({NODE_IP, "10.244.1.1"}))
    assert _came_to(walker.ways(dataclasses.replace(packet, destination="10.96.0.1", port=80))) == end
    if not packet.from_node and config.detect_local is not Detect.NONE:
        outer = TO_BOTH if end == TO_BOTH else TO_HERE
        ways = walker.ways(dataclasses.replace(packet, destination="203.0.113.9", port=80))
        assert {way.backend for way in ways} == {str(backend) for backend, _ in outer}


@both
def test_nodeports_on_localhost_are_for_the_nodes_own_programs(mode: str) -> None:
    own = Packet("127.0.0.1", "127.0.0.1", 30080, from_node=True)
    assert _came_to(_walker(mode, ALL_WAYS).ways(own)) == {(Fate.UNTOUCHED, False)}
    walker = _walker(mode, ALL_WAYS, config=dataclasses.replace(CONFIG, localhost_nodeports=True))
    assert _came_to(walker.ways(own)) == TO_BOTH_MASQ
    neighbour = Packet(OUTSIDE, "127.0.0.1", 30080)
    walker = dataclasses.replace(walker, node_addresses=walker.node_addresses | {"127.0.0.1"})
    for port in (30080, 631):
        assert _came_to(walker.ways(dataclasses.replace(neighbour, port=port))) == DROPPED


@both
def test_masquerade_all_is_for_cluster_ips(mode: str) -> None:
    config = dataclasses.replace(CONFIG, masquerade_all=True)
    walker = _walker(mode, dataclasses.replace(ALL_WAYS, external_policy=LOCAL), config=config)
    assert _came_to(walker.ways(Packet(OUTSIDE, "203.0.113.9", 80))) == TO_HERE
    assert _came_to(walker.ways(Packet(POD, "203.0.113.9", 80))) == TO_BOTH


@both
def test_nodeport_addresses_limit_nodeports(mode: str) -> None:
    config = dataclasses.replace(CONFIG, nodeport_addresses=("192.0.2.0/24", "fd00::/8"))
    walker = _walker(mode, ALL_WAYS, config=config)
    assert _came_to(walker.ways(Packet(OUTSIDE, NODE_IP, 30080))) == TO_BOTH_MASQ
    assert _came_to(walker.ways(Packet(OUTSIDE, "10.244.1.1", 30080))) == {(Fate.UNTOUCHED, False)}


RANGES = ("198.51.100.0/24", "203.0.114.0/24")


@pytest.mark.parametrize(
    ("packet", "end"),
    [
        pytest.param(Packet(OUTSIDE, "203.0.113.9", 80), TO_BOTH_MASQ, id="in a range"),
        pytest.param(Packet("192.0.2.99", "203.0.113.9", 80), DROPPED, id="in none"),
        pytest.param(Packet(POD, "203.0.113.9", 80), DROPPED, id="pods are no exception"),
        pytest.param(Packet("192.0.2.99", NODE_IP, 30080), TO_BOTH_MASQ, id="not for nodePorts"),
        pytest.param(Packet("192.0.2.99", "203.0.113.1", 80), TO_BOTH_MASQ, id="not for externalIPs"),
    ],
)
@both
def test_source_ranges(packet: Packet, end: object, mode: str) -> None:
    assert _came_to(_walker(mode, dataclasses.replace(ALL_WAYS, source_ranges=RANGES)).ways(packet)) == end


@pytest.mark.parametrize(
    ("ranges", "end"),
    [
        pytest.param(("192.0.2.0/24",), TO_BOTH_MASQ, id="node let in"),
        pytest.param(("198.51.100.0/24",), DROPPED, id="node not let in"),
        pytest.param(("198.51.100.0/24", "0.0.0.0/0"), TO_BOTH_MASQ, id="everybody"),
    ],
)
@both
def test_a_node_that_has_the_load_balancers_address(ranges: tuple[str, ...], end: object, mode: str) -> None:
    walker = _walker(mode, dataclasses.replace(ALL_WAYS, source_ranges=ranges))
    assert _came_to(walker.ways(Packet("203.0.113.9", "203.0.113.9", 80, from_node=True))) == end


@both
def test_source_ranges_hold_when_there_are_no_endpoints(mode: str) -> None:
    walker = _walker(mode, dataclasses.replace(ALL_WAYS, source_ranges=RANGES, choice=Choice()))
    assert _came_to(walker.ways(Packet("192.0.2.99", "203.0.113.9", 80))) == DROPPED
    assert _came_to(walker.ways(Packet(OUTSIDE, "203.0.113.9", 80))) == REFUSED


@both
def test_an_external_ip_may_be_the_nodes_own_address(mode: str) -> None:
    """The frontend of the address goes first, NodePorts of other Services stay reachable."""
    port = _state("port", node_port=30080, cluster_ip="10.96.0.2", there=False)
    own = _state("own", external_ips=(NODE_IP,), here=False)
    walker = _walker(mode, port, own)
    assert _came_to(walker.ways(Packet(OUTSIDE, NODE_IP, 80))) == TO_THERE_MASQ
    assert _came_to(walker.ways(Packet(OUTSIDE, NODE_IP, 30080))) == TO_HERE_MASQ
    assert _came_to(walker.ways(Packet(OUTSIDE, NODE_IP, 22))) == {(Fate.UNTOUCHED, False)}


@both
def test_an_endpoint_may_be_where_another_service_refuses(mode: str) -> None:
    """A packet on its way to a host-network endpoint is not taken for a client of that address."""
    host = Backend(NODE_IP, 9100)
    web = _state("web", choice=Choice((host,), (host,), (host,)))
    empty = _state("empty", cluster_ip="10.96.0.2", port=9100, external_ips=(NODE_IP,), choice=Choice())
    walker = _walker(mode, web, empty)
    assert _came_to(walker.ways(Packet(POD, "10.96.0.1", 80))) == {(f"{NODE_IP}:9100", False)}
    assert _came_to(walker.ways(Packet(POD, NODE_IP, 9100))) == REFUSED


@both
def test_affinity(mode: str) -> None:
    sticky = dataclasses.replace(ALL_WAYS, affinity_s=60)
    packet = Packet(POD, "10.96.0.1", 80)
    assert _came_to(_walker(mode, sticky).ways(packet)) == TO_BOTH
    name = affinity_chain(sticky.key, THERE)
    known = frozenset({name if mode == "iptables" else StickyEndpoint(sticky.key, THERE, 60).clients})
    assert _came_to(_walker(mode, sticky, remembered=known).ways(packet)) == TO_THERE


@pytest.mark.parametrize("affinity_s", [0, 60], ids=["plain", "affinity"])
@pytest.mark.parametrize("count", [1, 2, 3, 7, 32, 33, 64, 100, 1000, 3000])
@both
def test_every_endpoint_is_as_likely_as_the_others(count: int, affinity_s: int, mode: str) -> None:
    backends = tuple(Backend(f"10.244.{i // 250}.{i % 250 + 1}", 8080) for i in range(count))
    choice = Choice(backends, (), backends)
    ways = _walker(mode, _state(choice=choice, affinity_s=affinity_s)).ways(Packet(POD, "10.96.0.1", 80))
    assert {w.backend for w in ways} == {f"{b.address}:{b.port}" for b in backends}
    assert all(abs(w.probability * count - 1) < count * 2**-31 for w in ways)
    if not affinity_s:
        assert max(w.rules_met for w in ways) <= 64


def test_one_endpoint_of_a_thousand_changes_few_chains() -> None:
    backends = tuple(Backend(f"10.244.{i // 250}.{i % 250 + 1}", 8080) for i in range(1000))
    rules = Ruleset(IPFamily.IPV4, CONFIG, NODE)
    state = _state(choice=Choice(backends))
    rules.replace([(state.key, state)])
    rules.dirty.clear()
    rules.replace([(state.key, dataclasses.replace(state, choice=Choice(backends[1:])))])
    assert len(rules.dirty) == 3, "the group, and those that weigh it"


# ── ten thousand Services ──


def _many(count: int, vip_bits: int) -> list[ServiceState]:
    """Every third without endpoints, every second with a NodePort, some with a load balancer's address or
    many ports on one externalIP."""
    chance = random.Random(count)
    vips = chance.sample(range(1, 1 << vip_bits), count)
    base = int(ipaddress.ip_address("10.96.0.0"))
    return [
        _state(
            f"svc-{i}",
            cluster_ip=str(ipaddress.ip_address(base + vip)),
            choice=Choice() if i % 3 == 0 else _state().choice,
            node_port=30000 + i // 2 if i % 2 == 0 and i < 5536 else 0,
            load_balancer_ips=(f"203.0.{112 + i // 2560}.{i // 10 % 256}",) if i % 10 == 0 else (),
            external_ips=("192.0.2.200",) if i % 50 == 0 else (),
            port=1000 + i if i % 50 == 0 else 80,
        )
        for i, vip in enumerate(vips)
    ]


@pytest.mark.parametrize("vip_bits", [14, 20], ids=["dense addresses", "scattered addresses"])
def test_no_packet_meets_more_than_64_rules_at_10_000_services(vip_bits: int) -> None:
    states = _many(10_000, vip_bits)
    walker = _walker("iptables", *states)
    strangers = [
        Packet(POD, "8.8.8.8", 53, "udp"),
        Packet(POD, "10.95.255.255", 80),
        Packet(POD, "10.112.0.1", 80),
        Packet(POD, "10.244.2.2", 8080),
        Packet(OUTSIDE, NODE_IP, 22),
        Packet(OUTSIDE, NODE_IP, 30001 + 2 * 2768),
        Packet(NODE_IP, "8.8.8.8", 53, from_node=True),
    ]
    most = 0
    for packet in strangers:
        (way,) = walker.ways(packet)
        assert way.fate is Fate.UNTOUCHED
        most = max(most, way.rules_met)
    for state in states[::7] + states[-1:]:
        end = REFUSED if not state.has_endpoints else None
        frontends = [(state.cluster_ip, state.port), *((ip, state.port) for ip in state.load_balancer_ips)]
        frontends += [(ip, state.port) for ip in state.external_ips]
        frontends += [(NODE_IP, state.node_port)] if state.node_port else []
        for address, port in frontends:
            ways = walker.ways(Packet(OUTSIDE, address, port))
            assert _came_to(ways) == (end or TO_BOTH_MASQ)
            most = max(most, *(w.rules_met for w in ways))
        (way,) = walker.ways(Packet(POD, state.cluster_ip, 81))
        assert way.fate is Fate.REFUSE
        most = max(most, way.rules_met)
    assert most <= 64


def test_a_packet_in_nftables_meets_the_same_few_rules_whatever_there_is() -> None:
    states = _many(500, 14)
    walker = _walker("nftables", *states)
    strangers = [
        Packet(POD, "8.8.8.8", 53, "udp"),
        Packet(OUTSIDE, NODE_IP, 22),
        Packet(NODE_IP, "8.8.8.8", 53, from_node=True),
    ]
    most = max(w.rules_met for packet in strangers for w in walker.ways(packet))
    for state in states[::17]:
        assert _came_to(walker.ways(Packet(POD, state.cluster_ip, 81))) == REFUSED
        frontends = [(state.cluster_ip, state.port), *((ip, state.port) for ip in state.external_ips)]
        frontends += [(NODE_IP, state.node_port)] if state.node_port else []
        for address, port in frontends:
            ways = walker.ways(Packet(OUTSIDE, address, port))
            assert _came_to(ways) == (TO_BOTH_MASQ if state.has_endpoints else REFUSED)
            most = max(most, *(w.rules_met for w in ways))
    assert most <= 24


def test_ports_of_one_address_are_found_by_a_tree_too() -> None:
    states = [
        _state(f"svc-{i}", cluster_ip="", external_ips=("203.0.113.1",), port=1 + i * 13) for i in range(5000)
    ]
    states = [dataclasses.replace(s, cluster_ip=f"10.96.{i // 250}.{i % 250}") for i, s in enumerate(states)]
    walker = _walker("iptables", *states)
    for state in states[::97]:
        ways = walker.ways(Packet(OUTSIDE, "203.0.113.1", state.port))
        assert _came_to(ways) == TO_BOTH_MASQ
        assert max(w.rules_met for w in ways) <= 64
    (way,) = walker.ways(Packet(OUTSIDE, "203.0.113.1", 3))
    assert way.fate is Fate.UNTOUCHED
    assert way.rules_met <= 64


# ── any sequence of changes ──

few = st.integers(0, 24)
backend_sets = st.lists(st.sampled_from([HERE, THERE, Backend("10.244.3.3", 9)]), unique=True, max_size=3)


@st.composite
def some_state(draw: st.DrawFn) -> ServiceState:
    number = draw(few)
    backends = tuple(sorted(draw(backend_sets)))
    local = tuple(b for b in backends if b == HERE)
    cluster_ip = f"10.96.{draw(st.sampled_from([0, 1, 200]))}.{number}"
    return _state(
        f"svc-{number}",
        cluster_ip=cluster_ip,
        port=draw(st.sampled_from([80, 443])),
        choice=Choice(backends, local, backends, tuple(b.address for b in local)),
        node_port=draw(st.sampled_from([0, 30000, 30001, 30000 + number])),
        external_ips=tuple(sorted(draw(st.sets(st.sampled_from(["192.0.2.1", "192.0.2.2"]))))),
        load_balancer_ips=tuple(sorted(draw(st.sets(st.sampled_from(["192.0.2.1", "203.0.113.1"]))))),
        source_ranges=draw(st.sampled_from([(), RANGES])),
        internal_policy=draw(st.sampled_from(TrafficPolicy)),
        external_policy=draw(st.sampled_from(TrafficPolicy)),
        affinity_s=draw(st.sampled_from([0, 60])),
    )


changes = st.lists(st.tuples(some_state(), st.booleans()), max_size=40)


@settings(max_examples=120, deadline=None)
@given(batches=st.lists(changes, max_size=4))
def test_the_chains_depend_on_the_states_alone(batches: list[list[tuple[ServiceState, bool]]]) -> None:
    rules = Ruleset(IPFamily.IPV4, CONFIG, NODE)
    kernel: dict[object, object] = {}
    final: dict[PortKey, ServiceState] = {}
    for batch in batches:
        step = {state.key: None if gone else state for state, gone in batch}
        rules.replace(step.items())
        final = {k: s for k, s in {**final, **step}.items() if s is not None}
        for key in rules.dirty:  # what `dirty` promises: nothing else has changed
            kernel.pop(key, None)
            if key in rules.chains:
                kernel[key] = rules.chains[key]
        rules.dirty.clear()
        assert kernel == rules.chains
    fresh = Ruleset(IPFamily.IPV4, CONFIG, NODE)
    fresh.replace(final.items())
    assert fresh.chains == rules.chains
    _is_sound(rules)
    walker = Walker(rules.chains, frozenset({NODE_IP}))
    for state in final.values():
        for frontend, purpose in state.frontends():
            holder = rules.table.holder(frontend)
            assert holder is not None
            ways = walker.ways(Packet(OUTSIDE, frontend.address or NODE_IP, frontend.port))
            assert abs(sum(w.probability for w in ways) - 1) < 1e-9
            assert all(w.fate is not Fate.UNTOUCHED for w in ways)
            if (holder.key, holder.purpose) == (state.key, purpose):
                reached = {w.backend for w in ways if w.fate is Fate.FORWARD}
                assert reached <= {f"{b.address}:{b.port}" for b in state.choice.cluster}


def _is_sound(rules: Ruleset) -> None:
    """Names fit and are ours; every chain that is gone to exists; every chain is reached, except those of a
    port that lost its frontend to another."""
    known = {(t, c) for t, c in rules.chains}
    assert all(c.startswith(PREFIX) and len(c) <= MAX_LENGTH for _, c in known)
    reached = {(t, rule.split()[-1]) for (t, _), body in rules.chains.items() for rule in body}
    assert {k for k in reached if k[1].startswith(PREFIX)} <= known
    always = {"LBP-SERVICES", "LBP-POSTROUTING", "LBP-FILTER", "LBP-FORWARD", "LBP-NODEPORTS", "LBP-REFUSE",
              "LBP-DROP", "LBP-MARK-MASQ"}  # fmt: skip
    losers = {lost.key for _, _, lost in rules.table.conflicts()}
    assert {c for t, c in known - reached if rules.owner(c, "") not in losers} <= always


@pytest.mark.parametrize("family", list(IPFamily))
def test_names_fit(family: IPFamily) -> None:
    """The longest of every kind: three levels of groups, deep trees, many ports on one address."""
    v6 = family is IPFamily.IPV6
    backends = tuple(Backend(f"fd00::{i:x}" if v6 else f"10.1.{i // 250}.{i % 250}", 80) for i in range(4000))
    key = PortKey(ObjectKey("n" * 63, "s" * 63), "p" * 63, L4Protocol.SCTP, family)
    address = "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff" if v6 else "255.255.255.254"
    hairpins = tuple(b.address for b in backends)
    large = ServiceState(key, 65535, address, Choice(backends, backends[:99], backends, hairpins), 65535)
    small = [
        dataclasses.replace(
            large,
            key=key._replace(port_name=str(i)),
            port=i,
            node_port=i,
            choice=Choice(backends[i - 65400 :][:1], backends[i - 65400 :][:1]),
            internal_policy=LOCAL,
        )
        for i in range(65400, 65500)
    ]
    states = [large, *small]
    rules = Ruleset(family, CONFIG, NODE)
    rules.replace([(s.key, s) for s in states])
    _is_sound(rules)
    assert max(len(c) for _, c in rules.chains) == MAX_LENGTH
