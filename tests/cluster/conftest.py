"""One real control plane for the tests of this folder, and one of its own for a file that needs it.

Its programs are built before the first test, once per machine, outside of any test's time limit.

| fixture | what it is |
|---|---|
| `_plane` | the control plane that the rest stands on: one for all files, or a file's own `untouched_plane` |
| `untouched_plane` | a control plane for one file of tests, on which nothing was allocated before |
| `control_plane` | the running `ControlPlane`, well at the beginning of every test |
| `api` | its administrator in a fresh namespace; no Services and no Nodes but those that the test makes |
| `installed` | the namespace, ServiceAccount and RBAC that we ship, applied |
| `admin_kubeconfig`, `controller_kubeconfig` | paths: the administrator's, the shipped ServiceAccount's |
| `kubectl`, `kube_proxy` | the path of a kubectl, of a kube-proxy of the same release |
| `relay` | a way to the API server that misbehaves when told to |
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from lbprov.lab.controlplane import CONTROL_PLANE, Api, ControlPlane, Relay, eventually, programs

MODULE = Path(__file__).parent / "controlplane"
INSTALL = Path(__file__).parents[2] / "deploy/install.yaml"
NAMESPACE, SERVICE_ACCOUNT = "lbprov-system", "lbprov-controller"
RIGHTS = ("Namespace", "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")
PROGRAMS = {
    "_plane": CONTROL_PLANE,
    "kubectl": ("kubectl",),
    "kube_proxy": ("kube-proxy",),
}  # fixture -> what it runs
_numbers = itertools.count(1)


def pytest_collection_finish(session: pytest.Session) -> None:
    if session.config.option.collectonly:
        return
    fixtures = {name for item in session.items for name in getattr(item, "fixturenames", ())}
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    for fixture, names in PROGRAMS.items():
        if fixture in fixtures:
            programs(MODULE, names, terminal.write_line if terminal else print)


@pytest.fixture(scope="session")
def _plane() -> Iterator[ControlPlane]:
    with ControlPlane.open(MODULE) as plane:
        yield plane


@pytest.fixture(scope="module")
def untouched_plane() -> Iterator[ControlPlane]:
    """For tests that choose nodePorts and clusterIPs. On the shared one, a write that a test cut off by
    killing a server may have left some allocated to nobody: the repair loop takes them back after
    three rounds of three minutes."""
    with ControlPlane.open(MODULE) as plane:
        yield plane


@pytest.fixture
def control_plane(_plane: ControlPlane) -> Iterator[ControlPlane]:
    servers = (_plane.etcd, _plane.apiserver)
    before = [server.disturbances for server in servers]
    yield _plane
    for daemon in servers:
        daemon.resume()
        daemon.start()
    _plane.wait_ready()
    if before != [server.disturbances for server in servers]:
        # Its watches back off for up to a minute after an outage; a fresh one does not know of it.
        _plane.controller_manager.kill()
    _plane.controller_manager.resume()
    _plane.controller_manager.start()


@pytest.fixture
def api(control_plane: ControlPlane) -> Iterator[Api]:
    name = f"test-{next(_numbers)}"
    admin = control_plane.admin
    admin.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    # Pods are refused until the controller has made the account that they run as.
    eventually(lambda: admin.find("ServiceAccount", "default", name))
    yield admin.in_namespace(name)
    control_plane.apiserver.resume()
    control_plane.apiserver.start()
    control_plane.wait_ready()
    for service in admin.list("Service", ""):
        if service["metadata"]["name"] != "kubernetes":
            where = service["metadata"]["namespace"]
            if service["metadata"].get("finalizers"):
                admin.patch("Service", service["metadata"]["name"], {"metadata": {"finalizers": None}}, where)
            admin.delete("Service", service["metadata"]["name"], where)
    for node in admin.list("Node"):
        admin.delete("Node", node["metadata"]["name"])
    admin.delete("Namespace", name)


@pytest.fixture
def installed(control_plane: ControlPlane) -> str:
    """The namespace's name."""
    for obj in yaml.safe_load_all(INSTALL.read_text()):
        if obj["kind"] in RIGHTS:
            control_plane.admin.apply(obj)
    return NAMESPACE


@pytest.fixture
def admin_kubeconfig(control_plane: ControlPlane) -> Path:
    return control_plane.admin_kubeconfig


@pytest.fixture
def controller_kubeconfig(control_plane: ControlPlane, installed: str) -> Path:
    return control_plane.kubeconfig(installed, SERVICE_ACCOUNT)


@pytest.fixture(scope="session")
def kubectl() -> Path:
    return programs(MODULE, ["kubectl"])["kubectl"]


@pytest.fixture(scope="session")
def kube_proxy() -> Path:
    return programs(MODULE, ["kube-proxy"])["kube-proxy"]


@pytest.fixture
def relay(control_plane: ControlPlane) -> Iterator[Relay]:
    with Relay(control_plane.server, control_plane.ca_pem) as relay:
        yield relay
