"""An API server as a `Source`: followed by three reflectors, handed out change by change.

Only what forwarding needs is watched and kept: no Services of other proxies, no slices of headless Services,
no Node but our own; of Services no annotations and no conditions, which change often and are large. The work
of one change does not depend on how many Services there are.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import logging
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lbprov.cluster import Problem
from lbprov.cluster.apiserver import Store, kinds
from lbprov.cluster.apiserver.credentials import Place
from lbprov.cluster.apiserver.reflector import Reflector
from lbprov.cluster.apiserver.transport import Transport
from lbprov.cluster.wire import is_dotted_quad
from lbprov.model import Endpoint, EndpointSlice, IPFamily, Node, ObjectKey, Service
from local_dataplane.endpoints import HEADLESS_LABEL
from local_dataplane.source import Backing, Changes
from local_dataplane.table import PROXY_NAME_LABEL

log = logging.getLogger("local_dataplane")

KINDS = ("Service", "EndpointSlice", "Node")  # as `ApiSource.reflectors`
SERVICES = dataclasses.replace(
    kinds.SERVICES,
    decode=lambda raw: lean_service(kinds.SERVICES.decode(raw)),
    selection={"labelSelector": f"!{PROXY_NAME_LABEL}"},
)
ENDPOINT_SLICES = dataclasses.replace(
    kinds.ENDPOINT_SLICES,
    decode=lambda raw: lean_slice(kinds.ENDPOINT_SLICES.decode(raw)),
    selection={"labelSelector": f"!{HEADLESS_LABEL}"},
)


def lean_service(service: Service | None) -> Service | None:
    if service is None:
        return None
    return dataclasses.replace(
        service, annotations={}, labels={}, selector=None, finalizers=(), conditions=(), generation=0
    )


def lean_slice(slice_: EndpointSlice | None) -> EndpointSlice | None:
    """What the API server does not let in today may have been stored by an older one: an endpoint whose
    address is none of its family is left out, the others stay."""
    if slice_ is None:
        return None
    endpoints = tuple(_lean_endpoint(e) for e in slice_.endpoints if _is_usable(e, slice_.family))
    if len(endpoints) < len(slice_.endpoints):
        unusable = len(slice_.endpoints) - len(endpoints)
        log.warning("endpoints without a usable address", extra={"slice": str(slice_.key), "count": unusable})
    return EndpointSlice(slice_.key, slice_.service, slice_.family, slice_.ports, endpoints)


def _lean_endpoint(endpoint: Endpoint) -> Endpoint:
    """A node's or a zone's name stands in thousands of endpoints: once in memory is enough."""
    return Endpoint(
        addresses=endpoint.addresses[:1],
        node_name=sys.intern(endpoint.node_name),
        ready=endpoint.ready,
        serving=endpoint.serving,
        terminating=endpoint.terminating,
        zone_hints=tuple(map(sys.intern, endpoint.zone_hints)),
        node_hints=tuple(map(sys.intern, endpoint.node_hints)),
    )


def _is_usable(endpoint: Endpoint, family: IPFamily) -> bool:
    """An address of the family that packets can be sent to: not loopback, unspecified, multicast or
    link-local."""
    text = endpoint.addresses[0] if endpoint.addresses else ""
    if family is IPFamily.IPV4:
        first, second, _ = f"{text}..".split(".", 2)
        nowhere = text == "0.0.0.0" or first == "127" or (first, second) == ("169", "254")  # noqa: S104 - compared
        return is_dotted_quad(text) and not nowhere and not 224 <= int(first) < 240
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return not (
        address.is_loopback or address.is_unspecified or address.is_multicast or address.is_link_local
    )


class ApiSource:
    """See `Source`. `start` before the first `take`, `stop` at the end."""

    waits_for_node = True

    def __init__(self, transport: Transport, node_name: str) -> None:
        own_node = dataclasses.replace(kinds.NODES, selection={"fieldSelector": f"metadata.name={node_name}"})
        self.transport = transport
        self.services: Store[ObjectKey, Service] = Store()
        self.slices: Store[ObjectKey, EndpointSlice] = Store()
        self.nodes: Store[str, Node] = Store()
        # Exact lists, though thousands of agents may start at once: a list from a cache that lags would take
        # rules away that a run before us had written (and since 1.31 a cache answers exact lists too).
        self._services = Reflector(transport, SERVICES, self.services)
        self._slices = Reflector(transport, ENDPOINT_SLICES, self.slices)
        self._nodes = Reflector(transport, own_node, self.nodes)
        self._news = threading.Condition()
        self._changed_services: set[ObjectKey] = set()
        self._changed_slices: set[ObjectKey] = set()
        self._node_changed = False
        self._learned_s: float | None = None
        self._by_service: dict[ObjectKey, dict[ObjectKey, EndpointSlice]] = {}
        self._service_of: dict[ObjectKey, ObjectKey] = {}  # slice -> the Service that it is kept under
        self._stopper: threading.Thread | None = None
        self._taken = False

    @classmethod
    def connect(cls, kubeconfig: Path | None, context: str | None, node_name: str) -> ApiSource:
        """In-cluster if no kubeconfig is named and the pod's files exist, else the usual KUBECONFIG rules.
        Asks the API server nothing yet. Raises `UserError`."""
        return cls(Transport(Place.find(kubeconfig, context)), node_name)

    @property
    def name(self) -> str:
        return self.transport.server

    @property
    def reflectors(self) -> tuple[Reflector[Any, Any], ...]:
        return self._services, self._slices, self._nodes

    @property
    def is_synced(self) -> bool:
        return all(r.synced.is_set() for r in self.reflectors)

    def missing(self) -> str:
        waited_for = [k for k, r in zip(KINDS, self.reflectors, strict=True) if not r.synced.is_set()]
        return f"{self.name} has not listed all {' and '.join(waited_for)} objects yet" if waited_for else ""

    @property
    def pending_since_s(self) -> float | None:
        """When the oldest change came in that nobody has taken yet, by the monotonic clock."""
        return self._learned_s

    def start(self) -> None:
        self._services.start(self._on_service)
        self._slices.start(self._on_slice)
        self._nodes.start(self._on_node)
        threading.Thread(target=self._wake_when_synced, name="synced", daemon=True).start()

    def stop(self) -> None:
        for wait_s in (0.0, 0.5):
            for reflector in self.reflectors:
                reflector.stop(wait_s)
        self._wake()

    def read_once(self) -> None:
        """Instead of `start`: one complete, exact list of everything. Raises what the API server says."""
        for reflector in self.reflectors:
            reflector.list_once()
            reflector.synced.set()
        self._changed_services |= set(self.services.keys())
        self._changed_slices |= set(self.slices.keys())

    def take(self) -> Changes | None:
        if not self.is_synced:
            return None
        with self._news:
            services, self._changed_services = self._changed_services, set()
            slices, self._changed_slices = self._changed_slices, set()
            learned_s, self._learned_s = self._learned_s, None
            self._node_changed = False
        for key in slices:
            services |= self._file(key)
        if not self._taken:
            learned_s = None
            self._taken = True
        return Changes(
            {key: self._backing(key) for key in services},
            self.nodes.values(),
            tuple(self._problems()),
            learned_s=learned_s,
            version=f"{self.services.version}.{self.slices.version}.{self.nodes.version}",
        )

    def wait(self, timeout_s: float, stop: threading.Event) -> bool:
        if self._stopper is None:
            self._stopper = threading.Thread(target=self._wake_at, args=(stop,), name="stopper", daemon=True)
            self._stopper.start()
        with self._news:
            self._news.wait_for(lambda: stop.is_set() or self._has_news, timeout_s)
            return self._has_news and not stop.is_set()

    @property
    def _has_news(self) -> bool:
        if not self.is_synced:
            return False
        return bool(self._changed_services or self._changed_slices or self._node_changed or not self._taken)

    def _on_service(self, key: ObjectKey) -> None:
        with self._news:
            self._changed_services.add(key)
            self._noted()

    def _on_slice(self, key: ObjectKey) -> None:
        with self._news:
            self._changed_slices.add(key)
            self._noted()

    def _on_node(self, _name: str) -> None:
        with self._news:
            self._node_changed = True
            self._noted()

    def _noted(self) -> None:
        if self._learned_s is None:
            self._learned_s = time.monotonic()
        self._news.notify_all()

    def _wake_when_synced(self) -> None:
        for reflector in self.reflectors:
            reflector.synced.wait()
        self._wake()

    def _wake_at(self, stop: threading.Event) -> None:
        stop.wait()
        self._wake()

    def _wake(self) -> None:
        with self._news:
            self._news.notify_all()

    def _file(self, key: ObjectKey) -> set[ObjectKey]:
        """Keep a slice under its Service; the Services that this touches. The label that names the Service
        may have been changed or taken away."""
        slice_ = self.slices.get(key)
        before = self._service_of.pop(key, None)
        touched = set()
        if before is not None:
            own = self._by_service[before]
            del own[key]
            if not own:
                del self._by_service[before]
            touched.add(before)
        if slice_ is not None and slice_.service:
            self._by_service.setdefault(slice_.service_key, {})[key] = slice_
            self._service_of[key] = slice_.service_key
            touched.add(slice_.service_key)
        return touched

    def _backing(self, key: ObjectKey) -> Backing | None:
        service = self.services.get(key)
        if service is None:
            return None
        return Backing(service, tuple(s for _, s in sorted(self._by_service.get(key, {}).items())))

    def _problems(self) -> Iterable[Problem]:
        for what, reflector in zip(KINDS, self.reflectors, strict=True):
            for key, why in reflector.problems().items():
                yield Problem("", f"{what} {key}", "", why)
