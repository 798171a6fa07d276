"""All that our table of one family should hold, kept up to date piece by piece. Pure.

A packet's way through it is drawn in docs/dataplane.md.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from lbprov.model import IPFamily
from local_dataplane.config import NodeConfig, NodeFacts
from local_dataplane.endpoints import Backend
from local_dataplane.nftables import chains, layout
from local_dataplane.nftables.chains import Recipe
from local_dataplane.nftables.fixed import Where
from local_dataplane.nftables.layout import Scope
from local_dataplane.nftables.objects import Chain, Contents, Element, Elements, SetShape
from local_dataplane.nftables.render import NOTHING, Fragment, Place, fragment, numbered
from local_dataplane.table import ForwardingTable, Frontend, PortKey, Purpose, ServiceState


class Ruleset:
    """`chains`, `sets` and `elements` are what should be in the kernel; `dirty_chains` and `dirty` gather
    what changed, for the caller to clear. `dirty` says whose a place is: None, if nobody's in particular.

    What it holds depends on the states alone, not on the order in which they came, except for the order in
    which the endpoints of a Service port are numbered."""

    def __init__(self, family: IPFamily, config: NodeConfig, node: NodeFacts) -> None:
        self.family = family
        self.table = ForwardingTable()
        self._where = Where(family, config, config.pods(family, node))
        self.chains = chains.standing_chains(self._where)
        self.sets: dict[str, SetShape] = {shape.name: shape for shape in layout.shapes(family)}
        self.elements: Elements = {name: {} for name in self.sets}
        self.dirty_chains: set[str] = set(self.chains)
        self.dirty: dict[Place, PortKey | None] = {}
        self._standing = frozenset(self.chains)
        self._node = node
        self._fragments: dict[PortKey, Fragment] = {}
        self._slots: dict[PortKey, dict[Scope, tuple[Backend, ...]]] = {}
        self._found: dict[tuple[bytes, Scope], dict[int, Backend]] = {}
        self._recipes: dict[str, Recipe] = {}
        self._users: Counter[str] = Counter()  # chain -> fragments that need it
        self._addresses: Counter[bytes] = Counter()  # address -> frontends there
        self._cluster_ips: Counter[bytes] = Counter()  # address -> frontends there that are a clusterIP's
        self._hairpins: Counter[bytes] = Counter()  # address -> Service ports that may send it to itself

    def replace(self, states: Iterable[tuple[PortKey, ServiceState | None]]) -> None:
        """Take over new states of this family (None: that port is gone)."""
        stale: set[PortKey] = set()
        before: dict[Frontend, tuple[PortKey, bool] | None] = {}
        for key, state in states:
            self._count_hairpins(key, state)
            for frontend, _ in self._frontends(key):
                before.setdefault(frontend, self._holder(frontend))
            for frontend, _ in state.frontends() if state else ():
                before.setdefault(frontend, self._holder(frontend))
            self.table.replace(key, state)
            stale.add(key)
        for frontend, old in before.items():
            now = self._holder(frontend)
            if old != now:
                stale |= {held[0] for held in (old, now) if held}
                self._count_addresses(frontend, old, now)
        self._render(stale)

    def set_node(self, node: NodeFacts) -> None:
        """The node's addresses decide who a load balancer's source ranges let in; its podCIDRs, perhaps, who
        is a Pod."""
        if node == self._node:
            return
        self._node = node
        config = self._where.config.for_node(node)
        where = Where(self.family, config, config.pods(self.family, node))
        if where != self._where:
            self._where = where
            recipes = {name: recipe.chain(where) for name, recipe in self._recipes.items()}
            self.dirty_chains |= recipes.keys() | self._standing
            self.chains |= chains.standing_chains(where) | recipes
        self._render({key for key, state in self.table.states.items() if state.source_ranges})

    def adopt(self, found: Contents) -> None:
        """Number endpoints as an earlier run has done, so that a start moves none."""
        for name in (layout.ENDPOINTS, layout.NODEPORT_ENDPOINTS):
            for place, element in found.elements.get(name, {}).items():
                key, scope, index = layout.endpoint_number(place)
                self._found.setdefault((key, scope), {})[index] = layout.backend_of(element.data)

    def compare(self, have: Contents) -> None:
        """Whatever differs becomes dirty, all that is there and should not be included."""
        self.dirty_chains |= {
            name for name, chain in self.chains.items() if have.chains.get(name) != chain.marks()
        }
        owners = {place: key for key, part in self._fragments.items() for place in part.elements}
        for name in self.elements:
            want, there = self.elements[name], have.elements.get(name, {})
            for place in want.keys() | there.keys():
                if want.get(place) != there.get(place):
                    self.dirty[name, place] = owners.get((name, place))

    def owner(self, chain: str) -> PortKey | None:
        """Whose chain it is, if it is one Service port's alone."""
        recipe = self._recipes.get(chain)
        return chains.owner(recipe) if recipe else None

    def owner_at(self, place: Place) -> PortKey | None:
        """Who has the frontend that an element is about."""
        frontend = layout.frontend_at(*place)
        claim = self.table.holder(frontend) if frontend else None
        return claim.key if claim else None

    # ── rendering ──

    def _frontends(self, key: PortKey) -> tuple[tuple[Frontend, Purpose], ...]:
        state = self.table.states.get(key)
        return state.frontends() if state else ()

    def _holder(self, frontend: Frontend) -> tuple[PortKey, bool] | None:
        """(who has it, whether as clusterIP)"""
        claim = self.table.holder(frontend)
        return (claim.key, claim.purpose is Purpose.CLUSTER_IP) if claim else None

    def _render(self, keys: set[PortKey]) -> None:
        old = {key: self._fragments.pop(key, NOTHING) for key in keys}
        for key in keys - self.table.states.keys():
            self._slots.pop(key, None)
        new = {key: self._fragment(state) for key in keys if (state := self.table.states.get(key))}
        for key, part in old.items():
            following = new.get(key, NOTHING)
            for name, place in part.elements.keys() - following.elements.keys():
                del self.elements[name][place]
                self.dirty[name, place] = key
            for chain in part.recipes.keys() - following.recipes.keys():
                self._users[chain] -= 1
        for key, part in new.items():
            preceding = old[key]
            for (name, place), element in part.elements.items():
                if self.elements[name].get(place) != element:
                    self.elements[name][place] = element
                    self.dirty[name, place] = key
            for chain, recipe in part.recipes.items():
                self._users[chain] += chain not in preceding.recipes
                self._need(chain, recipe)
            self._fragments[key] = part
        self._drop_unused({chain for part in old.values() for chain in part.recipes})

    def _fragment(self, state: ServiceState) -> Fragment:
        held = {}
        for frontend, purpose in state.frontends():
            claim = self.table.holder(frontend)
            if claim and (claim.key, claim.purpose) == (state.key, purpose):
                held[frontend] = purpose
        before = self._slots.get(state.key) or self._adopted(list(held))
        slots = {
            Scope.ALL: numbered(before.get(Scope.ALL, ()), state.choice.cluster),
            Scope.OWN: numbered(before.get(Scope.OWN, ()), state.choice.local),
        }
        self._slots[state.key] = slots
        return fragment(state, list(held.items()), slots, self._node)

    def _adopted(self, frontends: Iterable[Frontend]) -> dict[Scope, tuple[Backend, ...]]:
        adopted: dict[Scope, tuple[Backend, ...]] = {}
        for key in map(layout.frontend_key, frontends) if self._found else ():
            for scope in Scope:
                found = self._found.pop((key, scope), {})
                adopted.setdefault(scope, tuple(backend for _, backend in sorted(found.items())))
        return adopted

    def _need(self, chain: str, recipe: Recipe) -> None:
        if chain in self._standing or self._recipes.get(chain) == recipe:
            return
        self._recipes[chain] = recipe
        self.chains[chain] = recipe.chain(self._where)
        self.dirty_chains.add(chain)
        for shape in chains.clients_shapes(recipe, self.family):
            self.sets[shape.name] = shape

    def _drop_unused(self, names: set[str]) -> None:
        for chain in names:
            if self._users[chain] > 0:
                continue
            del self._users[chain]
            recipe = self._recipes.pop(chain, None)
            if recipe:
                del self.chains[chain]
                self.dirty_chains.discard(chain)
                for set_name in recipe.sets:
                    del self.sets[set_name]

    # ── what several Service ports have in common ──

    def _count_hairpins(self, key: PortKey, state: ServiceState | None) -> None:
        old = self.table.states.get(key)
        before = set(old.choice.hairpin) if old else set()
        after = set(state.choice.hairpin) if state else set()
        for address, step in [(a, 1) for a in after - before] + [(a, -1) for a in before - after]:
            packed = layout.packed(address)
            self._count(self._hairpins, layout.HAIRPINS, packed, Element(packed + packed), step)

    def _count_addresses(
        self, frontend: Frontend, old: tuple[PortKey, bool] | None, now: tuple[PortKey, bool] | None
    ) -> None:
        if not frontend.address:
            return
        address = layout.packed(frontend.address)
        for counter, name, step in (
            (self._addresses, layout.ADDRESSES, bool(now) - bool(old)),
            (self._cluster_ips, layout.CLUSTER_IPS, bool(now and now[1]) - bool(old and old[1])),
        ):
            if step:
                self._count(counter, name, address, Element(address), step)

    def _count(self, counter: Counter[bytes], name: str, address: bytes, element: Element, step: int) -> None:
        counter[address] += step
        place = element.place
        if counter[address] > 0:
            if place not in self.elements[name]:
                self.elements[name][place] = element
                self.dirty[name, place] = None
            return
        del counter[address]
        if self.elements[name].pop(place, None):
            self.dirty[name, place] = None


def callees_first(wanted: Mapping[str, Chain], names: Iterable[str]) -> list[str]:
    """The chains in an order in which none leads to a later one. Sorted where that leaves a choice."""
    leads_to: dict[str, set[str]] = defaultdict(set)
    pending = set(names)
    for name in pending:
        leads_to[name] = wanted[name].targets & pending
    ordered: list[str] = []
    for start in sorted(pending):
        path = [(start, False)]
        while path:
            chain, is_done = path.pop()
            if is_done:
                ordered.append(chain)
            elif chain in pending:
                pending.discard(chain)
                path.append((chain, True))
                path += [(target, False) for target in sorted(leads_to[chain]) if target in pending]
    return ordered
