"""What rules of ours are made of: the kernel's nf_tables expressions, as values. Pure.

A rule is a list of them, and is left at the first that does not match. They work on sixteen registers of four
bytes, named here by their numbers 0 to 15; a wider value lies in as many registers as it takes, from the one
that is named. Names and meaning follow `nft --debug=netlink`.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple


class Base(IntEnum):
    """What a payload's offset counts from."""

    NETWORK = 1
    TRANSPORT = 2


class Payload(NamedTuple):
    base: Base
    offset: int
    length: int
    to: int

    def __str__(self) -> str:
        return f"payload load {self.length}b @ {self.base.name.lower()} header + {self.offset} => {self.to}"


class LoadProtocol(NamedTuple):
    to: int

    def __str__(self) -> str:
        return f"meta load l4proto => {self.to}"


class LoadMark(NamedTuple):
    to: int

    def __str__(self) -> str:
        return f"meta load mark => {self.to}"


class LoadInterface(NamedTuple):
    """The name of the interface that the packet came in on (`leaves_by`: goes out by), 16 bytes; zeros if
    there is none."""

    to: int
    leaves_by: bool = False

    def __str__(self) -> str:
        return f"meta load {'oifname' if self.leaves_by else 'iifname'} => {self.to}"


class SetMark(NamedTuple):
    source: int

    def __str__(self) -> str:
        return f"meta set mark with {self.source}"


class Immediate(NamedTuple):
    data: bytes
    to: int

    def __str__(self) -> str:
        return f"immediate 0x{self.data.hex()} => {self.to}"


class Bitwise(NamedTuple):
    """register = register & mask ^ xor"""

    register: int
    mask: bytes
    xor: bytes

    def __str__(self) -> str:
        return f"bitwise {self.register} = ({self.register} & 0x{self.mask.hex()}) ^ 0x{self.xor.hex()}"


class Compare(NamedTuple):
    register: int
    data: bytes
    equal: bool = True

    def __str__(self) -> str:
        return f"cmp {'eq' if self.equal else 'neq'} {self.register} 0x{self.data.hex()}"


class Lookup(NamedTuple):
    """Matches if the set has the key (`absent`: has it not); `to` gets a map's data, which may lie over the
    key."""

    set: str
    key: int
    to: int | None = None
    absent: bool = False

    def __str__(self) -> str:
        to = "" if self.to is None else f" => {self.to}"
        return f"lookup {self.key} set {self.set}{to}{' absent' if self.absent else ''}"


class Branch(NamedTuple):
    """Goes where a verdict map says; matches nothing where it says nothing."""

    set: str
    key: int

    def __str__(self) -> str:
        return f"lookup {self.key} set {self.set} => verdict"


class CtKey(IntEnum):
    STATE = 0
    STATUS = 2


class Conntrack(NamedTuple):
    key: CtKey
    to: int

    def __str__(self) -> str:
        return f"ct load {self.key.name.lower()} => {self.to}"


class AddressType(NamedTuple):
    """The kind of the source or destination address, by the routing table: RTN_LOCAL is the node's own."""

    of_source: bool
    to: int

    def __str__(self) -> str:
        return f"fib {'saddr' if self.of_source else 'daddr'} type => {self.to}"


class Random(NamedTuple):
    """One of `modulus` numbers from `offset` on, each as likely as the others."""

    modulus: int
    to: int
    offset: int = 0

    def __str__(self) -> str:
        return f"numgen random mod {self.modulus} offset {self.offset} => {self.to}"


class Remember(NamedTuple):
    """Adds to a set for `timeout_s`, or begins the time of what it holds anew. Matches unless the set is
    full."""

    set: str
    key: int
    timeout_s: int

    def __str__(self) -> str:
        return f"dynset update {self.set} {self.key} timeout {self.timeout_s}s"


class Dnat(NamedTuple):
    address: int
    port: int

    def __str__(self) -> str:
        return f"nat dnat addr {self.address} proto {self.port}"


class Masquerade(NamedTuple):
    def __str__(self) -> str:
        return "masq fully-random"


class Reject(NamedTuple):
    with_reset: bool

    def __str__(self) -> str:
        return f"reject with {'tcp reset' if self.with_reset else 'port unreachable'}"


class VerdictCode(IntEnum):
    DROP = 0
    ACCEPT = 1
    JUMP = -3
    GOTO = -4


class Verdict(NamedTuple):
    code: VerdictCode
    chain: str = ""

    def __str__(self) -> str:
        return f"{self.code.name.lower()} {self.chain}".rstrip()


Expression = (
    Payload | LoadProtocol | LoadMark | LoadInterface | SetMark | Immediate | Bitwise | Compare | Lookup
    | Branch | Conntrack | AddressType | Random | Remember | Dnat | Masquerade | Reject | Verdict
)  # fmt: skip

Rule = tuple[Expression, ...]

DROP, ACCEPT = Verdict(VerdictCode.DROP), Verdict(VerdictCode.ACCEPT)


def jump(chain: str) -> Verdict:
    return Verdict(VerdictCode.JUMP, chain)


def goto(chain: str) -> Verdict:
    return Verdict(VerdictCode.GOTO, chain)
