"""Notices that somebody else has changed packet filter rules, without reading them."""

from __future__ import annotations

from lbprov.model import IPFamily
from local_dataplane.iptables.restore import Restore
from local_dataplane.kernel.seam import Backend, Iptables


class RuleWatch:
    """Knows the generation that our own writes lead to; any other is somebody else's doing.

    One watch serves both families, because in nft they share one generation."""

    def __init__(self) -> None:
        self._known: dict[object, object] = {}
        self._suspects: set[object] = set()

    def look(self, iptables: Iptables) -> None:
        """Call before reading the rules: what happens after this will be noticed."""
        self._known[_scope(iptables)] = iptables.generation()
        self._suspects.discard((_scope(iptables), iptables.family))

    def restore(self, iptables: Iptables, restore: Restore) -> None:
        """Carry a restore out, and tell our commits from others' around it."""
        scope = _scope(iptables)
        before = iptables.generation()
        if before != self._known.get(scope):
            self._suspect(scope)
        try:
            iptables.restore(restore.text())
        finally:
            after = self._known[scope] = iptables.generation()
        if isinstance(before, int) and after != before + len(restore.blocks):
            self._suspect(scope)

    def is_suspect(self, iptables: Iptables) -> bool:
        """Whether our rules may have been changed by somebody since `look`."""
        scope = _scope(iptables)
        generation = iptables.generation()
        if generation != self._known.get(scope):
            self._known[scope] = generation
            self._suspect(scope)
        return (scope, iptables.family) in self._suspects

    def _suspect(self, scope: object) -> None:
        self._suspects |= {(scope, family) for family in IPFamily}


def _scope(iptables: Iptables) -> object:
    return iptables.backend if iptables.backend is Backend.NFT else (iptables.backend, iptables.family)
