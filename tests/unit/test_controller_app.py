"""The whole controller in one process: the cluster and the cloud in memory, threads and all."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from lbprov.api import Provider, ProviderContext, ProviderError
from lbprov.controller import queue as queue_module
from lbprov.controller import term as term_module
from lbprov.controller.app import App
from lbprov.controller.term import Settings
from lbprov.logic.selection import FINALIZER
from lbprov.model import (
    Condition,
    Ingress,
    Node,
    ObjectKey,
    Service,
    ServicePort,
    ServiceType,
    Taint,
    TrafficPolicy,
)
from lbprov.observe.metrics import Metrics
from lbprov.testing.live import LiveMemoryCluster
from lbprov.testing.memory import spec_for
from lbprov.testing.memory_world import MemoryWorld, Resource

NODES = [Node(f"node-{n}", uid=str(n), provider_id=f"memory://{n}") for n in (1, 2, 3)]


def service(name: str, **fields: object) -> Service:
    base = Service(
        ObjectKey("default", name),
        uid="",
        type=ServiceType.LOAD_BALANCER,
        load_balancer_class="lbprov.io/memory",
        ports=(ServicePort(80, node_port=30080),),
    )
    return replace(base, **fields)  # type: ignore[arg-type]


def eventually(check: Callable[[], object], timeout_s: float = 60.0) -> None:
    """The limit only bounds a hang."""
    deadline_s = time.monotonic() + timeout_s
    while not check():
        assert time.monotonic() < deadline_s, "it never came to that"
        time.sleep(0.005)


class FakeElector:
    """Elected and deposed by the test, on the thread that `run` was called on, as the real one."""

    identity = "me"

    def __init__(self) -> None:
        self.holder = ""
        self.fence_s = 0.0
        self.released = False
        self._orders: list[str] = []
        self._news = threading.Condition()

    def is_leader(self) -> bool:
        return time.monotonic() < self.fence_s

    def elect(self) -> None:
        self.fence_s, self.holder = time.monotonic() + 1000, "me"
        self._order("start")

    def depose(self, by: str) -> None:
        self.fence_s, self.holder = 0.0, by
        self._order("stop")

    def _order(self, order: str) -> None:
        with self._news:
            self._orders.append(order)
            self._news.notify()

    def run(self, on_started: Callable[[], None], on_stopped: Callable[[], None]) -> None:
        while True:
            with self._news:
                self._news.wait_for(lambda: bool(self._orders))
                order = self._orders.pop(0)
            if order == "end":
                return
            (on_started if order == "start" else on_stopped)()

    def release(self) -> None:
        self.fence_s, self.released = 0.0, True
        self._order("end")


class Rig:
    """A controller that runs on a thread of its own."""

    def __init__(self, elector: FakeElector | None = None, **settings: object) -> None:
        self.cluster = LiveMemoryCluster(nodes=NODES)
        self.world = MemoryWorld(time.monotonic)
        self.elector = elector
        self.metrics = Metrics("memory")
        self.built = 0
        self.spec = spec_for(self.world)
        base = Settings(workers=3, drift_period_s=0.0, grace_s=5.0, node_window_s=0.1)
        self.settings = replace(base, **settings)  # type: ignore[arg-type]
        self.app = App(self.cluster, self.spec, self.build, self.settings, self.metrics, elector)
        self.stop = threading.Event()
        self.code: int | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)

    def build(self) -> Provider[Any]:
        self.built += 1
        return self.spec.build(ProviderContext("test", {}, time.monotonic))

    def _run(self) -> None:
        self.code = self.app.run(self.stop)

    def start(self) -> Rig:
        self.thread.start()
        if self.elector is None:
            eventually(lambda: self.metric("lbprov_leader") == 1)
            eventually(lambda: self.metric("lbprov_cloud_api_requests_total", operation="list") >= 1)
        return self

    def end(self) -> int | None:
        self.stop.set()
        self.thread.join(60)
        return self.code

    def metric(self, name: str, **labels: str) -> float:
        families = text_string_to_metric_families(self.metrics.exposition("")[0].decode())
        samples = [s for f in families for s in f.samples if s.name == name]
        return sum(s.value for s in samples if labels.items() <= s.labels.items())

    def ready(self, name: str) -> bool:
        found = self.cluster.services.get(ObjectKey("default", name))
        condition = found and found.condition("lbprov.io/Ready")
        return bool(found and found.ingress and condition and condition.status == "True")

    def settle(self) -> None:
        """Until no key has a turn or waits for one now."""
        eventually(self._is_quiet)

    def _is_quiet(self) -> bool:
        """One look: between two, a key can pass from the one place to the other."""
        term = self.app._term
        assert term is not None
        with term.queue._news:
            turns = term.queue._turns
            return not turns.running() and not any(turns.depth().values())

    def kinds(self, name: str = "") -> list[str]:
        """What the world holds, of one Service or of all."""
        return sorted(r.name.kind for r in self.world.resources.values() if name in r.owner.service.name)

    def reasons(self, name: str) -> list[str]:
        return [event.reason for key, event in self.cluster.memory.events if key.name == name]


@pytest.fixture
def rigs() -> Iterator[list[Rig]]:
    started: list[Rig] = []
    yield started
    for rig in started:
        rig.world.on_write = None
        rig.end()


@pytest.fixture
def rig(rigs: list[Rig]) -> Rig:
    rigs.append(Rig().start())
    return rigs[0]


@pytest.fixture(autouse=True)
def _short_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(term_module, "TICK_S", 0.01)
    monkeypatch.setattr(term_module, "VANISHED_WINDOW_S", 0.1)


def test_a_service_from_its_creation_to_its_end(rig: Rig) -> None:
    rig.cluster.put(service("web"))
    eventually(lambda: rig.ready("web"))
    assert rig.kinds() == ["frontend", "listener", "target", "target", "target"]
    stored = rig.cluster.memory.get(ObjectKey("default", "web"))
    assert FINALIZER in stored.finalizers
    assert rig.reasons("web") == ["EnsuringLoadBalancer", "EnsuredLoadBalancer"]
    assert rig.metric("lbprov_load_balancers", state="ready") == 1
    rig.cluster.delete(stored.key)
    eventually(lambda: stored.key not in rig.cluster.memory)
    assert rig.kinds() == []
    eventually(lambda: rig.metric("lbprov_load_balancers") == 0)
    assert rig.reasons("web")[2:] == ["DeletingLoadBalancer", "DeletedLoadBalancer"]


def test_the_echo_of_our_own_writes_costs_no_turn(rig: Rig) -> None:
    rig.cluster.put(service("web"))
    eventually(lambda: rig.ready("web"))
    rig.settle()
    assert rig.metric("lbprov_reconcile_results_total") == 1


def test_label_of_a_node_is_looked_at_and_changes_nothing(rig: Rig) -> None:
    """An annotation may name the labels of the nodes that a Service wants."""
    rig.cluster.put(service("web"))
    eventually(lambda: rig.ready("web"))
    rig.settle()
    writes = rig.world.writes
    rig.cluster.set_nodes([replace(NODES[0], labels={"a": "b"}), *NODES[1:]])
    eventually(lambda: rig.metric("lbprov_reconcile_results_total", result="unchanged") == 1)
    assert rig.world.writes == writes


@pytest.mark.parametrize(
    "change", [{"labels": {"a": "b"}}, {"selector": {"a": "b"}}], ids=["labels", "selector"]
)
def test_what_is_no_news_costs_no_turn(rig: Rig, change: dict[str, object]) -> None:
    rig.cluster.put(service("web"))
    eventually(lambda: rig.ready("web"))
    rig.cluster.put(service("web", **change))
    rig.settle()
    assert rig.metric("lbprov_reconcile_results_total") == 1


def test_services_of_others_are_never_queued(rig: Rig) -> None:
    rig.cluster.put(service("foreign", load_balancer_class="example.com/other"))
    rig.cluster.put(service("classless", load_balancer_class=None))
    rig.cluster.put(service("internal", type=ServiceType.CLUSTER_IP, load_balancer_class=None))
    rig.settle()
    assert rig.metric("lbprov_workqueue_adds_total") == 0
    assert rig.cluster.memory.writes == []
    assert rig.world.writes == 0


def test_a_restart_writes_nothing_and_looks_at_what_is_new_first(rigs: list[Rig]) -> None:
    first = Rig().start()
    rigs.append(first)
    for number in range(20):
        first.cluster.put(service(f"old-{number:02}"))
    eventually(lambda: all(first.ready(f"old-{n:02}") for n in range(20)))
    assert first.end() == 0
    second = Rig(workers=1)
    rigs.append(second)
    second.cluster, second.world, second.spec = first.cluster, first.world, first.spec
    second.app = App(second.cluster, second.spec, second.build, second.settings, second.metrics)
    first.cluster.put(service("new"))
    first.cluster.memory.writes.clear()
    writes = first.world.writes
    order: list[str] = []
    first.world.on_write = lambda operation, number, when: order.append(operation)
    second.start()
    eventually(lambda: second.ready("new"))
    second.settle()
    assert second.metric("lbprov_reconcile_results_total", result="unchanged") == 20
    assert second.metric("lbprov_reconcile_results_total", result="created") == 1
    assert {write.split()[1] for write in first.cluster.memory.writes} == {"default/new"}
    assert first.world.writes - writes == 5
    assert 1 <= second.metric("lbprov_cloud_api_requests_total", operation="list") <= 2, (
        "one by us, and one by a Service that came first"
    )


OLD = "example.com/old"


@pytest.mark.parametrize(
    ("class_", "told", "found"),
    [
        pytest.param(OLD, {"more_classes": (OLD,)}, f"--load-balancer-class {OLD}", id="class"),
        pytest.param(None, {"own_classless": True}, "--own-classless", id="classless"),
    ],
)
def test_a_restart_without_the_flag_holds_what_was_served_with_it(
    rigs: list[Rig], class_: str | None, told: dict[str, Any], found: str
) -> None:
    def restart(before: Rig | None = None, **settings: Any) -> Rig:
        rig = Rig(**settings)
        rigs.append(rig)
        if before:
            before.settle()
            assert before.end() == 0
            rig.cluster, rig.world, rig.spec = before.cluster, before.world, before.spec
            rig.app = App(rig.cluster, rig.spec, rig.build, rig.settings, rig.metrics)
        return rig.start()

    names = [f"web-{n}" for n in range(8)]
    keys = [ObjectKey("default", name) for name in names]
    rig = restart(**told)
    for name in names:
        rig.cluster.put(service(name, load_balancer_class=class_))
    eventually(lambda: all(rig.ready(name) for name in names))
    served = [rig.cluster.memory.get(key) for key in keys]
    writes = rig.world.writes

    rig = restart(rig)
    last = "LoadBalancerClassNotServed"
    eventually(lambda: all(rig.reasons(name)[-1] == last for name in names))
    rig.settle()
    for key, before in zip(keys, served, strict=True):
        held = rig.cluster.memory.get(key)
        assert (held.ingress, held.finalizers) == (before.ingress, before.finalizers)
        ready = held.condition("lbprov.io/Ready")
        assert ready is not None
        assert (ready.status, ready.reason) == ("False", last)
        assert found in ready.message
    rig.cluster.put(service("new", load_balancer_class=class_))
    rig.cluster.put(service("web-3", load_balancer_class=class_, ports=(ServicePort(81, node_port=30081),)))
    rig.cluster.set_nodes(NODES[:2])

    rig = restart(rig, drift_period_s=0.2)
    eventually(lambda: rig.metric("lbprov_reconcile_results_total", result="failed") >= 4 * len(names))
    assert [rig.reasons(name).count(last) for name in names] == [1] * len(names)
    assert rig.reasons("new") == []
    assert rig.world.writes == writes
    rig.cluster.delete(keys[0])
    rig.cluster.put(service("web-1", load_balancer_class=None, type=ServiceType.CLUSTER_IP))
    eventually(lambda: keys[0] not in rig.cluster.memory)
    eventually(lambda: not rig.cluster.memory.get(keys[1]).finalizers)
    assert rig.kinds("web-0") == rig.kinds("web-1") == []

    rig = restart(rig, **told)
    eventually(lambda: all(rig.ready(name) for name in (*names[2:], "new")))
    rig.settle()
    assert rig.kinds() == sorted(["frontend", "listener", "target", "target"] * 7)
    for key in (*keys[2:], ObjectKey("default", "new")):
        rig.cluster.delete(key)
    eventually(lambda: rig.kinds() == [])


def test_a_burst_of_node_events_is_one_change_per_load_balancer(rig: Rig) -> None:
    for name in ("web", "api"):
        rig.cluster.put(service(name))
    eventually(lambda: rig.ready("web") and rig.ready("api"))
    rig.settle()
    for number in range(4, 14):
        rig.cluster.set_nodes([*NODES, *(Node(f"node-{n}") for n in range(4, number + 1))])
    eventually(lambda: rig.kinds("web").count("target") == rig.kinds("api").count("target") == 13)
    rig.settle()
    assert rig.metric("lbprov_reconcile_results_total") == 4


def test_nodes_that_change_during_a_slow_turn_are_not_forgotten(rig: Rig) -> None:
    """The turn under way goes on with the nodes of its beginning, and another one follows."""
    held, release = threading.Event(), threading.Event()

    def hold(operation: str, number: int, when: str) -> None:
        if when == "before" and number == 4:
            held.set()
            release.wait(60)

    rig.world.on_write = hold
    rig.cluster.put(service("web"))
    assert held.wait(60)
    rig.cluster.set_nodes([*NODES[1:], Node("node-4"), Node("node-5")])
    term = rig.app._term
    assert term is not None
    eventually(lambda: len(term._targets) == 4)
    release.set()
    eventually(
        lambda: (
            {r.name.detail for r in rig.world.list_all() if r.name.kind == "target"}
            == {"node-2", "node-3", "node-4", "node-5"}
        )
    )


@pytest.mark.parametrize(
    "node",
    [
        pytest.param(replace(NODES[0], ready=False), id="not-ready"),
        pytest.param(replace(NODES[0], unschedulable=True), id="cordoned"),
        pytest.param(replace(NODES[0], taints=(Taint("a", "NoSchedule"),)), id="another-taint"),
    ],
)
def test_what_leaves_the_targets_as_they_are_costs_no_turn(rig: Rig, node: Node) -> None:
    rig.cluster.put(service("web"))
    eventually(lambda: rig.ready("web"))
    rig.settle()
    rig.cluster.set_nodes([node, *NODES[1:]])
    time.sleep(0.3)
    rig.settle()
    assert rig.metric("lbprov_reconcile_results_total") == 1


@pytest.mark.parametrize(
    "node",
    [
        pytest.param(replace(NODES[0], deleted_at="2026-01-01T00:00:00Z"), id="being-deleted"),
        pytest.param(
            replace(NODES[0], labels={"node.kubernetes.io/exclude-from-external-load-balancers": ""}),
            id="excluded",
        ),
        pytest.param(
            replace(NODES[0], taints=(Taint("ToBeDeletedByClusterAutoscaler", "NoSchedule"),)),
            id="leaving",
        ),
    ],
)
def test_what_takes_a_node_out_of_the_targets_does(rig: Rig, node: Node) -> None:
    rig.cluster.put(service("web"))
    eventually(lambda: rig.ready("web"))
    rig.cluster.set_nodes([node, *NODES[1:]])
    eventually(lambda: rig.kinds("web").count("target") == 2)


def test_no_nodes_is_an_event_and_no_loop(rig: Rig) -> None:
    rig.cluster.set_nodes([])
    rig.cluster.put(service("web"))
    eventually(lambda: "UnAvailableLoadBalancer" in rig.reasons("web"))
    time.sleep(0.3)  # the change of the nodes itself is a reason to look
    rig.settle()
    turns = rig.metric("lbprov_reconcile_results_total")
    time.sleep(0.3)
    assert rig.metric("lbprov_reconcile_results_total") == turns
    assert rig.reasons("web").count("UnAvailableLoadBalancer") == 1


@pytest.mark.parametrize(
    "vandalism",
    [
        pytest.param({"ingress": ()}, id="status-wiped"),
        pytest.param({"ingress": (Ingress(ip="192.0.2.66"),)}, id="address-replaced"),
        pytest.param({"conditions": ()}, id="conditions-removed"),
        pytest.param({"finalizers": ()}, id="finalizer-removed"),
    ],
)
def test_what_somebody_else_overwrote_is_repaired_without_a_cloud_call(
    rig: Rig, vandalism: dict[str, object]
) -> None:
    rig.cluster.put(service("web"))
    eventually(lambda: rig.ready("web"))
    rig.settle()
    right = rig.cluster.memory.get(ObjectKey("default", "web"))
    calls = rig.metric("lbprov_cloud_api_requests_total")
    rig.cluster.overwrite(replace(right, **vandalism))  # type: ignore[arg-type]
    eventually(lambda: rig.cluster.memory.get(right.key) == right)
    assert rig.metric("lbprov_cloud_api_requests_total") == calls


def test_another_service_of_the_same_name_replaces_what_the_first_had(rig: Rig) -> None:
    """Deleted without us (its finalizer taken off) and made again: the watch shows one change of the uid."""
    rig.cluster.put(service("web"))
    eventually(lambda: rig.ready("web"))
    old = rig.cluster.memory.get(ObjectKey("default", "web"))
    rig.cluster.overwrite(service("web", uid="another"))
    eventually(
        lambda: rig.ready("web") and {r.owner.uid for r in rig.world.resources.values()} == {"another"}
    )
    assert rig.cluster.memory.get(old.key).uid == "another"


def test_a_few_that_vanish_are_cleaned_up_and_many_are_not(rig: Rig) -> None:
    keys = [rig.cluster.put(service(f"web-{n}")).key for n in range(10)]
    eventually(lambda: all(rig.ready(key.name) for key in keys))
    rig.cluster.vanish(*keys[:2])
    eventually(lambda: len(rig.kinds()) == 8 * 5)
    rig.cluster.vanish(*keys[2:9])
    time.sleep(0.4)
    rig.settle()
    assert len(rig.kinds()) == 8 * 5, "seven of eight at once is a mistake, not a wish"
    eventually(lambda: all(rig.reasons(key.name)[-1] == "MassDeletionRefused" for key in keys[2:9]))
    assert "MassDeletionRefused" not in rig.reasons("web-0") + rig.reasons("web-9")


def test_a_name_that_went_to_somebody_else_takes_what_it_had_along(rig: Rig) -> None:
    """Deleted without us, and made again as a Service that is not ours."""
    rig.cluster.put(service("web"))
    rig.cluster.put(service("kept"))
    eventually(lambda: rig.ready("web") and rig.ready("kept"))
    rig.cluster.overwrite(
        service("web", uid="another", type=ServiceType.CLUSTER_IP, load_balancer_class=None)
    )
    eventually(lambda: rig.kinds("web") == [])
    rig.settle()
    assert rig.kinds("kept") != []
    assert rig.cluster.memory.get(ObjectKey("default", "web")).conditions == ()


def test_what_could_not_be_told_is_told_as_soon_as_the_api_server_is_back(
    rigs: list[Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With pauses so long that nothing but the news of its return can have ended them."""
    monkeypatch.setattr(queue_module, "Backoff", partial(queue_module.Backoff, first_s=900.0, base_s=900.0))
    rig = Rig().start()
    rigs.append(rig)
    rig.cluster.put(service("web"))
    eventually(lambda: rig.ready("web"))
    rig.settle()
    rig.cluster.unreachable = True
    rig.cluster.put(
        service("web", ports=(ServicePort(81, node_port=30080), ServicePort(82, node_port=30081)))
    )
    rig.cluster.put(service("new"))
    eventually(lambda: rig.metric("lbprov_workqueue_retries_total") == 1)
    eventually(lambda: rig.kinds("web").count("listener") == 2)
    assert rig.kinds("new") == [], "no finalizer, no load balancer"
    rig.cluster.unreachable = False
    rig.app.recovered()
    eventually(lambda: rig.ready("new"))


def test_what_the_world_holds_of_nobody_is_told_and_left_alone(rigs: list[Rig]) -> None:
    first = Rig().start()
    rigs.append(first)
    first.cluster.put(service("web"))
    first.cluster.put(service("lost"))
    eventually(lambda: first.ready("web") and first.ready("lost"))
    first.end()
    first.cluster.vanish(ObjectKey("default", "lost"))
    second = Rig()
    rigs.append(second)
    second.world.resources, second.world._ids = first.world.resources, first.world._ids
    second.cluster.overwrite(first.cluster.memory.get(ObjectKey("default", "web")))
    second.start()
    eventually(lambda: second.metric("lbprov_orphaned_owners") == 1)
    assert second.kinds("lost") != []


def test_a_type_change_while_we_were_down_is_cleaned_up(rigs: list[Rig]) -> None:
    rig = Rig()
    rigs.append(rig)
    rig.start()
    rig.cluster.put(service("web"))
    eventually(lambda: rig.ready("web"))
    rig.cluster.put(service("web", type=ServiceType.NODE_PORT, load_balancer_class=None))
    eventually(lambda: rig.kinds() == [])
    stored = rig.cluster.memory.get(ObjectKey("default", "web"))
    eventually(lambda: rig.cluster.memory.get(stored.key).conditions == ())
    assert rig.cluster.memory.get(stored.key).finalizers == ()
    assert rig.cluster.memory.get(stored.key).ingress == ()
    rig.cluster.put(service("web"))
    eventually(lambda: rig.ready("web"))


class ObstructedWorld(MemoryWorld):
    """Creating for "stuck" hangs until `release`, creating for "poison" meets a bug."""

    release = threading.Event()

    def create(self, wanted: Resource) -> Resource:
        if wanted.owner.service.name == "stuck":
            self.release.wait(60)
        if wanted.owner.service.name == "poison":
            raise KeyError("a bug")
        return MemoryWorld.create(self, wanted)


def test_one_that_hangs_and_one_that_breaks_delay_no_other(rigs: list[Rig]) -> None:
    rig = Rig()
    rigs.append(rig)
    rig.world = ObstructedWorld(time.monotonic)
    rig.spec = spec_for(rig.world)
    rig.start()
    for name in ("stuck", "poison", "healthy"):
        rig.cluster.put(service(name))
    eventually(lambda: rig.ready("healthy"))
    assert not rig.ready("stuck")
    assert rig.metric("lbprov_workqueue_longest_running_seconds") > 0
    eventually(lambda: rig.metric("lbprov_reconcile_errors_total", reason="bug") >= 1)
    ObstructedWorld.release.set()
    eventually(lambda: rig.ready("stuck"))


def test_a_refusal_is_told_once_and_tried_again_when_it_is_changed(rig: Rig) -> None:
    bad = service("bad", external_traffic_policy=TrafficPolicy.LOCAL, ports=())
    rig.cluster.put(bad)
    eventually(lambda: rig.metric("lbprov_load_balancers", state="refused") == 1)
    rig.settle()
    assert len(rig.reasons("bad")) == 1
    assert rig.world.writes == 0
    rig.cluster.put(service("bad"))
    eventually(lambda: rig.ready("bad"))
    assert rig.metric("lbprov_load_balancers", state="refused") == 0


def test_a_cloud_that_refuses_is_asked_again(rig: Rig) -> None:
    refusals = iter([True, False])

    def refuse(operation: str, number: int, when: str) -> None:
        if when == "before" and next(refusals, False):
            raise ProviderError("quota exceeded")

    rig.world.on_write = refuse
    rig.cluster.put(service("web"))
    eventually(lambda: "SyncLoadBalancerFailed" in rig.reasons("web"))
    eventually(lambda: rig.ready("web"))
    assert rig.metric("lbprov_workqueue_retries_total") == 1
    assert rig.metric("lbprov_reconcile_errors_total", stage="apply", reason="provider") == 1


# -- leadership


def test_followers_write_nothing_and_are_ready(rigs: list[Rig]) -> None:
    elector = FakeElector()
    rig = Rig(elector)
    rigs.append(rig)
    server = rig.app.health(("127.0.0.1", 0))
    server.start()
    rig.start()
    rig.cluster.put(service("web"))
    eventually(lambda: rig.app._synced)
    time.sleep(0.1)
    assert rig.cluster.memory.writes == []
    assert rig.metric("lbprov_leader") == 0
    elector.elect()
    eventually(lambda: rig.ready("web"))
    assert rig.metric("lbprov_leader") == 1
    server.stop()


def test_a_clean_end_drains_and_gives_the_lease_up(rigs: list[Rig]) -> None:
    elector = FakeElector()
    rig = Rig(elector)
    rigs.append(rig)
    held, release = threading.Event(), threading.Event()

    def hold(operation: str, number: int, when: str) -> None:
        if when == "before" and number == 3:
            held.set()
            release.wait(60)

    rig.world.on_write = hold
    rig.start()
    elector.elect()
    rig.cluster.put(service("web"))
    assert held.wait(60)
    rig.stop.set()
    time.sleep(0.3)
    rig.cluster.put(service("too-late"))
    assert not elector.released, "the turn under way still writes"
    release.set()
    rig.thread.join(60)
    assert (rig.code, elector.released, rig.ready("web")) == (0, True, True)
    assert rig.kinds("too-late") == []
    assert rig.cluster.stopped


def test_what_hangs_beyond_the_grace_keeps_the_lease_until_it_runs_out(rigs: list[Rig]) -> None:
    elector = FakeElector()
    rig = Rig(elector, grace_s=0.2)
    rigs.append(rig)
    held, release = threading.Event(), threading.Event()

    def hold(operation: str, number: int, when: str) -> None:
        if when == "before" and number == 1:
            held.set()
            release.wait(60)

    rig.world.on_write = hold
    rig.start()
    elector.elect()
    rig.cluster.put(service("web"))
    assert held.wait(60)
    rig.stop.set()
    rig.thread.join(60)
    assert (rig.code, elector.released) == (1, False)
    release.set()
    time.sleep(0.2)
    assert rig.kinds("web") == ["frontend"], "the call that hung is the last one"


def test_a_leader_that_is_deposed_writes_nothing_more_and_ends(rigs: list[Rig]) -> None:
    elector = FakeElector()
    rig = Rig(elector)
    rigs.append(rig)
    held, release = threading.Event(), threading.Event()

    def hold(operation: str, number: int, when: str) -> None:
        if when == "before" and number == 2:
            held.set()
            release.wait(60)

    rig.world.on_write = hold
    rig.start()
    elector.elect()
    rig.cluster.put(service("web"))
    assert held.wait(60)
    elector.fence_s = 0.0  # the clock, not a message, ends it
    release.set()
    time.sleep(0.2)
    assert rig.world.writes == 2, "what had been sent, and nothing after it"
    statuses = [w for w in rig.cluster.memory.writes if w.startswith("record_status")]
    assert len(statuses) == 1, "the claim; no result"
    elector.depose(by="another")
    rig.thread.join(60)
    assert rig.code == 1


def test_an_outage_ends_the_term_and_not_the_process(rigs: list[Rig]) -> None:
    """Nobody has taken the lease: once it can be renewed again, a new term begins with a clean slate."""
    elector = FakeElector()
    rig = Rig(elector)
    rigs.append(rig)
    rig.start()
    elector.elect()
    rig.cluster.put(service("web"))
    eventually(lambda: rig.ready("web"))
    rig.settle()
    elector.depose(by="me")
    eventually(lambda: rig.metric("lbprov_leader") == 0)
    rig.cluster.put(service("meanwhile"))
    time.sleep(0.1)
    assert rig.kinds("meanwhile") == []
    elector.elect()
    eventually(lambda: rig.ready("meanwhile"))
    rig.settle()
    assert rig.built == 2
    assert rig.code is None
    assert rig.metric("lbprov_cloud_api_requests_total", operation="create frontend") == 2, "both terms count"


def test_a_stop_before_everything_has_been_seen(rigs: list[Rig]) -> None:
    rig = Rig()
    rigs.append(rig)
    rig.cluster.synced.clear()
    rig.thread.start()
    time.sleep(0.1)
    assert rig.metric("lbprov_leader") == 0
    assert rig.end() == 0


def test_drift_is_found_and_repaired(rigs: list[Rig]) -> None:
    rig = Rig(drift_period_s=0.4)
    rigs.append(rig)
    rig.start()
    rig.cluster.put(service("web"))
    eventually(lambda: rig.ready("web"))
    listener = next(r for r in rig.world.resources.values() if r.name.kind == "listener")
    rig.world.delete(listener.id)
    eventually(lambda: rig.kinds("web").count("listener") == 1)
    assert Condition("lbprov.io/Provider", "True", "memory", "served by provider memory") in (
        rig.cluster.memory.get(ObjectKey("default", "web")).conditions
    )
