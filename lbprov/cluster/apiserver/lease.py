"""Leader election by a Lease (coordination.k8s.io/v1), fenced by our own clock.

The rule: who holds the lease has written to it; who wants it waits until it has seen no write for the lease's
duration, by its own clock, whatever the times in it say. The holder believes in itself only until
`renew_deadline_s` after it *began* its last successful renewal, 5 s before anybody else may: however slow the
API server, and also in a process that was frozen and thawed (`SIGSTOP`, a suspended machine) or whose
elector thread hangs.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import random
import threading
import time
import typing
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from lbprov.cluster.apiserver.errors import Conflict, NotFound, Unavailable
from lbprov.cluster.apiserver.memo import LeaseMemo, MemoKeeper
from lbprov.cluster.apiserver.transport import MERGE_PATCH, Transport
from lbprov.model import LbprovError, UserError

log = logging.getLogger(__name__)

NEVER_S = float("-inf")

MEMO = "lbprov.io/memo"
"""The annotation that a leader's memo stands in (see `memo`)."""


def boottime_s() -> float:
    """Monotonic, and goes on while the machine is suspended, unlike CLOCK_MONOTONIC."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """A Lease's spec. `holder` empty: given up. Times are MicroTime text, for people only. `version` is the
    resourceVersion that a write builds on. `memo`: as it stands there (see `MemoKeeper`)."""

    holder: str
    duration_s: int
    acquired_at: str
    renewed_at: str
    transitions: int = 0
    version: str = ""
    memo: str = ""


class Lease(typing.Protocol):
    """One Lease object. Raises `LbprovError`s within `timeout_s`."""

    def get(self, timeout_s: float) -> LeaseRecord | None: ...

    def create(self, record: LeaseRecord, timeout_s: float) -> LeaseRecord:
        """`Conflict` if it exists."""

    def update(self, record: LeaseRecord, timeout_s: float) -> LeaseRecord:
        """`Conflict` if it is not `record.version` any more, `NotFound` if it is gone."""


class LeaderElector:
    """`identity` must be unique to the process (a host name alone is not). `now_s` must not stand still
    while the process does."""

    def __init__(
        self,
        lease: Lease,
        identity: str,
        *,
        duration_s: float = 15.0,
        renew_deadline_s: float = 10.0,
        retry_period_s: float = 2.0,
        now_s: Callable[[], float] = boottime_s,
        rng: random.Random | None = None,
    ) -> None:
        if not duration_s > renew_deadline_s > 1.2 * retry_period_s > 0:
            raise UserError(
                f"a lease of {duration_s:g} s must outlast the renew deadline ({renew_deadline_s:g} s), and "
                f"that 1.2 retry periods (of {retry_period_s:g} s)",
                field="--lease-duration",
            )
        self._lease = lease
        self.identity = identity
        self._duration_s, self._renew_deadline_s = duration_s, renew_deadline_s
        self._retry_period_s = retry_period_s
        self._now_s = now_s
        self._rng = rng or random.Random()  # noqa: S311 - jitter, no secret
        self._fence_s = NEVER_S
        self._mine: LeaseRecord | None = None  # our last write, as answered
        self._seen: LeaseRecord | None = None  # somebody's, and since when by our clock
        self._seen_s = NEVER_S
        self._looked_s = NEVER_S
        self._last: LeaseRecord | None = None  # the last that was there at all
        self._began_s = NEVER_S  # of the last attempt
        self._failing = False
        self._stopping = False
        self._wake = threading.Event()
        self._memo = MemoKeeper(self._renew_soon)
        self._ended = threading.Event()
        self._ended.set()

    def is_leader(self) -> bool:
        """Ask right before every write that only a leader may make."""
        return not self._stopping and self._now_s() < self._fence_s

    @property
    def holder(self) -> str:
        """Who leads, as far as we know; empty if nobody does."""
        return self.identity if self.is_leader() else (self._seen.holder if self._seen else "")

    def memo(self) -> LeaseMemo:
        """For one term of leadership, to be begun when we lead."""
        return self._memo.memo()

    def run(self, on_started: Callable[[], None], on_stopped: Callable[[], None]) -> None:
        """Campaign, lead, and campaign again when the lease is lost, until `release`. The callbacks run on
        this thread, always in turns, and must return soon: the lease is not renewed meanwhile."""
        self._ended.clear()
        announced = False
        try:
            while not self._stopping:
                self._wake.clear()
                self.attempt()
                if self.is_leader() != announced:
                    announced = not announced
                    log.info("%s the lease as %s", "took" if announced else "lost", self.identity)
                    (on_started if announced else on_stopped)()
                    if not announced:
                        self._memo.end_term()
                if not self._stopping:
                    self._wake.wait(self.pause_s())
        finally:
            try:
                if announced:
                    on_stopped()
                self._give_up()
            finally:
                self._ended.set()

    def wake(self) -> None:
        """Try now: the API server is back."""
        self._wake.set()

    def _renew_soon(self) -> None:
        """An API server that does not answer is not asked more often for it."""
        if not self._failing:
            self._wake.set()

    def release(self, wait_s: float = 10.0) -> None:
        """End `run`, and give the lease up (after `on_stopped`) so that another takes over at once. Drain
        first: `is_leader` is False from here on."""
        self._stopping = True
        self._wake.set()
        self._ended.wait(wait_s)

    def pause_s(self) -> float:
        """Until the next attempt: attempts begin a retry period apart, whatever they take. A leader's pause
        ends with its fence, so that `on_stopped` is not late."""
        period_s = self._retry_period_s * self._rng.uniform(1.0, 1.2)
        now_s = self._now_s()
        if self._fence_s > now_s:
            return min(max(self._began_s + period_s - now_s, 0.0), self._fence_s - now_s)
        return period_s * 1.5 if self._failing else period_s

    def attempt(self) -> None:
        """Renew, or take the lease if it is free. Never raises what an API server can do to us."""
        self._began_s = self._now_s()
        try:
            self._attempt()
            self._failing = False
        except LbprovError as error:
            self._failing = True
            log.warning("lease: %s", error)

    def _attempt(self) -> None:
        led = self._mine is not None
        if self._mine is not None:
            try:
                return self._write(self._mine)
            except (Conflict, NotFound):
                self._mine = None  # somebody else's, or our own write that was answered too late
        found = self._lease.get(self._timeout_s())
        self._observe(found)
        if led and found is not None and found.holder != self.identity:
            # Another has led since, even if he has given it up already: what we knew of the world is old.
            # `on_stopped` comes first; the lease is for the next attempt.
            self._fence_s = NEVER_S
            return None
        if self._is_missing_long_enough() if found is None else self._is_free(found):
            return self._write(found)
        self._fence_s = NEVER_S
        return None

    def _write(self, found: LeaseRecord | None) -> None:
        """Make the lease ours from now on."""
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        held = found is not None and found.holder == self.identity
        transitions = found.transitions + (not held) if found else 0
        if not held:
            self._memo.take_over(found.memo if found else "", found.transitions if found else 0)
        memo, asked = self._memo.to_write(transitions)
        record = LeaseRecord(
            holder=self.identity,
            duration_s=math.ceil(self._duration_s),
            acquired_at=found.acquired_at if found and held else now,
            renewed_at=now,
            transitions=transitions,
            version=found.version if found else "",
            memo=memo,
        )
        began_s = self._now_s()
        write = self._lease.update if found else self._lease.create
        self._mine = write(record, self._timeout_s())
        self._observe(self._mine)
        self._fence_s = began_s + self._renew_deadline_s
        self._memo.written(asked)

    def _observe(self, found: LeaseRecord | None) -> None:
        """Remember since when the lease has been what it is. Others' labels and annotations on it are no
        renewal."""
        self._last = found or self._last
        now_s, before_s = self._now_s(), self._looked_s
        self._looked_s = now_s
        seen = found and dataclasses.replace(found, version="", memo="")
        # What is missing again may have been there in between.
        unseen = found is None and now_s - before_s > self._duration_s - self._renew_deadline_s
        if seen != self._seen or unseen:
            self._seen, self._seen_s = seen, now_s

    def _is_free(self, found: LeaseRecord) -> bool:
        """Ours, given up, or not renewed for as long as its holder said that we must wait."""
        if found.holder in ("", self.identity):
            return True
        return self._now_s() - self._seen_s >= (
            found.duration_s if found.duration_s > 0 else self._duration_s
        )

    def _is_missing_long_enough(self) -> bool:
        """If somebody has deleted it, its holder does not know before the next renewal, and goes on until the
        deadline. So what has been there is waited out, but for one who leads still."""
        if self._last is None or self._now_s() < self._fence_s:
            return True
        return self._now_s() - self._seen_s >= max(self._last.duration_s, self._duration_s)

    def _timeout_s(self) -> float:
        """Half the deadline, so that a request that is lost leaves time for another; a leader's ends with
        its fence."""
        most_s = self._renew_deadline_s / 2
        left_s = self._fence_s - self._now_s()
        return max(min(most_s, left_s), 0.1) if left_s > 0 else most_s

    def _give_up(self) -> None:
        if self._mine is None or self._now_s() >= self._fence_s:
            return
        self._fence_s = NEVER_S
        memo, _ = self._memo.to_write(self._mine.transitions)
        try:
            self._lease.update(dataclasses.replace(self._mine, holder="", duration_s=1, memo=memo), 3.0)
        except LbprovError as error:
            log.warning("lease: not given up, another must wait until it runs out: %s", error)
        self._mine = None


class _Spec(msgspec.Struct, rename="camel", gc=False):
    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    acquire_time: str | None = None
    renew_time: str | None = None
    lease_transitions: int | None = None


class _Meta(msgspec.Struct, rename="camel", gc=False):
    resource_version: str = ""
    annotations: dict[str, str] | None = None


class _Object(msgspec.Struct, gc=False):
    metadata: _Meta
    spec: _Spec = msgspec.field(default_factory=_Spec)


class ApiLease:
    """A Lease on an API server. Patched, not replaced: what others put on it stays."""

    def __init__(self, transport: Transport, namespace: str, name: str) -> None:
        self._transport = transport
        self._namespace, self._name = namespace, name
        self._path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"

    def get(self, timeout_s: float) -> LeaseRecord | None:
        try:
            return self._send("GET", f"{self._path}/{self._name}", None, timeout_s)
        except NotFound:
            return None

    def create(self, record: LeaseRecord, timeout_s: float) -> LeaseRecord:
        body = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {
                "name": self._name,
                "namespace": self._namespace,
                **({"annotations": {MEMO: record.memo}} if record.memo else {}),
            },
            "spec": _spec(record),
        }
        return self._send("POST", self._path, body, timeout_s)

    def update(self, record: LeaseRecord, timeout_s: float) -> LeaseRecord:
        metadata = {"resourceVersion": record.version, "annotations": {MEMO: record.memo or None}}
        body = {"metadata": metadata, "spec": _spec(record)}
        return self._send("PATCH", f"{self._path}/{self._name}", body, timeout_s)

    def _send(self, method: str, path: str, body: object, timeout_s: float) -> LeaseRecord:
        kind = MERGE_PATCH if method == "PATCH" else "application/json"
        self._transport.outage.asks()
        answer = self._transport.request(
            method, path, body=body, content_type=kind, timeout_s=timeout_s, vital=True
        )
        try:
            found = msgspec.json.decode(answer, type=_Object)
        except msgspec.DecodeError as error:
            raise Unavailable(f"{method} {path}: not a Lease: {error}", answered=True) from error
        return LeaseRecord(
            holder=found.spec.holder_identity or "",
            duration_s=found.spec.lease_duration_seconds or 0,
            acquired_at=found.spec.acquire_time or "",
            renewed_at=found.spec.renew_time or "",
            transitions=found.spec.lease_transitions or 0,
            version=found.metadata.resource_version,
            memo=(found.metadata.annotations or {}).get(MEMO, ""),
        )


def _spec(record: LeaseRecord) -> dict[str, str | int]:
    return {
        "holderIdentity": record.holder,
        "leaseDurationSeconds": record.duration_s,
        "acquireTime": record.acquired_at,
        "renewTime": record.renewed_at,
        "leaseTransitions": record.transitions,
    }
