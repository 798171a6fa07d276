"""A little world to make load balancers in: to the in-memory provider what a cloud is to a cloud's provider.

It behaves as clouds do: every resource has an id and its owner's mark from the call that creates it, names
are taken, what is in use is not deleted, deletions may take time, and any call may fail.
"""

from __future__ import annotations

import ipaddress
import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, TypeVar

from lbprov.api import L4Protocol, Owner

AUTOMATIC = ipaddress.ip_network("198.18.0.0/15")
"""Addresses that the world deals out, one after the other (kept for tests by RFC 2544)."""

RESERVABLE = frozenset(f"198.51.100.{n}" for n in range(1, 10))
"""Addresses that may be asked for (TEST-NET-2, RFC 5737)."""

T = TypeVar("T")


class Name(NamedTuple):
    """What makes a resource unique in the world. `detail`: "80/TCP" for a listener, a node for a target."""

    kind: Literal["frontend", "target", "listener"]
    balancer: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource. `id` empty: not made yet; `deleting`: on its way out, its name and address still taken.

    A frontend uses `address`, `internal`, `source_ranges`; a listener `port`, `protocol`, `node_port`."""

    name: Name
    owner: Owner
    id: str = ""
    address: str = ""
    internal: bool = False
    source_ranges: tuple[str, ...] = ()
    port: int = 0
    protocol: L4Protocol = L4Protocol.TCP
    node_port: int = 0
    deleting: bool = False


class WorldError(Exception):
    """The world says no. `code`: Exists (`existing` is the one in the way), NotFound, InUse, AddressTaken."""

    def __init__(self, code: str, message: str, existing: Resource | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.existing = existing


When = Literal["before", "after"]
WriteHook = Callable[[str, int, When], None]
"""Called with the operation, the number of the write (from 1) and whether it has been carried out yet. What
it raises, the caller of the write gets."""


@dataclass
class MemoryWorld:
    """`deletion_s`: how long a frontend takes to go, by `now_s`. Safe for threads."""

    now_s: Callable[[], float]
    deletion_s: float = 0.0
    on_write: WriteHook | None = None
    reads: int = 0
    writes: int = 0
    resources: dict[str, Resource] = field(default_factory=dict)
    _ids: dict[Name, str] = field(default_factory=dict)
    _addresses: set[str] = field(default_factory=set)
    _unused: Iterator[str] = field(default_factory=lambda: map(str, AUTOMATIC.hosts()))
    _users: Counter[str] = field(default_factory=Counter)  # balancer -> its listeners and targets
    _gone_at_s: dict[str, float] = field(default_factory=dict)
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def list_all(self) -> tuple[Resource, ...]:
        with self._lock:
            self.reads += 1
            self._let_go()
            return tuple(self.resources.values())

    def create(self, wanted: Resource) -> Resource:
        """A listener or target needs its frontend; a frontend without an address is given one."""

        def carry_out() -> Resource:
            name = wanted.name
            if name in self._ids:
                raise WorldError("Exists", " ".join(name), self.resources[self._ids[name]])
            address = ""
            if name.kind == "frontend":
                address = self._take_address(wanted.address)
            elif self._frontend(name) is None:
                raise WorldError("NotFound", f"frontend {name.balancer}")
            made = replace(wanted, id=f"{name.kind}-{next(self._numbers)}", address=address)
            self.resources[made.id] = made
            self._ids[name] = made.id
            self._users[name.balancer] += name.kind != "frontend"
            return made

        return self._write(f"create {wanted.name.kind}", carry_out)

    def update(self, wanted: Resource) -> Resource:
        """Source ranges and nodePorts are what can change."""

        def carry_out() -> Resource:
            old = self.get(wanted.id)
            changed = replace(old, source_ranges=wanted.source_ranges, node_port=wanted.node_port)
            self.resources[wanted.id] = changed
            return changed

        return self._write(f"update {wanted.name.kind}", carry_out)

    def delete(self, id_: str) -> None:
        """A frontend goes last. It may take a while, during which its name and address stay taken."""

        def carry_out() -> None:
            old = self.get(id_)
            if old.name.kind != "frontend":
                self._remove(old)
                return
            if self._users[old.name.balancer]:
                raise WorldError("InUse", f"frontend {old.name.balancer}")
            if not self.deletion_s:
                self._remove(old)
                return
            self.resources[id_] = replace(old, deleting=True)
            self._gone_at_s.setdefault(id_, self.now_s() + self.deletion_s)

        self._write("delete", carry_out)

    def get(self, id_: str) -> Resource:
        """Not counted: what a conditional write would look at."""
        with self._lock:
            self._let_go()
            if id_ not in self.resources:
                raise WorldError("NotFound", id_)
            return self.resources[id_]

    def _write(self, operation: str, carry_out: Callable[[], T]) -> T:
        with self._lock:
            self.writes += 1
            number = self.writes
            if self.on_write:
                self.on_write(operation, number, "before")
            self._let_go()
            result = carry_out()
            if self.on_write:
                self.on_write(operation, number, "after")
            return result

    def _let_go(self) -> None:
        for id_ in [i for i, at_s in self._gone_at_s.items() if at_s <= self.now_s()]:
            del self._gone_at_s[id_]
            self._remove(self.resources[id_])

    def _remove(self, resource: Resource) -> None:
        del self.resources[resource.id], self._ids[resource.name]
        self._addresses.discard(resource.address)
        self._users[resource.name.balancer] -= resource.name.kind != "frontend"

    def _frontend(self, name: Name) -> Resource | None:
        id_ = self._ids.get(Name("frontend", name.balancer))
        return self.resources[id_] if id_ else None

    def _take_address(self, wanted: str) -> str:
        if not wanted:
            wanted = next(self._unused)
        elif wanted in self._addresses or wanted not in RESERVABLE:
            raise WorldError("AddressTaken", wanted)
        self._addresses.add(wanted)
        return wanted
