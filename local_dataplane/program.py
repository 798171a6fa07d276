"""One family's chains in the kernel: brought to what the ruleset says, and kept there.

State, not deltas: what is wanted and what the kernel has are both known, and a write is their difference. A
write that fails loses nothing; whatever was interrupted, the next one goes on from what is there.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from types import MappingProxyType

from lbprov.model import IPFamily, L4Protocol, ProviderError
from local_dataplane.config import NodeFacts
from local_dataplane.endpoints import Backend as Endpoint
from local_dataplane.iptables import names, read_back
from local_dataplane.iptables import restore as plans
from local_dataplane.iptables.fixed import Table
from local_dataplane.iptables.restore import Restore
from local_dataplane.iptables.ruleset import ChainKey, Ruleset
from local_dataplane.iptables.tree import Rules
from local_dataplane.kernel.seam import Backend, Iptables, Refused
from local_dataplane.kernel.watch import RuleWatch
from local_dataplane.mode import Forwarded, Written
from local_dataplane.table import ForwardingTable, PortKey, ServiceState

log = logging.getLogger(__name__)


class _Failed(Exception):
    """Never leaves this module."""

    def __init__(self, restore: Restore, refused: Refused) -> None:
        super().__init__(str(refused))
        self.restore = restore
        self.refused = refused


class FamilyProgram:
    """See `Program` in local_dataplane.mode: its iptables."""

    def __init__(self, iptables: Iptables, ruleset: Ruleset, watch: RuleWatch) -> None:
        self.iptables = iptables
        self.ruleset = ruleset
        self.left_out: dict[PortKey, ServiceState] = {}
        self._watch = watch
        self._have: dict[ChainKey, Rules] = {}
        self._jumps: Mapping[Table, list[str]] = {}
        self._undeletable: set[ChainKey] = set()
        self._read(insist_first=True)

    @property
    def family(self) -> IPFamily:
        return self.iptables.family

    @property
    def table(self) -> ForwardingTable:
        return self.ruleset.table

    @property
    def is_chunked(self) -> bool:
        return self.iptables.backend is Backend.NFT

    @property
    def chains(self) -> Mapping[ChainKey, Rules]:
        """What the kernel has of ours, as far as we know."""
        return self._have

    @property
    def rules_held(self) -> int:
        return sum(map(len, list(self._have.values())))

    @property
    def dead_chains(self) -> int:
        return len(self._have.keys() - self.ruleset.chains.keys())

    @property
    def guards_localhost(self) -> bool:
        return read_back.has_guard(self._have)

    def forwarded(self) -> list[Forwarded]:
        return read_back.forwarded(self._have)

    def unused_backends(self) -> frozenset[tuple[L4Protocol, Endpoint]]:
        return read_back.unused_backends(self._have)

    # ── what is called ──

    def set_node(self, node: NodeFacts) -> None:
        self.ruleset.set_node(node)

    def set_health_ports(self, ports: frozenset[int]) -> None:
        self.ruleset.set_health_ports(ports)

    def apply(self, changes: Mapping[PortKey, ServiceState | None]) -> Written:
        for key in changes:
            self.left_out.pop(key, None)
        self.ruleset.replace(changes.items())
        return self._commit()

    def retry_left_out(self) -> Written:
        return self.apply(dict(self.left_out)) if self.left_out else Written()

    def sweep(self) -> Written:
        written = Written()
        while True:
            have = {key: rules for key, rules in self._have.items() if key not in self._undeletable}
            plan = plans.removals(self.ruleset.chains, have, chunked=self.is_chunked)
            if not plan:
                return written
            try:
                written += self._carry_out(plan[:1])
            except _Failed as failure:
                # Somebody else's rule leads to a chain of ours, for instance.
                self._blame_chain(failure, plan[0])
                self._read(insist_first=False)

    def check(self, *, thoroughly: bool = False) -> Written | None:
        if not thoroughly and not self._watch.is_suspect(self.iptables):
            return None
        self._undeletable.clear()
        expected = {key: rules for key, rules in self._have.items() if key in self.ruleset.chains}
        self._read(insist_first=False)
        wrong = [key for key, rules in expected.items() if self._have.get(key) != rules]
        if not wrong and not self._jumps:
            return None
        missing_jumps = sum(len(commands) for commands in self._jumps.values())
        log.warning(
            "rules were changed by somebody else, repairing",
            extra={
                "family": str(self.iptables.family),
                "chains": len(wrong),
                "jumps": missing_jumps,
            },
        )
        return self._commit()

    # ── writing ──

    def _commit(self) -> Written:
        """Write what is dirty. A refusal is first taken for a sign that our picture is old."""
        try:
            return self._write()
        except _Failed:
            self._read(insist_first=False)
        try:
            return self._write()
        except _Failed as failure:
            self._read(insist_first=False)
            refused = self._find_refused(failure)
            for key, message in refused.items():
                self._leave_out(key, message)
            return self._commit() + Written(refused=refused)

    def _write(self) -> Written:
        written = self._carry_out(self._plan(self.ruleset.dirty, self._jumps))
        self.ruleset.dirty.clear()
        self._jumps = {}
        return written

    def _plan(
        self, keys: Collection[ChainKey], jumps: Mapping[Table, list[str]] = MappingProxyType({})
    ) -> list[Restore]:
        return plans.restores(self.ruleset.chains, self._have, keys, jumps, chunked=self.is_chunked)

    def _carry_out(self, plan: list[Restore]) -> Written:
        written = Written()
        for restore in plan:
            try:
                self._watch.restore(self.iptables, restore)
            except Refused as refused:
                raise _Failed(restore, refused) from refused
            for block in restore.blocks:
                self._have.update({(block.table, chain): rules for chain, rules in block.writes})
                for command in block.commands:
                    if command.startswith("-X "):
                        del self._have[block.table, command[3:]]
            written += Written(restore.rule_count, 1)
        return written

    def _read(self, *, insist_first: bool) -> None:
        """Learn what the kernel has; what differs from what is wanted becomes dirty."""
        self._watch.look(self.iptables)
        saved = plans.parse_save(self.iptables.save(*Table))
        self._have = saved.chains
        self._jumps = plans.jump_commands(saved, insist_first=insist_first)
        self.ruleset.dirty |= {k for k, rules in self.ruleset.chains.items() if saved.chains.get(k) != rules}

    # ── refusals ──

    def _find_refused(self, failure: _Failed) -> dict[PortKey, str]:
        """The Service ports that the kernel will not have, and its words; one at least.

        Their chains are tried while nothing leads to them yet, so that no other Service is disturbed by the
        search: old chains lead on to what they led to. What is taken on the way is part of the whole."""
        chains: dict[PortKey, list[ChainKey]] = {}
        common = []
        for table, chain in sorted(self.ruleset.dirty & self.ruleset.chains.keys()):
            owner = self.ruleset.owner(chain)
            if owner:
                chains.setdefault(owner, []).append((table, chain))
            elif chain in names.FIXED:
                common.append((table, chain))
        try:
            self._carry_out(self._plan(common))
        except _Failed as worse:
            raise _refused_for_all(worse) from worse.refused
        refused = self._try_chains(chains)
        if refused:
            return refused
        guilty = self.ruleset.owner(*failure.restore.at_line(failure.refused.line))
        if guilty:
            return {guilty: str(failure.refused)}
        raise _refused_for_all(failure) from failure.refused

    def _try_chains(self, chains: Mapping[PortKey, list[ChainKey]]) -> dict[PortKey, str]:
        """By the line that is complained about; by halves where the kernel does not tell."""
        if not chains:
            return {}
        keys = [key for part in chains.values() for key in part]
        try:
            self._carry_out(self._plan(keys))
        except _Failed as failure:
            guilty = self.ruleset.owner(*failure.restore.at_line(failure.refused.line))
            suspects = [guilty] if guilty and guilty in chains else list(chains)
            if len(suspects) > 1:
                middle = len(suspects) // 2
                halves = (suspects[:middle], suspects[middle:])
                found = [self._try_chains({key: chains[key] for key in half}) for half in halves]
                return found[0] | found[1]
            others = {key: part for key, part in chains.items() if key != suspects[0]}
            return {suspects[0]: str(failure.refused)} | self._try_chains(others)
        return {}

    def _leave_out(self, key: PortKey, message: str) -> None:
        state = self.ruleset.table.states.get(key)
        if state is not None:
            self.left_out[key] = state
        self.ruleset.replace([(key, None)])
        log.error(
            "the kernel refuses a Service, it is left out",
            extra={"service": str(key), "family": str(key.family), "reason": message},
        )

    def _blame_chain(self, failure: _Failed, restore: Restore) -> None:
        lines = [line for block in restore.blocks for line, _, _ in block.lines()]
        number = failure.refused.line
        line = lines[number - 1] if 0 < number <= len(lines) else ""
        table = restore.blocks[0].table
        chains = [line[3:]] if line.startswith("-X ") else [c for b in restore.blocks for c, _ in b.writes]
        self._undeletable |= {(table, chain) for chain in chains}
        log.warning(
            "a chain that is no longer used cannot be removed",
            extra={"chains": len(chains), "first": chains[0], "reason": str(failure.refused)},
        )


def _refused_for_all(failure: _Failed) -> ProviderError:
    chain, rule = failure.restore.at_line(failure.refused.line)
    where = f" (in {chain}: {rule})" if chain else ""
    return ProviderError(f"iptables refuses the rules that every Service needs: {failure.refused}{where}")
