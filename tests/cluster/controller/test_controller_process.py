"""The controller as a process on a real API server: its life from start to end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lbprov.lab.controlplane import Api, eventually
from lbprov.lab.controlplane.objects import add_node, service
from lbprov.testing.memory_world import MemoryWorld

CLASS = "lbprov.io/memory"


def _is_ready(api: Api, name: str) -> bool:
    status = api.get("Service", name)["status"]
    conditions = {c["type"]: c["status"] for c in status.get("conditions", [])}
    return bool(status["loadBalancer"].get("ingress")) and conditions.get("lbprov.io/Ready") == "True"


def test_a_service_from_its_creation_to_its_end(
    api: Api, world: MemoryWorld, run: Callable[..., Any]
) -> None:
    add_node(api, "node-1")
    controller = run().wait_ready()
    api.create(service("web", loadBalancerClass=CLASS))
    eventually(lambda: _is_ready(api, "web"))
    assert sorted(r.name.kind for r in world.resources.values()) == ["frontend", "listener", "target"]
    assert controller.metric("lbprov_load_balancers", state="ready") == 1
    api.delete("Service", "web")
    eventually(lambda: api.find("Service", "web") is None)
    assert world.resources == {}
    assert controller.stop() == 0
