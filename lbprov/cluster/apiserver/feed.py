"""What to ask of the API server next, and what its answers change: a reflector without any IO.

The protocol (API concepts, "Efficient detection of changes"): list everything in pages, then watch from the
list's resourceVersion; go on from the last version seen when a watch ends; list again when it is gone (410).

What is added here:

- A list after 410 is exact (no resourceVersion), so time never runs backwards.
- An object that cannot be decoded is left as it was known, and never counts as deleted.
- A watch that was silent to the end, or is refused again and again (etcd restored from a backup), is
  followed by a list.
- Where lists succeed and the watches after them are told 410 again and again, lists are what brings news:
  one every few seconds, and a watch now and then to see whether it works again.
- Failures in a row are spaced out by `Backoff`, and only a watch that held for a while ends the row: lists
  that succeed do not hide watches that fail.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec

from lbprov.cluster.apiserver import kinds
from lbprov.cluster.apiserver.errors import Unavailable, from_watch_error
from lbprov.cluster.apiserver.kinds import Kind
from lbprov.cluster.apiserver.outage import Backoff
from lbprov.cluster.apiserver.store import Store
from lbprov.cluster.wire import Meta

log = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

PAGE_ITEMS = 500
HEALTHY_S = 5.0
MAX_REFUSALS = 3
GONE_BEFORE_POLLING = 2
POLL_S = 5.0
POLLS_PER_WATCH = 4
WATCH_MIN_S, WATCH_MAX_S = 290, 590


@dataclass(frozen=True, slots=True)
class ListRequest:
    """`version` "": exact, "0": whatever a cache has. `limit` 0: no pages."""

    version: str
    limit: int
    continue_: str = ""

    def params(self) -> dict[str, str | int]:
        params: dict[str, str | int] = {"limit": self.limit} if self.limit else {}
        if self.continue_:  # the token says which version: the API server refuses both at once
            return params | {"continue": self.continue_}
        return params | ({"resourceVersion": self.version} if self.version else {})


@dataclass(frozen=True, slots=True)
class WatchRequest:
    version: str
    timeout_s: int

    def params(self) -> dict[str, str | int]:
        return {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": self.version,
            "timeoutSeconds": self.timeout_s,
        }


@dataclass(slots=True)
class FeedCounts:
    """What happened so far; only ever grows. `rejected`: objects that could not be decoded. `changes`:
    differences that somebody was told of."""

    lists: int = 0
    watches: int = 0
    events: int = 0
    changes: int = 0
    rejected: int = 0
    failures: int = 0


class Feed(Generic[K, V]):
    """Keeps `store` what the API server says of one kind. Ask `next()`, do it, and report how it went by
    exactly one of: `page`; `line`s and then `ended`; `gone`; `failed`. Not thread-safe.

    `first_version` "": the first list is exact too (a controller that deletes must not begin in the past);
    "0" spares etcd where thousands of agents start at once.
    """

    def __init__(
        self, kind: Kind[K, V], store: Store[K, V], rng: random.Random, *, first_version: str = ""
    ) -> None:
        self._kind = kind
        self._store = store
        self._rng = rng
        self._backoff = Backoff(rng)
        self._versions: dict[K, str] = {}  # key -> resourceVersion of what the store holds
        self._undecodable: dict[K, str] = {}  # key -> why
        self._version = ""  # of the last thing seen; "" asks for a list
        self._list = ListRequest(first_version, PAGE_ITEMS)
        self._listed: set[K] = set()  # of the list under way
        self._complete = True  # no item of it lacked a name
        self._lines = 0  # of the watch under way
        self._refusals = 0  # of watches in a row
        self._gone_in_a_row = 0
        self._watches_gone = 0  # in a row, too
        self._polls = 0
        self.counts = FeedCounts()
        self.synced = False

    def next(self) -> ListRequest | WatchRequest:
        if not self._version:
            self.counts.lists += not self._list.continue_
            return self._list
        self.counts.watches += 1
        self._lines = 0
        return WatchRequest(self._version, self._rng.randint(WATCH_MIN_S, WATCH_MAX_S))

    @property
    def is_listing(self) -> bool:
        """The next request is a list."""
        return not self._version

    def restart(self, limit: int | None = None) -> None:
        """The next request is an exact list, from its first page."""
        self._version = ""
        self._begin_list("", PAGE_ITEMS if limit is None else limit)

    def problems(self) -> dict[K, str]:
        """Objects that exist and cannot be read, and why."""
        return dict(self._undecodable)

    def page(self, body: bytes) -> list[K]:
        """The answer to a `ListRequest`: keys that changed. Deletions come with the last page."""
        try:
            page = kinds.page(body)
        except msgspec.DecodeError as error:
            raise self._garbled(error) from error
        if not page.metadata.resource_version:
            raise self._garbled(ValueError("a list without a resourceVersion"))
        changed = [key for raw in page.items or () if (key := self._item(raw)) is not None]
        if page.metadata.continue_:
            self._list = ListRequest("", self._list.limit, page.metadata.continue_)
            return changed
        if self._complete:
            missing = self._versions.keys() - self._listed
            changed += [key for key in missing if self._drop(key)]
        self.restart()
        self._version = page.metadata.resource_version
        self.synced = True
        return changed

    def line(self, line: bytes) -> K | None:
        """One line of a watch: the key that changed, if any. Raises what an ERROR event says."""
        try:
            event = kinds.watch_event(line)
            meta = kinds.meta(event.object) if event.type != "ERROR" else Meta()
        except msgspec.DecodeError as error:
            raise self._garbled(error) from error
        self._lines += 1
        if event.type == "ERROR":
            raise from_watch_error(f"watch {self._kind.resource}", bytes(event.object))
        if event.type == "BOOKMARK":
            self._version = meta.resource_version or self._version
            return None
        self.counts.events += 1
        key = self._kind.key(meta)
        if event.type == "DELETED":
            changed = self._drop(key)
        else:
            changed = self._put(key, meta.resource_version, event.object)
        self._version = meta.resource_version or self._version
        return key if changed else None

    def listed(self) -> float:
        """After a page: seconds to wait before what comes next."""
        if not self._version or self._watches_gone < GONE_BEFORE_POLLING:
            return 0.0
        self._polls += 1
        if self._polls % POLLS_PER_WATCH == 0:
            return 0.0
        self.restart()
        return POLL_S * self._rng.uniform(0.9, 1.0)

    def ended(self, lived_s: float, *, silent: bool = False) -> float:
        """The watch ended in good form, or (`silent`) was given up. Seconds to wait before the next."""
        if silent and not self._lines:
            self.restart()
        if lived_s >= HEALTHY_S:
            self._recovered()
            return 0.0
        return self._backoff.next_s()

    def gone(self, lived_s: float = 0.0) -> float:
        """410, in whatever way: the next request is an exact list. Seconds to wait before it: none, but in a
        row of 410s a failure's. When it is a list's own token that expires, the next has no pages."""
        self.counts.failures += 1
        self._watches_gone += bool(self._version)
        self.restart(limit=0 if self._list.continue_ else PAGE_ITEMS)
        if lived_s >= HEALTHY_S:
            self._recovered()
        self._gone_in_a_row += 1
        return 0.0 if self._gone_in_a_row == 1 else self._backoff.next_s()

    def failed(self, lived_s: float = 0.0, *, refused: bool = False) -> float:
        """Anything else went wrong (`refused`: the server answered, with no). A list begins anew, a watch
        goes on where it was. Seconds to wait."""
        self.counts.failures += 1
        if lived_s >= HEALTHY_S:
            self._recovered()
        self._refusals += refused
        if not self._version:
            self._begin_list(self._list.version, self._list.limit)
        elif self._refusals >= MAX_REFUSALS:
            self._refusals = 0
            self.restart()
        return self._backoff.next_s()

    def _recovered(self) -> None:
        self._backoff.reset()
        self._refusals = 0
        self._gone_in_a_row = self._watches_gone = 0

    def _begin_list(self, version: str, limit: int) -> None:
        self._list = ListRequest(version, limit)
        self._listed = set()
        self._complete = True

    def _item(self, raw: msgspec.Raw) -> K | None:
        """One item of a list: its key if that changed anything."""
        try:
            meta = kinds.meta(raw)
        except msgspec.DecodeError as error:
            # Whose it is cannot be told, so it cannot be told either what is missing from this list.
            self._complete = False
            self.counts.rejected += 1
            log.warning("an item of the list of %s cannot be told: %s", self._kind.resource, error)
            return None
        key = self._kind.key(meta)
        self._listed.add(key)
        return key if self._put(key, meta.resource_version, raw) else None

    def _put(self, key: K, version: str, raw: msgspec.Raw) -> bool:
        if version and self._versions.get(key) == version:
            return False
        self._versions[key] = version
        try:
            value = self._kind.decode(raw)
        except (msgspec.DecodeError, ValueError) as error:
            self.counts.rejected += 1
            self._undecodable[key] = str(error)
            log.warning("%s %s cannot be read and is left as it was: %s", self._kind.resource, key, error)
            return False
        self._undecodable.pop(key, None)
        changed = self._store.drop(key) if value is None else self._store.put(key, value)
        self.counts.changes += changed
        return changed

    def _drop(self, key: K) -> bool:
        self._versions.pop(key, None)
        self._undecodable.pop(key, None)
        changed = self._store.drop(key)
        self.counts.changes += changed
        return changed

    def _garbled(self, error: Exception) -> Unavailable:
        return Unavailable(f"GET {self._kind.path}: not what an API server says: {error}", answered=True)
