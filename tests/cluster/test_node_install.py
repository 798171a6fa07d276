"""The DaemonSet that we ship: accepted by the API server, no more rights than needed, and it agrees with the
program that it runs. And the commands of docs/replace-kube-proxy.md for all nodes, without kubelets."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

import lbprov
from lbprov.lab.controlplane import Api, ApiError, ControlPlane, Object
from lbprov.observe.node_metrics import NODE_DECLARED, SHARED

ROOT = Path(__file__).parents[2]
INSTALL = [obj for obj in yaml.safe_load_all((ROOT / "deploy/install-node.yaml").read_text()) if obj]
PAGE = (ROOT / "docs/replace-kube-proxy.md").read_text()
NAME = "lbprov-node"


def one(kind: str) -> dict[str, Any]:
    (found,) = [obj for obj in INSTALL if obj["kind"] == kind]
    return dict(found)


def template() -> dict[str, Any]:
    found: dict[str, Any] = one("DaemonSet")["spec"]["template"]
    return found


def container() -> dict[str, Any]:
    (found,) = template()["spec"]["containers"]
    return dict(found)


@pytest.fixture
def installed_node(control_plane: ControlPlane) -> str:
    """Its namespace, account and rights."""
    for obj in INSTALL:
        if obj["kind"] != "DaemonSet":
            control_plane.admin.apply(obj)
    return NAME


def test_pod_security_lets_it_into_its_own_namespace_only(api: Api, installed_node: str) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "spec": template()["spec"]}
    made = api.create({**pod, "metadata": {"name": "try", "namespace": installed_node}}, dry_run=True)
    assert made["spec"]["priority"] == 2000001000, "system-node-critical"
    restricted = {"pod-security.kubernetes.io/enforce": "baseline"}
    api.patch("Namespace", api.namespace, {"metadata": {"labels": restricted}})
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": NAME}}
    api.create(account)
    with pytest.raises(ApiError, match="violates PodSecurity"):
        api.create({**pod, "metadata": {"name": "try"}}, dry_run=True)


def test_no_privilege_beyond_the_packet_filter() -> None:
    spec, security = template()["spec"], container()["securityContext"]
    assert security["capabilities"] == {"drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW"]}
    assert security["readOnlyRootFilesystem"] is True
    assert security["allowPrivilegeEscalation"] is False
    assert "privileged" not in security
    assert (spec["hostNetwork"], spec.get("hostPID"), spec["enableServiceLinks"]) == (True, None, False)
    assert spec["tolerations"] == [{"operator": "Exists"}]
    assert [v["hostPath"]["path"] for v in spec["volumes"]] == ["/run/xtables.lock"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        pytest.param("GET", "/api/v1/services", True, id="list Services"),
        pytest.param("GET", "/apis/discovery.k8s.io/v1/endpointslices", True, id="list slices"),
        pytest.param("GET", "/api/v1/nodes?fieldSelector=metadata.name%3Dn", True, id="its own Node"),
        pytest.param("GET", "/api/v1/secrets", False, id="Secrets"),
        pytest.param("GET", "/api/v1/pods", False, id="Pods"),
        pytest.param("PATCH", "/api/v1/nodes/n", False, id="change a Node"),
        pytest.param("PATCH", "/api/v1/namespaces/default/services/kubernetes", False, id="change a Service"),
        pytest.param("DELETE", "/api/v1/namespaces/default/events/x", False, id="delete an Event"),
    ],
)
def test_what_the_account_may(
    control_plane: ControlPlane, installed_node: str, method: str, path: str, allowed: bool
) -> None:
    account = control_plane.admin.with_token(control_plane.token(installed_node, NAME))
    body: Object | None = {} if method == "PATCH" else None
    content_type = "application/merge-patch+json" if body is not None else "application/json"
    if allowed:
        account.request(method, path, body, content_type=content_type)
        return
    with pytest.raises(ApiError) as refused:
        account.request(method, path, body, content_type=content_type)
    assert refused.value.status == 403


def test_it_agrees_with_the_command() -> None:
    command: click.Command = importlib.import_module("lbprov.cli.node").command
    variables = {p.envvar for p in command.params}
    default = {p.name: p.default for p in command.params}
    own = {e["name"] for e in container()["env"]} - {"KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"}
    assert own <= variables
    assert container()["args"] == ["node"]
    (health,) = container()["ports"]
    assert default["health_address"] == f":{health['containerPort']}"
    for probe, path in (
        ("startupProbe", "/livez"),
        ("livenessProbe", "/livez"),
        ("readinessProbe", "/readyz"),
    ):
        get = container()[probe]["httpGet"]
        assert get["path"] == path
        assert default["metrics_address"] == f"{get['host']}:{get['port']}"
    assert container()["image"] == f"{NAME}:{lbprov.__version__}"
    assert {lbprov.__version__} == set(re.findall(r"newTag: (\S+)", PAGE))
    labels = template()["metadata"]["labels"]
    assert one("DaemonSet")["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_the_page_for_all_nodes(api: Api, kubectl: Path, admin_kubeconfig: Path, tmp_path: Path) -> None:
    """Its commands as they stand, except those that wait for Pods to run: there are no kubelets here."""
    pod = {"containers": [{"name": "kube-proxy", "image": "kube-proxy"}]}
    labels = {"k8s-app": "kube-proxy"}
    api.apply(
        {
            "apiVersion": "apps/v1",
            "kind": "DaemonSet",
            "metadata": {"name": "kube-proxy", "namespace": "kube-system"},
            "spec": {
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": pod},
            },
        }
    )
    shutil.copytree(ROOT / "deploy", tmp_path / "deploy")
    environment = {
        "HOME": str(tmp_path),
        "KUBECONFIG": str(admin_kubeconfig),
        "PATH": f"{kubectl.parent}:{os.environ['PATH']}",
    }

    def do(block: str) -> None:
        text = re.sub(r"^kubectl \S+ \S+ rollout status .*\n", "", block, flags=re.MULTILINE)
        done = subprocess.run(
            ["bash", "-euc", text], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"

    def selector() -> object:
        return api.get("DaemonSet.apps", "kube-proxy", "kube-system")["spec"]["template"]["spec"].get(
            "nodeSelector"
        )

    (chapter,) = re.findall(r"^## On all nodes.*?\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    install, away, back = re.findall(r"^```sh\n(.*?)^```", chapter, re.MULTILINE | re.DOTALL)
    do(install)
    env = api.get("DaemonSet.apps", NAME, NAME)["spec"]["template"]["spec"]["containers"][0]["env"]
    values = {e["name"]: e.get("value") for e in env}
    assert values["KUBERNETES_SERVICE_HOST"] == "192.0.2.10"
    assert values["LBPROV_CLUSTER_CIDR"] == "10.244.0.0/16,fd00:10:244::/48"
    assert values["KUBERNETES_SERVICE_PORT"] == "6443"
    do(away)
    assert selector() == {"lbprov.io/kube-proxy": "wanted"}, "no Node has that label"
    do(back.replace("kubectl delete", "true kubectl delete"))
    assert not selector()
    spec = api.get("DaemonSet.apps", NAME, NAME)["spec"]["template"]["spec"]
    assert spec["containers"][0]["args"] == ["node", "cleanup", "--after-kube-proxy", "--stay"]
    do("kubectl delete -k my-node\n")
    assert api.find("ClusterRole.rbac.authorization.k8s.io", NAME) is None
    api.delete("DaemonSet.apps", "kube-proxy", "kube-system")


def test_monitoring(kubectl: Path, tmp_path: Path) -> None:
    """The component changes what is asked for, and its alerts are about metrics that agents tell."""
    overlay = tmp_path / "overlay"
    overlay.mkdir()
    deploy = Path(os.path.relpath(ROOT / "deploy", overlay))
    (overlay / "kustomization.yaml").write_text(
        f"resources: [{deploy}/node]\ncomponents: [{deploy}/components/node-monitoring]\n"
    )
    done = subprocess.run([kubectl, "kustomize", overlay], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rendered = {obj["kind"]: obj for obj in yaml.safe_load_all(done.stdout)}
    spec = rendered["DaemonSet"]["spec"]["template"]["spec"]["containers"][0]
    assert {"name": "LBPROV_METRICS_ADDRESS", "value": ":10264"} in spec["env"]
    (endpoint,) = rendered["PodMonitor"]["spec"]["podMetricsEndpoints"]
    assert {p["name"]: p["containerPort"] for p in spec["ports"]}[endpoint["port"]] == 10264
    labels = rendered["PodMonitor"]["spec"]["selector"]["matchLabels"]
    assert labels.items() <= template()["metadata"]["labels"].items()
    names = {d.name + suffix for d in (*NODE_DECLARED, *SHARED) for suffix in ("", "_bucket")}
    (group,) = rendered["PrometheusRule"]["spec"]["groups"]
    for rule in group["rules"]:
        used = re.findall(r"lbprov_\w+", rule["expr"])
        assert used, rule["alert"]
        assert set(used) <= names, rule["alert"]
        assert rule["annotations"].keys() == {"summary", "description"}
