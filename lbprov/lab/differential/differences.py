"""Where we do not do what kube-proxy does, or what only one of its modes does: each with its reason.

`expected` says what is right for a question. Where kube-proxy's two modes agree and no row below holds, that
is what they do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lbprov.lab.differential.asking import Ask, Outcome
from lbprov.lab.differential.case import PROXY_NAME, Ep, State


@dataclass(frozen=True, slots=True)
class Question:
    """What an expectation is made from. `theirs`: kube-proxy's mode -> what it did."""

    ask: Ask
    phase: int
    theirs: Mapping[str, Outcome]

    @property
    def state(self) -> State | None:
        return self.ask.case.at(self.phase)

    @property
    def before(self) -> State | None:
        """Of a held flow: the state that it was begun in."""
        return self.ask.case.at(self.phase - 1)

    @property
    def from_node(self) -> bool:
        return self.ask.vantage.startswith("node-")

    @property
    def is_outer(self) -> bool:
        """By an address that is no clusterIP."""
        return self.ask.way.partition("-")[0] in ("externalIP", "loadBalancer")

    @property
    def refused(self) -> Outcome:
        """As it looks from here: a process of the node that sends UDP is told at once."""
        return frozenset({"not sent" if self.from_node and self.ask.protocol == "UDP" else "refused"})

    @property
    def dropped(self) -> Outcome:
        return frozenset({"not sent" if self.from_node and self.ask.protocol == "UDP" else "dropped"})


@dataclass(frozen=True, slots=True)
class Difference:
    """`holds` for which questions; `right`: what is to be done there."""

    name: str
    reason: str
    holds: Callable[[Question], bool]
    right: Callable[[Question], Outcome | None]


def expected(question: Question) -> tuple[Outcome | None, Difference | None]:
    """The outcome that is right, None where nothing decides; and the row that says so, if it is not simply
    what kube-proxy does in both modes."""
    done = set(question.theirs.values())
    for difference in DIFFERENCES:
        if difference.holds(question):
            right = difference.right(question)
            if done != {right}:
                return right, difference
    return (done.pop() if len(done) == 1 else None), None


def _of(mode: str) -> Callable[[Question], Outcome | None]:
    return lambda question: question.theirs.get(mode)


def _is_ours(question: Question) -> bool:
    return question.state is not None and PROXY_NAME not in question.state.labels


def _serves_nobody(question: Question) -> bool:
    """No endpoint, whatever its conditions, that a Service of this family could use."""
    state = question.state
    return state is not None and not any(_is_usable(endpoint) for endpoint in state.endpoints)


def _is_usable(endpoint: Ep) -> bool:
    return endpoint.ready is not False or (endpoint.serving is not False and bool(endpoint.terminating))


DIFFERENCES = (
    Difference(
        "nodePort on every address of the node",
        "kube-proxy's nftables mode serves NodePorts on the node's primary address only; we, like its iptables "
        "mode, on every one, unless --nodeport-addresses says otherwise",
        lambda q: q.ask.way == "nodePort-gateway",
        _of("iptables"),
    ),
    Difference(
        "no nodePort on loopback",
        "kube-proxy's iptables mode serves IPv4 NodePorts on 127.0.0.1, by a setting that lets neighbours reach "
        "what listens there (CVE-2020-8558); its nftables mode does not, nor do we unless told to",
        lambda q: q.ask.way == "nodePort-loopback",
        lambda q: frozenset({"refused"}),
    ),
    Difference(
        "a port that the clusterIP lacks is refused",
        "kube-proxy's iptables mode sends such packets on to wherever the default route leads",
        lambda q: q.ask.way == "otherPort" and _is_ours(q),
        lambda q: q.refused,
    ),
    Difference(
        "the node is told that nobody serves",
        "kube-proxy's iptables mode rejects packets to an externalIP or a load balancer's address without "
        "endpoints in INPUT and FORWARD only, so that the node's own go out and are lost",
        lambda q: q.from_node and q.is_outer and _is_ours(q) and _serves_nobody(q),
        lambda q: q.refused,
    ),
)
