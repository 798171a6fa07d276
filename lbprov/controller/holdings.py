"""What the world is known to hold, by owner: from a listing now and then, and from our own work since.

It tells whose load balancers are still there although their Service is not: of a name that was given to a new
Service, of a Service that vanished without a farewell (its finalizer was taken off by force), of nobody.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

from lbprov.model import ObjectKey, Owner


class Holdings:
    """Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[ObjectKey, set[Owner]] = {}
        self._since_listing: dict[Owner, bool] | None = None  # owner -> still there; None: nobody lists

    def begin_listing(self) -> None:
        """What is added and dropped from now on is newer than the listing that `end_listing` brings."""
        with self._lock:
            self._since_listing = {}

    def end_listing(self, owners: Iterable[Owner]) -> None:
        with self._lock:
            found = set(owners)
            for owner, there in (self._since_listing or {}).items():
                (found.add if there else found.discard)(owner)
            self._since_listing = None
            self._held = {}
            for owner in found:
                self._held.setdefault(owner.service, set()).add(owner)

    def add(self, owner: Owner) -> None:
        with self._lock:
            self._held.setdefault(owner.service, set()).add(owner)
            if self._since_listing is not None:
                self._since_listing[owner] = True

    def drop(self, owner: Owner) -> None:
        with self._lock:
            held = self._held.get(owner.service, set())
            held.discard(owner)
            if not held:
                self._held.pop(owner.service, None)
            if self._since_listing is not None:
                self._since_listing[owner] = False

    def of(self, key: ObjectKey) -> tuple[Owner, ...]:
        """Sorted by uid."""
        with self._lock:
            return tuple(sorted(self._held.get(key, ())))

    def owners(self) -> frozenset[Owner]:
        with self._lock:
            return frozenset(owner for owners in self._held.values() for owner in owners)
