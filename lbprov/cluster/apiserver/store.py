"""What a reflector knows: frozen values by key, readable from every thread."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Store(Generic[K, V]):
    """A thread-safe mapping of frozen values. Written by one reflector, read by everybody.

    `version` grows by one with every real change and with nothing else."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[K, V] = {}
        self._version = 0

    @property
    def version(self) -> int:
        return self._version

    def get(self, key: K) -> V | None:
        return self._values.get(key)

    def keys(self) -> tuple[K, ...]:
        with self._lock:
            return tuple(self._values)

    def values(self) -> tuple[V, ...]:
        """A copy, in no order."""
        with self._lock:
            return tuple(self._values.values())

    def __len__(self) -> int:
        return len(self._values)

    def put(self, key: K, value: V) -> bool:
        """Whether that changed anything: values are compared, not resourceVersions."""
        with self._lock:
            if self._values.get(key) == value:
                return False
            self._values[key] = value
            self._version += 1
            return True

    def drop(self, key: K) -> bool:
        """Whether there was anything to drop."""
        with self._lock:
            if self._values.pop(key, None) is None:
                return False
            self._version += 1
            return True
