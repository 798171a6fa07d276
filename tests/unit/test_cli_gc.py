"""`lbprov gc` on real folders of manifests; the provider's world is in memory."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Collection
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from lbprov import plugins
from lbprov.api import ENTRY_POINT_GROUP, L4Protocol, ObjectKey, Owner, ProviderContext
from lbprov.cli.main import main
from lbprov.testing.clock import FakeClock
from lbprov.testing.memory import MemoryProvider, spec_for
from lbprov.testing.memory_plan import balancer_name
from lbprov.testing.memory_world import MemoryWorld, Name, Resource

NODE = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1"}}


class Yard:
    """A folder with Services, and a world that holds more than they want. Each command is a new process."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        folder.mkdir()
        self.world = MemoryWorld(FakeClock().now_s)
        (folder / "node.yaml").write_text(yaml.safe_dump(NODE))
        self.before_delete: list[Any] = []
        self.spec = spec_for(self.world)
        module: Any = type(sys)("memory_plugin_of_a_gc_test")
        module.SPEC = replace(self.spec, build=self._build)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        entry = EntryPoint("memory", f"{module.__name__}:SPEC", ENTRY_POINT_GROUP)
        monkeypatch.setattr(plugins, "discover", lambda: (plugins.Plugin("memory", "tests 1.0", entry),))

    def _build(self, context: ProviderContext) -> MemoryProvider:
        return MemoryProvider(context, self.world)

    def put(self, *names: str) -> None:
        for number, name in enumerate(names):
            spec = {"type": "LoadBalancer", "ports": [{"port": 80, "nodePort": 30080 + number}]}
            service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}
            (self.folder / f"{name}.yaml").write_text(yaml.safe_dump(service))

    def leave(self, name: str, *kinds: str, cluster: str = "default", uid: str = "") -> Owner:
        """What a process that died may have left of a Service that is no more."""
        owner = Owner(cluster, ObjectKey("default", name), uid or f"uid-of-{name}")
        for kind in ("frontend", *kinds):
            detail = {"listener": "80/TCP", "target": "node-1"}.get(kind, "")
            body = Resource(Name(kind, balancer_name(owner), detail), owner, port=80, protocol=L4Protocol.TCP)  # type: ignore[arg-type]
            self.world.create(body)
        return owner

    def run(self, verb: str, *arguments: str) -> Result:
        command = [verb, "--provider", "memory", "-f", str(self.folder), *arguments]
        return CliRunner().invoke(main, command)

    def gc(self, *arguments: str, code: int = 0) -> Any:
        result = self.run("gc", *arguments, "-o", "json")
        assert result.exit_code == code, result.output
        return json.loads(result.stdout)

    def serve(self, *names: str) -> None:
        self.put(*names)
        done = self.run("reconcile")
        assert done.exit_code == 0, done.output

    def held(self) -> Collection[str]:
        return sorted({r.owner.service.name for r in self.world.resources.values()})


@pytest.fixture
def yard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Yard:
    return Yard(tmp_path / "manifests", monkeypatch)


@pytest.fixture
def cluster(yard: Yard) -> str:
    """The mark of the folder's cluster; two Services are served in it."""
    yard.serve("web", "api")
    return next(iter(yard.world.resources.values())).owner.cluster


def test_json_is_of_exactly_the_documented_shape(yard: Yard, cluster: str) -> None:
    owner = yard.leave("gone", "listener", cluster=cluster)
    before = dict(yard.world.resources)
    name = balancer_name(owner)
    answer = yard.gc()
    ids = [resource.pop("id") for resource in answer["orphans"][0]["resources"]]
    assert all(ids)
    assert answer == {
        "orphans": [
            {
                "namespace": "default",
                "name": "gone",
                "uid": "uid-of-gone",
                "why": "there is no Service of this name",
                "fate": "kept",
                "resources": [
                    {"kind": "listener", "name": f"{name} 80/TCP"},
                    {"kind": "frontend", "name": name},
                ],
            }
        ],
        "calls": {"read": 1, "write": 0, "by_operation": {"list": 1}},
    }
    assert yard.world.resources == before


def test_told_as_a_table(yard: Yard, cluster: str) -> None:
    assert yard.run("gc").stdout == "Nothing is there that no Service wants.\n"
    yard.leave("gone", "listener", cluster=cluster)
    head, *rows, last = yard.run("gc").stdout.splitlines()
    assert head.split() == ["NAMESPACE", "NAME", "UID", "KIND", "RESOURCE", "SINCE", "FATE", "WHY"]
    assert [row.split()[:4] for row in rows] == [
        ["default", "gone", "uid-of-gone", "listener"],
        ["default", "gone", "uid-of-gone", "frontend"],
    ]
    assert last == "2 resources of 1 Service: 1 kept. `--delete` deletes them."


def test_deletes_what_is_nobodys_and_nothing_else(yard: Yard, cluster: str) -> None:
    served = dict(yard.world.resources)
    yard.leave("gone", "target", "listener", cluster=cluster)
    yard.leave("partial", cluster=cluster)
    elsewhere = yard.leave("gone", "listener", cluster="another")
    yard.leave("web", "listener", cluster=cluster, uid="uid-of-a-former-one")
    answer = yard.gc("--delete")
    assert {(o["name"], o["fate"]) for o in answer["orphans"]} == {
        ("gone", "deleted"),
        ("partial", "deleted"),
        ("web", "deleted"),
    }
    left = {r.owner for r in yard.world.resources.values()} - {r.owner for r in served.values()}
    assert left == {elsewhere}
    assert served.items() <= yard.world.resources.items()
    assert yard.run("reconcile", "-o", "json").exit_code == 0
    assert yard.gc("--delete")["orphans"] == []


def test_the_folder_is_not_written(yard: Yard, cluster: str) -> None:
    yard.leave("gone", cluster=cluster)
    before = {path: path.read_bytes() for path in yard.folder.iterdir()}
    yard.gc("--delete")
    assert {path: path.read_bytes() for path in yard.folder.iterdir()} == before


def test_brake(yard: Yard, cluster: str) -> None:
    """A folder that is another one looks just like this."""
    for number in range(5):
        yard.leave(f"gone-{number}", cluster=cluster)
    before = dict(yard.world.resources)
    refused = yard.run("gc", "--delete")
    assert refused.exit_code == 1
    assert "5 of 7 owners of load balancers are gone at once" in refused.stderr
    assert yard.world.resources == before
    assert len(yard.gc("--delete", "--force")["orphans"]) == 5
    assert yard.held() == ["api", "web"]


def test_brake_of_a_cluster_without_services_of_ours(yard: Yard, tmp_path: Path) -> None:
    yard.serve("web")
    cluster = next(iter(yard.world.resources.values())).owner.cluster
    yard.folder = tmp_path / "empty"
    yard.folder.mkdir()
    refused = yard.run("gc", "--delete", "--cluster-name", cluster)
    assert refused.exit_code == 1
    assert "1 of 1 owners of load balancers" in refused.stderr
    assert yard.held() == ["web"]


def test_what_cannot_be_read_may_be_the_service(yard: Yard, cluster: str) -> None:
    yard.leave("gone", cluster=cluster)
    (yard.folder / "broken.yaml").write_text(
        "kind: Service\napiVersion: v1\nmetadata: {name: gone}\nspec: 1\n"
    )
    refused = yard.run("gc", "--delete")
    assert refused.exit_code == 1
    assert "cannot be read" in refused.stderr
    assert "gone" in yard.held()
    assert yard.gc("--delete", "--force")["orphans"][0]["fate"] == "deleted"


def test_a_service_that_came_meanwhile_is_spared(
    yard: Yard, cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Restored with its uid between the listing and the deletion, as a backup of a cluster would."""
    saved = tmp_path / "saved"
    shutil.copytree(yard.folder, saved)
    (yard.folder / "web.yaml").unlink()
    state = next(p for p in yard.folder.iterdir() if p.name.startswith("."))
    state_bytes = state.read_bytes()
    state.unlink()
    yard.put("api", "other")
    from lbprov.controller.sweep import Sweep

    find = Sweep._orphans

    def found_then_restored(self: Sweep, *arguments: Any) -> Any:
        found = find(self, *arguments)
        (yard.folder / "web.yaml").write_bytes((saved / "web.yaml").read_bytes())
        state.write_bytes(state_bytes)
        return found

    monkeypatch.setattr(Sweep, "_orphans", found_then_restored)
    answer = yard.gc("--delete", "--force", "--cluster-name", cluster)
    fates = {o["name"]: o["fate"] for o in answer["orphans"]}
    assert fates["web"] == "wanted", answer
    assert "web" in yard.held()


def test_what_needs_time_is_waited_for_and_then_told(yard: Yard, cluster: str) -> None:
    yard.leave("gone", cluster=cluster)
    yard.world.deletion_s = 3600.0
    answer = yard.gc("--delete", "--wait", "0", code=1)
    assert answer["orphans"][0]["fate"] == "pending"
    assert "frontend" in answer["orphans"][0]["message"]
