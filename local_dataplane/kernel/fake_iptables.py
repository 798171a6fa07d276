"""iptables in memory: takes the same text, refuses what the kernel refuses, can be killed at any restore.

It knows tables, chains and rules as text; what a rule means it does not know (see `iptables.trace` for that).
"""

from __future__ import annotations

from lbprov.model import IPFamily
from local_dataplane.iptables.fixed import Table
from local_dataplane.kernel.seam import Backend, Refused

_BUILT_IN = {
    Table.FILTER: ("INPUT", "FORWARD", "OUTPUT"),
    Table.NAT: ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
}
_VERDICTS = {"ACCEPT", "DROP", "REJECT", "RETURN", "MARK", "MASQUERADE", "DNAT"}

Chains = dict[str, list[str]]


class Killed(BaseException):
    """What a test sees where the process would have been killed."""


class FakeIptables:
    """- `refuse`: a rule that contains any of these texts is refused.
    - `kill_before`: count of restores after which the next one raises `Killed` and does nothing; -1: never.
    - `texts`: every restore that was asked for.
    """

    def __init__(self, family: IPFamily = IPFamily.IPV4, backend: Backend = Backend.NFT) -> None:
        self._family = family
        self._backend = backend
        self.tables: dict[Table, Chains] = {t: {c: [] for c in names} for t, names in _BUILT_IN.items()}
        self.refuse: set[str] = set()
        self.kill_before = -1
        self.texts: list[str] = []
        self.saves = 0
        self._generation = 1

    @property
    def family(self) -> IPFamily:
        return self._family

    @property
    def backend(self) -> Backend:
        return self._backend

    def generation(self) -> object:
        return self._generation

    def save(self, *tables: Table) -> str:
        self.saves += 1
        lines = []
        for table in tables:
            lines.append(f"*{table}")
            chains = self.tables[table]
            lines += [f":{c} {'ACCEPT' if c in _BUILT_IN[table] else '-'} [0:0]" for c in chains]
            lines += [f"-A {c} {rule}" for c, rules in chains.items() for rule in rules]
            lines.append("COMMIT")
        return "\n".join(["# made by nobody", *lines, ""])

    def restore(self, text: str) -> None:
        if self.kill_before == 0:
            raise Killed
        self.kill_before -= 1
        self.texts.append(text)
        table, chains = Table.FILTER, Chains()
        for number, line in enumerate(text.splitlines(), 1):
            if line.startswith("*"):
                table = Table(line[1:])
                chains = {name: list(rules) for name, rules in self.tables[table].items()}
            elif line == "COMMIT":
                self._check(chains, number)
                self.tables[table] = chains
                self._generation += 1
            else:
                self._line(line, chains, table, number)

    def foreign(self, table: Table, chain: str, rules: list[str] | None) -> None:
        """Somebody else sets a chain's rules, or (None) deletes the chain."""
        if rules is None:
            del self.tables[table][chain]
        else:
            self.tables[table][chain] = rules
        self._generation += 1

    def _line(self, line: str, chains: Chains, table: Table, number: int) -> None:
        if any(text in line for text in self.refuse):
            # Legacy tells no line of what the kernel refuses.
            raise Refused(f"Invalid argument: {line}", number if self._backend is Backend.NFT else 0)
        if line.startswith(":"):
            chains[line[1:].split()[0]] = []
            return
        verb, chain, rule = (*line.split(" ", 2), "")[:3]
        if chain not in chains:
            raise Refused(f"no chain {chain}", number)
        if verb == "-A":
            chains[chain].append(rule)
        elif verb == "-I":
            position, _, rule = rule.partition(" ")
            chains[chain].insert(int(position) - 1, rule)
        elif verb == "-D":
            if rule not in chains[chain]:
                raise Refused(f"no such rule: {line}", number)
            chains[chain].remove(rule)
        elif verb == "-X":
            if chain in _BUILT_IN[table] or chains[chain]:
                raise Refused(f"chain {chain} is not empty", number)
            if any(_target(r) == chain for rules in chains.values() for r in rules):
                raise Refused(f"chain {chain} is in use", number)
            del chains[chain]
        else:
            raise Refused(f"unknown command: {line}", number)

    def _check(self, chains: Chains, number: int) -> None:
        for name, rules in chains.items():
            for rule in rules:
                if _target(rule) not in _VERDICTS | chains.keys():
                    raise Refused(f"no target {_target(rule)} (in {name})", number)


def _target(rule: str) -> str:
    words = rule.split()
    return next(words[i + 1] for i, word in enumerate(words) if word in ("-j", "-g"))
