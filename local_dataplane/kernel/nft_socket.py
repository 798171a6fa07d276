"""The kernel's nf_tables over a netlink socket: transactions, and reading our own table back."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence

from lbprov.model import IPFamily, ProviderError, UserError
from local_dataplane.kernel import generation, netlink
from local_dataplane.kernel import nft_messages as msg
from local_dataplane.kernel.iptables_command import NOT_PRIVILEGED
from local_dataplane.kernel.nft_monitor import TableMonitor
from local_dataplane.kernel.nft_seam import Rejected, Unit
from local_dataplane.kernel.seam import Busy
from local_dataplane.nftables.objects import EVALUATED, TABLE, Change, Contents

_SOL_NETLINK, _CAP_ACK = 270, 10
_SNDBUFFORCE, _RCVBUFFORCE = 32, 33
_SEND_BYTES = 256 << 20
_RECEIVE_BYTES = 8 << 20
_RECV = 1 << 18
_PATIENCE_S = 60.0
_READ_TRIES = 8
_ACK = struct.Struct("=IHHIIi")
_PASSING = {errno.EAGAIN, errno.EINTR, errno.ENOBUFS, errno.ENOMEM, 85}  # 85: ERESTART
_TOO_LONG_MARGIN = 4096


class KernelNftables:
    """See `Nftables`. One socket for all: the kernel makes whoever closes one wait until what transactions
    have deleted is gone, some 15 ms. After a failure it is not known what is still to come, so it is left."""

    def __init__(self, family: IPFamily, most_bytes: int = 0) -> None:
        """`most_bytes`: of one transaction; 0: as many as the kernel allows."""
        self._family = family
        self._most_bytes = most_bytes
        self._encoder = msg.Encoder(family)
        self._socket: socket.socket | None = None
        self._own_ports: set[int] = set()
        self._monitor: TableMonitor | None = None

    @property
    def family(self) -> IPFamily:
        return self._family

    def generation(self) -> int:
        try:
            return generation.generation_of(self._ask(generation.NFT_REQUEST))
        except OSError:
            return 0

    @contextlib.contextmanager
    def _open(self) -> Iterator[socket.socket]:
        sock = self._socket or _open()
        self._own_ports.add(sock.getsockname()[0])
        self._socket = None
        try:
            yield sock
        except BaseException:
            sock.close()
            raise
        self._socket = sock

    def _ask(self, request: bytes) -> list[netlink.Message]:
        with self._open() as sock:
            return list(netlink.converse(sock, request))

    def touched(self) -> bool:
        try:
            if self._monitor is None:
                self._monitor = TableMonitor(self._family, TABLE)
                return True  # of what was before, nothing is known
            return self._monitor.take(self._own_ports)
        except OSError:
            return True

    # ── writing ──

    def commit(self, units: Sequence[Unit]) -> int:
        return self._send(units, dry_run=False)

    def check(self, unit: Unit) -> None:
        self._send([unit], dry_run=True)

    def _send(self, units: Sequence[Unit], *, dry_run: bool) -> int:
        with self._open() as sock:
            allowed = sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) - _TOO_LONG_MARGIN
            most = min(self._most_bytes or allowed, allowed)
            transactions = 0
            for data, owners in self._datagrams(units, most, dry_run=dry_run):
                failures = _exchange(sock, data, len(owners))
                if failures:
                    raise _refusal(failures, owners)
                transactions += 1
            return transactions

    def _datagrams(
        self, units: Sequence[Unit], most_bytes: int, *, dry_run: bool
    ) -> Iterator[tuple[bytes, list[int]]]:
        """(datagram, unit of each of its messages), each as long as the kernel lets it be."""
        first = 0
        while first < len(units):
            last = len(units)
            while True:
                data, owners = self._encode(units, first, last, dry_run=dry_run)
                if len(data) <= most_bytes or last == first + 1:
                    break
                last = first + max(1, int((last - first) * most_bytes / len(data) * 0.9))
            yield data, owners
            first = last

    def _encode(
        self, units: Sequence[Unit], first: int, last: int, *, dry_run: bool
    ) -> tuple[bytes, list[int]]:
        changes: list[Change] = []
        unit_of: list[int] = []
        for index in range(first, last):
            changes += units[index]
            unit_of += [index] * len(units[index])
        data, owners = self._encoder.batch(changes, dry_run=dry_run)
        return data, [unit_of[owner] for owner in owners]

    # ── reading ──

    def read(self) -> Contents | None:
        for _ in range(_READ_TRIES):
            with contextlib.suppress(InterruptedError):
                try:
                    return self._read()
                except FileNotFoundError:
                    if self._table() is None:
                        return None
                except PermissionError as error:
                    raise UserError(NOT_PRIVILEGED) from error
        raise Busy("the table changes faster than it can be read")

    def _table(self) -> netlink.Message | None:
        try:
            (answer,) = self._ask(self._encoder.table_request())
        except FileNotFoundError:
            return None
        return answer

    def _read(self) -> Contents | None:
        table = self._table()
        if table is None:
            return None
        is_dormant, objects = msg.decode_table(table.body)
        contents = Contents(is_dormant=is_dormant)
        rules: dict[str, list[str]] = {}
        for message in self._dump(msg.GET_RULE):
            name, mark = msg.decode_rule(message.body)
            rules.setdefault(name, []).append(mark)
        for name, marks in rules.items():
            for message in self._ask(self._encoder.chain_request(name)):
                _, _, chain = msg.decode_chain(message.body)
                contents.chains[name] = chain._replace(rules=tuple(marks))
        for message in self._dump(msg.GET_SET):
            set_name, signature = msg.decode_set(message.body)
            contents.sets[set_name] = signature
        if objects != len(contents.chains) + len(contents.sets):
            self._add_empty_chains(contents)
        for set_name, signature in contents.sets.items():
            if not signature.flags & EVALUATED:
                contents.elements[set_name] = {
                    element.place: element
                    for message in self._dump(msg.GET_ELEMENT, set_name)
                    for element in msg.decode_elements(message.body)
                }
        return contents

    def _add_empty_chains(self, contents: Contents) -> None:
        """Ours have rules; others' need none to drop all that comes by. The kernel lists chains only together
        with those of other tables, so this is for when something is there that we do not know."""
        for message in self._ask(self._encoder.chains_request()):
            table, name, chain = msg.decode_chain(message.body)
            if table == TABLE:
                contents.chains.setdefault(name, chain)

    def _dump(self, what: int, set_name: str = "") -> list[netlink.Message]:
        return self._ask(self._encoder.dump_request(what, set_name))


def _refusal(failures: list[tuple[int, int]], owners: list[int]) -> Exception:
    """`failures`: (sequence number, errno); number 0 is the transaction as a whole."""
    for sequence, number in failures:
        if number == errno.EPERM:
            return UserError(NOT_PRIVILEGED)
        if number in _PASSING:
            return Busy(f"nf_tables is busy: {os.strerror(number)}")
        if not 0 < sequence <= len(owners):
            return ProviderError(f"the kernel refuses a transaction: {os.strerror(number)}")
    units: dict[int, str] = {}
    for sequence, number in failures:
        units.setdefault(owners[sequence - 1], os.strerror(number))
    return Rejected(units)


def _open() -> socket.socket:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, netlink.NETFILTER)
    sock.settimeout(_PATIENCE_S)
    sock.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)
    # Forcing takes the machine's own CAP_NET_ADMIN; without it net.core.wmem_max is the limit.
    for force, plain, size in (
        (_SNDBUFFORCE, socket.SO_SNDBUF, _SEND_BYTES),
        (_RCVBUFFORCE, socket.SO_RCVBUF, _RECEIVE_BYTES),
    ):
        try:
            sock.setsockopt(socket.SOL_SOCKET, force, size)
        except OSError:
            sock.setsockopt(socket.SOL_SOCKET, plain, size)
    return sock


def _exchange(sock: socket.socket, data: bytes, messages: int) -> list[tuple[int, int]]:
    """Send a transaction and wait for its last message's answer; (sequence number, errno) of what failed.

    Answers come when all is done or undone, failures in the messages' order, then the last one's own. Without
    the right to write, or memory, there is one answer, to the transaction's beginning."""
    failures: list[tuple[int, int]] = []
    try:
        sock.send(data)
        while True:
            answer = sock.recv(_RECV)
            offset = 0
            while offset + _ACK.size <= len(answer):
                size, type_, _, sequence, _, error = _ACK.unpack_from(answer, offset)
                offset += size + -size % 4
                if type_ != netlink.NLMSG_ERROR:
                    continue
                if error:
                    failures.append((sequence, -error))
                if sequence == messages or sequence == 0:
                    return failures
    except TimeoutError as error:
        raise Busy(f"nf_tables did not answer within {_PATIENCE_S:.0f} s") from error
    except OSError as error:
        if error.errno == errno.EMSGSIZE:
            raise Rejected({0: "the Service is too large for one message"}) from error
        if error.errno in _PASSING:
            raise Busy(f"nf_tables is busy: {error.strerror}") from error
        if error.errno in (errno.EPERM, errno.EACCES):
            raise UserError(NOT_PRIVILEGED) from error
        raise ProviderError(f"nf_tables cannot be reached: {error.strerror}") from error
