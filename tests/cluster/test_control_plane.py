"""The control plane of the tests is a real one: it defaults, validates, authorizes, makes EndpointSlices; it
can fail in every way that its users have to survive; and it leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lbprov.lab.controlplane import Api, ApiError, ControlPlane, eventually
from lbprov.lab.controlplane.objects import (
    add_node,
    add_pod,
    endpoint_ips,
    service,
    set_node_ready,
    set_pod_ready,
)
from lbprov.lab.controlplane.plane import free_ports

MODULE = Path(__file__).parent / "controlplane"


def test_services_are_defaulted_and_given_addresses(api: Api) -> None:
    made = api.create(service("web", ipFamilyPolicy="PreferDualStack"))["spec"]
    assert made["ipFamilies"] == ["IPv4", "IPv6"]
    v4, v6 = made["clusterIPs"]
    assert v4.startswith("10.")
    assert v6.startswith("fd00:10:96::")
    assert 30000 <= made["ports"][0]["nodePort"] <= 32767
    assert made["externalTrafficPolicy"] == "Cluster"


def test_endpoint_slices_follow_the_readiness_of_pods(api: Api) -> None:
    add_node(api, "node-1")
    api.create(service("web"))
    add_pod(api, "web-1", ips=["10.0.0.1"], node="node-1", labels={"app": "web"})
    add_pod(api, "web-2", ips=["10.0.0.2"], node="node-1", labels={"app": "web"}, ready=False)
    eventually(lambda: endpoint_ips(api, "web") == {"10.0.0.1"})
    set_pod_ready(api, "web-2", True)
    eventually(lambda: endpoint_ips(api, "web") == {"10.0.0.1", "10.0.0.2"})


def test_nodes_are_as_kubelets_and_the_node_controller_leave_them(api: Api) -> None:
    tainted = {"key": "example.com/t", "effect": "NoSchedule"}
    node = add_node(
        api,
        "node-1",
        ips=["192.0.2.7", "2001:db8::7"],
        provider_id="aws:///eu-west-1a/i-1",
        zone="eu-west-1a",
        taints=[tainted],
    )
    assert node["spec"] == {"providerID": "aws:///eu-west-1a/i-1", "taints": [tainted]}
    assert [a["address"] for a in node["status"]["addresses"]] == ["192.0.2.7", "2001:db8::7", "node-1"]
    assert [c["status"] for c in node["status"]["conditions"]] == ["True"]
    node = set_node_ready(api, "node-1", False)
    assert [t["key"] for t in node["spec"]["taints"]] == ["example.com/t", "node.kubernetes.io/not-ready"]
    assert [c["status"] for c in node["status"]["conditions"]] == ["False"]


def test_an_account_may_do_nothing_that_it_was_not_given(api: Api, control_plane: ControlPlane) -> None:
    somebody = api.with_token(control_plane.token(api.namespace, "default"))
    user = f"system:serviceaccount:{api.namespace}:default"
    with pytest.raises(ApiError, match=f'403 Forbidden: .*User "{user}" cannot list resource "services"'):
        somebody.list("Service")
    refused = [call for call in control_plane.calls(user) if call.resource == "services"]
    assert [(c.verb, c.namespace, c.code) for c in refused] == [("list", api.namespace, 403)]
    assert abs(refused[0].at_s - time.time()) < 60


def test_pod_security_is_enforced(api: Api) -> None:
    label = {"pod-security.kubernetes.io/enforce": "restricted"}
    api.patch("Namespace", api.namespace, {"metadata": {"labels": label}})
    with pytest.raises(ApiError, match='violates PodSecurity "restricted:latest"'):
        add_pod(api, "root", ips=["10.0.0.1"])


def test_fields_that_do_not_exist_are_refused(api: Api) -> None:
    with pytest.raises(ApiError, match=r'unknown field "spec.loadBalancerIp"'):
        api.create(service("web", loadBalancerIp="192.0.2.1"))
    with pytest.raises(ApiError, match=r"loadBalancerIp: field not declared in schema"):
        api.apply(service("web", loadBalancerIp="192.0.2.1"))


def test_apply_owns_fields_and_dry_runs_leave_no_trace(api: Api) -> None:
    api.apply(service("dry"), dry_run=True)
    assert api.find("Service", "dry") is None
    api.apply(service("web"), manager="us")
    changed = api.apply(service("web", externalIPs=["192.0.2.1"]), manager="us")
    assert changed["spec"]["externalIPs"] == ["192.0.2.1"]
    assert "externalIPs" not in api.apply(service("web"), manager="us")["spec"]


def test_watch_tells_what_happens(api: Api) -> None:
    api.create(service("web"))
    before = api.request("GET", api.path("Service"))["metadata"]["resourceVersion"]
    api.patch("Service", "web", {"metadata": {"labels": {"a": "b"}}})
    api.delete("Service", "web")
    seen = [kind for kind, _ in api.watch("Service", resource_version=before, timeout_s=1)]
    assert seen == ["MODIFIED", "DELETED"]


def test_a_killed_api_server_comes_back_with_its_data(api: Api, control_plane: ControlPlane) -> None:
    uid = api.create(service("web"))["metadata"]["uid"]
    somebody = api.with_token(control_plane.token(api.namespace, "default"))
    control_plane.apiserver.kill()
    with pytest.raises(ConnectionRefusedError):
        api.get("Service", "web")
    control_plane.apiserver.start()
    control_plane.wait_ready()
    assert api.get("Service", "web")["metadata"]["uid"] == uid
    assert somebody.text("/version")  # its token is good still


def test_a_frozen_api_server_accepts_and_does_not_answer(api: Api, control_plane: ControlPlane) -> None:
    control_plane.apiserver.pause()
    impatient = ["-c", f"import socket; socket.create_connection({_address(control_plane)!r}, 1)"]
    subprocess.run([sys.executable, *impatient], check=True)
    with pytest.raises(RuntimeError, match=r"not ready after 1\.0 s"):
        _short(control_plane)
    control_plane.apiserver.resume()
    control_plane.wait_ready()
    assert api.list("Service") == []


def _address(plane: ControlPlane) -> tuple[str, int]:
    host, port = plane.server.removeprefix("https://").split(":")
    return host, int(port)


def _short(plane: ControlPlane) -> None:
    plane.wait_ready(1.0)


OWNER = """
import sys, time
from pathlib import Path
from lbprov.lab.controlplane import ControlPlane
plane = ControlPlane.open(Path(sys.argv[1]))
daemons = (plane.etcd, plane.apiserver, plane.controller_manager)
print(plane.admin_kubeconfig.parent, *(daemon.pid for daemon in daemons), flush=True)
if sys.argv[2] == "close":
    plane.close()
else:
    time.sleep(100)
"""


def _runs(pid: int) -> bool:
    """A zombie that nobody collects, in a container without an init, runs no more."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize(
    "end",
    [
        pytest.param("close", id="closed"),
        pytest.param(signal.SIGTERM, id="sigterm-unhandled"),
        pytest.param(signal.SIGKILL, id="kill-9"),
    ],
)
@pytest.mark.usefixtures("control_plane")  # the programs are there
def test_nothing_outlives_its_owner(end: str | signal.Signals) -> None:
    how = end if isinstance(end, str) else "wait"
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(MODULE), how], stdout=subprocess.PIPE, text=True
    )
    with owner:
        assert owner.stdout is not None
        folder, *pids = owner.stdout.readline().split()
        assert len(pids) == 3
        if not isinstance(end, str):
            assert all(_runs(int(pid)) for pid in pids)
            os.kill(owner.pid, end)
        owner.wait(timeout=30)
    eventually(lambda: not Path(folder).exists() and not any(_runs(int(pid)) for pid in pids))


def test_a_program_that_cannot_start_says_why(control_plane: ControlPlane, tmp_path: Path) -> None:
    broken = tmp_path / "kube-apiserver"
    broken.write_text("#!/bin/sh\necho no luck today\nexit 3\n")
    broken.chmod(0o755)
    with pytest.raises(RuntimeError, match="kube-apiserver did not start: no luck today"):
        _open_with(broken)


def _open_with(apiserver: Path) -> None:
    from lbprov.lab.controlplane import programs

    plane = ControlPlane({**programs(MODULE), "kube-apiserver": apiserver})
    try:
        plane.start()
    finally:
        plane.close()


def test_one_can_be_had_from_the_command_line(control_plane: ControlPlane, kubectl: Path) -> None:
    command = [sys.executable, "-m", "lbprov.lab.controlplane", str(MODULE)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        kubeconfig = process.stdout.readline().partition("KUBECONFIG=")[2].strip()
        asked = [str(kubectl), "--kubeconfig", kubeconfig, "get", "namespaces", "-o", "name"]
        done = subprocess.run(asked, capture_output=True, text=True)
        process.send_signal(signal.SIGINT)
    assert "namespace/kube-system" in done.stdout
    assert process.returncode == 0
    assert not Path(kubeconfig).exists()


def test_without_programs_and_go_the_command_says_what_to_do(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lbprov.lab.controlplane", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "")
    assert "is no Go module that pins a control plane" in done.stdout


def test_ports_are_not_those_of_clients() -> None:
    first, last = (int(n) for n in Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    ports = free_ports(20)
    assert len(set(ports)) == 20
    assert not [port for port in ports if first <= port <= last]


def test_kubeconfigs_are_for_their_owner_only(control_plane: ControlPlane, installed: str) -> None:
    path = control_plane.kubeconfig(installed, "lbprov-controller", "http://127.0.0.1:1")
    for config in (path, control_plane.admin_kubeconfig):
        assert config.stat().st_mode & 0o777 == 0o600
    assert json.loads(path.read_text())["clusters"][0]["cluster"] == {"server": "http://127.0.0.1:1"}


def test_eventually_gives_up_with_the_last_answer() -> None:
    with pytest.raises(TimeoutError, match=r"after 0.1 s still \[\]"):
        eventually(lambda: [], timeout_s=0.1, every_s=0.01)
