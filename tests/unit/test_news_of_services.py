"""Which changes of a Service are news: one row per field, and the echo of our own writes."""

from dataclasses import replace

import pytest

from lbprov.controller.news import Ledger, News, Written, news
from lbprov.model import (
    Condition,
    Ingress,
    IPFamily,
    IPMode,
    ObjectKey,
    Service,
    ServicePort,
    ServiceType,
    SessionAffinity,
    TrafficPolicy,
)

FINALIZER = "service.kubernetes.io/load-balancer-cleanup"
KEY = ObjectKey("default", "web")
READY = Condition("lbprov.io/Ready", "True", "Ready", "")
FOREIGN = Condition("example.com/Checked", "True", "Fine", "")
SERVICE = Service(
    KEY,
    uid="1",
    type=ServiceType.LOAD_BALANCER,
    ports=(ServicePort(80, node_port=30080),),
    finalizers=(FINALIZER,),
    ingress=(Ingress(hostname="lb.example.com"),),
    conditions=(READY,),
)
WRITTEN = Written.of(SERVICE.ingress, SERVICE.conditions)
PORT = SERVICE.ports[0]


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"type": ServiceType.NODE_PORT}, id="type"),
        pytest.param({"uid": "2"}, id="uid"),
        pytest.param({"load_balancer_class": "lbprov.io/aws"}, id="class"),
        pytest.param({"load_balancer_source_ranges": ("10.0.0.0/8",)}, id="source-ranges"),
        pytest.param({"load_balancer_ip": "192.0.2.1"}, id="load-balancer-ip"),
        pytest.param({"external_ips": ("192.0.2.1",)}, id="external-ips"),
        pytest.param({"annotations": {"example.com/any": "1"}}, id="any-annotation"),
        pytest.param({"external_traffic_policy": TrafficPolicy.LOCAL}, id="traffic-policy"),
        pytest.param({"health_check_node_port": 31000}, id="health-check-node-port"),
        pytest.param({"session_affinity": SessionAffinity.CLIENT_IP}, id="affinity"),
        pytest.param({"session_affinity_timeout_s": 60}, id="affinity-timeout"),
        pytest.param({"ip_families": (IPFamily.IPV4, IPFamily.IPV6)}, id="families"),
        pytest.param({"allocate_node_ports": False}, id="allocate-node-ports"),
        pytest.param({"deleted_at": "2026-01-01T00:00:00Z"}, id="deletion"),
        pytest.param({"ports": (replace(PORT, name="http"),)}, id="port-name"),
        pytest.param({"ports": (replace(PORT, port=81),)}, id="port-number"),
        pytest.param({"ports": (replace(PORT, node_port=30081),)}, id="node-port"),
        pytest.param({"ports": (replace(PORT, target_port="http"),)}, id="target-port"),
        pytest.param({"ports": (replace(PORT, app_protocol="http"),)}, id="app-protocol"),
        pytest.param({"ports": (ServicePort(443), PORT)}, id="port-order"),
    ],
)
def test_what_is_asked_for(changed: dict[str, object]) -> None:
    new = replace(SERVICE, **changed)  # type: ignore[arg-type]
    assert news(SERVICE, new, WRITTEN, FINALIZER) is News.CHANGED


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"labels": {"a": "b"}}, id="labels"),
        pytest.param({"selector": {"a": "b"}}, id="selector"),
        pytest.param({"generation": 7}, id="generation"),
        pytest.param({"internal_traffic_policy": TrafficPolicy.LOCAL}, id="internal-traffic-policy"),
        pytest.param({"publish_not_ready_addresses": True}, id="publish-not-ready"),
        pytest.param({"finalizers": (FINALIZER, "example.com/theirs")}, id="a-finalizer-of-others"),
        pytest.param({"conditions": (READY, FOREIGN)}, id="a-condition-of-others"),
    ],
)
def test_what_is_no_news(changed: dict[str, object]) -> None:
    new = replace(SERVICE, **changed)  # type: ignore[arg-type]
    assert news(SERVICE, new, WRITTEN, FINALIZER) is News.NONE


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"ingress": ()}, id="status-wiped"),
        pytest.param({"ingress": (Ingress(ip="192.0.2.66"),)}, id="another-address"),
        pytest.param({"ingress": (Ingress("192.0.2.1", ip_mode=IPMode.VIP),)}, id="another-ip-mode"),
        pytest.param({"conditions": ()}, id="our-condition-removed"),
        pytest.param({"conditions": (replace(READY, status="False"),)}, id="our-condition-changed"),
        pytest.param({"finalizers": ()}, id="our-finalizer-removed"),
    ],
)
def test_what_somebody_else_overwrote(changed: dict[str, object]) -> None:
    new = replace(SERVICE, **changed)  # type: ignore[arg-type]
    assert news(SERVICE, new, WRITTEN, FINALIZER) is News.OVERWRITTEN
    assert news(SERVICE, new, None, FINALIZER) is News.NONE, "not ours to repair"


def test_an_address_without_a_mode_comes_back_as_a_vip() -> None:
    written = Written.of([Ingress(ip="192.0.2.1")], [READY])
    old = replace(SERVICE, ingress=())
    new = replace(SERVICE, ingress=(Ingress("192.0.2.1", ip_mode=IPMode.VIP),))
    assert news(old, new, written, FINALIZER) is News.NONE


def test_coming_and_going_is_news() -> None:
    assert news(None, SERVICE, None, FINALIZER) is News.CHANGED
    assert news(SERVICE, None, WRITTEN, FINALIZER) is News.CHANGED


def test_our_own_writes_echo_without_being_heard() -> None:
    """One reconcile as the watch shows it: the finalizer, then the status, announced before either came."""
    ledger = Ledger(FINALIZER)
    bare = replace(SERVICE, finalizers=(), ingress=(), conditions=())
    assert ledger.see(KEY, bare) == (None, News.CHANGED)
    ledger.write(KEY, bare.ingress, bare.conditions)
    ledger.write(KEY, SERVICE.ingress, SERVICE.conditions)
    assert ledger.see(KEY, replace(bare, finalizers=(FINALIZER,)))[1] is News.NONE
    assert ledger.see(KEY, SERVICE)[1] is News.NONE
    assert ledger.see(KEY, replace(SERVICE, ingress=()))[1] is News.OVERWRITTEN
    ledger.write(KEY, SERVICE.ingress, SERVICE.conditions)
    assert ledger.see(KEY, SERVICE)[1] is News.NONE


def test_what_was_released_may_change_unheard_until_it_is_ours_again() -> None:
    ledger = Ledger(FINALIZER)
    ledger.see(KEY, SERVICE)
    ledger.write(KEY, SERVICE.ingress, SERVICE.conditions)
    ledger.release(KEY)
    assert ledger.see(KEY, replace(SERVICE, finalizers=(), ingress=(), conditions=()))[1] is News.NONE
    assert ledger.see(KEY, None)[1] is News.CHANGED
    assert (ledger._seen, ledger._written) == ({}, {})
