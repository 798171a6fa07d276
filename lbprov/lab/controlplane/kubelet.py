"""Plays scheduler and kubelet for one namespace: Pods run as processes of this machine, under what their
specs say (`container`), are restarted when they end, and are ended as a kubelet does it.

It stands in for what a control plane alone lacks, so that an installation can be carried out to its end. Pods
of one container; of the probes the one for readiness, by HTTP.
"""

from __future__ import annotations

import contextlib
import http.client
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from lbprov.lab.controlplane.api import Api, ApiError, Object
from lbprov.lab.controlplane.container import Container
from lbprov.lab.controlplane.plane import ControlPlane, free_ports

_ROUND_S = 0.1
_RESTART_AFTER_S = 0.5
_POD_IP = "192.0.2.100"


@dataclass
class Running:
    """A Pod that this kubelet has. `port` is where its first containerPort can be reached on 127.0.0.1."""

    name: str
    container: Container
    port: int
    token_files: Path
    log: Path
    process: subprocess.Popen[bytes]
    restarts: int = 0
    ended_s: float = 0.0
    ends_at_s: float = 0.0
    told: tuple[object, ...] = field(default=())

    def said(self) -> str:
        return self.log.read_text()


class Kubelet:
    """A context manager; Pods run while it does. `entrypoints`: image without its tag -> the ENTRYPOINT.

    `port_variable` is the environment variable that tells the program where to listen: on `127.0.0.1:PORT`,
    as all Pods here share the machine's network. `environment` is added to every container's."""

    def __init__(
        self,
        plane: ControlPlane,
        namespace: str,
        entrypoints: Mapping[str, Sequence[str]],
        port_variable: str,
        environment: Mapping[str, str],
    ) -> None:
        self._plane, self._entrypoints, self._environment = plane, entrypoints, environment
        self._port_variable = port_variable
        self._api: Api = plane.admin.in_namespace(namespace)
        self.running: dict[str, Running] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kubelet", daemon=True)
        self.failure: BaseException | None = None

    def __enter__(self) -> Kubelet:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kills what still runs."""
        self._stopping.set()
        self._thread.join()
        for pod in self.running.values():
            pod.process.kill()
            pod.process.wait()
        if self.failure is not None and error is None:
            raise self.failure

    def _run(self) -> None:
        try:
            while not self._stopping.wait(_ROUND_S):
                with contextlib.suppress(OSError):  # the API server is away: what runs, runs on
                    self._round()
        except BaseException as error:  # told to whoever waits for us
            self.failure = error

    def _round(self) -> None:
        objects = {obj["metadata"]["name"]: obj for obj in self._api.list("Pod")}
        for name, obj in objects.items():
            if name not in self.running and "deletionTimestamp" not in obj["metadata"]:
                self.running[name] = self._start(obj)
        for name, pod in list(self.running.items()):
            known = objects.get(name)
            if known is None or "deletionTimestamp" in known["metadata"]:
                self._end(pod, known)
            else:
                self._keep(pod, known)

    def _start(self, obj: Object) -> Running:
        name = obj["metadata"]["name"]
        target = {"apiVersion": "v1", "kind": "Node", "name": "lab-kubelet"}
        binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": target}
        self._api.request("POST", self._api.path("Pod", name, subresource="binding"), binding)
        (port,) = free_ports(1)
        extra = {
            "KUBERNETES_SERVICE_HOST": "127.0.0.1",
            "KUBERNETES_SERVICE_PORT": self._plane.server.rpartition(":")[2],
            self._port_variable: f"127.0.0.1:{port}",
            **self._environment,
        }
        image = obj["spec"]["containers"][0]["image"].rpartition(":")[0]
        container = Container.of_pod(obj, self._entrypoints[image], extra)
        files = self._plane.pod_files(obj["metadata"]["namespace"], obj["spec"]["serviceAccountName"], name)
        log = files.with_suffix(".log")
        process = container.start(files, log, self._plane.process_group)
        return Running(name, container, port, files, log, process)

    def _keep(self, pod: Running, obj: Object) -> None:
        """Restart what ended; tell the API server what has changed."""
        now_s = time.monotonic()
        if pod.process.poll() is not None and not pod.ended_s:
            pod.ended_s = now_s
        if pod.ended_s and now_s - pod.ended_s > _RESTART_AFTER_S:
            pod.process = pod.container.start(pod.token_files, pod.log, self._plane.process_group)
            pod.restarts, pod.ended_s = pod.restarts + 1, 0.0
        runs = pod.process.poll() is None
        (spec,) = obj["spec"]["containers"]
        ready = runs and _probe(spec.get("readinessProbe"), pod.port)
        told = (runs, ready, pod.restarts)
        if told == pod.told:
            return
        reason = {"reason": "Error", "exitCode": pod.process.returncode}
        status = {
            "name": spec["name"],
            "image": spec["image"],
            "imageID": "",
            "ready": ready,
            "restartCount": pod.restarts,
            "state": {"running": {}} if runs else {"terminated": reason},
        }
        conditions = [{"type": t, "status": str(ready)} for t in ("Ready", "ContainersReady")]
        self._told(pod.name, conditions, status)
        pod.told = told

    def _told(self, name: str, conditions: list[dict[str, str]], status: Mapping[str, Any]) -> None:
        ips = {"podIP": _POD_IP, "podIPs": [{"ip": _POD_IP}]}
        change = {"phase": "Running", **ips, "conditions": conditions, "containerStatuses": [status]}
        _unless_gone(lambda: self._api.patch("Pod", name, {"status": change}, subresource="status"))

    def _end(self, pod: Running, obj: Object | None) -> None:
        """SIGTERM, the grace period, SIGKILL; then the Pod may go."""
        now_s = time.monotonic()
        if not pod.ends_at_s:
            grace_s = obj["metadata"].get("deletionGracePeriodSeconds", 30) if obj else 0
            pod.ends_at_s = now_s + grace_s
            pod.process.terminate()
        if pod.process.poll() is None and now_s > pod.ends_at_s:
            pod.process.kill()
            pod.process.wait()
        if pod.process.poll() is None:
            return
        del self.running[pod.name]
        path = self._api.path("Pod", pod.name)
        _unless_gone(lambda: self._api.request("DELETE", path, {"gracePeriodSeconds": 0}))


def _unless_gone(act: Callable[[], object]) -> None:
    try:
        act()
    except ApiError as error:
        if error.status != http.HTTPStatus.NOT_FOUND:
            raise


def _probe(probe: Mapping[str, Any] | None, port: int) -> bool:
    if probe is None:
        return True
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=probe.get("timeoutSeconds", 1))
    try:
        connection.request("GET", probe["httpGet"]["path"])
        return connection.getresponse().status < http.HTTPStatus.BAD_REQUEST
    except OSError:
        return False
    finally:
        connection.close()
