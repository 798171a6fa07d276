"""Where we do not do what kube-proxy does, or what only one of its modes does: each with its reason.

Where no row holds, what is right is what both modes of kube-proxy do; where they disagree and no row holds,
nothing decides, and the comparison fails.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lbprov.lab.differential.asking import Ask, Outcome
from lbprov.lab.differential.case import HEADLESS, PROXY_NAME, State


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
    def from_node(self) -> bool:
        return self.ask.vantage.startswith("node-")

    @property
    def is_outer(self) -> bool:
        """By an address that is no clusterIP."""
        return self.ask.way.partition("-")[0] in ("externalIP", "loadBalancer")

    @property
    def refused(self) -> Outcome:
        """As it looks from here: a process of the node that sends UDP is told by the call that sends."""
        return frozenset({"not sent" if self.from_node and self.ask.protocol == "UDP" else "refused"})

    @property
    def is_forwarded(self) -> bool:
        """Whether there is a Service that is the proxy's to serve."""
        return self.state is not None and PROXY_NAME not in self.state.labels

    @property
    def has_way(self) -> bool:
        """Whether the address and port that are asked still are the Service's."""
        state, (kind, _, index) = self.state, self.ask.way.partition("-")
        if state is None or not self.is_forwarded:
            return False
        if self.ask.protocol not in state.protocols or self.ask.family not in state.families:
            return False
        if kind == "nodePort":
            return state.has_node_port
        if kind == "loadBalancer":
            modes = state.load_balancer[int(index) :] if state.type == "LoadBalancer" else ()
            return bool(modes) and modes[0] != "Proxy"
        return kind != "externalIP" or int(index) < state.external_ips

    @property
    def serves_somebody(self) -> bool:
        state = self.state
        if state is None or HEADLESS in state.slice_labels:
            return False
        copies = "copy-terminates" in state.odd and self.ask.family == 4  # of an endpoint that drains
        return copies or any(e.ready is not False or (e.serving and e.terminating) for e in state.endpoints)

    @property
    def may_be_answered(self) -> bool:
        """Whether an endpoint is left that a flow begun earlier may go on with: one that serves, though none
        begins there any more."""
        unready = self.state is not None and any(e.serving is not False for e in self.state.endpoints)
        return self.serves_somebody or (
            unready and self.state is not None and HEADLESS not in self.state.slice_labels
        )


Check = Callable[[Question], bool]


@dataclass(frozen=True, slots=True)
class Difference:
    """`holds`: for which questions. `accepts`: whether an outcome is right there."""

    name: str
    reason: str
    holds: Check
    accepts: Callable[[Question, Outcome], bool]


def find(question: Question) -> Difference | None:
    return next((d for d in DIFFERENCES if d.holds(question)), None)


def _as(mode: str) -> Callable[[Question, Outcome], bool]:
    return lambda question, did: did == question.theirs.get(mode)


def _refused(question: Question, did: Outcome) -> bool:
    return did == question.refused


def _ends(_: Question, did: Outcome) -> bool:
    """Of a held flow: no endpoint has it any more."""
    return not any(word.endswith((" stays", " moves")) for word in did)


DIFFERENCES = (
    Difference(
        "UDP flows end with the last endpoint, and with the Service",
        "kube-proxy 1.36 leaves them where they were (kubernetes/kubernetes#139628)",
        lambda q: bool(q.ask.held) and q.ask.protocol == "UDP" and not (q.may_be_answered and q.has_way),
        _ends,
    ),
    Difference(
        "nodePort on every address of the node",
        "kube-proxy's nftables mode serves NodePorts on the node's primary address only; we, as its iptables "
        "mode, on every one, unless --nodeport-addresses says otherwise",
        lambda q: q.ask.way == "nodePort-gateway" and q.has_way,
        _as("iptables"),
    ),
    Difference(
        "no nodePort on loopback",
        "kube-proxy's iptables mode serves IPv4 NodePorts on 127.0.0.1, by a setting that lets neighbours "
        "reach what listens there (CVE-2020-8558); its nftables mode does not, nor do we unless told to",
        lambda q: q.ask.way == "nodePort-loopback",
        lambda _, did: did == {"refused"},
    ),
    Difference(
        "a port that the clusterIP lacks is refused",
        "kube-proxy's iptables mode lets such packets go wherever the default route leads",
        lambda q: q.ask.way == "otherPort" and q.is_forwarded,
        _refused,
    ),
    Difference(
        "a clusterIP that no Service has is nothing to us",
        "kube-proxy's nftables mode drops what is for the cluster's Service network and for no Service. We "
        "do not ask for that network: another proxy may serve some of it",
        lambda q: q.ask.way in ("clusterIP", "otherPort") and not q.is_forwarded and not q.ask.held,
        _as("iptables"),
    ),
    Difference(
        "source ranges hold for a Service without endpoints",
        "kube-proxy's iptables mode refuses whoever asks, in the range or not",
        lambda q: (
            bool(q.ask.way.startswith("loadBalancer") and q.has_way and q.state and q.state.ranges)
            and not q.serves_somebody
        ),
        _as("nftables"),
    ),
    Difference(
        "the node is told that nobody serves",
        "kube-proxy's iptables mode rejects packets to an externalIP or a load balancer's address without "
        "endpoints in INPUT and FORWARD only, so that the node's own go out and are lost",
        lambda q: q.from_node and q.is_outer and q.theirs.get("nftables") == q.refused,
        _refused,
    ),
)
