"""The controller on a real API server with many Services and Nodes; the cloud is in memory, here.

Figures that hang on the machine stand beside a baseline of the same run: the official client's list of the
same objects, and a bare watch of the same API server.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

from bench.figures import Row
from lbprov.lab.controlplane import Api, ControlPlane, eventually
from lbprov.lab.controlplane.plane import free_ports
from lbprov.testing.memory_remote import serve
from lbprov.testing.memory_world import MemoryWorld

ROOT = Path(__file__).resolve().parents[1]
MODULE = ROOT / "tests/cluster/controlplane"
PLUGIN = ROOT / "tests/cluster/controller/plugin"
INSTALL = ROOT / "deploy/install.yaml"
ACCOUNT = ("lbprov-system", "lbprov-controller")
CLASS = "lbprov.io/memory"
EXCLUDE = "node.kubernetes.io/exclude-from-external-load-balancers"
TARGETS = 3
SAMPLES = 30

CLIENT_LIST = """
import resource, sys, time
began = time.perf_counter()
from kubernetes import client, config
config.load_kube_config(sys.argv[1])
core = client.CoreV1Api()
kept = core.list_service_for_all_namespaces().items, core.list_node().items
print(time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""
"""What the official client needs to list the same and keep it: seconds and bytes, import included."""


@dataclass
class Controller:
    process: subprocess.Popen[bytes]
    port: int
    began_s: float

    def get(self, path: str) -> str:
        """Empty while nobody answers, or not with 200."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as answer:
                text: str = answer.read().decode()
                return text
        except OSError:
            return ""

    def metric(self, name: str, **labels: str) -> float:
        families = text_string_to_metric_families(self.get("/metrics"))
        samples = (s for f in families for s in f.samples if s.name == name)
        return sum(s.value for s in samples if labels.items() <= s.labels.items())

    def rss_bytes(self) -> float:
        return self.metric("process_resident_memory_bytes")

    def settle(self) -> None:
        def settled() -> bool:
            busy = self.metric("lbprov_workqueue_longest_running_seconds")
            return self.metric("lbprov_leader") == 1 and busy + self.metric("lbprov_workqueue_depth") == 0

        eventually(settled, 600, every_s=0.2)


@contextmanager
def controller(kubeconfig: Path, world_socket: Path) -> Iterator[Controller]:
    (port,) = free_ports(1)
    arguments = ["--provider", "memory", "--cluster-name", "bench", "--kubeconfig", str(kubeconfig)]
    arguments += ["--health-address", f"127.0.0.1:{port}", "--no-leader-elect", "--drift-period", "0"]
    environment = {
        "PYTHONPATH": str(PLUGIN),
        "LBPROV_TEST_WORLD": str(world_socket),
        "LBPROV_TEST_NO_NODE_PORTS": "1",
        "LBPROV_LOG_LEVEL": "warning",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "lbprov", "controller", *arguments], env={**os.environ, **environment}
    )
    try:
        yield Controller(process, port, time.perf_counter())
    finally:
        process.kill()
        process.wait()


def service(name: str) -> dict[str, Any]:
    spec = {
        "type": "LoadBalancer",
        "loadBalancerClass": CLASS,
        "allocateLoadBalancerNodePorts": False,
        "selector": {"app": name},
        "ports": [{"port": 80}],
    }
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


def node(number: int) -> dict[str, Any]:
    labels = {} if number < TARGETS else {EXCLUDE: ""}
    metadata = {"name": f"node-{number:04}", "labels": labels}
    return {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": {"providerID": f"m://{number}"}}


def each(work: Callable[[int], object], count: int) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(count)))


def rows(services: int = 5000, nodes: int = 1000) -> list[Row]:
    with tempfile.TemporaryDirectory() as directory, ControlPlane.open(MODULE) as plane:
        for obj in yaml.safe_load_all(INSTALL.read_text()):
            if obj["kind"] in ("Namespace", "ServiceAccount", "ClusterRole", "ClusterRoleBinding"):
                plane.admin.apply(obj)
        kubeconfig = plane.kubeconfig(*ACCOUNT)
        world = MemoryWorld(time.monotonic)
        socket = Path(directory) / "world"
        each(lambda n: plane.admin.create(node(n)), nodes)
        each(lambda n: plane.admin.create(service(f"web-{n:04}")), services)
        with serve(world, socket):
            return _measured(plane.admin, kubeconfig, world, socket, services, nodes)


def _measured(
    admin: Api, kubeconfig: Path, world: MemoryWorld, socket: Path, services: int, nodes: int
) -> list[Row]:
    answer = subprocess.run(
        [sys.executable, "-c", CLIENT_LIST, str(kubeconfig)], check=True, capture_output=True, text=True
    )
    client_s, client_bytes = (float(part) for part in answer.stdout.split())
    with controller(kubeconfig, socket) as running:
        eventually(lambda: running.get("/readyz"), 120, every_s=0.02)
        first_s = time.perf_counter() - running.began_s
        eventually(
            lambda: running.metric("lbprov_load_balancers", state="ready") == services, 1200, every_s=1.0
        )
        served_s = time.perf_counter() - running.began_s
        running.settle()
        one_each = world.writes / services
    reads, writes = world.reads, world.writes
    with controller(kubeconfig, socket) as running:
        eventually(lambda: running.get("/readyz"), 120, every_s=0.02)
        ready_s, ready_bytes = time.perf_counter() - running.began_s, running.rss_bytes()
        eventually(
            lambda: running.metric("lbprov_load_balancers", state="ready") == services, 600, every_s=0.2
        )
        checked_s = time.perf_counter() - running.began_s
        running.settle()
        cloud = f"{world.reads - reads} cloud reads, {world.writes - writes} writes"
        rows_ = [
            Row(
                f"start to ready, {services} Services and {nodes} Nodes",
                f"{ready_s:.1f} s",
                f"official client, list only {client_s:.1f} s",
                f"{ready_s / client_s:.2f}x",
            ),
            Row(
                "memory when ready / when all have been checked",
                f"{ready_bytes / 1e6:.0f} / {running.rss_bytes() / 1e6:.0f} MB",
                f"official client, the same objects {client_bytes / 1e6:.0f} MB",
                f"{running.rss_bytes() / client_bytes:.2f}x",
            ),
            Row(
                f"first start, all {services} made and told",
                f"{served_s - first_s:.0f} s, {services / (served_s - first_s):.0f} Services/s",
                "",
                f"{one_each:.2f} writes each",
            ),
            Row(
                "restart, all re-checked",
                f"{checked_s - ready_s:.1f} s after ready, {cloud}",
                f"first start {served_s - first_s:.0f} s",
                f"{(checked_s - ready_s) / (served_s - first_s):.3f}x",
            ),
            _events(admin, running, world, services),
            _latency(admin, world),
            _node_added(admin, running, world, services, nodes),
        ]
    return rows_


def _events(admin: Api, running: Controller, world: MemoryWorld, services: int) -> Row:
    """Changes that change nothing for us: how much of a core each costs, and how many cloud calls."""
    calls = world.reads + world.writes
    seen, cpu_s = running.metric("lbprov_reflector_events_total"), running.metric("process_cpu_seconds_total")
    count = min(services, 2000)
    label = {"metadata": {"labels": {"touched": "1"}}}
    each(lambda n: admin.patch("Service", f"web-{n:04}", label), count)
    eventually(lambda: running.metric("lbprov_reflector_events_total") - seen >= count, 60, every_s=0.1)
    spent_s = running.metric("process_cpu_seconds_total") - cpu_s
    return Row(
        f"{count} events that change nothing",
        f"{count / spent_s:.0f} events per CPU second",
        "",
        f"{world.reads + world.writes - calls} cloud calls",
    )


class _FirstWrite:
    """When the world was first written to since it was last asked to look."""

    def __init__(self) -> None:
        self.at_s: float | None = None

    def __call__(self, operation: str, number: int, when: str) -> None:
        if self.at_s is None:
            self.at_s = time.perf_counter()

    def awaited_s(self) -> float:
        eventually(lambda: self.at_s is not None, 30, every_s=0.005)
        assert self.at_s is not None
        return self.at_s


def _latency(admin: Api, world: MemoryWorld) -> Row:
    """From the request for a Service until the cloud is written to, and until a bare watch shows it."""
    watched: dict[str, float] = {}

    def watch() -> None:
        for _, obj in admin.watch("Service", timeout_s=60):
            watched.setdefault(obj["metadata"]["name"], time.perf_counter())

    threading.Thread(target=watch, daemon=True).start()
    time.sleep(2)
    ours, bare = [], []
    for number in range(SAMPLES):
        name = f"fresh-{number}"
        world.on_write = first = _FirstWrite()
        asked_s = time.perf_counter()
        admin.create(service(name))
        ours.append(first.awaited_s() - asked_s)
        time.sleep(0.2)
        bare.append(watched[name] - asked_s)
    world.on_write = None
    ours_s, bare_s = statistics.median(ours), statistics.median(bare)
    return Row(
        "creation of a Service to the first cloud write, median",
        f"{ours_s * 1000:.0f} ms",
        f"to a bare watch's event {bare_s * 1000:.0f} ms",
        f"{ours_s / bare_s:.1f}x",
    )


def _node_added(admin: Api, running: Controller, world: MemoryWorld, services: int, nodes: int) -> Row:
    before, targets = world.writes, _targets(world)
    began_s = time.perf_counter()
    admin.patch("Node", f"node-{nodes - 1:04}", {"metadata": {"labels": {EXCLUDE: None}}})
    wanted = targets + services + SAMPLES
    eventually(lambda: _targets(world) == wanted, 600, every_s=0.2)
    running.settle()
    calls = world.writes - before
    return Row(
        f"a node more, {services + SAMPLES} load balancers",
        f"{time.perf_counter() - began_s:.1f} s",
        "",
        f"{calls / (services + SAMPLES):.2f} cloud calls each, all registrations",
    )


def _targets(world: MemoryWorld) -> int:
    return sum(r.name.kind == "target" for r in tuple(world.resources.values()))


if __name__ == "__main__":
    from bench.figures import print_rows

    print_rows("Controller on a real API server", rows(*map(int, sys.argv[1:])))
