"""The sets and maps that Services are elements of, and what their keys and data mean. Pure.

    addresses            address                              all that have frontends; others are let pass
    cluster-ips-1 … -8   address . protocol . port            clusterIPs with so many endpoints
    refused              address . protocol . port            frontends without any
    frontends            address . protocol . port            -> all other frontends: the chain that decides
    nodeports            protocol . port                      -> the same, on the node's own addresses
    endpoints            address . protocol . port . number   -> address . port
    nodeport-endpoints   protocol . port . number             -> address . port

Sets beside `frontends` are there because the kernel walks all of a map that leads to chains whenever it
changes (some 4 ms with 10,000 elements), and most Services are only a clusterIP.

The shapes are such that nft can say them in its own language: versions of it that are in use end with a
failed assertion when they are to list anything else, and nobody's listing may fail because of us. So a
look-up's result is never part of another one's key, and an endpoint is an element for each frontend of its
Service.
"""

from __future__ import annotations

import functools
import socket
import struct
import sys
from enum import IntEnum

from lbprov.model import IPFamily, L4Protocol
from local_dataplane.endpoints import Backend
from local_dataplane.nftables.objects import NUMBER, PORT, PROTOCOL, SetShape, address_part, padded
from local_dataplane.table import Frontend

FRONTENDS, REFUSED, NODEPORTS = "frontends", "refused", "nodeports"
FEW = range(1, 9)
"""Numbers of endpoints that clusterIPs have a set for."""

ENDPOINTS, NODEPORT_ENDPOINTS = "endpoints", "nodeport-endpoints"
ALLOWED, ADDRESSES, CLUSTER_IPS, HAIRPINS = "allowed", "addresses", "cluster-ips", "hairpins"

CLIENTS = "clients-"
"""Begins the names of the sets of clients with session affinity, one for each endpoint."""

CLIENTS_SIZE = 1 << 16
"""So many clients of one endpoint are remembered at most; further ones get a new choice every time."""


class Scope(IntEnum):
    """Which endpoints of a Service port: all, or those of this node. The value is what their numbers count
    from."""

    ALL = 0
    OWN = 1 << 24

    @property
    def word(self) -> str:
        return self.name.lower()


def shapes(family: IPFamily) -> tuple[SetShape, ...]:
    address = address_part(family)
    frontend, node_port, backend = (address, PROTOCOL, PORT), (PROTOCOL, PORT), (address, PORT)
    return (
        *(SetShape(few(count), frontend) for count in FEW),
        SetShape(REFUSED, frontend),
        SetShape(FRONTENDS, frontend, is_verdict=True),
        SetShape(NODEPORTS, node_port, is_verdict=True),
        SetShape(ENDPOINTS, (*frontend, NUMBER), backend),
        SetShape(NODEPORT_ENDPOINTS, (*node_port, NUMBER), backend),
        SetShape(ALLOWED, (*frontend, address), is_interval=True),
        SetShape(ADDRESSES, (address,)),
        SetShape(CLUSTER_IPS, (address,)),
        SetShape(HAIRPINS, (address, address)),
    )


def few(endpoints: int) -> str:
    """The set of clusterIPs that have so many."""
    return f"cluster-ips-{endpoints}"


DISPATCH = (*(few(count) for count in FEW), REFUSED, FRONTENDS, NODEPORTS)
"""Each frontend is in one of these."""


def clients_shape(name: str, family: IPFamily) -> SetShape:
    return SetShape(name, (address_part(family),), size=CLIENTS_SIZE)


def number(value: int) -> bytes:
    return struct.pack("=I", value)


@functools.lru_cache(maxsize=1 << 16)
def packed(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def text(address: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET6 if len(address) == 16 else socket.AF_INET, address)


PROTOCOL_NUMBERS = {
    L4Protocol.TCP: socket.IPPROTO_TCP,
    L4Protocol.UDP: socket.IPPROTO_UDP,
    L4Protocol.SCTP: socket.IPPROTO_SCTP,
}
_PROTOCOLS = {value: protocol for protocol, value in PROTOCOL_NUMBERS.items()}
_SERVICE = struct.Struct(">B3xH2x")


def frontend_key(frontend: Frontend) -> bytes:
    """In `frontends`, or in `nodeports`."""
    address = packed(frontend.address) if frontend.address else b""
    return address + _SERVICE.pack(PROTOCOL_NUMBERS[frontend.protocol], frontend.port)


def frontend_of(key: bytes) -> Frontend:
    address, (protocol, port) = key[:-8], _SERVICE.unpack(key[-8:])
    return Frontend(text(address) if address else "", _PROTOCOLS[protocol], port)


def element_text(shape: SetShape, key: bytes) -> str:
    """As nft says it: `@cluster-ips-2 { 10.96.0.7 . tcp . 80 }`."""
    words, at = [], 0
    for part in shape.key:
        value = key[at : at + part.length]
        at += padded(part.length)
        if part == PROTOCOL:
            words.append(_PROTOCOLS[value[0]].lower())
        elif part in (PORT, NUMBER):
            words.append(str(int.from_bytes(value, "big" if part == PORT else sys.byteorder)))
        else:
            words.append(text(value))
    return f"@{shape.name} {{ {' . '.join(words)} }}"


def backend_data(backend: Backend) -> bytes:
    return packed(backend.address) + struct.pack(">H2x", backend.port)


def backend_of(data: bytes) -> Backend:
    return Backend(text(data[:-4]), int(struct.unpack(">H2x", data[-4:])[0]))


def endpoint_number(key: bytes) -> tuple[bytes, Scope, int]:
    """(frontend's key, scope, number within it) of a key in `endpoints` or `nodeport-endpoints`."""
    value = int(struct.unpack("=I", key[-4:])[0])
    scope = Scope.OWN if value >= Scope.OWN else Scope.ALL
    return key[:-4], scope, value - scope


def frontend_at(set_name: str, place: bytes) -> Frontend | None:
    """The frontend that an element is about; None where it is about no single one."""
    if set_name in DISPATCH:
        return frontend_of(place)
    if set_name in (ENDPOINTS, NODEPORT_ENDPOINTS):
        return frontend_of(place[:-4])
    if set_name == ALLOWED:
        v4 = len(place) == 2 * (4 + 8 + 4)
        return frontend_of(place[: (4 if v4 else 16) + 8])
    return None
