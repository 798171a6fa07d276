"""What the dataplane asks of the kernel's packet filter: four methods, one family, one backend."""

from __future__ import annotations

import typing
from enum import StrEnum

from lbprov.model import IPFamily, LbprovError
from local_dataplane.iptables.fixed import Table


class Backend(StrEnum):
    """Which of the two packet filters behind the name iptables. They do not see each other's rules; packets
    meet both."""

    NFT = "nft"
    LEGACY = "legacy"


class Refused(LbprovError):
    """The kernel or iptables took a table of the restore not at all. `line` (from 1) as far as it is told:
    nft tells the line of the rule, legacy often only that of COMMIT."""

    def __init__(self, message: str, line: int = 0) -> None:
        super().__init__(message)
        self.line = line


class Busy(LbprovError):
    """Somebody else holds the xtables lock, or changed the rules at the same time: try again soon."""


class Iptables(typing.Protocol):
    """One family's rules in one backend, in the network namespace of this process."""

    @property
    def family(self) -> IPFamily: ...

    @property
    def backend(self) -> Backend: ...

    def save(self, *tables: Table) -> str:
        """The rules of these tables as `iptables-save` prints them."""

    def restore(self, text: str) -> None:
        """`iptables-restore --noflush`: each table of the text as a whole or not at all, one after the
        other. Raises Refused, Busy."""

    def generation(self) -> object:
        """A value that differs after anybody has changed rules (in legacy: their number or size). Costs
        microseconds."""
