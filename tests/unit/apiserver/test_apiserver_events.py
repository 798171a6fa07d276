"""Events: counted, bounded, cut, and never anybody's trouble."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from lbprov.cluster.apiserver.events import (
    ALIKE,
    BURST,
    FORGET_S,
    MAX_MESSAGE_BYTES,
    REFILL_S,
    REMEMBERED,
    EventRecorder,
    Memory,
    Sentence,
    Subject,
    cut,
)
from lbprov.cluster.apiserver.transport import REQUEST_TIMEOUT_S, Transport
from lbprov.model import Event, ObjectKey, Severity

if TYPE_CHECKING:
    from tests.unit.apiserver.conftest import Call, ScriptedServer

NOW = datetime(2026, 5, 6, 7, 8, 9, tzinfo=UTC)
WEB = Subject(ObjectKey("shop", "web"), "uid-1")
ENSURED = Event(Severity.NORMAL, "EnsuredLoadBalancer", "Ensured load balancer")


class _Speaker:
    """A memory with a clock."""

    def __init__(self) -> None:
        self.memory = Memory(itertools.count(1).__next__)
        self.now_s = 0.0

    def say(self, event: Event = ENSURED, subject: Subject = WEB) -> Sentence | None:
        return self.memory.sentence(subject, event, NOW + timedelta(seconds=self.now_s), self.now_s)

    def said(self, event: Event = ENSURED, subject: Subject = WEB) -> Sentence:
        sentence = self.say(event, subject)
        assert sentence is not None
        return sentence


def test_the_first_time_is_an_event_of_its_own() -> None:
    assert _Speaker().said().body("pod-1") == {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"namespace": "shop", "name": "web.0000000000000001"},
        "involvedObject": {
            "apiVersion": "v1",
            "kind": "Service",
            "namespace": "shop",
            "name": "web",
            "uid": "uid-1",
        },
        "type": "Normal",
        "reason": "EnsuredLoadBalancer",
        "message": "Ensured load balancer",
        "source": {"component": "lbprov"},
        "reportingComponent": "lbprov",
        "reportingInstance": "pod-1",
        "firstTimestamp": "2026-05-06T07:08:09Z",
        "lastTimestamp": "2026-05-06T07:08:09Z",
        "count": 1,
    }


def test_a_subject_that_is_gone_has_no_uid() -> None:
    assert "uid" not in _Speaker().said(subject=Subject(WEB.key, "")).body("x")["involvedObject"]


def test_repetitions_are_counted_on_the_first() -> None:
    speaker = _Speaker()
    first = speaker.said()
    speaker.now_s = 60
    again = speaker.said()
    assert (again.name, again.count) == (first.name, 2)
    assert again.repetition() == {
        "count": 2,
        "lastTimestamp": "2026-05-06T07:09:09Z",
        "message": "Ensured load balancer",
    }


@pytest.mark.parametrize(
    ("subject", "event"),
    [
        pytest.param(Subject(WEB.key, "uid-2"), ENSURED, id="another uid"),
        pytest.param(Subject(ObjectKey("shop", "api"), "uid-1"), ENSURED, id="another Service"),
        pytest.param(WEB, Event(Severity.WARNING, ENSURED.reason, ENSURED.message), id="severity"),
        pytest.param(WEB, Event(Severity.NORMAL, "Other", ENSURED.message), id="reason"),
        pytest.param(WEB, Event(Severity.NORMAL, ENSURED.reason, "other"), id="message"),
    ],
)
def test_what_differs_is_another_event(subject: Subject, event: Event) -> None:
    speaker = _Speaker()
    first = speaker.said()
    other = speaker.said(event, subject)
    assert other.name != first.name
    assert other.count == 1


def test_what_the_api_server_has_forgotten_is_said_anew() -> None:
    speaker = _Speaker()
    first = speaker.said()
    speaker.now_s = FORGET_S + 1
    assert speaker.said().name != first.name


def test_one_service_cannot_flood_the_cluster() -> None:
    speaker = _Speaker()
    said = [speaker.say() for _ in range(BURST + 20)]
    assert sum(s is not None for s in said) == BURST
    assert speaker.say(subject=Subject(ObjectKey("shop", "api"), "u")) is not None, "others may speak"
    speaker.now_s = REFILL_S
    assert speaker.say() is not None
    assert speaker.say() is None


def test_different_messages_of_one_reason_are_combined() -> None:
    """A request id in every message must not make an Event each."""
    speaker = _Speaker()
    said = [speaker.said(Event(Severity.WARNING, "SyncFailed", f"request {n}")) for n in range(ALIKE + 5)]
    assert len({s.name for s in said}) == ALIKE + 1
    assert said[-1].event.message == f"(combined from similar events): request {ALIKE + 4}"
    assert said[-1].count == 5


def test_memory_is_bounded() -> None:
    speaker = _Speaker()
    first = speaker.said()
    for n in range(REMEMBERED):
        speaker.say(subject=Subject(ObjectKey("shop", f"s{n}"), "u"))
    memory = speaker.memory
    assert max(len(memory._said), len(memory._alike), len(memory._buckets)) == REMEMBERED
    assert speaker.said().name != first.name


@pytest.mark.parametrize(
    ("text", "most", "kept"),
    [
        pytest.param("short", 10, "short", id="short"),
        pytest.param("x" * 10, 10, "x" * 10, id="just fits"),
        pytest.param("x" * 11, 10, "x" * 5 + "…" + "x" * 2, id="ellipsis"),
        pytest.param("é" * 6, 10, "éé…é", id="whole characters"),
        pytest.param("\ud800", 10, "?", id="no character at all"),
    ],
)
def test_messages_are_cut_to_bytes(text: str, most: int, kept: str) -> None:
    assert cut(text, most) == kept
    assert len(kept.encode()) <= most


def test_a_long_message_and_its_prefix_fit() -> None:
    speaker = _Speaker()
    for n in range(ALIKE + 1):
        sentence = speaker.said(Event(Severity.WARNING, "R", f"{n} " + "€" * 2000))
        assert len(sentence.event.message.encode()) <= MAX_MESSAGE_BYTES


# Told by the thread


def test_told_then_counted_then_told_anew(
    server: ScriptedServer, transport: Transport, eventually: Callable[..., None]
) -> None:
    def script(call: Call) -> None:
        if call.method == "PATCH" and json.loads(call.body)["count"] == 3:
            call.refuse(404, "expired")
        else:
            call.say({})

    server.script = script
    recorder = EventRecorder(transport, "pod-1")
    for _ in range(3):
        recorder.emit(WEB, [ENSURED])
    eventually(lambda: len(server.calls) == 4)
    recorder.stop()
    assert [c.method for c in server.calls] == ["POST", "PATCH", "PATCH", "POST"]
    assert {c.path for c in server.calls if c.method == "POST"} == {"/api/v1/namespaces/shop/events"}
    assert recorder.dropped == 0


def test_emit_returns_at_once_and_a_dead_server_costs_only_events(
    server: ScriptedServer, transport: Transport
) -> None:
    server.script = lambda call: call.hang()
    recorder = EventRecorder(transport, "pod-1")
    recorder.QUEUED = 1000
    began_s = time.monotonic()
    for n in range(1100):
        recorder.emit(Subject(ObjectKey("shop", f"s{n}"), "u"), [ENSURED])
    assert time.monotonic() - began_s < REQUEST_TIMEOUT_S, "it waits for not one answer"
    assert 98 <= recorder.dropped <= 100, "one or two are under way, a thousand wait"
    recorder.stop(wait_s=0.1)


@pytest.mark.parametrize("status", [400, 403, 404, 422])
def test_what_is_refused_is_dropped_and_the_next_is_told(
    server: ScriptedServer, transport: Transport, eventually: Callable[..., None], status: int
) -> None:
    server.script = lambda call: call.refuse(status) if len(server.calls) == 1 else call.say({})
    recorder = EventRecorder(transport, "pod-1")
    recorder.emit(WEB, [ENSURED, Event(Severity.NORMAL, "Other", "m")])
    eventually(lambda: len(server.calls) == 2)
    recorder.stop()
    assert recorder.dropped == 1


def test_what_could_not_be_told_waits_for_the_server(
    server: ScriptedServer, transport: Transport, eventually: Callable[..., None]
) -> None:
    """One request, then silence until the server is back: others find out when that is."""
    server.script = lambda call: call.refuse(503)
    recorder = EventRecorder(transport, "pod-1")
    recorder.emit(WEB, [ENSURED])
    eventually(lambda: len(server.calls) == 1)
    time.sleep(0.5)
    assert len(server.calls) == 1
    server.script = lambda call: call.say({})
    recorder._wake.set()
    eventually(lambda: len(server.calls) == 2)
    recorder.stop()
    assert recorder.dropped == 0


def test_an_event_whose_answer_was_lost_is_not_said_twice(
    server: ScriptedServer, transport: Transport, eventually: Callable[..., None]
) -> None:
    server.script = lambda call: call.cut() if len(server.calls) == 1 else call.refuse(409, "exists")
    recorder = EventRecorder(transport, "pod-1")
    recorder.emit(WEB, [ENSURED])
    eventually(lambda: len(server.calls) == 1)
    recorder._wake.set()
    eventually(lambda: len(server.calls) == 2)
    recorder.stop()
    assert recorder.dropped == 0
    assert json.loads(server.calls[0].body)["metadata"] == json.loads(server.calls[1].body)["metadata"]


def test_stop_tells_what_is_queued(server: ScriptedServer, transport: Transport) -> None:
    server.script = lambda call: call.say({})
    recorder = EventRecorder(transport, "pod-1")
    for n in range(20):
        recorder.emit(Subject(ObjectKey("shop", f"s{n}"), "u"), [ENSURED])
    recorder.stop()
    assert len(server.calls) == 20
