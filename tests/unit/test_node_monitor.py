"""What an agent says of itself: metrics, Events, status and health, from what really happens below it."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from lbprov.model import (
    Endpoint,
    EndpointPort,
    EndpointSlice,
    Event,
    IPFamily,
    Node,
    ObjectKey,
    ProviderError,
    Service,
    ServicePort,
    Severity,
    UserError,
)
from lbprov.observe import node_metrics
from lbprov.observe.metrics import Declared
from lbprov.observe.node_metrics import NODE_DECLARED, SHARED, NodeMetrics
from local_dataplane import gauges
from local_dataplane import monitor as monitor_module
from local_dataplane.agent import Agent
from local_dataplane.config import NodeConfig, NodeFacts
from local_dataplane.flow_keeper import FlowKeeper
from local_dataplane.health import TIMEOUT_S
from local_dataplane.health_checks import HealthChecks
from local_dataplane.http_ports import HttpPorts
from local_dataplane.iptables.fixed import Table
from local_dataplane.iptables.ruleset import Ruleset
from local_dataplane.kernel.conntrack import FakeConntrack
from local_dataplane.kernel.fake_iptables import FakeIptables
from local_dataplane.kernel.sysctl import FakeSysctls
from local_dataplane.kernel.watch import RuleWatch
from local_dataplane.monitor import Monitor
from local_dataplane.program import FamilyProgram
from local_dataplane.source import Backing, Changes

V4 = IPFamily.IPV4
NODE = Node("node-1")
WEB, API = ObjectKey("shop", "web"), ObjectKey("shop", "api")


def _backing(key: ObjectKey, number: int, external: str = "", node: str = "node-2") -> Backing:
    service = Service(
        key,
        f"uid-{number}",
        ports=(ServicePort(80),),
        cluster_ips=(f"10.96.0.{number}",),
        external_ips=(external,) if external else (),
    )
    endpoint = Endpoint((f"10.244.1.{number}",), node_name=node)
    return Backing(service, (EndpointSlice(key, key.name, V4, (EndpointPort(8080),), (endpoint,)),))


class NoSource:
    name = "nowhere"
    waits_for_node = True

    def missing(self) -> str:
        return ""

    def take(self) -> Changes | None:
        raise UserError("never asked")

    def wait(self, timeout_s: float, stop: threading.Event) -> bool:
        raise UserError("never asked")


@dataclass
class Listener:
    """See `Teller`."""

    services: list[tuple[ObjectKey, str, Event]] = field(default_factory=list)
    nodes: list[tuple[str, Event]] = field(default_factory=list)

    def tell_service(self, key: ObjectKey, uid: str, event: Event) -> None:
        self.services.append((key, uid, event))

    def tell_node(self, name: str, event: Event) -> None:
        self.nodes.append((name, event))


class Bench:
    """An agent on fakes, and its monitor, by a clock of our own."""

    def __init__(self) -> None:
        self.at_s = 1000.0
        self.kernel = FakeIptables(V4)
        program = FamilyProgram(self.kernel, Ruleset(V4, NodeConfig(), NodeFacts("node-1")), RuleWatch())
        self.agent = Agent(
            NoSource(),
            "node-1",
            {V4: program},
            FlowKeeper(FakeConntrack(), NodeConfig()),
            FakeSysctls({}),
            now_s=lambda: self.at_s,
        )
        self.listener = Listener()
        self.http = HttpPorts()
        self.monitor = Monitor(
            self.agent,
            NodeMetrics("iptables"),
            self.http,
            HealthChecks(self.http, "node-1"),
            self.listener,
            {},
            now_s=lambda: self.at_s,
        )
        gauges.attach(self.monitor)
        self.agent.observer = self.monitor

    def apply(self, *backings: Backing, learned_s: float | None = None) -> None:
        services = {b.service.key: b for b in backings}
        self.agent.apply(Changes(services, (NODE,), learned_s=learned_s, version="v7"))

    def metric(self, name: str, **labels: str) -> float:
        text = self.monitor.respond("/metrics", "").body.decode()
        (value,) = (
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )
        return value

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.monitor.respond("/status", "").body)
        return found


@pytest.fixture
def bench() -> Iterator[Bench]:
    one = Bench()
    one.http.start()
    yield one
    one.http.stop()


def test_what_was_applied(bench: Bench) -> None:
    assert bench.monitor.respond("/readyz", "").status == 503
    bench.apply(_backing(WEB, 1), learned_s=999.75)
    assert bench.monitor.respond("/readyz", "").status == 200
    assert bench.metric("lbprov_node_services") == 1
    assert bench.metric("lbprov_node_sync_duration_seconds_count", family="IPv4") == 1
    assert bench.metric("lbprov_node_event_to_applied_seconds_sum", family="IPv4") == 0.25
    rules = sum(len(rules) for table in Table for rules in bench.kernel.tables[table].values())
    jumps = 6
    assert bench.metric("lbprov_node_rules", family="IPv4") == rules - jumps
    assert bench.metric("lbprov_node_rules_written_total", family="IPv4") == rules - jumps
    assert bench.metric("lbprov_node_last_sync_timestamp_seconds", family="IPv4") > 1e9
    assert bench.metric("lbprov_node_healthy") == 1
    status = bench.status()
    assert (status["services"], status["cluster_version"], status["left_out"]) == (1, "v7", [])
    assert status["takes_new_traffic"] is True


def test_a_service_that_the_kernel_refuses(bench: Bench) -> None:
    bench.kernel.refuse = {"10.244.1.1:8080"}
    bench.apply(_backing(WEB, 1), _backing(API, 2))
    ((key, uid, event),) = bench.listener.services
    assert (key, uid, event.severity, event.reason) == (WEB, "uid-1", Severity.WARNING, "ServiceNotForwarded")
    assert event.message.startswith("on node node-1: port TCP (IPv4, TCP) is not forwarded: ")
    assert bench.metric("lbprov_node_quarantined_service_ports", family="IPv4") == 1
    (left,) = bench.status()["left_out"]
    assert (left["service"], left["family"]) == ("shop/web", "IPv4")
    assert left["since"].endswith("Z")
    bench.apply(_backing(WEB, 1))
    assert len(bench.listener.services) == 1, "said once"
    bench.kernel.refuse = set()
    bench.apply(_backing(WEB, 1))
    bench.agent._note(V4, bench.agent.programs[V4], bench.agent.programs[V4].retry_left_out())
    assert [e.reason for _, _, e in bench.listener.services] == ["ServiceNotForwarded", "ServiceForwarded"]
    assert bench.metric("lbprov_node_quarantined_service_ports", family="IPv4") == 0


def test_a_refused_service_that_goes_is_no_news(bench: Bench) -> None:
    bench.kernel.refuse = {"10.244.1.1:8080"}
    bench.apply(_backing(WEB, 1))
    bench.agent.apply(Changes({WEB: None}, (NODE,)))
    assert [e.reason for _, _, e in bench.listener.services] == ["ServiceNotForwarded"]
    assert bench.status()["left_out"] == []


def test_an_address_that_is_claimed_twice(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    twice = "203.0.113.1 80/TCP is claimed twice: shop/api has it, shop/web does not"
    bench.apply(_backing(WEB, 1, "203.0.113.1"), _backing(API, 2, "203.0.113.1"))
    assert caplog.text.count(twice) == 1
    assert bench.listener.services == [], "a thousand nodes see it, and few should tell"


def test_a_node_with_an_endpoint_tells(bench: Bench) -> None:
    bench.apply(_backing(WEB, 1, "203.0.113.1", "node-1"), _backing(API, 2, "203.0.113.1"))
    ((key, _, event),) = bench.listener.services
    assert (key, event.reason) == (WEB, "AddressClaimedTwice")
    assert "203.0.113.1 80/TCP is claimed twice: shop/api has it, shop/web does not" in event.message
    bench.apply()
    assert len(bench.listener.services) == 1


def test_a_kernel_that_takes_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.apply(_backing(WEB, 1))

    def broken(text: str) -> None:
        raise ProviderError("Operation not permitted")

    good = bench.kernel.restore
    monkeypatch.setattr(bench.kernel, "restore", broken)
    for _ in range(3):
        with pytest.raises(ProviderError):
            bench.apply(_backing(API, 2), learned_s=bench.at_s)
        bench.at_s += monitor_module.TELL_NODE_AFTER_S
    ((name, event),) = bench.listener.nodes
    assert (name, event.reason, event.message) == (
        "node-1",
        "ForwardingFailed",
        "IPv4: Operation not permitted",
    )
    assert bench.metric("lbprov_node_sync_errors_total", family="IPv4") == 3
    assert bench.monitor.respond("/livez", "").status == 200, "not for so long yet"
    bench.at_s += TIMEOUT_S
    assert bench.monitor.respond("/livez", "").status == 503
    assert bench.metric("lbprov_node_healthy") == 0
    monkeypatch.setattr(bench.kernel, "restore", good)
    bench.apply()
    assert bench.monitor.respond("/livez", "").status == 200
    assert bench.agent.pending_since_s is None


def test_pages_are_opened_as_soon_as_they_can_be(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as thief:
        taken = thief.getsockname()[1]
        bench.monitor.pages = {"health": ("127.0.0.1", taken), "metrics": ("127.0.0.1", 0)}
        for _ in range(3):
            bench.monitor.tick()
            bench.at_s += 10
        assert (bench.http.is_open("health"), bench.http.is_open("metrics")) == (False, True)
        assert caplog.text.count("a port cannot be opened, trying again") == 1
    bench.monitor.tick()
    assert bench.http.is_open("health")


def test_names_are_prometheus_style() -> None:
    for declared in NODE_DECLARED:
        assert declared.name.startswith("lbprov_node_")
        assert declared.name.endswith("_total") == (declared.kind == "counter"), declared.name
        assert declared.help.endswith(".")
    assert {d for d in vars(node_metrics).values() if isinstance(d, Declared)} == {*NODE_DECLARED, *SHARED}


def test_what_is_told_is_what_is_declared(bench: Bench) -> None:
    bench.apply(_backing(WEB, 1), learned_s=999.0)
    bench.monitor.failed(None, "no folder")
    bench.monitor.failed(V4, "busy")
    bench.monitor.repaired(V4)
    bench.monitor.flows_ended(2)
    text = bench.monitor.respond("/metrics", "").body.decode()
    told = {family.name for family in text_string_to_metric_families(text)}
    assert {d.name.removesuffix("_total") for d in NODE_DECLARED} <= told
    assert bench.metric("lbprov_node_conntrack_deletions_total") == 2


def test_other_pages(bench: Bench) -> None:
    assert bench.monitor.respond("/", "").status == 404
    assert bench.monitor.respond("/healthz", "").status == 503, "its Node is not known yet"
    bench.apply()
    assert bench.monitor.respond("/healthz", "").status == 200
