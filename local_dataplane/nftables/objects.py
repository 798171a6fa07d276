"""What our table consists of, and the changes of it that one transaction may hold. Pure values."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass, field
from typing import NamedTuple

from lbprov.model import IPFamily
from local_dataplane.nftables.expressions import Rule, Verdict

TABLE = "lbprov"
"""Our table's name, in the families ip and ip6; everything in it is ours, and nothing outside it."""


class Part(NamedTuple):
    """A part of a key or of a map's data. `type` is for those who list the table with nft."""

    type: int
    length: int


V4, V6, PROTOCOL, PORT, NUMBER = Part(7, 4), Part(8, 16), Part(12, 1), Part(13, 2), Part(4, 4)
"""nft's ipv4_addr, ipv6_addr, inet_proto, inet_service (network order), and integer (host order): a random
number."""


def address_part(family: IPFamily) -> Part:
    return V6 if family is IPFamily.IPV6 else V4


def padded(length: int) -> int:
    """Registers have four bytes."""
    return length + -length % 4


def width(parts: tuple[Part, ...]) -> int:
    return sum(padded(part.length) for part in parts)


@dataclass(frozen=True, slots=True)
class SetShape:
    """A set; a map where it has `data`, or leads to chains (`is_verdict`).

    - `is_interval`: keys are ranges in each of their parts.
    - `size` > 0: packets add to it (`Remember`), so many entries at most, and each goes when its time is up.
    """

    name: str
    key: tuple[Part, ...]
    data: tuple[Part, ...] = ()
    is_verdict: bool = False
    is_interval: bool = False
    size: int = 0

    @property
    def signature(self) -> Signature:
        flags = (
            (MAP if self.data or self.is_verdict else 0)
            | (INTERVAL | CONCATENATION if self.is_interval else 0)
            | (TIMEOUT | EVALUATED if self.size else 0)
        )
        data_type, data_length = (
            (VERDICT_TYPE, 0) if self.is_verdict else (_type(self.data), width(self.data))
        )
        return Signature(flags, _type(self.key), width(self.key), data_type, data_length)


class Signature(NamedTuple):
    """What the kernel says of a set; it cannot be changed, only made anew."""

    flags: int
    key_type: int
    key_length: int
    data_type: int
    data_length: int


INTERVAL, MAP, TIMEOUT, EVALUATED, CONCATENATION = 0x4, 0x8, 0x10, 0x20, 0x80
VERDICT_TYPE = 0xFFFFFF00


def _type(parts: tuple[Part, ...]) -> int:
    """nft's number for a concatenation: six bits for each part."""
    number = 0
    for part in parts:
        number = number << 6 | part.type
    return number


class Element(NamedTuple):
    """`end`: the last key of a range. `data`: what a map holds; `chain`: where a verdict map leads. `label`
    is for those who list."""

    key: bytes
    data: bytes = b""
    chain: str = ""
    end: bytes = b""
    label: str = ""

    @property
    def place(self) -> bytes:
        """What tells it from the others of its set."""
        return self.key + self.end


class Hook(NamedTuple):
    """Where packets enter a chain."""

    kind: str
    number: int
    priority: int


@dataclass(frozen=True, slots=True)
class Chain:
    rules: tuple[Rule, ...] = ()
    hook: Hook | None = None

    def marks(self) -> ChainMarks:
        return ChainMarks(self.hook, tuple(rule_mark(rule) for rule in self.rules))

    @property
    def targets(self) -> set[str]:
        """The chains that its rules name."""
        return {e.chain for rule in self.rules for e in rule if isinstance(e, Verdict) and e.chain}


class ChainMarks(NamedTuple):
    """A chain as it is read back: of each rule the mark that we gave it; "" for somebody else's. `drops`: by
    default, which none of ours does."""

    hook: Hook | None
    rules: tuple[str, ...]
    drops: bool = False


@functools.lru_cache(maxsize=4096)
def rule_mark(rule: Rule) -> str:
    """Rules carry it as their comment, and so are known again: the kernel does not say a rule back in the
    words in which it got it."""
    text = "\n".join(map(str, rule))
    return f"lbp-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


Elements = dict[str, dict[bytes, Element]]
"""Set -> place -> element."""


@dataclass(slots=True)
class Contents:
    """Our table as the kernel has it. What packets have added is left out. `is_dormant`: switched off."""

    chains: dict[str, ChainMarks] = field(default_factory=dict)
    sets: dict[str, Signature] = field(default_factory=dict)
    elements: Elements = field(default_factory=dict)
    is_dormant: bool = False


# ── changes ──


class AddTable(NamedTuple):
    """If it is there, it is awake afterwards."""


class DeleteTable(NamedTuple):
    pass


class AddSet(NamedTuple):
    shape: SetShape


class DeleteSet(NamedTuple):
    name: str


class AddChain(NamedTuple):
    name: str
    hook: Hook | None


class FlushChain(NamedTuple):
    name: str


class DeleteChain(NamedTuple):
    name: str


class AddRule(NamedTuple):
    chain: str
    rule: Rule


class AddElements(NamedTuple):
    set: str
    elements: tuple[Element, ...]


class DeleteElements(NamedTuple):
    set: str
    elements: tuple[Element, ...]


Change = (
    AddTable
    | DeleteTable
    | AddSet
    | DeleteSet
    | AddChain
    | FlushChain
    | DeleteChain
    | AddRule
    | AddElements
    | DeleteElements
)
