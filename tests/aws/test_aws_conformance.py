"""The conformance suite for providers, run over moto."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Iterator
from typing import Any, Literal

import pytest

import lbprov_aws
from lbprov.api import Provider, ProviderContext, Target
from lbprov.lab.aws.world import AwsWorld
from lbprov.testing.clock import FakeClock
from lbprov.testing.conformance import Harness, ProviderConformance, SimulatedCrash
from lbprov_aws.cloud import Cloud

pytestmark = pytest.mark.timeout(600)  # a crash at every write is some hundred passes

FREE_IP = "203.0.113.10"


class AwsHarness:
    def __init__(self, world: AwsWorld, monkeypatch: pytest.MonkeyPatch) -> None:
        self.world = world
        self.clock = FakeClock()
        self._began_s = self.clock.now_s()
        self._monkeypatch = monkeypatch
        world.allocate_address(FREE_IP)

    def provider(self, *, cluster: str = "conformance", read_only: bool = False) -> Provider[Any]:
        # A Service without nodes is among those tried: no instance tells the VPC then.
        given = {"vpc-id": self.world.vpc_id}
        options = {o.name: o.parse(given.get(o.name, o.default)) for o in lbprov_aws.SPEC.options}
        context = ProviderContext(cluster, options, self.clock.now_s, read_only, wall_s=self._wall_s)
        return lbprov_aws.SPEC.build(context)

    def _wall_s(self) -> float:
        """The real time, as AWS's is, and what the clock was set forward by."""
        return time.time() + self.clock.now_s() - self._began_s

    def targets(self) -> tuple[Target, ...]:
        ids = sorted(self.world.provider_ids.items())
        return tuple(Target(name, id_, zone=self.world.node_zones[name]) for name, id_ in ids)

    def inventory(self) -> Collection[str]:
        return self.world.inventory()

    def free_ip(self) -> str:
        return FREE_IP

    def unusable_ip(self) -> str:
        return "203.0.113.99"

    def settle(self, seconds: float) -> None:
        self.clock.advance(seconds)

    def damage(self) -> None:
        """A listener goes."""
        for balancer in self.world.load_balancers():
            if balancer.tags.get("lbprov/cluster") == "conformance":
                listeners = self.world.elbv2.describe_listeners(LoadBalancerArn=balancer.arn)["Listeners"]
                self.world.elbv2.delete_listener(ListenerArn=listeners[0]["ListenerArn"])
                return
        raise AssertionError("nothing to damage")

    @contextlib.contextmanager
    def crash_at_write(self, number: int, when: Literal["before", "after"]) -> Iterator[None]:
        left = number
        call = Cloud.call

        def crashing(cloud: Cloud, service: str, operation: str, **parameters: Any) -> dict[str, Any]:
            nonlocal left
            if operation.startswith(("Describe", "Get")):
                return call(cloud, service, operation, **parameters)
            left -= 1
            if left == 0 and when == "before":
                raise SimulatedCrash
            answer = call(cloud, service, operation, **parameters)
            if left == 0:
                raise SimulatedCrash
            return answer

        with self._monkeypatch.context() as patch:
            patch.setattr(Cloud, "call", crashing)
            yield


class TestAwsConformance(ProviderConformance):
    keeps_unread = lbprov_aws.SPEC.keeps_unread

    @pytest.fixture
    def harness(self, world: AwsWorld, monkeypatch: pytest.MonkeyPatch) -> Harness:
        return AwsHarness(world, monkeypatch)
