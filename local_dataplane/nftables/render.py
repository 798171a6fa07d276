"""One Service port as elements, and the chains that they lead to. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lbprov.model import TrafficPolicy
from local_dataplane.config import NodeFacts
from local_dataplane.endpoints import Backend
from local_dataplane.nftables import layout
from local_dataplane.nftables.chains import (
    DROP,
    REFUSE,
    Choice,
    External,
    ExternalLocal,
    Firewall,
    Internal,
    Pick,
    Recipe,
    Sticky,
    StickyEndpoint,
)
from local_dataplane.nftables.layout import Scope
from local_dataplane.nftables.objects import Element
from local_dataplane.table import Frontend, Purpose, ServiceState, Verdict

Place = tuple[str, bytes]
"""Set, and the element's place in it."""

Slots = Mapping[Scope, tuple[Backend, ...]]
"""The endpoints in the order in which they are numbered."""


@dataclass(frozen=True, slots=True)
class Fragment:
    """What one Service port adds to the sets, and the chains it needs, those further on included."""

    elements: Mapping[Place, Element]
    recipes: Mapping[str, Recipe]


NOTHING = Fragment({}, {})


def fragment(
    state: ServiceState, held: Sequence[tuple[Frontend, Purpose]], slots: Slots, node: NodeFacts
) -> Fragment:
    """`held`: the frontends of the state that no other Service port has before it."""
    elements: dict[Place, Element] = {}
    recipes: dict[str, Recipe] = {}

    def put(set_name: str, element: Element) -> None:
        elements[set_name, element.place] = element

    for frontend, purpose in held:
        recipe = recipe_for(state, purpose)
        _need(recipe, recipes)
        key = layout.frontend_key(frontend)
        dispatch = layout.NODEPORTS if not frontend.address else dispatch_set(recipe)
        leads_to = recipe.name if dispatch in (layout.FRONTENDS, layout.NODEPORTS) else ""
        put(dispatch, Element(key, chain=leads_to, label=str(state.key)))
        numbered = layout.ENDPOINTS if frontend.address else layout.NODEPORT_ENDPOINTS
        for scope in _scopes(recipe):
            for index, backend in enumerate(slots[scope]):
                put(numbered, Element(key + layout.number(scope + index), layout.backend_data(backend)))
        if isinstance(recipe, Firewall):
            for first, last in _allowed(state, node):
                put(layout.ALLOWED, Element(key + first, end=key + last))
    return Fragment(elements, recipes)


def dispatch_set(recipe: Recipe) -> str:
    if recipe == REFUSE:
        return layout.REFUSED
    if isinstance(recipe, Internal) and isinstance(recipe.choice, Pick) and recipe.choice.scope is Scope.ALL:
        return layout.few(recipe.choice.count) if recipe.choice.count in layout.FEW else layout.FRONTENDS
    return layout.FRONTENDS


def recipe_for(state: ServiceState, purpose: Purpose) -> Recipe:
    if purpose is Purpose.CLUSTER_IP:
        return _internal(state)
    recipe = _external(state, of_node_port=purpose is Purpose.NODE_PORT)
    return Firewall(recipe) if purpose is Purpose.LOAD_BALANCER and is_restricted(state) else recipe


def is_restricted(state: ServiceState) -> bool:
    return bool(state.source_ranges) and not any(cidr.endswith("/0") for cidr in state.source_ranges)


def _internal(state: ServiceState) -> Recipe:
    verdict = state.verdict(state.internal_policy)
    if verdict is not Verdict.FORWARD:
        return REFUSE if verdict is Verdict.REFUSE else DROP
    is_local = state.internal_policy is TrafficPolicy.LOCAL
    return Internal(_choice(state, Scope.OWN if is_local else Scope.ALL, of_node_port=False))


def _external(state: ServiceState, *, of_node_port: bool) -> Recipe:
    if not state.has_endpoints:
        return REFUSE
    anywhere = _choice(state, Scope.ALL, of_node_port=of_node_port) if state.choice.cluster else None
    if state.external_policy is TrafficPolicy.CLUSTER:
        return External(anywhere) if anywhere else DROP
    here = _choice(state, Scope.OWN, of_node_port=of_node_port) if state.choice.local else None
    if anywhere:
        return ExternalLocal(anywhere, here)
    return here or DROP


def _choice(state: ServiceState, scope: Scope, *, of_node_port: bool) -> Choice:
    backends = state.choice.cluster if scope is Scope.ALL else state.choice.local
    if not state.affinity_s:
        return Pick(scope, len(backends), of_node_port)
    return Sticky(scope, tuple(StickyEndpoint(state.key, b, state.affinity_s) for b in backends))


def _need(recipe: Recipe, found: dict[str, Recipe]) -> None:
    for further in recipe.leads_to:
        _need(further, found)
    found[recipe.name] = recipe


def _scopes(recipe: Recipe) -> set[Scope]:
    """Whose endpoints are to be in the frontend's elements."""
    match recipe:
        case Internal(choice) | External(choice):
            return {choice.scope}
        case ExternalLocal(anywhere, here):
            return {anywhere.scope, here.scope} if here else {anywhere.scope}
        case Firewall(admitted):
            return _scopes(admitted)
        case Pick() | Sticky():
            return {recipe.scope}
    return set()


def _allowed(state: ServiceState, node: NodeFacts) -> list[tuple[bytes, bytes]]:
    """First and last address of what the load balancer lets in, without overlaps: the kernel refuses those.

    A load balancer's address may be this node's own as well; the node's connections to it then come from
    that very address, so it is let in where the node is (as kube-proxy does)."""
    networks = [ipaddress.ip_network(cidr, strict=False) for cidr in state.source_ranges]
    if any(ipaddress.ip_address(a) in network for a in node.addresses for network in networks):
        networks += [ipaddress.ip_network(ip) for ip in state.load_balancer_ips]
    disjoint = ipaddress.collapse_addresses(networks)  # type: ignore[type-var]
    return [(n.network_address.packed, n.broadcast_address.packed) for n in disjoint]


def numbered(before: tuple[Backend, ...], backends: Sequence[Backend]) -> tuple[Backend, ...]:
    """The backends in an order that moves as few as possible: each keeps its number, new ones and the last
    ones fill the gaps. So an endpoint of a thousand that goes is three elements, not a thousand."""
    wanted = set(backends)
    kept: list[Backend | None] = [b if b in wanted else None for b in before]
    new = sorted(wanted.difference(before), reverse=True)
    for index, backend in enumerate(kept):
        if backend is None and new:
            kept[index] = new.pop()
    kept += reversed(new)
    index = 0
    while len(kept) > len(wanted):
        last = kept.pop()
        if last is not None:
            index = kept.index(None, index)
            kept[index] = last
    return tuple(b for b in kept if b is not None)
