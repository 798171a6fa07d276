"""A way to the API server that misbehaves when told to: what a client under test is given as its server.

It speaks plain HTTP towards the client and TLS towards the API server, passes streams on as they come, and
notes what it is asked. The API server itself stays well, so the test can still look and act.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Literal

_NOT_PASSED_ON = {"connection", "keep-alive", "transfer-encoding", "content-length", "host"}
_TIMEOUT_S = 600.0
_CHUNK_BYTES = 65536


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as the relay saw it. `at_s`: time.monotonic()."""

    method: str
    path: str
    at_s: float

    @property
    def watch(self) -> bool:
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
        return query.get("watch", [""])[0].lower() in ("true", "1")


@dataclass(frozen=True, slots=True)
class Fault:
    """What to do instead of passing a request on.

    - `refuse`: answer with code `status` and a Kubernetes Status object saying `reason`.
    - `hang`: read it, never answer.
    - `drop`: close the connection without a word.
    - `delay`: pass it on after `delay_s`.
    - `gone`: a watch begins and is told 410 in its stream (what an API server does whose history does not go
      back far enough); anything else is passed on.
    """

    kind: Literal["refuse", "hang", "drop", "delay", "gone"]
    status: int = 500
    reason: str = "InternalError"
    delay_s: float = 0.0
    retry_after_s: int = 0


class Relay:
    """A context manager. `server` is the URL for a kubeconfig. All methods may be called at any time."""

    def __init__(self, server: str, ca_pem: str) -> None:
        upstream = urllib.parse.urlsplit(server)
        assert upstream.hostname is not None
        self._upstream = (upstream.hostname, upstream.port or 443)
        self._tls = ssl.create_default_context(cadata=ca_pem)
        self._lock = threading.Lock()
        self._fault: tuple[Fault, Callable[[Asked], bool]] | None = None
        self._cut = threading.Event()  # set: what hangs ends
        self._streams: set[socket.socket] = set()
        self._asked: list[Asked] = []
        handler = type("Handler", (_Handler,), {"owner": self})
        self._http = _Server(("127.0.0.1", 0), handler)
        self.server = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, args=(0.05,), name="relay", daemon=True).start()

    def __enter__(self) -> Relay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.shutdown()
        self._http.server_close()
        self.cut()

    def break_down(self, fault: Fault, only: Callable[[Asked], bool] = lambda _: True) -> None:
        """From now on, for the requests that `only` holds for. What is open is cut."""
        with self._lock:
            self._fault = (fault, only)
        self.cut()

    def recover(self, *, cut: bool = True) -> None:
        """New requests are passed on. Those that hang are cut, or hang on, as when the server behind a
        balancer is replaced without a word."""
        with self._lock:
            self._fault = None
        if cut:
            self.cut()

    def cut(self) -> None:
        """End every open stream and every hanging request, as when a proxy on the way restarts."""
        with self._lock:
            old, self._cut = self._cut, threading.Event()
            streams = tuple(self._streams)
        old.set()
        for stream in streams:
            with contextlib.suppress(OSError):
                stream.shutdown(socket.SHUT_RDWR)

    def asked(self, since_s: float = 0.0) -> list[Asked]:
        """Requests so far; `since_s`: from that time.monotonic() on."""
        with self._lock:
            return [asked for asked in self._asked if asked.at_s >= since_s]

    # For the handler

    def admit(self, method: str, path: str) -> tuple[Fault | None, threading.Event]:
        """What to do with a request, and what tells that it is to end."""
        asked = Asked(method, path, time.monotonic())
        with self._lock:
            self._asked.append(asked)
            fault = self._fault[0] if self._fault and self._fault[1](asked) else None
            if fault and fault.kind == "gone" and not asked.watch:
                fault = None
            return fault, self._cut

    @contextlib.contextmanager
    def upstream(self, cut: threading.Event) -> Iterator[http.client.HTTPSConnection]:
        """A connection of its own, which ends when `cut` is set."""
        connection = http.client.HTTPSConnection(*self._upstream, timeout=_TIMEOUT_S, context=self._tls)
        connection.connect()
        stream = connection.sock
        with self._lock:
            self._streams.add(stream)
        try:
            if cut.is_set():  # between `admit` and here
                raise ConnectionAbortedError("cut")
            yield connection
        finally:
            with self._lock:
                self._streams.discard(stream)
            connection.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients hang up: that is what they are here for."""


class _Handler(BaseHTTPRequestHandler):
    owner: Relay
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as the base class calls it
        """Silent: `Relay.asked` tells."""

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        fault, cut = self.owner.admit(self.command, self.path)
        match fault:
            case None:
                self._pass_on(body, cut)
            case Fault(kind="delay") if not cut.wait(fault.delay_s):
                self._pass_on(body, cut)
            case Fault(kind="refuse"):
                self._answer(fault.status, _status(fault.status, fault.reason), fault.retry_after_s)
            case Fault(kind="gone"):
                self._answer(200, b'{"type":"ERROR","object":' + _status(410, "Expired") + b"}\n")
            case _:
                if fault.kind == "hang":
                    cut.wait()
                self.close_connection = True

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = _handle  # noqa: N815 - the base class's names

    def _answer(self, status: int, body: bytes, retry_after_s: int = 0) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if retry_after_s:
            self.send_header("Retry-After", str(retry_after_s))
        self.end_headers()
        self.wfile.write(body)

    def _pass_on(self, body: bytes, cut: threading.Event) -> None:
        """In chunks as they come. Whoever is cut, or whose other side goes away, gets no last chunk."""
        try:
            with self.owner.upstream(cut) as upstream:
                headers = {k: v for k, v in self.headers.items() if k.lower() not in _NOT_PASSED_ON}
                upstream.request(self.command, self.path, body or None, headers)
                response = upstream.getresponse()
                self.send_response(response.status)
                for name, value in response.getheaders():
                    if name.lower() not in _NOT_PASSED_ON:
                        self.send_header(name, value)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                while chunk := response.read1(_CHUNK_BYTES):
                    self.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
                if cut.is_set():
                    raise ConnectionAbortedError("cut")
                self.wfile.write(b"0\r\n\r\n")
        except (OSError, http.client.HTTPException):
            self.close_connection = True


def _status(code: int, reason: str) -> bytes:
    said = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code}
    return json.dumps({**said, "reason": reason, "message": f"{reason}, as told"}).encode()
