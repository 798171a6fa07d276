"""What load balancers and kubelets are told: the bodies and codes of kube-proxy."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime, timedelta

import pytest

from lbprov.model import (
    Endpoint,
    EndpointPort,
    EndpointSlice,
    IPFamily,
    Node,
    ObjectKey,
    Service,
    ServicePort,
    ServiceType,
    Taint,
    TrafficPolicy,
)
from local_dataplane.health import (
    TO_BE_DELETED,
    Health,
    check_answer,
    health_check,
    healthz,
    livez,
)
from local_dataplane.source import Backing

V4, V6 = IPFamily.IPV4, IPFamily.IPV6
NOW = datetime(2026, 11, 24, 12, 0, 0, 120000, UTC)
BEFORE = NOW - timedelta(seconds=90)
NODE = Node("node-1")
FINE = Health(NOW, {V4: BEFORE, V6: BEFORE})
LATE = dataclasses.replace(FINE, late=frozenset({V6}))


def test_the_body_is_kube_proxys() -> None:
    """As kube-proxy 1.36 writes it: this order, no blanks, Go's way with times."""
    assert healthz(FINE, NODE).body == (
        b'{"lastUpdated":"2026-11-24T12:00:00.12Z","currentTime":"2026-11-24T12:00:00.12Z","nodeEligible":true,'
        b'"healthy":true,"status":{"IPv4":{"lastUpdated":"2026-11-24T11:58:30.12Z","healthy":true},'
        b'"IPv6":{"lastUpdated":"2026-11-24T11:58:30.12Z","healthy":true}}}'
    )
    assert livez(Health(NOW.replace(microsecond=0))).body == (
        b'{"lastUpdated":"2026-11-24T12:00:00Z","currentTime":"2026-11-24T12:00:00Z","healthy":true}'
    )
    assert json.loads(healthz(Health(NOW), None).body)["lastUpdated"] == "0001-01-01T00:00:00Z"
    answer = healthz(FINE, NODE)
    assert (answer.content_type, dict(answer.headers)) == (
        "application/json",
        {"X-Content-Type-Options": "nosniff"},
    )


@pytest.mark.parametrize(
    ("health", "node", "healthz_status", "livez_status"),
    [
        pytest.param(Health(NOW), NODE, 200, 200, id="starting up"),
        pytest.param(FINE, NODE, 200, 200, id="fine"),
        pytest.param(FINE, None, 503, 200, id="no such Node (any more)"),
        pytest.param(FINE, dataclasses.replace(NODE, deleted_at="2026"), 503, 200, id="a Node being deleted"),
        pytest.param(
            FINE,
            dataclasses.replace(NODE, taints=(Taint(TO_BE_DELETED, "NoSchedule"),)),
            503,
            200,
            id="drained",
        ),
        pytest.param(
            FINE, dataclasses.replace(NODE, taints=(Taint("other", "NoSchedule"),)), 200, 200, id="tainted"
        ),
        pytest.param(FINE, dataclasses.replace(NODE, unschedulable=True), 200, 200, id="cordoned"),
        pytest.param(LATE, NODE, 503, 503, id="one family is late"),
        pytest.param(Health(NOW, {V4: BEFORE}, frozenset({V6})), NODE, 200, 200, id="late at its first time"),
    ],
)
def test_codes(health: Health, node: Node | None, healthz_status: int, livez_status: int) -> None:
    assert (healthz(health, node).status, livez(health).status) == (healthz_status, livez_status)


def test_who_is_late_is_told_by_family() -> None:
    body = json.loads(livez(LATE).body)
    assert body["healthy"] is False
    assert {family: status["healthy"] for family, status in body["status"].items()} == {
        "IPv4": True,
        "IPv6": False,
    }
    assert body["lastUpdated"] == "2026-11-24T11:58:30.12Z", "not just now, when something is wrong"


WEB = Service(
    ObjectKey("shop", "web"),
    "u",
    type=ServiceType.LOAD_BALANCER,
    ports=(ServicePort(80),),
    cluster_ips=("10.96.0.1", "fd00::1"),
    external_traffic_policy=TrafficPolicy.LOCAL,
    health_check_node_port=32000,
)


def _slice(name: str, family: IPFamily, *endpoints: Endpoint, ports: bool = True) -> EndpointSlice:
    return EndpointSlice(
        ObjectKey("shop", name), "web", family, (EndpointPort(80),) if ports else (), tuple(endpoints)
    )


HERE = Endpoint(("10.244.1.2",), node_name="node-1")
THERE = Endpoint(("10.244.2.2",), node_name="node-2")
DRAINING = dataclasses.replace(HERE, ready=False, serving=True, terminating=True)


@pytest.mark.parametrize(
    ("slices", "local"),
    [
        pytest.param((), 0, id="no endpoints"),
        pytest.param((_slice("a", V4, HERE, THERE),), 1, id="one here, one elsewhere"),
        pytest.param((_slice("a", V4, HERE), _slice("b", V4, HERE)), 1, id="the same one in two slices"),
        pytest.param((_slice("a", V4, DRAINING),), 0, id="it only finishes what it has"),
        pytest.param((_slice("a", V4, dataclasses.replace(HERE, node_name="")),), 0, id="on no node"),
        pytest.param((_slice("a", V6, HERE),), 0, id="of the other family"),
        pytest.param((_slice("a", V4, HERE, ports=False),), 0, id="no ports"),
    ],
)
def test_local_endpoints_are_counted(slices: tuple[EndpointSlice, ...], local: int) -> None:
    check = health_check(Backing(WEB, slices), "node-1")
    assert check is not None
    assert (check.port, dict(check.local)[V4]) == (32000, local)


@pytest.mark.parametrize(
    "facts",
    [
        pytest.param({"external_traffic_policy": TrafficPolicy.CLUSTER}, id="policy Cluster"),
        pytest.param({"type": ServiceType.NODE_PORT}, id="no load balancer"),
        pytest.param({"health_check_node_port": 0}, id="no port"),
    ],
)
def test_who_has_no_health_check(facts: dict[str, object]) -> None:
    service = dataclasses.replace(WEB, **facts)  # type: ignore[arg-type]
    assert health_check(Backing(service, (_slice("a", V4, HERE),)), "node-1") is None


def test_a_services_answer_is_kube_proxys() -> None:
    answer = check_answer(WEB.key, 2, True)
    assert answer.body == (
        b'{\n\t"service": {\n\t\t"namespace": "shop",\n\t\t"name": "web"\n\t},\n\t"localEndpoints": 2,\n'
        b'\t"serviceProxyHealthy": true\n}'
    )
    assert answer.status == 200
    assert dict(answer.headers)["X-Load-Balancing-Endpoint-Weight"] == "2"
    assert check_answer(WEB.key, 0, True).status == 503
    sick = check_answer(WEB.key, 2, False)
    assert (sick.status, b'"serviceProxyHealthy": false' in sick.body) == (503, True)
