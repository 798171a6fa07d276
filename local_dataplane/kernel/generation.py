"""Has anybody changed the packet filter? Two questions that cost microseconds.

nft (and iptables-nft): the ruleset's generation, NFT_MSG_GETGEN, counts every commit of anybody.
Legacy: IPT_SO_GET_INFO tells the number of rules and their size; a rule replaced by one of the same size
goes unnoticed here, and is found by the slow comparison.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable

from lbprov.model import IPFamily
from local_dataplane.kernel import netlink

_NFNL_SUBSYS_NFTABLES = 10
_NFT_MSG_GETGEN = 16
_NFTA_GEN_ID = 1
_SO_GET_INFO = 64  # IPT_SO_GET_INFO and IP6T_SO_GET_INFO alike
_INFO = struct.Struct("=32sI5I5III")  # struct ipt_getinfo


NFT_REQUEST = netlink.message(_NFNL_SUBSYS_NFTABLES << 8 | _NFT_MSG_GETGEN, netlink.NLM_F_REQUEST, family=0)


def nft() -> int:
    """The ruleset's generation; 0 where the kernel has no nf_tables."""
    try:
        return generation_of(netlink.ask(netlink.NETFILTER, NFT_REQUEST))
    except OSError:
        return 0


def generation_of(replies: Iterable[netlink.Message]) -> int:
    """In the answer to NFT_REQUEST."""
    for reply in replies:
        value = dict(netlink.attributes(reply.body)).get(_NFTA_GEN_ID)
        if value:
            return int.from_bytes(value, "big")
    return 0


def legacy(family: IPFamily, table: str) -> tuple[int, int]:
    """(rules, bytes) of a table; zeros where it does not exist."""
    v6 = family is IPFamily.IPV6
    domain, level = (socket.AF_INET6, socket.IPPROTO_IPV6) if v6 else (socket.AF_INET, socket.IPPROTO_IP)
    with socket.socket(domain, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
        # The table's name goes in by the buffer that the answer comes out by, which Python's getsockopt
        # cannot do; see `_get_info`.
        try:
            info = _get_info(sock, level, table)
        except OSError:
            return 0, 0
    *_, entries, size = _INFO.unpack(info)
    return entries, size


def _get_info(sock: socket.socket, level: int, table: str) -> bytes:
    import ctypes

    buffer = ctypes.create_string_buffer(table.encode(), _INFO.size)
    length = ctypes.c_uint32(_INFO.size)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.getsockopt(sock.fileno(), level, _SO_GET_INFO, buffer, ctypes.byref(length)):
        errno = ctypes.get_errno()
        raise OSError(errno, f"IPT_SO_GET_INFO {table}")
    return buffer.raw
