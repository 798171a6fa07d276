"""The differential's own machinery: what it asks, and that it sees a difference when there is one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lbprov.lab.differential import cases, generate
from lbprov.lab.differential.asking import Ask, Outcome, asks, held_asks, moves, probe, stuck, thinned
from lbprov.lab.differential.case import Case, Ep, State
from lbprov.lab.differential.compare import Comparer
from lbprov.lab.differential.differences import DIFFERENCES, Question, find

DOCS = Path(__file__).parents[2] / "docs/dataplane.md"
PLAIN = Case("plain", (State((Ep("web-1a"),)),))
MOVING = Case("moving", (State((Ep("web-1a"),)), State((Ep("web-2a"),))))
ANSWERED = frozenset({"web-1a sees 10.244.1.5"})
REFUSED, DROPPED = frozenset({"refused"}), frozenset({"dropped"})


class Scripted:
    """A world that answers as it is told, by the question and how often it was asked."""

    def __init__(self, name: str, answer: Callable[[Ask, int], Outcome]) -> None:
        self.name = name
        self.addresses = {host: {4: "10.0.0.1", 6: "fd00::1"} for host in ("web-1a", "web-2a")}
        self._answer = answer
        self._rounds: Counter[Ask] = Counter()

    def begin_epoch(self, number: int) -> None: ...

    def await_answers(self, ips: Sequence[str]) -> None: ...

    def ask(self, asks: Sequence[Ask], times: Any = 1, timeout_s: float = 1) -> Mapping[Ask, Outcome]:
        self._rounds.update(asks)
        return {ask: self._answer(ask, self._rounds[ask]) for ask in asks}


class Accepting:
    """An API server that takes everything."""

    def apply(self, obj: object) -> None: ...

    def patch(self, *arguments: object, **more: object) -> None: ...

    def delete(self, *arguments: object) -> None: ...


def _compare(ours: Callable[[Ask, int], Outcome], case: Case = PLAIN) -> list[str]:
    worlds = [Scripted(f"kube-proxy-{mode}", lambda *_: ANSWERED) for mode in ("iptables", "nftables")]
    comparer = Comparer(Accepting(), [*worlds, Scripted("lbprov-x", ours)])  # type: ignore[arg-type, list-item]
    found = [f"{finding.ask.way}: {', '.join(finding.did)}" for finding in comparer.compare([case]).findings]
    comparer.close()
    return [text for text in found if not text.startswith("otherPort")]


def test_what_is_alike_is_no_finding() -> None:
    assert _compare(lambda *_: ANSWERED) == []


@pytest.mark.parametrize("wrong", [REFUSED, DROPPED, frozenset({"web-1a sees 10.244.1.1"})], ids=str)
def test_what_differs_is_found(wrong: Outcome) -> None:
    assert set(_compare(lambda *_: wrong)) == {f"clusterIP: {next(iter(wrong))}"}


def test_an_endpoint_that_only_we_choose_is_found() -> None:
    assert _compare(lambda *_: ANSWERED | {"web-2a sees 10.244.1.5"})


def test_haste_is_no_finding() -> None:
    assert _compare(lambda _, rounds: DROPPED if rounds == 1 else ANSWERED) == []


def test_a_held_flow_that_goes_where_kube_proxys_does_not_is_found() -> None:
    assert _compare(lambda *_: ANSWERED, MOVING) == []
    lost = _compare(lambda ask, rounds: DROPPED if ask.held and rounds == 2 else ANSWERED, MOVING)
    assert set(lost) == {"clusterIP: web-1a → dropped"}


def test_modes_of_kube_proxy_that_disagree_decide_nothing() -> None:
    ask = next(ask for ask in asks(PLAIN, 0) if ask.way == "clusterIP")
    assert find(Question(ask, 0, {"iptables": REFUSED, "nftables": ANSWERED})) is None


def test_moves() -> None:
    other = frozenset({"web-2a sees 10.244.1.5"})
    assert moves([ANSWERED, ANSWERED, other], [ANSWERED, other, REFUSED]) == {
        "web-1a": {"stays", "moves"},
        "web-2a": {"refused"},
    }


def test_stuck() -> None:
    assert stuck(ANSWERED) == {"sticks"}
    assert stuck(ANSWERED | {"web-2a sees 10.244.1.5"}) == {"wanders"}
    assert stuck(REFUSED) == REFUSED


def test_thinned_leaves_every_place_and_way_and_each_protocol_and_family_its_turn() -> None:
    every = [ask for case in cases.numbered(cases.CASES) for ask in asks(case, 0)]
    some = list(thinned(every))
    assert {(a.case.name, a.vantage, a.way) for a in some} == {(a.case.name, a.vantage, a.way) for a in every}
    assert {(a.way, a.protocol, a.family) for a in some} >= {
        ("clusterIP", protocol, family) for protocol in ("TCP", "UDP") for family in (4, 6)
    }
    assert len(some) < len(every) / 3


def test_random_cases_are_the_same_for_the_same_seed() -> None:
    assert list(generate.cases(7, 20)) == list(generate.cases(7, 30))[:20]
    assert [c.states for c in generate.cases(7, 20)] != [c.states for c in generate.cases(8, 20)]


def test_random_cases_ask_something_and_shrink_to_an_end() -> None:
    for case in generate.cases(3, 40):
        assert list(asks(case, 0))
        seen, smallest = {case.states}, case
        while (smaller := next(generate.simpler(smallest), None)) is not None:
            assert smaller.states not in seen
            seen.add(smaller.states)
            smallest = smaller


def test_names_and_ports_of_cases_are_their_own() -> None:
    numbered = cases.numbered(cases.CASES)
    assert len({case.name for case in numbered}) == len(numbered)
    taken = [
        [case.cluster_ip(4), case.external_ip(6, 1), case.load_balancer_ip(4, 2), case.node_port("UDP")]
        for case in numbered
    ]
    assert len({value for own in taken for value in own}) == 4 * len(numbered)


def test_no_flow_is_held_with_affinity_or_without_a_change() -> None:
    assert list(held_asks(MOVING, 1))
    assert not list(held_asks(PLAIN, 1))
    sticky = tuple(replace(state, affinity_s=60) for state in MOVING.states if state)
    assert not list(held_asks(replace(MOVING, states=sticky), 1))


def test_health_ports_are_asked_where_load_balancers_look() -> None:
    local = Case("local", (cases.LOCAL,), 3)
    asked = [ask for ask in asks(local, 0) if ask.way == "healthPort"]
    assert {ask.vantage for ask in asked} == {"node-1", "client"}
    assert {probe(ask, {"4": "192.0.2.11", "6": "2001:db8:1::11"}).port for ask in asked} == {
        local.health_port
    }


def test_accepted_differences_say_why_and_are_documented() -> None:
    told = " ".join(DOCS.read_text().split())
    assert [d.name for d in DIFFERENCES if f"- **{d.name}**: {d.reason}." not in told] == []
    assert len({d.name for d in DIFFERENCES}) == len(DIFFERENCES)
    assert all(len(d.reason) > 30 for d in DIFFERENCES)
