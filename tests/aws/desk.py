"""One Service in a cluster in memory, and the engine that carries it through, over the lab's AWS."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import lbprov_aws
from lbprov.controller.reconcile import Reconciler
from lbprov.logic.nodes import targets_of
from lbprov.model import Node, ObjectKey, Outcome, Result, Service, ServicePort, ServiceType
from lbprov.testing.cluster import MemoryCluster
from tests.aws.conftest import CLUSTER, Lab

KEY = ObjectKey("default", "web")
SERVICE = Service(
    KEY,
    "uid-web",
    type=ServiceType.LOAD_BALANCER,
    ports=(ServicePort(80, node_port=30080, name="http"), ServicePort(443, node_port=30443, name="tls")),
)


class Desk:
    """A process that goes on, until `restart`."""

    def __init__(self, lab: Lab, **fields: Any) -> None:
        self.lab = lab
        nodes = [Node(name, provider_id=id_) for name, id_ in lab.world.provider_ids.items()]
        self.cluster = MemoryCluster(CLUSTER, nodes)
        self.restart()
        self.cluster.put(dataclasses.replace(SERVICE, **fields))

    def restart(self, *, adopt: bool = False, more_classes: tuple[str, ...] = ()) -> None:
        self.lab.restart()
        self.engine = Reconciler(
            self.cluster,
            self.lab.provider,
            lbprov_aws.SPEC,
            own_classless=True,
            more_classes=more_classes,
            adopt=adopt,
        )

    @property
    def service(self) -> Service:
        return self.cluster.get(KEY)

    def change(self, **fields: Any) -> None:
        """`annotations` are added to those that are there."""
        if "annotations" in fields:
            fields["annotations"] = {**self.service.annotations, **fields["annotations"]}
        self.cluster.put(dataclasses.replace(self.service, **fields))

    def reconcile(self) -> Outcome:
        outcome = self.engine.reconcile(self.service, targets_of(self.cluster.nodes))
        assert outcome is not None
        return outcome

    def settle(
        self, until: Callable[[Outcome], bool] = lambda o: o.result is not Result.PENDING, rounds: int = 40
    ) -> list[Outcome]:
        """As the queue would have it: again when it asked to be, by the lab's clock."""
        outcomes = [self.reconcile()]
        while not until(outcomes[-1]):
            assert len(outcomes) < rounds, outcomes[-1]
            self.lab.clock.now += max(outcomes[-1].retry_after_s or 0.0, 2.0)
            outcomes.append(self.reconcile())
        return outcomes

    def hostname(self) -> str:
        (ingress,) = self.service.ingress
        return ingress.hostname

    def condition(self, topic: str) -> tuple[str, str]:
        """Its reason and message."""
        found = self.service.condition(f"lbprov.io/{topic}")
        return (found.reason, found.message) if found else ("", "")

    def reasons(self) -> list[str]:
        return [event.reason for _, event in self.cluster.events]
