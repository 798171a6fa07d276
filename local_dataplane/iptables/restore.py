"""From the chains that are to the chains that should be, as input for iptables-restore. Pure.

Each restore is safe by itself: a chain is written before, or with, the first rule that leads to it, and
removed after the last one is gone. So a process killed between two of them leaves every packet with the old
way or the new one.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from local_dataplane.iptables.fixed import JUMPS, Jump, Table
from local_dataplane.iptables.names import PREFIX
from local_dataplane.iptables.ruleset import ChainKey
from local_dataplane.iptables.tree import Rules

PIECE_LINES = 300
"""iptables-nft compares every chain of a restore with every other (10,000 Services take 84 s in one and 2 s
in pieces), and sends a table's part as one message, which in a user namespace may be 416 KiB long: some
700 chains and rules. iptables-legacy rewrites the table for each restore and gets everything in one."""

_LEADS_TO = re.compile(rf"-[jg] ({PREFIX}\S+)$")


@dataclass(frozen=True, slots=True)
class Block:
    """One table's part of a restore; the kernel takes it as a whole or not at all. `writes`: chains with
    all their rules; `commands`: what else, in order, after them."""

    table: Table
    writes: tuple[tuple[str, Rules], ...] = ()
    commands: tuple[str, ...] = ()

    def lines(self) -> Iterator[tuple[str, str, str]]:
        """(line, chain, rule), the latter two empty where the line is of no chain."""
        yield f"*{self.table}", "", ""
        for chain, _ in self.writes:
            yield f":{chain} - [0:0]", chain, ""
        for chain, rules in self.writes:
            for rule in rules:
                yield f"-A {chain} {rule}", chain, rule
        for command in self.commands:
            yield command, "", ""
        yield "COMMIT", "", ""


@dataclass(frozen=True, slots=True)
class Restore:
    """One call of `iptables-restore --noflush`."""

    blocks: tuple[Block, ...]

    def text(self) -> str:
        return "".join(f"{line}\n" for block in self.blocks for line, _, _ in block.lines())

    def at_line(self, number: int) -> tuple[str, str]:
        """The chain and rule that line `number` (from 1) is about; empty where there is none."""
        lines = [(chain, rule) for block in self.blocks for _, chain, rule in block.lines()]
        return lines[number - 1] if 0 < number <= len(lines) else ("", "")

    @property
    def rule_count(self) -> int:
        return sum(len(rules) for block in self.blocks for _, rules in block.writes)


@dataclass(slots=True)
class Saved:
    """What the kernel has of ours, read from `iptables-save`.

    - `chains`: our chains and their rules.
    - `positions`: jump -> where it stands among the rules of its built-in chain, from 0; for each copy.
    - `strays`: (table, rule with its `-A CHAIN`) of rules in other chains that lead to ours, jumps included.
    """

    chains: dict[ChainKey, Rules] = field(default_factory=dict)
    positions: dict[Jump, tuple[int, ...]] = field(default_factory=dict)
    strays: list[tuple[Table, str]] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        return not self.chains and not self.strays


def parse_save(text: str) -> Saved:
    """Read the output of `iptables-save`, of one table or several. Tables that we do not use are skipped."""
    saved = Saved()
    bodies: dict[ChainKey, list[str]] = {}
    table: Table | None = None
    for line in text.splitlines():
        if line.startswith("*"):
            table = next((t for t in Table if t == line[1:]), None)
        elif table is None:
            continue
        elif line.startswith(f":{PREFIX}"):
            bodies[table, line[1:].split()[0]] = []
        elif line.startswith("-A "):
            _, chain, rule = (*line.split(" ", 2), "")[:3]
            if chain.startswith(PREFIX):
                bodies[table, chain].append(rule)
            else:
                bodies.setdefault((table, chain), []).append(rule)
                if _LEADS_TO.search(rule):
                    saved.strays.append((table, line))
    saved.chains = {key: tuple(rules) for key, rules in bodies.items() if key[1].startswith(PREFIX)}
    for jump in JUMPS:
        rules = bodies.get((jump.table, jump.chain), [])
        saved.positions[jump] = tuple(i for i, rule in enumerate(rules) if rule == jump.rule)
    return saved


def jump_commands(saved: Saved, *, insist_first: bool) -> dict[Table, list[str]]:
    """What puts our jumps where they belong: once each and, with `insist_first`, before all other rules.

    Only a start insists. Two programs that both did so again and again would never come to rest."""
    commands: dict[Table, list[str]] = {}
    for jump, positions in saved.positions.items():
        if positions == (0,) or (len(positions) == 1 and not insist_first):
            continue
        body = f"{jump.chain} {jump.rule}"
        fix = [f"-D {body}"] * len(positions) + [f"-I {jump.chain} 1 {jump.rule}"]
        commands.setdefault(jump.table, []).extend(fix)
    return commands


def restores(
    wanted: Mapping[ChainKey, Rules],
    have: Mapping[ChainKey, Rules],
    keys: Collection[ChainKey],
    commands: Mapping[Table, list[str]],
    *,
    chunked: bool,
) -> list[Restore]:
    """What brings `keys` from `have` to `wanted`, in this order; nothing is removed yet. `commands` (jumps)
    come with the last one. Chains that are led to are written before those that lead there."""
    different = {key for key in keys if key in wanted and wanted[key] != have.get(key)}
    blocks = []
    for table in Table:
        ordered = _callees_first({chain for t, chain in different if t is table}, table, wanted)
        lengths = [1 + len(wanted[table, chain]) for chain in ordered]
        parts = _pieces(ordered, lengths) if chunked else [ordered] if ordered else []
        if commands.get(table) and not parts:
            parts = [[]]
        for number, part in enumerate(parts, 1):
            last = tuple(commands.get(table, ())) if number == len(parts) else ()
            blocks.append(Block(table, tuple((chain, wanted[table, chain]) for chain in part), last))
    if not chunked or len(blocks) <= len(Table):
        return [Restore(tuple(blocks))] if blocks else []
    return [Restore((block,)) for block in blocks]


def removals(
    wanted: Mapping[ChainKey, Rules], have: Mapping[ChainKey, Rules], *, chunked: bool
) -> list[Restore]:
    """What removes chains that nothing leads to any more. Emptied first, they may lead to one another."""
    found = []
    for table in reversed(Table):  # as long as anything marks, what is marked is refused
        dead = sorted(chain for t, chain in have if t is table and (t, chain) not in wanted)
        dead = _callees_first(dead, table, have)[::-1]
        for part in _pieces(dead, [2] * len(dead)) if chunked else [dead] if dead else []:
            writes, deletions = tuple((c, ()) for c in part), tuple(f"-X {c}" for c in part)
            found.append(Restore((Block(table, writes, deletions),)))
    return found


def _pieces(chains: list[str], lengths: list[int]) -> list[list[str]]:
    """Runs of chains of PIECE_LINES together at most; a longer chain stands alone."""
    pieces: list[list[str]] = []
    left = 0
    for chain, length in zip(chains, lengths, strict=True):
        if not pieces or length > left:
            pieces.append([])
            left = PIECE_LINES
        pieces[-1].append(chain)
        left -= length
    return pieces


def detachments(saved: Saved) -> list[Restore]:
    """What takes away all that leads to our chains: no new packet comes to them afterwards."""
    found = []
    for table in reversed(Table):
        rules = [f"-D {line.removeprefix('-A ')}" for t, line in saved.strays if t is table]
        if rules:
            found.append(Restore((Block(table, (), tuple(rules)),)))
    return found


def _callees_first(chains: Iterable[str], table: Table, wanted: Mapping[ChainKey, Rules]) -> list[str]:
    """The chains in an order in which none leads to a later one. Sorted where that leaves a choice."""
    pending = set(chains)
    ordered: list[str] = []
    for start in sorted(pending):
        path = [(start, False)]
        while path:
            chain, is_done = path.pop()
            if is_done:
                ordered.append(chain)
            elif chain in pending:
                pending.discard(chain)
                path.append((chain, True))
                path += [(target, False) for target in _targets(wanted[table, chain]) if target in pending]
    return ordered


def _targets(rules: Rules) -> list[str]:
    return [match[1] for rule in rules if (match := _LEADS_TO.search(rule))]
