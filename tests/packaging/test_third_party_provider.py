"""A provider in another distribution: built, installed with pip, found, used, watched; and it conforms.

It is the example of docs/writing-a-provider.md, word for word.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest

from lbprov.api import Provider, ProviderContext, Target
from lbprov.testing.conformance import Harness, ProviderConformance, SimulatedCrash

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
LBPROV = str(Path(sys.executable).parent / "lbprov")

SERVICE = """\
apiVersion: v1
kind: Service
metadata:
  name: {name}
spec:
  type: LoadBalancer
  ports: [{{port: {port}, nodePort: {node_port}}}]
"""
NODE = """\
apiVersion: v1
kind: Node
metadata: {name: node-1}
status:
  addresses: [{type: InternalIP, address: 192.0.2.11}]
"""


def _pip_install(source: Path, target: Path) -> None:
    """Without an index, a build environment or dependencies: nothing is fetched."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    done = subprocess.run(
        [*command, "--no-build-isolation", "--target", str(target), str(source)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the tiny provider is installed in, built from a copy."""
    base = tmp_path_factory.mktemp("tiny")
    shutil.copytree(HERE / "tiny_provider", base / "source", ignore=shutil.ignore_patterns("__pycache__"))
    _pip_install(base / "source", base / "site")
    return base / "site"


class Folder:
    """Manifests, the folder that the files go to, and the command line over both."""

    def __init__(self, base: Path, *sites: Path) -> None:
        self.manifests, self.files = base / "manifests", base / "files"
        self.manifests.mkdir()
        self.files.mkdir()
        (self.manifests / "node.yaml").write_text(NODE)
        self.environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sites))}

    def put(self, name: str, port: int = 80, node_port: int = 30080) -> None:
        text = SERVICE.format(name=name, port=port, node_port=node_port)
        (self.manifests / f"{name}.yaml").write_text(text)

    def command(self, verb: str, *arguments: str) -> list[str]:
        provider = ["--provider", "tiny", "--provider-option", f"dir={self.files}"]
        return [LBPROV, verb, *provider, "-f", str(self.manifests), *arguments]

    def run(self, verb: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = self.command(verb, *arguments)
        return subprocess.run(command, env=self.environment, capture_output=True, text=True)

    def balancers(self) -> dict[str, Any]:
        return {p.name.split(".")[1]: json.loads(p.read_text()) for p in self.files.glob("*.json")}


def test_installed_and_used(site: Path, tmp_path: Path) -> None:
    folder = Folder(tmp_path, site)
    listed = subprocess.run([LBPROV, "providers"], env=folder.environment, capture_output=True, text=True)
    assert re.search(
        r"tiny +example.com/tiny +Load balancers that are files +lbprov-tiny 1.2.3", listed.stdout
    )
    folder.put("web")
    first = folder.run("reconcile", "-o", "json")
    assert first.returncode == 0, first.stderr
    answer = json.loads(first.stdout)
    assert [(s["name"], s["result"], s["ingress"]) for s in answer["services"]] == [
        ("web", "created", [{"ip": "203.0.113.1", "ipMode": "VIP"}])
    ]
    assert folder.balancers()["web"]["listeners"] == ["80/TCP->30080"]
    assert folder.balancers()["web"]["targets"] == ["192.0.2.11"]
    assert json.loads(folder.run("reconcile", "-o", "json").stdout)["calls"]["write"] == 0
    (folder.manifests / "web.yaml").unlink()
    assert json.loads(folder.run("reconcile", "-o", "json").stdout)["services"][0]["result"] == "deleted"
    assert folder.balancers() == {}


def test_two_distributions_with_one_provider_are_refused(site: Path, tmp_path: Path) -> None:
    source = tmp_path / "twin"
    shutil.copytree(HERE / "tiny_provider", source, ignore=shutil.ignore_patterns("__pycache__"))
    project = source / "pyproject.toml"
    project.write_text(project.read_text().replace("lbprov-tiny", "lbprov-twin"))
    _pip_install(source, tmp_path / "site")
    folder = Folder(tmp_path, site, tmp_path / "site")
    folder.put("web")
    refused = folder.run("reconcile")
    assert refused.returncode == 2
    assert "lbprov-tiny 1.2.3" in refused.stderr
    assert "lbprov-twin 1.2.3" in refused.stderr
    assert folder.balancers() == {}
    listed = subprocess.run([LBPROV, "providers"], env=folder.environment, capture_output=True, text=True)
    assert listed.returncode == 0
    assert listed.stdout.count("both call a provider 'tiny'") == 2
    assert "lbprov.io/aws" in listed.stdout


def _eventually(what: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 30
    while not what():
        assert time.monotonic() < deadline_s, "it did not come about within 30 s"
        time.sleep(0.05)


def test_watched_until_told_to_stop(site: Path, tmp_path: Path) -> None:
    folder = Folder(tmp_path, site)
    folder.put("web")
    command = folder.command("reconcile", "--watch", "-o", "json")
    with subprocess.Popen(command, env=folder.environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            _eventually(lambda: "web" in folder.balancers())
            folder.put("shop", 81, 30081)
            _eventually(lambda: "shop" in folder.balancers())
            folder.put("shop", 82, 30081)
            _eventually(lambda: folder.balancers()["shop"]["listeners"] == ["82/TCP->30081"])
            (folder.manifests / "web.yaml").unlink()
            _eventually(lambda: set(folder.balancers()) == {"shop"})
            process.send_signal(signal.SIGTERM)
            out, _ = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 0
    told = [{s["name"]: s["result"] for s in json.loads(line)["services"]} for line in out.splitlines()]
    assert told == [{"web": "created"}, {"shop": "created"}, {"shop": "updated"}, {"web": "deleted"}]
    assert json.loads(folder.run("reconcile", "-o", "json").stdout)["calls"]["write"] == 0


class TinyHarness:
    def __init__(self, folder: Path, module: Any) -> None:
        self.folder, self.module = folder, module

    def provider(self, *, cluster: str = "conformance", read_only: bool = False) -> Provider[Any]:
        pool = tuple(f"203.0.113.{n}" for n in range(1, 100))
        options = {"dir": str(self.folder), "addresses": pool}
        provider: Provider[Any] = self.module.TinyProvider(
            ProviderContext(cluster, options, lambda: 0.0, read_only)
        )
        return provider

    def targets(self) -> tuple[Target, ...]:
        return tuple(Target(f"node-{n}", addresses=(f"192.0.2.{n}",)) for n in range(1, 5))

    def inventory(self) -> Collection[str]:
        files = sorted(self.folder.glob("*.json"))
        return [f.name + json.dumps({**json.loads(f.read_text()), "address": ""}) for f in files]

    def free_ip(self) -> str:
        return "203.0.113.77"

    def unusable_ip(self) -> str:
        return "198.51.100.7"

    def settle(self, seconds: float) -> None:
        pass

    def damage(self) -> None:
        min(f for f in self.folder.glob("*.json") if "conformance" in f.read_text()).unlink()

    @contextmanager
    def crash_at_write(self, number: int, when: Literal["before", "after"]) -> Iterator[None]:
        count = 0
        patch = pytest.MonkeyPatch()

        def dying(write: Callable[..., Any]) -> Callable[..., Any]:
            def carry_out(*arguments: Any, **options: Any) -> Any:
                nonlocal count
                count += 1
                if (count, when) == (number, "before"):
                    raise SimulatedCrash
                result = write(*arguments, **options)
                if count == number:
                    raise SimulatedCrash
                return result

            return carry_out

        patch.setattr(self.module.Path, "replace", dying(Path.replace))
        patch.setattr(self.module.Path, "unlink", dying(Path.unlink))
        try:
            yield
        finally:
            patch.undo()


class TestTinyProvider(ProviderConformance):
    @pytest.fixture
    def harness(self, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Harness:
        monkeypatch.syspath_prepend(site)
        return TinyHarness(tmp_path, importlib.import_module("lbprov_tiny"))


def test_the_documented_example_is_this_provider() -> None:
    guide = (ROOT / "docs/writing-a-provider.md").read_text()
    blocks = [b.strip("\n") for b in re.findall(r"```(?:python|toml)\n(.*?)```", guide, re.DOTALL)]
    sources = [(HERE / "tiny_provider" / name).read_text() for name in ("lbprov_tiny.py", "pyproject.toml")]
    ours = [b for b in blocks if "# elsewhere" not in b]
    assert len(ours) >= 4
    for block in ours:
        assert any(block in source for source in sources), f"not in the example any more:\n{block}"
