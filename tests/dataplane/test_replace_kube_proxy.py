"""docs/replace-kube-proxy.md, followed word for word on a node with the real kube-proxy, under traffic; and
the Pod that comes in its place, as it is."""

from __future__ import annotations

import dataclasses
import datetime
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from lbprov.lab import Lab, NodeHost, Probe, Reply
from lbprov.lab.controlplane import CONTROL_PLANE, Api, ControlPlane, eventually, programs
from lbprov.lab.controlplane.objects import add_node
from lbprov.lab.doorway import Doorway
from lbprov.lab.kube_proxy import MODES, KubeProxy, KubeProxySetting

PAGE = (Path(__file__).parents[2] / "docs/replace-kube-proxy.md").read_text()
MODULE = Path(__file__).parents[1] / "cluster/controlplane"
INSTALL = Path(__file__).parents[2] / "deploy/install-node.yaml"
SECRETS = "/run/secrets/kubernetes.io/serviceaccount"
CHECK_PORT = 32200
READ = """
import sys, urllib.request as r, urllib.error as e
try: a = r.urlopen(sys.argv[1], timeout=30)
except e.HTTPError as error: a = error
print(a.status, sorted((k, v) for k, v in a.headers.items() if k.startswith(("Content", "X-"))), a.read())
"""
CLUSTER_CIDRS = "10.244.0.0/16,fd00:10:244::/48"


def blocks(heading: str, under: str) -> list[str]:
    """The shell blocks of a section of the page."""
    (chapter,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    (section,) = re.findall(rf"^### {under}\n(.*?)(?=^### |\Z)", chapter, re.MULTILINE | re.DOTALL)
    found: list[str] = re.findall(r"^```sh\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    return found


@pytest.fixture(scope="module")
def kube_proxy_program() -> Path:
    return programs(MODULE, [*CONTROL_PLANE, "kube-proxy"])["kube-proxy"]


@pytest.fixture(scope="module")
def plane(kube_proxy_program: Path) -> Iterator[ControlPlane]:
    with ControlPlane.open(MODULE) as plane:
        yield plane


@dataclasses.dataclass(frozen=True)
class World:
    """A node that reaches the API server, two Pods that serve, one that asks, a client, and a Service."""

    lab: Lab
    node: NodeHost
    kube_proxy: Path
    vip: str
    node_port: int

    def health(self) -> list[str]:
        """What a load balancer is told: code, headers and body of both ports, without times."""
        said = []
        for page in (f":{CHECK_PORT}/", ":10256/healthz", ":10256/livez"):
            script = [sys.executable, "-c", READ, f"http://{self.node.ipv4}{page}"]
            text = self.lab.hosts["client"].run(script, check=False).stdout
            said.append(re.sub(r"\d{4}-\d\d-\d\dT[0-9:.]+Z|'Content-Length', '\d+'", "…", text))
        return said


@pytest.fixture(scope="module")
def world(plane: ControlPlane, kube_proxy_program: Path) -> Iterator[World]:
    port = int(plane.server.rpartition(":")[2])
    with Lab.open() as lab:
        node = lab.add_node("node-1")
        servers = [
            (pod := lab.add_pod(name, node), pod.begin_serving(http=80)) for name in ("web-a", "web-b")
        ]
        lab.add_pod("asker", node)
        lab.add_client("client")
        for pod, server in servers:
            pod.await_ready(server)
        with Doorway([node], port):
            add_node(plane.admin, node.name, ips=[node.ipv4, node.ipv6])
            yield World(lab, node, kube_proxy_program, *_service(plane.admin, node, lab))


class Reader:
    """Somebody on the node, with the page."""

    def __init__(self, node: NodeHost, folder: Path, kubeconfig: Path) -> None:
        self.node, self.folder = node, folder
        self.done: list[str] = []  # when what was done: to be held against the time of a failure
        program = folder / "lbprov"
        program.write_text(f"#!{sys.executable}\nfrom lbprov.cli.main import main\nmain()\n")
        program.chmod(0o755)
        self.settings = (
            f"cd {folder}; export KUBECONFIG={kubeconfig} NODE_NAME={node.name} PATH={folder}:$PATH\n"
        )

    def do(self, block: str) -> str:
        script = f"bash -eu -o pipefail -c {shlex.quote(self.settings + block)} < /dev/null"
        began = _now()
        try:
            return self.node.run(["sh", "-c", script], timeout_s=120).stdout
        finally:
            self.done += [f"{began} to {_now()}: {block.strip()}"]


def _service(api: Api, node: NodeHost, lab: Lab) -> tuple[str, int]:
    """clusterIP and NodePort of a Service with both Pods behind it."""
    spec = {
        "type": "LoadBalancer",
        "externalTrafficPolicy": "Local",
        "healthCheckNodePort": CHECK_PORT,
        "ports": [{"name": "http", "port": 80}],
    }
    made = api.create({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": spec})
    api.create(
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": "web", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4",
            "ports": [{"name": "http", "protocol": "TCP", "port": 80}],
            "endpoints": [
                {"addresses": [lab.hosts[name].ipv4], "nodeName": node.name} for name in ("web-a", "web-b")
            ],
        }
    )
    return made["spec"]["clusterIP"], made["spec"]["ports"][0]["nodePort"]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("mode", MODES)
def test_the_page_is_followed_there_and_back(
    plane: ControlPlane, world: World, tmp_path: Path, mode: str
) -> None:
    """No request fails, of Pods by the clusterIP and from outside by the NodePort, from the first step to the
    last; and in the end the node is as kube-proxy alone would have it."""
    node, lab = world.node, world.lab
    setting = KubeProxySetting(mode, CLUSTER_CIDRS)
    vip, node_port = world.vip, world.node_port
    reader = Reader(node, tmp_path, plane.admin_kubeconfig)
    kube_proxy = KubeProxy(node, world.kube_proxy, plane.admin_kubeconfig, setting, tmp_path)
    asker, client = lab.hosts["asker"], lab.hosts["client"]
    eventually(lambda: isinstance(asker.http_get(vip, 80), Reply), timeout_s=60)
    eventually(lambda: isinstance(client.http_get(node.ipv4, node_port), Reply), timeout_s=60)
    loops = [
        asker.keep_asking([Probe(vip, 80, "http", timeout_s=10)]),
        client.keep_asking([Probe(node.ipv4, node_port, "http", timeout_s=10)]),
    ]

    health = world.health()

    begin, clean = blocks("On one node, by hand", "There")
    reader.do(begin)
    with pytest.raises(subprocess.CalledProcessError, match="kube-proxy is still running here"):
        reader.do(clean)
    kube_proxy.end()
    assert "removed of kube-proxy's" in reader.do(clean) or mode == "nftables"
    assert not _kube_proxys(node)
    eventually(lambda: world.health() == health, timeout_s=60)
    assert "localEndpoints" in health[0]

    (leave,) = blocks("On one node, by hand", "And back")
    kube_proxy = KubeProxy(node, world.kube_proxy, plane.admin_kubeconfig, setting, tmp_path)
    reader.do(leave)
    asked = [loop.stop() for loop in loops]
    assert "LBP-" not in node.script("iptables-save; ip6tables-save; iptables-legacy-save")
    assert isinstance(asker.http_get(vip, 80), Reply)
    kube_proxy.end()
    reader.do(clean.partition("\n")[0])
    assert not _kube_proxys(node)
    for counted in asked:
        assert counted.failures == (), reader.done
        assert counted.made > 20
        assert set(counted.by_hostname) == {"web-a", "web-b"}


def test_the_daemon_sets_pod_as_it_is(plane: ControlPlane, world: World) -> None:
    """Its arguments, its variables, its ServiceAccount's files and rights, root with its two capabilities."""
    objects = [obj for obj in yaml.safe_load_all(INSTALL.read_text()) if obj]
    (daemon_set,) = [obj for obj in objects if obj["kind"] == "DaemonSet"]
    for obj in objects:
        if obj["kind"] != "DaemonSet":
            plane.admin.apply(obj)
    node, lab = world.node, world.lab
    files = plane.pod_files("lbprov-node", "lbprov-node", "pod")
    node.script(f"mkdir -p {SECRETS}; mount --bind {files} {SECRETS}")
    (container,) = daemon_set["spec"]["template"]["spec"]["containers"]
    env = {variable["name"]: variable.get("value", node.name) for variable in container["env"]}
    host, _, port = plane.server.partition("//")[2].partition(":")
    env |= {
        "KUBERNETES_SERVICE_HOST": host,
        "KUBERNETES_SERVICE_PORT": port,
        "LBPROV_CLUSTER_CIDR": CLUSTER_CIDRS,
    }
    added = "".join(f",+{name.lower()}" for name in container["securityContext"]["capabilities"]["add"])
    agent = node.popen(
        [
            *("setpriv", f"--inh-caps=-all{added}", f"--bounding-set=-all{added}", "--no-new-privs"),
            *(sys.executable, "-m", "lbprov", *container["args"]),
        ],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        for probe in ("readinessProbe", "livenessProbe"):
            get = container[probe]["httpGet"]
            url = f"http://{get['host']}:{get['port']}{get['path']}"
            eventually(lambda: node.run([sys.executable, "-c", READ, url], check=False).stdout[:3] == "200")  # noqa: B023
        assert isinstance(lab.hosts["asker"].http_get(world.vip, 80), Reply)
        assert isinstance(lab.hosts["client"].http_get(node.ipv4, world.node_port), Reply)
    finally:
        agent.terminate()
        said = agent.communicate(timeout=30)[0]
        node.run([sys.executable, "-m", "lbprov", "node", "cleanup"])
        node.script(f"umount {SECRETS}")
    assert agent.returncode == 0, said
    assert '"level": "error"' not in said
    assert '"level": "warning"' not in said, said


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).time().isoformat("milliseconds")


def _kube_proxys(node: NodeHost) -> list[str]:
    """What is left of kube-proxy; KUBE-FIREWALL is the kubelet's as well."""
    said = node.script("iptables-save\nip6tables-save\nnft list tables\n")
    return [
        line for line in re.findall(r".*(?:KUBE-|table ip6? kube-proxy).*", said) if "FIREWALL" not in line
    ]
