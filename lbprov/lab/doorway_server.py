"""`python -I -S doorway_server.py PORT FD …`: passes what connects to the listening sockets FD … on to
127.0.0.1:PORT, until its standard input ends. Standard library only. See `doorway.py`."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading

_CHUNK_BYTES = 1 << 18


def pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while chunk := source.recv(_CHUNK_BYTES):
            sink.sendall(chunk)
    for end in (sink, source):  # an end of one direction ends both: HTTP has no half-closed connections
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def pass_on(near: socket.socket, port: int) -> None:
    with near:
        try:
            far = socket.create_connection(("127.0.0.1", port))
        except OSError:
            return  # the server is down: so is the connection
        with far:
            for end in (near, far):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            back = threading.Thread(target=pump, args=(far, near), daemon=True)
            back.start()
            pump(near, far)
            back.join()


def accept(listener: socket.socket, port: int) -> None:
    while True:
        near, _ = listener.accept()
        threading.Thread(target=pass_on, args=(near, port), daemon=True).start()


def main() -> None:
    port, *numbers = (int(argument) for argument in sys.argv[1:])
    for number in numbers:
        listener = socket.socket(fileno=number)
        threading.Thread(target=accept, args=(listener, port), daemon=True).start()
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    main()
