"""A scripted API server on loopback: says what a test tells it to, counts what it is asked."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from lbprov.cluster.apiserver.credentials import Place
from lbprov.cluster.apiserver.transport import Transport


@dataclass(frozen=True)
class Call:
    """A request, and the ways to answer it."""

    method: str
    path: str
    params: dict[str, str]
    headers: dict[str, str]
    body: bytes
    at_s: float
    handler: BaseHTTPRequestHandler
    ending: threading.Event

    @property
    def is_watch(self) -> bool:
        return self.params.get("watch") == "true"

    def say(self, value: object, status: int = 200, **headers: str) -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.handler.send_response(status)
        for name, text in {"Content-Length": str(len(body)), **headers}.items():
            self.handler.send_header(name.replace("_", "-"), text)
        self.handler.end_headers()
        self.handler.wfile.write(body)

    def refuse(self, status: int, message: str = "", reason: str = "", **headers: str) -> None:
        self.say({"kind": "Status", "message": message, "reason": reason, "code": status}, status, **headers)

    def stream(self, chunks: Iterable[bytes], *, end: bool = True, **headers: str) -> None:
        """Chunked; `end` False: cut in the middle instead of ending in good form."""
        self.handler.send_response(200)
        for name, text in {"Transfer-Encoding": "chunked", **headers}.items():
            self.handler.send_header(name.replace("_", "-"), text)
        self.handler.end_headers()
        for chunk in chunks:
            self.handler.wfile.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
            self.handler.wfile.flush()
        if end:
            self.handler.wfile.write(b"0\r\n\r\n")
        else:
            self.cut()

    def cut(self) -> None:
        self.handler.close_connection = True
        self.handler.connection.shutdown(socket.SHUT_RDWR)

    def hang(self, seconds: float = 60.0) -> None:
        self.ending.wait(seconds)


class ScriptedServer:
    """`script` answers a call, or does not. Requests of a server that is `down` are refused connections."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.script: Callable[[Call], None] = lambda call: call.refuse(500)
        self.ending = threading.Event()
        self.connections: list[socket.socket] = []
        self._server = self._listen(0)
        self.port = int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _listen(self, port: int) -> ThreadingHTTPServer:
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                owner.connections.append(self.request)
                super().setup()

            def answer(self) -> None:
                parts = urlsplit(self.path)
                length = int(self.headers.get("Content-Length") or 0)
                call = Call(
                    self.command,
                    parts.path,
                    dict(parse_qsl(parts.query, keep_blank_values=True)),
                    {k.lower(): v for k, v in self.headers.items()},
                    self.rfile.read(length),
                    time.monotonic(),
                    self,
                    owner.ending,
                )
                owner.calls.append(call)
                try:
                    owner.script(call)
                except OSError:
                    self.close_connection = True

            do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = answer  # noqa: N815

            def log_message(self, *args: Any) -> None:
                """Silence."""

        server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return server

    def end_answers(self) -> None:
        """Answers that are open (a watch, a hang) end."""
        ending, self.ending = self.ending, threading.Event()
        ending.set()

    def down(self) -> None:
        """Nobody listens; open conversations end."""
        self.ending.set()
        self._server.shutdown()
        self._server.server_close()
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def up(self) -> None:
        self.ending = threading.Event()
        self._server = self._listen(self.port)


@pytest.fixture(scope="session")
def new_server() -> type[ScriptedServer]:
    return ScriptedServer


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    scripted = ScriptedServer()
    yield scripted
    scripted.down()


@pytest.fixture(scope="session")
def kubeconfig_for() -> Callable[[ScriptedServer, Path], Path]:
    """Writes one to a path."""

    def write(server: ScriptedServer, path: Path) -> Path:
        context = {"cluster": "c", "user": "u", "namespace": "home"}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "here",
            "clusters": [{"name": "c", "cluster": {"server": server.url}}],
            "users": [{"name": "u", "user": {"token": "secret-token"}}],
            "contexts": [{"name": "here", "context": context}],
        }
        path.write_text(json.dumps(config))
        return path

    return write


@pytest.fixture
def kubeconfig(
    server: ScriptedServer, kubeconfig_for: Callable[[ScriptedServer, Path], Path], tmp_path: Path
) -> Path:
    return kubeconfig_for(server, tmp_path / "kubeconfig")


@pytest.fixture
def transport(kubeconfig: Path) -> Transport:
    return Transport(Place(str(kubeconfig)))


@pytest.fixture
def eventually() -> Callable[..., None]:
    """`eventually(lambda: …)`: waits until it is true, at most `within_s`; says what was not."""

    def wait(holds: Callable[[], object], within_s: float = 60.0) -> None:
        deadline_s = time.monotonic() + within_s
        while not holds():
            assert time.monotonic() < deadline_s, f"not true within {within_s} s: {holds}"
            time.sleep(0.01)

    return wait
