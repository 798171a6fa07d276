"""A cluster that is followed: the seam's `Cluster`, always up to date, that says when something changes."""

from __future__ import annotations

import typing
from collections.abc import Callable

from lbprov.cluster.seam import Cluster
from lbprov.model import Node, ObjectKey, Service

K_contra = typing.TypeVar("K_contra", contravariant=True)
V_co = typing.TypeVar("V_co", covariant=True)


class View(typing.Protocol[K_contra, V_co]):
    """Frozen values by key, readable from every thread. `version` changes with every change."""

    @property
    def version(self) -> int: ...

    def get(self, key: K_contra) -> V_co | None: ...

    def values(self) -> tuple[V_co, ...]: ...


class LiveCluster(Cluster, typing.Protocol):
    """What the controller needs of an API server. `lbprov.cluster.apiserver.ApiCluster` is one."""

    @property
    def services(self) -> View[ObjectKey, Service]: ...

    @property
    def nodes(self) -> View[str, Node]: ...

    def start(self, on_service: Callable[[ObjectKey], None], on_nodes: Callable[[], None]) -> None:
        """Follow the cluster. The handlers are called once per real change, from any thread, after the views
        have it, and must return at once."""

    def wait_synced(self, timeout_s: float) -> bool:
        """Whether everything has been seen once. Nothing must be written before."""

    def stop(self) -> None:
        """Stop following. For good."""
