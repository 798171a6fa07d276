"""Netlink to the netfilter subsystems (nfnetlink): encoding and decoding (pure), and one way to ask.

Layout: struct nlmsghdr (16 bytes), struct nfgenmsg (4), attributes (4 bytes of header, padded to 4). Numbers
of the headers are in host order, those of nfnetlink's attributes in network order.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

NETFILTER = 12  # NETLINK_NETFILTER
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 1, 4, 0x300
NLA_TYPE_MASK = 0x3FFF
NLA_F_NESTED = 0x8000
NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_DUMP_INTR = 0x10
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_BUFFER_BYTES = 1 << 20


class Message(NamedTuple):
    """A netlink message; `body` begins behind the nfgenmsg."""

    type: int
    flags: int
    family: int
    body: bytes


def message(type_: int, flags: int, family: int, body: bytes = b"", sequence: int = 1) -> bytes:
    payload = struct.pack("=BBH", family, 0, 0) + body
    return _HEADER.pack(_HEADER.size + len(payload), type_, flags, sequence, 0) + payload


def attribute(type_: int, value: bytes) -> bytes:
    size = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(size, type_) + value + b"\0" * (-size % 4)


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(type without flags, value) of each attribute. Stops at the first that does not fit."""
    offset = 0
    while offset + _ATTRIBUTE.size <= len(data):
        size, type_ = _ATTRIBUTE.unpack_from(data, offset)
        if size < _ATTRIBUTE.size or offset + size > len(data):
            return
        yield type_ & NLA_TYPE_MASK, data[offset + _ATTRIBUTE.size : offset + size]
        offset += size + -size % 4


def messages(data: bytes) -> Iterator[Message]:
    """The messages of one datagram. An error that the kernel reports is raised as OSError."""
    offset = 0
    while offset + _HEADER.size <= len(data):
        size, type_, flags, _, _ = _HEADER.unpack_from(data, offset)
        if size < _HEADER.size or offset + size > len(data):
            return
        payload = data[offset + _HEADER.size : offset + size]
        if type_ == NLMSG_ERROR:
            errno = -struct.unpack_from("=i", payload)[0]
            if errno:
                raise OSError(errno, "netlink request refused")
        yield Message(type_, flags, payload[0] if payload else 0, payload[4:])
        offset += size + -size % 4


def ask(protocol: int, request: bytes) -> Iterator[Message]:
    """Send one request and yield what comes back: all parts of a dump, else one message.

    Raises OSError: what the kernel says, or InterruptedError when a dump was overtaken by changes."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol) as sock:
        sock.settimeout(10)
        yield from converse(sock, request)


def converse(sock: socket.socket, request: bytes) -> Iterator[Message]:
    """`ask` on a socket that is open already. Whoever does not take all of it cannot use the socket again."""
    is_dump = _HEADER.unpack_from(request)[2] & NLM_F_DUMP == NLM_F_DUMP
    sock.send(request)
    while True:
        for reply in messages(sock.recv(_BUFFER_BYTES)):
            if reply.type == _NLMSG_DONE:
                return
            if reply.flags & _NLM_F_DUMP_INTR:
                raise InterruptedError("the dump was overtaken by changes")
            yield reply
            if not is_dump:
                return
