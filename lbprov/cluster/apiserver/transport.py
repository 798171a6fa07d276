"""Requests to an API server: raw bytes out and in, one translation of everything that can go wrong."""

from __future__ import annotations

import contextlib
import logging
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from lbprov import __version__
from lbprov.cluster.apiserver.credentials import Credentials, Place
from lbprov.cluster.apiserver.errors import Unavailable, Untrusted, from_answer
from lbprov.cluster.apiserver.outage import Outage
from lbprov.cluster.apiserver.waiting import GivenUpError, Waiting, shut
from lbprov.model import UserError

if TYPE_CHECKING:
    import socket

    import urllib3

log = logging.getLogger(__name__)

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"

CONNECT_TIMEOUT_S = 3.0
REQUEST_TIMEOUT_S = 10.0
RELOAD_PAUSE_S = 10.0
READ_BYTES = 1 << 18
MAX_LINE_BYTES = 1 << 25
"""An object that etcd takes has 1.5 MiB."""

Params = Mapping[str, str | int]


class Transport:
    """One API server, shared by everybody in this process. Thread-safe; retries nothing but a 401, once,
    with credentials read anew.

    `outage` knows whether the server answers. A request that is not `vital` (reflectors', the elector's and
    the probe's are) raises `Unavailable` without being sent while somebody else has just found it out.
    `waiting`: the requests whose answer has not begun.
    """

    def __init__(self, place: Place, *, now_s: Callable[[], float] = time.monotonic) -> None:
        self.waiting = Waiting(now_s)
        self._credentials = Credentials(place, self.waiting.watch)
        self._now_s = now_s
        self._reloaded_s = float("-inf")
        self._reload_lock = threading.Lock()
        self.outage = Outage(now_s)
        self.namespace = self._credentials.namespace

    @property
    def server(self) -> str:
        return self._credentials.server

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Params | None = None,
        body: object = None,
        content_type: str = JSON,
        timeout_s: float = REQUEST_TIMEOUT_S,
        body_timeout_s: float = 0.0,
        vital: bool = False,
    ) -> bytes:
        """One request; the answer's body. `timeout_s` is for the answer to begin, `body_timeout_s` (if
        greater) for the whole. Raises what `errors` lists."""
        if not vital and self.outage.is_on():
            raise Unavailable(f"{method} {path}: the API server has not answered lately")
        payload = None if body is None else msgspec.json.encode(body)
        deadline_s = self._now_s() + max(timeout_s, body_timeout_s)
        with self.translated(f"{method} {path}", vital):
            response = self._send(method, path, params, payload, content_type, timeout_s)
            try:
                answer = _read(response, deadline_s, self._now_s)
            finally:
                if response.connection is not None:  # not read to its end, so of no use to anybody else
                    response.close()
        self.outage.answered()
        return answer

    @contextlib.contextmanager
    def stream(
        self, path: str, params: Params, *, answer_timeout_s: float, silence_s: float
    ) -> Iterator[Stream]:
        """A watch. The server must begin to answer within `answer_timeout_s`, and after that be silent for
        no longer than `silence_s` at once."""
        what = f"GET {path} (watch)"
        with self.translated(what, vital=True):
            response = self._send("GET", path, params, None, JSON, answer_timeout_s)
        stream = Stream(self, what, response, silence_s)
        self.outage.answered()
        try:
            yield stream
        finally:
            response.close()

    def _send(
        self,
        method: str,
        path: str,
        params: Params | None,
        payload: bytes | None,
        content_type: str,
        timeout_s: float,
    ) -> urllib3.BaseHTTPResponse:
        """An answer with a good status, its body unread."""
        what = f"{method} {path}"
        for attempt in (1, 2):
            response = self._exchange(method, path, params, payload, content_type, timeout_s)
            if 200 <= response.status < 300:
                return response
            body = response.read(1 << 16)
            response.close()
            if response.status != 401 or attempt == 2 or not self._reload():
                break
        raise from_answer(what, response.status, body, response.headers.get("Retry-After"))

    def _exchange(
        self,
        method: str,
        path: str,
        params: Params | None,
        payload: bytes | None,
        content_type: str,
        timeout_s: float,
    ) -> urllib3.BaseHTTPResponse:
        import urllib3

        pool, base, headers = self._credentials.current()
        headers |= {"Accept": JSON, "User-Agent": f"lbprov/{__version__}"}
        if payload is not None:
            headers["Content-Type"] = content_type
        elif not (params and "watch" in params):
            headers["Accept-Encoding"] = "gzip"  # pages of a list: a twentieth, and there in half the time
        query = "?" + "&".join(f"{k}={_quoted(v)}" for k, v in params.items()) if params else ""
        return pool.request(
            method,
            base + path + query,
            body=payload,
            headers=headers,
            timeout=urllib3.Timeout(
                connect=min(CONNECT_TIMEOUT_S, timeout_s), read=timeout_s, total=timeout_s
            ),
            preload_content=False,
            redirect=False,
        )

    def _reload(self) -> bool:
        """Read the credentials anew unless that has just been done. Whether it is worth asking again."""
        with self._reload_lock:
            if self._now_s() - self._reloaded_s < RELOAD_PAUSE_S:
                return False
            self._reloaded_s = self._now_s()
            try:
                self._credentials.reload()
            except UserError as error:
                log.warning("credentials could not be read anew: %s", error)
                return False
            return True

    @contextlib.contextmanager
    def translated(self, what: str, vital: bool) -> Iterator[None]:
        """The one place where sockets, TLS and HTTP become our errors, and are told to `outage`: a server's
        5xx counts only where it is about the server, not about one object's webhook."""
        import urllib3.exceptions as broken

        try:
            yield
        except Unavailable as error:
            if vital or not error.answered:
                self.outage.failed()
            raise
        except (broken.SSLError, ssl.SSLCertVerificationError) as error:
            self._reload()  # a CA may have been exchanged
            message = f"{what}: the server's certificate is not vouched for by {self._credentials.place}"
            raise Untrusted(f"{message}: {_cause(error)}", status=0, retryable=True) from error
        except (broken.HTTPError, OSError) as error:
            if isinstance(_innermost(error), GivenUpError):
                raise Unavailable(f"{what}: {_cause(error)}", given_up=True) from error
            self.outage.failed()
            # A refused connection is a kind of timeout to urllib3.
            timed_out = isinstance(error, (broken.TimeoutError, TimeoutError)) and not isinstance(
                error, broken.NewConnectionError
            )
            why = "no answer in time" if timed_out else _cause(error)
            message = f"{what}: {self._credentials.server}: {why}"
            raise Unavailable(message, timed_out=timed_out) from error


class Stream:
    """The lines of a watch, as they come."""

    def __init__(
        self, transport: Transport, what: str, response: urllib3.BaseHTTPResponse, silence_s: float
    ) -> None:
        self._transport, self._what, self._response = transport, what, response
        self._socket = _socket_of(response)
        if self._socket is not None:
            self._socket.settimeout(silence_s)

    def lines(self) -> Iterator[bytes]:
        """Ends when the server ends the watch in good form. `Unavailable` if it is cut (`timed_out`: the
        server was silent for too long)."""
        rest = bytearray()
        while chunk := self._chunk():
            self._transport.outage.answered()
            *lines, tail = chunk.split(b"\n")
            if lines:
                lines[0] = bytes(rest) + lines[0]
                rest.clear()
                yield from filter(None, lines)
            rest += tail
            if len(rest) > MAX_LINE_BYTES:
                raise Unavailable(f"{self._what}: an event without an end", answered=True)
        if rest:
            raise Unavailable(f"{self._what}: cut in the middle of an event")

    def _chunk(self) -> bytes:
        with self._transport.translated(self._what, vital=True):
            return self._response.read1(READ_BYTES)

    def shut(self) -> None:
        """From another thread, at once."""
        if self._socket is not None:
            shut(self._socket)


def _socket_of(response: Any) -> socket.socket | None:
    """Of an answer with `Connection: close`, urllib3 keeps the socket's method only."""
    kept: socket.socket | None = getattr(response.connection, "sock", None)
    return kept or getattr(getattr(response, "_sock_shutdown", None), "__self__", None)


def _read(response: urllib3.BaseHTTPResponse, deadline_s: float, now_s: Callable[[], float]) -> bytes:
    chunks = []
    while chunk := response.read1(READ_BYTES):
        chunks.append(chunk)
        if now_s() > deadline_s:
            raise TimeoutError
    return b"".join(chunks)


def _quoted(value: str | int) -> str:
    from urllib.parse import quote

    return quote(str(value), safe="")


def _innermost(error: BaseException) -> BaseException:
    """The system's own error, or ours: urllib3 wraps three deep."""
    from urllib3.exceptions import HTTPError

    while not isinstance(error, GivenUpError) and isinstance(
        inner := error.__cause__ or error.__context__, (OSError, HTTPError)
    ):
        error = inner
    return error


def _cause(error: BaseException) -> str:
    """The innermost reason in words, as urllib3 prints addresses of objects."""
    from urllib3.exceptions import HTTPError

    error = _innermost(error)
    if isinstance(error, HTTPError) and error.args:
        return str(error.args[0])
    return str(error) or type(error).__name__
