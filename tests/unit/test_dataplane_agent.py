"""The agent's loop with fakes below it: what it applies, says, retries and refuses to start with."""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from lbprov.cluster import Problem, Snapshot
from lbprov.model import (
    Endpoint,
    EndpointPort,
    EndpointSlice,
    IPFamily,
    Node,
    NodeAddress,
    ObjectKey,
    Service,
    ServicePort,
    UserError,
)
from local_dataplane import agent as agent_module
from local_dataplane.agent import Agent
from local_dataplane.config import Detect, NodeConfig, NodeFacts, canonical_cidrs
from local_dataplane.flow_keeper import FlowKeeper
from local_dataplane.iptables.fixed import Table
from local_dataplane.iptables.ruleset import Ruleset
from local_dataplane.kernel.backends import Held, choose, open_iptables
from local_dataplane.kernel.conntrack import FakeConntrack
from local_dataplane.kernel.fake_iptables import FakeIptables
from local_dataplane.kernel.seam import Backend, Busy
from local_dataplane.kernel.sysctl import FakeSysctls, prepare
from local_dataplane.kernel.watch import RuleWatch
from local_dataplane.program import FamilyProgram
from local_dataplane.source import Changes

V4, V6 = IPFamily.IPV4, IPFamily.IPV6
NODE = Node("node-1", addresses=(NodeAddress("InternalIP", "192.0.2.11"),))


def _service(name: str, *cluster_ips: str, external_ips: tuple[str, ...] = ()) -> Service:
    return Service(
        ObjectKey("default", name),
        name,
        ports=(ServicePort(80),),
        cluster_ips=cluster_ips,
        external_ips=external_ips,
    )


def _slice(name: str, address: str) -> EndpointSlice:
    family = V6 if ":" in address else V4
    return EndpointSlice(
        ObjectKey("default", f"{name}-{family}"), name, family, (EndpointPort(8080),), (Endpoint((address,)),)
    )


WEB = Snapshot((_service("web", "10.96.0.1"),), (NODE,), (_slice("web", "10.244.1.2"),), version="v1")


class Script:
    """A source that shows one snapshot after another, then stops the agent."""

    def __init__(self, *snapshots: Snapshot | Exception | None) -> None:
        self.left = list(snapshots)
        self.now = self.left.pop(0)
        self.stop: threading.Event | None = None

    waits_for_node = False
    name = "script"

    def missing(self) -> str:
        return ""

    def take(self) -> Changes:
        if isinstance(self.now, Exception):
            error, self.now = self.now, self.left.pop(0)
            raise error
        assert self.now is not None
        return Changes.everything(self.now)

    def wait(self, timeout_s: float, stop: threading.Event) -> bool:
        if not self.left:
            stop.set()
            return False
        following = self.left.pop(0)
        if following is None:  # nothing happens for a while
            return False
        self.now = following
        return True


@dataclasses.dataclass
class Bench:
    """An agent on fakes."""

    kernels: dict[IPFamily, FakeIptables]
    agent: Agent
    sysctls: FakeSysctls
    times_s: list[float]

    def run(self) -> None:
        self.agent.run(threading.Event())


@pytest.fixture
def bench() -> Callable[..., Bench]:
    def make(*snapshots: Snapshot | Exception | None, families: tuple[IPFamily, ...] = (V4, V6)) -> Bench:
        kernels = {family: FakeIptables(family) for family in families}
        watch, times_s = RuleWatch(), [0.0]
        programs = {
            f: FamilyProgram(k, Ruleset(f, NodeConfig(), NodeFacts("node-1")), watch)
            for f, k in kernels.items()
        }
        sysctls = FakeSysctls({"net/ipv4/ip_forward": "0", "net/ipv6/conf/all/forwarding": "0"})
        agent = Agent(
            Script(*snapshots), "node-1", programs, FlowKeeper(FakeConntrack(), NodeConfig()), sysctls,
            now_s=lambda: times_s[0],
        )  # fmt: skip
        return Bench(kernels, agent, sysctls, times_s)

    return make


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(agent_module, "_BACKOFF_S", (0.0,))
    caplog.set_level(logging.INFO)


def _applied(caplog: pytest.LogCaptureFixture) -> list[tuple[str, int, int]]:
    records = [vars(r) for r in caplog.records if r.message == "applied"]
    return [(r["version"], r["services"], r["rules"]) for r in records]


def test_each_snapshot_is_applied_and_said(
    bench: Callable[..., Bench], caplog: pytest.LogCaptureFixture
) -> None:
    idle = dataclasses.replace(WEB, version="v2")
    gone = dataclasses.replace(WEB, services=(), version="v3")
    b = bench(WEB, None, idle, None, gone, None)
    b.run()
    (v1, one, rules), second, (v3, none, _) = _applied(caplog)
    assert (v1, one, second, v3, none) == ("v1", 1, ("v2", 1, 0), "v3", 0)
    assert rules > 10
    chains = b.kernels[V4].tables[Table.NAT]
    assert not [c for c in chains if c.startswith("LBP-SVC")], "what is no longer used is removed when idle"


def test_only_families_with_services_touch_the_machines_settings(bench: Callable[..., Bench]) -> None:
    b = bench(WEB)
    b.run()
    assert b.sysctls.values == {"net/ipv4/ip_forward": "1", "net/ipv6/conf/all/forwarding": "0"}


def test_a_family_that_the_machine_lacks_is_said_once(
    bench: Callable[..., Bench], caplog: pytest.LogCaptureFixture
) -> None:
    both = dataclasses.replace(
        WEB, services=(_service("web", "10.96.0.1", "fd00::1"), _service("w6", "fd00::2"))
    )
    b = bench(both, dataclasses.replace(both, version="v2"), families=(V4,))
    b.run()
    assert caplog.text.count("IPv6 is not available on this machine") == 1
    assert len(_applied(caplog)) == 2


def test_a_busy_kernel_is_asked_again(bench: Callable[..., Bench], caplog: pytest.LogCaptureFixture) -> None:
    b = bench(WEB, None)
    kernel, restore = b.kernels[V4], b.kernels[V4].restore
    answers = [Busy("the xtables lock is held"), Busy("the xtables lock is held")]

    def busy(text: str) -> None:
        if answers:
            raise answers.pop()
        restore(text)

    kernel.restore = busy  # type: ignore[method-assign]
    b.run()
    assert caplog.text.count("trying again") == 2
    assert _applied(caplog)[0][:2] == ("v1", 1)
    assert any(c.startswith("LBP-SVC") for c in kernel.tables[Table.NAT])


def test_a_source_that_fails_for_a_while(
    bench: Callable[..., Bench], caplog: pytest.LogCaptureFixture
) -> None:
    b = bench(WEB, UserError("no such folder"), dataclasses.replace(WEB, version="v2"))
    b.run()
    assert [version for version, *_ in _applied(caplog)] == ["v1", "v2"]
    assert "no such folder" in [vars(r).get("reason") for r in caplog.records]


def test_no_such_node_ends_it_at_once(bench: Callable[..., Bench]) -> None:
    with pytest.raises(UserError, match=r"no Node named 'node-1' \(there are: other\)"):
        bench(dataclasses.replace(WEB, nodes=(Node("other"),))).run()


def test_a_node_that_goes_later_does_not(
    bench: Callable[..., Bench], caplog: pytest.LogCaptureFixture
) -> None:
    b = bench(WEB, dataclasses.replace(WEB, nodes=(), version="v2"))
    b.run()
    assert [version for version, *_ in _applied(caplog)] == ["v1", "v2"]
    assert "going on with what was known" in caplog.text


def test_problems_and_conflicts_are_said_once(
    bench: Callable[..., Bench], caplog: pytest.LogCaptureFixture
) -> None:
    two = tuple(_service(n, f"10.96.0.{i}", external_ips=("203.0.113.1",)) for i, n in enumerate(("a", "b")))
    problem = Problem("web.yaml:3", "Service default/web", "spec.ports[0].port", "70000 is no port")
    broken = dataclasses.replace(WEB, services=two, problems=(problem,))
    b = bench(broken, dataclasses.replace(broken, version="v2"))
    b.run()
    assert caplog.text.count("web.yaml:3: Service default/web: spec.ports[0].port: 70000 is no port") == 1
    assert caplog.text.count("203.0.113.1 80/TCP is claimed twice: default/a has it, default/b does not") == 1


@pytest.mark.parametrize(
    ("snapshot", "refuse", "good"),
    [
        pytest.param(WEB, "", True, id="all"),
        pytest.param(WEB, "10.244.1.2", False, id="a Service is left out"),
        pytest.param(
            dataclasses.replace(WEB, problems=(Problem("a", "", "", "bad"),)), "", False, id="a bad manifest"
        ),
        pytest.param(
            dataclasses.replace(WEB, problems=(Problem("a", "", "", "odd", fatal=False),)),
            "",
            True,
            id="an odd one",
        ),
    ],
)
def test_once(bench: Callable[..., Bench], snapshot: Snapshot, refuse: str, good: bool) -> None:
    b = bench(snapshot)
    b.kernels[V4].refuse = {refuse} if refuse else set()
    assert b.agent.run_once() is good


def test_what_was_left_out_is_tried_again_later(bench: Callable[..., Bench]) -> None:
    b = bench(WEB, None, None, None)
    kernel, source = b.kernels[V4], b.agent.source
    kernel.refuse = {"10.244.1.2"}
    wait = source.wait

    def later(timeout_s: float, stop: threading.Event) -> bool:
        kernel.refuse = set()
        b.times_s[0] += 40
        return wait(timeout_s, stop)

    source.wait = later  # type: ignore[method-assign]
    b.run()
    assert any(c.startswith("LBP-SVC") for c in kernel.tables[Table.NAT])


def test_harm_that_no_look_shows_is_found_in_time(bench: Callable[..., Bench]) -> None:
    b = bench(WEB, None, None, None, None)
    kernel, source, wait = b.kernels[V4], b.agent.source, b.agent.source.wait

    def later(timeout_s: float, stop: threading.Event) -> bool:
        if b.times_s[0] == 0:
            kernel.tables[Table.NAT]["LBP-SERVICES"] = []  # and the generation stays as it was
        b.times_s[0] += 50
        return wait(timeout_s, stop)

    source.wait = later  # type: ignore[method-assign]
    b.run()
    assert kernel.tables[Table.NAT]["LBP-SERVICES"]


# ── settings of the machine ──

FORWARDING6 = "net/ipv6/conf/all/forwarding"


@pytest.mark.parametrize(
    ("family", "before", "after"),
    [
        pytest.param(V4, {"net/ipv4/ip_forward": "0"}, {"net/ipv4/ip_forward": "1"}, id="forwarding"),
        pytest.param(V4, {"net/ipv4/ip_forward": "1"}, {"net/ipv4/ip_forward": "1"}, id="as it should be"),
        pytest.param(
            V4,
            {"net/ipv4/ip_forward": "1", "net/bridge/bridge-nf-call-iptables": "0"},
            {"net/ipv4/ip_forward": "1", "net/bridge/bridge-nf-call-iptables": "1"},
            id="bridge",
        ),
        pytest.param(
            V6,
            {FORWARDING6: "0", "net/ipv6/conf/eth0/accept_ra": "1", "net/ipv6/conf/eth1/accept_ra": "0"},
            {FORWARDING6: "1", "net/ipv6/conf/eth0/accept_ra": "2", "net/ipv6/conf/eth1/accept_ra": "0"},
            id="a router that still listens to router advertisements",
        ),
        pytest.param(
            V6,
            {FORWARDING6: "1", "net/ipv6/conf/eth0/accept_ra": "1"},
            {FORWARDING6: "1", "net/ipv6/conf/eth0/accept_ra": "1"},
            id="was a router before: left alone",
        ),
    ],
)
def test_settings(family: IPFamily, before: dict[str, str], after: dict[str, str]) -> None:
    sysctls = FakeSysctls(before)
    assert prepare(sysctls, family) == []
    assert sysctls.values == after


def test_a_setting_that_cannot_be_made() -> None:
    sysctls = FakeSysctls({"net/ipv4/ip_forward": "0"}, frozenset({"net/ipv4/ip_forward"}))
    (complaint,) = prepare(sysctls, V4)
    assert complaint == (
        "net.ipv4.ip_forward is 0 and cannot be set (Read-only file system), so packets for Pods are not "
        "forwarded: run `sysctl -w net.ipv4.ip_forward=1` on the node"
    )


NFT, LEGACY = Backend.NFT, Backend.LEGACY
NOTHING = Held(False, False, 0)


@pytest.mark.parametrize(
    ("nft", "legacy", "default", "chosen"),
    [
        pytest.param(NOTHING, NOTHING, LEGACY, LEGACY, id="what iptables is"),
        pytest.param(Held(False, True, 1), Held(True, False, 99), LEGACY, NFT, id="kubelet's hint"),
        pytest.param(Held(False, True, 1), Held(True, True, 9), NFT, LEGACY, id="two hints: ours"),
        pytest.param(NOTHING, Held(True, False, 9), NFT, LEGACY, id="ours"),
        pytest.param(Held(False, False, 3), Held(False, False, 7), NFT, LEGACY, id="most rules"),
        pytest.param(
            Held(False, False, 3), Held(False, False, 3), LEGACY, LEGACY, id="as many: what iptables is"
        ),
    ],
)
def test_the_choice_of_a_backend(nft: Held, legacy: Held, default: Backend, chosen: Backend) -> None:
    assert choose({NFT, LEGACY}, {NFT: nft, LEGACY: legacy}, default) is chosen


def test_what_a_backend_holds() -> None:
    text = "*mangle\n:KUBE-IPTABLES-HINT - [0:0]\nCOMMIT\n*nat\n:LBP-X - [0:0]\n-A LBP-X -j ACCEPT\nCOMMIT\n"
    assert Held.of(text) == Held(True, True, 1)


@pytest.mark.parametrize(
    ("said", "refused"),
    [
        pytest.param("iptables-restore v1.4.21", True, id="of long ago"),
        pytest.param("iptables-restore v1.6.1", True, id="just before"),
        pytest.param("iptables-restore v1.6.2", False, id="the first"),
        pytest.param("iptables-restore v1.8.10 (nf_tables)", False, id="of today"),
        pytest.param("something else", False, id="unknown"),
    ],
)
def test_versions_of_iptables(
    said: str, refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("iptables", "iptables-nft", "iptables-legacy"):
        for what in ("save", "restore"):
            program = tmp_path / f"{name}-{what}"
            program.write_text(f"#!/bin/sh\n[ x$1 != x-V ] || echo '{said}'\n")
            program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    if refused:
        with pytest.raises(UserError, match=r"is version 1\.\d\.\d+, and cannot wait .* 1\.6\.2 or newer"):
            open_iptables("nft")
    else:
        assert open_iptables("nft")[V4]


# ── flags ──


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        pytest.param(
            {"cluster_cidrs": ("10.0.0.0/8", "10.1.0.0/16")}, "at most one CIDR per family", id="two of one"
        ),
        pytest.param({"cluster_cidrs": ("0.0.0.0/0",)}, "every address", id="everything"),
        pytest.param({"masquerade_bit": 32}, "--masquerade-bit: 32 is not a bit", id="no such bit"),
        pytest.param({"refusal_bit": 14}, "must differ", id="one bit for both"),
        pytest.param(
            {"detect_local": Detect.BRIDGE_INTERFACE},
            "--pod-bridge-interface: .* takes a name",
            id="no bridge",
        ),
        pytest.param(
            {"detect_local": Detect.INTERFACE_NAME_PREFIX, "pod_interface": "veth+"},
            "not the name of an interface",
            id="a pattern for a prefix",
        ),
    ],
)
def test_bad_settings(facts: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        NodeConfig(**facts)  # type: ignore[arg-type]


def test_cidrs_of_a_flag() -> None:
    assert canonical_cidrs(" 10.244.0.0/16, FD00::/8 ,", "--x") == ("10.244.0.0/16", "fd00::/8")
    for bad in ("10.244.0.1/16", "web"):
        with pytest.raises(UserError, match="--x: "):
            canonical_cidrs(bad, "--x")
