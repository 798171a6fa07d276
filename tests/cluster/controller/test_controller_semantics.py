"""What the controller makes of a Service, one row per rule; the cloud is the in-memory one.

Rules that only a real provider has (health checks, source ranges, protocols) are in test_controller_aws.py.
"""

from __future__ import annotations

import threading
from typing import Any

import pytest

from lbprov.api import ProviderError
from lbprov.lab.controlplane import eventually
from lbprov.lab.controlplane.api import JSON_PATCH, STRATEGIC_PATCH
from lbprov.lab.controlplane.objects import add_node, service
from lbprov.logic.selection import FINALIZER

CLASS = "lbprov.io/memory"
SITE_FLAGS = ("--drift-period", "0")
WHOLE = ["frontend", "listener", "target"]


def ours(name: str = "web", **spec: Any) -> dict[str, Any]:
    return service(name, loadBalancerClass=CLASS, **spec)


@pytest.fixture(autouse=True)
def _a_node(api: Any, site: Any) -> None:
    """Known to the controller, so that no Service is seen before it; nor is the last test's taken for it."""
    eventually(lambda: site.controller.knows_nodes(0))
    add_node(api, "node-1")
    eventually(lambda: site.controller.knows_nodes(1))


def test_made_told_and_taken_away(site: Any) -> None:
    site.api.create(ours())
    site.wait_ready("web")
    assert site.kinds() == WHOLE
    (frontend,) = [r for r in site.resources() if r.name.kind == "frontend"]
    assert site.ingress("web") == [{"ip": frontend.address, "ipMode": "Proxy"}]
    told = site.conditions("web")
    assert (told["Ready"]["status"], told["Ready"]["reason"]) == ("True", "EnsuredLoadBalancer")
    assert told["Provider"]["reason"] == "memory"
    eventually(lambda: {"EnsuringLoadBalancer", "EnsuredLoadBalancer"} <= set(site.reasons("web")))
    assert sorted(site.events("web")) == [
        ("Normal", "EnsuredLoadBalancer", "Ensured load balancer"),
        ("Normal", "EnsuringLoadBalancer", "Ensuring load balancer"),
    ]
    site.api.delete("Service", "web")
    eventually(lambda: site.gone("web"))
    assert site.kinds() == []
    eventually(lambda: {"DeletingLoadBalancer", "DeletedLoadBalancer"} <= set(site.reasons("web")))


# -- whose it is


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({}, id="no-class-and-no-flag-to-own-those"),
        pytest.param({"loadBalancerClass": "example.com/other"}, id="of-another-class"),
        pytest.param({"type": "ClusterIP"}, id="cluster-ip"),
        pytest.param({"type": "NodePort"}, id="node-port"),
        pytest.param({"clusterIP": "None", "type": "ClusterIP"}, id="headless"),
    ],
)
def test_left_alone(site: Any, spec: dict[str, Any]) -> None:
    site.api.create(service("theirs", **spec))
    site.api.create(ours("mine"))
    site.wait_ready("mine")
    stored = site.api.get("Service", "theirs")
    assert "finalizers" not in stored["metadata"]
    assert stored["status"] == {"loadBalancer": {}}
    assert site.events("theirs") == []
    assert [c for c in site.calls() if c.name == "theirs"] == []


def test_a_finalizer_of_another_controller_is_not_ours_to_take_off(site: Any) -> None:
    theirs = service("theirs", loadBalancerClass="example.com/other")
    theirs["metadata"]["finalizers"] = [FINALIZER]
    site.api.create(theirs)
    site.api.delete("Service", "theirs")
    site.api.create(ours("mine"))
    site.wait_ready("mine")
    assert site.api.get("Service", "theirs")["metadata"]["finalizers"] == [FINALIZER]
    site.api.patch("Service", "theirs", {"metadata": {"finalizers": None}})


@pytest.mark.parametrize("type_", ["ClusterIP", "NodePort"])
def test_type_changes_both_ways(site: Any, type_: str) -> None:
    site.api.create(ours())
    site.wait_ready("web")
    change: dict[str, Any] = {"spec": {"type": type_, "loadBalancerClass": None}}
    if type_ == "ClusterIP":
        change["spec"]["ports"] = [{"name": "http", "port": 80, "protocol": "TCP"}]
    site.api.patch("Service", "web", change)
    eventually(lambda: "finalizers" not in site.api.get("Service", "web")["metadata"])
    assert site.kinds() == []
    eventually(lambda: site.conditions("web") == {})
    assert site.ingress("web") == []
    site.api.patch("Service", "web", {"spec": {"type": "LoadBalancer", "loadBalancerClass": CLASS}})
    site.wait_ready("web")
    assert site.kinds() == WHOLE


def test_another_service_of_the_same_name(site: Any) -> None:
    """Its finalizer was taken off by force, so the cluster let it go before the cloud did."""
    site.api.create(ours())
    site.wait_ready("web")
    first = site.api.get("Service", "web")["metadata"]["uid"]
    site.controller.pause()  # so that it sees both changes at once
    site.api.delete("Service", "web")
    site.api.patch("Service", "web", {"metadata": {"finalizers": None}})
    site.api.create(ours())
    site.controller.resume()
    second = site.api.get("Service", "web")["metadata"]["uid"]
    assert second != first
    site.wait_ready("web")
    eventually(lambda: {r.owner.uid for r in site.resources()} == {second})
    assert site.kinds() == WHOLE


# -- what is safe


def test_the_finalizer_is_there_before_the_cloud_is_written_to(site: Any) -> None:
    seen: list[tuple[list[str], str]] = []

    def look(operation: str, number: int, when: str) -> None:
        if when == "before":
            stored = site.api.get("Service", "web")
            claims = [
                c["reason"] for c in stored["status"]["conditions"] if c["type"] == "lbprov.io/Provider"
            ]
            seen.append((stored["metadata"]["finalizers"], claims[0]))

    site.world.on_write = look
    site.api.create(ours())
    site.wait_ready("web")
    assert seen == [([FINALIZER], "memory")] * 3


def test_the_finalizer_stays_until_nothing_is_left(site: Any) -> None:
    """The cloud takes its time to delete: meanwhile `kubectl describe` tells what is awaited."""
    site.api.create(ours())
    site.wait_ready("web")
    site.world.deletion_s = 1.5
    site.api.delete("Service", "web")
    eventually(lambda: site.conditions("web")["Ready"]["reason"] == "DeletingLoadBalancer")
    assert "going away" in site.conditions("web")["Ready"]["message"]
    while site.resources():
        assert FINALIZER in site.api.get("Service", "web")["metadata"]["finalizers"]
    eventually(lambda: site.gone("web"))


def test_a_cloud_that_refuses_to_delete_keeps_the_service(site: Any) -> None:
    site.api.create(ours())
    site.wait_ready("web")
    refuse = threading.Event()
    refuse.set()

    def deny(operation: str, number: int, when: str) -> None:
        if refuse.is_set() and operation == "delete":
            raise ProviderError("permission denied: grant Delete")

    site.world.on_write = deny
    site.api.delete("Service", "web")
    eventually(lambda: "DeleteLoadBalancerFailed" in site.reasons("web"))
    assert FINALIZER in site.api.get("Service", "web")["metadata"]["finalizers"]
    refuse.clear()
    eventually(lambda: site.gone("web"))
    assert site.kinds() == []


# -- what is asked for


def test_a_port_more_and_a_port_less(site: Any) -> None:
    site.api.create(ours(ports={"http": 80}))
    site.wait_ready("web")
    address = site.ingress("web")
    two = [{"name": "http", "port": 80, "protocol": "TCP"}, {"name": "dns", "port": 53, "protocol": "UDP"}]
    site.api.patch("Service", "web", {"spec": {"ports": two}}, content_type=STRATEGIC_PATCH)
    eventually(lambda: site.kinds().count("listener") == 2)
    stored = site.api.get("Service", "web")["spec"]["ports"]
    listeners = {
        (r.port, str(r.protocol), r.node_port) for r in site.resources() if r.name.kind == "listener"
    }
    assert listeners == {(p["port"], p["protocol"], p["nodePort"]) for p in stored}
    site.api.patch("Service", "web", [{"op": "remove", "path": "/spec/ports/0"}], content_type=JSON_PATCH)
    eventually(lambda: site.kinds().count("listener") == 1)
    assert site.ingress("web") == address


@pytest.mark.parametrize(
    ("metadata", "spec"),
    [
        pytest.param({}, {"loadBalancerSourceRanges": ["203.0.113.0/24"]}, id="field"),
        pytest.param(
            {"annotations": {"service.beta.kubernetes.io/load-balancer-source-ranges": " 203.0.113.0/24 "}},
            {},
            id="annotation",
        ),
        pytest.param(
            {"annotations": {"service.beta.kubernetes.io/load-balancer-source-ranges": "10.0.0.0/8"}},
            {"loadBalancerSourceRanges": ["203.0.113.0/24"]},
            id="field-before-annotation",
        ),
    ],
)
def test_source_ranges(site: Any, metadata: dict[str, Any], spec: dict[str, Any]) -> None:
    web = ours(**spec)
    web["metadata"] |= metadata
    site.api.create(web)
    site.wait_ready("web")
    (frontend,) = [r for r in site.resources() if r.name.kind == "frontend"]
    assert frontend.source_ranges == ("203.0.113.0/24",)


def test_an_address_that_is_asked_for(site: Any) -> None:
    site.api.create(ours("first", loadBalancerIP="198.51.100.7"))
    site.wait_ready("first")
    assert site.ingress("first") == [{"ip": "198.51.100.7", "ipMode": "Proxy"}]
    site.api.create(ours("second", loadBalancerIP="198.51.100.7"))
    site.wait_ready("second")
    assert site.ingress("second")[0]["ip"].startswith("198.18.")
    condition = site.conditions("second")["RequestedIP"]
    assert (condition["status"], condition["reason"]) == ("False", "LoadBalancerIPInUse")
    assert f"{site.api.namespace}/first" in condition["message"]
    eventually(lambda: "LoadBalancerIPInUse" in site.reasons("second"))


def test_without_node_ports_an_event_says_what_to_do(site: Any) -> None:
    site.api.create(ours(allocateLoadBalancerNodePorts=False))
    eventually(lambda: site.conditions("web").get("Ready"))
    ready = site.conditions("web")["Ready"]
    assert ready["status"] == "False"
    assert "spec.ports[0].nodePort" in ready["message"]
    assert "allocateLoadBalancerNodePorts" in ready["message"], "the remedy"
    eventually(lambda: site.reasons("web") == ["SyncLoadBalancerFailed"])
    assert "finalizers" not in site.api.get("Service", "web")["metadata"]
    site.api.patch("Service", "web", {"spec": {"allocateLoadBalancerNodePorts": True}})
    site.wait_ready("web")


def test_a_refusal_names_field_and_remedy_and_is_told_once(site: Any) -> None:
    web = ours()
    web["metadata"]["annotations"] = {"lbprov.io/scheme": "inside"}
    site.api.create(web)
    eventually(lambda: site.reasons("web") == ["SyncLoadBalancerFailed"])
    message = site.conditions("web")["Ready"]["message"]
    assert "metadata.annotations[lbprov.io/scheme]" in message
    assert "internet-facing or internal" in message
    assert site.kinds() == []
    site.api.patch("Service", "web", {"metadata": {"labels": {"touched": "1"}}})
    site.api.patch("Service", "web", {"metadata": {"annotations": {"lbprov.io/scheme": None}}})
    site.wait_ready("web")


def test_a_typing_error_is_told_and_the_rest_followed(site: Any) -> None:
    site.api.create(ours())
    site.wait_ready("web")
    mistakes = {"lbprov.io/scheme": "inside", "lbprov.io/ip-policy": "always"}
    ports = [{"name": n, "port": p, "protocol": "TCP"} for n, p in (("web", 80), ("more", 8080))]
    site.api.patch("Service", "web", {"metadata": {"annotations": mistakes}, "spec": {"ports": ports}})
    eventually(lambda: site.kinds().count("listener") == 2)
    eventually(lambda: "UnknownAnnotation" in site.reasons("web"))
    ready = site.conditions("web")["Ready"]
    assert ready["status"] == "True"
    assert "metadata.annotations[lbprov.io/scheme]: 'inside' is not allowed" in ready["message"]
    assert "metadata.annotations[lbprov.io/ip-policy]: 'always' is not allowed" in ready["message"]
    site.api.patch("Service", "web", {"metadata": {"annotations": dict.fromkeys(mistakes)}})
    eventually(lambda: site.conditions("web")["Ready"]["message"] == "the load balancer is in place")
    assert site.reasons("web").count("UnknownAnnotation") == 1


# -- what is not written


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"metadata": {"labels": {"a": "b"}}}, id="label"),
        pytest.param({"spec": {"selector": {"app": "other"}}}, id="selector"),
        pytest.param({"spec": {"internalTrafficPolicy": "Local"}}, id="internal-traffic-policy"),
        pytest.param({"spec": {"publishNotReadyAddresses": True}}, id="publish-not-ready"),
        pytest.param({"metadata": {"annotations": {"example.com/note": "1"}}}, id="annotation-of-others"),
    ],
)
def test_a_change_that_changes_nothing_writes_nothing(site: Any, change: dict[str, Any]) -> None:
    site.api.create(ours())
    site.wait_ready("web")
    site.controller.settle()
    eventually(lambda: len(site.events("web")) == 2)
    before, world_writes, world_reads = len(site.calls()), site.world.writes, site.world.reads
    site.api.patch("Service", "web", change)
    site.api.create(ours("marker"))
    site.wait_ready("marker")
    site.controller.settle()
    assert [c for c in site.calls()[before:] if c.name == "web"] == []
    assert site.world.writes - world_writes == 3, "the marker's"
    assert site.world.reads == world_reads


@pytest.mark.parametrize(
    ("subresource", "vandalism"),
    [
        pytest.param("status", {"status": {"loadBalancer": {"ingress": None}}}, id="address-wiped"),
        pytest.param(
            "status", {"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.66"}]}}}, id="another-address"
        ),
        pytest.param("status", {"status": {"conditions": None}}, id="conditions-wiped"),
        pytest.param("", {"metadata": {"finalizers": None}}, id="finalizer-taken-off"),
    ],
)
def test_what_somebody_else_overwrites_is_repaired(
    site: Any, subresource: Any, vandalism: dict[str, Any]
) -> None:
    site.api.create(ours())
    site.wait_ready("web")
    site.controller.settle()
    reads, writes = site.world.reads, site.world.writes
    right = site.api.get("Service", "web")
    site.api.patch("Service", "web", vandalism, subresource=subresource)

    def repaired() -> bool:
        stored = site.api.get("Service", "web")
        conditions = {c["type"]: (c["status"], c["reason"]) for c in stored["status"].get("conditions", [])}
        wanted = {c["type"]: (c["status"], c["reason"]) for c in right["status"]["conditions"]}
        same_address = stored["status"]["loadBalancer"] == right["status"]["loadBalancer"]
        return same_address and conditions == wanted and stored["metadata"].get("finalizers") == [FINALIZER]

    eventually(repaired)
    assert (site.world.reads, site.world.writes) == (reads, writes), "and the cloud is not asked"


def test_conditions_and_finalizers_of_others_stay(site: Any) -> None:
    web = ours()
    web["metadata"]["finalizers"] = ["example.com/theirs"]
    site.api.create(web)
    theirs = {
        "type": "example.com/Checked",
        "status": "True",
        "reason": "Fine",
        "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    change = {"status": {"conditions": [theirs]}}
    site.api.patch("Service", "web", change, subresource="status", content_type=STRATEGIC_PATCH)
    site.wait_ready("web")
    assert "example.com/Checked" in site.conditions("web")
    site.api.delete("Service", "web")
    eventually(lambda: site.api.get("Service", "web")["metadata"]["finalizers"] == ["example.com/theirs"])
    assert "example.com/Checked" in site.conditions("web")
    assert site.kinds() == []
    site.api.patch("Service", "web", {"metadata": {"finalizers": None}})
