"""Which UDP flows are ended, and how connection tracking's table is read."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbprov.model import IPFamily, L4Protocol, ObjectKey
from local_dataplane.config import NodeConfig, NodeFacts
from local_dataplane.endpoints import Backend, Choice
from local_dataplane.flow_keeper import FlowKeeper
from local_dataplane.flows import Address, Flow, FlowJudge, nodeport_addresses, packed, udp_served
from local_dataplane.iptables.read_back import forwarded, unused_backends
from local_dataplane.iptables.ruleset import Ruleset
from local_dataplane.kernel import conntrack, netlink
from local_dataplane.kernel.conntrack import FakeConntrack
from local_dataplane.kernel.fake_iptables import FakeIptables
from local_dataplane.kernel.fake_nftables import FakeNftables
from local_dataplane.kernel.nft_watch import NftWatch
from local_dataplane.kernel.watch import RuleWatch
from local_dataplane.mode import Program
from local_dataplane.nftables.layout import ENDPOINTS
from local_dataplane.nftables.program import NftablesProgram
from local_dataplane.nftables.ruleset import Ruleset as NftablesRuleset
from local_dataplane.program import FamilyProgram
from local_dataplane.selection import Mode
from local_dataplane.table import ForwardingTable, Frontend, PortKey, ServiceState

V4, V6, UDP = IPFamily.IPV4, IPFamily.IPV6, L4Protocol.UDP
NODE_IP, VIP, OLD, NEW = "192.0.2.11", "10.96.0.1", Backend("10.244.1.2", 53), Backend("10.244.1.3", 53)


def _flow(destination: str, port: int, answerer: Backend | None, family: IPFamily = V4) -> Flow:
    """`answerer` None: whoever has the destination's address, as without any rule."""
    ip, answer_port = (answerer.address, answerer.port) if answerer else (destination, port)
    return Flow(family, packed(destination), port, packed(ip), answer_port)


def _is_node(address: Address) -> bool:
    return address == packed(NODE_IP)


def _judge(**facts: object) -> FlowJudge:
    served = {
        Frontend(VIP, UDP, 53): frozenset({NEW}),
        Frontend("10.96.0.2", UDP, 53): frozenset[Backend](),
        Frontend("", UDP, 30053): frozenset({NEW}),
    }
    return FlowJudge(served, _is_node, **facts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("flow", "is_stale"),
    [
        pytest.param(_flow(VIP, 53, NEW), False, id="to an endpoint"),
        pytest.param(_flow(VIP, 53, OLD), True, id="to an endpoint that is gone"),
        pytest.param(_flow(VIP, 53, Backend(NEW.address, 54)), True, id="to a port that is gone"),
        pytest.param(_flow(VIP, 53, None), True, id="from before there were rules"),
        pytest.param(_flow(VIP, 54, None), False, id="another port of the address"),
        pytest.param(_flow("10.96.0.2", 53, OLD), True, id="the last endpoint is gone"),
        pytest.param(_flow(NODE_IP, 30053, OLD), True, id="nodePort, endpoint gone"),
        pytest.param(_flow(NODE_IP, 30053, NEW), False, id="nodePort, endpoint"),
        pytest.param(_flow("8.8.8.8", 30053, None), False, id="a port like a nodePort, elsewhere"),
        pytest.param(_flow("8.8.8.8", 53, OLD), False, id="DNAT of somebody else"),
    ],
)
def test_flows_against_the_table(flow: Flow, is_stale: bool) -> None:
    assert _judge().stale([flow]) == ([flow] if is_stale else [])


@pytest.mark.parametrize(
    ("flow", "is_stale"),
    [
        pytest.param(_flow("10.96.0.9", 53, OLD), True, id="to what the Service had"),
        pytest.param(_flow("10.96.0.9", 53, NEW), False, id="somebody else forwards the address now"),
        pytest.param(_flow("10.96.0.9", 53, None), False, id="nobody forwards it"),
        pytest.param(_flow(NODE_IP, 30099, OLD), True, id="nodePort that is gone"),
    ],
)
def test_flows_of_a_service_that_is_gone(flow: Flow, is_stale: bool) -> None:
    gone = {Frontend("10.96.0.9", UDP, 53): frozenset({OLD}), Frontend("", UDP, 30099): frozenset({OLD})}
    assert _judge(formerly=gone).stale([flow]) == ([flow] if is_stale else [])


@pytest.mark.parametrize(
    ("flow", "is_stale"),
    [
        pytest.param(_flow("10.96.0.9", 53, OLD), True, id="unknown frontend, orphaned backend"),
        pytest.param(_flow("10.96.0.9", 53, NEW), False, id="unknown frontend, another backend"),
        pytest.param(_flow(OLD.address, OLD.port, None), False, id="straight to the Pod"),
    ],
)
def test_flows_of_a_run_that_was_killed(flow: Flow, is_stale: bool) -> None:
    assert _judge(orphans=frozenset({OLD})).stale([flow]) == ([flow] if is_stale else [])


@pytest.mark.parametrize(
    ("flags", "address", "is_local", "serves"),
    [
        pytest.param((), NODE_IP, True, True, id="own"),
        pytest.param((), "8.8.8.8", False, False, id="not own"),
        pytest.param((), "127.0.0.1", True, False, id="loopback"),
        pytest.param((), "::1", True, False, id="loopback 6"),
        pytest.param(("192.0.2.0/24",), NODE_IP, True, True, id="in a network"),
        pytest.param(("198.51.100.0/24",), NODE_IP, True, False, id="in none"),
    ],
)
def test_addresses_with_nodeports(flags: tuple[str, ...], address: str, is_local: bool, serves: bool) -> None:
    assert (
        nodeport_addresses(NodeConfig(nodeport_addresses=flags), lambda _: is_local)(packed(address))
        is serves
    )


# ── the keeper ──


def _state(name: str, *backends: Backend, serving: tuple[Backend, ...] = (), port: int = 53) -> ServiceState:
    key = PortKey(ObjectKey("default", name), "dns", UDP, V4)
    address = f"10.96.0.{len(name)}"
    return ServiceState(key, port, address, Choice(backends, (), serving or backends), 30053)


def _program(kernel: FakeIptables) -> FamilyProgram:
    return FamilyProgram(kernel, Ruleset(V4, NodeConfig(), NodeFacts("n")), RuleWatch())


def test_served_is_whoever_still_serves() -> None:
    table = ForwardingTable()
    state = _state("a", NEW, serving=(NEW, OLD))
    table.replace(state.key, state)
    both = frozenset({NEW, OLD})
    assert udp_served(table) == {Frontend(VIP, UDP, 53): both, Frontend("", UDP, 30053): both}


def test_flows_are_looked_at_only_when_udp_has_changed() -> None:
    kernel = FakeIptables()
    flows = FakeConntrack([_flow(VIP, 53, OLD), _flow("8.8.8.8", 53, None)])
    keeper, program = FlowKeeper(flows, NodeConfig()), _program(kernel)
    keeper.remember(program)
    program.apply({(s := _state("a", OLD)).key: s})
    assert keeper.judge(program) == 0
    flows.failure = OSError(1, "not to be asked")
    assert keeper.judge(program) == 0
    flows.failure = None
    program.apply({(s := _state("a", NEW)).key: s})
    assert keeper.judge(program) == 1
    assert flows.flows == [_flow("8.8.8.8", 53, None)]


def test_what_could_not_be_read_is_judged_the_next_time(caplog: pytest.LogCaptureFixture) -> None:
    flows = FakeConntrack([_flow(VIP, 53, OLD)])
    keeper, program = FlowKeeper(flows, NodeConfig()), _program(FakeIptables())
    keeper.remember(program)
    flows.failure = OSError(95, "Operation not supported")
    program.apply({(s := _state("a", NEW)).key: s})
    assert [keeper.judge(program), keeper.judge(program)] == [0, 0]
    assert [r.message for r in caplog.records if "nf_conntrack_netlink" in r.message] == [caplog.messages[-1]]
    flows.failure = None
    assert keeper.judge(program) == 1


def _starts(mode: Mode) -> Callable[[], Program]:
    """Each call is an agent's start on the same kernel."""
    iptables, nftables = FakeIptables(), FakeNftables()
    if mode is Mode.IPTABLES:
        return lambda: _program(iptables)
    return lambda: NftablesProgram(nftables, NftablesRuleset(V4, NodeConfig(), NodeFacts("n")), NftWatch())


@pytest.mark.parametrize("mode", [Mode.IPTABLES, Mode.NFTABLES])
@pytest.mark.parametrize(
    "kills",
    [
        pytest.param(0, id="rules still there"),
        pytest.param(1, id="killed after the rules had gone"),
        pytest.param(2, id="and once more, at the next start"),
    ],
)
def test_a_start_ends_flows_of_what_went_meanwhile(mode: Mode, kills: int) -> None:
    start = _starts(mode)
    before = start()
    before.apply({(s := _state("a", OLD)).key: s})
    for kill in range(kills):
        (start() if kill else before).apply({} if kill else {s.key: None})
    here, elsewhere = [_flow(VIP, 53, OLD), _flow(NODE_IP, 30053, OLD)], _flow(VIP, 53, NEW)
    flows = FakeConntrack([*here, elsewhere])
    keeper, program = FlowKeeper(flows, NodeConfig()), start()
    keeper.remember(program)
    program.apply({})
    # The node's address is not this machine's: no flow there is a NodePort's, but whoever answers tells.
    assert keeper.judge(program) == (2 if kills else 1)
    assert elsewhere in flows.flows
    assert program.check(thoroughly=True) is None, "what is still to go is nobody's damage"
    program.sweep()
    assert (program.dead_chains, start().unused_backends()) == (0, frozenset())


def test_what_a_run_in_another_mode_served_is_known() -> None:
    before, program = _starts(Mode.IPTABLES)(), _starts(Mode.NFTABLES)()
    before.apply({(s := _state("a", OLD)).key: s})
    flows = FakeConntrack([_flow(VIP, 53, OLD), _flow(VIP, 53, NEW)])
    keeper = FlowKeeper(flows, NodeConfig())
    keeper.remember(program)
    keeper.remember_elsewhere(V4, before.forwarded())
    program.apply({})
    assert keeper.judge(program) == 1
    assert flows.flows == [_flow(VIP, 53, NEW)]


def test_endpoints_of_a_service_that_comes_back_stay() -> None:
    start = _starts(Mode.NFTABLES)
    program = start()
    program.apply({(s := _state("a", OLD, NEW)).key: s})
    program.apply({s.key: None})
    assert start().unused_backends() == {(UDP, OLD), (UDP, NEW)}
    program.apply({(s := _state("a", NEW)).key: s})
    program.sweep()
    found = start()
    assert {f.frontend: f.backends for f in found.forwarded()} == {
        Frontend(VIP, UDP, 53): (NEW,),
        Frontend("", UDP, 30053): (NEW,),
    }
    assert found.unused_backends() == frozenset()


def test_traces_that_somebody_else_has_taken_away_stop_nothing() -> None:
    kernel = FakeNftables()
    program = NftablesProgram(kernel, NftablesRuleset(V4, NodeConfig(), NodeFacts("n")), NftWatch())
    program.apply({(s := _state("a", OLD)).key: s})
    program.apply({s.key: None})
    changed = kernel.read()
    assert changed is not None
    changed.elements[ENDPOINTS].clear()
    kernel.foreign(changed)
    program.sweep()
    program.sweep()
    assert program.dead_chains == 0
    assert program.check(thoroughly=True) is None


def test_rules_are_read_back() -> None:
    rules = Ruleset(V4, NodeConfig(("10.244.0.0/16",)), NodeFacts("n"))
    many = [
        ServiceState(
            PortKey(ObjectKey("default", f"svc-{n}"), "", L4Protocol.TCP, V4),
            80 + n,
            f"10.96.1.{n}",
            Choice((OLD,)),
            external_ips=("203.0.113.1",),
        )
        for n in range(20)
    ]
    states = [_state("a", OLD, NEW), _state("none", port=54), *many]
    rules.replace([(s.key, s) for s in states])
    found = {f.frontend: (f.label, f.backends) for f in forwarded(rules.chains)}
    assert found[Frontend(VIP, UDP, 53)] == ("default/a:dns", (OLD, NEW))
    assert found[Frontend("10.96.0.4", UDP, 54)] == ("default/none:dns", ())
    assert found[Frontend("", UDP, 30053)] == ("default/a:dns", (OLD, NEW))
    assert found[Frontend("203.0.113.1", L4Protocol.TCP, 99)] == ("default/svc-19", (OLD,))
    assert len(found) == 2 + 1 + 20 + 20
    assert unused_backends(rules.chains) == frozenset()
    chains = dict(rules.chains)
    rules.replace([(states[0].key, None)])
    leftovers = {**chains, **rules.chains}
    assert unused_backends(leftovers) == {(UDP, OLD), (UDP, NEW)}


# ── ctnetlink ──

ADDRESSES: dict[IPFamily, Callable[[int], Address]] = {
    V4: lambda n: ipaddress.IPv4Address(n).packed,
    V6: lambda n: ipaddress.IPv6Address(n << 64 | n).packed,
}


def _nested(type_: int, *parts: bytes) -> bytes:
    return netlink.attribute(type_ | netlink.NLA_F_NESTED, b"".join(parts))


Way = tuple[Address, int, Address, int]
"""Source and its port, destination and its port."""


def _tuple(family: IPFamily, protocol: int, type_: int, way: Way) -> bytes:
    source, destination = (3, 4) if family is V6 else (1, 2)
    addresses = _nested(1, netlink.attribute(source, way[0]), netlink.attribute(destination, way[2]))
    numbers = [netlink.attribute(t, struct.pack(">H", port)) for t, port in ((2, way[1]), (3, way[3]))]
    return _nested(type_, addresses, _nested(2, netlink.attribute(1, bytes([protocol])), *numbers))


def _entry(family: IPFamily, protocol: int, way: Way, back: Way) -> bytes:
    """An entry as the kernel dumps it (ctnetlink_fill_info), with attributes that are of no interest."""
    others = [
        netlink.attribute(3, b"\0\0\1\x8e"),
        netlink.attribute(8, b"\0" * 4),
        netlink.attribute(12, b"\1\2\3\4"),
    ]
    tuples = [_tuple(family, protocol, 1, way), _tuple(family, protocol, 2, back)]
    return netlink.message(1 << 8, 2, 2, b"".join([*tuples, *others]))


ports = st.integers(1, 65535)
numbers = st.integers(1, 2**32 - 1)


@given(
    st.sampled_from([V4, V6]),
    st.lists(
        st.tuples(st.sampled_from([6, 17, 132]), numbers, ports, numbers, ports, numbers, ports), max_size=5
    ),
)
def test_entries_are_decoded(
    family: IPFamily, entries: list[tuple[int, int, int, int, int, int, int]]
) -> None:
    make = ADDRESSES[family]
    datagram, expected = b"", []
    for protocol, client, client_port, vip, vip_port, backend, backend_port in entries:
        way = (make(client), client_port, make(vip), vip_port)
        back = (make(backend), backend_port, make(client), client_port)
        datagram += _entry(family, protocol, way, back)
        if protocol == 17:
            expected.append((make(vip), vip_port, make(backend), backend_port))
    flows = list(conntrack.decode_udp(family, netlink.messages(datagram)))
    assert [(f.destination, f.port, f.answerer, f.answerer_port) for f in flows] == expected
    for flow in flows:
        (request,) = netlink.messages(conntrack.delete_request(flow))
        parts = dict(netlink.attributes(request.body))
        assert parts.keys() == {1, 12}, "the tuple and the id: this entry and no other"


@given(st.binary(max_size=200))
def test_garbage_is_no_flow(data: bytes) -> None:
    for family in (V4, V6):
        message = netlink.Message(1 << 8, 0, 2, data)
        assert list(conntrack.decode_udp(family, [message])) == []
    assert sum(len(value) for _, value in netlink.attributes(data)) <= len(data)


def test_what_the_kernel_refuses_is_an_error() -> None:
    refusal = struct.pack("=IHHII", 36, 2, 0, 1, 0) + struct.pack("=i", -1) + b"\0" * 16
    with pytest.raises(PermissionError):
        list(netlink.messages(refusal))


@given(st.lists(st.tuples(st.integers(1, 0x3FFF), st.binary(max_size=20)), max_size=6))
def test_attributes_are_read_as_written(pairs: list[tuple[int, bytes]]) -> None:
    assert list(netlink.attributes(b"".join(netlink.attribute(t, v) for t, v in pairs))) == pairs
