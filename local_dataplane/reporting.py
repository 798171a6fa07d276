"""Puts what an agent says of itself together from real parts."""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Iterator, Mapping

from lbprov.cluster.apiserver.events import EventRecorder
from lbprov.model import IPFamily
from lbprov.observe.node_metrics import NodeMetrics
from local_dataplane import gauges
from local_dataplane.agent import Agent
from local_dataplane.api_source import ApiSource
from local_dataplane.config import NodeConfig, NodeFacts
from local_dataplane.health_checks import HealthChecks
from local_dataplane.http_ports import HttpPorts
from local_dataplane.monitor import ApiTeller, Monitor, Silence, Teller


@contextlib.contextmanager
def reporting(agent: Agent, config: NodeConfig, pages: Mapping[str, tuple[str, int]]) -> Iterator[Monitor]:
    """Health, metrics and Events of an agent, for as long as it runs. `pages`: where they are asked for."""
    http = HttpPorts()
    with _teller(agent) as teller:
        checks = HealthChecks(http, agent.node_name)
        monitor = Monitor(agent, NodeMetrics(agent.mode), http, checks, teller, pages)
        checks.is_healthy = lambda: monitor.health().is_healthy
        checks.on_trouble = monitor.no_health_check
        checks.addresses = lambda family: _nodeport_hosts(agent, config, family)
        gauges.attach(monitor)
        agent.observer = monitor
        http.start()
        try:
            yield monitor
        finally:
            http.stop()


@contextlib.contextmanager
def _teller(agent: Agent) -> Iterator[Teller]:
    if not isinstance(agent.source, ApiSource):
        yield Silence()
        return
    recorder = EventRecorder(agent.source.transport, agent.node_name)
    try:
        yield ApiTeller(recorder)
    finally:
        recorder.stop()


def _nodeport_hosts(agent: Agent, config: NodeConfig, family: IPFamily) -> tuple[str, ...]:
    """The node's addresses that serve NodePorts; none: all do."""
    if agent.node is None:
        return ()
    node = NodeFacts.of(agent.node)
    networks = [ipaddress.ip_network(cidr) for cidr in config.for_node(node).nodeport_cidrs(family)]
    return tuple(ip for ip in node.addresses if any(ipaddress.ip_address(ip) in n for n in networks))
