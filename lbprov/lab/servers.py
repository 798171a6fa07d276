"""What runs in a pod: a small web server (and the same over UDP) that says who answered whom.

Run as a script, `python -I -S servers.py --http 80 --udp 53`, standard library only: it must start in
milliseconds. Prints "ready" when every port is open. SIGTERM: takes no new connections, finishes those it
has, ends; as a well-behaved container does.
"""

from __future__ import annotations

import select
import signal
import socket
import sys
import threading

_REQUEST_TIMEOUT_S = 5.0
_REQUEST_MAX_BYTES = 65536

PAGE = """\
Hello, this page is served by a pod.
IP address = {ip}
Hostname   = {hostname}
Client     = {client}
"""
"""And, over HTTP, the names of the headers that the request arrived with."""


def _plain(ip: str) -> str:
    return ip.removeprefix("::ffff:")  # an IPv4 peer as a dual-stack socket names it


def page(ip: str, client: str) -> bytes:
    return PAGE.format(ip=_plain(ip), hostname=socket.gethostname(), client=_plain(client)).encode()


def headers(request: bytes) -> bytes:
    lines = request.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]
    return b"Headers    = " + b", ".join(line.partition(b":")[0] for line in lines) + b"\n"


class Kept:
    """Connections that clients hold open between two requests, as `Connection: keep-alive` asks for."""

    def __init__(self) -> None:
        self._sockets: set[socket.socket] = set()
        self._guard = threading.Lock()
        self._is_over = False

    def await_request(self, connection: socket.socket) -> None:
        """Until the client goes on, or hangs up, or this server ends."""
        with self._guard:
            if self._is_over:
                connection.shutdown(socket.SHUT_RD)
            self._sockets.add(connection)
        try:
            select.select([connection], [], [])
        finally:
            with self._guard:
                self._sockets.discard(connection)

    def end(self) -> None:
        with self._guard:
            self._is_over = True
            for connection in self._sockets:
                connection.shutdown(socket.SHUT_RD)


def serve_http(connection: socket.socket, kept: Kept) -> None:
    """The page answers every path."""
    with connection:
        connection.settimeout(_REQUEST_TIMEOUT_S)
        try:
            while answer_http(connection):
                kept.await_request(connection)
        except OSError:
            return  # the client went away: nobody left to tell


def answer_http(connection: socket.socket) -> bool:
    """One request. Whether the client wants to go on."""
    got = b""
    while b"\r\n\r\n" not in got and len(got) < _REQUEST_MAX_BYTES:
        chunk = connection.recv(4096)
        if not chunk:
            return False
        got += chunk
    is_kept = b"\r\nConnection: keep-alive\r\n" in got
    body = page(connection.getsockname()[0], connection.getpeername()[0]) + headers(got)
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n"
    after = b"keep-alive" if is_kept else b"close"
    connection.sendall(head.encode() + b"Connection: " + after + b"\r\n\r\n" + body)
    return is_kept


def answer_udp(sock: socket.socket) -> None:
    _, peer = sock.recvfrom(_REQUEST_MAX_BYTES)
    with socket.socket(sock.family, socket.SOCK_DGRAM) as way_back:  # which address of ours faces the peer?
        way_back.connect(peer)
        ip = way_back.getsockname()[0]
    sock.sendto(page(ip, peer[0]), peer)


def listen(kind: int, port: int) -> socket.socket:
    """Every address of both families, or of IPv4 where the kernel has no IPv6."""
    family = socket.AF_INET6 if socket.has_ipv6 and _has_ipv6() else socket.AF_INET
    sock = socket.socket(family, kind)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.bind(("", port))
    if kind == socket.SOCK_STREAM:
        sock.listen(512)
    return sock


def _has_ipv6() -> bool:
    try:
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).close()
    except OSError:
        return False
    return True


def main(arguments: list[str]) -> None:
    pairs = list(zip(arguments[::2], arguments[1::2], strict=True))
    http = [listen(socket.SOCK_STREAM, int(port)) for flag, port in pairs if flag == "--http"]
    udp = [listen(socket.SOCK_DGRAM, int(port)) for flag, port in pairs if flag == "--udp"]
    wake, woken = socket.socketpair()
    signal.signal(signal.SIGTERM, lambda *_: wake.send(b"."))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    busy: list[threading.Thread] = []
    kept = Kept()
    while True:
        readable, _, _ = select.select([woken, *http, *udp], [], [])
        for sock in readable:
            if sock in udp:
                answer_udp(sock)
            elif sock in http:
                connection, _ = sock.accept()
                busy = [thread for thread in busy if thread.is_alive()]
                busy.append(threading.Thread(target=serve_http, args=(connection, kept)))
                busy[-1].start()
        if woken in readable and len(readable) == 1:  # nothing is left in the queues of accept
            break
    for sock in (*http, *udp):
        sock.close()
    kept.end()
    for thread in busy:
        thread.join()


if __name__ == "__main__":
    main(sys.argv[1:])
