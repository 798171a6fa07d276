"""From the chains that are to the chains that should be: order, chunks, crashes, refusals, repairs."""

from __future__ import annotations

import dataclasses
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbprov.model import IPFamily, L4Protocol, ObjectKey, ProviderError
from local_dataplane.config import NodeConfig, NodeFacts
from local_dataplane.endpoints import Backend as Endpoint
from local_dataplane.endpoints import Choice
from local_dataplane.iptables import restore as plans
from local_dataplane.iptables.fixed import Table
from local_dataplane.iptables.names import PREFIX, cluster_chain
from local_dataplane.iptables.restore import parse_save
from local_dataplane.iptables.ruleset import ChainKey, Ruleset
from local_dataplane.iptables.trace import Fate, Packet, Walker
from local_dataplane.iptables.tree import Rules
from local_dataplane.kernel.fake_iptables import FakeIptables, Killed
from local_dataplane.kernel.seam import Backend, Refused
from local_dataplane.kernel.watch import RuleWatch
from local_dataplane.program import FamilyProgram
from local_dataplane.table import PortKey, ServiceState

CONFIG = NodeConfig(("10.244.0.0/16",))
NODE = NodeFacts("node-1")
FOREIGN = ["-p tcp -m tcp --dport 22 -j ACCEPT", "-i eth1 -j DROP"]
BACKENDS = list(Backend)


def _state(number: int, *endpoints: int, **facts: object) -> ServiceState:
    backends = tuple(Endpoint(f"10.244.0.{n}", 8080) for n in endpoints)
    base = ServiceState(
        PortKey(ObjectKey("default", f"svc-{number}"), "", L4Protocol.TCP, IPFamily.IPV4),
        80,
        f"10.96.{number // 250}.{number % 250}",
        Choice(backends, (), backends),
    )
    return dataclasses.replace(base, **facts)  # type: ignore[arg-type]


def _states(*states: ServiceState) -> dict[PortKey, ServiceState | None]:
    return {state.key: state for state in states}


def _program(kernel: FakeIptables) -> FamilyProgram:
    return FamilyProgram(kernel, Ruleset(IPFamily.IPV4, CONFIG, NODE), RuleWatch())


def _kernel_chains(kernel: FakeIptables) -> dict[ChainKey, Rules]:
    return parse_save(kernel.save(*Table)).chains


def _fates(kernel: FakeIptables, state: ServiceState) -> set[str]:
    entrances = {(t, c): tuple(rules) for t, chains in kernel.tables.items() for c, rules in chains.items()}
    walker = Walker(_kernel_chains(kernel), entrances=entrances)
    ways = walker.ways(Packet("10.244.9.9", state.cluster_ip, state.port))
    return {way.backend or way.fate for way in ways}


@pytest.fixture(params=BACKENDS)
def kernel(request: pytest.FixtureRequest) -> FakeIptables:
    return FakeIptables(backend=request.param)


def test_foreign_rules_are_left_alone_and_ours_go_first(kernel: FakeIptables) -> None:
    kernel.foreign(Table.FILTER, "INPUT", list(FOREIGN))
    kernel.foreign(Table.NAT, "DOCKER", ["-j RETURN"])
    kernel.foreign(Table.NAT, "PREROUTING", ["-j DOCKER"])
    before = kernel.save(*Table)
    program = _program(kernel)
    program.apply(_states(_state(1, 1, 2), _state(2)))
    assert kernel.tables[Table.FILTER]["INPUT"] == ["-j LBP-FILTER", *FOREIGN]
    assert kernel.tables[Table.NAT]["PREROUTING"] == ["-j LBP-SERVICES", "-j DOCKER"]
    assert _kernel_chains(kernel) == program.ruleset.chains
    _clean(kernel)
    assert kernel.save(*Table) == before


def _clean(kernel: FakeIptables) -> None:
    saved = parse_save(kernel.save(*Table))
    chunked = kernel.backend is Backend.NFT
    for restore in [*plans.detachments(saved), *plans.removals({}, saved.chains, chunked=chunked)]:
        kernel.restore(restore.text())


def test_cleanup_of_many_and_of_nothing(kernel: FakeIptables) -> None:
    before = kernel.save(*Table)
    _program(kernel).apply(_states(*(_state(n, 1, node_port=30000 + n) for n in range(700))))
    kernel.foreign(Table.NAT, "OUTPUT", ["-p tcp -j LBP-SERVICES", "-j LBP-SERVICES", "-j LBP-SERVICES"])
    _clean(kernel)
    kernel.foreign(Table.NAT, "OUTPUT", [r for r in kernel.tables[Table.NAT]["OUTPUT"] if PREFIX in r])
    assert kernel.save(*Table) == before
    texts = len(kernel.texts)
    _clean(kernel)
    assert len(kernel.texts) == texts, "a second time there is nothing to do"


def test_an_empty_table_refuses_nothing(kernel: FakeIptables) -> None:
    _program(kernel).apply({})
    assert _fates(kernel, _state(1)) == {Fate.UNTOUCHED}


def test_one_change_is_one_restore_of_the_chains_that_differ(kernel: FakeIptables) -> None:
    program = _program(kernel)
    program.apply(_states(*(_state(n, 1, 2) for n in range(400))))
    texts = len(kernel.texts)
    written = program.apply(_states(_state(7, 1, 3)))
    assert written.restores == len(kernel.texts) - texts == 1
    chain = cluster_chain(_state(7).key)
    assert re.findall(r"^:(\S+)", kernel.texts[-1], re.M) == [chain]
    assert written.rules == 2
    assert program.apply(_states(_state(7, 1, 3))).restores == 0, "the same again is nothing"


def test_old_chains_go_in_the_next_restore(kernel: FakeIptables) -> None:
    program = _program(kernel)
    program.apply(_states(_state(1, 1), _state(2, 1)))
    program.apply({_state(1).key: None})
    chain = cluster_chain(_state(1).key)
    assert chain in kernel.tables[Table.NAT], "packets may be in it"
    program.sweep()
    assert chain not in kernel.tables[Table.NAT]
    assert _kernel_chains(kernel) == program.ruleset.chains
    assert program.sweep().restores == 0


def test_a_chain_that_comes_back_before_it_was_removed(kernel: FakeIptables) -> None:
    program = _program(kernel)
    program.apply(_states(_state(1, 1)))
    program.apply({_state(1).key: None})
    program.apply(_states(_state(1, 2)))
    program.sweep()
    assert _fates(kernel, _state(1)) == {"10.244.0.2:8080"}


def test_a_restart_writes_differences_only(kernel: FakeIptables) -> None:
    _program(kernel).apply(_states(*(_state(n, 1) for n in range(300))))
    again = _program(kernel)
    written = again.apply(
        _states(*(_state(n, 1) for n in range(300) if n != 5), _state(5, 2), _state(300, 1))
    )
    assert written.restores == 1
    assert written.rules < 50
    assert again.apply({}).restores == 0
    again.sweep()
    assert _kernel_chains(kernel) == again.ruleset.chains


def test_a_restart_removes_what_is_gone_and_repairs_jumps(kernel: FakeIptables) -> None:
    _program(kernel).apply(_states(_state(1, 1), _state(2, 1)))
    kernel.foreign(Table.NAT, "OUTPUT", ["-j OTHER", "-j LBP-SERVICES", "-j LBP-SERVICES"])
    kernel.foreign(Table.NAT, "OTHER", [])
    again = _program(kernel)
    again.apply(_states(_state(2, 1)))
    again.sweep()
    assert kernel.tables[Table.NAT]["OUTPUT"] == ["-j LBP-SERVICES", "-j OTHER"]
    assert _kernel_chains(kernel) == again.ruleset.chains
    assert _fates(kernel, _state(1)) == {Fate.UNTOUCHED}


def test_nft_gets_pieces_and_legacy_gets_all_at_once() -> None:
    counts = {}
    for backend in Backend:
        kernel = FakeIptables(backend=backend)
        counts[backend] = _program(kernel).apply(_states(*(_state(n, 1) for n in range(1000)))).restores
        for text in kernel.texts[:-1]:
            assert len(re.findall(r"^(?::|-A)", text, re.M)) <= plans.PIECE_LINES
            assert "-I PREROUTING" not in text, "nothing leads to the new chains yet"
        assert "-I PREROUTING" in kernel.texts[-1]
    assert counts[Backend.LEGACY] == 1
    assert counts[Backend.NFT] >= 5


# ── crashes ──


@pytest.mark.parametrize("backend", BACKENDS)
def test_killed_before_any_restore_every_service_is_old_or_new_and_converges(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "PIECE_LINES", 40)
    old = _states(*(_state(n, 1) for n in range(60)))
    new = _states(*(_state(n, 2, 3) for n in range(30, 90)))
    wanted = {**dict.fromkeys(old), **new}
    watched = [_state(n) for n in (0, 29, 30, 45, 59, 60, 89)]
    done = False
    for restores in range(100):
        kernel = FakeIptables(backend=backend)
        _program(kernel).apply(old)
        kernel.kill_before = restores
        program = _program(kernel)
        try:
            program.apply(wanted)
            program.sweep()
            done = True
        except Killed:
            kernel.kill_before = -1
        for state in watched:
            before = {"10.244.0.1:8080"} if state.key in old else {Fate.UNTOUCHED}
            after = {"10.244.0.2:8080", "10.244.0.3:8080"} if state.key in new else {Fate.UNTOUCHED}
            assert _fates(kernel, state) in (before, after)
        again = _program(kernel)
        again.apply(new)
        again.sweep()
        assert _kernel_chains(kernel) == again.ruleset.chains
        if done:
            break
    assert done
    assert restores >= (2 if backend is Backend.LEGACY else 4)


small = st.dictionaries(
    st.integers(0, 30), st.lists(st.integers(1, 60), max_size=50, unique=True), max_size=20
)


@settings(max_examples=60, deadline=None)
@given(st.lists(small, min_size=1, max_size=4), st.sampled_from(BACKENDS), st.booleans())
def test_differences_lead_from_any_state_to_any_other(
    sequence: list[dict[int, list[int]]], backend: Backend, restart: bool
) -> None:
    kernel = FakeIptables(backend=backend)
    program = _program(kernel)
    known: dict[PortKey, ServiceState | None] = {}
    for step in sequence:
        wanted = _states(*(_state(n, *e, node_port=30000 + n % 7) for n, e in step.items()))
        if restart:
            program = _program(kernel)
            program.apply(wanted)
        else:
            program.apply({**dict.fromkeys(known), **wanted})
        known = wanted
        assert {k: r for k, r in _kernel_chains(kernel).items() if k in program.ruleset.chains} == (
            program.ruleset.chains
        )
    program.sweep()
    fresh = _program(FakeIptables(backend=backend))
    fresh.apply(known)
    assert _kernel_chains(kernel) == fresh.ruleset.chains


# ── refusals ──


@pytest.mark.parametrize("bad", [{3}, {3, 4, 250}, {0}], ids=["one", "several", "first"])
def test_what_the_kernel_refuses_is_left_out_and_named(kernel: FakeIptables, bad: set[int]) -> None:
    program = _program(kernel)
    kernel.refuse = {f"10.244.0.{200 + n % 7}:8080" for n in bad}
    states = [_state(n, 200 + n % 7 if n in bad else 1) for n in range(300)]
    written = program.apply(_states(*states))
    assert {key.service.name for key in written.refused} == {f"svc-{n}" for n in bad}
    assert all("Invalid argument" in message for message in written.refused.values())
    for n, state in enumerate(states):
        assert _fates(kernel, state) == ({Fate.UNTOUCHED} if n in bad else {"10.244.0.1:8080"})
    assert program.apply({}).restores == 0, "it is not tried again and again"
    kernel.refuse = set()
    assert program.retry_left_out().refused == {}
    assert all(_fates(kernel, state) != {Fate.UNTOUCHED} for state in states)


def test_the_search_for_the_refused_one_disturbs_nobody(kernel: FakeIptables) -> None:
    """All Services change at once and one of them is refused; nobody is without rules in between."""
    program = _program(kernel)
    program.apply(_states(*(_state(n, 1) for n in range(40))))
    kernel.refuse = {"10.244.0.99:8080"}
    seen: list[set[str]] = []
    original = kernel.restore

    def observed(text: str) -> None:
        try:
            original(text)
        finally:
            seen.extend(_fates(kernel, _state(n)) for n in (0, 20, 39))

    kernel.restore = observed  # type: ignore[method-assign]
    written = program.apply(_states(*(_state(n, 99 if n == 17 else 2) for n in range(40))))
    assert [key.service.name for key in written.refused] == ["svc-17"]
    assert {frozenset(s) for s in seen} == {frozenset({"10.244.0.1:8080"}), frozenset({"10.244.0.2:8080"})}


def test_a_refused_service_that_changes_is_tried_again(kernel: FakeIptables) -> None:
    program = _program(kernel)
    kernel.refuse = {"10.244.0.9:"}
    assert program.apply(_states(_state(1, 9))).refused
    assert program.apply(_states(_state(1, 8))).refused == {}
    assert _fates(kernel, _state(1)) == {"10.244.0.8:8080"}
    assert program.left_out == {}


def test_rules_that_all_services_need(kernel: FakeIptables) -> None:
    kernel.refuse = {"--ctstate"}
    with pytest.raises(ProviderError, match=r"refuses the rules that every Service needs.*ctstate"):
        _program(kernel).apply(_states(_state(1, 1)))


# ── others ──


@pytest.mark.parametrize(
    ("table", "chain", "rules"),
    [
        pytest.param(Table.NAT, "PREROUTING", [], id="jump flushed"),
        pytest.param(Table.FILTER, "FORWARD", ["-j LBP-FORWARD"] * 2, id="jump doubled"),
        pytest.param(Table.NAT, "LBP-SERVICES", [], id="chain flushed"),
        pytest.param(Table.NAT, "LBP-REFUSE", ["-j RETURN"], id="rule replaced"),
    ],
)
def test_what_others_break_is_repaired(
    kernel: FakeIptables, table: Table, chain: str, rules: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    program = _program(kernel)
    program.apply(_states(_state(1, 1)))
    assert program.check() is None
    before = kernel.save(*Table)
    kernel.foreign(table, chain, rules)
    repaired = program.check()
    assert repaired is not None
    assert kernel.save(*Table) == before
    assert "changed by somebody else" in caplog.text
    assert program.check() is None


def test_a_flush_of_everything_is_repaired(kernel: FakeIptables) -> None:
    program = _program(kernel)
    program.apply(_states(_state(1, 1), _state(2)))
    before = {t: dict(chains) for t, chains in kernel.tables.items()}
    kernel.tables = FakeIptables().tables
    kernel.foreign(Table.FILTER, "INPUT", [])
    program.check()
    assert {t: dict(chains) for t, chains in kernel.tables.items()} == before


def test_a_foreign_rule_before_ours_is_tolerated_while_running(kernel: FakeIptables) -> None:
    program = _program(kernel)
    program.apply(_states(_state(1, 1)))
    kernel.foreign(Table.NAT, "PREROUTING", ["-j ACCEPT", "-j LBP-SERVICES"])
    assert program.check() is None
    assert kernel.tables[Table.NAT]["PREROUTING"] == ["-j ACCEPT", "-j LBP-SERVICES"]


def test_nothing_is_read_while_nobody_else_writes(kernel: FakeIptables) -> None:
    program = _program(kernel)
    program.apply(_states(_state(1, 1)))
    saves = kernel.saves
    for n in range(5):
        program.apply(_states(_state(2, n + 1)))
        assert program.check() is None
    assert kernel.saves == saves
    kernel.foreign(Table.FILTER, "INPUT", [*kernel.tables[Table.FILTER]["INPUT"], "-j ACCEPT"])
    assert program.check() is None
    assert kernel.saves == saves + 1


def test_a_flush_between_look_and_write_blames_no_service(kernel: FakeIptables) -> None:
    program = _program(kernel)
    program.apply(_states(_state(1, 1), _state(2, 1)))
    kernel.tables = FakeIptables().tables
    written = program.apply(_states(_state(3, 1)))
    assert written.refused == {}
    assert _kernel_chains(kernel) == program.ruleset.chains


def test_a_foreign_rule_that_holds_an_old_chain(kernel: FakeIptables) -> None:
    program = _program(kernel)
    program.apply(_states(_state(1, 1), _state(2, 1)))
    held, free = cluster_chain(_state(1).key), cluster_chain(_state(2).key)
    kernel.foreign(Table.NAT, "MINE", [f"-j {held}"])
    program.apply({_state(1).key: None, _state(2).key: None})
    program.sweep()
    assert held in kernel.tables[Table.NAT]
    assert kernel.backend is Backend.LEGACY or free not in kernel.tables[Table.NAT]
    kernel.foreign(Table.NAT, "MINE", [])
    program.check(thoroughly=True)
    program.sweep()
    assert held not in kernel.tables[Table.NAT]


def test_lines_of_a_restore_are_known() -> None:
    block = plans.Block(Table.NAT, (("LBP-A", ("-j ACCEPT",)), ("LBP-B", ())), ("-X LBP-B",))
    restore = plans.Restore((block,))
    lines = restore.text().splitlines()
    assert lines == ["*nat", ":LBP-A - [0:0]", ":LBP-B - [0:0]", "-A LBP-A -j ACCEPT", "-X LBP-B", "COMMIT"]
    nothing = ("", "")
    assert [restore.at_line(n) for n in range(8)] == [
        *(nothing, nothing, ("LBP-A", ""), ("LBP-B", ""), ("LBP-A", "-j ACCEPT"), nothing, nothing, nothing)
    ]


def test_the_fake_refuses_what_the_kernel_refuses() -> None:
    fake = FakeIptables()
    for body in (
        "-A NOPE -j ACCEPT",
        ":A -\n-A A -j NOPE",
        "-D INPUT -j ACCEPT",
        ":A -\n-A INPUT -j A\n-X A",
    ):
        with pytest.raises(Refused):
            fake.restore(f"*filter\n{body}\nCOMMIT\n")
    assert fake.tables == FakeIptables().tables
