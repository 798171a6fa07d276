"""One thread that answers HTTP on any number of ports: hundreds of Services may have one each."""

from __future__ import annotations

import contextlib
import http
import logging
import selectors
import socket
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 256
MAX_REQUEST_BYTES = 16384
PATIENCE_S = 5.0
_BACKLOG = 128


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()

    def message(self, *, with_body: bool) -> bytes:
        lines = [
            f"HTTP/1.1 {self.status} {http.HTTPStatus(self.status).phrase}",
            f"Content-Type: {self.content_type}",
            f"Content-Length: {len(self.body)}",
            *(f"{name}: {value}" for name, value in self.headers),
            "Connection: close",
        ]
        return "\r\n".join([*lines, "", ""]).encode() + (self.body if with_body else b"")


Responder = Callable[[str, str], Answer]
"""(path without its query, Accept header) -> what to say. Runs on the one thread: it must be quick."""


@dataclass(slots=True, eq=False)
class _Door:
    listener: socket.socket
    respond: Responder


@dataclass(slots=True, eq=False)
class _Visit:
    """A connection: one request, one answer."""

    sock: socket.socket
    respond: Responder
    until_s: float
    heard: bytearray = field(default_factory=bytearray)
    to_say: memoryview = field(default_factory=lambda: memoryview(b""))


class HttpPorts:
    """`open` and `close` may be called from any thread, at any time between `start` and `stop`."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._selector = selectors.DefaultSelector()
        self._doors: dict[Hashable, list[_Door]] = {}
        self._visits: set[_Visit] = set()
        self._lock = threading.Lock()
        self._wake, self._woken = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping = True
        self._wake.send(b"!")
        self._thread.join()
        for name in list(self._doors):
            self.close(name)
        for visit in list(self._visits):
            self._end(visit)
        self._selector.close()
        self._wake.close()
        self._woken.close()

    def open(self, name: Hashable, addresses: Sequence[tuple[str, int]], respond: Responder) -> None:
        """Listen on all of these addresses, or on none and raise OSError. Nothing of that name is open."""
        doors: list[_Door] = []
        try:
            for host, port in addresses:
                doors.append(_Door(_listen(host, port), respond))
        except OSError:
            for door in doors:
                door.listener.close()
            raise
        with self._lock:
            self._doors[name] = doors
            for door in doors:
                self._selector.register(door.listener, selectors.EVENT_READ, door)

    def close(self, name: Hashable) -> None:
        """Free at once for whoever wants the ports. Harmless if there is none of that name."""
        with self._lock:
            for door in self._doors.pop(name, ()):
                self._selector.unregister(door.listener)
                door.listener.close()

    def is_open(self, name: Hashable) -> bool:
        return name in self._doors

    def ports(self, name: Hashable) -> tuple[int, ...]:
        return tuple(door.listener.getsockname()[1] for door in self._doors.get(name, ()))

    def _run(self) -> None:
        while not self._stopping:
            for key, _ in self._selector.select(1.0 if self._visits else None):
                try:
                    self._serve(key.data)
                except OSError:
                    if isinstance(key.data, _Visit):  # hung up
                        self._end(key.data)
                except Exception:
                    log.exception("a bug in an HTTP server of the agent; it goes on")
                    if isinstance(key.data, _Visit):
                        self._end(key.data)
            now_s = self._now_s()
            for visit in [v for v in self._visits if v.until_s < now_s]:
                self._end(visit)

    def _serve(self, what: object) -> None:
        if isinstance(what, _Door):
            sock, _ = what.listener.accept()
            sock.setblocking(False)
            visit = _Visit(sock, what.respond, self._now_s() + PATIENCE_S)
            if len(self._visits) >= MAX_CONNECTIONS:  # whoever has stayed longest makes room
                self._end(min(self._visits, key=lambda v: v.until_s))
            self._visits.add(visit)
            self._register(visit, selectors.EVENT_READ)
        elif isinstance(what, _Visit):
            self._speak(what) if what.to_say else self._hear(what)
        else:
            self._woken.recv(64)

    def _hear(self, visit: _Visit) -> None:
        chunk = visit.sock.recv(4096)
        visit.heard += chunk
        if not chunk or len(visit.heard) > MAX_REQUEST_BYTES:
            self._end(visit)
        elif b"\r\n\r\n" in visit.heard or b"\n\n" in visit.heard:
            visit.to_say = memoryview(_answer(bytes(visit.heard), visit.respond))
            self._speak(visit)

    def _speak(self, visit: _Visit) -> None:
        with contextlib.suppress(BlockingIOError):
            visit.to_say = visit.to_say[visit.sock.send(visit.to_say) :]
        if visit.to_say:
            with self._lock:
                self._selector.modify(visit.sock, selectors.EVENT_WRITE, visit)
            return
        with contextlib.suppress(OSError):
            visit.sock.shutdown(socket.SHUT_WR)
        self._end(visit)

    def _register(self, visit: _Visit, events: int) -> None:
        with self._lock:
            self._selector.register(visit.sock, events, visit)

    def _end(self, visit: _Visit) -> None:
        if visit in self._visits:
            self._visits.discard(visit)
            with self._lock:
                self._selector.unregister(visit.sock)
            visit.sock.close()


def _answer(request: bytes, respond: Responder) -> bytes:
    head, *headers = request.decode("latin-1").splitlines()
    words = head.split()
    if len(words) < 2:
        return Answer(400, b"not HTTP\n").message(with_body=True)
    accept = next((h.partition(":")[2].strip() for h in headers if h.lower().startswith("accept:")), "")
    try:
        answer = respond(words[1].partition("?")[0], accept)
    except Exception as error:
        log.exception("a bug in an answer", extra={"path": words[1]})
        answer = Answer(500, f"{error!r}\n".encode())
    return answer.message(with_body=words[0] != "HEAD")


def _listen(host: str, port: int) -> socket.socket:
    """`host` "": every address, of both families."""
    both = host == "" and socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both or ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if both else 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener
