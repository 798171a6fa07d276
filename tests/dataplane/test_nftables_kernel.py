"""Our table in the real kernel: what it takes and keeps, what is left after a kill, a repair, a cleanup."""

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
from local_dataplane.kernel.iptables_command import which

SCRIPT = Path(__file__).parent / "nftables_script.py"
FAMILIES = ("IPv4", "IPv6")
FOREIGN = """\
table inet firewall {
	set blocked {
		type ipv4_addr
		flags interval
		elements = { 198.51.100.0/24 }
	}
	chain input {
		type filter hook input priority filter; policy accept;
		ip saddr @blocked drop
	}
	chain forward {
		type filter hook forward priority filter; policy accept;
		ct state established,related accept
	}
}
table ip others {
	chain prerouting {
		type nat hook prerouting priority dstnat; policy accept;
		tcp dport 2222 dnat to 192.0.2.1:22
	}
}
"""
WEB: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "web"},
    "spec": {
        "type": "NodePort",
        "ipFamilyPolicy": "RequireDualStack",
        "sessionAffinity": "ClientIP",
        "ports": [{"port": 80, "nodePort": 30080}],
    },
}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab.open() as lab:
        yield lab


@pytest.fixture
def node(lab: Lab) -> Iterator[Host]:
    node = lab.add_node("node-1")
    yield node
    lab.remove(node)


@pytest.fixture
def folder(tmp_path: Path, node: Host, cluster_of: Callable[..., Any]) -> Any:
    folder = cluster_of(tmp_path, [node])
    folder.put("web", WEB)
    return folder


def _script(node: Host, *arguments: object) -> dict[str, Any]:
    done = node.run([sys.executable, str(SCRIPT), *map(str, arguments)], timeout_s=120)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _tables(node: Host) -> dict[str, str]:
    """Table -> its listing."""
    text = node.run(["nft", "list", "ruleset"]).stdout
    return {m[1]: m[0] for m in re.finditer(r"^table (\S+ \S+) \{.*?^\}", text, re.M | re.S)}


def _lbprov(node: Host, *arguments: str) -> str:
    done = node.run([sys.executable, "-m", "lbprov", *arguments])
    return done.stdout + done.stderr


def _once(node: Host, folder: Any, *flags: str) -> list[str]:
    return [
        "node",
        "-f",
        str(folder.path),
        "--node-name",
        node.name,
        "--once",
        "--log-format",
        "json",
        *flags,
    ]


def _eventually(condition: Callable[[], bool], after: str) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, f"it did not come true after {after}"
        time.sleep(0.05)


# ── the table ──


def test_what_explain_names_is_there(node: Host, folder: Any) -> None:
    """nft finds each chain and each element by the words that explain has for it."""
    folder.put("web", WEB | {"spec": WEB["spec"] | {"sessionAffinity": "None"}}, _slice("web"))
    _lbprov(node, *_once(node, folder, "--mode", "nftables"))
    said = json.loads(
        _lbprov(node, "explain", "web", "-f", str(folder.path), "--mode", "nftables", "-o", "json")
    )
    steps = {
        (route["family"], step) for route in said["routes"] for way in route["ways"] for step in way["chains"]
    }
    for family, step in steps:
        name, _, key = step.removeprefix("@").partition(" ")
        what = ["get", "element"] if key else ["list", "chain"]
        node.run(["nft", *what, "ip6" if family == "IPv6" else "ip", "lbprov", name, *([key] if key else [])])
    assert len({step.partition(" ")[0] for _, step in steps if step.startswith("@")}) >= 3


def test_every_scene_is_what_another_pair_of_eyes_sees(node: Host) -> None:
    """nft lists it, as text and JSON; its text makes the same table again; and we read back what we wrote."""
    found = _script(node, "scenes")
    assert len(found) == 20
    for scene, seen in found.items():
        assert seen["elements"] == seen["wanted"], scene
        assert seen["rules"] == seen["wanted_rules"], scene
        assert seen["again"] == "", scene
        assert seen["true"], scene


@pytest.mark.parametrize("family", FAMILIES)
def test_a_load_and_a_change_are_a_transaction_each(node: Host, family: str) -> None:
    answer = _script(node, family, 600, 1, 0)
    assert answer["refused"] == {}
    assert (answer["transactions"], answer["changed_transactions"], answer["changed_rules"]) == (1, 1, 3)
    assert (answer["reads"], answer["checks_that_read"], answer["repairs"]) == (1, 0, 0)
    assert answer["true"]
    again = _script(node, family, 600, 1, 0)
    assert again["rules"] == 3, "only what the last step of the first run changed"


def test_a_large_load_needs_no_root(node: Host) -> None:
    """Without the machine's own CAP_NET_ADMIN a message is as long as net.core.wmem_max lets it be."""
    words = [sys.executable, str(SCRIPT), "IPv4", "5000", "1", "100000"]
    done = node.run(["unshare", "-Urn", *words], timeout_s=120)
    answer = json.loads(done.stdout)
    assert answer["refused"] == {}
    assert answer["transactions"] > 5
    assert len(answer["labels"]) == 5000
    assert answer["true"]


@pytest.mark.parametrize("bad", [(0,), (5, 150, 299)], ids=["one", "three"])
def test_what_the_kernel_refuses_is_left_out(node: Host, bad: tuple[int, ...]) -> None:
    answer = _script(node, "IPv4", 300, 1, 0, *bad)
    assert answer["refused"] == {f"svc-{n}": "Invalid argument" for n in bad}
    first_three = {0, 1, 2}  # these were changed to something good by the script's second step
    assert set(answer["labels"]) == {
        f"default/svc-{n}" for n in range(300) if n not in set(bad) - first_three
    }


def test_killed_at_any_moment_it_converges(node: Host) -> None:
    """kill -9 around a transaction of 1,000 Services: all are old or all are new."""
    _script(node, "IPv4", 1000, 1, 0)
    for moment_s in (0.02, 0.06, 0.12):
        process = node.popen(
            [sys.executable, str(SCRIPT), "IPv4", "1000", "5", "0"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        assert process.stderr is not None
        assert process.stderr.readline() == "ready\n"
        time.sleep(moment_s)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stderr.close()
        listed = node.run(["nft", "list", "map", "ip", "lbprov", "endpoints"]).stdout
        generations = re.findall(r": 10\.244\.(\d+)\.", listed)
        assert len(generations) == 1000
        assert set(generations[3:]) in ({"1"}, {"5"}) or set(generations) in ({"1", "2"}, {"5", "6"})
        _script(node, "IPv4", 1000, 1, 0)
    assert _script(node, "IPv4", 1000, 5, 0)["true"]


# ── the agent ──


def test_a_kill_before_flows_are_ended_is_made_up_for(node: Host, folder: Any) -> None:
    assert _script(node, "killed") == {"flows": 1}
    _lbprov(node, *_once(node, folder, "--mode", "nftables"))
    assert _script(node, "flows") == {"flows": 0}
    assert "10.244.7.7" not in _tables(node)["ip lbprov"]


def test_foreign_tables_are_the_same_before_and_after(node: Host, folder: Any) -> None:
    node.run(["nft", "-f", "-"], input=FOREIGN)
    before = _tables(node)
    _lbprov(node, *_once(node, folder, "--mode", "nftables"))
    now = _tables(node)
    assert {"ip lbprov", "ip6 lbprov"} == now.keys() - before.keys()
    assert {name: now[name] for name in before} == before
    assert "default/web" in _lbprov(node, "node", "status")
    assert re.search(r"IPv6 nftables: \d+ chains removed", _lbprov(node, "node", "cleanup"))
    assert _tables(node) == before
    assert "removed" not in _lbprov(node, "node", "cleanup")


@pytest.mark.parametrize("backend", ["nft", "legacy"])
def test_a_change_of_mode_takes_the_old_rules_away(node: Host, folder: Any, backend: str) -> None:
    iptables = ("--mode", "iptables", "--iptables-backend", backend)
    _lbprov(node, *_once(node, folder, *iptables))
    assert "LBP-SERVICES" in node.run([f"iptables-{backend}-save"]).stdout
    _lbprov(node, *_once(node, folder, "--mode", "nftables"))
    assert {"ip lbprov", "ip6 lbprov"} <= _tables(node).keys()
    assert "LBP-" not in node.run([f"iptables-{backend}-save"]).stdout
    assert "LBP-" not in node.run([f"ip6tables-{backend}-save"]).stdout
    _lbprov(node, *_once(node, folder, *iptables))
    assert "LBP-SERVICES" in node.run([f"iptables-{backend}-save"]).stdout
    assert not {"ip lbprov", "ip6 lbprov"} & _tables(node).keys()


@pytest.mark.parametrize("backend", ["nft", "legacy"])
def test_auto_says_why(node: Host, folder: Any, backend: str) -> None:
    said = _lbprov(node, *_once(node, folder, "--mode", "auto"))
    assert '"mode": "nftables", "reason": "the kernel has what it takes"' in said
    assert "ip lbprov" in _tables(node)
    node.run([f"iptables-{backend}", "-P", "FORWARD", "DROP"])
    said = _lbprov(node, *_once(node, folder, "--mode", "auto"))
    assert '"mode": "iptables", "reason": "the iptables chain FORWARD drops by default' in said
    assert "ip lbprov" not in _tables(node)


def test_others_that_drop_what_is_forwarded_are_named(node: Host, folder: Any) -> None:
    said = _lbprov(node, *_once(node, folder, "--mode", "nftables"))
    assert "drops by default" not in said
    node.run(["iptables-nft", "-P", "FORWARD", "DROP"])
    chain = "add chain inet {} forward {{ type filter hook forward priority 0; policy {}; }}"
    for table, policy in (("strict", "drop"), ("lax", "accept")):
        node.run(["nft", f"add table inet {table}; {chain.format(table, policy)}"])
    said = _lbprov(node, *_once(node, folder, "--mode", "nftables"))
    assert said.count("drops by default") == 2
    assert "table inet strict, chain forward drops by default what is forwarded" in said
    assert "the iptables chain FORWARD drops by default what is forwarded" in said
    assert "or use --mode iptables" in said


def test_a_start_does_not_list_what_others_have(node: Host, folder: Any, tmp_path: Path) -> None:
    """iptables-save is not run, however much is there, unless an earlier run of ours has left something."""
    node.script("iptables-nft -N OTHERS; iptables-nft -t nat -N OTHERS; ip6tables-nft -N OTHERS")
    calls = tmp_path / "calls"
    for program in ("iptables-nft-save", "ip6tables-nft-save"):
        (tmp_path / program).write_text(f'#!/bin/sh\necho {program} >> {calls}\nexec {which(program)} "$@"\n')
        (tmp_path / program).chmod(0o755)
    words = ["env", f"PATH={tmp_path}:/usr/sbin:/usr/bin:/bin", sys.executable, "-m", "lbprov"]
    node.run([*words, *_once(node, folder, "--mode", "nftables")])
    assert not calls.exists()
    node.run([*words, *_once(node, folder, "--mode", "iptables", "--iptables-backend", "nft")])
    node.run([*words, *_once(node, folder, "--mode", "nftables")])
    assert calls.exists()
    assert "LBP-" not in node.script("iptables-nft-save; ip6tables-nft-save")


HARM = (
    "flush ruleset",
    "delete table ip lbprov",
    "flush chain ip lbprov services",
    "insert rule ip lbprov services accept",
    "flush map ip lbprov endpoints",
    "add element ip lbprov cluster-ips { 192.0.2.77 }",
    "add chain ip lbprov theirs { type filter hook input priority 0; }; add rule ip lbprov theirs accept",
    "add chain ip lbprov theirs { type filter hook forward priority 0; policy drop; }",
    "add chain ip lbprov theirs; insert rule ip lbprov services jump theirs",
    "chain ip lbprov filter-forward { policy drop; }",
    "add set ip lbprov theirs { type ipv4_addr; }",
    "table ip lbprov { flags dormant; }",
)


def test_harm_by_others_is_repaired(node: Host, folder: Any, start_agent: Callable[..., Any]) -> None:
    folder.put("other", _with_endpoints("other"), _slice("other"))
    agent = start_agent(node, folder.path, "--mode", "nftables")
    agent.await_applied(folder.cluster.snapshot().version)
    whole = _tables(node)
    assert "10.244.7.7" in whole["ip lbprov"]
    for harm in HARM:
        node.run(["nft", harm])
        _eventually(lambda: _same(_tables(node), whole), harm)
    assert agent.end() == 0
    assert _same(_tables(node), whole), "the table stays when it ends"


def _same(now: dict[str, str], whole: dict[str, str]) -> bool:
    """Whatever the order in which the kernel lists a set's elements, sets and chains."""
    return {n: sorted(re.findall(r"[^\s,]+", t)) for n, t in now.items()} == {
        n: sorted(re.findall(r"[^\s,]+", t)) for n, t in whole.items()
    }


def _with_endpoints(name: str) -> dict[str, Any]:
    spec = {"clusterIP": "10.96.9.9", "ports": [{"port": 80}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


def _slice(service: str) -> dict[str, Any]:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": service, "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "ports": [{"port": 80}],
        "endpoints": [{"addresses": ["10.244.7.7"]}, {"addresses": ["10.244.7.8"]}],
    }


WITHOUT_PROGRAMS = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs none /usr/sbin; exec "$@"', "sh"]
_BROKEN = """\
mount -t tmpfs none /usr/sbin
for stem in iptables ip6tables; do
    for kind in "" -nft -legacy; do
        printf '#!/bin/sh\\nkill -SEGV $$' > /usr/sbin/$stem$kind-save
        cp /usr/sbin/$stem$kind-save /usr/sbin/$stem$kind-restore
    done
done
chmod +x /usr/sbin/*
exec "$@"
"""
BROKEN_IPTABLES = ["unshare", "-m", "sh", "-euc", _BROKEN, "sh"]


@pytest.mark.parametrize(
    "machine", [pytest.param(WITHOUT_PROGRAMS, id="none"), pytest.param(BROKEN_IPTABLES, id="that crash")]
)
def test_no_program_is_needed(node: Host, folder: Any, machine: list[str]) -> None:
    """Neither nft nor iptables; nor is a broken one in the way."""
    lbprov = [*machine, sys.executable, "-m", "lbprov"]
    said = node.run([*lbprov, *_once(node, folder, "--mode", "auto")]).stderr
    assert '"mode": "nftables"' in said
    assert '"level": "error"' not in said
    assert {"ip lbprov", "ip6 lbprov"} <= _tables(node).keys()


def test_no_program_is_needed_to_look_and_to_clean_up(node: Host, folder: Any) -> None:
    lbprov = [*WITHOUT_PROGRAMS, sys.executable, "-m", "lbprov", "node"]
    _lbprov(node, *_once(node, folder, "--mode", "nftables"))
    assert "default/web" in node.run([*lbprov, "status"]).stdout
    assert "chains removed" in node.run([*lbprov, "cleanup"]).stdout
    assert not {"ip lbprov", "ip6 lbprov"} & _tables(node).keys()


def test_without_the_right_to_it_says_so(node: Host, folder: Any) -> None:
    words = _once(node, folder, "--mode", "nftables")
    done = node.run(["setpriv", "--bounding-set=-all", sys.executable, "-m", "lbprov", *words], check=False)
    assert done.returncode == 1
    assert "run it as root" in done.stderr
    assert "Traceback" not in done.stderr
