"""One small HTTP server for `/healthz`, `/readyz` and `/metrics`.

`/healthz`: the loops live (restart the process if not). `/readyz`: what it knows of the cluster is complete
(keep waiting if not). Both answer 200 or 503 with a line per check, so that a person with curl sees why.
"""

from __future__ import annotations

import http.server
import ipaddress
import socket
import threading
import time
from collections.abc import Callable, Mapping

Check = Callable[[], str]
"""What is wrong, as a short phrase; empty: nothing."""

CONNECTIONS = 32
TIMEOUT_S = 10.0


class Pulse:
    """Which loops live: each says `beat` at every round, and is taken for dead when it is silent for longer
    than it may be."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._beats: dict[str, tuple[float, float]] = {}

    def beat(self, loop: str, may_be_silent_s: float) -> None:
        self._beats[loop] = (self._now_s(), may_be_silent_s)

    def end(self, loop: str) -> None:
        """The loop has ended as it should."""
        self._beats.pop(loop, None)

    def check(self) -> str:
        now_s = self._now_s()
        beats = list(self._beats.items())
        silent = [
            f"{loop} silent for {now_s - at:.0f} s" for loop, (at, may_s) in beats if now_s - at > may_s
        ]
        return ", ".join(silent)


def parse_address(text: str) -> tuple[str, int]:
    """`:8080`, `127.0.0.1:8080`, `[::1]:8080` -> (host, port); host "" means every address. ValueError says
    what is allowed."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{text!r} is no address to listen on; give [HOST]:PORT, such as :8080")
    if host:
        try:
            ipaddress.ip_address(host)
        except ValueError:
            raise ValueError(f"{host!r} is no IP address; give [HOST]:PORT, such as 127.0.0.1:8080") from None
    return host, int(port)


class HealthServer:
    """Listens from the moment it is made, so that a taken port is an error at once (OSError); answers between
    `start` and `stop`. `exposition(accept)` gives body and content type of `/metrics`."""

    def __init__(
        self,
        address: tuple[str, int],
        healthy: Mapping[str, Check],
        ready: Mapping[str, Check],
        exposition: Callable[[str], tuple[bytes, str]],
    ) -> None:
        class Handler(_Handler):
            checks = {"/healthz": healthy, "/readyz": ready}  # noqa: RUF012 - a class per server
            metrics = staticmethod(exposition)

        self._server = _Server(address, Handler)
        self._thread = threading.Thread(target=self._serve, name="health", daemon=True)

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def start(self) -> None:
        self._thread.start()

    def _serve(self) -> None:
        self._server.serve_forever(poll_interval=0.1)  # how soon it notices that it should stop

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(http.server.ThreadingHTTPServer):
    """At most so many connections at once: whoever opens more is hung up on."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], handler: type[http.server.BaseHTTPRequestHandler]) -> None:
        host, port = address
        self._places = threading.BoundedSemaphore(CONNECTIONS)
        both_families = host == "" and socket.has_dualstack_ipv6()
        self.address_family = socket.AF_INET6 if both_families or ":" in host else socket.AF_INET
        self._both_families = both_families
        super().__init__((host, port), handler)

    def server_bind(self) -> None:
        if self._both_families:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        # Not HTTPServer's: that asks DNS for the host's name.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def process_request(self, request: socket.socket | tuple[bytes, socket.socket], client: object) -> None:
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client)

    def process_request_thread(
        self, request: socket.socket | tuple[bytes, socket.socket], client: object
    ) -> None:
        try:
            super().process_request_thread(request, client)
        finally:
            self._places.release()

    def handle_error(self, request: object, client: object) -> None:
        """Whoever hangs up in the middle is no news."""


class _Handler(http.server.BaseHTTPRequestHandler):
    checks: Mapping[str, Mapping[str, Check]] = {}
    metrics: Callable[[str], tuple[bytes, str]]
    timeout = TIMEOUT_S
    protocol_version = "HTTP/1.1"
    server_version = "lbprov"
    sys_version = ""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path in self.checks:
            self._answer_checks(self.checks[path])
        elif path == "/metrics":
            body, content_type = self.metrics(self.headers.get("Accept", ""))
            self._answer(200, body, content_type)
        else:
            self._answer(404, b"There are /healthz, /readyz and /metrics.\n")

    def _answer_checks(self, checks: Mapping[str, Check]) -> None:
        wrong = {name: _ask(check) for name, check in checks.items()}
        lines = [f"[-] {name}: {what}" if what else f"[+] {name}" for name, what in wrong.items()]
        self._answer(503 if any(wrong.values()) else 200, ("\n".join(lines) + "\n").encode())

    def _answer(self, status: int, body: bytes, content_type: str = "text/plain; charset=utf-8") -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """A probe every few seconds is no news."""


def _ask(check: Check) -> str:
    try:
        return check()
    except Exception as error:
        return f"the check itself failed: {error!r}"
