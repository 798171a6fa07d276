"""What the controller does while the API server is in trouble, and how soon it is back.

Each outage once for seconds, with every `make test`, and once for a minute, with `make soak`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from lbprov.lab.controlplane import Api, ControlPlane, Fault, Relay, eventually
from lbprov.lab.controlplane.objects import add_node, service
from lbprov.testing.memory_world import MemoryWorld

ACCOUNT = ("lbprov-system", "lbprov-controller")
SETTLING_S = 2.0
"""The first retries come sooner than those of an outage that lasts."""

DROP, HANG = Fault("drop"), Fault("hang")
REFUSE, THROTTLE = Fault("refuse", 500), Fault("refuse", 429, "TooManyRequests", retry_after_s=1)
ELECTED, ALONE = "--leader-elect", "--no-leader-elect"
LONG = [
    pytest.param(fault, election, 60.0, id=f"{name}-{election.strip('-')}-a-minute", marks=pytest.mark.soak)
    for name, fault in (("dropped", DROP), ("500", REFUSE), ("429", THROTTLE), ("never-answers", HANG))
    for election in (ELECTED, ALONE)
]
SHORT = [
    pytest.param(DROP, ELECTED, 5.0, id="dropped"),
    pytest.param(REFUSE, ALONE, 5.0, id="500"),
    pytest.param(HANG, ALONE, 5.0, id="never-answers"),
]


def ours(name: str, **spec: Any) -> dict[str, Any]:
    return service(name, loadBalancerClass="lbprov.io/memory", **spec)


def is_ready(api: Api, name: str) -> bool:
    status = api.get("Service", name)["status"]
    conditions = {c["type"]: c["status"] for c in status.get("conditions", [])}
    return bool(status["loadBalancer"].get("ingress")) and conditions.get("lbprov.io/Ready") == "True"


@pytest.fixture
def controller(
    api: Api, world: MemoryWorld, control_plane: ControlPlane, installed: str, relay: Relay, run: Any
) -> Callable[..., Any]:
    """One behind the relay that leads and serves `before` already."""

    def start(*flags: str) -> Any:
        add_node(api, "node-1")
        api.delete("Lease.coordination.k8s.io", "lbprov-controller", "lbprov-system")
        started = run(*flags, kubeconfig=control_plane.kubeconfig(*ACCOUNT, relay.server)).wait_ready()
        api.create(ours("before"))
        eventually(lambda: is_ready(api, "before"))
        started.settle()
        return started

    return start


@pytest.mark.parametrize(("fault", "election", "duration_s"), [*SHORT, *LONG])
def test_little_is_asked_nothing_is_lost_and_it_is_soon_back(
    api: Api,
    world: MemoryWorld,
    relay: Relay,
    controller: Any,
    figures: Any,
    fault: Fault,
    election: str,
    duration_s: float,
) -> None:
    running = controller(election)
    held = set(world.resources)
    relay.break_down(fault)
    api.create(ours("during"))
    api.patch("Service", "before", {"spec": {"ports": [{"name": "http", "port": 81, "protocol": "TCP"}]}})
    time.sleep(SETTLING_S)
    settled_s = time.monotonic()
    time.sleep(max(0.0, duration_s - SETTLING_S))
    lasted_s = time.monotonic() - settled_s
    asked = len(relay.asked(since_s=settled_s))
    assert asked <= lasted_s * 1.0 + 3, f"{asked} requests in {lasted_s:.0f} s"
    assert set(world.resources) == held, "nothing is made or taken away by what is not known"
    assert running.get("/healthz")[0] == 200
    assert running.get("/readyz")[0] == 200
    relay.recover()
    back_s = time.monotonic()
    eventually(lambda: is_ready(api, "during"), timeout_s=60)
    what = f"{fault.kind} {fault.status if fault.kind == 'refuse' else ''} for {duration_s:.0f} s, {election}"
    figures(f"{what}: {asked / lasted_s:.2f} requests/s, back after {time.monotonic() - back_s:.1f} s")
    eventually(lambda: {r.port for r in world.list_all() if r.name.kind == "listener"} == {80, 81})
    running.settle()
    assert running.process.poll() is None, "it went on, with what it knew"


@pytest.mark.parametrize(
    ("election", "duration_s"),
    [
        pytest.param(ELECTED, 5.0, id="seconds"),
        pytest.param(ELECTED, 60.0, id="elected-a-minute", marks=pytest.mark.soak),
        pytest.param(ALONE, 60.0, id="alone-a-minute", marks=pytest.mark.soak),
    ],
)
def test_the_api_server_is_killed_and_comes_back(
    api: Api,
    world: MemoryWorld,
    control_plane: ControlPlane,
    controller: Any,
    figures: Any,
    duration_s: float,
    election: str,
) -> None:
    running = controller(election)
    held = set(world.resources)
    control_plane.apiserver.kill()
    time.sleep(duration_s)
    assert set(world.resources) == held
    control_plane.apiserver.start()
    control_plane.wait_ready()
    control_plane.controller_manager.kill()  # it would take its time to come back by itself
    control_plane.controller_manager.start()
    back_s = time.monotonic()
    api.create(ours("after"))
    eventually(lambda: is_ready(api, "after"), timeout_s=60)
    figures(
        f"API server killed for {duration_s:.0f} s, {election}: back after {time.monotonic() - back_s:.1f} s"
    )
    running.settle()
    assert running.process.poll() is None
    assert set(world.resources) > held


def test_a_watch_whose_history_is_gone(api: Api, world: MemoryWorld, relay: Relay, controller: Any) -> None:
    """410 on every watch: it lists, but not in a loop."""
    controller("--no-leader-elect")
    relay.break_down(Fault("gone"))
    began_s = time.monotonic()
    time.sleep(SETTLING_S)
    api.create(ours("during"))
    eventually(lambda: is_ready(api, "during"), timeout_s=60)
    lasted_s = time.monotonic() - began_s
    lists = [asked for asked in relay.asked(since_s=began_s) if asked.method == "GET" and not asked.watch]
    assert len(lists) <= 2 * (3 + lasted_s), "two kinds, each about once a second at most"


def test_a_slow_api_server_is_waited_for(api: Api, world: MemoryWorld, relay: Relay, controller: Any) -> None:
    controller("--no-leader-elect")
    relay.break_down(Fault("delay", delay_s=1.0))
    api.create(ours("during"))
    eventually(lambda: is_ready(api, "during"), timeout_s=60)
