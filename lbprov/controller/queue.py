"""The work queue: which Service has its turn next, and when.

`Turns` is the whole decision, without IO, threads or a clock of its own; `WorkQueue` is the thin shell that
lets threads wait for a turn. Rules:

- A key is in the queue once, and has one turn at a time. What is added while it has its turn comes after.
- Lanes go in order; of `SHARE` turns that a lane must let pass by, the next is its. Within a lane the groups
  (namespaces) take turns, so that ten thousand Services of one do not delay the first of another.
- `Failed` waits by the key's own back-off, `Later` exactly as long as it says, `Settled` until its re-check.
- A wait is cut short by news that can change its outcome: a change of the Service ends any wait and forgets
  the failures, a change of what it depends on any but that of a failure, a re-check ends none.
"""

from __future__ import annotations

import heapq
import threading
import time
import typing
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from enum import Enum, IntEnum, auto

K = typing.TypeVar("K", bound=Hashable)

SHARE = 8


class Lane(IntEnum):
    """Why a key has a turn, most urgent first."""

    CHANGED = 0
    AFFECTED = 1
    RECHECK = 2


@dataclass(frozen=True, slots=True)
class Settled:
    """Nothing is left to do; look again after `recheck_s` (None: not before something is added)."""

    recheck_s: float | None = None


@dataclass(frozen=True, slots=True)
class Later:
    """The world needs time: a turn again after exactly `after_s` seconds. Failures are neither counted nor
    forgotten."""

    after_s: float


@dataclass(frozen=True, slots=True)
class Failed:
    """A turn again by back-off; `hopeless`: at the slowest pace at once."""

    hopeless: bool = False


Verdict = Settled | Later | Failed


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait after the n-th failure in a row: `first_s`, then 5 s doubling to 300 s, the pace of
    the cloud controllers. Each wait is shortened by up to `jitter` of itself, so that what failed together
    does not come back together."""

    first_s: float = 1.0
    base_s: float = 5.0
    limit_s: float = 300.0
    jitter: float = 0.2

    def wait_s(self, failures: int, hopeless: bool, chance: float) -> float:
        """`failures` counts this one (1, 2, …); `chance` is a random number in [0, 1)."""
        # The exponent is bounded: 2.0**1024 would overflow after days of failing.
        grown_s = self.first_s if failures <= 1 else self.base_s * 2 ** min(failures - 2, 32)
        full_s = self.limit_s if hopeless else min(grown_s, self.limit_s)
        return full_s * (1 - self.jitter * chance)


class _State(Enum):
    READY = auto()
    WAITING = auto()
    RUNNING = auto()


@dataclass(slots=True)
class _Entry:
    """`since_s`: when it entered this state. `wait_id` tells the heap's entry that still counts from those
    that were cut short. `failed`: the wait is a failure's. `again`: what came in during the turn."""

    lane: Lane
    state: _State
    since_s: float
    failures: int = 0
    wait_id: int = 0
    failed: bool = False
    again: Lane | None = None


class Turns(typing.Generic[K]):
    """The queue's core. Times are seconds of the caller's monotonic clock and never go back."""

    def __init__(
        self,
        group: Callable[[K], Hashable] = lambda _: None,
        backoff: Backoff | None = None,
        chance: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._backoff = backoff or Backoff()
        self._chance = chance
        self._entries: dict[K, _Entry] = {}
        self._ready = {lane: _Ready(group) for lane in Lane}
        self._passed_by = dict.fromkeys(Lane, 0)
        self._waits: list[tuple[float, int, K]] = []
        self._last_wait_id = 0
        self.adds = 0
        self.retries = 0

    def add(self, key: K, lane: Lane, now_s: float) -> None:
        self.adds += 1
        entry = self._entries.get(key)
        if entry is None:
            self._entries[key] = entry = _Entry(lane, _State.READY, now_s)
            self._ready[lane].add(key)
        elif entry.state is _State.RUNNING:
            entry.again = lane if entry.again is None else min(lane, entry.again)
        elif entry.state is _State.READY:
            if lane < entry.lane:
                self._ready[entry.lane].discard(key)
                entry.lane = lane
                self._ready[lane].add(key)
        elif lane is Lane.CHANGED or (lane is Lane.AFFECTED and not entry.failed):
            self._make_ready(key, entry, min(lane, entry.lane), now_s)
        if lane is Lane.CHANGED:
            entry.failures = 0

    def take(self, now_s: float) -> K | None:
        """The next key, whose turn lasts until `done`."""
        self._wake(now_s)
        lane = self._next_lane()
        if lane is None:
            return None
        key: K = self._ready[lane].pop()
        entry = self._entries[key]
        entry.state, entry.since_s, entry.again = _State.RUNNING, now_s, None
        return key

    def done(self, key: K, verdict: Verdict, now_s: float) -> None:
        """End a turn."""
        entry = self._entries[key]
        if entry.state is not _State.RUNNING:
            raise ValueError(f"{key} has no turn to end")
        entry.failed = isinstance(verdict, Failed)
        if isinstance(verdict, Settled):
            entry.failures = 0
        elif entry.failed and entry.again is not Lane.CHANGED:
            entry.failures += 1
        if entry.again is Lane.CHANGED or (entry.again is not None and not entry.failed):
            self._make_ready(key, entry, entry.again, now_s)
        elif isinstance(verdict, Settled) and verdict.recheck_s is None:
            del self._entries[key]
        else:
            self._wait(key, entry, verdict, now_s)

    def next_s(self, now_s: float) -> float | None:
        """Seconds until `take` gives something: 0 now, None not before something is added."""
        if any(self._ready.values()):
            return 0.0
        while self._waits and not self._counts(self._waits[0]):
            heapq.heappop(self._waits)
        return max(0.0, self._waits[0][0] - now_s) if self._waits else None

    def depth(self) -> dict[Lane, int]:
        """Keys that could have their turn now, by lane."""
        return {lane: len(keys) for lane, keys in self._ready.items()}

    def running(self) -> dict[K, float]:
        """Keys that have their turn -> since when."""
        return {k: e.since_s for k, e in self._entries.items() if e.state is _State.RUNNING}

    def _make_ready(self, key: K, entry: _Entry, lane: Lane, now_s: float) -> None:
        entry.state, entry.lane, entry.since_s = _State.READY, lane, now_s
        self._ready[lane].add(key)

    def _wait(self, key: K, entry: _Entry, verdict: Verdict, now_s: float) -> None:
        if isinstance(verdict, Settled):
            after_s = verdict.recheck_s or 0.0
            entry.lane = Lane.RECHECK
        else:
            self.retries += 1
            after_s = (
                verdict.after_s
                if isinstance(verdict, Later)
                else self._backoff.wait_s(entry.failures, verdict.hopeless, self._chance())
            )
        self._last_wait_id += 1
        entry.state, entry.since_s, entry.wait_id = _State.WAITING, now_s, self._last_wait_id
        if len(self._waits) > 2 * len(self._entries) + 64:  # mostly waits that were cut short
            self._waits = [wait for wait in self._waits if self._counts(wait)]
            heapq.heapify(self._waits)
        heapq.heappush(self._waits, (now_s + after_s, entry.wait_id, key))

    def _wake(self, now_s: float) -> None:
        while self._waits and self._waits[0][0] <= now_s:
            wait = heapq.heappop(self._waits)
            if self._counts(wait):
                entry = self._entries[wait[2]]
                self._make_ready(wait[2], entry, entry.lane, now_s)

    def _counts(self, wait: tuple[float, int, K]) -> bool:
        entry = self._entries.get(wait[2])
        return entry is not None and entry.state is _State.WAITING and entry.wait_id == wait[1]

    def _next_lane(self) -> Lane | None:
        """The most urgent lane that holds something, unless another has been passed by often enough."""
        held = [lane for lane in Lane if self._ready[lane]]
        if not held:
            return None
        chosen = next((lane for lane in held if self._passed_by[lane] >= SHARE), held[0])
        for lane in Lane:
            self._passed_by[lane] = self._passed_by[lane] + 1 if lane in held and lane != chosen else 0
        return chosen


class _Ready(typing.Generic[K]):
    """Keys of one lane: first in, first out within a group, the groups in turn."""

    def __init__(self, group: Callable[[K], Hashable]) -> None:
        self._group = group
        self._groups: OrderedDict[Hashable, OrderedDict[K, None]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, key: K) -> None:
        self._groups.setdefault(self._group(key), OrderedDict())[key] = None
        self._count += 1

    def discard(self, key: K) -> None:
        group = self._group(key)
        del self._groups[group][key]
        if not self._groups[group]:
            del self._groups[group]
        self._count -= 1

    def pop(self) -> K:
        group, keys = next(iter(self._groups.items()))
        key, _ = keys.popitem(last=False)
        if keys:
            self._groups.move_to_end(group)
        else:
            del self._groups[group]
        self._count -= 1
        return key


class WorkQueue(typing.Generic[K]):
    """`Turns` for threads. `take` blocks; after `close` it answers None and nothing is added any more, while
    turns that have begun may still end."""

    def __init__(self, turns: Turns[K], now_s: Callable[[], float] = time.monotonic) -> None:
        self._turns = turns
        self._now_s = now_s
        self._news = threading.Condition()
        self._closed = False

    def add(self, key: K, lane: Lane) -> None:
        with self._news:
            if not self._closed:
                self._turns.add(key, lane, self._now_s())
                self._news.notify()

    def take(self) -> K | None:
        with self._news:
            while not self._closed:
                key = self._turns.take(self._now_s())
                if key is not None:
                    # A sleeper may have reckoned with this thread for what comes due next.
                    self._news.notify()
                    return key
                self._news.wait(self._turns.next_s(self._now_s()))
            return None

    def done(self, key: K, verdict: Verdict) -> None:
        with self._news:
            self._turns.done(key, verdict, self._now_s())
            self._news.notify()

    def close(self) -> None:
        with self._news:
            self._closed = True
            self._news.notify_all()

    def counts(self) -> tuple[int, int]:
        """(adds, retries) so far."""
        with self._news:
            return self._turns.adds, self._turns.retries

    def depth(self) -> dict[Lane, int]:
        with self._news:
            return self._turns.depth()

    def running_s(self) -> dict[K, float]:
        """Keys that have their turn -> for how long."""
        with self._news:
            now_s = self._now_s()
            return {key: now_s - since_s for key, since_s in self._turns.running().items()}
