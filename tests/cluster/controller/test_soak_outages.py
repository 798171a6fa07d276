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

DROP, HANG, EXPIRE = Fault("drop"), Fault("hang"), Fault("refuse", 410, "Expired")
REFUSE, THROTTLE = Fault("refuse", 500), Fault("refuse", 429, "TooManyRequests", retry_after_s=1)
ELECTED, ALONE = "--leader-elect", "--no-leader-elect"
LONG = [
    pytest.param(fault, election, 60.0, id=f"{name}-{election.strip('-')}-a-minute", marks=pytest.mark.soak)
    for name, fault, election in (
        ("dropped", DROP, ELECTED),
        ("dropped", DROP, ALONE),
        ("500", REFUSE, ELECTED),
        ("429", THROTTLE, ELECTED),
        ("410", EXPIRE, ELECTED),
        ("never-answers", HANG, ELECTED),
        ("never-answers", HANG, ALONE),
    )
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
    began_s = time.monotonic()
    relay.break_down(fault)
    api.create(ours("during"))
    api.patch("Service", "before", {"spec": {"ports": [{"name": "http", "port": 81, "protocol": "TCP"}]}})
    time.sleep(duration_s)
    lasted_s = time.monotonic() - began_s
    asked = len(relay.asked(since_s=began_s))
    first = 6 if duration_s < 30 else 0  # what is under way when it begins, and one quick attempt of each
    assert asked <= lasted_s + first, f"{asked} requests in {lasted_s:.0f} s"
    assert set(world.resources) == held, "nothing is made or taken away by what is not known"
    assert running.get("/healthz")[0] == 200
    assert running.get("/readyz")[0] == 200
    relay.recover(cut=fault is not HANG)
    back_s = time.monotonic()
    eventually(lambda: is_ready(api, "during"))
    what = f"{fault.kind} {fault.status if fault.kind == 'refuse' else ''} for {duration_s:.0f} s, {election}"
    figures(
        f"{what}: {asked} requests, {asked / lasted_s:.2f}/s, back after {time.monotonic() - back_s:.1f} s"
    )
    eventually(lambda: {r.port for r in world.list_all() if r.name.kind == "listener"} == {80, 81})
    running.settle()
    assert running.process.poll() is None, "it went on, with what it knew"


@pytest.mark.parametrize(
    ("election", "duration_s"),
    [
        pytest.param(ELECTED, 5.0, id="seconds"),
        pytest.param(ELECTED, 60.0, id="a-minute", marks=pytest.mark.soak),
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
    eventually(lambda: is_ready(api, "after"))
    figures(
        f"API server killed for {duration_s:.0f} s, {election}: back after {time.monotonic() - back_s:.1f} s"
    )
    running.settle()
    assert running.process.poll() is None
    assert set(world.resources) > held


@pytest.mark.parametrize(
    "duration_s", [SETTLING_S, pytest.param(60.0, id="a-minute", marks=pytest.mark.soak)]
)
def test_a_watch_whose_history_is_gone(
    api: Api, world: MemoryWorld, relay: Relay, controller: Any, figures: Any, duration_s: float
) -> None:
    """410 on every watch: it lists, but not in a loop, and so hears of news all the same."""
    controller(ALONE)
    relay.break_down(Fault("gone"))
    began_s = time.monotonic()
    time.sleep(duration_s)
    lasted_s = time.monotonic() - began_s
    asked = [asked for asked in relay.asked(since_s=began_s) if asked.method == "GET"]
    assert len(asked) <= 10 + 0.8 * lasted_s
    api.create(ours("during"))
    made_s = time.monotonic()
    eventually(lambda: is_ready(api, "during"))
    news_s = time.monotonic() - made_s
    relay.recover()
    api.create(ours("after"))
    made_s = time.monotonic()
    eventually(lambda: is_ready(api, "after"))
    figures(
        f"410 on every watch for {duration_s:.0f} s: {len(asked)} requests, {len(asked) / lasted_s:.2f}/s, "
        f"news after {news_s:.1f} s, back after {time.monotonic() - made_s:.1f} s"
    )


def test_a_slow_api_server_is_waited_for(api: Api, world: MemoryWorld, relay: Relay, controller: Any) -> None:
    controller("--no-leader-elect")
    relay.break_down(Fault("delay", delay_s=1.0))
    api.create(ours("during"))
    eventually(lambda: is_ready(api, "during"))
