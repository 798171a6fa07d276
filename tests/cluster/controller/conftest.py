"""The controller under test: a process of its own, with the shipped ServiceAccount's token.

| fixture | what it is |
|---|---|
| `world` | the in-memory provider's cloud, kept here, used by the controller's process through a socket |
| `run` | starts a controller: `run("--workers", "2", provider="aws")`; all are ended with the test |
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
from prometheus_client.parser import text_string_to_metric_families

from lbprov.lab.aws.server import MotoServer
from lbprov.lab.aws.world import AwsWorld
from lbprov.lab.controlplane import eventually
from lbprov.lab.controlplane.plane import free_ports
from lbprov.testing.memory_remote import serve
from lbprov.testing.memory_world import MemoryWorld

PLUGIN = Path(__file__).parent / "plugin"


@dataclass
class ControllerProcess:
    """One `lbprov controller`. Ended by `stop` (SIGTERM), `kill`, or the end of the test."""

    arguments: Sequence[str]
    environment: Mapping[str, str]
    port: int
    log: Path
    process: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "lbprov", "controller", *self.arguments],
                env={**os.environ, **self.environment},
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

    def ready(self) -> bool:
        assert self.process.poll() is None, f"the controller ended: {self.said()[-3000:]}"
        return self.get("/readyz")[0] == 200

    def wait_ready(self, timeout_s: float = 30.0) -> ControllerProcess:
        eventually(self.ready, timeout_s)
        return self

    def leads(self) -> bool:
        return self.metric("lbprov_leader") == 1

    def metric(self, name: str, **labels: str) -> float:
        """The sum of all samples of that name with those labels; 0 when nobody answers."""
        families = text_string_to_metric_families(self.get("/metrics")[1])
        return sum(
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def settled(self) -> bool:
        """Nobody has a turn or waits for one."""
        if self.metric("lbprov_leader") != 1:
            return False
        return (
            self.metric("lbprov_workqueue_depth")
            == 0
            == self.metric("lbprov_workqueue_longest_running_seconds")
        )

    def pause(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def stop(self, timeout_s: float = 20.0) -> int:
        """SIGTERM; the exit code."""
        self.process.terminate()
        return self.process.wait(timeout_s)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def said(self) -> str:
        return self.log.read_text()

    def log_lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.said().splitlines() if line.startswith("{")]


Run = Callable[..., ControllerProcess]


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
        env: Mapping[str, str] = {},
    ) -> ControllerProcess:
        (port,) = free_ports(1)
        environment = {"PYTHONPATH": str(PLUGIN), **env}
        if provider == "aws":
            environment |= request.getfixturevalue("aws").server.environment
        elif (tmp_path / "world").exists():
            environment["LBPROV_TEST_WORLD"] = str(tmp_path / "world")
        arguments = ["--provider", provider, "--cluster-name", "lab", "--kubeconfig", str(kubeconfig)]
        arguments += ["--health-address", f"127.0.0.1:{port}", "--log-format", "json", *flags]
        if not any("leader-elect" in flag for flag in flags):
            arguments.append("--no-leader-elect")
        log = tmp_path / f"controller-{len(running)}.log"
        running.append(ControllerProcess(arguments, environment, port, log))
        return running[-1]

    yield start
    for controller in running:
        controller.resume()
        controller.kill()
