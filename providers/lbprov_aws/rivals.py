"""Services that ask for an Elastic IP and have no load balancer yet, also those that had no turn yet.

Of two that ask for one address, the older is to get it. Which of them is looked at first is up to workers and
to the start of a process, so what all of them ask for counts, not only what was seen.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from lbprov.api import LoadBalancer, ObjectKey, Owner
from lbprov_aws import addresses
from lbprov_aws.inventory import Inventory
from lbprov_aws.resources import LoadBalancerRecord
from lbprov_aws.wishes import has_unknown_scheme, is_by_tag, read_wishes, tag_pairs

Rank = tuple[str, ObjectKey]


def rank(created_at: str, service: ObjectKey) -> Rank:
    """The lowest wins: the oldest; a Service that says no time is younger than all that do."""
    return (created_at or "~", service)


@dataclass(frozen=True, slots=True)
class Rival:
    """`named`: addresses and allocation ids; `tagged`: the tags of each wish for one by tags."""

    owner: Owner
    rank: Rank
    named: frozenset[str] = frozenset()
    tagged: tuple[str, ...] = ()


class Rivals:
    """Safe for threads. `asked`: what all Services ask for."""

    def __init__(self, inventory: Inventory, asked: Callable[[], Iterable[LoadBalancer]]) -> None:
        self._inventory = inventory
        self._asked = asked
        self._lock = threading.Lock()
        self._read: dict[Owner, tuple[LoadBalancer, Rival]] = {}

    def naming(self, owner: Owner, names: Iterable[str]) -> list[Rival]:
        """Others that ask for one of these by its address or id."""
        names = frozenset(names)
        return [r for r in self._others(owner) if not r.named.isdisjoint(names) and self._waits(r)]

    def addresses(self, owner: Owner) -> frozenset[str]:
        """What they ask for by address."""
        named = (name for r in self._others(owner) if r.named and self._waits(r) for name in r.named)
        return frozenset(name for name in named if not name.startswith("eipalloc-"))

    def tagging(self, owner: Owner, wish: str) -> list[tuple[Rival, str]]:
        """Others' wishes for addresses with just these tags, a pair for each."""
        pairs = tag_pairs(wish)
        found = ((r, w) for r in self._others(owner) for w in r.tagged if tag_pairs(w) == pairs)
        return [(rival, their_wish) for rival, their_wish in found if self._waits(rival)]

    def _others(self, owner: Owner) -> Iterator[Rival]:
        """That ask for any Elastic IP."""
        asked = [desired for desired in self._asked() if desired.requested_ip or desired.annotations]
        with self._lock:
            known: dict[Owner, tuple[LoadBalancer, Rival]] = {}
            for desired in asked:
                before = self._read.get(desired.owner)
                if before is None or before[0] is not desired:
                    before = desired, _rival(desired)
                known[desired.owner] = before
            self._read = known
        return (r for _, r in known.values() if r.owner != owner and (r.named or r.tagged))

    def _waits(self, rival: Rival) -> bool:
        return not any(isinstance(r, LoadBalancerRecord) for r in self._inventory.of(rival.owner))


def _rival(desired: LoadBalancer) -> Rival:
    wishes = read_wishes(desired)
    nothing = Rival(desired.owner, rank(desired.created_at, desired.owner.service))
    if wishes.internal or has_unknown_scheme(desired):
        return nothing
    if wishes.addresses:
        elastic = wishes.addresses.elastic
        named = frozenset(addresses.canonical(w) for w in elastic if not is_by_tag(w))
        return Rival(nothing.owner, nothing.rank, named, tuple(w for w in elastic if is_by_tag(w)))
    if addresses.needs_lookup(desired.requested_ip, internal=False):
        return Rival(nothing.owner, nothing.rank, frozenset((addresses.canonical(desired.requested_ip),)))
    return nothing
