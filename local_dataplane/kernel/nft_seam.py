"""What the nftables mode asks of the kernel: one table in one family."""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence

from lbprov.model import IPFamily, LbprovError
from local_dataplane.nftables.objects import Change, Contents

Unit = Sequence[Change]
"""Changes that belong together: in one transaction, and refused together."""


class Rejected(LbprovError):
    """The kernel took nothing of a transaction. `units`: index of each unit that it would not have -> its
    words."""

    def __init__(self, units: Mapping[int, str]) -> None:
        first = next(iter(units.values()), "")
        more = f" (and {len(units) - 1} more)" if len(units) > 1 else ""
        super().__init__(f"{first}{more}")
        self.units = dict(units)


class Nftables(typing.Protocol):
    """Our table of one family, in the network namespace of this process. Foreign tables are neither read nor
    written."""

    @property
    def family(self) -> IPFamily: ...

    def read(self) -> Contents | None:
        """None where there is no such table. Raises Busy where it changes faster than it can be read."""

    def commit(self, units: Sequence[Unit]) -> int:
        """Carry them out, in one transaction, or in several where the kernel limits a message's length;
        returns how many. Each is taken as a whole or not at all. Raises Rejected; Busy (what is there now is
        not known); UserError without the right to."""

    def check(self, unit: Unit) -> None:
        """`commit` without doing it. Raises the same."""

    def generation(self) -> int:
        """Counts the transactions of everybody. Costs microseconds."""

    def touched(self) -> bool:
        """Whether somebody else has changed our table since the last call; True, too, where that cannot be
        told. Costs microseconds."""
