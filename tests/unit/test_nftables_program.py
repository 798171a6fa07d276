"""From the table that is to the table that should be: transactions, crashes, refusals, repairs, restarts."""

from __future__ import annotations

import contextlib
import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbprov.model import IPFamily, L4Protocol, ObjectKey, ProviderError, TrafficPolicy, UserError
from local_dataplane.config import NodeConfig, NodeFacts
from local_dataplane.endpoints import Backend, Choice
from local_dataplane.iptables.trace import Fate, Packet
from local_dataplane.kernel.fake_nftables import FakeNftables, Killed
from local_dataplane.kernel.nft_watch import NftWatch
from local_dataplane.kernel.seam import Busy
from local_dataplane.nftables import layout
from local_dataplane.nftables import objects as ob
from local_dataplane.nftables.objects import ChainMarks, Contents, Hook
from local_dataplane.nftables.probe import lacking
from local_dataplane.nftables.program import NftablesProgram
from local_dataplane.nftables.render import numbered
from local_dataplane.nftables.ruleset import Ruleset
from local_dataplane.nftables.trace import Walker
from local_dataplane.selection import Machine, Mode, choose
from local_dataplane.table import PortKey, ServiceState

CONFIG = NodeConfig(("10.244.0.0/16",))
NODE = NodeFacts("node-1", addresses=("192.0.2.11",))
LOCAL = TrafficPolicy.LOCAL


def _state(number: int, *endpoints: int, **facts: object) -> ServiceState:
    """The first endpoint is on this node."""
    backends = tuple(Backend(f"10.244.0.{n}", 8080) for n in endpoints)
    base = ServiceState(
        PortKey(ObjectKey("default", f"svc-{number}"), "", L4Protocol.TCP, IPFamily.IPV4),
        80,
        f"10.96.{number // 250}.{number % 250}",
        Choice(backends, backends[:1], backends, tuple(b.address for b in backends[:1])),
    )
    return dataclasses.replace(base, **facts)  # type: ignore[arg-type]


def _states(*states: ServiceState) -> dict[PortKey, ServiceState | None]:
    return {state.key: state for state in states}


def _program(kernel: FakeNftables) -> NftablesProgram:
    return NftablesProgram(kernel, Ruleset(IPFamily.IPV4, CONFIG, NODE), NftWatch())


def _fates(kernel: FakeNftables, state: ServiceState) -> set[str]:
    """Where the table in the kernel sends a Pod's packet to the clusterIP."""
    assert kernel.contents is not None
    walker = Walker(kernel.chains, kernel.shapes, kernel.contents.elements)
    ways = walker.ways(Packet("10.244.9.9", state.cluster_ip, state.port))
    return {w.backend or w.fate for w in ways}


def _unnumbered(contents: Contents) -> tuple[object, ...]:
    """What a table comes to whatever the order in which it numbers endpoints, which must be without gaps."""
    backends: dict[tuple[bytes, layout.Scope], set[bytes]] = {}
    numbers: dict[tuple[bytes, layout.Scope], set[int]] = {}
    rest = dict(contents.elements)
    for name in (layout.ENDPOINTS, layout.NODEPORT_ENDPOINTS):
        for place, element in rest.pop(name).items():
            key, scope, index = layout.endpoint_number(place)
            backends.setdefault((key, scope), set()).add(element.data)
            numbers.setdefault((key, scope), set()).add(index)
    assert all(found == set(range(len(backends[key]))) for key, found in numbers.items())
    return contents.chains, contents.sets, rest, backends


# ── one change, one transaction ──


def test_a_load_is_one_transaction_and_so_is_a_change() -> None:
    kernel = FakeNftables()
    program = _program(kernel)
    program.apply(_states(*(_state(n, 1, 2) for n in range(50))))
    assert len(kernel.transactions) == 1
    written = program.apply(_states(_state(7, 1, 3)))
    assert (written.rules, written.restores) == (1, 1)
    deleted, added = kernel.transactions[-1][0]
    assert isinstance(deleted, ob.DeleteElements)
    assert isinstance(added, ob.AddElements)
    assert (deleted.set, added.set) == (layout.ENDPOINTS, layout.ENDPOINTS)
    assert [layout.backend_of(e.data) for e in added.elements] == [Backend("10.244.0.3", 8080)]
    assert program.apply(_states(_state(7, 1, 3))).restores == 0
    assert kernel.reads == 1


def test_services_add_no_chain_and_no_rule() -> None:
    """But for session affinity, and for a first Service that is used in some other way."""
    kernel = FakeNftables()
    program = _program(kernel)
    program.apply(_states(_state(0, 1, 2, node_port=30000), _state(1), _state(2, 3)))
    before = len(kernel.chains)
    program.apply(
        _states(*(_state(n, *range(n % 3), node_port=30000 + n * (n % 3 == 2)) for n in range(3, 99)))
    )
    assert len(kernel.chains) == before


def test_a_change_of_a_clusterip_touches_no_verdict_map() -> None:
    """The kernel walks all of those at each change."""
    kernel = FakeNftables()
    program = _program(kernel)
    program.apply(_states(*(_state(n, 1) for n in range(20))))
    program.apply(_states(_state(3, 1, 2), _state(4), dataclasses.replace(_state(5, 1), port=81)))
    changes = [change for unit in kernel.transactions[-1] for change in unit]
    touched = {c.set for c in changes if isinstance(c, ob.AddElements | ob.DeleteElements)}
    assert layout.few(2) in touched
    assert layout.FRONTENDS not in touched
    assert layout.REFUSED in touched


@pytest.mark.parametrize(
    ("before", "after", "moved"),
    [
        pytest.param("", "abc", "abc", id="new: sorted"),
        pytest.param("abcd", "acd", "adc", id="the last one fills the gap"),
        pytest.param("abcd", "abc", "abc", id="the last one goes"),
        pytest.param("abcd", "abce", "abce", id="one for another"),
        pytest.param("dcba", "abcd", "dcba", id="no reason to move"),
        pytest.param("abcd", "", "", id="nobody"),
        pytest.param("abcdef", "cx", "xc", id="many go, one comes"),
    ],
)
def test_endpoints_keep_their_numbers(before: str, after: str, moved: str) -> None:
    def backends(text: str) -> tuple[Backend, ...]:
        return tuple(Backend(letter, 1) for letter in text)

    assert numbered(backends(before), backends(after)) == backends(moved)


@given(st.lists(st.integers(0, 30), unique=True), st.lists(st.integers(0, 30), unique=True))
def test_numbering_moves_no_more_than_it_must(before: list[int], after: list[int]) -> None:
    def backends(numbers: list[int]) -> tuple[Backend, ...]:
        return tuple(Backend(str(n), 1) for n in numbers)

    old, wanted = backends(before), backends(after)
    new = numbered(old, wanted)
    assert sorted(new) == sorted(wanted)
    changed = sum(a != b for a, b in zip(old, new, strict=False)) + max(0, len(new) - len(old))
    gone, come = len(set(old) - set(new)), len(set(new) - set(old))
    assert changed <= max(gone, come)


# ── any sequence of changes ──

few = st.integers(0, 12)


@st.composite
def some_state(draw: st.DrawFn) -> ServiceState:
    number = draw(few)
    return _state(
        number,
        *sorted(draw(st.sets(st.integers(1, 12), max_size=10))),
        cluster_ip=f"10.96.0.{draw(st.sampled_from([number, 200]))}",
        port=draw(st.sampled_from([80, 443])),
        node_port=draw(st.sampled_from([0, 30000, 30000 + number])),
        external_ips=tuple(sorted(draw(st.sets(st.sampled_from(["192.0.2.1", "192.0.2.2"]))))),
        load_balancer_ips=tuple(sorted(draw(st.sets(st.sampled_from(["192.0.2.1", "203.0.113.1"]))))),
        source_ranges=draw(st.sampled_from([(), ("198.51.100.0/24", "198.51.100.0/25"), ("0.0.0.0/0",)])),
        internal_policy=draw(st.sampled_from(TrafficPolicy)),
        external_policy=draw(st.sampled_from(TrafficPolicy)),
        affinity_s=draw(st.sampled_from([0, 0, 60, 90])),
    )


batches = st.lists(st.lists(st.tuples(some_state(), st.booleans()), max_size=12), max_size=4)


@settings(max_examples=40, deadline=None)
@given(batches=batches, restart=st.booleans(), units=st.sampled_from([1, 3, 1 << 30]))
def test_any_way_leads_to_the_same_table(
    batches: list[list[tuple[ServiceState, bool]]], restart: bool, units: int
) -> None:
    """Through changes, restarts and transactions of any size, and with nothing left of what was."""
    kernel = FakeNftables()
    kernel.units_per_transaction = units
    program = _program(kernel)
    final: dict[PortKey, ServiceState | None] = {}
    for batch in [*batches, []]:
        step = {state.key: None if gone else state for state, gone in batch}
        final = {k: s for k, s in {**final, **step}.items() if s is not None}
        if restart:
            program = _program(kernel)
            program.apply(final)
        else:
            program.apply(step)
        program.sweep()
        assert program.check(thoroughly=True) is None, "what we think is there is there"
    fresh = FakeNftables()
    _program(fresh).apply(final)
    assert kernel.contents is not None
    assert fresh.contents is not None
    assert _unnumbered(kernel.contents) == _unnumbered(fresh.contents)


def test_a_restart_writes_nothing_and_moves_no_endpoint() -> None:
    kernel = FakeNftables()
    states = _states(*(_state(n, 1, 2, 3, node_port=30000 + n, affinity_s=n % 2 * 60) for n in range(20)))
    program = _program(kernel)
    program.apply(_states(_state(4, 1, 2, 3, 4, node_port=30004)))
    program.apply(states)
    reborn = _program(kernel)
    assert reborn.apply(states).restores == 0
    assert {f.label for f in reborn.forwarded()} == {str(key) for key in states}
    assert all(len(f.backends) == 3 for f in reborn.forwarded())


def test_a_restart_takes_away_what_is_gone() -> None:
    kernel = FakeNftables()
    _program(kernel).apply(
        _states(_state(1, 1, affinity_s=60), _state(2, 1, 2, external_policy=LOCAL, node_port=30002))
    )
    reborn = _program(kernel)
    reborn.apply(_states(_state(3, 1)))
    assert {f.label for f in reborn.forwarded()} == {"default/svc-3"}
    assert reborn.dead_chains > 0
    reborn.sweep()
    assert reborn.dead_chains == 0
    assert kernel.contents is not None
    assert not [name for name in kernel.contents.sets if name.startswith(layout.CLIENTS)]


@pytest.mark.parametrize("kill_before", range(8))
def test_killed_between_two_transactions_every_service_is_old_or_new(kill_before: int) -> None:
    """Where the kernel limits a transaction's length."""
    kernel = FakeNftables()
    kernel.units_per_transaction = 4
    old, new = [_state(n, 1) for n in range(20)], [_state(n, 2, 3) for n in range(20)]
    _program(kernel).apply(_states(*old))
    kernel.kill_before = kill_before
    with contextlib.suppress(Killed):
        _program(kernel).apply(_states(*new))
    ends = [_fates(kernel, s) for s in new]
    assert all(e in ({"10.244.0.1:8080"}, {"10.244.0.2:8080", "10.244.0.3:8080"}) for e in ends)
    kernel.kill_before = -1
    _program(kernel).apply(_states(*new))
    assert all(_fates(kernel, s) == {"10.244.0.2:8080", "10.244.0.3:8080"} for s in new)


# ── refusals ──


@pytest.mark.parametrize("bad", [{3}, {0, 4, 25}], ids=["one", "several"])
def test_what_the_kernel_refuses_is_left_out_and_named(bad: set[int]) -> None:
    kernel = FakeNftables()
    program = _program(kernel)
    kernel.refuse = {f"svc-{n} " for n in bad}
    states = [_state(n, 1) for n in range(30)]
    written = program.apply(_states(*states))
    assert {key.service.name for key in written.refused} == {f"svc-{n}" for n in bad}
    assert set(written.refused.values()) == {"Invalid argument"}
    assert program.left_out.keys() == written.refused.keys()
    for n, state in enumerate(states):
        assert _fates(kernel, state) == ({Fate.UNTOUCHED} if n in bad else {"10.244.0.1:8080"})
    assert program.apply({}).restores == 0, "it is not tried again and again"
    kernel.refuse = set()
    assert program.retry_left_out().refused == {}
    assert all(_fates(kernel, state) == {"10.244.0.1:8080"} for state in states)
    assert program.left_out == {}


def test_a_refused_chain_of_one_service_is_its_own() -> None:
    kernel = FakeNftables()
    program = _program(kernel)
    kernel.refuse = {"dynset"}
    written = program.apply(_states(_state(1, 1, affinity_s=60), _state(2, 1)))
    assert [key.service.name for key in written.refused] == ["svc-1"]
    assert _fates(kernel, _state(2, 1)) == {"10.244.0.1:8080"}


def test_what_all_services_need() -> None:
    kernel = FakeNftables()
    kernel.refuse = {"numgen"}
    with pytest.raises(ProviderError, match="refuses what every Service needs: Invalid argument"):
        _program(kernel).apply(_states(_state(1, 1)))


def test_a_busy_kernel_loses_nothing() -> None:
    kernel = FakeNftables()
    program = _program(kernel)
    program.apply(_states(_state(1, 1)))
    kernel.fail_with = [Busy("no buffer space")]
    with pytest.raises(Busy):
        program.apply(_states(_state(1, 2)))
    reads = kernel.reads
    program.apply({})
    assert kernel.reads == reads + 1, "it was not known what the kernel had done"
    assert _fates(kernel, _state(1)) == {"10.244.0.2:8080"}


# ── others ──


def _without_rule(contents: Contents) -> None:
    contents.chains["services"] = ChainMarks(None, contents.chains["services"].rules[1:])


def _with_rule(contents: Contents) -> None:
    chain = contents.chains["nat-output"]
    contents.chains["nat-output"] = chain._replace(rules=("", *chain.rules))


def _dropping(contents: Contents) -> None:
    contents.chains["filter-forward"] = contents.chains["filter-forward"]._replace(drops=True)


def _asleep(contents: Contents) -> None:
    contents.is_dormant = True


def _without_element(contents: Contents) -> None:
    contents.elements[layout.ENDPOINTS].popitem()


def _with_element(contents: Contents) -> None:
    element = ob.Element(b"\x0a\0\0\1")
    contents.elements[layout.CLUSTER_IPS][element.place] = element


def _other_hook(contents: Contents) -> None:
    contents.chains["nat-output"] = contents.chains["nat-output"]._replace(hook=Hook("nat", 3, 7))


def _other_set(contents: Contents) -> None:
    old = contents.sets[layout.HAIRPINS]
    contents.sets[layout.HAIRPINS] = old._replace(key_length=4)


@pytest.mark.parametrize(
    "harm",
    [_without_rule, _with_rule, _without_element, _with_element, _dropping, _asleep, _other_hook, _other_set],
)
def test_what_others_change_is_repaired(harm: object, caplog: pytest.LogCaptureFixture) -> None:
    kernel = FakeNftables()
    program = _program(kernel)
    program.apply(_states(_state(1, 1, 2), _state(2)))
    whole = kernel.read()
    changed = kernel.read()
    assert changed is not None
    harm(changed)  # type: ignore[operator]
    kernel.foreign(changed)
    assert program.check() is not None
    assert kernel.contents == whole
    assert "changed by somebody else" in caplog.text
    assert program.check() is None


def test_a_flush_of_everything_is_repaired() -> None:
    kernel = FakeNftables()
    program = _program(kernel)
    program.apply(_states(_state(1, 1), _state(2, 1, affinity_s=60)))
    whole = kernel.read()
    kernel.foreign(None)
    assert program.check() is not None
    assert kernel.contents == whole


def test_a_flush_between_look_and_write_blames_no_service() -> None:
    kernel = FakeNftables()
    program = _program(kernel)
    program.apply(_states(_state(1, 1)))
    kernel.foreign(None)
    assert program.apply(_states(_state(1, 2))).refused == {}
    assert _fates(kernel, _state(1)) == {"10.244.0.2:8080"}


def test_nothing_is_read_while_nobody_else_writes() -> None:
    kernel = FakeNftables()
    program = _program(kernel)
    for n in range(5):
        program.apply(_states(_state(n, 1)))
        assert program.check() is None
    assert kernel.reads == 1
    kernel.elsewhere()
    program.apply(_states(_state(1, 2)))
    assert program.check() is None
    assert kernel.reads == 1, "another table is no business of ours"
    kernel.foreign(kernel.contents)
    assert program.check() is None
    assert program.check() is None
    assert kernel.reads == 2


def test_a_chain_of_somebody_elses_in_our_table_goes() -> None:
    kernel = FakeNftables()
    program = _program(kernel)
    program.apply(_states(_state(1, 1)))
    changed = kernel.read()
    assert changed is not None
    changed.chains["theirs"] = ChainMarks(None, ("",))
    changed.chains["empty"] = ChainMarks(Hook("filter", 2, 0), (), drops=True)
    kernel.foreign(changed)
    assert program.check() is not None
    assert kernel.contents is not None
    assert not kernel.contents.chains.keys() & {"theirs", "empty"}
    assert program.check(thoroughly=True) is None


def test_what_cannot_be_removed_is_left_until_the_next_look(caplog: pytest.LogCaptureFixture) -> None:
    kernel = FakeNftables()
    program = _program(kernel)
    program.apply(_states(_state(1, *range(1, 12))))
    kernel.refuse = {"DeleteChain"}
    program.apply(_states(_state(1, 1)))
    transactions = len(kernel.transactions)
    program.sweep()
    program.sweep()
    assert len(kernel.transactions) == transactions
    assert caplog.text.count("cannot be removed") == 1
    kernel.refuse = set()
    program.check(thoroughly=True)
    program.sweep()
    assert program.dead_chains == 0


# ── which mode ──


@pytest.mark.parametrize(
    ("refused", "culprit"),
    [
        pytest.param("", "", id="nothing"),
        pytest.param("AddTable", "nf_tables (Invalid argument; Linux", id="nf_tables"),
        pytest.param("numgen", "nft_numgen (Invalid argument; Linux", id="numgen"),
        pytest.param("fib", "nft_fib (", id="fib"),
        pytest.param("masq fully", "nft_masq (", id="masq"),
        pytest.param("dynset", "sets that packets add to (", id="dynset"),
        pytest.param("kind='nat'", "nft_chain_nat (", id="nat chains"),
        pytest.param("is_interval=True", "sets and maps in nf_tables (", id="interval sets"),
    ],
)
def test_what_a_kernel_lacks_is_named(refused: str, culprit: str) -> None:
    kernel = FakeNftables()
    kernel.refuse = {refused} if refused else set()
    said = lacking(kernel, CONFIG)
    assert said.startswith(culprit)
    assert bool(said) == bool(culprit)
    assert kernel.contents is None


@pytest.mark.parametrize(
    ("machine", "mode", "reason"),
    [
        pytest.param(Machine(), Mode.NFTABLES, "has what it takes", id="fit"),
        pytest.param(Machine("nft_fib"), Mode.IPTABLES, "lacks nft_fib", id="a kernel without"),
        pytest.param(
            Machine(drops_forwarded=True), Mode.IPTABLES, "FORWARD drops by default", id="FORWARD drops"
        ),
        pytest.param(Machine(has_iptables=False), Mode.NFTABLES, "has what it takes", id="no iptables"),
    ],
)
def test_auto(machine: Machine, mode: Mode, reason: str) -> None:
    chosen, said = choose(Mode.AUTO, machine)
    assert chosen is mode
    assert reason in said


def test_a_mode_that_is_asked_for() -> None:
    assert choose(Mode.IPTABLES, Machine("nft_fib"))[0] is Mode.IPTABLES
    assert choose(Mode.NFTABLES, Machine(drops_forwarded=True))[0] is Mode.NFTABLES
    with pytest.raises(UserError, match=r"--mode: the kernel lacks nft_fib; nftables mode takes Linux 5\.13"):
        choose(Mode.NFTABLES, Machine("nft_fib"))
