"""The thread that carries a `Feed` out: one per kind, daemon, never dying of what it meets."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from lbprov.cluster.apiserver.errors import Gone, Unavailable
from lbprov.cluster.apiserver.feed import Feed, FeedCounts, ListRequest, WatchRequest
from lbprov.cluster.apiserver.kinds import Kind
from lbprov.cluster.apiserver.probe import Probe
from lbprov.cluster.apiserver.store import Store
from lbprov.cluster.apiserver.transport import Stream, Transport
from lbprov.model import LbprovError

log = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

SILENCE_S = 200.0
"""An idle watch is bookmarked after two minutes, then every minute (measured, 1.36). A watch from a
resourceVersion of the future (etcd restored from a backup) is silent for ever."""

PATIENCE_S = 60.0
"""How long to wait for an answer to begin: as long as an API server takes at most (`--request-timeout`). One
that hung and is back is noticed earlier, by the probe or by whoever else is answered."""

ONCE_PATIENCE_S = 15.0
"""Somebody waits for one pass."""

LIST_BODY_S = 60.0


class Reflector(Generic[K, V]):
    """Keeps `store` true to the API server. State is kept whatever happens to that; `synced` is set
    by the first complete list and stays."""

    def __init__(
        self,
        transport: Transport,
        kind: Kind[K, V],
        store: Store[K, V],
        *,
        first_version: str = "",
        rng: random.Random | None = None,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._transport = transport
        self._kind = kind
        self.store = store
        self._on_change: Callable[[K], None] | None = None
        self._now_s = now_s
        self._feed = Feed(kind, store, rng or random.Random(), first_version=first_version)  # noqa: S311 - jitter, no secret
        self._complaint = ""
        self._stream: Stream | None = None
        self._opened_s: float | None = None
        self._stopping = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"reflector-{kind.resource}", daemon=True)
        self._probe = Probe(transport, kind.path, kind.selection)
        self.synced = threading.Event()
        self.last_heard_s: float | None = None
        """When the API server last said anything about this kind, by the monotonic clock."""
        transport.outage.on_recovery(self._wake.set)

    @property
    def counts(self) -> FeedCounts:
        return self._feed.counts

    def problems(self) -> dict[K, str]:
        """Objects that exist and cannot be read, and why."""
        return self._feed.problems()

    def start(self, on_change: Callable[[K], None]) -> None:
        """`on_change` is called with a key, on the reflector's thread, once per real change and after the
        store has it; it must only enqueue."""
        self._on_change = on_change
        self._thread.start()
        self._probe.start()

    def stop(self, wait_s: float = 0.5) -> None:
        """End at once: an open watch is cut. A request that waits for its answer is left behind on its
        daemon thread, and nobody hears of what it brings. `wait_s` 0: say so and do not look."""
        self._stopping = True
        self._probe.stop()
        self._wake.set()
        if (stream := self._stream) is not None:
            stream.shut()
        if wait_s and self._thread.is_alive():
            self._thread.join(wait_s)

    def list_once(self) -> None:
        """One exact, complete list on the caller's thread, for a pass that does not watch. Raises."""
        self._feed.restart()
        for _ in range(3):
            try:
                while self._feed.is_listing:
                    self._list(self._feed.next(), ONCE_PATIENCE_S)
            except Gone:
                self._feed.gone()
            else:
                return
        raise Unavailable(f"{self._kind.resource}: the list expires while it is being read")

    def _run(self) -> None:
        while not self._stopping:
            self._wake.clear()
            pause_s = self._transport.outage.hold_s() or self._step()
            if pause_s and not self._stopping:
                self._wake.wait(pause_s)

    def _step(self) -> float:
        """One request; seconds until the next. Never raises."""
        request = self._feed.next()
        self._opened_s = None
        try:
            pause_s = self._list(request) if isinstance(request, ListRequest) else self._watch(request)
        except Gone as error:
            log.info("%s: listing anew: %s", self._kind.resource, error)
            return self._feed.gone(self._lived_s())
        except LbprovError as error:
            return 0.0 if self._stopping else self._after(error)
        except Exception:
            log.exception("%s: a bug in the reflector; it goes on", self._kind.resource)
            return self._feed.failed(refused=True)
        if self._complaint and isinstance(request, WatchRequest):
            log.info("%s: followed again", self._kind.resource)
            self._complaint = ""
        return pause_s

    def _after(self, error: LbprovError) -> float:
        """What is said once need not be said every few seconds of an outage."""
        level = logging.DEBUG if str(error) == self._complaint else logging.WARNING
        self._complaint = str(error)
        log.log(level, "%s: %s", self._kind.resource, error)
        if not isinstance(error, Unavailable):
            return self._feed.failed(self._lived_s(), refused=True)
        pause_s = self._feed.failed(self._lived_s(), refused=error.answered)
        return 0.0 if error.given_up else max(pause_s, error.asked_s)

    def _list(self, request: ListRequest | WatchRequest, patience_s: float = PATIENCE_S) -> float:
        body = self._transport.request(
            "GET",
            self._kind.path,
            params={**request.params(), **self._kind.selection},
            timeout_s=patience_s,
            body_timeout_s=LIST_BODY_S,
            vital=True,
        )
        self.last_heard_s = self._now_s()
        if self._stopping:
            return 0.0
        for key in self._feed.page(body):
            self._tell(key)
        if self._feed.synced:
            self.synced.set()
        return self._feed.listed()

    def _watch(self, request: WatchRequest) -> float:
        stream = self._transport.stream(
            self._kind.path,
            {**request.params(), **self._kind.selection},
            answer_timeout_s=PATIENCE_S,
            silence_s=SILENCE_S,
        )
        with stream as opened:
            self._stream, self._opened_s = opened, self._now_s()
            try:
                self._follow(opened)
            except Unavailable as error:
                if not error.timed_out:
                    raise
                log.info("%s: the watch was silent for %d s", self._kind.resource, SILENCE_S)
                return self._feed.ended(self._lived_s(), silent=True)
            finally:
                self._stream = None
        return self._feed.ended(self._lived_s())

    def _follow(self, stream: Stream) -> None:
        for line in stream.lines() if not self._stopping else ():
            if self._stopping:
                return
            self.last_heard_s = self._now_s()
            key = self._feed.line(line)
            if key is not None:
                self._tell(key)

    def _lived_s(self) -> float:
        """How long the watch under way has been open; 0 if it never was."""
        return 0.0 if self._opened_s is None else self._now_s() - self._opened_s

    def _tell(self, key: K) -> None:
        try:
            if self._on_change is not None:
                self._on_change(key)
        except Exception:
            log.exception("%s %s: whoever was told of the change failed", self._kind.resource, key)
