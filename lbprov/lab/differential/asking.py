"""Which questions a case calls for, and what the answers come to."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from lbprov.lab.differential.case import CLIENT, OTHER_PORT, PORTS, Case, State
from lbprov.lab.probes import Answer, Broken, Probe, Refused, Reply, TimedOut, Unreachable

VANTAGES = ("web-1a", "ask-1", "node-1", "ask-2", "node-2", CLIENT)
"""An endpoint, a Pod beside it, their node; a Pod of the other node, that node; a machine of the LAN."""

FIRST_TRY_S = 0.8
"""Less than the second after which TCP tries again: a refusal within it answered the first packet."""

HELD_FLOWS = 4
"""UDP flows and TCP connections that are kept over a change, per question: enough for both proxies to have
chosen alike once."""

_FIRST_SOURCE_PORT = 40000
_HOLDERS = ("ask-1", "node-1", CLIENT)
_SIDE_WAYS = ("healthPort", "otherPort", "nodePort-gateway", "nodePort-loopback")

Outcome = frozenset[str]
"""What several tries of one question came to: `web-1a sees 10.244.1.4`, `refused`, `dropped` …"""


class Ask(NamedTuple):
    """One question: from where, which of the case's addresses, how. `held`: the number of a UDP flow or TCP
    connection that is kept (from 1), 0: a new one each time."""

    case: Case
    vantage: str
    way: str
    protocol: str
    family: int
    held: int = 0

    def __str__(self) -> str:
        flow = ", held" if self.held else ""
        return f"{self.vantage} to {self.case.name} by {self.way}, {self.protocol} IPv{self.family}{flow}"


def asks(case: Case, phase: int) -> Iterator[Ask]:
    """What is asked in a phase: every way that there is or was."""
    state = case.at(phase) or next(s for s in case.states if s)
    for family in state.families:
        for protocol in state.protocols:
            if protocol == "SCTP":
                continue  # few kernels carry it; that its rules load is what can be seen
            for way in ways(case, state):
                if way == "healthPort" and protocol != state.protocols[0]:
                    continue  # it is the Service's, not a port's
                for vantage in VANTAGES:
                    if _makes_sense(vantage, way) and not _is_a_gamble(state, vantage, way):
                        yield Ask(case, vantage, way, protocol, family)


def thinned(questions: Iterable[Ask]) -> Iterator[Ask]:
    """For each place, way and case one protocol and family instead of all, in turns."""
    choices: dict[tuple[str, ...], list[tuple[str, int]]] = {}
    questions = list(questions)
    for ask in questions:
        own = choices.setdefault(_thinned_by(ask), [])
        if (ask.protocol, ask.family) not in own:
            own.append((ask.protocol, ask.family))
    turn = dict(zip(choices, itertools.count(), strict=False))
    for ask in questions:
        key = _thinned_by(ask)
        own = choices[key]
        if (ask.protocol, ask.family) == own[(turn[key] + turn[key] // len(own)) % len(own)]:
            yield ask


def _thinned_by(ask: Ask) -> tuple[str, ...]:
    """Held flows and connections are different things."""
    return ask.case.name, ask.vantage, ask.way, ask.protocol if ask.held else ""


def held_asks(case: Case, phase: int) -> Iterator[Ask]:
    """UDP flows and TCP connections that are begun before `phase` and go on after its change."""
    before = case.at(phase - 1)
    if not case.changes_at(phase) or before is None or before.affinity_s:
        return
    for ask in asks(case, phase - 1):
        is_held = ask.vantage in _HOLDERS and ask.way not in _SIDE_WAYS
        yield from (ask._replace(held=number) for number in range(1, HELD_FLOWS + 1) if is_held)


def ways(case: Case, state: State) -> Iterator[str]:
    yield "clusterIP"
    yield "otherPort"
    if any(s and s.has_node_port for s in case.states):
        yield from ("nodePort", "nodePort-gateway", "nodePort-loopback")
    yield from (f"externalIP-{i}" for i in range(state.external_ips))
    yield from (f"loadBalancer-{i}" for i in range(len(state.load_balancer)))
    if any(s and s.type == "LoadBalancer" and s.external == "Local" for s in case.states):
        yield "healthPort"


def _makes_sense(vantage: str, way: str) -> bool:
    if way == "nodePort-loopback":
        return vantage == "node-1"
    if way == "healthPort":
        return vantage in ("node-1", CLIENT)
    if way in ("otherPort", "nodePort-gateway"):
        return vantage in ("ask-1", "node-1", CLIENT) and (way, vantage) != ("nodePort-gateway", CLIENT)
    return True


def _is_a_gamble(state: State, vantage: str, way: str) -> bool:
    """The short circuit sends Pods of node-2 that ask node-1 to an endpoint beside them, whose answer comes
    back by another way and is not known there. With affinity, that happens always or never."""
    return bool(state.affinity_s) and state.external == "Local" and (way, vantage) == ("nodePort", "ask-2")


def probe(ask: Ask, node: Mapping[str, str], times: int = 1, timeout_s: float = FIRST_TRY_S) -> Probe:
    """`node`: node-1's addresses: `4`, `6`, `gateway-4`, `gateway-6`."""
    case, family, port = ask.case, ask.family, PORTS[ask.protocol][1]
    kind, _, index = ask.way.partition("-")
    if kind == "nodePort":
        port = case.node_port(ask.protocol)
        own = {"": str(family), "gateway": f"gateway-{family}"}
        ip = ("127.0.0.1" if family == 4 else "::1") if index == "loopback" else node[own[index]]
    elif kind == "healthPort":
        return Probe(node[str(family)], case.health_port, "http", timeout_s, times)
    elif kind == "externalIP":
        ip = case.external_ip(family, int(index))
    elif kind == "loadBalancer":
        ip = case.load_balancer_ip(family, int(index))
    else:
        ip = case.cluster_ip(family)
        port = OTHER_PORT if kind == "otherPort" else port
    if ask.protocol == "TCP":
        return Probe(ip, port, "http", timeout_s, times, held=ask.held)
    source = _FIRST_SOURCE_PORT + 20 * (case.number % 1000) + ask.held if ask.held else 0
    return Probe(ip, port, "udp", timeout_s, times, source_port=source)


def outcome(answers: Iterable[Answer]) -> Outcome:
    return frozenset(_word(answer) for answer in answers)


def _word(answer: Answer) -> str:
    match answer:
        case Reply():
            if answer.hostname:
                return f"{answer.hostname} sees {answer.client}"
            return f"{answer.status}: {answer.body}"
        case Refused():
            return "refused"
        case TimedOut():
            return "dropped"
        case Unreachable(error):
            # How the kernel tells a process of the node itself of a packet refused or dropped on its way out.
            return "not sent" if error == "Operation not permitted" else f"unreachable: {error}"
        case Broken(error):
            return f"broken: {error}"


def is_answered(seen: Outcome) -> bool:
    return any(" sees " in word for word in seen)


def answerers(seen: Outcome) -> frozenset[str]:
    return frozenset(word.partition(" sees ")[0] for word in seen if " sees " in word)


def stuck(seen: Outcome) -> Outcome:
    """With session affinity each proxy makes a choice of its own and keeps to it: that it does is all that
    can be compared."""
    if not is_answered(seen):
        return seen
    return frozenset({"sticks" if len(seen) == 1 else "wanders"})


def moves(before: Sequence[Outcome], after: Sequence[Outcome]) -> dict[str, set[str]]:
    """What became of held flows: who answered before -> what happened (`stays`, `moves`, `refused` …)."""
    found: dict[str, set[str]] = {}
    for first, second in zip(before, after, strict=True):
        was, now = "/".join(sorted(answerers(first) or first)), answerers(second)
        word = "stays" if now == answerers(first) else "moves"
        found.setdefault(was, set()).add(word if now else "/".join(sorted(second)))
    return found
