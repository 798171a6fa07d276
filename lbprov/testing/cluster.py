"""A cluster in memory: what `lbprov.cluster.Cluster` asks for, with Services put into it by a test."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace

from lbprov.cluster.seam import Problem, Snapshot
from lbprov.model import Condition, Event, Ingress, Node, ObjectKey, Service
from lbprov.testing.clock import FakeClock

OUR_CONDITIONS = "lbprov.io/"


class MemoryCluster:
    """Behaves as an API server does: uids, finalizers that hold a deletion up, conditions of others kept.

    `writes` tells what was written in order ("add_finalizer default/web"), `events` what was emitted."""

    def __init__(
        self, name: str = "test", nodes: Sequence[Node] = (), clock: FakeClock | None = None
    ) -> None:
        self.name = name
        self.nodes = tuple(nodes)
        self.problems: tuple[Problem, ...] = ()
        self.clock = clock or FakeClock()
        self.writes: list[str] = []
        self.events: list[tuple[ObjectKey, Event]] = []
        self._services: dict[ObjectKey, Service] = {}
        self._version = 0
        self._made = 0
        self._lock = threading.RLock()

    # -- what a user does

    def put(self, service: Service) -> Service:
        """Create or update: what the user does not own (uid, finalizers, status) is kept, or made."""
        with self._lock:
            old = self._services.get(service.key)
            self._made += old is None
            kept = old or replace(service, uid=service.uid or f"uid-{self._made}", finalizers=(), ingress=())
            stored = replace(
                service,
                uid=kept.uid,
                finalizers=kept.finalizers,
                ingress=kept.ingress,
                conditions=kept.conditions,
                created_at=kept.created_at or f"2026-01-01T00:00:{self._made % 60:02}Z",
            )
            self._store(stored)
            return stored

    def delete(self, key: ObjectKey) -> None:
        with self._lock:
            service = self._services[key]
            if service.finalizers:
                self._store(replace(service, deleted_at="2026-01-02T00:00:00Z"))
            else:
                self._remove(key)

    def get(self, key: ObjectKey) -> Service:
        return self._services[key]

    def __contains__(self, key: ObjectKey) -> bool:
        return key in self._services

    # -- the seam

    def snapshot(self) -> Snapshot:
        with self._lock:
            services = tuple(self._services[key] for key in sorted(self._services))
            return Snapshot(services, self.nodes, problems=self.problems, version=str(self._version))

    def add_finalizer(self, key: ObjectKey, finalizer: str) -> None:
        with self._lock:
            service = self._services[key]
            if finalizer not in service.finalizers:
                self._store(replace(service, finalizers=(*service.finalizers, finalizer)))
                self.writes.append(f"add_finalizer {key}")

    def remove_finalizer(self, key: ObjectKey, finalizer: str) -> None:
        with self._lock:
            service = self._services.get(key)
            if service is None or finalizer not in service.finalizers:
                return
            self.writes.append(f"remove_finalizer {key}")
            left = tuple(f for f in service.finalizers if f != finalizer)
            if service.deleted_at and not left:
                self._remove(key)
            else:
                self._store(replace(service, finalizers=left))

    def record_status(
        self, key: ObjectKey, ingress: Sequence[Ingress], conditions: Sequence[Condition]
    ) -> None:
        with self._lock:
            service = self._services.get(key)
            if service is None:
                return
            self.writes.append(f"record_status {key}")
            theirs = tuple(c for c in service.conditions if not c.type.startswith(OUR_CONDITIONS))
            self._store(replace(service, ingress=tuple(ingress), conditions=(*theirs, *conditions)))

    def emit(self, key: ObjectKey, events: Sequence[Event]) -> None:
        with self._lock:
            self.events += [(key, event) for event in events]

    # -- what `watch` needs beside

    def fingerprint(self) -> str:
        with self._lock:
            return str(self._version)

    def wait_for_change(self, fingerprint: str, timeout_s: float, stop: threading.Event) -> bool:
        """Returns at once; the clock has moved on by the whole time-out unless there was a change."""
        if self.fingerprint() != fingerprint:
            return True
        self.clock.wait(stop, timeout_s)
        return self.fingerprint() != fingerprint

    def _store(self, service: Service) -> None:
        self._services[service.key] = service
        self._version += 1

    def _remove(self, key: ObjectKey) -> None:
        del self._services[key]
        self._version += 1
