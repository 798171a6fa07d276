"""`lbprov reconcile`, `plan`, `diff` on real folders of manifests; the provider's world is in memory."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from lbprov import plugins
from lbprov.api import ENTRY_POINT_GROUP, ProviderError, ProviderOption
from lbprov.cli import output
from lbprov.cli.main import main
from lbprov.testing.clock import FakeClock
from lbprov.testing.memory import spec_for
from lbprov.testing.memory_world import MemoryWorld, Resource

NODES = """\
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Node, metadata: {name: node-1}, spec: {providerID: "memory:///1"}}
- {apiVersion: v1, kind: Node, metadata: {name: node-2}}
"""


class Desk:
    """A folder, a world, and the command line between them. Every command is as of a new process."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        folder.mkdir()
        self.clock = FakeClock()
        self.world = MemoryWorld(self.clock.now_s)
        self.node_ports: dict[str, int] = {}
        (folder / "nodes.yaml").write_text(NODES)
        options = (ProviderOption("size", "how big", "1", int),)
        module: Any = type(sys)("memory_plugin_of_a_test")
        module.SPEC = replace(spec_for(self.world), options=options)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        plugin = plugins.Plugin(
            "memory", "tests 1.0", EntryPoint("memory", f"{module.__name__}:SPEC", ENTRY_POINT_GROUP)
        )
        monkeypatch.setattr(plugins, "discover", lambda: (plugin,))

    def put(self, name: str, file: str = "", **spec: Any) -> None:
        """A Service with these fields of its spec; `_annotations` are its annotations."""
        annotations = spec.pop("_annotations", {})
        node_port = self.node_ports.setdefault(name, 30080 + len(self.node_ports))
        body = {"type": "LoadBalancer", "ports": [{"port": 80, "nodePort": node_port}], **spec}
        metadata = {"name": name, "annotations": annotations}
        service = {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": body}
        (self.folder / (file or f"{name}.yaml")).write_text(yaml.safe_dump(service))

    def remove(self, name: str) -> None:
        (self.folder / f"{name}.yaml").unlink()

    def run(self, verb: str, *arguments: str, **environment: str) -> Result:
        command = [verb, "--provider", "memory", "-f", str(self.folder), *arguments]
        return CliRunner(env=environment).invoke(main, command)

    def json(self, verb: str = "reconcile", *arguments: str, code: int = 0) -> Any:
        result = self.run(verb, *arguments, "-o", "json")
        assert result.exit_code == code, result.output
        return json.loads(result.stdout)

    def results(self, *arguments: str, code: int = 0) -> dict[str, str]:
        answer = self.json("reconcile", *arguments, code=code)
        return {service["name"]: service["result"] for service in answer["services"]}

    def balancers(self) -> set[str]:
        return {r.owner.service.name for r in self.world.resources.values()}


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    return Desk(tmp_path / "manifests", monkeypatch)


def test_json_is_of_exactly_the_documented_shape(desk: Desk) -> None:
    desk.put("web", loadBalancerIP="198.51.100.3")
    desk.put("plain")
    assert desk.json() == {
        "services": [
            {
                "namespace": "default",
                "name": "plain",
                "result": "created",
                "ingress": [{"ip": "198.18.0.1", "ipMode": "Proxy"}],
                "events": [
                    {"type": "Normal", "reason": "EnsuringLoadBalancer", "message": "Ensuring load balancer"},
                    {"type": "Normal", "reason": "EnsuredLoadBalancer", "message": "Ensured load balancer"},
                ],
            },
            {
                "namespace": "default",
                "name": "web",
                "result": "created",
                "ingress": [{"ip": "198.51.100.3", "ipMode": "Proxy"}],
                "events": [
                    {"type": "Normal", "reason": "EnsuringLoadBalancer", "message": "Ensuring load balancer"},
                    {
                        "type": "Normal",
                        "reason": "LoadBalancerIPAssigned",
                        "message": "198.51.100.3 is used as requested",
                    },
                    {"type": "Normal", "reason": "EnsuredLoadBalancer", "message": "Ensured load balancer"},
                ],
            },
        ],
        "calls": {
            "read": 1,
            "write": 8,
            "by_operation": {"create frontend": 2, "create listener": 2, "create target": 4, "list": 1},
        },
    }


def test_a_second_run_writes_nothing_not_even_its_state(desk: Desk) -> None:
    desk.put("web")
    desk.json()
    state = {p: p.read_bytes() for p in desk.folder.glob(".*")}
    answer = desk.json()
    assert answer["services"][0]["result"] == "unchanged"
    assert answer["services"][0]["events"] == []
    assert answer["calls"]["write"] == 0
    assert {p: p.read_bytes() for p in desk.folder.glob(".*")} == state


def test_a_services_life(desk: Desk) -> None:
    desk.put("web")
    desk.put("stays")
    assert desk.results() == {"web": "created", "stays": "created"}
    desk.put("web", ports=[{"port": 81, "nodePort": 30181}])
    answer = desk.json()
    assert {s["name"]: s["result"] for s in answer["services"]} == {"web": "updated", "stays": "unchanged"}
    assert answer["calls"]["by_operation"] == {"create listener": 1, "delete listener": 1, "list": 1}
    desk.put("web", type="ClusterIP", ports=[{"port": 81}])
    assert desk.results() == {"web": "deleted", "stays": "unchanged"}
    assert desk.results() == {"stays": "unchanged"}
    desk.put("web")
    assert desk.results() == {"web": "created", "stays": "unchanged"}
    desk.remove("web")
    assert desk.results() == {"web": "deleted", "stays": "unchanged"}
    assert desk.results() == {"stays": "unchanged"}
    assert desk.balancers() == {"stays"}
    assert desk.world.reads == 7 + 2, "a listing per run, and a look at the end of each deletion"


def test_yaml_says_what_json_says(desk: Desk) -> None:
    desk.put("web")
    desk.json()
    result = desk.run("reconcile", "-o", "yaml")
    assert yaml.safe_load(result.stdout) == desk.json()


def test_bad_manifests_are_told_and_stop_nobody_else(desk: Desk) -> None:
    desk.put("good")
    (desk.folder / "bad.yaml").write_text(
        "apiVersion: v1\nkind: Service\nmetadata: {name: bad}\nspec:\n  type: LoadBalancer\n"
        "  ports:\n  - port: 80\n    nodePort: 99999\n"
    )
    (desk.folder / "torn.yaml").write_text("a: [1,\n")
    result = desk.run("reconcile", "-o", "json")
    assert result.exit_code == 1
    answer = json.loads(result.stdout)
    assert [(s["name"], s["result"]) for s in answer["services"]] == [("good", "created")]
    lines = result.stderr.splitlines()
    assert any("bad.yaml:8: Service default/bad: spec.ports[0].nodePort: " in line for line in lines), lines
    assert any("torn.yaml:" in line for line in lines), lines


def test_the_fallback_of_an_address_is_a_warning_and_a_success(desk: Desk) -> None:
    desk.put("web", loadBalancerIP="203.0.113.9")
    answer = desk.json()
    (service,) = answer["services"]
    assert service["result"] == "created"
    assert service["ingress"] == [{"ip": "198.18.0.1", "ipMode": "Proxy"}]
    (warning,) = [e for e in service["events"] if e["type"] == "Warning"]
    assert warning["reason"] == "LoadBalancerIPNotFound"
    assert "203.0.113.9" in warning["message"]


def test_what_failed_is_exit_1_and_said_on_stderr_each_time(desk: Desk) -> None:
    desk.put("web", loadBalancerIP="203.0.113.9", _annotations={"lbprov.io/ip-policy": "require"})
    desk.put("other")
    for events in (1, 0):
        result = desk.run("reconcile", "-o", "json")
        assert result.exit_code == 1
        by_name = {s["name"]: s for s in json.loads(result.stdout)["services"]}
        assert by_name["web"]["result"] == "failed"
        assert len(by_name["web"]["events"]) == events
        assert "Service default/web: failed: spec.loadBalancerIP: 203.0.113.9" in result.stderr
    assert by_name["other"]["result"] == "unchanged"


def test_what_needs_more_time_than_it_is_given_is_pending_and_exit_1(desk: Desk) -> None:
    desk.put("web")
    desk.put("other")
    desk.json()
    desk.world.deletion_s = 30.0
    desk.remove("web")
    assert desk.results("--wait", "0", code=1) == {"web": "pending", "other": "unchanged"}
    desk.clock.advance(31.0)
    assert desk.results("--wait", "0") == {"web": "deleted", "other": "unchanged"}


def test_waiting_goes_on_until_it_is_done(desk: Desk) -> None:
    desk.put("web")
    desk.put("other")
    desk.json()
    desk.world.deletion_s = 1e9
    desk.remove("web")
    original = desk.world.get

    def later(id_: str) -> Resource:
        desk.clock.advance(6e8)
        return original(id_)

    desk.world.get = later  # type: ignore[method-assign]
    assert desk.results("--wait", "20") == {"web": "deleted", "other": "unchanged"}


def test_a_world_that_refuses_is_a_failure_without_a_traceback(desk: Desk) -> None:
    desk.put("web")

    def refuse(operation: str, number: int, when: str) -> None:
        raise ProviderError("AccessDenied: ask for the permission create", retryable=False)

    desk.world.on_write = refuse
    result = desk.run("reconcile")
    assert result.exit_code == 1
    assert "AccessDenied: ask for the permission create" in result.stdout
    assert "Traceback" not in result.output
    desk.world.on_write = None
    assert desk.results() == {"web": "created"}


def test_plan_diff_and_dry_run_write_nothing(desk: Desk) -> None:
    desk.put("web")
    for verb, extra, code in (("plan", (), 0), ("diff", (), 1), ("reconcile", ("--dry-run",), 0)):
        result = desk.run(verb, *extra)
        assert result.exit_code == code
        assert "create frontend" in result.stdout
        assert desk.world.writes == 0
        assert sorted(p.name for p in desk.folder.iterdir()) == ["nodes.yaml", "web.yaml"]
    desk.json()
    for verb, extra in (("plan", ()), ("diff", ()), ("reconcile", ("--dry-run",))):
        result = desk.run(verb, *extra)
        assert (result.exit_code, result.stdout) == (0, "No change.\n")


def test_diff_exits_as_kubectl_does(desk: Desk) -> None:
    desk.put("web")
    assert desk.run("diff").exit_code == 1
    desk.json()
    assert desk.run("diff").exit_code == 0
    desk.remove("web")
    assert desk.run("diff").exit_code == 1
    desk.put("bad", _annotations={"lbprov.io/scheme": "intern"})
    assert desk.run("diff").exit_code == 2
    assert CliRunner().invoke(main, ["diff", "--provider", "none", "-f", str(desk.folder)]).exit_code == 2


def _shape(desk: Desk) -> None:
    """Something created, changed, deleted, unchanged, fallen back and failed."""
    for name in ("changed", "same", "unwanted"):
        desk.put(name)
    desk.json("reconcile", "--workers", "1")
    desk.put(
        "changed", ports=[{"port": 443, "nodePort": 30080}], loadBalancerSourceRanges=["198.51.100.0/24"]
    )
    desk.put(
        "fresh", loadBalancerIP="203.0.113.9", ports=[{"port": 53, "protocol": "UDP", "nodePort": 30153}]
    )
    desk.put("refused", _annotations={"lbprov.io/scheme": "intern"})
    desk.remove("unwanted")


def _without_hashes(text: str) -> str:
    """The names' hashes hang on where the folder is."""
    return re.sub(r"-[0-9a-f]{10}\b", "-HASH", text)


def test_plan_as_text(desk: Desk, golden: Callable[[str, str], None]) -> None:
    _shape(desk)
    result = desk.run("plan")
    assert result.exit_code == 1
    golden("engine/plan.txt", _without_hashes(result.stdout))


def test_plan_as_json(desk: Desk, golden: Callable[[str, str], None]) -> None:
    _shape(desk)
    result = desk.run("plan", "-o", "json")
    plans = json.loads(result.stdout)
    for plan in plans["plans"]:
        for step in plan["steps"]:
            del step["body"]
    golden("engine/plan.json", _without_hashes(json.dumps(plans, indent=2)) + "\n")


def test_reconcile_as_a_table(desk: Desk, golden: Callable[[str, str], None]) -> None:
    _shape(desk)
    result = desk.run("reconcile", "--workers", "1")
    assert result.exit_code == 1
    golden("engine/reconcile.txt", result.stdout)


def test_an_emptied_folder_deletes_nothing_unless_forced(desk: Desk) -> None:
    names = [f"web-{n}" for n in range(8)]
    for name in names:
        desk.put(name)
    desk.json()
    for name in names:
        desk.remove(name)
    result = desk.run("reconcile", "-o", "json")
    assert result.exit_code == 1
    assert "--force" in result.stderr
    assert desk.balancers() == set(names)
    assert set(desk.results("--force").values()) == {"deleted"}
    assert desk.balancers() == set()


def test_classless_services_are_left_alone_when_told_so(desk: Desk) -> None:
    desk.put("plain")
    desk.put("ours", loadBalancerClass="lbprov.io/memory")
    desk.put("foreign", loadBalancerClass="example.com/x")
    assert desk.results("--no-own-classless") == {"ours": "created"}
    assert desk.results() == {"ours": "unchanged", "plain": "created"}


@pytest.mark.parametrize("count", [1, 8])
def test_a_flag_that_disowns_all_takes_nothing_away(desk: Desk, count: int) -> None:
    for n in range(count):
        desk.put(f"web-{n}")
    desk.json()
    first = desk.run("reconcile", "--no-own-classless", "-o", "json")
    assert first.exit_code == 1
    assert "LoadBalancerClassNotServed" in first.stdout
    assert len(desk.balancers()) == count
    assert desk.run("reconcile", "--no-own-classless", "--force").exit_code == 1
    assert len(desk.balancers()) == count


def test_state_elsewhere_and_the_clusters_name(desk: Desk, tmp_path: Path) -> None:
    desk.put("web")
    state = str(tmp_path / "state.json")
    desk.json("reconcile", "--state", state, "--cluster-name", "prod")
    assert {r.owner.cluster for r in desk.world.resources.values()} == {"prod"}
    assert sorted(p.name for p in desk.folder.iterdir()) == ["nodes.yaml", "web.yaml"]
    assert desk.json("reconcile", "--state", state)["calls"]["write"] == 0
    refused = desk.run("reconcile", "--state", state, "--cluster-name", "test")
    assert refused.exit_code == 2
    assert "--cluster-name" in refused.stderr


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("state.json", b"{", id="damaged"),
        pytest.param("state.json", b"", id="empty"),
        pytest.param("state.json.journal", b"garbage\n", id="damaged-journal"),
    ],
)
@pytest.mark.parametrize("verb", ["plan", "reconcile"])
def test_a_damaged_state_is_a_failure_not_wrong_usage(
    desk: Desk, tmp_path: Path, verb: str, name: str, content: bytes
) -> None:
    desk.put("web")
    state = tmp_path / "state.json"
    desk.json("reconcile", "--state", str(state))
    (tmp_path / name).write_bytes(content)
    result = desk.run(verb, "--state", str(state))
    assert result.exit_code == 1
    assert f"--state file {tmp_path / name}" in result.stderr
    assert "to start over" in result.stderr


def test_a_state_in_no_folder_is_wrong_usage(desk: Desk, tmp_path: Path) -> None:
    desk.put("web")
    result = desk.run("reconcile", "--state", str(tmp_path / "missing" / "state.json"))
    assert result.exit_code == 2
    assert "--state: cannot write" in result.stderr


def test_flags_by_environment(desk: Desk, tmp_path: Path) -> None:
    desk.put("web")
    environment = {
        "LBPROV_PROVIDER": "memory",
        "LBPROV_PROVIDER_OPTION": "size=2",
        "LBPROV_FILENAME": str(desk.folder),
        "LBPROV_CLUSTER_NAME": "by-environment",
        "LBPROV_OUTPUT": "json",
        "LBPROV_OWN_CLASSLESS": "true",
        "LBPROV_WAIT": "1",
    }
    result = CliRunner(env=environment).invoke(main, ["reconcile"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["services"][0]["result"] == "created"
    assert {r.owner.cluster for r in desk.world.resources.values()} == {"by-environment"}
    environment["LBPROV_OWN_CLASSLESS"] = "false"
    result = CliRunner(env=environment).invoke(main, ["reconcile"])
    assert json.loads(result.stdout)["services"][0]["result"] == "failed"
    assert "Start lbprov with --own-classless" in result.stderr


@pytest.mark.parametrize("verb", ["reconcile", "plan", "diff"])
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["--provider", "memory"], "-f, or the cluster's name", id="no-folder-and-no-cluster"),
        pytest.param(
            ["--provider", "memory", "-f", "DIR", "--context", "x"],
            "leave --kubeconfig",
            id="folder-and-cluster",
        ),
        pytest.param(
            ["--provider", "memory", "--cluster-name", "c", "--kubeconfig", "/nonexistent"],
            "/nonexistent",
            id="no-such-kubeconfig",
        ),
        pytest.param(["-f", "DIR"], "'--provider'", id="no-provider"),
        pytest.param(
            ["--provider", "x", "-f", "DIR"], "no provider 'x'; installed: memory", id="unknown-provider"
        ),
        pytest.param(["--provider", "memory", "-f", "/no/such"], "/no/such", id="no-such-folder"),
        pytest.param(
            ["--provider", "memory", "-f", "DIR", "--provider-option", "colour=red"],
            "no option 'colour'; it has: size",
            id="unknown-option",
        ),
        pytest.param(
            ["--provider", "memory", "-f", "DIR", "--provider-option", "size=big"],
            "size=big",
            id="bad-option",
        ),
        pytest.param(["--provider", "memory", "-f", "DIR", "--workers", "0"], "1<=x<=64", id="bad-number"),
        pytest.param(["--provider", "memory", "-f", "DIR", "-o", "xml"], "json", id="bad-output"),
        pytest.param(
            ["--provider", "memory", "-f", "DIR", "--cluster-name", "a b"], "--cluster-name", id="bad-name"
        ),
        pytest.param(
            ["--provider", "memory", "-f", "DIR", "--load-balancer-class", "lbprov.io/aws"],
            "--load-balancer-class: lbprov.io/aws is served by another provider",
            id="another-provider's-class",
        ),
    ],
)
def test_wrong_usage_is_exit_2_and_says_what_is_right(
    desk: Desk, verb: str, arguments: list[str], said: str
) -> None:
    result = CliRunner().invoke(main, [verb, *(str(desk.folder) if a == "DIR" else a for a in arguments)])
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stdout == ""


def test_watching_a_dry_run_is_wrong_usage(desk: Desk) -> None:
    result = desk.run("reconcile", "--watch", "--dry-run")
    assert result.exit_code == 2
    assert "exclude each other" in result.stderr


def test_status_shows_what_is_and_what_is_wrong(desk: Desk, golden: Callable[[str, str], None]) -> None:
    _shape(desk)
    desk.put("inside", type="ClusterIP", clusterIP="10.96.0.10", ports=[{"port": 80}])
    for name in ("changed", "same", "fresh", "refused"):
        path = desk.folder / f"{name}.yaml"
        service = yaml.safe_load(path.read_text())
        service["spec"]["clusterIP"] = f"10.96.0.{20 + len(name)}"
        path.write_text(yaml.safe_dump(service))
    for name in ("changed", "same"):
        desk.remove(name)
    desk.run("reconcile", "--workers", "1")
    result = CliRunner().invoke(main, ["status", "-f", str(desk.folder)])
    assert result.exit_code == 0
    golden("engine/status.txt", result.stdout)
    result = CliRunner().invoke(main, ["status", "-f", str(desk.folder), "-o", "json"])
    by_name = {s["name"]: s for s in json.loads(result.stdout)["services"]}
    assert by_name["fresh"]["ingress"] == [{"ip": "198.18.0.4", "ipMode": "Proxy"}]
    assert [e["reason"] for e in by_name["fresh"]["events"]] == [
        "EnsuringLoadBalancer",
        "LoadBalancerIPNotFound",
        "EnsuredLoadBalancer",
    ]
    assert {c["type"] for c in by_name["fresh"]["conditions"]} == {
        "lbprov.io/Provider",
        "lbprov.io/Ready",
        "lbprov.io/RequestedIP",
    }
    assert by_name["inside"]["clusterIPs"] == ["10.96.0.10"]


def test_providers_are_listed_with_their_options(desk: Desk) -> None:
    result = CliRunner().invoke(main, ["providers", "-o", "json"])
    assert json.loads(result.stdout) == {
        "providers": [
            {
                "name": "memory",
                "origin": "tests 1.0",
                "loadBalancerClass": "lbprov.io/memory",
                "summary": "Load balancers that are in memory only, for tests",
                "options": [{"name": "size", "default": "1", "help": "how big"}],
            }
        ]
    }


def test_control_characters_of_others_do_not_reach_the_terminal(desk: Desk) -> None:
    desk.put("web", loadBalancerIP="203.0.113.9")
    original = desk.world.list_all

    def refuse() -> Any:
        raise ProviderError("evil \x1b[31m\nService default/other: created")

    desk.world.list_all = refuse  # type: ignore[method-assign]
    for format_ in ("table", "json"):
        result = desk.run("reconcile", "-o", format_)
        assert "\x1b" not in result.output
        assert not any(line.startswith("Service default/other") for line in result.output.splitlines())
    desk.world.list_all = original  # type: ignore[method-assign]


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_nothing_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    terminal = _Terminal()
    cells = (
        "a-namespace-that-is-long",
        "web",
        "created",
        "2001:db8:1111:2222:3333:4444:5555:6666",
        "a note " * 9 + "end",
    )
    output.write_table(output.OUTCOME_HEAD, [cells], terminal)
    shown = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue()).splitlines()
    assert all(cell in shown[2] for cell in cells[:-1])
    notes = [line[-output.MIN_NOTE_WIDTH :].strip() for line in shown[2:]]
    assert len(notes) > 1
    assert " ".join(notes) == cells[-1]
