"""Which UDP flows contradict the forwarding table. Pure.

Rules decide only on a flow's first packet; connection tracking repeats the decision for all that follow. TCP
ends when its endpoint does; a UDP client that keeps sending would be sent to a dead endpoint for ever.
Policies and hints are ignored on purpose: a flow to an endpoint that still serves is never cut.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from lbprov.model import IPFamily, L4Protocol
from local_dataplane.config import NodeConfig
from local_dataplane.endpoints import Backend
from local_dataplane.table import ForwardingTable, Frontend

Address = bytes
"""4 or 16 bytes, network order."""


class Flow(NamedTuple):
    """A tracked UDP flow: where its client sends to, and who answers. `handle`: the kernel's name for it."""

    family: IPFamily
    destination: Address
    port: int
    answerer: Address
    answerer_port: int
    handle: bytes = b""

    @property
    def is_forwarded(self) -> bool:
        return (self.destination, self.port) != (self.answerer, self.answerer_port)


Served = dict[Frontend, frozenset[Backend]]
"""Frontend -> every backend that may be answering there."""


def udp_served(table: ForwardingTable) -> Served:
    served: Served = {}
    for frontend in table.frontends(L4Protocol.UDP):
        holder = table.holder(frontend)
        assert holder is not None
        served[frontend] = frozenset(table.states[holder.key].choice.serving)
    return served


@dataclass(slots=True)
class FlowJudge:
    """- `served`: what is forwarded now; `formerly`: what was and no longer is, with its backends then.
    - `orphans`: backends of chains that nothing leads to; a run before us was killed before it came to
      judge their flows.
    - `has_nodeports(address)`: whether NodePorts are served on this address of the node.
    """

    served: Mapping[Frontend, frozenset[Backend]]
    has_nodeports: Callable[[Address], bool]
    formerly: Mapping[Frontend, frozenset[Backend]] = field(default_factory=dict)
    orphans: frozenset[Backend] = frozenset()

    @property
    def has_work(self) -> bool:
        return bool(self.served or self.formerly or self.orphans)

    def stale(self, flows: Iterable[Flow]) -> list[Flow]:
        now, then = _index(self.served), _index(self.formerly)
        orphans = {(packed(b.address), b.port) for b in self.orphans}
        return [flow for flow in flows if self._is_stale(flow, now, then, orphans)]

    def _is_stale(self, flow: Flow, now: _Index, then: _Index, orphans: set[tuple[Address, int]]) -> bool:
        answerer = (flow.answerer, flow.answerer_port)
        allowed = self._find(flow, now)
        if allowed is not None:
            return answerer not in allowed
        former = self._find(flow, then)
        if former is not None:
            return answerer in former
        return flow.is_forwarded and answerer in orphans

    def _find(self, flow: Flow, index: _Index) -> set[tuple[Address, int]] | None:
        found = index.get((flow.destination, flow.port))
        if found is None and (b"", flow.port) in index and self.has_nodeports(flow.destination):
            found = index[b"", flow.port]
        return found


_Index = dict[tuple[Address, int], set[tuple[Address, int]]]


def _index(served: Mapping[Frontend, frozenset[Backend]]) -> _Index:
    return {
        (packed(f.address) if f.address else b"", f.port): {(packed(b.address), b.port) for b in backends}
        for f, backends in served.items()
    }


def packed(address: str) -> Address:
    return ipaddress.ip_address(address).packed


def nodeport_addresses(config: NodeConfig, is_local: Callable[[Address], bool]) -> Callable[[Address], bool]:
    """For `FlowJudge`. Asks `is_local` once per address."""
    known: dict[Address, bool] = {}
    networks = [ipaddress.ip_network(cidr) for cidr in config.nodeport_addresses]

    def has_nodeports(address: Address) -> bool:
        if address not in known:
            ip = ipaddress.ip_address(address)
            inside = not networks or any(ip in network for network in networks)
            known[address] = inside and not ip.is_loopback and is_local(address)
        return known[address]

    return has_nodeports
