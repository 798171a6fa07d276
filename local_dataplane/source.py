"""Where the agent learns what to forward: a folder of manifests, read whole, or (`api_source`) an API server,
change by change."""

from __future__ import annotations

import threading
import time
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from lbprov.cluster import Problem, Snapshot
from lbprov.model import EndpointSlice, Node, ObjectKey, Service


class Backing(NamedTuple):
    """A Service and the slices that are its own, sorted by key."""

    service: Service
    slices: tuple[EndpointSlice, ...]


@dataclass(frozen=True, slots=True)
class Changes:
    """What differs from what was taken before.

    - `services`: Service -> what it is now, None: it is gone. `complete`: all others are gone, too.
    - `nodes`: the Nodes that are known; an API server is asked for our own only.
    - `learned_s`: when the oldest change came in, by the monotonic clock; None: nothing did, or at a start.
    - `version`: names this state of the cluster, for the log.
    """

    services: Mapping[ObjectKey, Backing | None] = field(default_factory=dict)
    nodes: tuple[Node, ...] = ()
    problems: tuple[Problem, ...] = ()
    complete: bool = False
    learned_s: float | None = None
    version: str = ""

    @classmethod
    def everything(cls, snapshot: Snapshot, learned_s: float | None = None) -> Changes:
        slices: dict[ObjectKey, list[EndpointSlice]] = {}
        for slice_ in snapshot.endpoint_slices:
            slices.setdefault(slice_.service_key, []).append(slice_)
        return cls(
            {s.key: Backing(s, tuple(slices.get(s.key, ()))) for s in snapshot.services},
            snapshot.nodes,
            snapshot.problems,
            complete=True,
            learned_s=learned_s,
            version=snapshot.version,
        )


class Source(typing.Protocol):
    """One reader: nothing is handed out twice, so whoever takes must keep.

    `name`: which cluster it is. `waits_for_node`: our Node may be registered after us; else its absence is a
    mistake."""

    waits_for_node: bool

    @property
    def name(self) -> str: ...

    def missing(self) -> str:
        """What has not been read yet, and is waited for; empty: nothing."""

    def take(self) -> Changes | None:
        """What has changed since the last time; at first, everything. None: not everything is known yet, so
        nothing may be written. Raises `UserError`, `RetryLater`."""

    def wait(self, timeout_s: float, stop: threading.Event) -> bool:
        """Returns as soon as there is something to take (True), or it should stop, or time is up."""


class Folder(typing.Protocol):
    """A `ManifestCluster`, as far as it is needed here."""

    def snapshot(self) -> Snapshot: ...

    def fingerprint(self) -> str: ...

    def wait_for_change(self, fingerprint: str, timeout_s: float, stop: threading.Event) -> bool: ...


class FolderSource:
    """See `Source`."""

    waits_for_node = False

    def __init__(self, folder: Folder, name: str) -> None:
        self.name = name
        self._folder = folder
        self._fingerprint = ""
        self._learned_s: float | None = None

    def missing(self) -> str:
        return ""

    def take(self) -> Changes:
        self._fingerprint = self._folder.fingerprint()
        changes = Changes.everything(self._folder.snapshot(), self._learned_s)
        self._learned_s = None
        return changes

    def wait(self, timeout_s: float, stop: threading.Event) -> bool:
        changed = self._folder.wait_for_change(self._fingerprint, timeout_s, stop)
        if changed:
            self._learned_s = time.monotonic()
        return changed
