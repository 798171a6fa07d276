"""What we ship is accepted by the API server, runs under Pod Security `restricted`, asks for no more rights
than needed, and agrees with the program that it runs."""

from __future__ import annotations

import copy
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

import lbprov
from lbprov.lab.controlplane import Api, ApiError, ControlPlane, Object, eventually
from lbprov.observe.metrics import DECLARED

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
ACCOUNT = "lbprov-controller"
KUSTOMIZATIONS = [p.parent for p in sorted(DEPLOY.glob("overlays/*/kustomization.yaml"))]


def objects(text: str) -> list[Object]:
    return [obj for obj in yaml.safe_load_all(text) if obj]


INSTALL = objects((DEPLOY / "install.yaml").read_text())


def one(kind: str, of: list[Object] = INSTALL) -> Object:
    (found,) = [obj for obj in of if obj["kind"] == kind]
    return copy.deepcopy(found)


def pod_template() -> dict[str, Any]:
    template: dict[str, Any] = one("Deployment")["spec"]["template"]
    return template


def container() -> dict[str, Any]:
    (found,) = pod_template()["spec"]["containers"]
    return dict(found)


Kustomize = Callable[[Path], list[Object]]


@pytest.fixture
def kustomize(kubectl: Path) -> Kustomize:
    def render(folder: Path) -> list[Object]:
        done = subprocess.run([kubectl, "kustomize", folder], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return objects(done.stdout)

    return render


@pytest.mark.usefixtures("kubectl")  # has been built
def test_install_yaml_is_what_the_base_says() -> None:
    script = [sys.executable, str(ROOT / "scripts/render_install.py"), "--check"]
    done = subprocess.run(script, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_install_yaml_is_accepted_and_complete(api: Api, kubectl: Path, admin_kubeconfig: Path) -> None:
    """Applied as a user applies it; a second time changes nothing; deleted, nothing is left."""

    def run(*arguments: str) -> str:
        environment = {**os.environ, "KUBECONFIG": str(admin_kubeconfig)}
        command = [str(kubectl), *arguments, "-f", str(DEPLOY / "install.yaml")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def versions() -> set[str]:
        names = ("-o", "jsonpath={range .items[*]}{.kind} {.metadata.resourceVersion}{'\\n'}{end}")
        return {line for line in run("get", *names).splitlines() if not line.startswith("Deployment")}

    run("apply", "--server-side", "--validate=strict")
    before = versions()
    assert len(before) == len(INSTALL) - 1
    run("apply", "--server-side", "--validate=strict")
    assert versions() == before
    assert run("diff", "--server-side") == ""

    # Pod Security and all the other admission plugins let its Pods in.
    def pods() -> list[Object]:
        return [p for p in api.list("Pod", "lbprov-system") if p["metadata"]["name"].startswith(ACCOUNT)]

    assert len(eventually(lambda: pods() if len(pods()) >= 2 else None) or ()) == 2
    run("delete", "--wait=false")
    for obj in INSTALL:
        where = obj["metadata"].get("namespace")
        kind = ".".join(filter(None, (obj["kind"], obj["apiVersion"].rpartition("/")[0])))
        eventually(lambda k=kind, o=obj, w=where: api.find(k, o["metadata"]["name"], w) is None)  # type: ignore[misc]


@pytest.mark.parametrize("folder", [pytest.param(f, id=f.name) for f in KUSTOMIZATIONS])
@pytest.mark.usefixtures("installed")
def test_overlays_are_accepted(api: Api, kustomize: Kustomize, folder: Path) -> None:
    rendered = kustomize(folder)
    for obj in rendered:
        api.apply(obj, dry_run=True)
    (provider, *_) = one("Deployment", rendered)["spec"]["template"]["spec"]["containers"][0]["env"]
    assert provider == {"name": "LBPROV_PROVIDER", "value": folder.name}


Break = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("harm", "complaint"),
    [
        pytest.param(lambda spec: None, "", id="as-shipped"),
        pytest.param(lambda s: s["securityContext"].pop("seccompProfile"), "seccompProfile", id="no-seccomp"),
        pytest.param(lambda s: s["securityContext"].pop("runAsNonRoot"), "runAsNonRoot", id="may-be-root"),
        pytest.param(lambda s: s["securityContext"].update(runAsUser=0), "runAsUser=0", id="root"),
        pytest.param(
            lambda s: s["containers"][0]["securityContext"].pop("capabilities"),
            "capabilities",
            id="capabilities",
        ),
        pytest.param(
            lambda s: s["containers"][0]["securityContext"].pop("allowPrivilegeEscalation"),
            "allowPrivilegeEscalation",
            id="escalation",
        ),
        pytest.param(lambda s: s.update(hostNetwork=True), "host namespaces", id="host-network"),
    ],
)
def test_pod_security_accepts_the_pod_and_notices_each_part(
    api: Api, installed: str, harm: Break, complaint: str
) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", **pod_template()}
    pod["metadata"] = {**pod["metadata"], "name": "try", "namespace": installed}
    harm(pod["spec"])
    if not complaint:
        made = api.create(pod, dry_run=True)
        (volume,) = made["spec"]["volumes"]
        assert "serviceAccountToken" in volume["projected"]["sources"][0]
        return
    with pytest.raises(ApiError, match=f'violates PodSecurity "restricted:latest": .*{complaint}'):
        api.create(pod, dry_run=True)


def test_what_pod_security_does_not_ask_for() -> None:
    spec, main = pod_template()["spec"], container()
    assert main["securityContext"]["readOnlyRootFilesystem"] is True
    assert "volumes" not in spec
    assert spec["priorityClassName"] == "system-cluster-critical"
    assert {c["topologyKey"] for c in spec["topologySpreadConstraints"]} == {
        "kubernetes.io/hostname",
        "topology.kubernetes.io/zone",
    }
    assert spec["enableServiceLinks"] is False
    assert one("Deployment")["spec"]["replicas"] == 2
    assert main["resources"]["limits"].keys() == {"memory"}


def test_selectors_find_the_pods(kustomize: Kustomize, tmp_path: Path) -> None:
    labels = pod_template()["metadata"]["labels"]
    monitored = _monitored(kustomize, tmp_path)
    selectors = [
        one("Deployment")["spec"]["selector"]["matchLabels"],
        one("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        one("Service", monitored)["spec"]["selector"],
        *(c["labelSelector"]["matchLabels"] for c in pod_template()["spec"]["topologySpreadConstraints"]),
    ]
    for selector in selectors:
        assert selector.items() <= labels.items()


# The command line


def controller() -> click.Command:
    command: click.Command = importlib.import_module("lbprov.cli.controller").command
    return command


def test_flags_and_variables_are_those_of_the_command() -> None:
    flags = {opt for p in controller().params for opt in (*p.opts, *p.secondary_opts)}
    variables = {p.envvar for p in controller().params}
    verb, *arguments = container()["args"]
    assert verb == "controller"
    assert {argument.partition("=")[0] for argument in arguments} <= flags
    assert {variable["name"] for variable in container()["env"]} <= variables


def test_ports_and_times_are_those_of_the_command() -> None:
    default = {p.name: p.default for p in controller().params}
    (port,) = container()["ports"]
    assert default["health_address"] == f":{port['containerPort']}"
    for probe, path in (("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")):
        assert container()[probe]["httpGet"] == {"path": path, "port": port["name"]}
    # Work in progress, then the lease, then the Events that are queued.
    assert pod_template()["spec"]["terminationGracePeriodSeconds"] >= float(str(default["grace_period"])) + 20
    (names,) = [r["resourceNames"] for r in one("Role")["rules"] if "resourceNames" in r]
    assert names == [default["lease_name"]]


def test_without_a_provider_and_a_name_it_ends_and_says_so() -> None:
    environment = {variable["name"]: variable["value"] for variable in container()["env"]}
    for missing in ("--provider", "--cluster-name"):
        command = [sys.executable, "-m", "lbprov", *container()["args"]]
        done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)
        assert done.returncode == 2
        assert f"Missing option '{missing}'" in done.stderr
        environment["LBPROV_PROVIDER"] = "aws"


def test_the_version_is_ours() -> None:
    assert container()["image"] == f"lbprov:{lbprov.__version__}"
    for path in ("docs/install.md", "deploy/image/Containerfile"):
        assert set(re.findall(r"lbprov:(\d+\.\d+\.\d+)", (ROOT / path).read_text())) == {lbprov.__version__}


# Rights

Right = tuple[str, str, str]  # namespace of the question ("" for all), group/resource, verb
SYSTEM = "lbprov-system"
EVERYWHERE = {
    ("services", "get"),
    ("services", "list"),
    ("services", "watch"),
    ("services", "patch"),
    ("services/status", "patch"),
    ("nodes", "list"),
    ("nodes", "watch"),
    ("events", "create"),
    ("events", "patch"),
}


@pytest.fixture
def account(control_plane: ControlPlane, installed: str) -> Api:
    """The controller's ServiceAccount."""
    return control_plane.admin.with_token(control_plane.token(installed, ACCOUNT))


def rules(account: Api, namespace: str) -> set[tuple[str, str, tuple[str, ...]]]:
    """What the API server says this account may do there: (group/resource, verb, names)."""
    question = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview"}
    path = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews"
    told = account.request("POST", path, {**question, "spec": {"namespace": namespace}})["status"]
    assert not told["incomplete"]
    return {
        ("/".join(filter(None, (group, resource))), verb, tuple(rule.get("resourceNames", ())))
        for rule in told["resourceRules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


@pytest.mark.parametrize(
    ("namespace", "more"),
    [
        pytest.param("default", set(), id="anywhere"),
        pytest.param(
            SYSTEM,
            {
                ("coordination.k8s.io/leases", "create", ()),
                ("coordination.k8s.io/leases", "get", (ACCOUNT,)),
                ("coordination.k8s.io/leases", "patch", (ACCOUNT,)),
            },
            id="at-home",
        ),
    ],
)
def test_the_account_may_do_this_and_nothing_else(
    api: Api, account: Api, namespace: str, more: set[tuple[str, str, tuple[str, ...]]]
) -> None:
    nobody = api.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "nobody"}})
    path = api.path("ServiceAccount", nobody["metadata"]["name"], subresource="token")
    token = api.request("POST", path, {"spec": {}})["status"]["token"]
    everybody = rules(api.with_token(token), namespace)
    assert rules(account, namespace) - everybody == {(r, v, ()) for r, v in EVERYWHERE} | more


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        pytest.param("GET", "/api/v1/secrets", None, id="read-secrets"),
        pytest.param("GET", "/api/v1/pods", None, id="read-pods"),
        pytest.param("DELETE", "/api/v1/namespaces/{ns}/services/web", None, id="delete-a-service"),
        pytest.param("PUT", "/api/v1/namespaces/{ns}/services/web/status", {}, id="replace-a-status"),
        pytest.param("PATCH", "/api/v1/nodes/node-1", {}, id="change-a-node"),
        pytest.param("DELETE", "/api/v1/namespaces/{ns}/events/web.1", None, id="delete-an-event"),
        pytest.param("GET", "/apis/coordination.k8s.io/v1/leases", None, id="list-leases"),
        pytest.param(
            "PATCH",
            f"/apis/coordination.k8s.io/v1/namespaces/{SYSTEM}/leases/other",
            {},
            id="somebody-elses-lease",
        ),
        pytest.param(
            "POST", f"/api/v1/namespaces/{SYSTEM}/serviceaccounts/{ACCOUNT}/token", {}, id="make-tokens"
        ),
    ],
)
def test_the_account_is_refused(
    api: Api, account: Api, method: str, path: str, body: Mapping[str, str] | None
) -> None:
    content_type = "application/merge-patch+json" if method == "PATCH" else "application/json"
    with pytest.raises(ApiError) as refused:
        account.request(method, path.format(ns=api.namespace), body, content_type=content_type)
    assert refused.value.status == HTTPStatus.FORBIDDEN


# Monitoring


def _monitored(kustomize: Kustomize, folder: Path) -> list[Object]:
    overlay = folder / "overlay"
    overlay.mkdir()
    relative = Path(os.path.relpath(DEPLOY, overlay))
    resources = f"resources: [{relative}/overlays/aws]\ncomponents: [{relative}/components/monitoring]\n"
    (overlay / "kustomization.yaml").write_text(resources)
    return kustomize(overlay)


def test_the_service_monitor_finds_the_pods(
    api: Api, kustomize: Kustomize, installed: str, tmp_path: Path
) -> None:
    monitored = _monitored(kustomize, tmp_path)
    service, monitor = one("Service", monitored), one("ServiceMonitor", monitored)
    api.apply(service, dry_run=True)
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert service["metadata"]["namespace"] == monitor["metadata"]["namespace"] == installed
    (endpoint,) = monitor["spec"]["endpoints"]
    (port,) = service["spec"]["ports"]
    assert (endpoint["port"], endpoint["path"]) == (port["name"], "/metrics")
    assert port["targetPort"] in {p["name"] for p in container()["ports"]}


def alerts() -> list[dict[str, Any]]:
    text = (DEPLOY / "components/monitoring/prometheus-rule.yaml").read_text()
    (group,) = yaml.safe_load(text)["spec"]["groups"]
    rules: list[dict[str, Any]] = group["rules"]
    return rules


@pytest.mark.parametrize("alert", [pytest.param(a, id=a["alert"]) for a in alerts()])
def test_alerts_are_about_metrics_that_there_are(alert: dict[str, Any]) -> None:
    """Names, label names and, where the declaration lists them, label values."""
    metrics = {f"{d.name}{s}": d for d in DECLARED for s in (("",) if d.kind != "histogram" else _SUFFIXES)}
    used = re.findall(r"(lbprov_\w+)\{([^}]*)\}", alert["expr"])
    assert len(used) == len(re.findall(r"lbprov_\w+", alert["expr"]))
    for name, matchers in used:
        labels = dict(metrics[name].labels)
        for label, value in re.findall(r'(\w+)\s*!?=~?\s*"([^"]*)"', matchers):
            if label == "namespace":
                assert value == SYSTEM
            elif value:
                assert f"`{value}`" in labels[label]
    asked = re.findall(r"by \(([^)]*)\)", alert["expr"]) + re.findall(r"\$labels\.(\w+)", str(alert))
    known = {"namespace", *(label for name, _ in used for label, _ in metrics[name].labels)}
    assert {label.strip() for group in asked for label in group.split(",")} <= known
    assert alert["labels"]["severity"] in ("critical", "warning", "info")
    assert alert["annotations"].keys() == {"summary", "description"}


_SUFFIXES = ("_bucket", "_count", "_sum")


# The page


def test_the_page_names_every_object() -> None:
    page = (ROOT / "docs/install.md").read_text()
    rows = set(re.findall(r"^\| (\w+) `([\w-]+)` \|", page, re.MULTILINE))
    assert rows == {(obj["kind"], obj["metadata"]["name"]) for obj in INSTALL}


def test_the_page_leads_somewhere() -> None:
    page = (ROOT / "docs/install.md").read_text()
    links = re.findall(r"\]\(([^)#]+)(?:#([^)]*))?\)", page)
    assert links
    for path, heading in links:
        text = (ROOT / "docs" / path).read_text()
        assert not heading or re.search(rf"^#+ {heading}$", text, re.MULTILINE | re.IGNORECASE)
