"""What kube-proxy leaves in iptables when it ends, and what takes that away. Pure.

Its chains are named `KUBE-…`, and so are a few of the kubelet's, which stay. A chain that somebody else's
rule leads to stays, too, with all that it leads to: a CNI plugin may use KUBE-MARK-MASQ.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_KUBELETS = frozenset({"KUBE-FIREWALL", "KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY", "KUBE-MARK-DROP"})
_OWN = re.compile(
    r"KUBE-(SERVICES|EXTERNAL-SERVICES|NODEPORTS|NODE-PORT|FORWARD|POSTROUTING|PROXY-FIREWALL|PROXY-CANARY|MARK-MASQ"
    r"|LOAD-BALANCER|SOURCE-RANGES-FIREWALL|IPVS-FILTER|IPVS-OUT-FILTER|(SVC|SVL|SEP|EXT|FW|XLB)-[A-Z0-9]{16})$"
)
_LEADS_TO = re.compile(r"-[jg] (\S+)")
PIECE_LINES = 300
"""iptables-nft's time grows with the square of the lines of one restore."""


@dataclass(slots=True)
class _Table:
    name: str
    rules: dict[str, list[str]] = field(default_factory=dict)  # chain -> its rules, each with `-A CHAIN`
    built_in: set[str] = field(default_factory=set)

    def removable(self) -> set[str]:
        wanted = {c for c in self.rules if _OWN.match(c) and c not in _KUBELETS}
        kept = {
            target
            for chain, rules in self.rules.items()
            if chain not in wanted and chain not in self.built_in
            for target in _targets(rules)
        } & wanted
        todo = list(kept)
        while todo:
            for target in _targets(self.rules[todo.pop()]):
                if target in wanted and target not in kept:
                    kept.add(target)
                    todo.append(target)
        return wanted - kept


def leftovers(saved: str) -> list[str]:
    """Texts for `iptables-restore --noflush`, in this order; `saved` is what iptables-save says. The first
    ones take away what leads packets there."""
    tables = _parsed(saved)
    removable = {table.name: sorted(table.removable()) for table in tables}
    jumps: list[str] = []
    emptied: list[str] = []
    deleted: list[str] = []
    for table in tables:
        gone = set(removable[table.name])
        rules = [
            f"-D {rule.removeprefix('-A ')}"
            for chain in sorted(table.built_in)
            for rule in table.rules.get(chain, ())
            if gone.intersection(_targets([rule]))
        ]
        jumps += _texts(table.name, rules)
        emptied += _texts(table.name, [f":{chain} - [0:0]" for chain in removable[table.name]])
        deleted += _texts(table.name, [f"-X {chain}" for chain in removable[table.name]])
    return jumps + emptied + deleted


def _texts(table: str, lines: list[str]) -> Iterator[str]:
    for start in range(0, len(lines), PIECE_LINES):
        yield "\n".join([f"*{table}", *lines[start : start + PIECE_LINES], "COMMIT", ""])


def _targets(rules: list[str]) -> set[str]:
    return {match[1] for rule in rules if (match := _LEADS_TO.search(rule))}


def _parsed(saved: str) -> list[_Table]:
    tables: list[_Table] = []
    for line in saved.splitlines():
        if line.startswith("*"):
            tables.append(_Table(line[1:].strip()))
        elif line.startswith(":") and tables:
            chain, policy = line[1:].split()[:2]
            tables[-1].rules[chain] = []
            if policy != "-":
                tables[-1].built_in.add(chain)
        elif line.startswith("-A ") and tables:
            tables[-1].rules.setdefault(line.split(" ", 2)[1], []).append(line)
    return tables
