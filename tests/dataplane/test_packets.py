"""Real packets through real rules: who reaches what from where, in both families and every mode.

One cluster stands for all: in iptables mode, node-1 programs the nft backend and node-2 legacy. Every case is
asked by way of each node. All probes of a mode are made at once, before the first case looks at its answer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from lbprov.lab import Answer, Host, Lab, NodeHost, Probe, Refused, Reply, TimedOut, Unreachable

FAMILIES = (4, 6)
PROTOCOLS = ("http", "udp")
PORTS = {"http": 80, "udp": 53}
FIRST_TRY_S = 0.8
"""Less than the second after which TCP tries again: a refusal within it answered the first packet."""


def _vip(number: int, family: int) -> str:
    return f"10.96.7.{number}" if family == 4 else f"fd00:10:96::7{number:02x}"


def _external(number: int, family: int) -> str:
    return f"203.0.113.{number}" if family == 4 else f"2001:db8:113::{number:x}"


@dataclasses.dataclass(frozen=True)
class Svc:
    """A Service of the test cluster. `endpoints`: Pods or nodes; `n` is node-1's number for its `-1`."""

    name: str
    number: int
    endpoints: tuple[str, ...]
    spec: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    type: str = "LoadBalancer"
    conditions: Mapping[str, bool] | None = None

    @property
    def node_port(self) -> int:
        return 30000 + self.number * 10

    def manifests(self, lab: Lab) -> Iterator[dict[str, Any]]:
        n = self.number
        kinds = (("http", "TCP", 80, 0), ("dns", "UDP", 53, 1))
        ports: list[dict[str, Any]] = [
            {"name": k, "protocol": p, "port": t, "targetPort": t} for k, p, t, _ in kinds
        ]
        if self.type != "ClusterIP":
            for port, (*_, i) in zip(ports, kinds, strict=True):
                port["nodePort"] = self.node_port + i
        yield {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": self.name},
            "spec": {
                "type": self.type,
                "ports": ports,
                "ipFamilyPolicy": "RequireDualStack",
                "clusterIP": _vip(n, 4),
                "clusterIPs": [_vip(n, f) for f in FAMILIES],
                "externalIPs": [_external(n, f) for f in FAMILIES],
                **self.spec,
            },
        }
        for family in FAMILIES:
            yield slice_of(self.name, [lab.hosts[e] for e in self.endpoints], family, self.conditions)

    def addresses(self) -> list[str]:
        """The load balancer's."""
        return [_external(100 + self.number, f) for f in FAMILIES]


def slice_of(
    service: str, hosts: list[Host], family: int, conditions: Mapping[str, bool] | None = None
) -> dict[str, Any]:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": f"{service}-{family}", "labels": {"kubernetes.io/service-name": service}},
        "addressType": f"IPv{family}",
        "ports": [
            {"name": "http", "protocol": "TCP", "port": 80},
            {"name": "dns", "protocol": "UDP", "port": 53},
        ],
        "endpoints": [
            {
                "addresses": [host.ipv4 if family == 4 else host.ipv6],
                "nodeName": getattr(host, "node", host).name,
                **({"conditions": dict(conditions)} if conditions else {}),
            }
            for host in hosts
        ],
    }


DRAINING = {"ready": False, "serving": True, "terminating": True}
SERVICES = (
    Svc("both", 1, ("web-1a", "web-2a")),
    Svc("empty", 2, ()),
    Svc("outer-1", 3, ("web-1a",), {"externalTrafficPolicy": "Local"}),
    Svc("outer-2", 4, ("web-2a",), {"externalTrafficPolicy": "Local"}),
    Svc("inner-1", 5, ("web-1a",), {"internalTrafficPolicy": "Local"}),
    Svc("inner-2", 6, ("web-2a",), {"internalTrafficPolicy": "Local"}),
    Svc("self-1", 7, ("web-1a",)),
    Svc("self-2", 8, ("web-2a",)),
    Svc("ranged", 9, ("web-1a", "web-2a"), {"loadBalancerSourceRanges": ["192.0.2.0/24", "2001:db8:1::/64"]}),
    Svc(
        "closed",
        10,
        ("web-1a", "web-2a"),
        {"loadBalancerSourceRanges": ["198.51.100.0/24", "2001:db8:9::/64"]},
    ),
    Svc("sticky", 11, ("web-1a", "web-1b", "web-2a", "web-2b"), {"sessionAffinity": "ClientIP"}),
    Svc("draining", 12, ("web-1a", "web-2a"), conditions=DRAINING),
    Svc("host", 13, ("node-1",)),
    Svc("plain", 14, ("web-1a", "web-2a"), type="ClusterIP"),
)
BY_NAME = {service.name: service for service in SERVICES}


@dataclasses.dataclass(frozen=True)
class Case:
    """`asking`: a host's name, `#` in it is the node's number. `end` judges the answers."""

    asking: str
    service: str
    way: str
    end: Callable[[Place, list[Answer]], object]
    times: int = 1
    says: str = ""
    protocols: tuple[str, ...] = PROTOCOLS

    def __str__(self) -> str:
        return f"{self.asking} to {self.service} by {self.way}: {self.says or self.end.__name__}"


@dataclasses.dataclass(frozen=True)
class Place:
    """What the answers to a case are judged by."""

    lab: Lab
    asker: Host
    node: NodeHost
    family: int

    def own(self, host: Host) -> str:
        return host.ipv4 if self.family == 4 else host.ipv6

    def is_the_nodes(self, address: str) -> bool:
        gateway = str((self.node.pod_cidr if self.family == 4 else self.node.pod_cidr6)[1])
        return address in (self.own(self.node), gateway)


def _replies(answers: list[Answer]) -> list[Reply]:
    assert all(isinstance(a, Reply) for a in answers), [str(a) for a in answers]
    return [a for a in answers if isinstance(a, Reply)]


def own_address(place: Place, answers: list[Answer]) -> None:
    assert {a.client for a in _replies(answers)} == {place.own(place.asker)}


def masqueraded(place: Place, answers: list[Answer]) -> None:
    assert all(place.is_the_nodes(a.client) for a in _replies(answers)), answers


def answered(place: Place, answers: list[Answer]) -> None:
    _replies(answers)


def _not_sent(place: Place, answer: Answer) -> bool:
    """How the kernel tells a process of the node itself, by UDP, of a packet refused or dropped on its way
    out: the call that sends it fails at once."""
    told = isinstance(answer, Unreachable) and answer.error == "Operation not permitted"
    return told and isinstance(place.asker, NodeHost)


def refused(place: Place, answers: list[Answer]) -> None:
    assert all(isinstance(a, Refused) or _not_sent(place, a) for a in answers), [str(a) for a in answers]


def dropped(place: Place, answers: list[Answer]) -> None:
    assert all(isinstance(a, TimedOut) or _not_sent(place, a) for a in answers), [str(a) for a in answers]


def spread(place: Place, answers: list[Answer]) -> None:
    """Both endpoints; one of them 24 times in a row has a chance of one in eight million."""
    assert {a.hostname for a in _replies(answers)} == {"web-1a", "web-2a"}


def sticks(place: Place, answers: list[Answer]) -> None:
    assert len({a.hostname for a in _replies(answers)}) == 1


EXTERNAL = ("nodePort", "externalIP", "loadBalancer")
OTHER = {"1": "2", "2": "1"}
CASES = [
    # masquerade: whose address does the Pod see?
    Case("ask-#", "both", "clusterIP", own_address),
    Case("node-#", "both", "clusterIP", masqueraded),
    Case("client-#", "both", "clusterIP", masqueraded),
    *(Case(a, "both", way, masqueraded) for a in ("ask-#", "node-#", "client-#") for way in EXTERNAL),
    Case("node-@", "both", "nodePort", masqueraded, says="masqueraded (from the other node)"),
    Case("ask-@", "both", "nodePort", answered, says="answered (from a pod of the other node)"),
    Case("ask-#", "plain", "externalIP", masqueraded, says="an externalIP needs no type"),
    # a Pod that is its own endpoint
    *(Case("web-#a", "self-#", way, masqueraded, says="itself") for way in ("clusterIP", *EXTERNAL)),
    Case("web-#a", "both", "clusterIP", spread, 24, "itself or another"),
    # both endpoints, from everywhere
    Case("ask-#", "both", "clusterIP", spread, 24),
    Case("client-#", "both", "nodePort", spread, 24),
    # refusals
    *(Case(a, "empty", "clusterIP", refused) for a in ("ask-#", "node-#", "client-#")),
    *(
        Case(a, "empty", way, refused)
        for a in ("ask-#", "node-#", "client-#", "node-@")
        for way in ("nodePort",)
    ),
    *(Case(a, "empty", way, refused) for a in ("ask-#", "client-#", "node-#") for way in EXTERNAL[1:]),
    *(Case(a, "both", "otherPort", refused) for a in ("ask-#", "node-#", "client-#")),
    # traffic policies
    *(Case("client-#", "outer-#", way, own_address, says="local: address kept") for way in EXTERNAL),
    *(Case("client-#", "outer-@", way, dropped, says="none local") for way in EXTERNAL),
    *(Case("ask-#", "outer-@", way, own_address, says="pods may go anywhere") for way in EXTERNAL),
    *(Case("node-#", "outer-@", way, masqueraded, says="so may the node") for way in EXTERNAL),
    Case("ask-#", "outer-@", "clusterIP", own_address),
    Case("ask-#", "inner-#", "clusterIP", own_address),
    Case("ask-#", "inner-@", "clusterIP", dropped, says="none local"),
    Case("node-#", "inner-@", "clusterIP", dropped, says="none local"),
    Case("client-#", "inner-@", "nodePort", masqueraded, says="inner policy is not for nodePorts"),
    # source ranges
    Case("client-#", "ranged", "loadBalancer", masqueraded),
    Case("ask-#", "ranged", "loadBalancer", dropped, says="pods are in no range"),
    Case("client-#", "closed", "loadBalancer", dropped),
    Case("client-#", "closed", "nodePort", masqueraded, says="ranges are not for nodePorts"),
    Case("client-#", "closed", "externalIP", masqueraded, says="nor for externalIPs"),
    # the rest
    Case("ask-#", "sticky", "clusterIP", sticks, 12),
    Case("client-#", "sticky", "nodePort", sticks, 12),
    Case("ask-#", "draining", "clusterIP", own_address),
    Case("client-#", "draining", "nodePort", masqueraded),
    # A UDP server on a host with several addresses answers from the one that faces the client, whatever it
    # was asked on: not a matter of the dataplane.
    Case("ask-#", "host", "clusterIP", answered, protocols=("http",)),
    Case("client-#", "host", "nodePort", answered, protocols=("http",)),
    Case("node-#", "host", "clusterIP", answered, protocols=("http",)),
]

Question = tuple[Case, str, int, str]  # case, node's number, family, protocol
QUESTIONS: list[Question] = [
    (case, number, family, protocol)
    for case in CASES
    for number in "12"
    for family in FAMILIES
    for protocol in case.protocols
]


def _named(text: str, number: str) -> str:
    return text.replace("#", number).replace("@", OTHER[number])


def _probe(question: Question, lab: Lab) -> Probe:
    case, number, family, protocol = question
    service, port = BY_NAME[_named(case.service, number)], PORTS[protocol]
    node = lab.hosts[f"node-{number}"]
    ip, port = {
        "clusterIP": (_vip(service.number, family), port),
        "otherPort": (_vip(service.number, family), 99),
        "externalIP": (_external(service.number, family), port),
        "loadBalancer": (_external(100 + service.number, family), port),
        "nodePort": (node.ipv4 if family == 4 else node.ipv6, service.node_port + (protocol == "udp")),
    }[case.way]
    timeout_s = FIRST_TRY_S if case.end in (refused, dropped) else 5.0
    return Probe(ip, port, protocol, timeout_s, case.times)


@pytest.fixture(scope="module")
def host_network_endpoint(two_nodes: tuple[Lab, NodeHost, NodeHost]) -> None:
    two_nodes[1].serve(http=80, udp=53)


@pytest.fixture(scope="module")
def answers(
    two_nodes: tuple[Lab, NodeHost, NodeHost],
    tmp_path_factory: pytest.TempPathFactory,
    host_network_endpoint: None,
    follow: Any,
) -> dict[Question, list[Answer]]:
    lab, *nodes = two_nodes
    folder = follow(tmp_path_factory.mktemp("packets"), nodes)
    for service in SERVICES:
        folder.put(service.name, *service.manifests(lab))
    folder.cluster.snapshot()
    folder.give_addresses({s.name: s.addresses() for s in SERVICES if s.type == "LoadBalancer"})
    folder.settle()
    by_asker: dict[str, list[Question]] = {}
    for question in QUESTIONS:
        by_asker.setdefault(_named(question[0].asking, question[1]), []).append(question)
    found: dict[Question, list[Answer]] = {}
    for name, questions in by_asker.items():
        given = lab.hosts[name].ask([_probe(q, lab) for q in questions])
        found |= dict(zip(questions, given, strict=True))
    return found


def _id(question: Question) -> str:
    case, number, family, protocol = question
    return f"{case}, node-{number} IPv{family} {protocol}"


@pytest.mark.parametrize("question", QUESTIONS, ids=_id)
def test_packets(
    question: Question,
    answers: dict[Question, list[Answer]],
    two_nodes: tuple[Lab, NodeHost, NodeHost],
) -> None:
    case, number, family, _ = question
    lab, *nodes = two_nodes
    place = Place(lab, lab.hosts[_named(case.asking, number)], nodes[int(number) - 1], family)
    case.end(place, answers[question])
