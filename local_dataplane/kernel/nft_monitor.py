"""Hears who changes our table: the kernel tells every change of every table (NFNLGRP_NFTABLES)."""

from __future__ import annotations

import errno
import socket
import struct

from lbprov.model import IPFamily
from local_dataplane.kernel import netlink

_GROUP = 7
_SUBSYSTEM, _NEW_GENERATION = 10, 15
_HEADER = struct.Struct("=IHHIIB3x")  # nlmsghdr and the family of nfgenmsg
_RECV = 1 << 18
_DOMAINS = {IPFamily.IPV4: socket.AF_INET, IPFamily.IPV6: socket.AF_INET6}


class TableMonitor:
    """Of one table of one family. What has piled up is looked through when somebody asks."""

    def __init__(self, family: IPFamily, table: str) -> None:
        self._domain = _DOMAINS[family]
        self._name = table.encode() + b"\0"
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, netlink.NETFILTER)
        self._socket.setblocking(False)
        self._socket.bind((0, 1 << _GROUP - 1))

    def close(self) -> None:
        self._socket.close()

    def take(self, own_ports: set[int]) -> bool:
        """Whether somebody with another netlink port than these has changed the table since the last call.
        True, too, if there was more to hear than the socket could hold."""
        found = False
        while True:
            try:
                data = self._socket.recv(_RECV)
            except BlockingIOError:
                return found
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                found = True
                continue
            found = found or self._concerns(data, own_ports)

    def _concerns(self, data: bytes, own_ports: set[int]) -> bool:
        offset = 0
        while offset + _HEADER.size <= len(data):
            size, type_, _, _, port, domain = _HEADER.unpack_from(data, offset)
            is_ours = domain == self._domain and port not in own_ports
            if is_ours and type_ >> 8 == _SUBSYSTEM and type_ & 0xFF != _NEW_GENERATION:
                # The table's name is attribute 1 of whatever has changed.
                body = data[offset + _HEADER.size : offset + size]
                if dict(netlink.attributes(body)).get(1) == self._name:
                    return True
            if size < _HEADER.size:
                return False
            offset += size + -size % 4
        return False
