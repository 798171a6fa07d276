"""From what the table holds to what it should hold, as transactions' parts. Pure.

One transaction changes all at once, so order matters in two ways only: what is named must be there already,
and where a transaction has to be cut in two, the cut goes between Service ports.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from lbprov.model import L4Protocol
from local_dataplane.nftables import layout
from local_dataplane.nftables import objects as ob
from local_dataplane.nftables.objects import Chain, Change, Contents, Element
from local_dataplane.nftables.render import Place
from local_dataplane.nftables.ruleset import Ruleset, callees_first
from local_dataplane.table import PortKey


@dataclass(slots=True)
class Part:
    """What belongs together, and whose it is: None, if every Service needs it."""

    owner: PortKey | None
    changes: list[Change] = field(default_factory=list)


def is_alien(ruleset: Ruleset, have: Contents) -> bool:
    """Whether the table is to be made anew: what it has under our names cannot be changed into ours. An older
    version's, or somebody's handiwork."""
    sets = any(have.sets.get(name, s.signature) != s.signature for name, s in ruleset.sets.items())
    hooks = any(
        name in have.chains and have.chains[name].hook != chain.hook for name, chain in ruleset.chains.items()
    )
    return sets or hooks


def parts(ruleset: Ruleset, have: Contents | None) -> list[Part]:
    """What brings the dirty places from `have` to what is wanted; nothing of others is looked at. Chains that
    nothing leads to any more are left to `removals`, and so are `traces`."""
    common, leftovers = Part(None), Part(None)
    if have is None or have.is_dormant:
        common.changes.append(ob.AddTable())
        have = have or Contents()
    own: dict[PortKey, Part] = {}

    def part(owner: PortKey | None) -> Part:
        return own.setdefault(owner, Part(owner)) if owner else common

    for name, shape in ruleset.sets.items():
        if name not in have.sets:
            common.changes.append(ob.AddSet(shape))
    for name in callees_first(ruleset.chains, ruleset.dirty_chains & ruleset.chains.keys()):
        chain, there = ruleset.chains[name], have.chains.get(name)
        if there is None or there != chain.marks():
            part(ruleset.owner(name)).changes += rewritten(name, chain)
    for owner, deletions, additions in _by_owner(ruleset, have):
        # What is nobody's any more goes when everybody has what is new.
        gone = leftovers if owner is None else part(owner)
        gone.changes += [ob.DeleteElements(n, tuple(e)) for n, e in deletions.items()]
        part(owner).changes += [ob.AddElements(n, tuple(e)) for n, e in additions.items()]
    return [p for p in (common, *own.values(), leftovers) if p.changes]


def rewritten(name: str, chain: Chain) -> list[Change]:
    return [
        ob.AddChain(name, chain.hook),
        ob.FlushChain(name),
        *(ob.AddRule(name, rule) for rule in chain.rules),
    ]


_BySet = dict[str, list[Element]]


def _by_owner(ruleset: Ruleset, have: Contents) -> Iterable[tuple[PortKey | None, _BySet, _BySet]]:
    changes: dict[PortKey | None, tuple[_BySet, _BySet]] = {}
    for (name, place), owner in ruleset.dirty.items():
        there, want = have.elements.get(name, {}).get(place), ruleset.elements[name].get(place)
        if there == want or is_trace(ruleset, (name, place)):
            continue
        whose = owner or ruleset.owner_at((name, place))
        deletions, additions = changes.setdefault(whose, ({}, {}))
        if there is not None:
            deletions.setdefault(name, []).append(there)
        if want is not None:
            additions.setdefault(name, []).append(want)
    return ((owner, *both) for owner, both in changes.items())


def is_trace(ruleset: Ruleset, place: Place) -> bool:
    """Whether an element is an endpoint by UDP of a frontend that is gone. No packet gets there, but flows
    still lead to it: should we be killed before they are ended, it tells the next run of them."""
    name, key = place
    if name not in (layout.ENDPOINTS, layout.NODEPORT_ENDPOINTS) or key in ruleset.elements[name]:
        return False
    frontend = layout.frontend_of(key[:-4])
    return frontend.protocol is L4Protocol.UDP and ruleset.table.holder(frontend) is None


def traces(ruleset: Ruleset, have: Contents, places: Iterable[Place]) -> list[Change]:
    """What takes away those elements that are there and not wanted."""
    found: _BySet = {}
    for name, key in places:
        element = have.elements.get(name, {}).get(key)
        if element is not None and key not in ruleset.elements[name]:
            found.setdefault(name, []).append(element)
    return [ob.DeleteElements(name, tuple(elements)) for name, elements in found.items()]


def removals(ruleset: Ruleset, have: Contents, spared: Collection[str]) -> list[Change]:
    """What takes away chains and sets of ours that are needed no more. They are emptied first, and so may
    lead to one another."""
    chains = sorted(have.chains.keys() - ruleset.chains.keys() - set(spared))
    sets = sorted(have.sets.keys() - ruleset.sets.keys() - set(spared))
    return [
        *(ob.FlushChain(name) for name in chains),
        *(ob.DeleteSet(name) for name in sets),
        *(ob.DeleteChain(name) for name in chains),
    ]


def carry_out(changes: Iterable[Change], have: Contents | None) -> Contents | None:
    """What the table holds after them."""
    for change in changes:
        if isinstance(change, ob.AddTable):
            have = have or Contents()
            have.is_dormant = False
        elif isinstance(change, ob.DeleteTable):
            have = None
        else:
            assert have is not None
            _carry_out(change, have)
    return have


def _carry_out(change: Change, have: Contents) -> None:
    match change:
        case ob.AddSet(shape):
            have.sets[shape.name] = shape.signature
            if not shape.size:
                have.elements.setdefault(shape.name, {})
        case ob.DeleteSet(name):
            del have.sets[name]
            have.elements.pop(name, None)
        case ob.AddChain(name, hook):
            have.chains[name] = have.chains.get(name, ob.ChainMarks(hook, ()))._replace(drops=False)
        case ob.FlushChain(name):
            have.chains[name] = have.chains[name]._replace(rules=())
        case ob.DeleteChain(name):
            del have.chains[name]
        case ob.AddRule(name, rule):
            old = have.chains[name]
            have.chains[name] = old._replace(rules=(*old.rules, ob.rule_mark(rule)))
        case ob.AddElements(name, elements):
            have.elements[name].update((e.place, e) for e in elements)
        case ob.DeleteElements(name, elements):
            for element in elements:
                del have.elements[name][element.place]
