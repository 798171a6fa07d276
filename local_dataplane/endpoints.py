"""Which endpoints take a Service's traffic, seen from one node. Pure.

The rules are those of kube-proxy's CategorizeEndpoints: ready endpoints, else those that still serve while
they terminate (KEP-1669); same node or same zone first where hints say so (KEP-2433, KEP-3015).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from lbprov.model import Endpoint, EndpointSlice, IPFamily, L4Protocol
from local_dataplane.config import NodeFacts

HEADLESS_LABEL = "service.kubernetes.io/headless"
"""Slices with this label, whatever its value, are not for node proxies."""


class Backend(NamedTuple):
    """Where packets are sent: an address and a port."""

    address: str
    port: int


@dataclass(frozen=True, slots=True)
class Candidate:
    """A backend with what decides whether it is used."""

    backend: Backend
    endpoint: Endpoint

    def is_on(self, node_name: str) -> bool:
        return self.endpoint.node_name == node_name != ""


@dataclass(frozen=True, slots=True)
class Choice:
    """Backends in a fixed order, without duplicates.

    - `cluster`: for traffic that may go anywhere. `local`: for traffic that must stay on this node.
    - `serving`: every backend that may still be in the middle of something, whatever the policies say:
      flows to these are never cut.
    - `hairpin`: addresses of the chosen backends that may be Pods of this node, hence may call themselves.
    """

    cluster: tuple[Backend, ...] = ()
    local: tuple[Backend, ...] = ()
    serving: tuple[Backend, ...] = ()
    hairpin: tuple[str, ...] = ()


def candidates(
    slices: Iterable[EndpointSlice], port_name: str, protocol: L4Protocol, family: IPFamily
) -> tuple[Candidate, ...]:
    """The endpoints of one Service port, sorted by backend.

    While a slice is being replaced by another, one endpoint may be in both: the copy that does not
    terminate counts, then the ready one, then that of the first slice.
    """
    found: dict[Backend, Endpoint] = {}
    for slice_ in sorted(slices, key=lambda s: s.key):
        if slice_.family is not family or HEADLESS_LABEL in slice_.labels:
            continue
        numbers = [p.port for p in slice_.ports if p.name == port_name and p.protocol is protocol and p.port]
        for endpoint in slice_.endpoints:
            if not endpoint.addresses:
                continue
            for number in numbers:
                backend = Backend(endpoint.addresses[0], number)
                known = found.get(backend)
                if known is None or _rank(endpoint) < _rank(known):
                    found[backend] = endpoint
    return tuple(Candidate(backend, found[backend]) for backend in sorted(found))


def _rank(endpoint: Endpoint) -> tuple[bool, bool]:
    return (endpoint.terminating, not endpoint.ready)


def choose(candidates: Sequence[Candidate], node: NodeFacts) -> Choice:
    ready = [c for c in candidates if c.endpoint.ready]
    draining = [c for c in candidates if c.endpoint.serving and c.endpoint.terminating]
    local_ready = [c for c in ready if c.is_on(node.name)]
    cluster = _by_topology(ready, node) if ready else draining
    local = local_ready or [c for c in draining if c.is_on(node.name)]
    serving = [c for c in candidates if c.endpoint.ready or c.endpoint.serving]
    maybe_here = [c for c in (*cluster, *local) if not c.endpoint.node_name or c.is_on(node.name)]
    return Choice(
        cluster=tuple(c.backend for c in cluster),
        local=tuple(c.backend for c in local),
        serving=tuple(c.backend for c in serving),
        hairpin=tuple(sorted({c.backend.address for c in maybe_here})),
    )


def _by_topology(ready: list[Candidate], node: NodeFacts) -> list[Candidate]:
    """Those that hint at this node, else at this zone, else all. One missing hint disables a mode: the
    controller is in the middle of writing them."""
    if all(c.endpoint.node_hints for c in ready):
        near = [c for c in ready if node.name in c.endpoint.node_hints]
        if near:
            return near
    if node.zone and all(c.endpoint.zone_hints for c in ready):
        near = [c for c in ready if node.zone in c.endpoint.zone_hints]
        if near:
            return near
    return ready
