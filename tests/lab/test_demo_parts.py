"""The demo's parts: its manifests, its words, and the stand-in for the cloud's data path."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from lbprov.demo import kubectl
from lbprov.demo.cloud import CloudPath, ReconcileReport
from lbprov.demo.cluster import MANIFESTS
from lbprov.demo.show import DoesNotHoldError, Show
from lbprov.lab import Broken, Lab, Probe, Refused, Reply, TimedOut
from lbprov.lab.aws.world import ListenerView, LoadBalancerView
from lbprov.model import Ingress, ObjectKey, Service, ServicePort, ServiceType

WALKTHROUGH = Path(__file__).parent.parent / "walkthrough"


def test_the_demo_ships_the_walkthrough_unchanged() -> None:
    ours = {path.name: path.read_bytes() for path in MANIFESTS.iterdir()}
    assert ours == {path.name: path.read_bytes() for path in WALKTHROUGH.glob("*.yaml")}
    assert len(ours) == 8


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab.open() as lab:
        for number in (1, 2):
            lab.add_node(f"node-{number}").serve(http=31000, udp=31001)
        lab.add_client("outside")
        yield lab


def _balancer(name: str, *listeners: ListenerView, addresses: tuple[str, ...] = ()) -> LoadBalancerView:
    return LoadBalancerView(
        name=name,
        arn=f"arn:{name}",
        dns_name=f"{name}.elb.test",
        scheme="internet-facing",
        zones=("a",),
        addresses=addresses,
        listeners=listeners,
        source_ranges=(),
    )


def test_the_stand_in_forwards_what_the_api_says_and_nothing_else(lab: Lab) -> None:
    outside = lab.hosts["outside"]
    path = CloudPath(lab, {"i-1": lab.hosts["node-1"], "i-2": lab.hosts["node-2"]}, outside)
    fixed = _balancer("fixed", ListenerView(80, "TCP", 31000, ("i-2",)), addresses=("203.0.113.10",))
    both = ListenerView(80, "TCP", 31000, ("i-1", "i-2"))
    loose = _balancer("loose", both, ListenerView(53, "UDP", 31001, ("i-1",)))
    path.follow([fixed, loose])

    assert path.address(fixed) == "203.0.113.10"
    answer = outside.http_get("fixed.elb.test", 80)
    assert isinstance(answer, Reply)
    assert (answer.hostname, answer.client) == ("node-2", path.host.ipv4)
    spread = outside.ask([Probe("loose.elb.test", 80, times=40)])[0]
    assert {a.hostname for a in spread if isinstance(a, Reply)} == {"node-1", "node-2"}
    assert all(isinstance(a, Reply) for a in spread)
    udp = outside.udp_ask(path.address(loose), 53)
    assert isinstance(udp, Reply)
    assert udp.hostname == "node-1"
    assert isinstance(outside.http_get("fixed.elb.test", 81), Refused)

    path.follow([loose])
    assert isinstance(outside.http_get("fixed.elb.test", 80), Refused)
    assert isinstance(outside.http_get("loose.elb.test", 80), Reply)


def test_the_stand_in_has_nothing_for_a_listener_without_targets(lab: Lab) -> None:
    outside = lab.hosts["outside"]
    path = CloudPath(lab, {}, outside)
    path.follow([_balancer("empty", ListenerView(80, "TCP_UDP", 31000, ()))])
    assert isinstance(outside.http_get("empty.elb.test", 80), Refused)


def test_services_are_listed_as_kubectl_lists_them() -> None:
    def service(name: str, type_: ServiceType, node_port: int = 0, **fields: object) -> Service:
        port = ServicePort(8888, node_port=node_port)
        return Service(ObjectKey("default", name), "u", type_, (port,), cluster_ips=("10.96.0.9",), **fields)  # type: ignore[arg-type]

    services = [
        service("plain", ServiceType.CLUSTER_IP),
        service("external", ServiceType.CLUSTER_IP, external_ips=("101.101.101.1",)),
        service("pending", ServiceType.LOAD_BALANCER, 31000),
        service("fixed", ServiceType.LOAD_BALANCER, 31001, ingress=(Ingress(ip="203.0.113.10"),)),
        Service(ObjectKey("default", "headless"), "u", headless=True, ports=(ServicePort(53),)),
    ]
    assert kubectl.get_services(services) == [
        ("plain", "ClusterIP", "10.96.0.9", "<none>", "8888/TCP"),
        ("external", "ClusterIP", "10.96.0.9", "101.101.101.1", "8888/TCP"),
        ("pending", "LoadBalancer", "10.96.0.9", "<pending>", "8888:31000/TCP"),
        ("fixed", "LoadBalancer", "10.96.0.9", "203.0.113.10", "8888:31001/TCP"),
        ("headless", "ClusterIP", "None", "<none>", "53/TCP"),
    ]


def test_curl_says_what_became_of_a_request() -> None:
    assert kubectl.curl("10.0.0.1", 80, Reply(200, "Hello\n")) == "Hello\n"
    refused = "curl: (7) Failed to connect to 10.0.0.1 port 80 after 3 ms: Connection refused"
    assert kubectl.curl("10.0.0.1", 80, Refused(3.2)) == refused
    assert kubectl.curl("10.0.0.1", 80, TimedOut(2000)) == "curl: no answer in 2000 ms"
    assert kubectl.curl("10.0.0.1", 80, Broken("reset")) == "curl: broken off (reset)"


def test_a_reconcile_report_answers_for_services_that_it_does_not_name() -> None:
    report = ReconcileReport(({"name": "web", "ingress": [{"hostname": "x.test"}], "events": []},), 3, 1)
    assert (report.address("web"), report.address("none"), report.events("none")) == ("x.test", "", ())


def test_a_step_that_fails_is_told_in_words_and_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    for as_json in (False, True):
        show = Show(as_json=as_json)
        with pytest.raises(DoesNotHoldError), show.step(1, "Water"):  # noqa: PT012
            show.prove("water is wet", True)
            show.prove("water is dry", False, "a puddle")
        show.end()
        out = capsys.readouterr().out
        if as_json:
            document = json.loads(out)
            assert document["holds"] is False
            [step] = document["steps"]
            assert (step["holds"], step["proofs"]) == (False, ["water is wet"])
            assert step["failed"] == {"expected": "water is dry", "seen": "a puddle"}
        else:
            assert "✓ water is wet" in out
            assert out.endswith(
                "   ✗ water is dry\n   seen instead: a puddle\n\nStep 1 does not hold: Water\n"
            )
            assert "\x1b" not in out


def test_an_error_in_a_step_is_a_step_that_does_not_hold() -> None:
    show = Show()
    with (
        pytest.raises(DoesNotHoldError, match="the step can be carried out; instead: no such program"),
        show.step(1, "Work"),
    ):
        raise RuntimeError("no such program")
    assert show.steps[0].failure is not None
