"""`lbprov reconcile`, `plan` and `diff` without -f: one pass over the kubeconfig's cluster."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lbprov.lab.controlplane import Api, ControlPlane, eventually
from lbprov.lab.controlplane.objects import add_node, service
from lbprov.testing.memory_world import MemoryWorld

PLUGIN = Path(__file__).parent / "plugin"
USER = "system:serviceaccount:lbprov-system:lbprov-controller"
Verb = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def verb(api: Api, world: MemoryWorld, controller_kubeconfig: Path, tmp_path: Path) -> Verb:
    """`verb("plan", "-o", "json")`, as the shipped ServiceAccount."""
    add_node(api, "node-1")

    def run(name: str, *flags: str) -> subprocess.CompletedProcess[str]:
        environment = {"PYTHONPATH": str(PLUGIN), "LBPROV_TEST_WORLD": str(tmp_path / "world")}
        where = ["--cluster-name", "lab", "--kubeconfig", str(controller_kubeconfig)]
        return subprocess.run(
            [sys.executable, "-m", "lbprov", name, "--provider", "memory", *where, *flags],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
        )

    return run


def results(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    assert done.stdout, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return {s["name"]: s["result"] for s in answer["services"]}


def test_one_pass_makes_and_the_second_changes_nothing(
    api: Api, world: MemoryWorld, control_plane: ControlPlane, verb: Verb
) -> None:
    api.create(service("web", loadBalancerClass="lbprov.io/memory"))
    api.create(service("classless"))
    first = verb("reconcile", "-o", "json")
    assert first.returncode == 0, first.stderr
    assert results(first) == {"web": "created"}
    (ingress,) = api.get("Service", "web")["status"]["loadBalancer"]["ingress"]
    assert ingress["ipMode"] == "Proxy"
    eventually(lambda: len(api.list("Event", fieldSelector="involvedObject.name=web,source=lbprov")) == 2)
    calls, writes = len(control_plane.calls(USER)), world.writes
    second = verb("reconcile", "-o", "json")
    assert (second.returncode, results(second)) == (0, {"web": "unchanged"})
    assert {c.verb for c in control_plane.calls(USER)[calls:]} == {"list"}
    assert world.writes == writes
    api.delete("Service", "web")
    assert results(verb("reconcile", "-o", "json")) == {"web": "deleted"}
    assert api.find("Service", "web") is None
    assert world.list_all() == ()


def test_classless_services_by_flag_only(api: Api, verb: Verb) -> None:
    api.create(service("classless"))
    assert results(verb("reconcile", "-o", "json")) == {}
    assert results(verb("reconcile", "-o", "json", "--own-classless")) == {"classless": "created"}


def test_plan_and_diff_write_nothing(
    api: Api, world: MemoryWorld, control_plane: ControlPlane, verb: Verb
) -> None:
    api.create(service("web", loadBalancerClass="lbprov.io/memory"))
    calls = len(control_plane.calls(USER))
    planned = verb("plan")
    assert planned.returncode == 0, planned.stderr
    assert "+ create frontend" in planned.stdout
    assert verb("diff").returncode == 1
    assert {c.verb for c in control_plane.calls(USER)[calls:]} == {"list"}
    assert world.writes == 0
    assert "finalizers" not in api.get("Service", "web")["metadata"]


def test_watching_a_cluster_is_the_controllers(verb: Verb) -> None:
    done = verb("reconcile", "--watch")
    assert done.returncode == 2
    assert "lbprov controller" in done.stderr


def test_gc_takes_away_what_no_service_wants(api: Api, world: MemoryWorld, verb: Verb) -> None:
    """One Service is forced out of the cluster, without its finalizer; the other one is served on."""
    for name in ("web", "gone"):
        api.create(service(name, loadBalancerClass="lbprov.io/memory"))
    assert verb("reconcile").returncode == 0
    api.patch("Service", "gone", {"metadata": {"finalizers": []}})
    api.delete("Service", "gone")
    eventually(lambda: not [s for s in api.list("Service") if s["metadata"]["name"] == "gone"])
    told = json.loads(verb("gc", "-o", "json").stdout)["orphans"]
    assert [(o["name"], o["fate"]) for o in told] == [("gone", "kept")]
    assert {r.owner.service.name for r in world.resources.values()} == {"web", "gone"}
    done = verb("gc", "--delete", "-o", "json")
    assert done.returncode == 0, done.stderr
    assert [(o["name"], o["fate"]) for o in json.loads(done.stdout)["orphans"]] == [("gone", "deleted")]
    assert {r.owner.service.name for r in world.resources.values()} == {"web"}
