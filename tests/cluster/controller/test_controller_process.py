"""The controller as a process: how it starts, changes hands, is told to end, and what it says meanwhile."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from lbprov.lab.controlplane import Api, ControlPlane, Fault, Relay, eventually
from lbprov.lab.controlplane.objects import add_node, service
from lbprov.testing.memory_world import MemoryWorld

LEASE = ("Lease.coordination.k8s.io", "lbprov-controller", "lbprov-system")
SHORT_LEASE = ("--leader-elect", "--lease-duration", "8", "--renew-deadline", "6", "--retry-period", "0.5")
LONG_LEASE = ("--leader-elect", "--lease-duration", "300", "--renew-deadline", "200")
"""Who takes over long before its end has not waited it out."""
WRITES = {"create", "update", "patch", "delete"}
USER = "system:serviceaccount:lbprov-system:lbprov-controller"


def ours(name: str) -> dict[str, Any]:
    return service(name, loadBalancerClass="lbprov.io/memory")


def is_ready(api: Api, name: str) -> bool:
    status = api.get("Service", name)["status"]
    conditions = {c["type"]: c["status"] for c in status.get("conditions", [])}
    return bool(status["loadBalancer"].get("ingress")) and conditions.get("lbprov.io/Ready") == "True"


@pytest.fixture(autouse=True)
def _a_node_and_no_lease(api: Api, installed: str) -> None:
    add_node(api, "node-1")
    api.delete(*LEASE)


# -- start and end


def test_ready_means_that_everything_is_known(
    api: Api, world: MemoryWorld, control_plane: ControlPlane, run: Any, relay: Relay
) -> None:
    """While the list of Services does not come, it lives but is not ready, and writes nothing."""
    api.create(ours("web"))
    relay.break_down(Fault("hang"), lambda asked: "/services" in asked.path)
    kubeconfig = control_plane.kubeconfig("lbprov-system", "lbprov-controller", relay.server)
    controller = run(kubeconfig=kubeconfig)
    eventually(lambda: controller.get("/healthz")[0] == 200)
    eventually(lambda: any("/services" in asked.path for asked in relay.asked()))
    time.sleep(0.5)
    assert controller.get("/readyz") == (503, "[-] caches: the cluster is not listed yet\n")
    assert world.writes == 0
    relay.recover()
    controller.wait_ready()
    eventually(lambda: is_ready(api, "web"))


def test_a_restart_writes_nothing_anywhere(
    api: Api, world: MemoryWorld, control_plane: ControlPlane, run: Any
) -> None:
    names = [f"web-{n}" for n in range(5)]
    for name in names:
        api.create(ours(name))
    refused = ours("refused")
    refused["spec"]["allocateLoadBalancerNodePorts"] = False
    api.create(refused)
    first = run().wait_ready()
    eventually(lambda: all(is_ready(api, name) for name in names))
    eventually(lambda: first.metric("lbprov_load_balancers", state="refused") == 1)
    first.settle()
    assert first.stop() == 0
    calls, writes, reads = len(control_plane.calls(USER)), world.writes, world.reads
    second = run().wait_ready()
    eventually(lambda: second.metric("lbprov_reconcile_results_total") == 6)
    second.settle()
    assert {call.verb for call in control_plane.calls(USER)[calls:]} <= {"list", "watch", "get"}
    assert world.writes == writes
    assert world.reads - reads <= 2, "one listing answers for all Services"


def test_what_happened_while_it_was_down(api: Api, world: MemoryWorld, run: Any) -> None:
    for name in ("deleted", "changed", "retyped", "kept"):
        api.create(ours(name))
    first = run().wait_ready()
    eventually(lambda: all(is_ready(api, name) for name in ("deleted", "changed", "retyped", "kept")))
    first.kill()
    api.delete("Service", "deleted")
    api.patch("Service", "retyped", {"spec": {"type": "NodePort", "loadBalancerClass": None}})
    ports = [{"name": "http", "port": 81, "protocol": "TCP"}]
    api.patch("Service", "changed", {"spec": {"ports": ports}})
    api.create(ours("new"))
    run().wait_ready()
    eventually(lambda: api.find("Service", "deleted") is None)
    eventually(lambda: is_ready(api, "new"))
    eventually(lambda: "finalizers" not in api.get("Service", "retyped")["metadata"])
    ports_of = {r.owner.service.name: r.port for r in world.list_all() if r.name.kind == "listener"}
    assert ports_of == {"changed": 81, "kept": 80, "new": 80}


def test_sigterm_lets_what_is_under_way_end(api: Api, world: MemoryWorld, run: Any) -> None:
    held, release = threading.Event(), threading.Event()

    def hold(operation: str, number: int, when: str) -> None:
        if when == "before" and number == 2:
            held.set()
            release.wait(100)

    world.on_write = hold
    controller = run("--leader-elect").wait_ready()
    api.create(ours("web"))
    assert held.wait(60)
    controller.process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert controller.process.poll() is None
    assert api.get(*LEASE)["spec"]["holderIdentity"], "the lease is kept as long as it writes"
    release.set()
    assert controller.process.wait(60) == 0
    assert is_ready(api, "web")
    assert not api.get(*LEASE)["spec"].get("holderIdentity")


# -- two of them


def test_two_replicas_change_over_in_seconds_on_a_clean_stop(api: Api, world: MemoryWorld, run: Any) -> None:
    first = run(*LONG_LEASE).wait_ready()
    eventually(first.leads)
    second = run(*LONG_LEASE).wait_ready()
    assert not second.leads(), "a follower is ready, and does not lead"
    api.create(ours("before"))
    eventually(lambda: is_ready(api, "before"))
    api.create(ours("during"))
    assert first.stop() == 0
    eventually(second.leads)
    eventually(lambda: is_ready(api, "during"))
    owners = [r.owner.service.name for r in world.list_all() if r.name.kind == "frontend"]
    assert sorted(owners) == ["before", "during"]


def test_a_leader_that_was_frozen_writes_nothing_more(
    api: Api, world: MemoryWorld, control_plane: ControlPlane, run: Any
) -> None:
    """Frozen amid a Service, past its lease, while another takes over and finishes; then thawed. (What it did
    while it led it may still tell as an Event.)"""
    held = threading.Event()
    freeze: list[Any] = []

    def freeze_it(operation: str, number: int, when: str) -> None:
        if when == "after" and number == 1:
            freeze[0].pause()
            held.set()

    world.on_write = freeze_it
    first = run(*SHORT_LEASE).wait_ready()
    freeze.append(first)
    eventually(first.leads)
    second = run(*SHORT_LEASE).wait_ready()
    api.create(ours("web"))
    assert held.wait(60)
    eventually(second.leads)
    eventually(lambda: is_ready(api, "web"))
    second.settle()
    calls, writes = len(control_plane.calls(USER)), world.writes
    first.resume()
    assert first.process.wait(60) == 1, "it ends, to be started anew"
    assert world.writes == writes
    wrote = [c for c in control_plane.calls(USER)[calls:] if c.verb in WRITES]
    assert [c for c in wrote if c.resource not in ("leases", "events")] == []
    assert "the lease was lost to" in first.said()


# -- what it says


def test_metrics_tell_what_happens(api: Api, world: MemoryWorld, run: Any) -> None:
    controller = run().wait_ready()
    api.create(ours("web"))
    eventually(lambda: is_ready(api, "web"))
    controller.settle()
    assert controller.metric("lbprov_load_balancers", state="ready") == 1
    assert controller.metric("lbprov_reconcile_results_total", result="created") == 1
    for stage in ("observe", "plan", "apply", "status", "finalizer", "total"):
        assert controller.metric("lbprov_reconcile_duration_seconds_count", stage=stage) >= 1, stage
    assert controller.metric("lbprov_cloud_api_requests_total", operation="create frontend") == 1
    assert controller.metric("lbprov_reflector_lists_total", kind="Service") == 1
    assert controller.metric("lbprov_reflector_objects", kind="Node") == 1
    assert controller.metric("lbprov_reflector_watches_total", kind="Node") == 1
    (age,) = [
        value
        for labels, value in controller.samples("lbprov_reflector_last_event_age_seconds")
        if labels == {"kind": "Service"}
    ]
    assert 0 <= age < 600
    assert controller.samples("lbprov_leader") == [({}, 1)]
    assert controller.get("/healthz")[0] == 200


def test_logs_are_json_and_hold_no_secrets(api: Api, aws: Any, controller_kubeconfig: Path, run: Any) -> None:
    secret = "wJalrXUtnFEMI-K7MDENG-bPxRfiCYEXAMPLEKEY"  # AWS's own example
    environment = {"AWS_SECRET_ACCESS_KEY": secret}
    for name, provider_id in aws.provider_ids.items():
        if name != "node-1":
            add_node(api, name, provider_id=provider_id)
    controller = run("--log-level", "debug", provider="aws", env=environment).wait_ready()
    web = service("web", loadBalancerClass="lbprov.io/aws")
    api.create(web)
    eventually(lambda: api.get("Service", "web")["status"]["loadBalancer"].get("ingress"))
    assert controller.stop() == 0
    token = controller_kubeconfig.read_text().partition('"token": "')[2].partition('"')[0]
    assert len(token) > 100
    assert secret not in controller.said()
    assert token not in controller.said()
    assert {"ts", "level", "logger", "msg"} <= controller.records()[0].keys()


# -- what cannot be


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        pytest.param(("--provider", "nowhere"), "installed: ", id="no-such-provider"),
        pytest.param(("--provider", "metal"), "no provider 'metal'", id="not-in-this-release"),
        pytest.param(("--kubeconfig", "/nonexistent"), "/nonexistent", id="no-such-kubeconfig"),
        pytest.param(("--context", "nowhere"), "nowhere", id="no-such-context"),
        pytest.param(("--provider-option", "a=b"), "has no option 'a'", id="no-such-option"),
        pytest.param(("--health-address", "8080"), "[HOST]:PORT", id="bad-address"),
        pytest.param(("--workers", "0"), "1<=x<=64", id="no-workers"),
        pytest.param(("--cluster-name", ""), "--cluster-name", id="no-name"),
        pytest.param(("--cluster-name", "a/b"), "--cluster-name", id="a-name-no-mark-could-hold"),
        pytest.param(("--drift-period", "nan"), "'--drift-period'", id="not-a-number"),
        pytest.param(("--grace-period", "inf"), "'--grace-period'", id="for-ever"),
        pytest.param(("--leader-elect", "--lease-name", "A_b"), "--lease-name", id="lease-name"),
        pytest.param(
            ("--leader-elect", "--lease-namespace", "a/b"), "--lease-namespace", id="lease-namespace"
        ),
        pytest.param(
            ("--leader-elect", "--lease-duration", "5"),
            "renew deadline",
            id="lease-too-short",
        ),
    ],
)
def test_bad_usage_is_exit_2_and_names_the_flag(run: Any, flags: tuple[str, ...], said: str) -> None:
    controller = run(*flags)
    assert controller.process.wait(60) == 2
    assert said in controller.said()


def test_a_provider_that_cannot_be_made_is_said_at_once(aws: Any, run: Any) -> None:
    """Not when this replica is first elected, in the worst of moments."""
    controller = run("--leader-elect", provider="aws", env={"AWS_PROFILE": "nobodys"})
    assert controller.process.wait(60) == 1
    assert "nobodys" in controller.said()


def test_what_only_the_cluster_can_tell_is_asked_for_on_the_service(api: Api, aws: Any, run: Any) -> None:
    """No region is configured, and the one Node there is tells none: until one comes that does."""
    nowhere = {"AWS_REGION": None, "AWS_DEFAULT_REGION": None, "AWS_EC2_METADATA_DISABLED": "true"}
    run(provider="aws", env=nowhere).wait_ready()
    api.create(service("web", loadBalancerClass="lbprov.io/aws"))
    ours = "involvedObject.name=web,source=lbprov"
    eventually(lambda: any("no AWS region" in e["message"] for e in api.list("Event", fieldSelector=ours)))
    for name, provider_id in aws.provider_ids.items():
        if name != "node-1":
            add_node(api, name, provider_id=provider_id, zone=aws.node_zones[name])
    eventually(lambda: api.get("Service", "web")["status"]["loadBalancer"].get("ingress"))


def test_a_taken_port_is_said_at_once(run: Any) -> None:
    first = run().wait_ready()
    second = run("--health-address", f"127.0.0.1:{first.port}")
    assert second.process.wait(60) == 1
    assert "in use" in second.said()


def test_a_missing_right_is_named(api: Api, control_plane: ControlPlane, installed: str, run: Any) -> None:
    """The ServiceAccount `default` of the namespace may nothing."""
    controller = run(kubeconfig=control_plane.kubeconfig(installed, "default"))
    eventually(lambda: "services" in controller.said() and "RBAC" in controller.said())
    assert controller.get("/readyz")[0] == 503
    assert controller.stop() == 0


# -- whose Services


def test_classless_services_are_served_by_flag_only(api: Api, world: MemoryWorld, run: Any) -> None:
    api.create(service("classless"))
    api.create(ours("ours"))
    first = run().wait_ready()
    eventually(lambda: is_ready(api, "ours"))
    first.settle()
    assert api.get("Service", "classless")["status"] == {"loadBalancer": {}}
    assert first.stop() == 0
    second = run("--own-classless").wait_ready()
    eventually(lambda: is_ready(api, "classless"))
    assert second.stop() == 0


def test_services_of_another_class_are_served_by_flag_only(api: Api, world: MemoryWorld, run: Any) -> None:
    api.create(service("theirs", loadBalancerClass="example.com/old"))
    api.create(ours("ours"))
    first = run().wait_ready()
    eventually(lambda: is_ready(api, "ours"))
    first.settle()
    assert api.get("Service", "theirs")["status"] == {"loadBalancer": {}}
    assert first.stop() == 0
    flags = ("--load-balancer-class", "example.com/older", "--load-balancer-class", "example.com/old")
    second = run(*flags).wait_ready()
    eventually(lambda: is_ready(api, "theirs"))
    assert second.stop() == 0
    assert is_ready(api, "ours")


def test_a_service_whose_finalizer_was_taken_off_by_force(api: Api, world: MemoryWorld, run: Any) -> None:
    for name in ("web", "api", "kept"):
        api.create(ours(name))
    controller = run().wait_ready()
    eventually(lambda: all(is_ready(api, name) for name in ("web", "api", "kept")))
    controller.settle()
    controller.pause()
    api.delete("Service", "web")
    api.patch("Service", "web", {"metadata": {"finalizers": None}})
    controller.resume()
    eventually(lambda: {r.owner.service.name for r in world.list_all()} == {"api", "kept"})


def test_many_services_that_vanish_at_once_leave_a_word_and_their_load_balancers(
    api: Api, world: MemoryWorld, run: Any
) -> None:
    names = [f"web-{n}" for n in range(6)]
    for name in (*names, "kept"):
        api.create(ours(name))
    controller = run().wait_ready()
    eventually(lambda: all(is_ready(api, name) for name in (*names, "kept")))
    controller.settle()
    controller.pause()
    for name in names:  # none of them is ever seen with its deletion begun
        api.patch("Service", name, {"metadata": {"finalizers": None}})
        api.delete("Service", name)
    controller.resume()
    told = "reason=MassDeletionRefused,source=lbprov"
    eventually(lambda: len(api.list("Event", fieldSelector=told)) == 6)
    (message,) = {e["message"] for e in api.list("Event", fieldSelector=told)}
    assert message.startswith("6 of 7 Services vanished at once")
    assert "lbprov gc" in message, "the remedy"
    assert {r.owner.service.name for r in world.list_all()} == {*names, "kept"}


def test_what_is_left_of_a_service_that_nobody_knows_is_told_and_kept(
    api: Api, world: MemoryWorld, run: Any
) -> None:
    """Its finalizer was taken off while no controller was there."""
    for name in ("web", "kept"):
        api.create(ours(name))
    first = run().wait_ready()
    eventually(lambda: is_ready(api, "web") and is_ready(api, "kept"))
    first.kill()
    api.delete("Service", "web")
    api.patch("Service", "web", {"metadata": {"finalizers": None}})
    second = run().wait_ready()
    eventually(lambda: second.metric("lbprov_orphaned_owners") == 1)
    second.settle()
    assert {r.owner.service.name for r in world.list_all()} == {"web", "kept"}
    assert any(f"{api.namespace}/web" in str(r.get("services")) for r in second.records())
