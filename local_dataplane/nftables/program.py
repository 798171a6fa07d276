"""One family's table in the kernel: brought to what the ruleset says, and kept there.

State, not deltas: what is wanted and what the kernel has are both known, and a transaction is their
difference. One that fails loses nothing; whatever was interrupted, the next one goes on from what is there.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from lbprov.model import IPFamily, L4Protocol, ProviderError
from local_dataplane.config import NodeFacts
from local_dataplane.endpoints import Backend
from local_dataplane.kernel.nft_seam import Nftables, Rejected
from local_dataplane.kernel.nft_watch import NftWatch
from local_dataplane.kernel.seam import Busy
from local_dataplane.mode import Forwarded, Written
from local_dataplane.nftables import objects as ob
from local_dataplane.nftables import plan, read_back
from local_dataplane.nftables.objects import Contents
from local_dataplane.nftables.plan import Part
from local_dataplane.nftables.render import Place
from local_dataplane.nftables.ruleset import Ruleset
from local_dataplane.table import ForwardingTable, PortKey, ServiceState

log = logging.getLogger(__name__)


class _Failed(Exception):
    """Never leaves this module. `parts`: what the kernel would not have -> its words."""

    def __init__(self, parts: Sequence[tuple[Part, str]]) -> None:
        super().__init__(parts[0][1])
        self.parts = parts


class NftablesProgram:
    """See `Program` in local_dataplane.mode."""

    def __init__(self, kernel: Nftables, ruleset: Ruleset, watch: NftWatch) -> None:
        self.ruleset = ruleset
        self.left_out: dict[PortKey, ServiceState] = {}
        self._kernel = kernel
        self._watch = watch
        self._have: Contents | None = None
        self._undeletable: set[str] = set()
        self._traces: set[Place] = set()
        self._is_unsure = False
        self._read()
        ruleset.adopt(self._have or Contents())

    @property
    def family(self) -> IPFamily:
        return self._kernel.family

    @property
    def table(self) -> ForwardingTable:
        return self.ruleset.table

    @property
    def rules_held(self) -> int:
        have = self._have or Contents()
        rules = sum(len(chain.rules) for chain in list(have.chains.values()))
        return rules + sum(map(len, list(have.elements.values())))

    @property
    def dead_chains(self) -> int:
        chains = len(self._have.chains.keys() - self.ruleset.chains.keys()) if self._have else 0
        return chains + len(self._traces)

    @property
    def guards_localhost(self) -> bool:
        return self._have is not None and read_back.guards_localhost(self._have)

    def forwarded(self) -> list[Forwarded]:
        return read_back.forwarded(self._have) if self._have else []

    def unused_backends(self) -> frozenset[tuple[L4Protocol, Backend]]:
        return read_back.unused_backends(self._have) if self._have else frozenset()

    # ── what is called ──

    def set_node(self, node: NodeFacts) -> None:
        self.ruleset.set_node(node)

    def set_health_ports(self, ports: frozenset[int]) -> None:
        """Nothing: no table can let in what another one drops."""

    def apply(self, changes: Mapping[PortKey, ServiceState | None]) -> Written:
        for key in changes:
            self.left_out.pop(key, None)
        self.ruleset.replace(changes.items())
        return self._commit()

    def retry_left_out(self) -> Written:
        return self.apply(dict(self.left_out)) if self.left_out else Written()

    def sweep(self) -> Written:
        return self._remove_traces() + self._remove_chains()

    def _remove_traces(self) -> Written:
        changes = plan.traces(self.ruleset, self._have or Contents(), self._traces)
        try:
            written = self._carry_out([Part(None, changes)]) if changes else Written()
        except _Failed:  # somebody else has taken them away
            self._read()
            return Written()
        self._traces.clear()
        return written

    def _remove_chains(self) -> Written:
        if self._have is None:
            return Written()
        changes = plan.removals(self.ruleset, self._have, self._undeletable)
        if not changes:
            return Written()
        try:
            return self._carry_out([Part(None, changes)])
        except _Failed as failure:
            # Somebody else's rule in our table leads there, for instance.
            names = {c.name for c in changes if isinstance(c, ob.DeleteChain | ob.DeleteSet)}
            self._undeletable |= names
            log.warning(
                "chains that are no longer used cannot be removed",
                extra={"chains": len(names), "first": min(names), "reason": str(failure)},
            )
            self._read()
            return Written()

    def check(self, *, thoroughly: bool = False) -> Written | None:
        if not thoroughly and not self._is_unsure and not self._watch.is_suspect(self._kernel):
            return None
        self._undeletable.clear()
        before = self._strangers()
        self._read()
        parts, strangers = self._plan(), self._strangers() - before
        if not parts and not strangers:
            return None
        log.warning(
            "the table was changed by somebody else, repairing",
            extra={
                "family": str(self.family),
                "changes": len(strangers) + sum(len(part.changes) for part in parts),
            },
        )
        return self._commit() + (self._remove_chains() if strangers else Written())

    def _strangers(self) -> set[str]:
        """Chains and sets that are there and not wanted: ours that nothing leads to any more, or others'."""
        have = self._have or Contents()
        chains = have.chains.keys() - self.ruleset.chains.keys()
        return chains | (have.sets.keys() - self.ruleset.sets.keys())

    # ── writing ──

    def _commit(self) -> Written:
        """Write what is dirty. A refusal is first taken for a sign that our picture is old."""
        if self._is_unsure:
            self._read()
        try:
            return self._write()
        except _Failed:
            self._read()
        try:
            return self._write()
        except _Failed as failure:
            refused = {part.owner: message for part, message in failure.parts if part.owner}
            if not refused:
                raise ProviderError(
                    f"the kernel refuses what every Service needs: {failure}; nftables mode takes Linux 5.13 "
                    "with nf_tables, nft_nat, nft_fib, nft_numgen, nft_reject, nft_ct and nft_masq, or use "
                    "--mode iptables"
                ) from failure
            for key, message in refused.items():
                self._leave_out(key, message)
            return self._commit() + Written(refused=refused)

    def _write(self) -> Written:
        parts = self._plan()
        written = self._carry_out(parts) if parts else Written()
        self._note_traces()
        self.ruleset.dirty.clear()
        self.ruleset.dirty_chains.clear()
        return written

    def _plan(self) -> list[Part]:
        if self._have is None or not plan.is_alien(self.ruleset, self._have):
            return plan.parts(self.ruleset, self._have)
        log.warning("the table is of another version, it is made anew", extra={"family": str(self.family)})
        self.ruleset.compare(Contents())
        first, *others = plan.parts(self.ruleset, None)
        return [Part(None, [ob.DeleteTable(), *first.changes]), *others]

    def _carry_out(self, parts: list[Part]) -> Written:
        try:
            transactions = self._watch.commit(self._kernel, [part.changes for part in parts])
        except Rejected as rejected:
            raise _Failed([(parts[i], words) for i, words in rejected.units.items()]) from rejected
        except Busy:
            self._is_unsure = True
            raise
        for part in parts:
            self._have = plan.carry_out(part.changes, self._have)
        return Written(sum(_weight(change) for part in parts for change in part.changes), transactions)

    def _read(self) -> None:
        """Learn what the kernel has; what differs from what is wanted becomes dirty."""
        self._watch.look(self._kernel)
        self._have = self._kernel.read()
        self._is_unsure = False
        self.ruleset.compare(self._have or Contents())
        self._traces.clear()
        self._note_traces()

    def _note_traces(self) -> None:
        self._traces |= {place for place in self.ruleset.dirty if plan.is_trace(self.ruleset, place)}

    def _leave_out(self, key: PortKey, message: str) -> None:
        state = self.table.states.get(key)
        if state is not None:
            self.left_out[key] = state
        self.ruleset.replace([(key, None)])
        log.error(
            "the kernel refuses a Service, it is left out",
            extra={"service": str(key), "family": str(key.family), "reason": message},
        )


def _weight(change: ob.Change) -> int:
    if isinstance(change, ob.AddElements):
        return len(change.elements)
    return int(isinstance(change, ob.AddRule))
