"""A packet's way through our table, walked as the kernel walks it. Pure.

For tests and for explaining: the counterpart of `iptables.trace`, with the same packets and ways.
"""

from __future__ import annotations

import functools
import ipaddress
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from local_dataplane.iptables.trace import Fate, Packet, Way
from local_dataplane.nftables import expressions as ex
from local_dataplane.nftables import layout
from local_dataplane.nftables.expressions import Base, CtKey, Rule, VerdictCode
from local_dataplane.nftables.objects import Chain, Elements, SetShape, padded

_RTN_UNICAST, _RTN_LOCAL = 1, 2
_STATE_NEW, _STATUS_DNAT = 1 << 3, 1 << 5
_SOURCE_AT = {4: 12, 16: 8}  # by an address's length
_PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132, "icmp": 1}


@dataclass(frozen=True, slots=True)
class Walker:
    """`chains`, `sets` and `elements`: those of a `Ruleset`. `node_addresses`: the node's own. `remembered`:
    names of the sets of clients that know the client."""

    chains: Mapping[str, Chain]
    sets: Mapping[str, SetShape]
    elements: Elements
    node_addresses: frozenset[str] = frozenset()
    remembered: frozenset[str] = frozenset()

    def ways(self, packet: Packet) -> list[Way]:
        """All ways, equal ends joined; probabilities sum to 1. `rules_met` is the most among those joined."""
        first = "nat-output" if packet.from_node else "nat-prerouting"
        ends: list[_Walk] = []
        for walk in self._pass(_Walk(packet), first):
            inward = walk.packet.destination in self.node_addresses
            word = "output" if packet.from_node else "input" if inward else "forward"
            for filtered in self._filtered(walk, (word, "input") if packet.from_node and inward else (word,)):
                leaves = (packet.from_node or not inward) and not filtered.fate
                ends += self._pass(filtered, "nat-postrouting") if leaves else [filtered]
        return self._joined(ends)

    def _filtered(self, walk: _Walk, hooks: Sequence[str]) -> Iterator[_Walk]:
        """Hook after hook: what the node sends to itself leaves and comes in again."""
        for filtered in self._pass(walk, f"filter-{hooks[0]}"):
            if filtered.fate or len(hooks) == 1:
                yield filtered
            else:
                yield from self._filtered(filtered, hooks[1:])

    def _pass(self, walk: _Walk, chain: str) -> list[_Walk]:
        done = []
        todo = [replace(walk, stack=((self.chains[chain].rules, 0),))]
        while todo:
            branch = list(self._step(todo.pop()))
            todo += [w for w in branch if w.stack]
            done += [w for w in branch if not w.stack]
        return done

    def _step(self, walk: _Walk) -> Iterator[_Walk]:
        """One rule; as many walks come out of it as it casts dice."""
        (rules, index), *below = walk.stack
        if index == len(rules):
            yield replace(walk, stack=tuple(below))
            return
        onward = replace(walk, stack=((rules, index + 1), *below), rules_met=walk.rules_met + 1)
        yield from self._evaluate(rules[index], 0, onward, bytes(64))

    def _evaluate(self, rule: Rule, at: int, walk: _Walk, registers: bytes) -> Iterator[_Walk]:
        for position in range(at, len(rule)):
            e = rule[position]
            if isinstance(e, ex.Random):
                asked = rule[position + 1] if position + 1 < len(rule) else None
                for value, chance in _throws(e, asked):
                    part = replace(walk, probability=walk.probability * chance)
                    dice = _put(registers, e.to, layout.number(value + e.offset))
                    yield from self._evaluate(rule, position + 1, part, dice)
                return
            if isinstance(e, ex.Verdict | ex.Branch | ex.Dnat | ex.Masquerade | ex.Reject):
                yield self._end(e, walk, registers)
                return
            if isinstance(e, ex.SetMark):
                walk = replace(walk, mark=int.from_bytes(_get(registers, e.source, 4), sys.byteorder))
                continue
            before, following = registers, self._compute(e, walk, registers)
            if following is None:
                break
            registers = following
            if isinstance(e, ex.Lookup) and not e.absent:
                walk = replace(walk, path=(*walk.path, (e.set, _key(self.sets[e.set], e.key, before))))
        yield walk

    def _compute(self, e: ex.Expression, walk: _Walk, registers: bytes) -> bytes | None:
        """The registers after the expression; None where it does not match."""
        packet = walk.packet
        match e:
            case ex.Payload(base, offset, length, to):
                if base is Base.TRANSPORT:
                    return _put(registers, to, packet.port.to_bytes(2, "big"))
                is_source = offset == _SOURCE_AT[length]
                return _put(registers, to, _packed(packet.source if is_source else packet.destination))
            case ex.LoadProtocol(to):
                return _put(registers, to, bytes([_PROTOCOLS[packet.protocol]]))
            case ex.LoadMark(to):
                return _put(registers, to, layout.number(walk.mark))
            case ex.LoadInterface(to, leaves_by):
                name = "" if leaves_by else packet.interface  # where it goes is not known here
                return _put(registers, to, name.encode().ljust(16, b"\0"))
            case ex.Immediate(data, to):
                return _put(registers, to, data)
            case ex.Bitwise(register, mask, xor):
                old = _get(registers, register, len(mask))
                new = bytes(o & m ^ x for o, m, x in zip(old, mask, xor, strict=True))
                return _put(registers, register, new)
            case ex.Compare(register, data, equal):
                return registers if (_get(registers, register, len(data)) == data) is equal else None
            case ex.Conntrack(key, to):
                status = _STATUS_DNAT if walk.backend else 0
                return _put(registers, to, layout.number(_STATE_NEW if key is CtKey.STATE else status))
            case ex.AddressType(of_source, to):
                address = packet.source if of_source else packet.destination
                own = address in self.node_addresses or ipaddress.ip_address(address).is_loopback
                return _put(registers, to, layout.number(_RTN_LOCAL if own else _RTN_UNICAST))
            case ex.Lookup(name, key, to, absent):
                found = self._lookup(name, key, to, registers)
                if absent:
                    return registers if found is None else None
                return found
            case ex.Remember():
                return registers
        raise TypeError(f"the tracer does not know {e!r}")

    def _lookup(self, name: str, key: int, to: int | None, registers: bytes) -> bytes | None:
        shape = self.sets[name]
        if shape.size:
            return registers if name in self.remembered else None
        wanted = _get(registers, key, shape.signature.key_length)
        if shape.is_interval:
            found = any(_inside(shape, wanted, e.key, e.end) for e in self.elements[name].values())
            return registers if found else None
        element = self.elements[name].get(wanted)
        if element is None:
            return None
        return registers if to is None else _put(registers, to, element.data)

    def _end(self, e: ex.Expression, walk: _Walk, registers: bytes) -> _Walk:
        """A verdict, or what ends the way through a base chain."""
        over = replace(walk, stack=())
        match e:
            case ex.Branch(name, key):
                wanted = _get(registers, key, self.sets[name].signature.key_length)
                element = self.elements[name].get(wanted)
                if element is None:
                    return walk
                found = replace(walk, path=(*walk.path, (name, wanted)))
                return self._go(found, element.chain, returns=False)
            case ex.Dnat(address, port):
                length = len(_packed(walk.packet.destination))
                where = layout.text(_get(registers, address, length))
                number = int.from_bytes(_get(registers, port, 2), "big")
                shown = f"[{where}]" if ":" in where else where
                packet = replace(walk.packet, destination=where)
                return replace(over, packet=packet, backend=f"{shown}:{number}")
            case ex.Masquerade():
                return replace(over, masqueraded=True)
            case ex.Reject():
                return replace(over, fate=Fate.REFUSE)
            case ex.Verdict(VerdictCode.DROP):
                return replace(over, fate=Fate.DROP)
            case ex.Verdict(VerdictCode.ACCEPT):
                return over
            case ex.Verdict(code, chain):
                return self._go(walk, chain, returns=code is VerdictCode.JUMP)
        raise TypeError(f"the tracer does not know {e!r}")

    def _go(self, walk: _Walk, chain: str, *, returns: bool) -> _Walk:
        below = walk.stack if returns else walk.stack[1:]
        return replace(walk, stack=((self.chains[chain].rules, 0), *below), path=(*walk.path, chain))

    def _joined(self, walks: list[_Walk]) -> list[Way]:
        joined: dict[tuple[Fate, str, bool], Way] = {}
        for walk in walks:
            fate = walk.fate or (Fate.FORWARD if walk.backend else Fate.UNTOUCHED)
            key = (fate, walk.backend, walk.masqueraded)
            old = joined.get(key)
            joined[key] = Way(
                walk.probability + (old.probability if old else 0.0),
                *key,
                rules_met=max(walk.rules_met, old.rules_met if old else 0),
                path=old.path if old else tuple(map(self._step_text, walk.path)),
            )
        return sorted(joined.values(), key=lambda way: (way.fate, way.backend, way.masqueraded))

    def _step_text(self, step: _PathStep) -> str:
        return step if isinstance(step, str) else layout.element_text(self.sets[step[0]], step[1])


_PathStep = str | tuple[str, bytes]
"""A chain, or a set and the key that was found in it."""


@dataclass(frozen=True, slots=True)
class _Walk:
    packet: Packet
    probability: float = 1.0
    mark: int = 0
    rules_met: int = 0
    backend: str = ""
    masqueraded: bool = False
    fate: Fate | None = None
    path: tuple[_PathStep, ...] = ()
    stack: tuple[tuple[tuple[Rule, ...], int], ...] = field(default=())


def _throws(dice: ex.Random, asked: ex.Expression | None) -> list[tuple[int, float]]:
    """(number without offset, how likely); two only where the next question is whether it is zero."""
    n = dice.modulus
    if isinstance(asked, ex.Compare) and asked.data == layout.number(0) and n > 1:
        return [(0, 1 / n), (1, 1 - 1 / n)]
    return [(value, 1 / n) for value in range(n)]


def _key(shape: SetShape, at: int, registers: bytes) -> bytes:
    return _get(registers, at, shape.signature.key_length)


def _put(registers: bytes, at: int, data: bytes) -> bytes:
    """A value fills its registers to the last byte."""
    whole = data.ljust(padded(len(data)), b"\0")
    return registers[: at * 4] + whole + registers[at * 4 + len(whole) :]


def _get(registers: bytes, at: int, length: int) -> bytes:
    return registers[at * 4 : at * 4 + length]


def _inside(shape: SetShape, key: bytes, first: bytes, last: bytes) -> bool:
    """Ranges are compared part by part."""
    at = 0
    for part in shape.key:
        to = at + padded(part.length)
        if not first[at:to] <= key[at:to] <= last[at:to]:
            return False
        at = to
    return True


@functools.lru_cache(maxsize=1 << 16)
def _packed(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
