"""A hundred thousand endpoint changes on a real API server: the agent's memory stays as it was."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lbprov.lab.controlplane import Api, ControlPlane, eventually
from lbprov.model import IPFamily
from local_dataplane.agent import Agent
from local_dataplane.api_source import ApiSource
from local_dataplane.config import NodeConfig, NodeFacts
from local_dataplane.flow_keeper import FlowKeeper
from local_dataplane.iptables.ruleset import Ruleset
from local_dataplane.kernel.conntrack import FakeConntrack
from local_dataplane.kernel.fake_iptables import FakeIptables
from local_dataplane.kernel.sysctl import FakeSysctls
from local_dataplane.kernel.watch import RuleWatch
from local_dataplane.pace import Pace
from local_dataplane.program import FamilyProgram
from local_dataplane.reporting import reporting

CHANGES, SERVICES, WRITERS = 100_000, 50, 8
WARM = CHANGES // 10
GROWTH_MIB = 8.0
SLICE = "EndpointSlice.discovery.k8s.io"


class _Kernel(FakeIptables):
    """Forgets what it was asked, as a kernel does."""

    def restore(self, text: str) -> None:
        super().restore(text)
        self.texts.clear()


def _memory_mib() -> float:
    gc.collect()
    (line,) = [x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmRSS")]
    return int(line.split()[1]) / 1024


@pytest.fixture
def source(api: Api, control_plane: ControlPlane, admin_kubeconfig: Path) -> Iterator[ApiSource]:
    control_plane.controller_manager.kill()
    ports = [{"name": "http", "protocol": "TCP", "port": 80}]
    for number in range(SERVICES):
        name = f"web-{number}"
        api.create(
            {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"ports": ports}}
        )
        labels = {"kubernetes.io/service-name": name}
        api.create(
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {"name": name, "labels": labels},
                "addressType": "IPv4",
                "ports": ports,
                "endpoints": [{"addresses": ["10.244.0.1"]}],
            }
        )
    one = ApiSource.connect(admin_kubeconfig, None, "node-1")
    one.start()
    yield one
    one.stop()


@pytest.mark.soak
@pytest.mark.timeout(3000)
def test_memory_does_not_grow(api: Api, source: ApiSource) -> None:
    kernel = _Kernel(IPFamily.IPV4)
    program = FamilyProgram(kernel, Ruleset(IPFamily.IPV4, NodeConfig(), NodeFacts("node-1")), RuleWatch())
    agent = Agent(
        source,
        "node-1",
        {IPFamily.IPV4: program},
        FlowKeeper(FakeConntrack(), NodeConfig()),
        FakeSysctls({}),
        pace=Pace(0.01),
    )
    stop = threading.Event()

    def change(numbers: range) -> None:
        for number in numbers:
            address = f"10.244.{number // 250 % 250}.{number % 250 + 1}"
            endpoints = [{"addresses": [address], "nodeName": f"node-{number % 7}"}]
            api.patch(SLICE, f"web-{number % SERVICES}", {"endpoints": endpoints})

    def change_all(begin: int, end: int) -> None:
        """Few tasks: what a pool keeps of thousands would be all that is measured."""
        list(writers.map(change, [range(first, end, WRITERS) for first in range(begin, begin + WRITERS)]))

    def told() -> int:
        return sum(reflector.counts.changes for reflector in source.reflectors)

    with reporting(agent, NodeConfig(), {}), ThreadPoolExecutor(WRITERS) as writers:
        thread = threading.Thread(target=agent.run, args=(stop,))
        thread.start()
        change_all(0, WARM)
        eventually(lambda: told() >= WARM)
        before_mib = _memory_mib()
        change_all(WARM, CHANGES)
        eventually(lambda: told() >= CHANGES)
        eventually(lambda: agent.pending_since_s is None)
        grown_mib = _memory_mib() - before_mib
        stop.set()
        thread.join(30)
    assert not thread.is_alive()
    assert agent.builder.service_count >= SERVICES
    assert len(program.chains) < 20 * SERVICES, "old chains are swept"
    assert grown_mib < GROWTH_MIB, f"{grown_mib:.1f} MiB more after {CHANGES} changes"
