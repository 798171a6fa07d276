"""Requests whose answer has not begun: how long they have waited, and how to end the waiting from outside.

urllib3 gives nobody a handle on a connection before it has an answer; its own way to say which class
connections are of is a pool's `ConnectionCls`.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import urllib3


class GivenUpError(OSError):
    """Somebody who asked later has been answered: this request is to be made again."""


@dataclass(slots=True, eq=False)
class _Waiting:
    socket: socket.socket
    since_s: float
    given_up: bool = False


class Waiting:
    """Thread-safe."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._lock = threading.Lock()
        self._all: set[_Waiting] = set()

    def watch(self, pool: urllib3.PoolManager) -> None:
        """From now on, what this pool sends and waits for is known here."""
        pool.pool_classes_by_scheme = _pool_classes(self)

    def longest_s(self) -> float:
        with self._lock:
            now_s = self._now_s()
            return max((now_s - one.since_s for one in self._all), default=0.0)

    def give_up(self, begun_before_s: float) -> None:
        """Whoever has been waiting since then or longer sees a `GivenUpError` at once."""
        with self._lock:
            old = [one for one in self._all if one.since_s <= begun_before_s]
            for one in old:
                one.given_up = True
                shut(one.socket)

    @contextlib.contextmanager
    def on(self, connection: socket.socket) -> Iterator[None]:
        """While the answer on this connection is waited for."""
        one = _Waiting(connection, self._now_s())
        with self._lock:
            self._all.add(one)
        try:
            yield
        except Exception as error:
            if one.given_up:
                raise GivenUpError("others are answered by now") from error
            raise
        finally:
            with self._lock:
                self._all.discard(one)


def shut(connection: socket.socket) -> None:
    """End it from another thread, at once. The reader sees the stream's end or an error."""
    with contextlib.suppress(OSError, ValueError):
        # Not close(): it would wait for the lock that the blocked reader holds (TLS).
        socket.socket.shutdown(connection, socket.SHUT_RDWR)


def _pool_classes(waiting: Waiting) -> dict[str, Any]:
    """The pools of urllib3, with connections that say when they wait."""
    from urllib3.connection import HTTPConnection, HTTPSConnection
    from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

    def watched(base: Any) -> Any:
        def getresponse(self: Any) -> Any:
            with waiting.on(self.sock):
                return base.getresponse(self)

        return type(f"Watched{base.__name__}", (base,), {"getresponse": getresponse})

    def pool(base: Any, connection: Any) -> Any:
        return type(f"Watched{base.__name__}", (base,), {"ConnectionCls": watched(connection)})

    return {
        "http": pool(HTTPConnectionPool, HTTPConnection),
        "https": pool(HTTPSConnectionPool, HTTPSConnection),
    }
