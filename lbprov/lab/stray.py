"""Sends TCP segments that belong to no place in their connection, as a packet does that was on its way too
long. Run as a script, `python -I -S stray.py FROM TO FROM_PORT TO_PORT`, standard library only.

The sequence number is far outside any window, so connection tracking calls the segment INVALID (unless it is
told to be liberal) and does not translate it. Who gets it nevertheless answers with a reset: it knows of no
connection with such a peer.
"""

from __future__ import annotations

import random
import socket
import struct
import sys

_ACK = 0x10
_CHECKSUM_AT = 16
_COUNT = 3


def segment(source: str, destination: str, source_port: int, port: int, sequence: int) -> bytes:
    """With its checksum (RFC 9293, 3.1)."""
    header = struct.pack("!HHIIBBHHH", source_port, port, sequence, 1, 5 << 4, _ACK, 512, 0, 0)
    pseudo = _packed(source) + _packed(destination) + struct.pack("!II", len(header), socket.IPPROTO_TCP)
    total = sum(struct.unpack(f"!{len(pseudo + header) // 2}H", pseudo + header))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return header[:_CHECKSUM_AT] + struct.pack("!H", ~total & 0xFFFF) + header[_CHECKSUM_AT + 2 :]


def _packed(address: str) -> bytes:
    return socket.inet_pton(_family(address), address)


def _family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def main(source: str, destination: str, source_port: int, port: int) -> None:
    with socket.socket(_family(source), socket.SOCK_RAW, socket.IPPROTO_TCP) as sock:
        sock.bind((source, 0))
        for _ in range(_COUNT):
            sequence = random.getrandbits(32)
            sock.sendto(segment(source, destination, source_port, port, sequence), (destination, 0))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
