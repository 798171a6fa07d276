"""Ends UDP flows that the forwarding table no longer allows, after the rules have changed."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from lbprov.model import IPFamily, L4Protocol
from local_dataplane.config import NodeConfig, NodeFacts
from local_dataplane.endpoints import Backend
from local_dataplane.flows import FlowJudge, Served, nodeport_addresses, udp_served
from local_dataplane.kernel.conntrack import Conntrack, is_local
from local_dataplane.mode import Forwarded, Program

log = logging.getLogger("local_dataplane")


class FlowKeeper:
    """`remember` before the first write, `judge` after every one. It looks at flows only if what is served by
    UDP has changed since the last time that it could."""

    def __init__(self, conntrack: Conntrack, config: NodeConfig) -> None:
        self._conntrack = conntrack
        self._config = config
        self._before: dict[IPFamily, Served] = {}  # what was served when flows were last judged
        self._orphans: dict[IPFamily, frozenset[Backend]] = {}
        self._unjudged: set[IPFamily] = set()
        self._complained = False

    def set_node(self, node: NodeFacts) -> None:
        """Its addresses may be those that serve NodePorts."""
        self._config = self._config.for_node(node)

    def remember(self, program: Program) -> None:
        """What a run before us served, by the rules that it left."""
        family = program.family
        self._before[family] = {
            f.frontend: frozenset(f.backends)
            for f in program.forwarded()
            if f.frontend.protocol is L4Protocol.UDP
        }
        unused = program.unused_backends()
        self._orphans[family] = frozenset(b for protocol, b in unused if protocol is L4Protocol.UDP)
        self._unjudged.add(family)

    def remember_elsewhere(self, family: IPFamily, found: Iterable[Forwarded]) -> None:
        """What a run before us served in another mode. After `remember`."""
        served = {f.frontend: frozenset(f.backends) for f in found if f.frontend.protocol is L4Protocol.UDP}
        self._before[family] = served | self._before.get(family, {})

    def judge(self, program: Program) -> int:
        """How many flows were ended."""
        family = program.family
        served, before = udp_served(program.table), self._before.get(family, {})
        if served == before and family not in self._unjudged:
            return 0
        judge = FlowJudge(
            served,
            nodeport_addresses(self._config, is_local),
            formerly={frontend: backends for frontend, backends in before.items() if frontend not in served},
            orphans=self._orphans.get(family, frozenset()),
        )
        try:
            stale = judge.stale(self._conntrack.udp_flows(family)) if judge.has_work else []
            ended = self._conntrack.delete(stale)
        except OSError as error:
            self._complain(error)
            return 0
        self._before[family] = served
        self._unjudged.discard(family)
        self._orphans.pop(family, None)
        if ended:
            log.info(
                "ended UDP flows to endpoints that are gone", extra={"flows": ended, "family": str(family)}
            )
        return ended

    def _complain(self, error: OSError) -> None:
        if not self._complained:
            self._complained = True
            log.warning(
                "UDP flows to endpoints that are gone cannot be ended: connection tracking cannot be read; "
                "load the module nf_conntrack_netlink",
                extra={"reason": str(error)},
            )
