"""A `MemoryWorld` that a provider in another process uses, so that it outlives that process and can be looked
into: `serve` it here, give the other process a `RemoteWorld` at the same path."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any

from lbprov.testing.memory_world import MemoryWorld, Resource, WorldError

_METHODS = frozenset({"list_all", "create", "update", "delete", "get"})


@contextlib.contextmanager
def serve(world: MemoryWorld, path: Path) -> Iterator[None]:
    """At a Unix socket, until the block ends. Whoever's user may open the socket may use the world."""
    listener = Listener(str(path), family="AF_UNIX", backlog=64)

    def accept() -> None:
        while True:
            try:
                connection = listener.accept()
            except OSError:
                return
            threading.Thread(target=_answer, args=(world, connection), daemon=True).start()

    threading.Thread(target=accept, name="world", daemon=True).start()
    try:
        yield
    finally:
        listener.close()  # the thread may sleep in accept for ever: nobody finds the socket any more


def _answer(world: MemoryWorld, connection: Connection[Any, Any]) -> None:
    """One thread of the other process. It may be killed at any moment."""
    with connection, contextlib.suppress(EOFError, OSError):
        while True:
            method, arguments = connection.recv()
            assert method in _METHODS
            try:
                answer: Any = getattr(world, method)(*arguments)
            except WorldError as error:
                message = str(error).partition(": ")[2]
                connection.send(("refused", (error.code, message, error.existing)))
            except Exception as error:
                connection.send(("broken", repr(error)))
            else:
                connection.send(("ok", answer))


class RemoteWorld:
    """The methods of `MemoryWorld` that a provider uses. Each thread has its connection."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._local = threading.local()

    def list_all(self) -> tuple[Resource, ...]:
        found: tuple[Resource, ...] = self._ask("list_all")
        return found

    def create(self, wanted: Resource) -> Resource:
        made: Resource = self._ask("create", wanted)
        return made

    def update(self, wanted: Resource) -> Resource:
        made: Resource = self._ask("update", wanted)
        return made

    def delete(self, id_: str) -> None:
        self._ask("delete", id_)

    def get(self, id_: str) -> Resource:
        found: Resource = self._ask("get", id_)
        return found

    def _ask(self, method: str, *arguments: Any) -> Any:
        if not hasattr(self._local, "connection"):
            self._local.connection = Client(self._path, family="AF_UNIX")
        self._local.connection.send((method, arguments))
        kind, answer = self._local.connection.recv()
        if kind == "refused":
            raise WorldError(*answer)
        if kind == "broken":
            raise RuntimeError(answer)
        return answer
