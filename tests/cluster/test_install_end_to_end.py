"""docs/install.md and the README's words on it, followed to the letter: their commands are run as they stand,
on a real API server, with real controllers as its Pods, which act on an AWS of our own."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import pytest
import yaml

from lbprov.lab.aws.server import MotoServer
from lbprov.lab.aws.world import AwsWorld
from lbprov.lab.controlplane import Api, ControlPlane, Object, eventually
from lbprov.lab.controlplane.kubelet import Kubelet
from lbprov.lab.controlplane.objects import add_node

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/install.md").read_text()
README = (ROOT / "README.md").read_text()
USER = "system:serviceaccount:lbprov-system:lbprov-controller"
# What a short life does not need: an Event said again, a Service that is not in the cache yet.
AT_TIMES = {("", "events", "patch"), ("", "services", "get")}
LEASE = ("Lease.coordination.k8s.io", "lbprov-controller", "lbprov-system")
patiently = functools.partial(eventually, timeout_s=60)


def _objects(path: Path) -> list[Object]:
    return [obj for obj in yaml.safe_load_all(path.read_text()) if obj]


def _granted(objects: list[Object]) -> set[tuple[str, str, str]]:
    return {
        (group, resource, verb)
        for obj in objects
        for rule in obj.get("rules", ())
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


GRANTED = _granted(_objects(ROOT / "deploy/install.yaml"))


def commands(heading: str) -> list[str]:
    """The shell blocks under a heading of the page."""
    (section,) = re.findall(rf"^##+ {heading}\n(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    found = re.findall(r"^```sh\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    assert found
    return found


@dataclass
class Reader:
    """Somebody with a checkout, kubectl and the page."""

    folder: Path
    kubectl: Path
    kubeconfig: Path

    def do(self, block: str) -> str:
        environment = {
            "HOME": str(self.folder),
            "KUBECONFIG": str(self.kubeconfig),
            "PATH": f"{self.kubectl.parent}:{os.environ['PATH']}",
        }
        done = subprocess.run(
            ["bash", "-euc", block],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=150,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture
def reader(tmp_path: Path, kubectl: Path, admin_kubeconfig: Path) -> Reader:
    checkout = tmp_path / "checkout"
    shutil.copytree(ROOT / "deploy", checkout / "deploy")
    return Reader(checkout, kubectl, admin_kubeconfig)


@pytest.fixture
def aws(api: Api) -> Iterator[AwsWorld]:
    """With the nodes that the cluster has, too."""
    with MotoServer() as server:
        world = AwsWorld.create(server)
        for number, (name, provider_id) in enumerate(world.provider_ids.items(), 1):
            add_node(api, name, ips=[f"192.0.2.{number}"], provider_id=provider_id)
        yield world


@pytest.fixture
def kubelet(control_plane: ControlPlane, aws: AwsWorld) -> Iterator[Kubelet]:
    program = [sys.executable, "-m", "lbprov"]
    with Kubelet(
        control_plane,
        "lbprov-system",
        {"registry.example.com/lbprov": program, "lbprov": program},
        "LBPROV_HEALTH_ADDRESS",
        aws.server.environment,
    ) as kubelet:
        yield kubelet


@pytest.mark.timeout(300)
def test_the_page_is_followed_to_its_end(
    api: Api, control_plane: ControlPlane, reader: Reader, aws: AwsWorld, kubelet: Kubelet
) -> None:
    admin, begun_s = control_plane.admin, time.time()
    install, try_it = commands("Install")

    reader.do(install)
    assert len(kubelet.running) == 2
    first = {pod.name: pod for pod in kubelet.running.values()}
    holder = patiently(lambda: admin.get(*LEASE)["spec"]["holderIdentity"])
    assert holder.split("_")[0]

    told = reader.do(try_it)
    (balancer,) = aws.load_balancers()
    assert balancer.dns_name in told
    assert "EnsuredLoadBalancer" in told

    (dry_run,) = commands("Without an overlay")
    assert "deployment.apps/lbprov-controller serverside-applied (server dry run)" in reader.do(dry_run)
    (deployment,) = [o for o in _objects(reader.folder / "my-install.yaml") if o["kind"] == "Deployment"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert [variable["value"] for variable in container["env"]] == ["aws", "my-cluster"]
    assert container["image"] == "registry.example.com/lbprov:0.1.0"

    aws.server.control(reset=True)
    (upgrade,) = commands("Upgrade")
    assert "0.1.1" in reader.do(upgrade)
    patiently(lambda: not first.keys() & kubelet.running.keys())
    assert [pod.process.returncode for pod in first.values()] == [0, 0]
    patiently(lambda: admin.get(*LEASE)["spec"]["holderIdentity"] not in ("", holder))
    assert not [call for call in aws.server.calls() if not call.startswith(("Describe", "Get"))]

    assert not [pod.said() for pod in (*first.values(), *kubelet.running.values()) if pod.restarts]
    calls = [call for call in control_plane.calls(USER) if call.resource and call.at_s >= begun_s]
    assert not [call for call in calls if call.code == HTTPStatus.FORBIDDEN]
    used = {(call.group, call.resource, call.verb) for call in calls}
    assert used <= GRANTED
    assert GRANTED - used <= AT_TIMES

    (remove,) = commands("Remove")
    assert "default" not in reader.do(remove).split("NAMESPACE")[-1]
    assert aws.load_balancers() == ()
    assert aws.leftovers() == ()
    for kind, name in (("Namespace", "lbprov-system"), ("ClusterRole", "lbprov-controller")):
        patiently(lambda kind=kind, name=name: admin.find(kind, name) is None)  # type: ignore[misc]


@pytest.mark.timeout(300)
def test_the_readme_is_followed_too(control_plane: ControlPlane, reader: Reader, kubelet: Kubelet) -> None:
    (block,) = re.findall(r"^\*\*In a cluster\*\*.*?^```console\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    reader.do("".join(line.removeprefix("$ ") for line in block.splitlines(keepends=True)))
    assert len(kubelet.running) == 2
    patiently(lambda: control_plane.admin.find(*LEASE))
    control_plane.admin.delete("Namespace", "lbprov-system")
    patiently(lambda: control_plane.admin.find("Namespace", "lbprov-system") is None)
