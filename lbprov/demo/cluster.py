"""The demo's cluster: a folder of manifests, a kubelet, and the real node agent on every node.

What Kubernetes does between `kubectl apply` and a request that is answered, in the same order: new Pods run
before anything sends to them, and old ones end only after nothing does.
"""

from __future__ import annotations

import collections
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from lbprov.cluster.manifests import ManifestCluster
from lbprov.cluster.manifests.cluster import STATE_FILE
from lbprov.lab import Lab, LabProcess, NodeHost, PodHost
from lbprov.model import ObjectKey, Pod, Service

MANIFESTS = Path(__file__).parent / "manifests"
CLUSTER_CIDRS = ("10.244.0.0/16", "fd00:10:244::/48")
WEB_PORT = 80
APPLY_PATIENCE_S = 60.0
DRAIN_S = 0.1
"""How long connections that were made before the last change may need until they have reached their Pod."""


class Kubelet:
    """Runs Pods: a namespace each, with the small web server in it (whatever image the manifest names)."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._running: dict[ObjectKey, tuple[Pod, PodHost, LabProcess]] = {}

    def host(self, key: ObjectKey) -> PodHost:
        return self._running[key][1]

    def start(self, pods: Iterable[Pod]) -> None:
        """Start those that do not run yet; returns when all of them serve. Pods without a node wait."""
        begun: list[tuple[PodHost, LabProcess]] = []
        for pod in pods:
            if pod.key in self._running or not pod.node_name:
                continue
            node = self._lab.hosts[pod.node_name]
            assert isinstance(node, NodeHost)
            ipv4, ipv6 = (next((ip for ip in pod.ips if (":" in ip) is v6), "") for v6 in (False, True))
            host = self._lab.add_pod(pod.key.name, node, ipv4, ipv6)
            server = host.begin_serving(http=WEB_PORT)
            self._running[pod.key] = (pod, host, server)
            begun.append((host, server))
        for host, server in begun:
            host.await_ready(server)

    def end_all_but(self, pods: Iterable[Pod]) -> None:
        """Let the others go as containers go: told to end (SIGTERM), they finish what they have."""
        gone = self._running.keys() - {pod.key for pod in pods}
        if not gone:
            return
        time.sleep(DRAIN_S)
        for key in gone:
            self._running[key][2].terminate()
        for key in gone:
            _, host, server = self._running.pop(key)
            server.wait(timeout=10)
            self._lab.remove(host)


class NodeAgents:
    """`lbprov node` on every node, and what each says that it has applied."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._applied: dict[str, str] = {}
        self._ended: dict[str, str] = {}
        self._last_words: dict[str, collections.deque[str]] = {}

    def start(self, nodes: Iterable[NodeHost], folder: Path) -> None:
        for node in nodes:
            process = node.popen(
                [sys.executable, "-P", "-m", "lbprov", *node_arguments(node, folder)],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            self._last_words[node.name] = collections.deque(maxlen=20)
            threading.Thread(target=self._listen, args=(node.name, process), daemon=True).start()

    def _listen(self, name: str, process: LabProcess) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self._last_words[name].append(line.rstrip())
            applied = _applied_version(line)
            if applied:
                with self._changed:
                    self._applied[name] = applied
                    self._changed.notify_all()
        with self._changed:
            self._ended[name] = "\n".join(self._last_words[name])
            self._changed.notify_all()

    def await_applied(self, version: str) -> None:
        """Returns when every node forwards as the snapshot of that version says."""
        deadline = time.monotonic() + APPLY_PATIENCE_S
        with self._changed:
            while behind := [n for n in self._last_words if self._applied.get(n) != version]:
                if self._ended:
                    name, words = next(iter(self._ended.items()))
                    raise RuntimeError(f"the agent of {name} has ended: {words}")
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    words = "\n".join(self._last_words[behind[0]])
                    raise RuntimeError(
                        f"{', '.join(behind)} not applied in {APPLY_PATIENCE_S:.0f} s: {words}"
                    )
                self._changed.wait(left_s)


def _applied_version(line: str) -> str:
    try:
        record = json.loads(line)
    except ValueError:
        return ""
    return str(record.get("version", "")) if record.get("msg") == "applied" else ""


def node_arguments(node: NodeHost, folder: Path) -> list[str]:
    return [
        *("node", "-f", str(folder), "--node-name", node.name),
        *("--cluster-cidr", ",".join(CLUSTER_CIDRS), "--log-format", "json"),
    ]


class DemoCluster:
    """A cluster in `folder`, whose nodes are those of the lab. Manifests are changed by `apply`, `edit` and
    `delete` alone; each returns when the change has reached every node."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab = lab
        self.folder = folder / "manifests"
        self._staged = folder / "staged"
        self.folder.mkdir()
        _write(self.folder, {f"{node.name}.yaml": _node_manifest(node) for node in lab.nodes})
        self._cluster = ManifestCluster.open(self.folder)
        self.snapshot = self._cluster.snapshot()
        self.kubelet = Kubelet(lab)
        self.agents = NodeAgents()

    def apply(self, *names: str, variants: Mapping[str, str] | None = None) -> None:
        """The walkthrough's manifests of these names, as they are, and `variants` of them: name -> text."""
        self._change({name: (MANIFESTS / name).read_text() for name in names} | dict(variants or {}))

    def edit(self, *names: str, change: Callable[[str, dict[str, Any]], None]) -> None:
        """Load manifests of the folder, let `change(name, manifest)` edit each, put them back."""
        texts: dict[str, str | None] = {}
        for name in names:
            manifest = yaml.safe_load((self.folder / name).read_text())
            change(name, manifest)
            texts[name] = yaml.safe_dump(manifest, sort_keys=False)
        self._change(texts)

    def delete(self, name: str) -> None:
        self._change({name: None})

    def _change(self, texts: Mapping[str, str | None]) -> None:
        """File -> its new text, None where it goes. Tried on a copy first: the Pods that the change will
        bring are started before it is true."""
        shutil.copytree(self.folder, self._staged, ignore=shutil.ignore_patterns(".*"))
        try:
            _write(self._staged, texts)
            ahead = ManifestCluster.open(
                self._staged, state_file=self.folder / STATE_FILE, read_only=True
            ).snapshot()
        finally:
            shutil.rmtree(self._staged)
        self.kubelet.start(ahead.pods)
        _write(self.folder, texts)
        self.refresh()
        self.kubelet.end_all_but(self.snapshot.pods)

    def refresh(self) -> None:
        """Read the cluster anew (somebody wrote to it) and wait until every node is up to date."""
        self.snapshot = self._cluster.snapshot()
        self.agents.await_applied(self.snapshot.version)

    def service(self, name: str) -> Service | None:
        key = ObjectKey("default", name)
        return next((s for s in self.snapshot.services if s.key == key), None)

    def pods_of(self, service: str) -> tuple[Pod, ...]:
        """The Pods behind a Service, by its endpoints."""
        slices = [s for s in self.snapshot.endpoint_slices if s.service == service]
        targets = {e.target for s in slices for e in s.endpoints if e.ready}
        return tuple(pod for pod in self.snapshot.pods if pod.key in targets)


def _node_manifest(node: NodeHost) -> str:
    manifest = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": node.name, "labels": {"kubernetes.io/hostname": node.name}},
        "spec": {"podCIDR": node.pod_cidrs[0], "podCIDRs": list(node.pod_cidrs)},
        "status": {
            "addresses": [
                {"type": "InternalIP", "address": node.ipv4},
                {"type": "Hostname", "address": node.name},
            ],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }
    return yaml.safe_dump(manifest, sort_keys=False)


def _write(folder: Path, texts: Mapping[str, str | None]) -> None:
    """Each file at once or not at all: an agent may be reading the folder."""
    for name, text in texts.items():
        path = folder / name
        if text is None:
            path.unlink()
        else:
            half = folder / f".{name}.half"
            half.write_text(text)
            half.replace(path)
