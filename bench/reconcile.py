"""`lbprov reconcile` of many Services from manifests against moto: first run, second run, one change.

The second run is compared with the first; calls per Service with what the cloud controllers were measured
to make on moto for the same (cloud-provider-aws 1.36.2, aws-load-balancer-controller 3.5.0; warm, one port).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bench.figures import Row
from lbprov.lab.aws.server import MotoServer
from lbprov.lab.aws.world import AwsWorld

LBPROV = str(Path(sys.executable).parent / "lbprov")
PEERS_FRESH = "cloud-provider-aws 15, LB controller 25"
PEERS_NOOP = "cloud-provider-aws 11, LB controller 12"


@dataclass(frozen=True, slots=True)
class Run:
    wall_s: float
    read: int
    write: int
    results: dict[str, int]

    @property
    def calls(self) -> int:
        return self.read + self.write


def rows(services: int = 1000) -> list[Row]:
    with tempfile.TemporaryDirectory() as directory, MotoServer() as server:
        folder = Path(directory)
        world = AwsWorld.create(server, zones=3, nodes=3)
        server.quotas(load_balancers=services, target_groups=services, security_groups=services + 10)
        write_nodes(folder, world.provider_ids)
        for index in range(services):
            write_service(folder, index, port=80)
        first = reconcile(folder, server)
        second = reconcile(folder, server)
        write_service(folder, 0, port=81)
        changed = reconcile(folder, server)
    assert first.results == {"created": services}, first.results
    assert second.results == {"unchanged": services}, second.results
    assert second.write == 0
    return [
        Row(
            f"{services} Services, first run",
            f"{first.wall_s:.1f} s, {first.calls / services:.2f} calls each",
            PEERS_FRESH,
            f"{first.calls / services / 15:.2f}x of the fewer",
        ),
        Row(
            "second run, nothing changed",
            f"{second.wall_s:.1f} s, {second.calls / services:.2f} calls each, {second.write} writes",
            f"first run {first.wall_s:.1f} s; {PEERS_NOOP}",
            f"{second.wall_s / first.wall_s:.2f}x time, {second.calls / services / 11:.2f}x of the fewer",
        ),
        Row(
            "one Service's port changed",
            f"{changed.wall_s:.1f} s, {changed.write} writes",
            f"first run {first.wall_s:.1f} s",
            f"{changed.wall_s / first.wall_s:.2f}x",
        ),
    ]


def reconcile(folder: Path, server: MotoServer) -> Run:
    start = time.perf_counter()
    done = subprocess.run(
        [LBPROV, "reconcile", "--provider", "aws", "-f", str(folder), "-o", "json"],
        env={**os.environ, **server.environment},
        stdout=subprocess.PIPE,
        check=True,
    )
    wall_s = time.perf_counter() - start
    answer: dict[str, Any] = json.loads(done.stdout)
    results: dict[str, int] = {}
    for service in answer["services"]:
        results[service["result"]] = results.get(service["result"], 0) + 1
    return Run(wall_s, answer["calls"]["read"], answer["calls"]["write"], results)


def write_nodes(folder: Path, provider_ids: dict[str, str]) -> None:
    nodes = [
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name},
            "spec": {"providerID": provider_id},
            "status": {"addresses": [{"type": "InternalIP", "address": f"192.0.2.{number}"}]},
        }
        for number, (name, provider_id) in enumerate(sorted(provider_ids.items()), start=11)
    ]
    (folder / "nodes.yaml").write_text(yaml.safe_dump_all(nodes))


def write_service(folder: Path, index: int, port: int) -> None:
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": f"web-{index:04}"},
        "spec": {"type": "LoadBalancer", "ports": [{"port": port}], "selector": {"app": "web"}},
    }
    (folder / f"web-{index:04}.yaml").write_text(yaml.safe_dump(service))
