"""Pods of the lab run under what their specs say, and are ended as a kubelet ends them."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lbprov.lab.controlplane import Api, ControlPlane, Object, eventually
from lbprov.lab.controlplane.container import Container
from lbprov.lab.controlplane.kubelet import Kubelet

SERVER = """
import http.server, os
host, port = os.environ["ADDRESS"].split(":")
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/die": os._exit(7)
        self.send_response(200 if self.path == "/ready" else 404); self.end_headers()
http.server.HTTPServer((host, int(port)), Handler).serve_forever()
"""
READ_ONLY = "readOnlyRootFilesystem"
POD: Object = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "try"},
    "spec": {
        "serviceAccountName": "default",
        "terminationGracePeriodSeconds": 1,
        "securityContext": {"runAsUser": 1234, "runAsGroup": 5678},
        "containers": [
            {
                "name": "main",
                "image": "lab/try:1",
                "env": [{"name": "COLOUR", "value": "blue"}],
                "securityContext": {"capabilities": {"drop": ["ALL"]}, READ_ONLY: True},
            }
        ],
    },
}


def pod(*command: str, **container: Any) -> Object:
    obj = copy.deepcopy(POD)
    obj["spec"]["containers"][0] |= {"command": [*command], **container}
    return obj


@pytest.fixture
def kubelet(control_plane: ControlPlane, api: Api) -> Iterator[Kubelet]:
    with Kubelet(control_plane, api.namespace, {"lab/try": ["false"]}, "ADDRESS", {"EXTRA": "1"}) as kubelet:
        yield kubelet


def ready(api: Api) -> bool:
    conditions = {c["type"]: c["status"] for c in api.get("Pod", "try")["status"].get("conditions", ())}
    return conditions.get("Ready") == "True"


def said(kubelet: Kubelet, last: str) -> list[str]:
    eventually(lambda: "try" in kubelet.running and last in kubelet.running["try"].said())
    return kubelet.running["try"].said().splitlines()


def test_rights_files_and_environment_are_those_of_the_spec(api: Api, kubelet: Kubelet) -> None:
    script = """
    id -u; id -g; grep CapEff /proc/self/status; grep NoNewPrivs /proc/self/status
    for path in /tmp/x /x /run/x /var/x; do touch $path 2>/dev/null && echo wrote $path; done
    cat /var/run/secrets/kubernetes.io/serviceaccount/namespace; echo
    echo $HOME $COLOUR $EXTRA $HOSTNAME ${KUBERNETES_SERVICE_PORT:+port}
    env | grep -c ^PYTEST; echo end; exec sleep 1000
    """
    api.create(pod("sh", "-c", script))
    assert said(kubelet, "end") == [
        "1234",
        "5678",
        "CapEff:\t0000000000000000",
        "NoNewPrivs:\t1",
        api.namespace,
        "/ blue 1 try port",
        "0",
        "end",
    ]


def test_readiness_is_told_and_the_dead_are_restarted(api: Api, kubelet: Kubelet) -> None:
    probe = {"httpGet": {"path": "/ready", "port": 80}}
    api.create(pod(sys.executable, "-c", SERVER, readinessProbe=probe))
    eventually(lambda: ready(api))
    first = kubelet.running["try"].process
    first.kill()
    eventually(lambda: api.get("Pod", "try")["status"]["containerStatuses"][0]["restartCount"] == 1)
    eventually(lambda: ready(api))
    assert kubelet.running["try"].process.pid != first.pid


@pytest.mark.parametrize(
    ("command", "code"),
    [
        pytest.param("trap 'exit 3' TERM; echo up; while :; do sleep 0.1; done", 3, id="politely"),
        pytest.param("trap '' TERM; echo up; while :; do sleep 0.1; done", -9, id="after-the-grace-period"),
    ],
)
def test_a_deleted_pod_is_ended_and_then_gone(api: Api, kubelet: Kubelet, command: str, code: int) -> None:
    api.create(pod("sh", "-c", command))
    said(kubelet, "up")
    process = kubelet.running["try"].process
    api.delete("Pod", "try")
    eventually(lambda: api.find("Pod", "try") is None)
    assert process.returncode == code
    assert kubelet.running == {}


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda s: s.update(initContainers=[{}]), id="init-containers"),
        pytest.param(lambda s: s.update(volumes=[{"name": "v", "emptyDir": {}}]), id="volumes"),
        pytest.param(lambda s: s["containers"][0]["securityContext"].pop("capabilities"), id="capabilities"),
        pytest.param(lambda s: s["containers"][0]["securityContext"].pop(READ_ONLY), id="writable"),
        pytest.param(lambda s: s["containers"].append({}), id="two-containers"),
    ],
)
def test_a_pod_that_cannot_be_run_truthfully_is_refused(change: Callable[[dict[str, Any]], object]) -> None:
    obj = pod("true")
    change(obj["spec"])
    with pytest.raises(ValueError, match=r"cannot|unpack"):
        Container.of_pod(obj, [], {})
