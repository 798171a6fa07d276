"""The controller under test: a process of its own, with the shipped ServiceAccount's token.

| fixture | what it is |
|---|---|
| `world` | the in-memory provider's cloud, kept here, used by the controller's process through a socket |
| `run` | starts a controller: `run("--workers", "2", provider="aws")`; all are ended with the test |
| `site` | a namespace, beside a controller and a world that the tests of a file share (its `SITE_FLAGS`) |
| `aws` | an AWS with nothing in it but three nodes; `run(provider="aws")` then talks to it |
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from lbprov.lab.aws.server import MotoServer
from lbprov.lab.aws.world import AwsWorld
from lbprov.lab.controlplane import Api, ApiCall, ControlPlane, Object, eventually
from lbprov.lab.controlplane.plane import free_ports
from lbprov.testing.memory_remote import serve
from lbprov.testing.memory_world import MemoryWorld, Resource

PLUGIN = Path(__file__).parent / "plugin"
INSTALL = Path(__file__).parents[3] / "deploy/install.yaml"
RIGHTS = ("Namespace", "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")
ACCOUNT = ("lbprov-system", "lbprov-controller")
USER = "system:serviceaccount:lbprov-system:lbprov-controller"
WRITES = ("create", "update", "patch", "delete", "deletecollection")


@dataclass
class ControllerProcess:
    """One `lbprov controller`. Ended by `stop` (SIGTERM), `kill`, or the end of the test. `environment`: on
    top of ours; None takes a variable away."""

    arguments: Sequence[str]
    environment: Mapping[str, str | None]
    port: int
    log: Path
    process: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Once more, after an end."""
        environment = {**os.environ, **self.environment}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "lbprov", "controller", *self.arguments],
                env={key: value for key, value in environment.items() if value is not None},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def get(self, path: str) -> tuple[int, str]:
        """Status and body; (0, "") when nobody answers."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def knows_nodes(self, count: int) -> bool:
        return self.metric("lbprov_reflector_objects", kind="Node") == count

    def ready(self) -> bool:
        assert self.process.poll() is None, f"the controller ended: {self.said()[-3000:]}"
        return self.get("/readyz")[0] == 200

    def wait_ready(self, timeout_s: float = 60.0) -> ControllerProcess:
        eventually(self.ready, timeout_s)
        return self

    def leads(self) -> bool:
        return self.metric("lbprov_leader") == 1

    def metric(self, name: str, **labels: str) -> float:
        """The sum of all samples of that name with those labels; 0 when nobody answers."""
        return sum(value for found, value in self.samples(name) if labels.items() <= found.items())

    def samples(self, name: str) -> list[tuple[dict[str, str], float]]:
        return [(labels, value) for found, labels, value in self.scrape() if found == name]

    def scrape(self) -> list[tuple[str, dict[str, str], float]]:
        """All samples: name, labels, value."""
        families = text_string_to_metric_families(self.get("/metrics")[1])
        return [(s.name, s.labels, s.value) for f in families for s in f.samples]

    def settle(self, timeout_s: float = 60.0) -> ControllerProcess:
        """Until it leads, and no key has a turn or waits for one now."""
        looks = [(False, -1.0, -1.0)]

        def settled() -> bool:
            # Between two numbers of one look a key can pass from the one to the other; not twice unseen.
            looks.append(self._look())
            return looks[-1] == looks[-2] and looks[-1][0]

        eventually(settled, timeout_s)
        return self

    def _look(self) -> tuple[bool, float, float]:
        """Whether all is quiet, reasons given for turns, turns."""
        found = self.scrape()

        def total(name: str, **labels: str) -> float:
            return sum(v for n, have, v in found if n == name and labels.items() <= have.items())

        busy = total("lbprov_workqueue_longest_running_seconds") + total("lbprov_workqueue_depth")
        turns = total("lbprov_reconcile_duration_seconds_count", stage="total")
        return total("lbprov_leader") == 1 and not busy, total("lbprov_workqueue_adds_total"), turns

    def pause(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def stop(self, timeout_s: float = 60.0) -> int:
        """SIGTERM; the exit code."""
        self.process.terminate()
        return self.process.wait(timeout_s)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def said(self) -> str:
        return self.log.read_text()

    def records(self) -> list[dict[str, Any]]:
        """Its log."""
        return [json.loads(line) for line in self.said().splitlines()]


Run = Callable[..., ControllerProcess]


@dataclass
class Site:
    """A namespace, and what a person with kubectl sees in it."""

    api: Api
    controller: ControllerProcess
    world: MemoryWorld
    plane: ControlPlane

    def ingress(self, name: str) -> list[dict[str, str]]:
        found: list[dict[str, str]] = self.api.get("Service", name)["status"]["loadBalancer"].get(
            "ingress", []
        )
        return found

    def conditions(self, name: str) -> dict[str, Object]:
        """Without their prefix."""
        status = self.api.get("Service", name)["status"]
        return {c["type"].removeprefix("lbprov.io/"): c for c in status.get("conditions", [])}

    def ready(self, name: str) -> bool:
        condition = self.conditions(name).get("Ready")
        return condition is not None and condition["status"] == "True" and bool(self.ingress(name))

    def wait_ready(self, *names: str, timeout_s: float = 60.0) -> None:
        for name in names:
            eventually(lambda name=name: self.ready(name), timeout_s)  # type: ignore[misc]

    def gone(self, name: str) -> bool:
        return self.api.find("Service", name) is None

    def events(self, name: str) -> list[tuple[str, str, str]]:
        """(type, reason, message) of ours, oldest first."""
        found = self.api.list("Event", fieldSelector=about(name))
        found.sort(key=lambda e: (e.get("eventTime") or e.get("firstTimestamp") or "", e["metadata"]["name"]))
        return [(e["type"], e["reason"], e["message"]) for e in found]

    def reasons(self, name: str) -> list[str]:
        return [reason for _, reason, _ in self.events(name)]

    def resources(self, name: str = "") -> list[Resource]:
        """What the world holds, of one Service or of the namespace."""
        mine = [r for r in self.world.list_all() if r.owner.service.namespace == self.api.namespace]
        return [r for r in mine if name in ("", r.owner.service.name)]

    def kinds(self, name: str = "") -> list[str]:
        return sorted(r.name.kind for r in self.resources(name))

    def calls(self, *verbs: str) -> list[ApiCall]:
        """What the controllers asked the API server for in this namespace."""
        mine = [c for c in self.plane.calls(USER) if c.namespace == self.api.namespace]
        return [c for c in mine if not verbs or c.verb in verbs]


def about(name: str) -> str:
    """The selector of our Events on a Service: the API server itself tells of others now and then
    (ClusterIPNotAllocated, when its repair loop comes by before its allocator has written)."""
    return f"involvedObject.name={name},source=lbprov"


def grant_rights(plane: ControlPlane) -> None:
    for obj in yaml.safe_load_all(INSTALL.read_text()):
        if obj["kind"] in RIGHTS:
            plane.admin.apply(obj)


def launch(
    folder: Path, kubeconfig: Path, flags: Sequence[str], provider: str, env: Mapping[str, str | None]
) -> ControllerProcess:
    (port,) = free_ports(1)
    environment: dict[str, str | None] = {"PYTHONPATH": str(PLUGIN), **env}
    if provider == "memory" and (folder / "world").exists():
        environment["LBPROV_TEST_WORLD"] = str(folder / "world")
    arguments = ["--provider", provider, "--cluster-name", "lab", "--kubeconfig", str(kubeconfig)]
    arguments += ["--health-address", f"127.0.0.1:{port}", "--log-format", "json", *flags]
    if not any("leader-elect" in flag for flag in flags):
        arguments.append("--no-leader-elect")
    return ControllerProcess(arguments, environment, port, folder / f"controller-{port}.log")


_figures: list[str] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _figures:
        terminalreporter.section("figures")
        for line in _figures:
            terminalreporter.write_line(line)


@pytest.fixture
def figures() -> Callable[[str], None]:
    """`figures("back after 1.2 s")`: told at the end, judged by nobody here."""
    return _figures.append


@pytest.fixture
def world(tmp_path: Path) -> Iterator[MemoryWorld]:
    world = MemoryWorld(time.monotonic)
    with serve(world, tmp_path / "world"):
        yield world


@pytest.fixture(scope="session")
def _moto_for_controllers() -> Iterator[MotoServer]:
    with MotoServer() as server:
        yield server


@pytest.fixture
def aws(_moto_for_controllers: MotoServer) -> AwsWorld:
    _moto_for_controllers.reset()
    world = AwsWorld.create(_moto_for_controllers)
    _moto_for_controllers.control(reset=True)
    return world


@pytest.fixture
def run(request: pytest.FixtureRequest, controller_kubeconfig: Path, tmp_path: Path) -> Iterator[Run]:
    """`run(*flags, provider="memory", kubeconfig=…, env={…})`; no leader election unless flags say so."""
    running: list[ControllerProcess] = []

    def start(
        *flags: str,
        provider: str = "memory",
        kubeconfig: Path = controller_kubeconfig,
        env: Mapping[str, str | None] = {},
    ) -> ControllerProcess:
        if provider == "aws":
            env = {**request.getfixturevalue("aws").server.environment, **env}
        running.append(launch(tmp_path, kubeconfig, flags, provider, env))
        return running[-1]

    yield start
    for controller in running:
        controller.resume()
        controller.kill()


@pytest.fixture(scope="module")
def _shared(
    request: pytest.FixtureRequest, _plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[ControllerProcess, MemoryWorld]]:
    grant_rights(_plane)
    folder = tmp_path_factory.mktemp("site")
    world = MemoryWorld(time.monotonic)
    flags: Sequence[str] = getattr(request.module, "SITE_FLAGS", ())
    with serve(world, folder / "world"):
        controller = launch(folder, _plane.kubeconfig(*ACCOUNT), flags, "memory", {})
        yield controller, world
        controller.kill()


@pytest.fixture
def site(
    api: Api, control_plane: ControlPlane, _shared: tuple[ControllerProcess, MemoryWorld]
) -> Iterator[Site]:
    controller, world = _shared
    site = Site(api, controller.wait_ready(), world, control_plane)
    yield site
    world.on_write, world.deletion_s = None, 0.0
    for service in api.list("Service"):
        api.delete("Service", service["metadata"]["name"])
    eventually(lambda: not api.list("Service"))
    controller.settle()
