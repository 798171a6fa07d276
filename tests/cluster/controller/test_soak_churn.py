"""Services come, change and go while the controller is killed at random moments: in the end all is as asked.

A dozen Services and three kills with every `make test`; 200 and 20 with `make soak`.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from typing import Any

import pytest

from lbprov.lab.aws.world import AwsWorld
from lbprov.lab.controlplane import Api, ApiError, eventually
from lbprov.lab.controlplane.objects import add_node, service
from lbprov.testing.memory_world import MemoryWorld

Ports = dict[str, int]
UNHURRIED = ("--provider-option", "api-rates=off")
"""The lab's AWS has no limits here; with AWS's own the hours would be waited out."""


@dataclass
class Churn:
    """A user who never rests. `wanted`: name -> ports, of the Services that should have a load balancer."""

    api: Api
    class_: str
    rng: random.Random
    count: int
    wanted: dict[str, Ports] = field(default_factory=dict)
    plain: set[str] = field(default_factory=set)  # exist, and want none
    made: int = 0

    def act(self) -> None:
        """One change, as a user makes it: what the API server refuses (too late for it) is let be."""
        choices = [self.create] * 5 if len(self.wanted) < self.count else []
        if self.wanted:
            choices += [self.delete, self.change_ports, self.change_ports, self.retype, self.remake]
        if self.plain:
            choices.append(self.retype_back)
        self.rng.choice(choices)()

    def create(self) -> None:
        self.made += 1
        self._make(f"churn-{self.made}")

    def delete(self) -> None:
        name = self._any()
        self.api.delete("Service", name)
        del self.wanted[name]

    def remake(self) -> None:
        """Deleted, and made again as soon as the name is free."""
        name = self._any()
        self.api.delete("Service", name)
        del self.wanted[name]
        for _ in range(20):
            if self.api.find("Service", name) is None:
                self._make(name)
                return
            time.sleep(0.05)

    def change_ports(self) -> None:
        name, ports = self._any(), self._ports()
        listed = [{"name": n, "port": p, "protocol": "TCP"} for n, p in ports.items()]
        self.api.patch("Service", name, {"spec": {"ports": listed}})
        self.wanted[name] = ports

    def retype(self) -> None:
        name = self._any()
        self.api.patch("Service", name, {"spec": {"type": "NodePort", "loadBalancerClass": None}})
        del self.wanted[name]
        self.plain.add(name)

    def retype_back(self) -> None:
        name = self.rng.choice(sorted(self.plain))
        change = {"spec": {"type": "LoadBalancer", "loadBalancerClass": self.class_}}
        ports = {p["name"]: p["port"] for p in self.api.patch("Service", name, change)["spec"]["ports"]}
        self.plain.discard(name)
        self.wanted[name] = ports

    def _make(self, name: str) -> None:
        ports = self._ports()
        try:
            self.api.create(service(name, ports=ports, loadBalancerClass=self.class_))
        except ApiError as error:
            assert error.reason == "AlreadyExists", error  # noqa: PT017
            return
        self.wanted[name] = ports

    def _any(self) -> str:
        return self.rng.choice(sorted(self.wanted))

    def _ports(self) -> Ports:
        return {f"p{port}": port for port in self.rng.sample(range(80, 90), self.rng.randint(1, 2))}

    def settled(self) -> bool:
        """Every Service that wants a load balancer has one and says so; no other one is held up or says
        anything."""
        stored = {s["metadata"]["name"]: s for s in self.api.list("Service")}
        if stored.keys() != self.wanted.keys() | self.plain:
            return False
        for name, found in stored.items():
            told = {c["type"]: c["status"] for c in found["status"].get("conditions", [])}
            has = bool(found["status"]["loadBalancer"].get("ingress"))
            if (told.get("lbprov.io/Ready") == "True", has) != (
                (True, True) if name in self.wanted else (False, False)
            ):
                return False
            if ("finalizers" in found["metadata"]) != (name in self.wanted):
                return False
        return True


def churn_and_kill(churn: Churn, controller: Any, kills: int, actions: int) -> None:
    """So many actions between each two kills; the moment of each kill is random."""
    for _ in range(kills):
        for _ in range(actions):
            churn.act()
            time.sleep(churn.rng.uniform(0, 0.02))
        time.sleep(churn.rng.uniform(0, 0.5))
        controller.kill()
        for _ in range(actions // 4):
            churn.act()
        controller.start()
        eventually(controller.leads, 60)


SIZES = [
    pytest.param(12, 3, 25, id="a-dozen"),
    pytest.param(200, 20, 100, id="two-hundred", marks=pytest.mark.soak),
]


@pytest.mark.timeout(3000)
@pytest.mark.parametrize(("services", "kills", "actions"), SIZES)
def test_killed_amid_churn_in_memory(
    api: Api, world: MemoryWorld, run: Any, figures: Any, services: int, kills: int, actions: int
) -> None:
    add_node(api, "node-1")
    churn = Churn(api, "lbprov.io/memory", random.Random(services), services)
    controller = run().wait_ready()
    churn_and_kill(churn, controller, kills, actions)
    began_s = time.monotonic()
    eventually(churn.settled, 300)
    figures(
        f"memory: {kills} kills amid {churn.made} Services made, {len(churn.wanted)} at the end: settled "
        f"{time.monotonic() - began_s:.1f} s after the last start"
    )
    uids = {s["metadata"]["name"]: s["metadata"]["uid"] for s in api.list("Service")}
    held = world.list_all()
    assert {r.owner.uid for r in held} == {uids[name] for name in churn.wanted}
    frontends = [r.owner.service.name for r in held if r.name.kind == "frontend"]
    assert sorted(frontends) == sorted(churn.wanted), "one each"
    listeners = {(r.owner.service.name, r.port) for r in held if r.name.kind == "listener"}
    assert listeners == {(name, port) for name, ports in churn.wanted.items() for port in ports.values()}
    assert sum(r.name.kind == "target" for r in held) == len(churn.wanted)


@pytest.mark.timeout(3000)
@pytest.mark.parametrize(("services", "kills", "actions"), SIZES)
def test_killed_amid_churn_on_aws(
    api: Api, aws: AwsWorld, run: Any, figures: Any, services: int, kills: int, actions: int
) -> None:
    for name, provider_id in aws.provider_ids.items():
        add_node(api, name, provider_id=provider_id, zone=aws.node_zones[name])
    churn = Churn(api, "lbprov.io/aws", random.Random(services + 1), services)
    aws.server.quotas(load_balancers=10 * services)
    controller = run(*UNHURRIED, provider="aws").wait_ready()
    churn_and_kill(churn, controller, kills, actions)
    began_s = time.monotonic()
    eventually(churn.settled, 900, every_s=1.0)
    figures(
        f"aws: {kills} kills amid {churn.made} Services made, {len(churn.wanted)} at the end: settled "
        f"{time.monotonic() - began_s:.1f} s after the last start"
    )
    found: dict[str, set[int]] = {}
    for balancer in aws.load_balancers():
        (key,) = [value for value in balancer.tags.values() if value.startswith(f"{api.namespace}/")]
        name = key.partition("/")[2]
        assert name not in found, "one each"
        found[name] = {listener.port for listener in balancer.listeners}
    assert found == {name: set(ports.values()) for name, ports in churn.wanted.items()}
    left = [line.partition(" ")[0] + " " + line.split()[1] for line in aws.leftovers()]
    ports = sum(len(ports) for ports in churn.wanted.values())
    assert sum(line.startswith("load balancer") for line in left) == len(churn.wanted)
    assert sum(line.startswith("target group") for line in left) == ports
    assert sum(line.startswith("security group") for line in left) == len(churn.wanted)


@pytest.mark.timeout(3000)
@pytest.mark.soak
def test_leaders_frozen_amid_churn(api: Api, world: MemoryWorld, run: Any, figures: Any) -> None:
    """Two replicas; whoever leads is stopped in its tracks, past its lease, and let go on when the other
    leads. It must do no harm with what it was about to do."""
    add_node(api, "node-1")
    api.delete("Lease.coordination.k8s.io", "lbprov-controller", "lbprov-system")
    churn = Churn(api, "lbprov.io/memory", random.Random(5), 40)
    pair = [run("--leader-elect").wait_ready(), run("--leader-elect").wait_ready()]
    for _ in range(6):
        eventually(lambda: any(one.leads() for one in pair), 60)
        leader, other = pair if pair[0].leads() else reversed(pair)
        for number in range(60):
            churn.act()
            if number == 40:
                leader.pause()
        eventually(other.leads, 60)
        for _ in range(20):
            churn.act()
        leader.resume()
        assert leader.process.wait(60) == 1
        leader.start()
        leader.wait_ready()
    eventually(churn.settled, 300)
    held = world.list_all()
    frontends = [r.owner.service.name for r in held if r.name.kind == "frontend"]
    assert sorted(frontends) == sorted(churn.wanted)
    listeners = {(r.owner.service.name, r.port) for r in held if r.name.kind == "listener"}
    assert listeners == {(name, port) for name, ports in churn.wanted.items() for port in ports.values()}
    figures(f"6 leaders frozen past their lease amid churn: {len(churn.wanted)} Services as asked for")
