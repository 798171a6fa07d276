"""Rules in the real kernel: what it takes, what it keeps, what is left after a kill, a repair, a cleanup."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lbprov.lab import Host, Lab
from local_dataplane.iptables.fixed import Table
from local_dataplane.iptables.restore import parse_save
from local_dataplane.kernel.grace import packets_have_left

GOLDEN = sorted((Path(__file__).parent.parent / "golden/dataplane").glob("*.txt"))
SCRIPT = Path(__file__).parent / "kernel_script.py"
BACKENDS = ("nft", "legacy")
FAMILIES = {"IPv4": "iptables", "IPv6": "ip6tables"}
FOREIGN = """\
*mangle
:OTHERS - [0:0]
-A PREROUTING -p tcp -m tcp --dport 22 -j OTHERS
COMMIT
*nat
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A DOCKER -i docker0 -j RETURN
COMMIT
*filter
:OTHERS - [0:0]
:FORWARD DROP [0:0]
-A INPUT -i lo -j ACCEPT
-A INPUT -m comment --comment "LBP-FILTER is not led to from here" -j OTHERS
-A FORWARD -s 172.17.0.0/16 -j ACCEPT
-A OTHERS -p udp -j RETURN
COMMIT
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab.open() as lab:
        yield lab


@pytest.fixture
def node(lab: Lab) -> Iterator[Host]:
    """A node with a new kernel's rules: none."""
    node = lab.add_node("node-1")
    yield node
    lab.remove(node)


def _save(node: Host, backend: str, family: str = "IPv4") -> str:
    return node.run([f"{FAMILIES[family]}-{backend}-save"]).stdout


def _rules(saved: str) -> str:
    """Without remarks, counters, and tables that hold nothing: who looks at a table, makes it."""
    lines = [re.sub(r"\[.*\]", "", line) for line in saved.splitlines() if not line.startswith("#")]
    text = "\n".join(sorted(lines))
    parts = re.findall(r"^\*.*?^COMMIT$", "\n".join(lines), re.M | re.S)
    text = "\n".join(sorted(p for p in parts if re.search("^-A|^:.* (DROP|-) ", p, re.M)))
    return text


def _lbprov(node: Host, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return node.run([sys.executable, "-m", "lbprov", *arguments], check=check)


def _script(node: Host, *arguments: object) -> dict[str, Any]:
    done = node.run([sys.executable, str(SCRIPT), *map(str, arguments)], timeout_s=60)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _eventually(condition: Callable[[], bool], patience_s: float = 15.0) -> None:
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.05)


WEB = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "web"},
    "spec": {
        "type": "NodePort",
        "ipFamilyPolicy": "RequireDualStack",
        "ports": [{"port": 80, "nodePort": 30080}],
    },
}


@pytest.fixture
def folder(tmp_path: Path, node: Host, cluster_of: Callable[..., Any]) -> Any:
    folder = cluster_of(tmp_path, [node])
    folder.put("web", WEB)
    return folder


# ── the text ──


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_kernel_takes_every_golden_text_and_says_it_back(node: Host, backend: str) -> None:
    """What is saved must equal what was written, to the letter: a restart compares the two."""
    assert len(GOLDEN) == 20
    for path in GOLDEN:
        text = path.read_text()
        program = FAMILIES["IPv6" if "IPv6" in path.name else "IPv4"]
        node.run([f"{program}-{backend}-restore", "-w", "5"], input=text)
        saved = parse_save(node.run([f"{program}-{backend}-save"]).stdout)
        written = re.findall(r"^-A (LBP-\S+) (.*)$", text, re.M)
        read = [(chain, rule) for (_, chain), rules in saved.chains.items() for rule in rules]
        assert sorted(read) == sorted(written), path.name
        assert {c for _, c in saved.chains} == set(re.findall(r"^:(LBP-\S+)", text, re.M))
        assert all(positions == (0,) for positions in saved.positions.values())


# ── the program ──


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_change_is_one_restore_and_nothing_is_read_again(node: Host, backend: str) -> None:
    answer = _script(node, backend, 600, 1)
    assert answer["refused"] == {}
    assert answer["restores"] == 1 if backend == "legacy" else answer["restores"] > 5
    assert (answer["changed_restores"], answer["changed_rules"]) == (1, 3)
    assert (answer["saves"], answer["checks_that_read"], answer["repairs"]) == (1, 0, 0)


def test_a_large_load_needs_no_root(node: Host) -> None:
    """Without the machine's own CAP_NET_ADMIN a netlink message has a limit (net.core.wmem_max)."""
    done = node.run(["unshare", "-Urn", sys.executable, str(SCRIPT), "nft", "2000", "1"], timeout_s=60)
    assert json.loads(done.stdout)["refused"] == {}


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_second_run_writes_nothing(node: Host, backend: str) -> None:
    _script(node, backend, 300, 1)
    before = _save(node, backend)
    assert _script(node, backend, 300, 1)["rules"] == 3, "only what the last step of the first run changed"
    assert _rules(_save(node, backend)) == _rules(before)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bad", [(0,), (5, 150, 299)], ids=["one", "three"])
def test_what_the_kernel_refuses_is_left_out(node: Host, backend: str, bad: tuple[int, ...]) -> None:
    answer = _script(node, backend, 300, 1, *bad)
    assert set(answer["refused"]) == {f"svc-{n}" for n in bad}
    saved = _save(node, backend)
    labels = set(re.findall(r'--comment "default/(svc-\d+)"', saved))
    first_three = {0, 1, 2}  # these were changed to something good by the script's second step
    assert labels == {f"svc-{n}" for n in range(300) if n not in set(bad) - first_three}


@pytest.mark.parametrize("backend", BACKENDS)
def test_killed_at_any_moment_it_converges(node: Host, backend: str) -> None:
    """kill -9 of the agent while iptables-restore runs, at several moments of a change of 1,000 Services."""
    _script(node, backend, 1000, 1)
    for moment_s in (0.02, 0.08, 0.16, 0.24):
        process = node.popen(
            [sys.executable, str(SCRIPT), backend, "1000", "3"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        assert process.stderr is not None
        assert process.stderr.readline() == "ready\n"
        time.sleep(moment_s)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stderr.close()
        chains = parse_save(_save(node, backend)).chains
        backends = re.findall(r"--to-destination 10.244.(\d+)", " ".join(map(" ".join, chains.values())))
        assert set(backends) <= {"1", "2", "3", "4"}
        services = {r.split()[-1] for rules in chains.values() for r in rules if "--comment" in r}
        assert len(services) == 1000
        assert all(chains[Table.NAT, s] for s in services), (
            "every Service has its old endpoint or its new one"
        )
        _script(node, backend, 1000, 1)
    _script(node, backend, 1000, 3)
    converged = _rules(_save(node, backend))
    _lbprov(node, "node", "cleanup")
    _script(node, backend, 1000, 3)
    assert _rules(_save(node, backend)) == converged


# ── the agent ──


@pytest.mark.parametrize("backend", BACKENDS)
def test_foreign_rules_are_the_same_before_and_after(node: Host, folder: Any, backend: str) -> None:
    programs = [(f, b) for f in FAMILIES for b in BACKENDS]
    for family, held in programs:
        text = FOREIGN if family == "IPv4" else FOREIGN.replace("172.17.0.0/16", "fd00:17::/64")
        node.run([f"{FAMILIES[family]}-{held}-restore"], input=text)
    before = [_rules(_save(node, held, family)) for family, held in programs]
    for _ in range(2):
        _lbprov(node, *_once(node, folder, backend))
    for (family, held), old in zip(programs, before, strict=True):
        now = _rules(_save(node, held, family))
        ours = [line for line in now.splitlines() if re.match(r"(:|-A )LBP-|.*-j LBP-", line)]
        assert bool(ours) == (held == backend)
        assert "\n".join(line for line in now.splitlines() if line not in ours) == old
    _lbprov(node, "node", "cleanup")
    assert [_rules(_save(node, held, family)) for family, held in programs] == before


def _once(node: Host, folder: Any, backend: str) -> list[str]:
    return [
        *("node", "-f", str(folder.path), "--node-name", node.name, "--once"),
        *("--iptables-backend", backend, "--log-format", "json"),
    ]


def test_packets_are_waited_for_exactly() -> None:
    """Not only for a while."""
    assert packets_have_left()


@pytest.mark.parametrize("backend", BACKENDS)
def test_cleanup_leaves_nothing_and_is_idempotent(node: Host, folder: Any, backend: str) -> None:
    before = [_rules(_save(node, backend, family)) for family in FAMILIES]
    _lbprov(node, *_once(node, folder, backend))
    assert "default/web" in _lbprov(node, "node", "status").stdout
    assert f"IPv4 {backend}: 1" in _lbprov(node, "node", "cleanup").stdout
    assert [_rules(_save(node, backend, family)) for family in FAMILIES] == before
    assert "chains removed" not in _lbprov(node, "node", "cleanup").stdout
    assert _lbprov(node, "node", "status").stdout.endswith("\nnothing is forwarded here\n")


HARM = ("-t nat -F", "-t nat -D PREROUTING -j LBP-SERVICES", "-t filter -F LBP-FORWARD")


def test_harm_by_others_is_repaired(
    tmp_path: Path, cluster_of: Callable[..., Any], start_agent: Callable[..., Any]
) -> None:
    with Lab.open() as lab:
        nodes = {backend: lab.add_node(f"node-{backend}") for backend in BACKENDS}
        folder = cluster_of(tmp_path, list(nodes.values()))
        folder.put("web", WEB)
        agents = [start_agent(node, tmp_path, "--iptables-backend", b) for b, node in nodes.items()]
        for agent in agents:
            agent.await_applied(folder.cluster.snapshot().version)
        whole = {b: _rules(_save(node, b)) for b, node in nodes.items()}
        for harm in HARM:
            for backend, node in nodes.items():
                node.run([f"iptables-{backend}", "-w", *harm.split()])
                assert _rules(_save(node, backend)) != whole[backend]
            for backend, node in nodes.items():
                _eventually(lambda b=backend, n=node: _rules(_save(n, b)) == whole[b])  # type: ignore[misc]
        assert [agent.end() for agent in agents] == [0, 0]
        assert {b: _rules(_save(n, b)) for b, n in nodes.items()} == whole, "the rules stay when it ends"


def test_a_change_of_backend_takes_the_old_rules_away(node: Host, folder: Any) -> None:
    _lbprov(node, *_once(node, folder, "legacy"))
    _lbprov(node, *_once(node, folder, "auto"))
    assert "LBP-SERVICES" in _save(node, "legacy"), "auto: the backend that holds our rules"
    assert "LBP-" not in _save(node, "nft")
    _lbprov(node, *_once(node, folder, "nft"))
    assert "LBP-SERVICES" in _save(node, "nft")
    assert "LBP-" not in _save(node, "legacy")
    assert "LBP-" not in _save(node, "legacy", "IPv6")


@pytest.mark.parametrize("backend", BACKENDS)
def test_auto_goes_where_kubelet_is(node: Host, folder: Any, backend: str) -> None:
    node.run([f"iptables-{backend}", "-t", "mangle", "-N", "KUBE-IPTABLES-HINT"])
    _lbprov(node, *_once(node, folder, "auto"))
    assert "LBP-SERVICES" in _save(node, backend)


def test_two_agents_do_not_fight(node: Host, folder: Any, start_agent: Callable[..., Any]) -> None:
    agent = start_agent(node, folder.path)
    agent.await_applied(folder.cluster.snapshot().version)
    for arguments in (_once(node, folder, "auto"), ["node", "cleanup"]):
        second = _lbprov(node, *arguments, check=False)
        assert second.returncode == 1
        assert "already running" in second.stderr
    assert agent.end() == 0
    assert _lbprov(node, "node", "cleanup").returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_it_cleanly(
    node: Host, folder: Any, start_agent: Callable[..., Any], number: signal.Signals
) -> None:
    agent = start_agent(node, folder.path)
    agent.await_applied(folder.cluster.snapshot().version)
    agent.process.send_signal(number)
    assert agent.process.wait(timeout=30) == 0


# ── what cannot work ──


def _with_iptables(script: str) -> list[str]:
    """Words before a command that is to find this in the place of all programs of iptables."""
    stems = [f"{family}{backend}" for family in FAMILIES.values() for backend in ("", "-nft", "-legacy")]
    names = " ".join(f"/usr/sbin/{stem}-{what}" for stem in stems for what in ("save", "restore"))
    made = f'mount -t tmpfs none /usr/sbin; echo "$0" | tee {names} > /dev/null; chmod +x {names}; exec "$@"'
    return ["unshare", "-m", "sh", "-euc", made, f"#!/bin/sh\n{script}"]


@pytest.mark.parametrize(
    ("wrap", "arguments", "sentence"),
    [
        pytest.param(
            ["setpriv", "--bounding-set=-all"],
            ["node", "cleanup"],
            "run it as root",
            id="cleanup-not-privileged",
        ),
        pytest.param(
            ["setpriv", "--bounding-set=-all"],
            ["node", "-f", "FOLDER", "--node-name", "node-1"],
            "run it as root",
            id="not-privileged",
        ),
        pytest.param(
            _with_iptables("case $1 in -V) echo iptables v1.4.21 ;; esac"),
            ["node", "-f", "FOLDER", "--node-name", "node-1", "--iptables-backend", "nft"],
            "is version 1.4.21, and cannot wait for the xtables lock: 1.6.2 or newer is needed",
            id="old-iptables",
        ),
        pytest.param(
            _with_iptables("case $1 in -V) echo 'iptables v1.8.9 (nf_tables)' ;; *) kill -SEGV $$ ;; esac"),
            ["node", "-f", "FOLDER", "--node-name", "node-1", "--iptables-backend", "nft"],
            "was killed by signal 11",
            id="iptables-that-crashes",
        ),
        pytest.param(
            ["unshare", "-m", "sh", "-c", 'mount -t tmpfs none /usr/sbin; exec "$@"', "sh"],
            ["node", "-f", "FOLDER", "--node-name", "node-1"],
            "iptables is not installed: install the package iptables",
            id="no-iptables",
        ),
        pytest.param(
            [], ["node", "-f", "FOLDER", "--node-name", "node-9"], "no Node named 'node-9'", id="no-such-node"
        ),
        pytest.param(
            [], ["node", "-f", "FOLDER"], "no Node named 'node-2'", id="hostname-is-the-default-name"
        ),
    ],
)
def test_what_cannot_work_is_said_in_a_sentence(
    node: Host, folder: Any, wrap: list[str], arguments: list[str], sentence: str
) -> None:
    if arguments == ["node", "-f", "FOLDER"]:
        node.run(["hostname", "node-2"])
    words = [str(folder.path) if word == "FOLDER" else word for word in arguments]
    done = node.run([*wrap, sys.executable, "-m", "lbprov", *words], check=False)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert done.stderr.startswith("Error: ")
    assert "Traceback" not in done.stderr
    assert "LBP-" not in _save(node, "nft")
