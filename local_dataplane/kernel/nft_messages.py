"""nf_tables by netlink: our values as messages, and the kernel's messages as our values. Pure.

The numbers are those of linux/netfilter/nf_tables.h. What a packet holds is in network order, and so are the
numbers of attributes; numbers that expressions compute with (marks, random numbers) are in host order.
"""

from __future__ import annotations

import socket
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence

from lbprov.model import IPFamily
from local_dataplane.kernel import netlink
from local_dataplane.kernel.netlink import attribute, attributes
from local_dataplane.nftables import expressions as ex
from local_dataplane.nftables import objects as ob
from local_dataplane.nftables.objects import ChainMarks, Change, Element, Hook, SetShape, Signature

SUBSYSTEM = 10 << 8
(NEW_TABLE, GET_TABLE, DEL_TABLE, NEW_CHAIN, GET_CHAIN, DEL_CHAIN, NEW_RULE, GET_RULE, DEL_RULE,
 NEW_SET, GET_SET, DEL_SET, NEW_ELEMENT, GET_ELEMENT, DEL_ELEMENT) = range(15)  # fmt: skip
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_CREATE, _APPEND = 0x400, 0x800
_DOMAINS = {IPFamily.IPV4: socket.AF_INET, IPFamily.IPV6: socket.AF_INET6}
_PROTOCOL_FAMILY = {IPFamily.IPV4: 2, IPFamily.IPV6: 10}
_GC_INTERVAL_MS = 30_000
_RANDOM_FULLY = 1 << 4
_UNREACHABLE_CODE = {IPFamily.IPV4: 3, IPFamily.IPV6: 4}
_ELEMENTS_PER_MESSAGE = 500  # an attribute is 64 KiB at most


def _u32(type_: int, value: int) -> bytes:
    return attribute(type_, struct.pack(">I", value & 0xFFFFFFFF))


def _u64(type_: int, value: int) -> bytes:
    return attribute(type_, struct.pack(">Q", value))


def _text(type_: int, value: str) -> bytes:
    return attribute(type_, value.encode() + b"\0")


def _nest(type_: int, *inner: bytes) -> bytes:
    return attribute(type_ | netlink.NLA_F_NESTED, b"".join(inner))


def _register(type_: int, number: int) -> bytes:
    return _u32(type_, 8 + number)  # NFT_REG32_00


def _value(type_: int, data: bytes) -> bytes:
    return _nest(type_, attribute(1, data))


def _verdict(type_: int, code: int, chain: str) -> bytes:
    inner = _u32(1, code) + (_text(2, chain) if chain else b"")
    return _nest(type_, _nest(2, inner))


# ── a transaction ──


class Encoder:
    """One family's messages."""

    def __init__(self, family: IPFamily, table: str = ob.TABLE) -> None:
        self._family = family
        self._domain = _DOMAINS[family]
        self._table = _text(1, table)

    def batch(self, changes: Sequence[Change], *, dry_run: bool) -> tuple[bytes, list[int]]:
        """The datagram, and which change each of its messages is for: message i (from 1, its sequence
        number) is for change `owners[i - 1]`. Only the last one is acknowledged; any may be refused.

        A dry run lacks the end, which makes the kernel check all and take nothing."""
        bodies: list[tuple[int, int, bytes]] = []
        owners: list[int] = []
        for index, change in enumerate(changes):
            for message in self._messages(change):
                bodies.append(message)
                owners.append(index)
        parts = [self._control(_BATCH_BEGIN, 0)]
        for number, (type_, flags, body) in enumerate(bodies, 1):
            ack = netlink.NLM_F_ACK if number == len(bodies) else 0
            parts.append(
                netlink.message(
                    SUBSYSTEM | type_, netlink.NLM_F_REQUEST | flags | ack, self._domain, body, number
                )
            )
        if not dry_run:
            parts.append(self._control(_BATCH_END, len(bodies) + 1))
        return b"".join(parts), owners

    @staticmethod
    def _control(type_: int, sequence: int) -> bytes:
        payload = struct.pack(">BBH", 0, 0, 10)
        return struct.pack("=IHHII", 20, type_, netlink.NLM_F_REQUEST, sequence, 0) + payload

    def _messages(self, change: Change) -> Iterable[tuple[int, int, bytes]]:
        """(type, flags, body)"""
        t = self._table
        match change:
            case ob.AddTable():
                yield NEW_TABLE, _CREATE, t + _u32(2, 0)
            case ob.DeleteTable():
                yield DEL_TABLE, 0, t
            case ob.AddSet(shape):
                yield NEW_SET, _CREATE, t + self._set(shape)
            case ob.DeleteSet(name):
                yield DEL_SET, 0, t + _text(2, name)
            case ob.AddChain(name, hook):
                yield NEW_CHAIN, _CREATE, t + _text(3, name) + (_hook(hook) if hook else b"")
            case ob.FlushChain(name):
                yield DEL_RULE, 0, t + _text(2, name)
            case ob.DeleteChain(name):
                yield DEL_CHAIN, 0, t + _text(3, name)
            case ob.AddRule(chain, rule):
                mark = ob.rule_mark(rule).encode() + b"\0"
                body = _nest(4, *(_nest(1, *self._expression(e)) for e in rule))
                comment = attribute(7, bytes([0, len(mark)]) + mark)  # NFTNL_UDATA_RULE_COMMENT
                yield NEW_RULE, _CREATE | _APPEND, t + _text(2, chain) + body + comment
            case ob.AddElements(name, elements):
                yield from self._elements(NEW_ELEMENT, _CREATE, name, elements, _element)
            case ob.DeleteElements(name, elements):
                yield from self._elements(DEL_ELEMENT, 0, name, elements, _element_key)

    def _elements(
        self,
        type_: int,
        flags: int,
        name: str,
        elements: tuple[Element, ...],
        one: Callable[[Element], bytes],
    ) -> Iterable[tuple[int, int, bytes]]:
        head = self._table + _text(2, name)
        for start in range(0, len(elements), _ELEMENTS_PER_MESSAGE):
            part = elements[start : start + _ELEMENTS_PER_MESSAGE]
            yield type_, flags, head + _nest(3, *map(one, part))

    def _set(self, shape: SetShape) -> bytes:
        flags, key_type, key_length, data_type, data_length = shape.signature
        body = _text(2, shape.name) + _u32(3, flags) + _u32(4, key_type) + _u32(5, key_length)
        body += _u32(10, zlib.crc32(shape.name.encode()))
        if flags & ob.MAP:
            body += _u32(6, data_type) + _u32(7, data_length)
        description = b""
        if shape.size:
            description += _u32(1, shape.size)
            body += _u32(12, _GC_INTERVAL_MS)
        if shape.is_interval:
            description += _nest(2, *(_nest(1, _u32(1, part.length)) for part in shape.key))
        if ob.NUMBER in shape.key:
            body += attribute(13, _typeof(shape))
        return body + (_nest(9, description) if description else b"")

    def _expression(self, e: ex.Expression) -> tuple[bytes, bytes]:
        name, data = self._expression_data(e)
        return _text(1, name), _nest(2, data)

    def _expression_data(self, e: ex.Expression) -> tuple[str, bytes]:
        r = _register
        match e:
            case ex.Payload(base, offset, length, to):
                return "payload", r(1, to) + _u32(2, base) + _u32(3, offset) + _u32(4, length)
            case ex.LoadProtocol(to):
                return "meta", r(1, to) + _u32(2, 16)
            case ex.LoadMark(to):
                return "meta", r(1, to) + _u32(2, 3)
            case ex.LoadInterface(to, leaves_by):
                return "meta", r(1, to) + _u32(2, 7 if leaves_by else 6)
            case ex.SetMark(source):
                return "meta", _u32(2, 3) + r(3, source)
            case ex.Immediate(data, to):
                return "immediate", r(1, to) + _value(2, data)
            case ex.Bitwise(reg, mask, xor):
                width = _u32(3, len(mask))
                return "bitwise", r(1, reg) + r(2, reg) + width + _value(4, mask) + _value(5, xor)
            case ex.Compare(reg, data, equal):
                return "cmp", r(1, reg) + _u32(2, 0 if equal else 1) + _value(3, data)
            case ex.Lookup(name, key, to, absent):
                data = b"" if to is None else r(3, to)
                return "lookup", _text(1, name) + r(2, key) + data + (_u32(5, 1) if absent else b"")
            case ex.Branch(name, key):
                return "lookup", _text(1, name) + r(2, key) + _u32(3, 0)
            case ex.Conntrack(ct_key, to):
                return "ct", r(1, to) + _u32(2, ct_key)
            case ex.AddressType(of_source, to):
                return "fib", r(1, to) + _u32(2, 3) + _u32(3, 1 if of_source else 2)
            case ex.Random(modulus, to, offset):
                return "numgen", r(1, to) + _u32(2, modulus) + _u32(3, 1) + _u32(4, offset)
            case ex.Remember(name, key, timeout_s):
                return "dynset", _text(1, name) + _u32(3, 1) + r(4, key) + _u64(6, timeout_s * 1000)
            case ex.Dnat(address, port):
                body = _u32(1, 1) + _u32(2, _PROTOCOL_FAMILY[self._family]) + r(3, address) + r(5, port)
                return "nat", body
            case ex.Masquerade():
                return "masq", _u32(1, _RANDOM_FULLY)
            case ex.Reject(with_reset):
                code = b"" if with_reset else attribute(2, bytes([_UNREACHABLE_CODE[self._family]]))
                return "reject", _u32(1, 1 if with_reset else 0) + code
            case ex.Verdict(code, chain):
                return "immediate", _u32(1, 0) + _verdict(2, code, chain)
        raise TypeError(f"no expression: {e!r}")

    # ── questions ──

    def table_request(self) -> bytes:
        return netlink.message(SUBSYSTEM | GET_TABLE, netlink.NLM_F_REQUEST, self._domain, self._table)

    def chain_request(self, name: str) -> bytes:
        body = self._table + _text(3, name)
        return netlink.message(SUBSYSTEM | GET_CHAIN, netlink.NLM_F_REQUEST, self._domain, body)

    def chains_request(self) -> bytes:
        """Of all tables of the family."""
        flags = netlink.NLM_F_REQUEST | netlink.NLM_F_DUMP
        return netlink.message(SUBSYSTEM | GET_CHAIN, flags, self._domain)

    def dump_request(self, what: int, set_name: str = "") -> bytes:
        """`what`: GET_RULE, GET_SET, or GET_ELEMENT of one set; of our table alone."""
        body = self._table + (_text(2, set_name) if set_name else b"")
        flags = netlink.NLM_F_REQUEST | netlink.NLM_F_DUMP
        return netlink.message(SUBSYSTEM | what, flags, self._domain, body)


# ── answers ──


def _int(data: bytes | None) -> int:
    return int.from_bytes(data or b"", "big")


def _name(data: bytes) -> str:
    return data.rstrip(b"\0").decode(errors="replace")


def decode_table(body: bytes) -> tuple[bool, int]:
    """Whether it is dormant, and how many chains, sets and other objects it has."""
    parts = dict(attributes(body))
    return bool(_int(parts.get(2)) & 1), _int(parts.get(3))


def decode_chain(body: bytes) -> tuple[str, str, ChainMarks]:
    """(table, name, what it is without its rules)"""
    parts = dict(attributes(body))
    hook, drops = None, False
    if 4 in parts:
        where = dict(attributes(parts[4]))
        priority = int.from_bytes(where.get(2, b""), "big", signed=True)
        hook = Hook(_name(parts.get(7, b"")), _int(where.get(1)), priority)
        drops = _int(parts.get(5)) == ex.VerdictCode.DROP
    return _name(parts.get(1, b"")), _name(parts.get(3, b"")), ChainMarks(hook, (), drops)


def decode_rule(body: bytes) -> tuple[str, str]:
    """(chain, our mark); the mark is empty where the rule is none of ours."""
    parts = dict(attributes(body))
    comment = parts.get(7, b"")
    is_comment = len(comment) > 2 and comment[0] == 0
    return _name(parts.get(2, b"")), _name(comment[2 : 2 + comment[1]]) if is_comment else ""


def decode_set(body: bytes) -> tuple[str, Signature]:
    parts = dict(attributes(body))
    flags, key_type, key_length, data_type, data_length = (_int(parts.get(n)) for n in (3, 4, 5, 6, 7))
    if data_type == ob.VERDICT_TYPE:
        data_length = 0  # that of the kernel's own structure
    return _name(parts.get(2, b"")), Signature(flags, key_type, key_length, data_type, data_length)


def decode_elements(body: bytes) -> Iterator[Element]:
    listed = next((data for type_, data in attributes(body) if type_ == 3), b"")
    for _, data in attributes(listed):
        yield _decode_element(data)


def _decode_element(data: bytes) -> Element:
    key = value = end = b""
    chain = label = ""
    for type_, inner in attributes(data):
        if type_ == 1:
            key = inner[4:]
        elif type_ == 2:
            kind, content = next(attributes(inner))
            if kind == 1:
                value = content
            else:
                chain = _name(dict(attributes(content)).get(2, b""))
        elif type_ == 10:
            end = inner[4:]
        elif type_ == 6 and len(inner) > 2 and inner[0] == 0:
            label = _name(inner[2 : 2 + inner[1]])
    return Element(key, value, chain, end, label)


# ── for those who list the table with nft ──


def _note(type_: int, value: bytes | int) -> bytes:
    data = struct.pack("=I", value) if isinstance(value, int) else value
    return bytes([type_, len(data)]) + data


def _packet_field(header: int, field: int) -> bytes:
    return _note(0, 7) + _note(1, _note(0, header) + _note(1, field))


_TYPEOF = {
    ob.V4: _packet_field(12, 12),  # ip daddr
    ob.V6: _packet_field(13, 9),  # ip6 daddr
    ob.PROTOCOL: _note(0, 9) + _note(1, _note(0, 16)),  # meta l4proto
    ob.PORT: _packet_field(11, 2),  # th dport
    ob.NUMBER: _note(0, 23) + _note(1, _note(0, 1) + _note(1, 2) + _note(2, 0)),  # numgen random mod 2
}


def _typeof(shape: SetShape) -> bytes:
    """The set's user data in which nft keeps what a key is made of: a random number is of no type that has a
    name, and without this nft could list the table and not read its listing again."""
    key, data = (
        _note(0, 13) + _note(1, b"".join(_note(i, _TYPEOF[part]) for i, part in enumerate(parts)))
        for parts in (shape.key, shape.data)
    )
    return _note(0, 1) + _note(1, 0) + _note(3, key) + _note(4, data)


def _hook(hook: Hook) -> bytes:
    where = _nest(4, _u32(1, hook.number), _u32(2, hook.priority))
    return where + _u32(5, ex.VerdictCode.ACCEPT) + _text(7, hook.kind)


def _element_key(element: Element) -> bytes:
    return _nest(1, _value(1, element.key) + (_value(10, element.end) if element.end else b""))


def _element(element: Element) -> bytes:
    body = _value(1, element.key)
    if element.end:
        body += _value(10, element.end)
    if element.chain:
        body += _verdict(2, ex.VerdictCode.GOTO, element.chain)
    elif element.data:
        body += _value(2, element.data)
    if element.label:
        comment = element.label.encode()[:200] + b"\0"
        body += attribute(6, bytes([0, len(comment)]) + comment)
    return _nest(1, body)
