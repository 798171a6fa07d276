"""Packets while things change: no request fails, and UDP clients follow their Service."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable
from typing import Any

import pytest

from lbprov.lab import Answer, Host, Lab, NodeHost, Probe, Refused, Reply, TimedOut

VIPS = {4: "10.96.8.{}", 6: "fd00:10:96::8{:02x}"}
PATHS = [
    pytest.param(path, family, id=f"{path}, IPv{family}")
    for path in ("pod by node-1", "pod by node-2", "outside by node-1", "outside by node-2")
    for family in (4, 6)
]


def _service(name: str, number: int) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {
            "type": "NodePort",
            "ipFamilyPolicy": "RequireDualStack",
            "clusterIP": VIPS[4].format(number),
            "clusterIPs": [VIPS[f].format(number) for f in (4, 6)],
            "ports": [
                {"name": "http", "port": 80, "nodePort": 31000 + 2 * number},
                {"name": "dns", "port": 53, "protocol": "UDP", "nodePort": 31001 + 2 * number},
            ],
        },
    }


def _slices(name: str, hosts: list[Host]) -> list[dict[str, Any]]:
    return [
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": f"{name}-{family}", "labels": {"kubernetes.io/service-name": name}},
            "addressType": f"IPv{family}",
            "ports": [
                {"name": "http", "protocol": "TCP", "port": 80},
                {"name": "dns", "protocol": "UDP", "port": 53},
            ],
            "endpoints": [
                {
                    "addresses": [host.ipv4 if family == 4 else host.ipv6],
                    **({"nodeName": host.node.name} if hasattr(host, "node") else {}),
                }
                for host in hosts
            ],
        }
        for family in (4, 6)
    ]


class Changing:
    """A Service whose endpoints the test moves."""

    def __init__(self, folder: Any, lab: Lab, name: str, number: int) -> None:
        self.folder, self.lab, self.name, self.number = folder, lab, name, number

    def to(self, *pods: str) -> None:
        hosts = [self.lab.hosts[pod] for pod in pods]
        self.folder.put(self.name, _service(self.name, self.number), *_slices(self.name, hosts))
        self.folder.settle()

    def probe(self, path: str, family: int, protocol: str, **facts: Any) -> Probe:
        """From a Pod to the clusterIP, from outside to the NodePort."""
        if path.startswith("pod"):
            return Probe(
                VIPS[family].format(self.number), 80 if protocol == "http" else 53, protocol, **facts
            )
        node = self.lab.hosts[path.split()[-1]]
        ip, port = node.ipv4 if family == 4 else node.ipv6, 31000 + 2 * self.number + (protocol == "udp")
        return Probe(ip, port, protocol, **facts)

    def asker(self, path: str) -> Host:
        who = "ask" if path.startswith("pod") else "client"
        return self.lab.hosts[f"{who}-{path[-1]}"]


@pytest.fixture(scope="module")
def world(
    two_nodes: tuple[Lab, NodeHost, NodeHost], tmp_path_factory: pytest.TempPathFactory, follow: Any
) -> tuple[Any, Lab]:
    lab, *nodes = two_nodes
    folder = follow(tmp_path_factory.mktemp("changes"), nodes)
    folder.settle()  # rules of the mode before are gone
    return folder, lab


@pytest.fixture
def changing(world: tuple[Any, Lab]) -> Callable[[str, int], Changing]:
    folder, lab = world
    return lambda name, number: Changing(folder, lab, name, number)


ALL_PATHS = [(str(p.values[0]), int(str(p.values[1]))) for p in PATHS]


def test_no_request_fails_while_endpoints_and_other_services_change(
    world: tuple[Any, Lab], changing: Callable[[str, int], Changing]
) -> None:
    folder, lab = world
    service = changing("busy", 1)
    service.to("web-1a")
    loops = [
        service.asker(path).keep_asking([service.probe(path, family, "http") for family in (4, 6)])
        for path in sorted({path for path, _ in ALL_PATHS})
    ]
    for number, pods in enumerate(
        (["web-2a"], ["web-1a", "web-2a", "web-1b"], ["web-2b"], ["web-1b", "web-2a"])
    ):
        others = [_service(f"other-{number}-{i}", 100 + number * 10 + i) for i in range(4)]
        folder.put("others", *others, *_slices(f"other-{number}-0", [lab.hosts["web-1a"]]))
        service.to(*pods)
    folder.remove("others")
    folder.settle()
    for loop in loops:
        asked = loop.stop()
        assert asked.failures == ()
        assert asked.made >= 50
        assert {"web-1a", "web-2a", "web-2b"} <= asked.by_hostname.keys()


def test_no_request_fails_when_the_agent_is_killed_and_comes_back(
    world: tuple[Any, Lab], changing: Callable[[str, int], Changing], start_agent: Callable[..., Any]
) -> None:
    folder, _ = world
    service = changing("steady", 2)
    service.to("web-1a", "web-2a")
    loops = [
        service.asker(path).keep_asking([service.probe(path, family, "http") for family in (4, 6)])
        for path in sorted({path for path, _ in ALL_PATHS})
    ]
    for number, agent in enumerate(list(folder.agents)):
        agent.process.send_signal(signal.SIGKILL)
        agent.process.wait()
        folder.agents[number] = start_agent(agent.node, folder.path, *agent.flags)
    folder.settle()
    first_words = [agent.words[0] for agent in folder.agents]
    assert all('"msg": "applied"' in word and '"rules": 0' in word for word in first_words), first_words
    for loop in loops:
        asked = loop.stop()
        assert asked.failures == ()
        assert asked.made >= 20


def _ask_all(service: Changing, source_port: int, timeout_s: float = 2.0) -> dict[tuple[str, int], Answer]:
    """UDP from the same address and port as before, on every path: one flow each, as the kernel sees it."""
    return {
        (path, family): service.asker(path).ask(
            [service.probe(path, family, "udp", source_port=source_port, timeout_s=timeout_s)]
        )[0][0]
        for path, family in ALL_PATHS
    }


def _answered_by(answers: dict[tuple[str, int], Answer]) -> set[str]:
    return {a.hostname if isinstance(a, Reply) else str(a) for a in answers.values()}


def test_udp_clients_follow_their_service(changing: Callable[[str, int], Changing]) -> None:
    service = changing("follow", 3)
    service.to("web-1a")
    assert _answered_by(_ask_all(service, 5001)) == {"web-1a"}
    service.to("web-2b")
    assert _answered_by(_ask_all(service, 5001)) == {"web-2b"}, "the endpoint has moved"
    service.to("web-2b", "web-1a")
    assert _answered_by(_ask_all(service, 5001)) == {"web-2b"}, "a flow whose endpoint stays is not moved"
    service.to()
    nobody = _ask_all(service, 5001, 0.8)
    assert all(isinstance(a, Refused) for a in nobody.values()), "the last endpoint is gone"
    service.to("web-1b")
    assert _answered_by(_ask_all(service, 5001)) == {"web-1b"}


def test_udp_clients_of_a_service_that_is_gone(
    world: tuple[Any, Lab], changing: Callable[[str, int], Changing]
) -> None:
    folder, _ = world
    service = changing("gone", 4)
    service.to("web-1a")
    assert _answered_by(_ask_all(service, 5002)) == {"web-1a"}
    folder.remove("gone")
    folder.settle()
    assert not [a for a in _ask_all(service, 5002, 0.3).values() if isinstance(a, Reply)]


LATE_PORTS = itertools.count(5100)
"""A flow outlives the rules that it was made by: none may be known from the mode before."""


def test_udp_clients_that_were_there_before_the_service(changing: Callable[[str, int], Changing]) -> None:
    """Their first packets went nowhere (or to a closed port of the node), and connection tracking goes on
    sending the next ones there."""
    service = changing("late", 5)
    port = next(LATE_PORTS)
    early = _ask_all(service, port, 0.3)
    assert all(isinstance(a, TimedOut | Refused) or "unreachable" in str(a) for a in early.values())
    service.to("web-2a")
    assert _answered_by(_ask_all(service, port)) == {"web-2a"}


def test_udp_flows_that_were_stale_before_the_agent_started(
    world: tuple[Any, Lab], changing: Callable[[str, int], Changing], start_agent: Callable[..., Any]
) -> None:
    """The endpoint moves, and a Service goes, while no agent runs."""
    folder, _ = world
    moved, gone = changing("moved", 6), changing("went", 7)
    moved.to("web-1a")
    gone.to("web-1a")
    assert _answered_by(_ask_all(moved, 5004)) == _answered_by(_ask_all(gone, 5005)) == {"web-1a"}
    agents, folder.agents = folder.agents, []
    for agent in agents:
        assert agent.end() == 0
    moved.to("web-1b")
    folder.remove("went")
    folder.settle()
    assert _answered_by(_ask_all(moved, 5004)) == {"web-1a"}, "the old rules still hold"
    for agent in agents:
        folder.agents.append(start_agent(agent.node, folder.path, *agent.flags))
    folder.settle()
    assert _answered_by(_ask_all(moved, 5004)) == {"web-1b"}
    assert not [a for a in _ask_all(gone, 5005, 0.3).values() if isinstance(a, Reply)]


def test_a_service_comes_and_goes_everywhere(changing: Callable[[str, int], Changing], world: Any) -> None:
    """Refused without endpoints, answered with one, and not ours when its manifest is gone."""
    folder, _ = world
    service = changing("visitor", 8)

    def ask() -> set[str]:
        return {
            a.hostname if isinstance(a, Reply) else type(a).__name__
            for path, family in ALL_PATHS
            for a in service.asker(path).ask([service.probe(path, family, "http", timeout_s=0.5)])[0]
        }

    service.to()
    assert ask() == {"Refused"}
    service.to("web-1b")
    assert ask() == {"web-1b"}
    folder.remove("visitor")
    folder.settle()
    assert not ask() & {"web-1a", "web-1b"}
