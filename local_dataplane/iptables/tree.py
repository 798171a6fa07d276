"""A prefix tree of chains: a packet finds its one rule among tens of thousands by walking a few dozen.

Keys are integers of a fixed width (addresses, ports). A chain with few rules is a leaf and lists them; one
with many goes to at most four narrower chains, each guarded by its prefix, two bits further down. The shape
is a function of the entries alone, whatever order they came in, so a restarted agent renders the same
chains, and one entry touches only the chains between it and the root.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

LEAF_RULES = 32
"""Longer leaves mean fewer chains (what loading costs), shorter ones fewer rules met (what packets cost)."""

_STEP_BITS = 2

_GROWN_ANEW = 0.25
"""So many changes at once, as a share of what is there, and the whole tree is grown anew: at a start."""

Rules = tuple[str, ...]
"""Rules without `-A CHAIN`, in `iptables-save`'s own spelling."""


class Entry(typing.NamedTuple):
    """What a key contributes to its leaf: `heads` stand before the `tails` of all entries."""

    heads: Rules
    tails: Rules = ()

    @property
    def weight(self) -> int:
        return len(self.heads) + len(self.tails)


@dataclass(frozen=True, slots=True)
class Shape:
    """How the tree speaks of its keys. `match(prefix, length)` ends with a space or is empty."""

    bits: int
    match: Callable[[int, int], str]
    chain: Callable[[int, int], str]


@dataclass(frozen=True, slots=True, eq=False)
class _Node:
    """A leaf has entries, a branch has children; `prefix` is what all keys share, zeros behind it."""

    prefix: int
    length: int
    weight: int
    entries: tuple[tuple[int, Entry], ...] = ()
    children: tuple[_Node, ...] = ()


class PrefixTree:
    """Mutable shell around immutable nodes. Changes gather until somebody asks for the outcome."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self._root: _Node | None = None
        self._waiting: dict[int, Entry | None] = {}
        self._touched: dict[str, _Node | None] = {}  # chain -> the node to render, None: gone

    def set(self, key: int, entry: Entry | None) -> None:
        """Put an entry at a key in the place of the old one; None or an empty one takes it away."""
        self._waiting[key] = entry if entry is not None and entry.weight else None

    def root_rules(self) -> Rules:
        """What the chain that owns the tree says. After them a packet that matched nothing goes on there."""
        self._settle_waiting()
        return self._reference(self._root, "-j") if self._root else ()

    def take_changes(self) -> dict[str, Rules | None]:
        """Chain -> its rules, None where it is gone, for all that may have changed since the last call."""
        self._settle_waiting()
        changes = {name: self._render(node) if node else None for name, node in self._touched.items()}
        self._touched.clear()
        return changes

    # ── rendering ──

    def _render(self, node: _Node) -> Rules:
        if node.children:
            return tuple(rule for child in node.children for rule in self._reference(child, "-g"))
        heads = tuple(rule for _, entry in node.entries for rule in entry.heads)
        return heads + tuple(rule for _, entry in node.entries for rule in entry.tails)

    def _reference(self, node: _Node, verb: str) -> Rules:
        if _stands_in_parent(node):
            return self._render(node)
        return (f"{self._shape.match(node.prefix, node.length)}{verb} {self._name(node)}",)

    def _name(self, node: _Node) -> str:
        return self._shape.chain(node.prefix, node.length)

    # ── shape ──

    def _settle_waiting(self) -> None:
        waiting, self._waiting = self._waiting, {}
        if len(waiting) > _GROWN_ANEW * (self._root.weight if self._root else 0):
            self._grow_anew(waiting)
            return
        for key, entry in waiting.items():
            if entry is not None:
                self._root = self._with(self._root, key, entry)
            elif self._root:
                self._root = self._without(self._root, key)

    def _grow_anew(self, changes: Mapping[int, Entry | None]) -> None:
        """The same tree as one by one, at a tenth of the cost where most of it is new."""
        entries: dict[int, Entry | None] = {}
        if self._root:
            self._drop(self._root)
            entries.update(self._entries(self._root))
        entries.update(changes)
        left = sorted((key, entry) for key, entry in entries.items() if entry is not None)
        self._root = self._grown(left) if left else None

    def _with(self, node: _Node | None, key: int, entry: Entry) -> _Node:
        if node is None:
            return self._grown([(key, entry)])
        if node.entries:
            self._drop(node)
            others = [pair for pair in node.entries if pair[0] != key]
            return self._grown(sorted([*others, (key, entry)]))
        if not self._covers(node, key):
            return self._branch([node, self._grown([(key, entry)])])
        self._drop(node)
        slot = self._slot(key, node.length)
        old = next((c for c in node.children if self._slot(c.prefix, node.length) == slot), None)
        return self._settled([*(c for c in node.children if c is not old), self._with(old, key, entry)])

    def _without(self, node: _Node, key: int) -> _Node | None:
        if not self._covers(node, key):
            return node
        if node.entries:
            left = [pair for pair in node.entries if pair[0] != key]
            if len(left) == len(node.entries):
                return node
            self._drop(node)
            return self._grown(left) if left else None
        slot = self._slot(key, node.length)
        old = next((c for c in node.children if self._slot(c.prefix, node.length) == slot), None)
        new = self._without(old, key) if old else None
        if new is old:
            return node
        self._drop(node)
        return self._settled([c for c in (*node.children, new) if c is not None and c is not old])

    def _grown(self, entries: list[tuple[int, Entry]]) -> _Node:
        """The node for sorted entries, one at least."""
        weight = sum(entry.weight for _, entry in entries)
        prefix, length = self._common(entries[0][0], entries[-1][0])
        if weight <= LEAF_RULES or len(entries) == 1:
            return self._keep(_Node(prefix, length, weight, entries=tuple(entries)))
        groups: dict[int, list[tuple[int, Entry]]] = {}
        for key, entry in entries:
            groups.setdefault(self._slot(key, length), []).append((key, entry))
        return self._branch([self._grown(group) for group in groups.values()])

    def _settled(self, children: list[_Node]) -> _Node:
        """One or more children, grown or shrunk, as the node that their entries call for."""
        if len(children) == 1:
            return children[0]
        if sum(child.weight for child in children) <= LEAF_RULES:
            for child in children:
                self._drop(child)
            return self._grown(sorted(pair for child in children for pair in self._entries(child)))
        return self._branch(children)

    def _branch(self, children: list[_Node]) -> _Node:
        children = sorted(children, key=lambda child: child.prefix)
        prefix, length = self._common(children[0].prefix, children[-1].prefix)
        weight = sum(child.weight for child in children)
        return self._keep(_Node(prefix, length, weight, children=tuple(children)))

    def _entries(self, node: _Node) -> Iterable[tuple[int, Entry]]:
        if node.entries:
            yield from node.entries
        for child in node.children:
            self._drop(child)
            yield from self._entries(child)

    def _keep(self, node: _Node) -> _Node:
        if not _stands_in_parent(node):
            self._touched[self._name(node)] = node
        return node

    def _drop(self, node: _Node) -> None:
        if not _stands_in_parent(node):
            self._touched[self._name(node)] = None

    # ── bits ──

    def _common(self, low: int, high: int) -> tuple[int, int]:
        """The longest prefix of both, of whole steps. A single key keeps all its bits."""
        length = self._shape.bits - (low ^ high).bit_length()
        length -= length % _STEP_BITS
        rest = self._shape.bits - length
        return low >> rest << rest, length

    def _covers(self, node: _Node, key: int) -> bool:
        return (key ^ node.prefix) >> (self._shape.bits - node.length) == 0

    def _slot(self, key: int, length: int) -> int:
        return key >> (self._shape.bits - length - _STEP_BITS) & ((1 << _STEP_BITS) - 1)


def _stands_in_parent(node: _Node) -> bool:
    """A chain for a single rule would only cost."""
    return node.weight == 1
