"""The seam between lbprov and a cluster: where Services come from and where results go.

Two clusters stand behind it: a folder of manifests (`lbprov.cluster.manifests`) and, in time, an API server.
"""

from __future__ import annotations

import typing
from collections.abc import Sequence
from dataclasses import dataclass

from lbprov.model import Condition, EndpointSlice, Event, Ingress, Node, ObjectKey, Pod, Service


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a document is not part of the cluster (or, with `fatal` False, what is odd about it).

    `where` is `file:line`, `object` e.g. `Service default/web` (empty if it could not be told), `field` a
    path such as `spec.ports[0].nodePort` (empty for the whole document)."""

    where: str
    object: str
    field: str
    message: str
    fatal: bool = True

    def __str__(self) -> str:
        return ": ".join(part for part in (self.where, self.object, self.field, self.message) if part)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything lbprov knows of a cluster at one moment. Tuples are sorted by key (nodes by name).

    `services` includes those whose deletion has begun (`deleted_at`). `version` changes when, and only
    when, anything else in the snapshot changes."""

    services: tuple[Service, ...]
    nodes: tuple[Node, ...]
    endpoint_slices: tuple[EndpointSlice, ...] = ()
    pods: tuple[Pod, ...] = ()
    problems: tuple[Problem, ...] = ()
    version: str = ""


class Cluster(typing.Protocol):
    """What the controller needs of a cluster. All writes are idempotent and touch only what is named."""

    @property
    def name(self) -> str:
        """The cluster's name: the first half of every ownership mark. Never changes."""

    def snapshot(self) -> Snapshot:
        """Read the cluster. Raises `UserError` when there is no cluster to read (no such folder)."""

    def add_finalizer(self, key: ObjectKey, finalizer: str) -> None:
        """Durable when it returns: the first cloud write comes after it."""

    def remove_finalizer(self, key: ObjectKey, finalizer: str) -> None:
        """The Service is gone for good if its deletion had begun and this was the last finalizer."""

    def record_status(
        self, key: ObjectKey, ingress: Sequence[Ingress], conditions: Sequence[Condition]
    ) -> None:
        """Replace the ingress and set our conditions; conditions of ours (`lbprov.io/…`) that are not
        given are removed, those of others stay."""

    def emit(self, key: ObjectKey, events: Sequence[Event]) -> None:
        """Record Events on the Service. Never fails the reconcile."""
