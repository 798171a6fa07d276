"""Lists and watches as bytes, and the kinds that are followed.

An object is taken apart only when its resourceVersion is news: `meta` first, the rest later.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import msgspec
from msgspec import Raw, Struct

from lbprov.cluster import wire
from lbprov.cluster.wire import Meta
from lbprov.model import EndpointSlice, Node, ObjectKey, Service

K = TypeVar("K")
V = TypeVar("V")


class ListMeta(Struct, gc=False):
    resource_version: str = msgspec.field(name="resourceVersion", default="")
    continue_: str = msgspec.field(name="continue", default="")


class Page(Struct, gc=False):
    """One answer to a list; `items` still as bytes."""

    metadata: ListMeta
    items: list[Raw] | None = None


class WatchEvent(Struct, gc=False):
    """One line of a watch: ADDED, MODIFIED, DELETED, BOOKMARK or ERROR."""

    type: str
    object: Raw


class Identity(Struct, gc=False):
    metadata: Meta


@dataclass(frozen=True, slots=True)
class Kind(Generic[K, V]):
    """How one kind is listed, told apart and decoded. `decode` gives None for what we leave out, and raises
    `msgspec.DecodeError` or `ValueError` for what we cannot read. `selection`: `labelSelector` and
    `fieldSelector`, where not all of them are wanted; what leaves it is reported as deleted."""

    resource: str
    path: str
    key: Callable[[Meta], K]
    decode: Callable[[Raw], V | None]
    selection: Mapping[str, str] = field(default_factory=dict)


_decode_page = msgspec.json.Decoder(Page)
_decode_event = msgspec.json.Decoder(WatchEvent)
_decode_identity = msgspec.json.Decoder(Identity)
_decode_service = msgspec.json.Decoder(wire.ServiceObject)
_decode_node = msgspec.json.Decoder(wire.NodeObject)
_decode_slice = msgspec.json.Decoder(wire.EndpointSliceObject)


def page(body: bytes) -> Page:
    return _decode_page.decode(body)


def watch_event(line: bytes) -> WatchEvent:
    return _decode_event.decode(line)


def meta(raw: Raw) -> Meta:
    return _decode_identity.decode(raw).metadata


def _namespaced(meta: Meta) -> ObjectKey:
    return ObjectKey(meta.namespace, meta.name)


SERVICES: Kind[ObjectKey, Service] = Kind(
    "services", "/api/v1/services", _namespaced, lambda raw: wire.service(_decode_service.decode(raw))
)
NODES: Kind[str, Node] = Kind(
    "nodes", "/api/v1/nodes", lambda meta: meta.name, lambda raw: wire.node(_decode_node.decode(raw))
)
ENDPOINT_SLICES: Kind[ObjectKey, EndpointSlice] = Kind(
    "endpointslices",
    "/apis/discovery.k8s.io/v1/endpointslices",
    _namespaced,
    lambda raw: wire.endpoint_slice(_decode_slice.decode(raw)),
)
