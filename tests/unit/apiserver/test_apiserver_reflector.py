"""The reflector's thread against an unkind server on loopback: requests are counted, state is kept."""

from __future__ import annotations

import itertools
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lbprov.cluster.apiserver import kinds
from lbprov.cluster.apiserver import outage as outage_module
from lbprov.cluster.apiserver import reflector as reflector_module
from lbprov.cluster.apiserver.credentials import Place
from lbprov.cluster.apiserver.outage import Backoff
from lbprov.cluster.apiserver.probe import SUSPICIOUS_S
from lbprov.cluster.apiserver.reflector import SILENCE_S, Reflector
from lbprov.cluster.apiserver.store import Store
from lbprov.cluster.apiserver.transport import Transport
from lbprov.model import ObjectKey, Service

if TYPE_CHECKING:
    from tests.unit.apiserver.conftest import Call, ScriptedServer

ServiceReflector = Reflector[ObjectKey, Service]
Eventually = Callable[..., None]


class _Kind:
    """A kind answer: two Services and a watch that stays open. `lines` are sent to open watches."""

    def __init__(self) -> None:
        self.version = 10
        self.names = ["a", "b"]
        self.lines: list[bytes] = []
        self.sent = threading.Condition()
        self.watch_end: Callable[[Call], None] | None = None

    def __call__(self, call: Call) -> None:
        if not call.is_watch:
            items = [self.service(name, self.version) for name in self.names]
            call.say({"metadata": {"resourceVersion": str(self.version)}, "items": items})
        elif self.watch_end is not None:
            self.watch_end(call)
        else:
            call.stream(self._follow(call))

    def _follow(self, call: Call) -> Iterator[bytes]:
        seen = 0
        while not call.ending.is_set():
            with self.sent:
                if len(self.lines) == seen:
                    self.sent.wait(0.05)
                new, seen = self.lines[seen:], len(self.lines)
            yield from new

    def send(self, *lines: bytes) -> None:
        with self.sent:
            self.lines += lines
            self.sent.notify_all()

    @staticmethod
    def service(name: str, version: int, **spec: Any) -> dict[str, Any]:
        meta = {"name": name, "namespace": "d", "uid": name, "resourceVersion": str(version)}
        return {"metadata": meta, "spec": {"type": "LoadBalancer", "ports": [{"port": 80}], **spec}}

    def added(self, name: str, version: int) -> bytes:
        return json.dumps({"type": "ADDED", "object": self.service(name, version)}).encode() + b"\n"


class _Followed:
    def __init__(self, transport: Transport) -> None:
        self.told: list[str] = []
        self.store: Store[ObjectKey, Service] = Store()
        self.reflector: ServiceReflector = Reflector(transport, kinds.SERVICES, self.store)

    def start(self) -> _Followed:
        self.reflector.start(lambda key: self.told.append(key.name))
        return self

    @property
    def names(self) -> list[str]:
        return sorted(key.name for key in self.store.keys())  # noqa: SIM118


@pytest.fixture
def kind(server: ScriptedServer) -> _Kind:
    answers = _Kind()
    server.script = answers
    return answers


@pytest.fixture
def followed(transport: Transport) -> Iterator[_Followed]:
    one = _Followed(transport)
    yield one
    one.reflector.stop()


def test_lists_then_follows(
    server: ScriptedServer, kind: _Kind, followed: _Followed, eventually: Eventually
) -> None:
    followed.start()
    assert followed.reflector.synced.wait(60)
    assert followed.names == ["a", "b"]
    kind.send(kind.added("c", 11), kind.added("c", 12), b"\n")
    eventually(lambda: followed.reflector.counts.events == 2)
    assert followed.told == ["a", "b", "c"]
    assert followed.reflector.last_heard_s is not None
    assert [c.is_watch for c in server.calls] == [False, True]


def test_lines_are_whole_whatever_the_chunks(
    kind: _Kind, followed: _Followed, eventually: Eventually
) -> None:
    whole = kind.added("c", 11) + kind.added("d", 12) + kind.added("e", 13)
    followed.start()
    kind.send(*(whole[i : i + 7] for i in range(0, len(whole), 7)))
    eventually(lambda: followed.names == ["a", "b", "c", "d", "e"])


def test_stop_ends_an_open_watch_at_once(kind: _Kind, followed: _Followed, server: ScriptedServer) -> None:
    followed.start()
    followed.reflector.synced.wait(60)
    time.sleep(0.1)
    followed.reflector.stop(wait_s=SILENCE_S / 2)
    assert not followed.reflector._thread.is_alive()


@pytest.mark.parametrize("watch", [False, True], ids=["list", "watch"])
def test_stop_waits_for_no_answer_and_hears_none(
    server: ScriptedServer, kind: _Kind, followed: _Followed, eventually: Eventually, watch: bool
) -> None:
    release = threading.Event()

    def script(call: Call) -> None:
        if call.is_watch is watch:
            release.wait(100)
        kind(call)

    server.script = script
    followed.start()
    eventually(lambda: len(server.calls) == 1 + watch)
    told = list(followed.told)
    followed.reflector.stop(wait_s=0.2)
    assert followed.reflector._thread.is_alive()
    release.set()
    time.sleep(0.2)
    assert followed.told == told


def test_connection_close_changes_nothing(
    server: ScriptedServer, kind: _Kind, followed: _Followed, eventually: Eventually
) -> None:
    """A proxy that keeps no connections: the socket must be found all the same."""
    kind.watch_end = lambda call: call.stream(kind._follow(call), Connection="close")
    followed.start()
    kind.send(kind.added("c", 11))
    eventually(lambda: followed.names == ["a", "b", "c"])
    stream = followed.reflector._stream
    assert stream is not None
    assert stream._socket is not None
    assert stream._socket.gettimeout() == SILENCE_S
    followed.reflector.stop(wait_s=SILENCE_S / 2)
    assert not followed.reflector._thread.is_alive()


def test_a_handler_that_fails_stops_nothing(
    kind: _Kind, followed: _Followed, eventually: Eventually, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(key: ObjectKey) -> None:
        followed.told.append(key.name)
        raise ZeroDivisionError

    followed.reflector.start(fail)
    kind.send(kind.added("c", 11))
    eventually(lambda: followed.told == ["a", "b", "c"])
    assert "whoever was told of the change failed" in caplog.text


# Unkind servers. Each is endured for some seconds, then becomes kind.


def _answers_500(call: Call) -> None:
    call.refuse(500, "etcd is away")


def _answers_429(call: Call) -> None:
    call.refuse(429, "slow down", Retry_After="1")


def _answers_410(call: Call) -> None:
    call.refuse(410, "expired", "Expired")


def _watch_410(call: Call) -> None:
    if call.is_watch:
        line = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired"}}
        call.stream([json.dumps(line).encode() + b"\n"])
    else:
        call.say({"metadata": {"resourceVersion": "10"}, "items": [_Kind.service(n, 10) for n in "ab"]})


def _hangs(call: Call) -> None:
    call.hang()


def _cuts(call: Call) -> None:
    call.cut()


def _garbage(call: Call) -> None:
    call.say(b'{"metadata":{"resourceVersion":"77"},"items":[{"metadata":{"na')


def _garbled_watch(call: Call) -> None:
    if call.is_watch:
        call.stream([b'{"type":"ADDED","object":{"metadata"\n'])
    else:
        call.refuse(500)


def _endless_line(call: Call) -> None:
    call.stream(itertools.repeat(b"x" * (1 << 22)))


def _truncated_chunk(call: Call) -> None:
    call.stream([b'{"type":"ADDED",'], end=False)


def _ends_at_once(call: Call) -> None:
    if call.is_watch:
        call.stream([])
    else:
        call.say({"metadata": {"resourceVersion": "10"}, "items": [_Kind.service(n, 10) for n in "ab"]})


def _denies(call: Call) -> None:
    call.refuse(403, 'User "x" cannot list resource "services"')


UNKIND = [
    _answers_500,
    _answers_429,
    _answers_410,
    _watch_410,
    _hangs,
    _cuts,
    _garbage,
    _garbled_watch,
    _endless_line,
    _truncated_chunk,
    _ends_at_once,
    _denies,
]


@dataclass
class _Endured:
    """What became of a reflector that met an unkind server for 4 s, and then a kind one."""

    asked: int
    lasted_s: float
    names_meanwhile: list[str]
    names_after: list[str]
    told: list[str]


@pytest.fixture(scope="module")
def endured(
    new_server: type[ScriptedServer],
    kubeconfig_for: Callable[[ScriptedServer, Path], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, _Endured]:
    """All of them at once: they mostly wait."""
    directory = tmp_path_factory.mktemp("unkind")

    def endure(unkind: Callable[[Call], None]) -> _Endured:
        server, kind = new_server(), _Kind()
        server.script = kind
        path = kubeconfig_for(server, directory / unkind.__name__)
        followed = _Followed(Transport(Place(str(path)))).start()
        try:
            assert followed.reflector.synced.wait(60)
            deadline_s = time.monotonic() + 60
            while len(server.calls) < 2 and time.monotonic() < deadline_s:
                time.sleep(0.05)
            assert len(server.calls) == 2
            server.script = unkind
            began_s = time.monotonic()
            server.end_answers()  # the watch ends in good form, as at a graceful end of the server
            time.sleep(4.0)
            asked, meanwhile = len(server.calls) - 2, followed.names
            lasted_s = time.monotonic() - began_s
            kind.names, kind.version = ["b", "c"], 20
            kind.send(kind.added("c", 11), _deleted("a", 12))
            server.script = kind
            server.end_answers()
            deadline_s = time.monotonic() + 60
            while followed.names != ["b", "c"] and time.monotonic() < deadline_s:
                time.sleep(0.05)
            return _Endured(asked, lasted_s, meanwhile, followed.names, followed.told)
        finally:
            followed.reflector.stop()
            server.down()

    with ThreadPoolExecutor(len(UNKIND)) as pool:
        return dict(zip((f.__name__ for f in UNKIND), pool.map(endure, UNKIND), strict=True))


@pytest.mark.parametrize("name", [f.__name__ for f in UNKIND])
def test_an_unkind_server_is_asked_little_and_forgiven_soon(endured: dict[str, _Endured], name: str) -> None:
    one = endured[name]
    assert one.names_meanwhile == ["a", "b"], "state is kept"
    most = 3 + one.lasted_s  # the first pauses are short, and a round of list and watch is two requests
    assert 1 <= one.asked <= most
    assert one.names_after == ["b", "c"]
    assert one.told[:2] == ["a", "b"]
    assert sorted(one.told[2:]) == ["a", "c"], "each change is told once"


def _deleted(name: str, version: int) -> bytes:
    return json.dumps({"type": "DELETED", "object": _Kind.service(name, version)}).encode() + b"\n"


def test_a_server_that_was_away(
    server: ScriptedServer, kind: _Kind, followed: _Followed, eventually: Eventually
) -> None:
    followed.start()
    assert followed.reflector.synced.wait(60)
    eventually(lambda: len(server.calls) == 2)
    server.down()
    eventually(lambda: followed.reflector.counts.failures >= 3)
    assert followed.names == ["a", "b"]
    kind.lines = [kind.added("c", 11)]
    server.up()
    eventually(lambda: followed.names == ["a", "b", "c"])
    assert [c.is_watch for c in server.calls[2:]] == [True], "resumed, not listed anew"
    assert server.calls[2].params["resourceVersion"] == "10"


def test_the_first_answer_after_an_outage_wakes_everybody(
    server: ScriptedServer,
    kind: _Kind,
    transport: Transport,
    followed: _Followed,
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With pauses so long that nothing else can have ended them."""
    monkeypatch.setattr(outage_module, "LONG_ENOUGH_S", 0.0)
    monkeypatch.setattr(Backoff, "CAP_S", 1000.0)
    monkeypatch.setattr(Backoff, "FACTOR", 5000.0)
    followed.start()
    assert followed.reflector.synced.wait(60)
    eventually(lambda: len(server.calls) == 2)
    server.down()
    # The watch may have ended in good form: then it is the second pause that is a failure's.
    eventually(lambda: followed.reflector._feed._backoff._failures == 2)
    kind.lines = [kind.added("c", 11)]
    server.up()
    transport.request("GET", "/anything", vital=True)
    eventually(lambda: followed.names == ["a", "b", "c"])


def test_a_slow_server_is_heard_and_not_asked_twice(
    server: ScriptedServer, kind: _Kind, followed: _Followed
) -> None:
    """Slow with lists only: the probe is answered at once, and so nobody is made to ask anew."""

    def slow(call: Call) -> None:
        if call.params.get("limit") == "500":
            call.hang(SUSPICIOUS_S + 2)
        kind(call)

    server.script = slow
    followed.start()
    assert followed.reflector.synced.wait(60)
    assert len([c for c in server.calls if c.params.get("limit") == "500"]) == 1
    assert len([c for c in server.calls if c.params.get("limit") == "1"]) >= 1


def test_a_watch_that_died_without_a_word_is_noticed(
    server: ScriptedServer,
    kind: _Kind,
    followed: _Followed,
    monkeypatch: pytest.MonkeyPatch,
    eventually: Eventually,
) -> None:
    monkeypatch.setattr(reflector_module, "SILENCE_S", 0.5)
    silent = threading.Event()
    kind.watch_end = lambda call: None if silent.is_set() else call.stream(_until(silent))
    followed.start()
    assert followed.reflector.synced.wait(60)
    kind.names = ["b"]
    kind.version = 20
    eventually(lambda: followed.names == ["b"])
    silent.set()


def _until(event: threading.Event) -> Iterator[bytes]:
    event.wait(20)
    yield from ()


def test_a_service_that_cannot_be_read_is_skipped_with_a_word(
    server: ScriptedServer, followed: _Followed, caplog: pytest.LogCaptureFixture
) -> None:
    items = [_Kind.service("bad", 1, type="Teleport"), _Kind.service("good", 2)]
    server.script = lambda call: (
        call.hang() if call.is_watch else call.say({"metadata": {"resourceVersion": "3"}, "items": items})
    )
    with caplog.at_level(logging.WARNING):
        followed.start()
        assert followed.reflector.synced.wait(60)
    assert followed.names == ["good"]
    assert "services d/bad cannot be read and is left as it was" in caplog.text
    assert followed.reflector.counts.rejected == 1
    assert list(followed.reflector.problems()) == [ObjectKey("d", "bad")]


def test_one_list_without_following(server: ScriptedServer, kind: _Kind, followed: _Followed) -> None:
    followed.reflector.list_once()
    kind.names, kind.version = ["b", "c"], 11
    followed.reflector.list_once()
    assert followed.names == ["b", "c"]
    assert [c.params for c in server.calls] == [{"limit": "500"}] * 2
