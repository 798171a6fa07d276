"""A way from inside the lab to a server on this machine's loopback, such as a control plane.

The lab's network leads nowhere. A socket, though, belongs to the network namespace that it was made in for
good: one that listens inside is handed out to a process of ours, which passes connections on.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from lbprov.lab.host import Host

_SERVER = Path(__file__).with_name("doorway_server.py")

# Run inside: listens, and sends the socket out through its standard input.
_LISTEN = """
import socket, sys
with socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=128) as listener:
    socket.send_fds(socket.socket(fileno=0), [b"!"], [listener.fileno()])
"""


class Doorway:
    """A context manager. While it is open, 127.0.0.1:`port` of each of `hosts` is this machine's: what has an
    address and a certificate for the one works with the other."""

    def __init__(self, hosts: Sequence[Host], port: int) -> None:
        listeners = [_listen_in(host, port) for host in hosts]
        numbers = [listener.fileno() for listener in listeners]
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_SERVER), str(port), *map(str, numbers)],
            stdin=subprocess.PIPE,  # its end is the server's end, should we die
            pass_fds=numbers,
            start_new_session=True,
        )
        for listener in listeners:
            listener.close()

    def __enter__(self) -> Doorway:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def _listen_in(host: Host, port: int) -> socket.socket:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        process = host.popen([sys.executable, "-I", "-S", "-c", _LISTEN, str(port)], stdin=theirs.fileno())
        theirs.close()
        _, numbers, _, _ = socket.recv_fds(ours, 1, 1)
        if process.wait() or not numbers:
            raise RuntimeError(f"{host.name}: nothing can listen on 127.0.0.1:{port} there")
        os.set_inheritable(numbers[0], False)
        return socket.socket(fileno=numbers[0])
