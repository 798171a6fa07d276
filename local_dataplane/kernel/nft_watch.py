"""Notices that somebody else has changed nf_tables, without reading them."""

from __future__ import annotations

from collections.abc import Sequence

from lbprov.model import IPFamily
from local_dataplane.kernel.nft_seam import Nftables, Unit


class NftWatch:
    """Knows the generation that our own transactions lead to; any other is somebody else's doing. One watch
    serves both families: they share one generation."""

    def __init__(self) -> None:
        self._known = -1
        self._suspects: set[IPFamily] = set()

    def look(self, kernel: Nftables) -> None:
        """Call before reading the table: what happens after this will be noticed."""
        generation = kernel.generation()
        if generation != self._known:
            self._suspects |= set(IPFamily)
        self._known = generation
        self._suspects.discard(kernel.family)

    def commit(self, kernel: Nftables, units: Sequence[Unit]) -> int:
        """Carry out, and tell our transactions from others' around them."""
        before = kernel.generation()
        transactions = 0
        try:
            transactions = kernel.commit(units)
        finally:
            after = kernel.generation()
            if before != self._known or after != before + transactions:
                self._suspects |= set(IPFamily)
            self._known = after
        return transactions

    def is_suspect(self, kernel: Nftables) -> bool:
        """Whether our table may have been changed by somebody since `look`."""
        generation = kernel.generation()
        if generation != self._known:
            self._known = generation
            self._suspects |= set(IPFamily)
        return kernel.family in self._suspects
