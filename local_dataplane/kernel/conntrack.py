"""Connection tracking's table of UDP flows, by ctnetlink: read it, delete from it.

Encoding and decoding are pure functions of bytes. An entry is found again by the tuple, zone and id that it
was listed with, so that one that has been replaced in the meantime is left alone.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
import typing
from collections.abc import Iterable, Iterator

from lbprov.model import IPFamily
from local_dataplane.flows import Address, Flow
from local_dataplane.kernel import netlink

log = logging.getLogger(__name__)

_SUBSYSTEM = 1 << 8  # NFNL_SUBSYS_CTNETLINK
_GET, _DELETE = _SUBSYSTEM | 1, _SUBSYSTEM | 2
_TUPLE_ORIG, _TUPLE_REPLY, _ID, _ZONE = 1, 2, 12, 18
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_V4_SRC, _V4_DST, _V6_SRC, _V6_DST = 1, 2, 3, 4
_PROTO_NUM, _PROTO_SRC_PORT, _PROTO_DST_PORT = 1, 2, 3
_DOMAINS = {IPFamily.IPV4: socket.AF_INET, IPFamily.IPV6: socket.AF_INET6}
_UDP = socket.IPPROTO_UDP
# Where the protocol's number stands in an entry of the usual layout; a look there spares the decoding of TCP.
_PROTO_NUM_AT = {IPFamily.IPV4: 32, IPFamily.IPV6: 56}
_DUMP_TRIES = 5


class Conntrack(typing.Protocol):
    def udp_flows(self, family: IPFamily) -> list[Flow]:
        """All tracked UDP flows. Raises OSError where the kernel cannot tell."""

    def delete(self, flows: Iterable[Flow]) -> int:
        """Forget these flows; the number that was there to forget."""


class KernelConntrack:
    """See `Conntrack`. Needs the module nf_conntrack_netlink."""

    def udp_flows(self, family: IPFamily) -> list[Flow]:
        for _ in range(_DUMP_TRIES):
            with contextlib.suppress(InterruptedError):
                return list(decode_udp(family, netlink.ask(netlink.NETFILTER, dump_request(family))))
        raise OSError(errno.EAGAIN, "connection tracking changes faster than it can be read")

    def delete(self, flows: Iterable[Flow]) -> int:
        deleted = 0
        for flow in flows:
            try:
                for _ in netlink.ask(netlink.NETFILTER, delete_request(flow)):
                    deleted += 1
            except OSError as error:
                if error.errno != errno.ENOENT:  # it has ended by itself
                    raise
        return deleted


def dump_request(family: IPFamily) -> bytes:
    return netlink.message(_GET, netlink.NLM_F_REQUEST | netlink.NLM_F_DUMP, _DOMAINS[family])


def delete_request(flow: Flow) -> bytes:
    flags = netlink.NLM_F_REQUEST | netlink.NLM_F_ACK
    return netlink.message(_DELETE, flags, _DOMAINS[flow.family], flow.handle)


def decode_udp(family: IPFamily, messages: Iterable[netlink.Message]) -> Iterator[Flow]:
    """The UDP entries of a dump. What is not understood is skipped: it is not ours to judge."""
    at = _PROTO_NUM_AT[family]
    for message in messages:
        body = message.body
        if len(body) > at and body[at - 4 : at] == b"\x05\0\x01\0" and body[at] != _UDP:
            continue
        parts = dict(netlink.attributes(body))
        orig = _tuple(parts.get(_TUPLE_ORIG, b""), family)
        reply = _tuple(parts.get(_TUPLE_REPLY, b""), family)
        if orig and reply:
            handle = b"".join(
                netlink.attribute(type_ | (netlink.NLA_F_NESTED if type_ == _TUPLE_ORIG else 0), parts[type_])
                for type_ in (_TUPLE_ORIG, _ZONE, _ID)
                if type_ in parts
            )
            yield Flow(family, orig[2], orig[3], reply[0], reply[1], handle)


def _tuple(data: bytes, family: IPFamily) -> tuple[Address, int, Address, int] | None:
    """(source, port, destination, port) of a UDP tuple."""
    parts = dict(netlink.attributes(data))
    ip = dict(netlink.attributes(parts.get(_TUPLE_IP, b"")))
    proto = dict(netlink.attributes(parts.get(_TUPLE_PROTO, b"")))
    if proto.get(_PROTO_NUM, b"") != bytes([_UDP]):
        return None
    v6 = family is IPFamily.IPV6
    source, destination = ip.get(_V6_SRC if v6 else _V4_SRC), ip.get(_V6_DST if v6 else _V4_DST)
    source_port, port = proto.get(_PROTO_SRC_PORT), proto.get(_PROTO_DST_PORT)
    if source is None or destination is None or source_port is None or port is None:
        return None
    return source, int.from_bytes(source_port, "big"), destination, int.from_bytes(port, "big")


def is_local(address: Address) -> bool:
    """Whether the address is this machine's own: whether a socket can have it."""
    domain = socket.AF_INET if len(address) == 4 else socket.AF_INET6
    with socket.socket(domain, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind((socket.inet_ntop(domain, address), 0))
        except OSError:
            return False
    return True


class FakeConntrack:
    """Flows in a list. `failure`: what reading raises."""

    def __init__(self, flows: Iterable[Flow] = ()) -> None:
        self.flows = list(flows)
        self.failure: OSError | None = None

    def udp_flows(self, family: IPFamily) -> list[Flow]:
        if self.failure:
            raise self.failure
        return [flow for flow in self.flows if flow.family is family]

    def delete(self, flows: Iterable[Flow]) -> int:
        gone = [flow for flow in flows if flow in self.flows]
        for flow in gone:
            self.flows.remove(flow)
        return len(gone)
