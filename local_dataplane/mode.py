"""What the agent asks of a mode, iptables or nftables: one family's forwarding in the kernel, kept true."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import dataclass, field

from lbprov.model import IPFamily, L4Protocol
from local_dataplane.config import NodeFacts
from local_dataplane.endpoints import Backend
from local_dataplane.table import ForwardingTable, Frontend, PortKey, ServiceState


@dataclass(slots=True)
class Written:
    """What came of a call: `rules` written (in nftables: elements and rules), in how many `restores`
    (transactions); `refused`: what the kernel would not have, and in what words. Those ports are not
    forwarded."""

    rules: int = 0
    restores: int = 0
    refused: dict[PortKey, str] = field(default_factory=dict)

    def __add__(self, other: Written) -> Written:
        return Written(self.rules + other.rules, self.restores + other.restores, self.refused | other.refused)


@dataclass(frozen=True, slots=True)
class Forwarded:
    """A frontend in the kernel. `label` is its Service's port; no backends: refused or dropped."""

    frontend: Frontend
    label: str
    backends: tuple[Backend, ...]


class Program(typing.Protocol):
    """One family. Not for several threads."""

    @property
    def family(self) -> IPFamily: ...

    @property
    def table(self) -> ForwardingTable:
        """What is wanted."""

    @property
    def left_out(self) -> Mapping[PortKey, ServiceState]:
        """What the kernel refuses."""

    @property
    def rules_held(self) -> int:
        """Rules of ours in the kernel (in nftables, elements too), as far as we know. May be asked from
        another thread."""

    @property
    def dead_chains(self) -> int:
        """Chains in the kernel that nothing leads to any more; `sweep` removes them."""

    @property
    def guards_localhost(self) -> bool:
        """Whether the kernel has the rule that route_localnet must not be without."""

    def set_node(self, node: NodeFacts) -> None: ...

    def set_health_ports(self, ports: frozenset[int]) -> None:
        """Services' health check node ports, to be let in, where the mode can. Written with what is applied
        next."""

    def apply(self, changes: Mapping[PortKey, ServiceState | None]) -> Written:
        """Take over new states. Raises Busy (call again, with no changes or with more); ProviderError where
        the kernel refuses even what belongs to no Service."""

    def retry_left_out(self) -> Written: ...

    def sweep(self) -> Written:
        """Remove chains that nothing leads to any more."""

    def check(self, *, thoroughly: bool = False) -> Written | None:
        """Compare with the kernel if somebody may have changed it, or in any case; repair. None: nothing
        was wrong."""

    def forwarded(self) -> list[Forwarded]:
        """What the kernel forwards, as far as we know."""

    def unused_backends(self) -> frozenset[tuple[L4Protocol, Backend]]:
        """Where chains send to that no packet reaches any more."""
