"""Events on Services (and Nodes), as `kubectl describe` shows them: core/v1, source component `lbprov`.

Telling is never the work: `emit` puts into a bounded queue and returns; a thread writes. What is said again
is counted on the Event that said it first, as kubectl expects ("x5 over 3m"); one Service cannot flood the
cluster, and while the API server is away the queue fills up and what no longer fits is dropped.
"""

from __future__ import annotations

import itertools
import logging
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from lbprov.cluster.apiserver.errors import Conflict, NotFound, Unavailable
from lbprov.cluster.apiserver.transport import MERGE_PATCH, Transport
from lbprov.cluster.apiserver.writes import rfc3339
from lbprov.model import Event, LbprovError, ObjectKey

log = logging.getLogger(__name__)

COMPONENT = "lbprov"
MAX_MESSAGE_BYTES = 1024
MAX_REASON = 128
REMEMBERED = 4096
"""Events that a repetition can still be counted on."""

FORGET_S = 3000.0
"""The API server forgets an Event after an hour (`--event-ttl`); a count on it must not come later."""

BURST, REFILL_S = 25, 30.0
"""So many Events per Service at once, then one in so many seconds."""

ALIKE, ALIKE_WINDOW_S = 10, 600.0
"""Different messages of one reason on one Service, in a window, before they are combined in one Event."""

COMBINED = "(combined from similar events): "


@dataclass(frozen=True, slots=True)
class Subject:
    """What Events are about: a Service, or a Node (whose key has no namespace). `uid` may be empty: it is
    gone."""

    key: ObjectKey
    uid: str
    kind: str = "Service"

    @property
    def namespace(self) -> str:
        """Where its Events are; those of a Node in `default`, as kubelet's."""
        return self.key.namespace or "default"


@dataclass(frozen=True, slots=True)
class Sentence:
    """One thing to be written. `count` > 1: patch the Event `name` that is there, else create it."""

    subject: Subject
    event: Event
    name: str
    count: int
    first: datetime
    last: datetime

    def body(self, instance: str) -> dict[str, Any]:
        key = self.subject.key
        where = {"namespace": key.namespace} if key.namespace else {}
        about = {"apiVersion": "v1", "kind": self.subject.kind, **where, "name": key.name}
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"namespace": self.subject.namespace, "name": self.name},
            "involvedObject": about | ({"uid": self.subject.uid} if self.subject.uid else {}),
            "type": str(self.event.severity),
            "reason": self.event.reason[:MAX_REASON],
            "message": self.event.message,
            "source": {"component": COMPONENT},
            "reportingComponent": COMPONENT,
            "reportingInstance": instance,
            "firstTimestamp": rfc3339(self.first),
            "lastTimestamp": rfc3339(self.last),
            "count": self.count,
        }

    def repetition(self) -> dict[str, Any]:
        return {"count": self.count, "lastTimestamp": rfc3339(self.last), "message": self.event.message}


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at_s: float


class Memory:
    """What was said before: pure, given its clocks. Not thread-safe."""

    def __init__(self, serial: Callable[[], int]) -> None:
        self._serial = serial
        self._said: OrderedDict[tuple[Subject, str, str, str], tuple[Sentence, float]] = OrderedDict()
        self._alike: OrderedDict[tuple[Subject, str], tuple[set[str], float]] = OrderedDict()
        self._buckets: OrderedDict[Subject, _Bucket] = OrderedDict()

    def sentence(self, subject: Subject, event: Event, now: datetime, now_s: float) -> Sentence | None:
        """How to say it; None if this Service has said enough for now."""
        if not self._may_speak(subject, now_s):
            return None
        event = replace(event, message=cut(event.message, MAX_MESSAGE_BYTES))
        combined = self._is_flood(subject, event, now_s)
        if combined:
            event = replace(event, message=cut(COMBINED + event.message, MAX_MESSAGE_BYTES))
        known = (subject, str(event.severity), event.reason, COMBINED if combined else event.message)
        before, at_s = self._said.pop(known, (None, 0.0))
        if before is None or now_s - at_s > FORGET_S:
            name = f"{subject.key.name}.{self._serial():016x}"
            sentence = Sentence(subject, event, name, 1, now, now)
        else:
            sentence = replace(before, event=event, count=before.count + 1, last=now)
        _remember(self._said, known, (sentence, now_s))
        return sentence

    def _may_speak(self, subject: Subject, now_s: float) -> bool:
        bucket = self._buckets.pop(subject, None) or _Bucket(BURST, now_s)
        bucket.tokens = min(BURST, bucket.tokens + (now_s - bucket.at_s) / REFILL_S)
        bucket.at_s = now_s
        _remember(self._buckets, subject, bucket)
        if bucket.tokens < 1:
            return False
        bucket.tokens -= 1
        return True

    def _is_flood(self, subject: Subject, event: Event, now_s: float) -> bool:
        messages, since_s = self._alike.pop((subject, event.reason), (set(), now_s))
        if now_s - since_s > ALIKE_WINDOW_S:
            messages, since_s = set(), now_s
        if len(messages) <= ALIKE:
            messages.add(event.message)
        _remember(self._alike, (subject, event.reason), (messages, since_s))
        return len(messages) > ALIKE


def _remember(memory: OrderedDict[Any, Any], key: object, value: object) -> None:
    memory[key] = value
    if len(memory) > REMEMBERED:
        memory.popitem(last=False)


def cut(text: str, most_bytes: int) -> str:
    """At most so many bytes of UTF-8, whole characters, an ellipsis where something is missing: before the
    last quarter, as a message ends with the remedy."""
    raw = text.encode("utf-8", "replace")
    if len(raw) <= most_bytes:
        return raw.decode()
    end = most_bytes // 4
    head, tail = raw[: most_bytes - end - 3], raw[-end:]
    return head.decode("utf-8", "ignore") + "…" + tail.decode("utf-8", "ignore")


class EventRecorder:
    """The queue and the thread. `dropped` counts what was not told: said too often, or nobody to tell."""

    QUEUED = 1000
    RETRY_S = 10.0

    def __init__(
        self, transport: Transport, instance: str, *, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._transport = transport
        self._instance = instance
        self._now_s = now_s
        self._memory = Memory(itertools.count(time.time_ns()).__next__)
        self._queue: queue.Queue[Sentence | None] = queue.Queue(self.QUEUED)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._wake = threading.Event()
        self.dropped = 0
        transport.outage.on_recovery(self._wake.set)

    def emit(self, subject: Subject, events: Sequence[Event]) -> None:
        """Never blocks, never raises for anything in the world."""
        with self._lock:
            for event in events:
                now = datetime.now(UTC)
                sentence = self._memory.sentence(subject, event, now, self._now_s())
                if sentence is None or not self._enqueue(sentence):
                    self.dropped += 1
            if self._thread is None and events and not self._stopping:
                self._thread = threading.Thread(target=self._run, name="events", daemon=True)
                self._thread.start()

    def _enqueue(self, sentence: Sentence) -> bool:
        try:
            self._queue.put_nowait(sentence)
        except queue.Full:
            return False
        return True

    def stop(self, wait_s: float = 2.0) -> None:
        """Tell what is queued, but for no longer than `wait_s`."""
        with self._lock:
            self._stopping = True
            thread = self._thread
        if thread is not None:
            self._wake.set()
            self._enqueue_end()
            thread.join(wait_s)

    def _enqueue_end(self) -> None:
        try:
            self._queue.put_nowait(None)
        except queue.Full:
            log.warning("events: more queued than can be told before the end")

    def _run(self) -> None:
        while (sentence := self._queue.get()) is not None:
            try:
                self._tell(sentence)
            except LbprovError as error:
                self.dropped += 1
                log.warning(
                    "event %s on %s was not told: %s", sentence.event.reason, sentence.subject.key, error
                )
            except Exception:
                log.exception("event %s on %s: a bug", sentence.event.reason, sentence.subject.key)

    def _tell(self, sentence: Sentence) -> None:
        """While the API server is away the queue waits here, and fills up behind."""
        while True:
            self._wake.clear()
            try:
                return self._write(sentence)
            except Unavailable:
                if self._stopping:
                    raise
                self._wake.wait(self.RETRY_S)

    def _write(self, sentence: Sentence) -> None:
        path = f"/api/v1/namespaces/{sentence.subject.namespace}/events"
        if sentence.count > 1:
            try:
                self._transport.request(
                    "PATCH",
                    f"{path}/{sentence.name}",
                    body=sentence.repetition(),
                    content_type=MERGE_PATCH,
                )
            except NotFound:
                log.debug("event %s has been forgotten: it is told anew", sentence.name)
            else:
                return
        try:
            self._transport.request("POST", path, body=sentence.body(self._instance))
        except Conflict:  # our own, whose answer was lost
            log.debug("event %s exists", sentence.name)
