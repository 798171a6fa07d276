"""The node agent on a real API server: what it learns and when, with a kernel of our own below it."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from lbprov.cli.main import main
from lbprov.lab.controlplane import Api, ControlPlane, Fault, Object, Relay, eventually
from lbprov.lab.controlplane.objects import add_node, add_pod, service
from lbprov.model import Event, IPFamily, ObjectKey, Severity
from local_dataplane.agent import Agent
from local_dataplane.api_source import ApiSource
from local_dataplane.config import NodeConfig, NodeFacts
from local_dataplane.flow_keeper import FlowKeeper
from local_dataplane.iptables.read_back import forwarded
from local_dataplane.iptables.ruleset import Ruleset
from local_dataplane.kernel.conntrack import FakeConntrack
from local_dataplane.kernel.fake_iptables import FakeIptables
from local_dataplane.kernel.sysctl import FakeSysctls
from local_dataplane.kernel.watch import RuleWatch
from local_dataplane.monitor import Monitor
from local_dataplane.observer import Applied, Observer
from local_dataplane.pace import Pace
from local_dataplane.program import FamilyProgram
from local_dataplane.reporting import reporting

V4 = IPFamily.IPV4
PERIOD_S = 1.0
INSTALL = Path(__file__).parents[2] / "deploy/install-node.yaml"
ACCOUNT = ("lbprov-node", "lbprov-node")


class _Listener(Observer):
    def __init__(self) -> None:
        self.writes: list[Applied] = []

    def applied(self, done: Applied) -> None:
        if done.family is V4:
            self.writes.append(done)


class NodeUnderTest:
    """An agent that runs; `frontends` is what its kernel forwards: `address:port` -> backends."""

    def __init__(self, kernel: FakeIptables, kubeconfig: Path, pace: Pace, report: bool) -> None:
        self.kernel = kernel
        self.source = ApiSource.connect(kubeconfig, None, "node-1")
        self.listener = _Listener()
        self.program = FamilyProgram(kernel, Ruleset(V4, NodeConfig(), NodeFacts("node-1")), RuleWatch())
        self.agent = Agent(
            self.source,
            "node-1",
            {V4: self.program},
            FlowKeeper(FakeConntrack(), NodeConfig()),
            FakeSysctls({}),
            observer=self.listener,
            pace=pace,
        )
        self._reporting = reporting(self.agent, NodeConfig(), {}) if report else None
        self.monitor: Monitor | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self.agent.run, args=(self._stop,))

    def start(self) -> None:
        self.source.start()
        if self._reporting:
            self.monitor = self._reporting.__enter__()
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(30)
        assert not self._thread.is_alive(), "ends at once"
        if self._reporting:
            self._reporting.__exit__(None, None, None)
        self.source.stop()

    def frontends(self) -> dict[str, list[str]]:
        found = forwarded(dict(self.program.chains))
        return {
            f"{f.frontend.address}:{f.frontend.port}": [f"{b.address}:{b.port}" for b in f.backends]
            for f in found
        }

    def comes_to_rest(self) -> None:
        """What has come in is written, and told."""
        eventually(lambda: self.agent.pending_since_s is None)

    def answers(self, cluster_ip: str, *backends: str) -> None:
        eventually(lambda: self.frontends().get(f"{cluster_ip}:80") == sorted(backends))

    def silent(self, cluster_ip: str) -> None:
        eventually(lambda: f"{cluster_ip}:80" not in self.frontends())


@pytest.fixture
def node_kubeconfig(control_plane: ControlPlane) -> Path:
    """That of the ServiceAccount that we ship, with its rights."""
    for obj in yaml.safe_load_all(INSTALL.read_text()):
        if obj["kind"] != "DaemonSet":
            control_plane.admin.apply(obj)
    return control_plane.kubeconfig(*ACCOUNT)


@pytest.fixture
def node(api: Api, node_kubeconfig: Path) -> Iterator[Callable[..., NodeUnderTest]]:
    """`node()` is one that runs; `node(kernel)` finds what another left there."""
    running: list[NodeUnderTest] = []

    def begin(
        kernel: FakeIptables | None = None,
        kubeconfig: Path = node_kubeconfig,
        pace: Pace | None = None,
        report: bool = False,
    ) -> NodeUnderTest:
        one = NodeUnderTest(kernel or FakeIptables(V4), kubeconfig, pace or Pace(0.0), report)
        running.append(one)
        one.start()
        return one

    yield begin
    for one in running:
        one.stop()


def endpoints(*addresses: str) -> list[Object]:
    """Elsewhere, so that none may be a Pod that calls itself."""
    return [{"addresses": [a], "nodeName": "node-2", "conditions": {"ready": True}} for a in addresses]


def slice_of(name: str, service_name: str, addresses: Sequence[str], **labels: str) -> Object:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": service_name, **labels}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
        "endpoints": endpoints(*addresses),
    }


def plain(name: str) -> Object:
    """Without a selector: its slices are ours to write."""
    made = service(name, type="ClusterIP")
    made["spec"].pop("selector", None)
    return made


def made(api: Api, name: str, *addresses: str) -> str:
    """A Service and its slice; the clusterIP."""
    ip: str = api.create(plain(name))["spec"]["clusterIP"]
    api.create(slice_of(name, name, addresses))
    return ip


SLICE = "EndpointSlice.discovery.k8s.io"
PROXY_NAME = "service.kubernetes.io/service-proxy-name"
HEADLESS = "service.kubernetes.io/headless"
OWNER = "kubernetes.io/service-name"


def relabel(api: Api, kind: str, name: str, label: str, value: str | None) -> None:
    api.patch(kind, name, {"metadata": {"labels": {label: value}}})


def test_follows_services_and_their_endpoints(api: Api, node: Callable[..., NodeUnderTest]) -> None:
    add_node(api, "node-1", ips=["192.0.2.11"])
    before = made(api, "before", "10.244.1.2")
    one = node()
    one.answers(before, "10.244.1.2:8080")
    after = made(api, "after", "10.244.1.3", "10.244.2.3")
    one.answers(after, "10.244.1.3:8080", "10.244.2.3:8080")
    api.patch(SLICE, "after", {"endpoints": endpoints("10.244.2.9")})
    one.answers(after, "10.244.2.9:8080")
    one.answers(before, "10.244.1.2:8080")
    api.delete("Service", "after")
    one.silent(after)


def test_a_change_touches_its_service_alone(api: Api, node: Callable[..., NodeUnderTest]) -> None:
    ips = [made(api, f"web-{i}", f"10.244.1.{i + 2}") for i in range(5)]
    one = node()
    for i, ip in enumerate(ips):
        one.answers(ip, f"10.244.1.{i + 2}:8080")
    one.comes_to_rest()
    written = len(one.listener.writes)
    api.patch(SLICE, "web-3", {"endpoints": endpoints("10.244.9.9")})
    one.answers(ips[3], "10.244.9.9:8080")
    # What is left of other tests may be going at this time: of that nothing is written.
    (write,) = eventually(lambda: [w for w in one.listener.writes[written:] if w.rules])
    assert write.rules == 1, "the one chain that sends elsewhere now"
    assert write.waited_s is not None


def test_who_else_is_served_elsewhere(api: Api, node: Callable[..., NodeUnderTest]) -> None:
    """Labels that come and go: another proxy's Service, slices not for us, a slice of another Service."""
    web, other = made(api, "web", "10.244.1.2"), api.create(plain("other"))["spec"]["clusterIP"]
    one = node()
    one.answers(web, "10.244.1.2:8080")
    relabel(api, "Service", "web", PROXY_NAME, "x")
    one.silent(web)
    relabel(api, "Service", "web", PROXY_NAME, None)
    one.answers(web, "10.244.1.2:8080")
    relabel(api, SLICE, "web", HEADLESS, "")
    one.answers(web)
    relabel(api, SLICE, "web", HEADLESS, None)
    one.answers(web, "10.244.1.2:8080")
    relabel(api, SLICE, "web", OWNER, "other")
    one.answers(web)
    one.answers(other, "10.244.1.2:8080")
    relabel(api, SLICE, "web", OWNER, None)
    one.answers(other)


def test_a_restart_writes_only_differences(api: Api, node: Callable[..., NodeUnderTest]) -> None:
    web, gone = made(api, "web", "10.244.1.2"), made(api, "gone", "10.244.1.3")
    first = node()
    first.answers(web, "10.244.1.2:8080")
    first.answers(gone, "10.244.1.3:8080")
    first.stop()
    restores: list[str] = []
    restore = first.kernel.restore

    def noted(text: str) -> None:
        restores.append(text)
        restore(text)

    first.kernel.restore = noted  # type: ignore[method-assign]
    second = node(first.kernel)
    eventually(lambda: second.listener.writes)
    assert restores == [], "nothing has changed meanwhile"
    second.stop()
    api.delete("Service", "gone")
    third = node(first.kernel)
    third.silent(gone)
    third.answers(web, "10.244.1.2:8080")
    assert "10.244.1.2:8080" not in "".join(restores), "what is as it should be is not written"


def test_an_outage_changes_nothing_and_is_caught_up_with(
    api: Api, control_plane: ControlPlane, relay: Relay, node: Callable[..., NodeUnderTest]
) -> None:
    kubeconfig = control_plane.kubeconfig(*ACCOUNT, relay.server)
    web = made(api, "web", "10.244.1.2")
    relay.break_down(Fault("refuse", 503))
    one = node(kubeconfig=kubeconfig)
    late = node(one.kernel, kubeconfig=kubeconfig, report=True)
    assert late.monitor is not None
    said = late.monitor.respond("/readyz", "")
    assert said.status == 503
    assert b"has not listed all Service and EndpointSlice and Node objects yet" in said.body
    time.sleep(0.5)  # time enough to do it wrong
    assert one.kernel.tables == FakeIptables(V4).tables, "nothing is written before all is known"
    late.stop()
    relay.recover()
    one.answers(web, "10.244.1.2:8080")
    relay.break_down(Fault("drop"))
    api.patch(SLICE, "web", {"endpoints": endpoints("10.244.9.9")})
    time.sleep(0.5)
    assert one.frontends()[f"{web}:80"] == ["10.244.1.2:8080"], "rules stay"
    relay.recover()
    one.answers(web, "10.244.9.9:8080")


def test_a_burst_is_gathered(api: Api, node: Callable[..., NodeUnderTest]) -> None:
    ips = [made(api, f"web-{i}", f"10.244.1.{i + 2}") for i in range(20)]
    one = node(pace=Pace(PERIOD_S))
    for i, ip in enumerate(ips):
        one.answers(ip, f"10.244.1.{i + 2}:8080")
    one.comes_to_rest()
    written, begun_s = len(one.listener.writes), time.monotonic()
    for i in range(20):
        api.patch(SLICE, f"web-{i}", {"endpoints": endpoints(f"10.244.9.{i + 2}")})
    for i, ip in enumerate(ips):
        one.answers(ip, f"10.244.9.{i + 2}:8080")
    one.comes_to_rest()
    writes = one.listener.writes[written:]
    assert sum(write.rules for write in writes) >= 20
    assert len(writes) <= 2 + (time.monotonic() - begun_s) / PERIOD_S


def test_our_own_node_only(api: Api, node: Callable[..., NodeUnderTest]) -> None:
    add_node(api, "node-2", ips=["192.0.2.12"])
    one = node()
    eventually(lambda: one.listener.writes)
    assert one.source.nodes.keys() == ()
    add_node(api, "node-1", ips=["192.0.2.11"], zone="z")
    eventually(lambda: one.source.nodes.keys() == ("node-1",))
    web = api.create(plain("web"))["spec"]["clusterIP"]
    hinted: dict[str, Any] = slice_of("web", "web", ["10.244.1.2", "10.244.1.3"])
    for endpoint, zone in zip(hinted["endpoints"], ("z", "y"), strict=True):
        endpoint["hints"] = {"forZones": [{"name": zone}]}
    api.create(hinted)
    one.answers(web, "10.244.1.2:8080")
    api.patch("Node", "node-1", {"metadata": {"labels": {"topology.kubernetes.io/zone": "y"}}})
    one.answers(web, "10.244.1.3:8080")


def test_only_what_forwarding_needs_is_kept(api: Api, node: Callable[..., NodeUnderTest]) -> None:
    web = plain("web")
    web["metadata"]["annotations"] = {"large": "x" * 1000}
    api.create(web)
    one = node()
    key = ObjectKey(api.namespace, "web")
    kept = eventually(lambda: one.source.services.get(key))
    assert kept is not None
    assert (dict(kept.annotations), kept.uid != "") == ({}, True)
    version = one.source.services.version
    api.patch("Service", "web", {"metadata": {"annotations": {"large": "y"}}})
    api.create(plain("other"))
    eventually(lambda: one.source.services.get(ObjectKey(api.namespace, "other")))
    assert one.source.services.version == version + 1, "an annotation is no news"
    assert dataclasses.asdict(kept)["labels"] == {}


def test_events_reach_the_service_and_the_node(api: Api, node: Callable[..., NodeUnderTest]) -> None:
    """With the rights that we ship; and what kubectl describe looks for is in them."""
    add_node(api, "node-1", ips=["192.0.2.11"])
    kernel = FakeIptables(V4)
    kernel.refuse = {"10.244.1.2:8080"}
    made(api, "bad", "10.244.1.2")
    good = made(api, "good", "10.244.1.3")
    one = node(kernel, report=True)
    one.answers(good, "10.244.1.3:8080")
    event = eventually(lambda: _events(api, "bad"))[0]
    uid = api.get("Service", "bad")["metadata"]["uid"]
    assert event["involvedObject"] | {"uid": uid, "kind": "Service", "name": "bad"} == event["involvedObject"]
    assert (event["reason"], event["type"]) == ("ServiceNotForwarded", "Warning")
    assert event["message"].startswith("on node node-1: port http (IPv4, TCP) is not forwarded: ")
    assert event["source"]["component"] == "lbprov"
    assert one.monitor is not None
    one.monitor.teller.tell_node("node-1", Event(Severity.WARNING, "ForwardingFailed", "IPv4: no"))
    told = eventually(
        lambda: [e for e in _events(api, "node-1", "default") if e["reason"] == "ForwardingFailed"]
    )[0]
    assert (told["involvedObject"]["kind"], told["involvedObject"]["uid"]) == ("Node", "node-1")
    metrics = one.monitor.respond("/metrics", "").body.decode()
    assert 'lbprov_reflector_objects{kind="EndpointSlice"}' in metrics
    assert 'lbprov_node_quarantined_service_ports{family="IPv4"} 1.0' in metrics


def _events(api: Api, name: str, namespace: str | None = None) -> list[Object]:
    return api.list("Event", namespace, fieldSelector=f"involvedObject.name={name}")


def test_the_node_is_drained(api: Api, node: Callable[..., NodeUnderTest]) -> None:
    """The autoscaler's taint: load balancers are turned away, and the agent is not started anew."""
    one = node(report=True)
    assert one.monitor is not None
    respond = one.monitor.respond
    eventually(lambda: respond("/readyz", "").status == 200)
    assert respond("/healthz", "").status == 503, "no such Node"
    add_node(api, "node-1", ips=["192.0.2.11"])
    eventually(lambda: respond("/healthz", "").status == 200)
    taint = {"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}
    api.patch("Node", "node-1", {"spec": {"taints": [taint]}})
    eventually(lambda: respond("/healthz", "").status == 503)
    assert respond("/livez", "").status == 200
    api.patch("Node", "node-1", {"spec": {"taints": None}})
    eventually(lambda: respond("/healthz", "").status == 200)


def test_explain_reads_the_api_server(api: Api, admin_kubeconfig: Path) -> None:
    add_node(api, "node-1", ips=["192.0.2.11"])
    add_node(api, "node-2", ips=["192.0.2.12"])
    add_pod(api, "asker", node="node-2", ips=["10.244.2.9"])
    made(api, "web", "10.244.2.2")
    api.patch("Service", "web", {"spec": {"internalTrafficPolicy": "Local"}})

    def explained(*flags: str) -> str:
        arguments = ["explain", f"{api.namespace}/web", "--kubeconfig", str(admin_kubeconfig), *flags]
        done = CliRunner().invoke(main, arguments)
        assert done.exit_code == 0, done.output
        return done.output

    said = explained("--from", f"{api.namespace}/asker")
    assert "by the iptables rules of node node-2" in said
    assert f"from Pod {api.namespace}/asker (10.244.2.9):\n    100% 10.244.2.2:8080" in said
    said = explained("--from", "10.244.1.9", "--node", "node-1")
    assert "dropped: internalTrafficPolicy is Local, and none of the endpoints is on node node-1" in said
