"""An API server as a `Cluster`: followed by two reflectors, or read once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from lbprov.cluster.apiserver import kinds
from lbprov.cluster.apiserver.credentials import Place
from lbprov.cluster.apiserver.errors import NotFound, Unavailable
from lbprov.cluster.apiserver.events import EventRecorder, Subject
from lbprov.cluster.apiserver.lease import ApiLease, LeaderElector
from lbprov.cluster.apiserver.reflector import Reflector
from lbprov.cluster.apiserver.store import Store
from lbprov.cluster.apiserver.transport import Transport
from lbprov.cluster.apiserver.writes import STATUS, ServiceWriter, finalizer_patch, path_of, status_patch
from lbprov.cluster.cluster_name import checked_name
from lbprov.cluster.seam import Problem, Snapshot
from lbprov.model import Condition, Event, Ingress, Node, ObjectKey, RetryLater, Service


class ApiCluster:
    """Implements `lbprov.cluster.Cluster`. Before `start`, `snapshot` lists anew each time; after it,
    everything is answered from `services` and `nodes`, which the reflectors keep true."""

    def __init__(self, transport: Transport, cluster_name: str, *, instance: str = "lbprov") -> None:
        self.transport = transport
        self._name = cluster_name
        self.services: Store[ObjectKey, Service] = Store()
        self.nodes: Store[str, Node] = Store()
        self._service_reflector = Reflector(transport, kinds.SERVICES, self.services)
        self._node_reflector = Reflector(transport, kinds.NODES, self.nodes)
        self._writer = ServiceWriter(transport)
        self._events = EventRecorder(transport, instance)
        self._started = False
        self._reading = threading.Lock()

    @classmethod
    def connect(cls, kubeconfig: Path | None, context: str | None, cluster_name: str) -> ApiCluster:
        """In-cluster if no kubeconfig is named and the pod's files exist, else the usual KUBECONFIG rules.
        Asks the API server nothing yet. Raises `UserError`."""
        checked_name(cluster_name)
        return cls(Transport(Place.find(kubeconfig, context)), cluster_name)

    @property
    def name(self) -> str:
        return self._name

    @property
    def reflectors(self) -> tuple[Reflector[Any, Any], ...]:
        """For metrics: `counts`, `last_heard_s`, `synced` of each."""
        return self._service_reflector, self._node_reflector

    @property
    def events_dropped(self) -> int:
        return self._events.dropped

    def start(self, on_service: Callable[[ObjectKey], None], on_nodes: Callable[[], None]) -> None:
        """Follow the cluster. The handlers run on reflector threads, once per real change, and must only
        enqueue; `on_service` is called for every Service of the first list too."""
        self._started = True
        self._service_reflector.start(on_service)
        self._node_reflector.start(lambda _name: on_nodes())

    def wait_synced(self, timeout_s: float) -> bool:
        """Whether everything has been listed once. Write nothing before."""
        deadline_s = time.monotonic() + timeout_s
        return all(r.synced.wait(max(0.0, deadline_s - time.monotonic())) for r in self.reflectors)

    @property
    def is_synced(self) -> bool:
        return all(r.synced.is_set() for r in self.reflectors)

    def stop(self) -> None:
        """Stop following, at once; tell the Events that are queued, for 2 s at most. For good."""
        if self._started:
            for wait_s in (0.0, 0.5):
                for reflector in self.reflectors:
                    reflector.stop(wait_s)
        self._events.stop()

    def elector(self, namespace: str, name: str, identity: str, **timing: float) -> LeaderElector:
        """`timing`: duration_s, renew_deadline_s, retry_period_s. `namespace` empty: the one we live in."""
        lease = ApiLease(self.transport, namespace or self.transport.namespace, name)
        elector = LeaderElector(lease, identity, **timing)  # type: ignore[arg-type]
        self.transport.outage.on_recovery(elector.wake)
        return elector

    def snapshot(self) -> Snapshot:
        """Raises `RetryLater` where the API server does not answer (before `start`) or the first list is
        not complete (after it)."""
        if not self._started:
            with self._reading:
                for reflector in self.reflectors:
                    reflector.list_once()
        elif not self.is_synced:
            raise Unavailable("the cluster has not been listed yet")
        return Snapshot(
            services=tuple(sorted(self.services.values(), key=lambda s: s.key)),
            nodes=tuple(sorted(self.nodes.values(), key=lambda n: n.name)),
            problems=tuple(self._problems()),
            version=f"{self.services.version}.{self.nodes.version}",
        )

    def _problems(self) -> list[Problem]:
        services = self._service_reflector.problems().items()
        nodes = self._node_reflector.problems().items()
        named = [(f"Service {key}", why) for key, why in services] + [(f"Node {k}", why) for k, why in nodes]
        return [Problem(self.transport.server, name, "", why) for name, why in sorted(named)]

    def add_finalizer(self, key: ObjectKey, finalizer: str) -> None:
        """`RetryLater` if the Service is gone: nothing holds back its deletion, so nothing may be made."""
        known = self.services.get(key)
        if known is not None and finalizer in known.finalizers:
            return
        if not self._writer.patch(key, finalizer_patch(finalizer, present=True)):
            raise RetryLater(f"Service {key} is gone", after_s=1.0)

    def remove_finalizer(self, key: ObjectKey, finalizer: str) -> None:
        self._writer.patch(key, finalizer_patch(finalizer, present=False))

    def record_status(
        self, key: ObjectKey, ingress: Sequence[Ingress], conditions: Sequence[Condition]
    ) -> None:
        current = self._current(key)
        if current is None:
            return
        patch = status_patch(current, ingress, conditions, datetime.now(UTC))
        if patch is not None:
            self._writer.patch(key, patch, subresource=STATUS)

    def _current(self, key: ObjectKey) -> Service | None:
        """As it was last seen. A change that is not seen yet will be, and is reconciled then."""
        if (known := self.services.get(key)) is not None or self._started:
            return known
        try:
            answer = self.transport.request("GET", path_of(key))
        except NotFound:
            return None
        return kinds.SERVICES.decode(msgspec.Raw(answer))

    def emit(self, key: ObjectKey, events: Sequence[Event]) -> None:
        known = self.services.get(key)
        self._events.emit(Subject(key, known.uid if known else ""), events)
