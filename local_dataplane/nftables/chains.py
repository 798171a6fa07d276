"""Chains that frontends lead to: values that say what a chain does, hence how it is named. Pure.

A Service without session affinity has no chain of its own: all Services with three endpoints that are used
alike share one. One with affinity has a chain for each endpoint and scope, and a set of clients for each
endpoint.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from dataclasses import dataclass

from lbprov.model import IPFamily
from local_dataplane.endpoints import Backend
from local_dataplane.nftables import fixed, layout
from local_dataplane.nftables.expressions import (
    Compare,
    Dnat,
    Immediate,
    LoadProtocol,
    Lookup,
    Random,
    Remember,
    Rule,
    goto,
)
from local_dataplane.nftables.fixed import Packet, Where
from local_dataplane.nftables.layout import Scope, number
from local_dataplane.nftables.objects import Chain, SetShape
from local_dataplane.table import PortKey


@dataclass(frozen=True, slots=True)
class Pick:
    """One of so many endpoints, each as likely as the others, by the frontend's key."""

    scope: Scope
    count: int
    of_node_port: bool

    @property
    def name(self) -> str:
        return f"{'nodeport-' if self.of_node_port else ''}{self.scope.word}-{self.count}"

    @property
    def leads_to(self) -> tuple[Recipe, ...]:
        return ()

    @property
    def sets(self) -> tuple[str, ...]:
        return ()

    def chain(self, where: Where) -> Chain:
        p = Packet(where.family)
        key, endpoints, index = p.frontend, layout.ENDPOINTS, p.registers + 2
        if self.of_node_port:
            key, endpoints, index = p.node_port, layout.NODEPORT_ENDPOINTS, 2
        send = (Lookup(endpoints, 0, 0), Dnat(0, p.registers))
        rules: list[Rule] = [(*key, Random(self.count, index, self.scope), *send)]
        if self.count > 1:
            # A packet that is under way while a transaction takes effect may have been sent here by what was
            # and look for a number that is no more. The first one goes last. (One of one at random, because
            # nft cannot say a plain number in a key.)
            rules.append((*key, Random(1, index, self.scope), *send))
        gone = fixed.REFUSE if self.scope is Scope.ALL else fixed.DROPPING
        return Chain((*rules, (goto(gone),)))


@functools.lru_cache(maxsize=4096)
def _digest(text: str) -> str:
    return base64.b32encode(hashlib.sha256(text.encode()).digest()).decode()[:16].lower()


def _port_digest(key: PortKey) -> str:
    return _digest(f"{key.service.namespace}/{key.service.name}:{key.port_name}/{key.protocol}")


@dataclass(frozen=True, slots=True)
class StickyEndpoint:
    """Sends to one endpoint and remembers the client, whichever frontend it came by."""

    key: PortKey
    backend: Backend
    affinity_s: int

    @property
    def name(self) -> str:
        return f"endpoint-{self._digest}"

    @property
    def _digest(self) -> str:
        return _digest(f"{_port_digest(self.key)} {self.backend.address} {self.backend.port}")

    @property
    def clients(self) -> str:
        return f"{layout.CLIENTS}{self._digest}"

    @property
    def leads_to(self) -> tuple[Recipe, ...]:
        return ()

    @property
    def sets(self) -> tuple[str, ...]:
        return (self.clients,)

    def chain(self, where: Where) -> Chain:
        p = Packet(where.family)
        port = layout.backend_data(self.backend)[-4:-2]
        return Chain(
            (
                # Two rules: where no further client can be remembered, it is served all the same.
                (p.source(0), Remember(self.clients, 0, self.affinity_s)),
                # The protocol is known; nft cannot read a rule with a port back that does not say it.
                (
                    LoadProtocol(0),
                    Compare(0, bytes([layout.PROTOCOL_NUMBERS[self.key.protocol]])),
                    Immediate(layout.packed(self.backend.address), 0),
                    Immediate(port, p.registers),
                    Dnat(0, p.registers),
                ),
            )
        )


@dataclass(frozen=True, slots=True)
class Sticky:
    """The endpoint of the last time, if it is still one; else one at random."""

    scope: Scope
    endpoints: tuple[StickyEndpoint, ...]

    @property
    def name(self) -> str:
        return f"{self.scope.word}-{_port_digest(self.endpoints[0].key)}"

    @property
    def leads_to(self) -> tuple[Recipe, ...]:
        return self.endpoints

    @property
    def sets(self) -> tuple[str, ...]:
        return ()

    def chain(self, where: Where) -> Chain:
        p = Packet(where.family)
        known = [(p.source(0), Lookup(e.clients, 0), goto(e.name)) for e in self.endpoints]
        left = range(len(self.endpoints), 1, -1)
        new: list[Rule] = [
            (Random(n, 0), Compare(0, number(0)), goto(e.name))
            for n, e in zip(left, self.endpoints, strict=False)
        ]
        return Chain((*known, *new, (goto(self.endpoints[-1].name),)))


Choice = Pick | Sticky


@dataclass(frozen=True, slots=True)
class Internal:
    """A clusterIP's clients."""

    choice: Choice

    @property
    def name(self) -> str:
        return f"internal-{self.choice.name}"

    @property
    def leads_to(self) -> tuple[Recipe, ...]:
        return (self.choice,) if isinstance(self.choice, Sticky) else ()

    @property
    def sets(self) -> tuple[str, ...]:
        return ()

    def chain(self, where: Where) -> Chain:
        return Chain((*fixed.mark_clients(where), *_then(self.choice, where)))


@dataclass(frozen=True, slots=True)
class External:
    """Who comes by NodePort, externalIP or load balancer: the answer must come back through this node, which
    alone knows the connection."""

    choice: Choice

    @property
    def name(self) -> str:
        return f"external-{self.choice.name}"

    @property
    def leads_to(self) -> tuple[Recipe, ...]:
        return (self.choice,) if isinstance(self.choice, Sticky) else ()

    @property
    def sets(self) -> tuple[str, ...]:
        return ()

    def chain(self, where: Where) -> Chain:
        return Chain((fixed.mark_masquerade(where.config), *_then(self.choice, where)))


@dataclass(frozen=True, slots=True)
class ExternalLocal:
    """The same where the endpoints of this node alone are meant (None: it has none). Pods and the node itself
    may go anywhere (KEP-2086)."""

    anywhere: Choice
    here: Choice | None

    @property
    def name(self) -> str:
        return f"external-{self.anywhere.name}-{self.here.name if self.here else 'none'}"

    @property
    def leads_to(self) -> tuple[Recipe, ...]:
        return (self.anywhere, self.here) if self.here else (self.anywhere,)

    @property
    def sets(self) -> tuple[str, ...]:
        return ()

    def chain(self, where: Where) -> Chain:
        rules: list[Rule] = []
        if where.pods:
            rules.append((*Packet(where.family).of_pods(where.pods), goto(self.anywhere.name)))
        rules.append(
            (*fixed.is_local(of_source=True), *fixed.mark_masquerade(where.config), goto(self.anywhere.name))
        )
        rules.append((goto(self.here.name if self.here else fixed.DROPPING),))
        return Chain(tuple(rules))


@dataclass(frozen=True, slots=True)
class Fixed:
    """A chain that is always there."""

    name: str

    @property
    def leads_to(self) -> tuple[Recipe, ...]:
        return ()

    @property
    def sets(self) -> tuple[str, ...]:
        return ()

    def chain(self, where: Where) -> Chain:
        return standing_chains(where)[self.name]


REFUSE, DROP = Fixed(fixed.REFUSE), Fixed(fixed.DROPPING)


@dataclass(frozen=True, slots=True)
class Firewall:
    """A load balancer's address for some sources only; the others wait in vain."""

    admitted: Recipe

    @property
    def name(self) -> str:
        return f"firewall-{self.admitted.name}"

    @property
    def leads_to(self) -> tuple[Recipe, ...]:
        return (self.admitted,)

    @property
    def sets(self) -> tuple[str, ...]:
        return ()

    def chain(self, where: Where) -> Chain:
        p = Packet(where.family)
        admit = (*p.frontend, p.source(p.registers + 2), Lookup(layout.ALLOWED, 0), goto(self.admitted.name))
        return Chain((admit, (goto(fixed.DROPPING),)))


Recipe = Pick | StickyEndpoint | Sticky | Internal | External | ExternalLocal | Firewall | Fixed


def _then(choice: Choice, where: Where) -> tuple[Rule, ...]:
    """A choice by the frontend's key is one rule, and stands here."""
    return choice.chain(where).rules if isinstance(choice, Pick) else ((goto(choice.name),),)


def standing_chains(where: Where) -> dict[str, Chain]:
    """Those that are there without any Service; in an order in which none leads to a later one."""
    internal = [Internal(Pick(Scope.ALL, count, of_node_port=False)) for count in layout.FEW]
    return {r.name: r.chain(where) for r in internal} | fixed.fixed_chains(where)


def clients_shapes(recipe: Recipe, family: IPFamily) -> tuple[SetShape, ...]:
    return tuple(layout.clients_shape(name, family) for name in recipe.sets)


def owner(recipe: Recipe) -> PortKey | None:
    """The Service port whose chain it is alone."""
    if isinstance(recipe, StickyEndpoint):
        return recipe.key
    return next((key for further in recipe.leads_to if (key := owner(further))), None)
