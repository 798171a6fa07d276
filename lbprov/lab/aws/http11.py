"""An HTTP/1.1 server for one WSGI application: connections are kept, as AWS keeps them.

werkzeug's closes after every answer, which costs a client that makes thousands of calls half of its time. The
application must read its whole body.
"""

from __future__ import annotations

import io
import sys
import urllib.parse
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

WsgiApplication = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def make_server(application: WsgiApplication) -> ThreadingHTTPServer:
    """On a free port of 127.0.0.1; a thread per connection."""

    class Handler(_Handler):
        app = staticmethod(application)

    return ThreadingHTTPServer(("127.0.0.1", 0), Handler)


class _Handler(BaseHTTPRequestHandler):
    app: Callable[..., Iterable[bytes]]
    protocol_version = "HTTP/1.1"
    # Without Nagle's algorithm, which would hold the body back until the header is acknowledged (40 ms).
    disable_nagle_algorithm = True
    wbufsize = -1

    def _answer(self) -> None:
        said: list[tuple[str, list[tuple[str, str]]]] = []
        parts = self.app(self._environ(), lambda status, headers, *_: said.append((status, headers)))
        body = b"".join(parts)
        status, headers = said[0]
        code, _, reason = status.partition(" ")
        self.send_response(int(code), reason)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.wfile.flush()

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = _answer  # noqa: N815 - the names that http.server calls

    def _environ(self) -> dict[str, Any]:
        """PEP 3333. The body is read here: what is left unread would be taken for the next request."""
        path, _, query = self.path.partition("?")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        host, port = self.connection.getsockname()
        environ = {
            "REQUEST_METHOD": self.command,
            "SCRIPT_NAME": "",
            "PATH_INFO": urllib.parse.unquote(path, "latin-1"),
            "QUERY_STRING": query,
            "SERVER_NAME": str(host),
            "SERVER_PORT": str(port),
            "SERVER_PROTOCOL": self.request_version,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "REMOTE_ADDR": self.client_address[0],
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(body),
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
        }
        for name, value in self.headers.items():
            environ.setdefault("HTTP_" + name.upper().replace("-", "_"), value)
        return environ

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name that http.server uses
        """Requests are recorded by the application."""
