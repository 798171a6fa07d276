"""A packet's way through rendered rules, walked as the kernel walks them. Pure.

For tests, for the benchmark (how many rules does a packet meet?) and for explaining. It understands the
matches and targets that we render and refuses others, so it cannot be right by not looking.
"""

from __future__ import annotations

import functools
import ipaddress
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from local_dataplane.iptables.fixed import JUMPS, Table
from local_dataplane.iptables.ruleset import ChainKey
from local_dataplane.iptables.tree import Rules


class Fate(StrEnum):
    """UNTOUCHED: not for a Service; it goes on as if we were not there."""

    FORWARD = "forward"
    REFUSE = "refuse"
    DROP = "drop"
    UNTOUCHED = "untouched"


@dataclass(frozen=True, slots=True)
class Packet:
    """The first packet of a connection. `from_node`: sent by a process of the node itself. `interface`: what
    it comes in on; none in that case."""

    source: str
    destination: str
    port: int = 0
    protocol: str = "tcp"
    from_node: bool = False
    interface: str = ""


@dataclass(frozen=True, slots=True)
class Way:
    """One way that the packet may go, and how likely that is. `backend` is `address:port`. `path`: the chains
    of ours that it is led through, of one of the ways that end so; in nftables mode, the elements of sets and
    maps that lead it, too."""

    probability: float
    fate: Fate
    backend: str = ""
    masqueraded: bool = False
    rules_met: int = 0
    path: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Walker:
    """`chains`: those of a `Ruleset` or read from the kernel. `node_addresses`: the node's own, what
    `--dst-type LOCAL` means. `remembered`: names of the xt_recent lists that know the client."""

    chains: Mapping[ChainKey, Rules]
    node_addresses: frozenset[str] = frozenset()
    remembered: frozenset[str] = frozenset()
    entrances: Mapping[ChainKey, Rules] = field(
        default_factory=lambda: {(j.table, j.chain): (j.rule,) for j in JUMPS}
    )

    def ways(self, packet: Packet) -> list[Way]:
        """All ways, equal ends joined; probabilities sum to 1. `rules_met` is the most among those joined."""
        first = "OUTPUT" if packet.from_node else "PREROUTING"
        after_nat = self._pass([_Walk(packet)], Table.NAT, first)
        after_filter = []
        for walk in after_nat:
            inward = walk.packet.destination in self.node_addresses
            if packet.from_node and inward:
                # It leaves by the loopback interface and comes in again.
                sent = self._pass([replace(walk, leaves_by="lo")], Table.FILTER, "OUTPUT")
                going = [replace(w, leaves_by="") for w in sent if not w.fate]
                after_filter += [w for w in sent if w.fate] + self._pass(going, Table.FILTER, "INPUT")
            else:
                chain = "OUTPUT" if packet.from_node else "INPUT" if inward else "FORWARD"
                after_filter += self._pass([walk], Table.FILTER, chain)
        ends = []
        for walk in after_filter:
            leaves = packet.from_node or walk.packet.destination not in self.node_addresses
            ends += self._pass([walk], Table.NAT, "POSTROUTING") if leaves and not walk.fate else [walk]
        return _joined(ends)

    def _pass(self, walks: list[_Walk], table: Table, chain: str) -> list[_Walk]:
        done: list[_Walk] = []
        todo = [walk.at(self.entrances.get((table, chain), ())) for walk in walks]
        while todo:
            walk = todo.pop()
            branch = walk.step(self, table)
            todo += branch
            if not branch:
                done.append(walk)
        return done


@dataclass(slots=True)
class _Walk:
    packet: Packet
    probability: float = 1.0
    mark: int = 0
    rules_met: int = 0
    backend: str = ""
    masqueraded: bool = False
    fate: Fate | None = None
    leaves_by: str = ""
    path: tuple[str, ...] = ()
    stack: list[tuple[Rules, int]] = field(default_factory=list)

    def at(self, rules: Rules) -> _Walk:
        return replace(self, stack=[(rules, 0)])

    def step(self, walker: Walker, table: Table) -> list[_Walk]:
        """Go on until the chain is left (nothing returned) or a die is cast (both ways returned)."""
        while self.stack:
            rules, index = self.stack.pop()
            if index == len(rules):
                continue
            self.stack.append((rules, index + 1))
            self.rules_met += 1
            rule = _parsed(rules[index])
            if not all(self._matches(match, walker) for match in rule.matches):
                continue
            if rule.chance < 1.0:
                missed = replace(self, probability=self.probability * (1 - rule.chance), stack=[*self.stack])
                taken = replace(self, probability=self.probability * rule.chance, stack=[*self.stack])
                taken._take(rule, walker, table)
                return [missed, taken]
            self._take(rule, walker, table)
        return []

    def _take(self, rule: _Rule, walker: Walker, table: Table) -> None:
        target, argument = rule.target, rule.argument
        if target == "MARK":
            value, mask = (int(part, 0) for part in argument.split("/"))
            self.mark = self.mark & ~mask ^ value
        elif target == "DNAT":
            self.backend = argument
            self.packet = replace(self.packet, destination=argument.rpartition(":")[0].strip("[]"))
            self.stack.clear()
        elif target == "MASQUERADE":
            self.masqueraded = True
            self.stack.clear()
        elif target in ("ACCEPT", "REJECT", "DROP"):
            self.stack.clear()
            self.fate = {"REJECT": Fate.REFUSE, "DROP": Fate.DROP}.get(target)
        elif target == "RETURN":
            self.stack.pop()
        else:
            if rule.is_goto:
                self.stack.pop()
            self.stack.append((walker.chains[table, target], 0))
            self.path += (target,)

    def _matches(self, match: tuple[str, ...], walker: Walker) -> bool:
        kind, negated, argument = match[0], match[1] == "!", match[2]
        packet = self.packet
        if kind in ("-s", "-d"):
            address = packet.source if kind == "-s" else packet.destination
            found = _inside(address, argument)
        elif kind == "-p":
            found = packet.protocol == argument
        elif kind == "-i":
            begins = argument.removesuffix("+")
            found = packet.interface.startswith(begins) if argument != begins else packet.interface == begins
        elif kind == "-o":
            found = self.leaves_by == argument
        elif kind == "--dport":
            low, _, high = argument.partition(":")
            found = int(low) <= packet.port <= int(high or low)
        elif kind == "--mark":
            value, mask = (int(part, 0) for part in argument.split("/"))
            found = self.mark & mask == value
        elif kind == "--ctstate":
            found = bool({"NEW", "DNAT" if self.backend else ""} & set(argument.split(",")))
        elif kind in ("--dst-type", "--src-type"):
            address = packet.source if kind == "--src-type" else packet.destination
            found = address in walker.node_addresses or _inside(address, "127.0.0.0/8")
        else:  # --rcheck
            found = argument in walker.remembered
        return found != negated


@dataclass(frozen=True, slots=True)
class _Rule:
    matches: tuple[tuple[str, ...], ...]
    target: str
    argument: str
    is_goto: bool
    chance: float


_ONE_ARGUMENT = {"-s", "-d", "-p", "-i", "-o", "--dport", "--mark", "--ctstate", "--dst-type", "--src-type"}
_NO_MEANING = {"-m": 1, "--comment": 1, "--mode": 1, "--seconds": 1, "--mask": 1, "--reap": 0, "--rsource": 0,
               "--set": 0, "--random-fully": 0, "--reject-with": 1}  # fmt: skip


@functools.lru_cache(maxsize=1 << 18)
def _parsed(text: str) -> _Rule:
    words = shlex.split(text) if '"' in text else text.split()
    matches, target, argument, goto, chance, negated = [], "", "", False, 1.0, ""
    recent = ""
    position = 0
    while position < len(words):
        word = words[position]
        following = words[position + 1] if position + 1 < len(words) else ""
        position += 2
        if word == "!":
            negated = "!"
            position -= 1
        elif word in _ONE_ARGUMENT:
            matches.append((word, negated, following))
            negated = ""
        elif word in ("-j", "-g"):
            target, goto = following, word == "-g"
        elif word == "--probability":
            chance = float(following)
        elif word in ("--set-xmark", "--to-destination"):
            argument = following
        elif word == "--rcheck":
            recent = word
            position -= 1
        elif word == "--name":
            if recent:
                matches.append((recent, "", following))
        elif word in _NO_MEANING:
            position += _NO_MEANING[word] - 1
        else:
            raise ValueError(f"the tracer does not know {word!r} in {text!r}")
    return _Rule(tuple(matches), target, argument, goto, chance)


@functools.lru_cache(maxsize=1 << 16)
def _network(cidr: str) -> tuple[int, int, int]:
    network = ipaddress.ip_network(cidr)
    return int(network.network_address), network.max_prefixlen - network.prefixlen, network.version


@functools.lru_cache(maxsize=1 << 16)
def _number(address: str) -> tuple[int, int]:
    parsed = ipaddress.ip_address(address)
    return int(parsed), parsed.version


def _inside(address: str, cidr: str) -> bool:
    (number, version), (base, shift, net_version) = _number(address), _network(cidr)
    return version == net_version and number >> shift == base >> shift


def _joined(walks: list[_Walk]) -> list[Way]:
    joined: dict[tuple[Fate, str, bool], Way] = {}
    for walk in walks:
        fate = walk.fate or (Fate.FORWARD if walk.backend else Fate.UNTOUCHED)
        key = (fate, walk.backend, walk.masqueraded)
        old = joined.get(key)
        joined[key] = Way(
            walk.probability + (old.probability if old else 0.0),
            *key,
            rules_met=max(walk.rules_met, old.rules_met if old else 0),
            path=old.path if old else walk.path,
        )
    return sorted(joined.values(), key=lambda way: (way.fate, way.backend, way.masqueraded))
