"""Notices that somebody else has changed our table, without reading it."""

from __future__ import annotations

from collections.abc import Sequence

from local_dataplane.kernel.nft_seam import Nftables, Unit


class NftWatch:
    """Of one family's table."""

    def __init__(self) -> None:
        self._generation = -1
        self._is_suspect = False

    def look(self, kernel: Nftables) -> None:
        """Call before reading the table: what happens after this will be noticed."""
        kernel.touched()
        self._generation = kernel.generation()
        self._is_suspect = False

    def commit(self, kernel: Nftables, units: Sequence[Unit]) -> int:
        """Carry out, and tell our transactions from others' around them."""
        before = kernel.generation()
        transactions = 0
        try:
            transactions = kernel.commit(units)
        finally:
            touched = kernel.touched()
            after = kernel.generation()
            # A large transaction of ours is more than `touched` can listen to.
            is_ours_alone = before == self._generation and after == before + transactions
            self._is_suspect |= touched and not is_ours_alone
            self._generation = after
        return transactions

    def is_suspect(self, kernel: Nftables) -> bool:
        """Whether our table may have been changed by somebody since `look`."""
        self._is_suspect |= kernel.touched()
        return self._is_suspect
