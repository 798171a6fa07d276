"""One AWS for all tests of this folder; each finds it empty. `lab` is a provider with its world."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import botocore.session
import pytest
from botocore.client import ClientCreator

import lbprov_aws
from lbprov.api import (
    L4Protocol,
    Listener,
    LoadBalancer,
    ObjectKey,
    Owner,
    Plan,
    Provider,
    ProviderContext,
    ProviderStatus,
    Target,
)
from lbprov.lab.aws.server import MotoServer
from lbprov.lab.aws.world import AwsWorld
from lbprov.testing.memo import MemoryMemo
from lbprov_aws.resources import Observed

CLUSTER = "lab"


@pytest.fixture(scope="session", autouse=True)
def sdk_loads_its_models_once() -> Iterator[None]:
    """Every new provider has new clients. Their models are megabytes of JSON, and hundreds of methods."""
    loader = botocore.session.create_loader()
    make_class = ClientCreator._create_client_class  # type: ignore[attr-defined]
    classes: dict[str, Any] = {}

    def client_class(creator: Any, service_name: str, service_model: Any) -> Any:
        if service_name not in classes:
            classes[service_name] = make_class(creator, service_name, service_model)
        return classes[service_name]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore.session, "create_loader", lambda *_: loader)
        patch.setattr(ClientCreator, "_create_client_class", client_class)
        yield


@pytest.fixture(scope="session")
def moto_server() -> Iterator[MotoServer]:
    with MotoServer() as server:
        yield server


@pytest.fixture
def aws_server(moto_server: MotoServer, monkeypatch: pytest.MonkeyPatch) -> MotoServer:
    moto_server.reset()
    for name, value in moto_server.environment.items():
        monkeypatch.setenv(name, value)
    return moto_server


@pytest.fixture
def world(aws_server: MotoServer) -> AwsWorld:
    """A network of three zones with a node in each; faults and counts start behind its making."""
    world = AwsWorld.create(aws_server)
    aws_server.control(reset=True)
    return world


@pytest.fixture
def impatient_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK repeats at once."""
    monkeypatch.setattr("botocore.endpoint.time.sleep", lambda _: None)


@pytest.fixture
def lab(world: AwsWorld) -> Lab:
    return Lab(world)


@pytest.fixture
def make_lab() -> type[Lab]:
    """For a world of another kind."""
    return Lab


@dataclasses.dataclass
class Clock:
    """Stands still unless told to go on."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclasses.dataclass(frozen=True)
class Pass:
    """One reconcile: the plan before it and the status behind it, with the calls that it cost."""

    plan: Plan
    status: ProviderStatus | None
    calls: Mapping[str, int]

    @property
    def writes(self) -> dict[str, int]:
        return {op: n for op, n in self.calls.items() if not op.startswith(("Describe", "Get"))}

    @property
    def notices(self) -> dict[str, str]:
        return {notice.reason: notice.message for notice in self.plan.notices}


class Lab:
    """A provider and the world that it acts in."""

    def __init__(self, world: AwsWorld, **options: str) -> None:
        self.world = world
        self.server = world.server
        self.clock = Clock()
        self.options = options
        self.recheck_s = 0.0
        """Of the processes that start from now on: how often they look at everything again."""
        self.asked: tuple[LoadBalancer, ...] = ()
        """What Services are known to ask for, whether they have had a turn or not."""
        self.memo: MemoryMemo | None = None
        """What they leave to each other: a controller's lease; None: nothing."""
        self.provider = self.start()

    def start(self, *, read_only: bool = False, cluster: str = CLUSTER) -> Provider[Observed]:
        """A provider as a process that starts has it: remembers nothing."""
        values = {o.name: o.parse(self.options.get(o.name, o.default)) for o in lbprov_aws.SPEC.options}
        context = ProviderContext(
            cluster,
            values,
            self.clock,
            read_only,
            asked=lambda: self.asked,
            wall_s=self.wall_s,
            recheck_s=self.recheck_s,
            memo=self.memo,
        )
        return lbprov_aws.SPEC.build(context)

    def wall_s(self) -> float:
        """The real time, as AWS's is, and what the clock was set forward by."""
        return time.time() + self.clock.now - Clock.now

    def restart(self) -> None:
        """Killed, and begun again."""
        if self.memo is not None:
            self.memo.end()
        self.provider = self.start()

    def desired(self, name: str = "web", *ports: Listener, nodes: Any = None, **changes: Any) -> LoadBalancer:
        """One TCP port 80 to nodePort 30080 on all nodes, unless told otherwise."""
        names = sorted(self.world.provider_ids) if nodes is None else nodes
        targets = tuple(Target(n, self.world.provider_ids[n], zone=self.world.node_zones[n]) for n in names)
        return LoadBalancer(
            owner=owner(name),
            listeners=ports or (port(80, 30080),),
            targets=targets,
            **{"created_at": "2026-01-01T00:00:00Z", **changes},
        )

    def reconcile(self, desired: LoadBalancer, **arguments: Any) -> Pass:
        return self.go(desired.owner, desired, **arguments)

    def delete(self, owner: Owner) -> Pass:
        """Towards nothing, until the world agrees that there is nothing."""
        gone = self.go(owner, None)
        assert self.provider.plan(None, self.provider.observe(owner, None)).is_empty
        return gone

    def go(
        self,
        owner: Owner,
        desired: LoadBalancer | None,
        *,
        before_apply: Callable[[], None] = lambda: None,
    ) -> Pass:
        """observe, plan, apply, observe; a deletion asks the world in the end, as the engine does."""
        before = dict(self.provider.calls().by_operation)
        plan = self.provider.plan(desired, self.provider.observe(owner, desired))
        before_apply()
        bindings = dict(plan.bindings)
        for step in plan.steps:
            self.provider.apply(step, bindings)
        observed = self.provider.observe(owner, desired, fresh=desired is None)
        status = self.provider.status(desired, observed) if desired is not None else None
        if desired is not None:
            again = self.provider.plan(desired, observed)
            assert again.is_empty, again.to_text()
        after = self.provider.calls().by_operation
        counts = {op: n - before.get(op, 0) for op, n in after.items() if n > before.get(op, 0)}
        return Pass(plan, status, counts)


def owner(name: str = "web", uid: str = "") -> Owner:
    return Owner(CLUSTER, ObjectKey("default", name), uid or f"uid-{name}")


def port(number: int, node_port: int, protocol: str = "TCP") -> Listener:
    return Listener(number, L4Protocol(protocol), node_port, name=f"p{number}-{protocol.lower()}")


@pytest.fixture
def make_port() -> Callable[..., Listener]:
    return port
