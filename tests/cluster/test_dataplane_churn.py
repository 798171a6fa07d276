"""Real packets while everything around them changes, on a real API server: a Service that nobody touches is
answered all the time, and a kill at any moment leaves each Service its old rules or its new ones.

The long versions (`make soak`) have 10,000 Services and a minute of changes.
"""

from __future__ import annotations

import itertools
import random
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lbprov.lab import Probe, Reply
from lbprov.lab.controlplane import Api, ControlPlane, Object, eventually
from lbprov.lab.controlplane.objects import add_node
from lbprov.lab.differential.case import NODES, Case, Ep, State
from lbprov.lab.differential.world import Site, World, start_proxy

STEADY = Case("steady", (State((Ep("web-1a"), Ep("web-2a")), protocols=("TCP",), families=(4,)),), 30000)
MODES = [
    "lbprov-iptables-nft",
    pytest.param("lbprov-iptables-legacy", marks=pytest.mark.soak),
    "lbprov-nftables",
]
BEFORE, AFTER = "web-1a", "web-1b"
FEW, MANY = 40, 10_000


@pytest.fixture(scope="module")
def _plane(untouched_plane: ControlPlane) -> ControlPlane:
    return untouched_plane


@pytest.fixture
def site(control_plane: ControlPlane, tmp_path: Path) -> Site:
    port = int(control_plane.server.rpartition(":")[2])
    return Site(control_plane.admin_kubeconfig, port, Path("/nonexistent"), tmp_path)


@pytest.fixture
def cluster(api: Api) -> Api:
    for number, name in enumerate(NODES):
        add_node(api, name, ips=(f"192.0.2.{11 + number}", f"2001:db8:1::{11 + number}"))
    return api


def _case(number: int) -> Case:
    return Case(f"other-{number}", (), number)


def _state(host: str) -> State:
    return State((Ep(host),), protocols=("TCP",), families=(4,))


def _slices(world: World, case: Case, host: str) -> list[Object]:
    return [s for s in case.slices(_state(host), world.addresses) if s["addressType"] == "IPv4"]


def _create(api: Api, world: World, case: Case, host: str) -> None:
    for obj in (case.service(_state(host)), *_slices(world, case, host)):
        api.create(obj)


@pytest.fixture
def world(request: pytest.FixtureRequest, cluster: Api, site: Site) -> Iterator[World]:
    """In the mode that the test names, with STEADY answered from both nodes."""
    with World.open(request.param, site) as world:
        state = STEADY.states[0]
        assert state
        cluster.create(STEADY.service(state))
        for obj in STEADY.slices(state, world.addresses):
            cluster.create(obj)
        world.await_answers([STEADY.cluster_ip(4)])
        yield world


def _answerers(world: World, cases: Sequence[Case]) -> list[str]:
    """Of each case, asked from a Pod."""
    given = world.lab.hosts["ask-1"].ask([Probe(c.cluster_ip(4), 80, timeout_s=5) for c in cases])
    return [a.hostname if isinstance(a, Reply) else str(a) for (a,) in given]


def _churn(api: Api, world: World, count: int, changes: int, pause_s: float, few: int) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: _create(api, world, _case(n), BEFORE), range(count)))
    last = [_case(n) for n in range(count - min(few, count), count)]
    eventually(lambda: set(_answerers(world, last)) == {BEFORE}, timeout_s=300)
    steady = [Probe(STEADY.cluster_ip(4), 80, timeout_s=10)]
    loops = [world.lab.hosts[host].keep_asking(steady) for host in ("ask-1", "node-1", "ask-2")]
    rng = random.Random(7)
    fresh = itertools.count(count)
    for number in range(changes):
        what = rng.choice(("move", "move", "empty", "new"))
        case = _case(rng.randrange(count))
        if what == "new":
            _create(api, world, _case(next(fresh)), AFTER)
        else:
            host = (BEFORE, AFTER)[number % 2]
            (obj,) = _slices(world, case, host)
            api.apply(obj | ({"endpoints": []} if what == "empty" else {}))
        time.sleep(pause_s)
    for case in last:
        (obj,) = _slices(world, case, AFTER)
        api.apply(obj)
    eventually(lambda: set(_answerers(world, last)) == {AFTER}, timeout_s=120)
    asked = [loop.stop() for loop in loops]
    assert [a.failures for a in asked] == [()] * len(asked)
    assert all(a.made > 0 for a in asked)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("world", MODES, indirect=True)
def test_an_untouched_service_is_answered_while_others_change(cluster: Api, world: World) -> None:
    _churn(cluster, world, FEW, changes=60, pause_s=0.0, few=FEW)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("world", MODES, indirect=True)
def test_an_untouched_service_of_10_000_is_answered_through_a_minute_of_changes(
    cluster: Api, world: World
) -> None:
    _churn(cluster, world, MANY, changes=1200, pause_s=0.04, few=20)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("world", MODES, indirect=True)
def test_a_kill_at_any_moment_leaves_old_rules_or_new(cluster: Api, world: World, site: Site) -> None:
    """Every endpoint moves at once, again and again, and each time the agent is killed in the middle."""
    node = world.lab.nodes[0]
    cases = [_case(number) for number in range(FEW)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda case: _create(cluster, world, case, BEFORE), cases))
        eventually(lambda: set(_answerers(world, cases)) == {BEFORE}, timeout_s=60)
        loop = world.lab.hosts["ask-1"].keep_asking([Probe(STEADY.cluster_ip(4), 80, timeout_s=10)])
        rng = random.Random(8)
        for host in (AFTER, BEFORE, AFTER):
            moving = pool.map(lambda c, h=host: [cluster.apply(s) for s in _slices(world, c, h)], cases)
            threading.Event().wait(rng.uniform(0, 0.4))  # any moment will do
            world.proxies[node.name].process.send_signal(signal.SIGKILL)
            world.proxies[node.name].process.wait()
            list(moving)
            assert set(_answerers(world, cases)) <= {BEFORE, AFTER}
            world.proxies[node.name] = start_proxy(world.name, node, site)
            eventually(lambda h=host: set(_answerers(world, cases)) == {h}, timeout_s=60)  # type: ignore[misc]
        assert loop.stop().failures == ()
