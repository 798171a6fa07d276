"""What a table in a kernel forwards, read from its elements. Pure."""

from __future__ import annotations

from lbprov.model import L4Protocol
from local_dataplane.endpoints import Backend
from local_dataplane.mode import Forwarded
from local_dataplane.nftables import fixed, layout
from local_dataplane.nftables.objects import Contents, rule_mark


def guards_localhost(contents: Contents) -> bool:
    """Whether a run before us has opened localhost."""
    chain = contents.chains.get(fixed.INPUT)
    return chain is not None and rule_mark(fixed.LOCALHOST_GUARD) in chain.rules


def forwarded(contents: Contents) -> list[Forwarded]:
    """Every frontend that a packet can reach, sorted."""
    backends: dict[bytes, set[Backend]] = {}
    for name in (layout.ENDPOINTS, layout.NODEPORT_ENDPOINTS):
        for place, element in contents.elements.get(name, {}).items():
            key, _, _ = layout.endpoint_number(place)
            backends.setdefault(key, set()).add(layout.backend_of(element.data))
    found = [
        Forwarded(layout.frontend_of(key), element.label, tuple(sorted(backends.get(key, ()))))
        for name in layout.DISPATCH
        for key, element in contents.elements.get(name, {}).items()
    ]
    return sorted(found, key=lambda f: f.frontend)


def unused_backends(contents: Contents) -> frozenset[tuple[L4Protocol, Backend]]:
    """Endpoints of frontends that no packet can reach any more (`plan.is_trace`)."""
    reached = {key for name in layout.DISPATCH for key in contents.elements.get(name, {})}
    found = set()
    for name in (layout.ENDPOINTS, layout.NODEPORT_ENDPOINTS):
        for place, element in contents.elements.get(name, {}).items():
            key, _, _ = layout.endpoint_number(place)
            if key not in reached:
                found.add((layout.frontend_of(key).protocol, layout.backend_of(element.data)))
    return frozenset(found)
