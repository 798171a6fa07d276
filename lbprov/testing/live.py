"""`MemoryCluster` as the controller follows it: with views, and with handlers that are told of changes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from lbprov.cluster.seam import Snapshot
from lbprov.model import Condition, Event, Ingress, Node, ObjectKey, RetryLater, Service
from lbprov.testing.cluster import MemoryCluster


class LiveMemoryCluster:
    """A `lbprov.controller.live.LiveCluster`. What a user does goes through `put`, `delete`, `vanish`,
    `overwrite` and `set_nodes`; `memory` shows the rest."""

    def __init__(self, name: str = "test", nodes: Sequence[Node] = ()) -> None:
        self.memory = MemoryCluster(name, nodes)
        self.services = _Services(self.memory)
        self.nodes = _Nodes(self.memory)
        self.synced = threading.Event()
        self.synced.set()
        self.unreachable = False
        """While true, every write raises `RetryLater`."""
        self.stopped = False
        self._on_service: Callable[[ObjectKey], None] = lambda _: None
        self._on_nodes: Callable[[], None] = lambda: None

    # -- what a user does

    def put(self, service: Service) -> Service:
        stored = self.memory.put(service)
        self._on_service(service.key)
        return stored

    def delete(self, key: ObjectKey) -> None:
        self.memory.delete(key)
        self._on_service(key)

    def vanish(self, *keys: ObjectKey) -> None:
        """As when somebody takes the finalizer off by force, or the API server forgets the Services."""
        for key in keys:
            self.memory._remove(key)
        for key in keys:
            self._on_service(key)

    def overwrite(self, service: Service) -> None:
        """Everything, also what no user should write."""
        self.memory._store(service)
        self._on_service(service.key)

    def set_nodes(self, nodes: Sequence[Node]) -> None:
        self.memory.nodes = tuple(nodes)
        self.nodes.version += 1
        self._on_nodes()

    # -- LiveCluster

    @property
    def name(self) -> str:
        return self.memory.name

    def start(self, on_service: Callable[[ObjectKey], None], on_nodes: Callable[[], None]) -> None:
        self._on_service, self._on_nodes = on_service, on_nodes
        for service in self.services.values():
            on_service(service.key)

    def wait_synced(self, timeout_s: float) -> bool:
        return self.synced.wait(timeout_s)

    def stop(self) -> None:
        self.stopped = True

    def snapshot(self) -> Snapshot:
        return self.memory.snapshot()

    def _check_reachable(self) -> None:
        if self.unreachable:
            raise RetryLater("the API server does not answer", 5.0)

    def add_finalizer(self, key: ObjectKey, finalizer: str) -> None:
        self._check_reachable()
        self.memory.add_finalizer(key, finalizer)
        self._on_service(key)

    def remove_finalizer(self, key: ObjectKey, finalizer: str) -> None:
        self._check_reachable()
        self.memory.remove_finalizer(key, finalizer)
        self._on_service(key)

    def record_status(
        self, key: ObjectKey, ingress: Sequence[Ingress], conditions: Sequence[Condition]
    ) -> None:
        self._check_reachable()
        self.memory.record_status(key, ingress, conditions)
        self._on_service(key)

    def emit(self, key: ObjectKey, events: Sequence[Event]) -> None:
        self.memory.emit(key, events)


class _Services:
    def __init__(self, memory: MemoryCluster) -> None:
        self._memory = memory

    @property
    def version(self) -> int:
        return int(self._memory.fingerprint())

    def get(self, key: ObjectKey) -> Service | None:
        return self._memory.get(key) if key in self._memory else None

    def values(self) -> tuple[Service, ...]:
        return self._memory.snapshot().services


class _Nodes:
    def __init__(self, memory: MemoryCluster) -> None:
        self._memory = memory
        self.version = 0

    def get(self, key: str) -> Node | None:
        return next((node for node in self._memory.nodes if node.name == key), None)

    def values(self) -> tuple[Node, ...]:
        return self._memory.nodes
