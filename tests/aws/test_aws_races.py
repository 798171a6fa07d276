"""What other controllers leak when things happen at once: the whole controller, with its threads, over AWS.

cloud-provider-aws left a whole load balancer behind for 8 of 30 Services that were deleted while a node
joined: its node worker made it anew. It leaks the target group of a load balancer deleted by hand, and what
was made by a process that was killed. It and the AWS Load Balancer Controller replace the target group when
only the port number changes.
"""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

import lbprov_aws
from lbprov.api import Provider, ProviderContext
from lbprov.controller import term as term_module
from lbprov.controller.app import App
from lbprov.controller.term import Settings
from lbprov.model import Node, ObjectKey, Service, ServicePort, ServiceType
from lbprov.observe.metrics import Metrics
from lbprov.testing.live import LiveMemoryCluster
from lbprov_aws.resources import Observed

if TYPE_CHECKING:
    from lbprov.lab.aws.world import AwsWorld

LIMIT_S = 90.0
"""Bounds a hang; nothing takes that long."""


def eventually(check: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + LIMIT_S
    while not check():
        assert time.monotonic() < deadline_s, "it never came to that"
        time.sleep(0.02)


def key(name: str) -> ObjectKey:
    return ObjectKey("default", name)


def service(name: str, port: int = 80) -> Service:
    return Service(
        key(name),
        uid="",
        type=ServiceType.LOAD_BALANCER,
        load_balancer_class="lbprov.io/aws",
        ports=(ServicePort(port, node_port=30080),),
    )


class Rig:
    """A controller over AWS, with a cluster in memory; what a user does goes through `cluster`."""

    def __init__(self, world: AwsWorld, **options: str) -> None:
        self.world = world
        self.options = options
        self.metrics = Metrics("aws")
        self.cluster = LiveMemoryCluster("lab", self.nodes("node-1", "node-2"))
        settings = Settings(workers=6, drift_period_s=0.0, grace_s=20.0, node_window_s=0.05)
        self.app = App(self.cluster, lbprov_aws.SPEC, self._build, settings, self.metrics)
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.app.run, args=(self.stop,), daemon=True)
        self.thread.start()

    def _build(self) -> Provider[Observed]:
        values = {o.name: o.parse(self.options.get(o.name, o.default)) for o in lbprov_aws.SPEC.options}
        return lbprov_aws.SPEC.build(ProviderContext("lab", values, time.monotonic, recheck_s=600))

    def nodes(self, *names: str) -> list[Node]:
        return [Node(name, uid=name, provider_id=self.world.provider_ids[name]) for name in names]

    def ready(self, name: str) -> bool:
        condition = self.cluster.memory.get(key(name)).condition("lbprov.io/Ready")
        return condition is not None and condition.status == "True"

    def make(self, *names: str) -> None:
        for name in names:
            self.cluster.put(service(name))
        eventually(lambda: all(map(self.ready, names)))

    def gone(self, *names: str) -> bool:
        return not any(key(name) in self.cluster.memory for name in names)

    def end(self) -> None:
        self.stop.set()
        self.thread.join(LIMIT_S)
        assert not self.thread.is_alive()


@pytest.fixture
def rig(world: AwsWorld, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    monkeypatch.setattr(term_module, "TICK_S", 0.01)
    rig = Rig(world)
    yield rig
    rig.end()


def test_time_that_calls_were_held_back_is_a_metric(world: AwsWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(term_module, "TICK_S", 0.01)
    slow = Rig(world, **{"api-rates": "ec2-mutate=0.25:1"})
    slow.make("web")
    text = slow.metrics.exposition("")[0].decode()
    slow.end()
    sample = r'^lbprov_cloud_api_wait_seconds_total\{family="ec2-mutate"\} (.+)$'
    (held_back_s,) = re.findall(sample, text, re.MULTILINE)
    assert 0 < float(held_back_s) <= 4


@pytest.mark.parametrize(
    "pause_s", [pytest.param(0.0, id="at once"), pytest.param(0.02, id="calls take 20 ms")]
)
def test_node_sync_beside_deletions_makes_nothing_anew(rig: Rig, pause_s: float) -> None:
    """`pause_s`: what every call takes longer."""
    names = [f"web-{n}" for n in range(10)]
    rig.make(*names)
    rig.world.server.control(reset=True)
    if pause_s:
        rig.world.server.delay("*", pause_s, times=10_000)

    def nodes_come_and_go() -> None:
        for turn in range(20):
            shown = ("node-1", "node-2", "node-3") if turn % 2 else ("node-1", "node-3")
            rig.cluster.set_nodes(rig.nodes(*shown))
            time.sleep(0.03)

    syncing = threading.Thread(target=nodes_come_and_go)
    syncing.start()
    for name in names:
        rig.cluster.delete(key(name))
        time.sleep(0.01)
    syncing.join()
    eventually(lambda: rig.gone(*names))
    assert rig.world.server.calls().get("CreateLoadBalancer", 0) == 0
    assert rig.world.leftovers() == ()


def test_deleted_while_it_is_made(rig: Rig) -> None:
    names = [f"web-{n}" for n in range(12)]
    rig.world.server.delay("*", 0.01, times=10_000)
    for name in names:
        rig.cluster.put(service(name))
    for name in names:
        time.sleep(0.02)
        rig.cluster.delete(key(name))
    eventually(lambda: rig.gone(*names))
    assert rig.world.leftovers() == ()


def test_deleted_and_made_again_under_the_same_name(rig: Rig) -> None:
    names = ["web-1", "web-2", "web-3"]
    rig.make(*names)
    for _ in range(3):
        for name in names:
            rig.cluster.delete(key(name))
            rig.cluster.set_nodes(rig.nodes("node-1", "node-3"))
        eventually(lambda: rig.gone(*names))
        for name in names:
            rig.cluster.put(service(name))
            rig.cluster.set_nodes(rig.nodes("node-1", "node-2"))
    eventually(lambda: all(map(rig.ready, names)))
    uids = {rig.cluster.memory.get(key(name)).uid for name in names}
    assert {b.tags["lbprov/service-uid"] for b in rig.world.load_balancers()} == uids
    assert len(rig.world.load_balancers()) == 3
    for name in names:
        rig.cluster.delete(key(name))
    eventually(lambda: rig.gone(*names))
    assert rig.world.leftovers() == ()


def test_load_balancer_deleted_by_hand_and_then_the_service(rig: Rig) -> None:
    names = ["web-1", "web-2"]
    rig.make(*names)
    for balancer in rig.world.load_balancers():
        rig.world.elbv2.delete_load_balancer(LoadBalancerArn=balancer.arn)
    for name in names:
        rig.cluster.delete(key(name))
    eventually(lambda: rig.gone(*names))
    assert rig.world.leftovers() == ()
    assert rig.world.server.calls()["CreateLoadBalancer"] == 2


def test_changed_port_number_keeps_the_target_group(rig: Rig) -> None:
    rig.make("web")
    (before,) = rig.world.load_balancers()
    (group,) = rig.world.elbv2.describe_target_groups()["TargetGroups"]
    rig.world.server.control(reset=True)
    rig.cluster.put(service("web", port=8080))
    eventually(lambda: rig.world.server.calls().get("ModifyListener", 0) == 1)
    eventually(lambda: rig.world.load_balancers()[0].listeners[0].port == 8080)
    calls = rig.world.server.calls()
    assert not calls.keys() & {
        "CreateTargetGroup",
        "DeleteTargetGroup",
        "RegisterTargets",
        "DeregisterTargets",
    }
    (after,) = rig.world.load_balancers()
    assert after.arn == before.arn
    assert after.listeners == tuple(replace(x, port=8080) for x in before.listeners)
    (same,) = rig.world.elbv2.describe_target_groups()["TargetGroups"]
    assert same["TargetGroupArn"] == group["TargetGroupArn"]


def test_load_balancers_deleted_by_hand_while_nodes_change(rig: Rig) -> None:
    """Theirs to make anew then, the Services being there: each once."""
    names = ["web-1", "web-2", "web-3"]
    rig.make(*names)
    for balancer in rig.world.load_balancers():
        rig.world.elbv2.delete_load_balancer(LoadBalancerArn=balancer.arn)
    with ThreadPoolExecutor() as pool:
        pool.submit(rig.cluster.set_nodes, rig.nodes("node-1", "node-2", "node-3"))
        for name in names:
            pool.submit(rig.cluster.put, service(name, port=81))
    eventually(lambda: [x.port for b in rig.world.load_balancers() for x in b.listeners] == [81, 81, 81])
    eventually(lambda: all(map(rig.ready, names)))
    for name in names:
        rig.cluster.delete(key(name))
    eventually(lambda: rig.gone(*names))
    assert rig.world.leftovers() == ()


# A process that is killed

IN_FLIGHT_S = 1.0


def reconcile(folder: Path) -> list[str]:
    lbprov = str(Path(sys.executable).parent / "lbprov")
    return [lbprov, "reconcile", "--provider", "aws", "-f", str(folder)]


def write_nodes(folder: Path, world: AwsWorld) -> None:
    nodes = [
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name},
            "spec": {"providerID": provider_id},
            "status": {"addresses": [{"type": "InternalIP", "address": f"192.0.2.{number}"}]},
        }
        for number, (name, provider_id) in enumerate(sorted(world.provider_ids.items()), start=11)
    ]
    (folder / "nodes.yaml").write_text(yaml.safe_dump_all(nodes))


@pytest.mark.parametrize(
    ("done", "operation"),
    [
        pytest.param("CreateSecurityGroup", "AuthorizeSecurityGroupIngress", marks=pytest.mark.soak),
        ("AuthorizeSecurityGroupIngress", "CreateLoadBalancer"),
        ("CreateLoadBalancer", "CreateTargetGroup"),
        pytest.param("CreateTargetGroup", "RegisterTargets", marks=pytest.mark.soak),
        pytest.param("RegisterTargets", "CreateListener", marks=pytest.mark.soak),
    ],
)
def test_killed_in_a_write_and_the_service_deleted_while_down(
    world: AwsWorld, tmp_path: Path, done: str, operation: str
) -> None:
    """kill -9 of the real program while its call is under way, which AWS carries out nevertheless; the
    manifest is gone when the next one comes."""
    write_nodes(tmp_path, world)
    spec = {"type": "LoadBalancer", "ports": [{"port": 80}]}
    manifest = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": spec}
    (tmp_path / "web.yaml").write_text(yaml.safe_dump(manifest))
    world.server.delay(operation, IN_FLIGHT_S)
    running = subprocess.Popen(reconcile(tmp_path), stdout=subprocess.DEVNULL)
    eventually(lambda: done in world.server.calls())
    time.sleep(IN_FLIGHT_S / 4)
    running.kill()
    running.wait()
    (tmp_path / "web.yaml").unlink()
    time.sleep(IN_FLIGHT_S)
    world.server.control(reset=True)
    subprocess.run(reconcile(tmp_path), stdout=subprocess.DEVNULL, check=True, timeout=LIMIT_S)
    assert world.leftovers() == ()
