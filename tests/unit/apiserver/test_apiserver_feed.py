"""What a reflector asks and believes, without a server: tables, rates by a clock, a model of the server."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbprov.cluster.apiserver import kinds
from lbprov.cluster.apiserver.errors import Gone, Unavailable
from lbprov.cluster.apiserver.feed import Feed, ListRequest, WatchRequest
from lbprov.cluster.apiserver.store import Store
from lbprov.model import ObjectKey, Service

ServiceFeed = Feed[ObjectKey, Service]


def _service(name: str, version: int, **spec: Any) -> dict[str, Any]:
    meta = {"name": name, "namespace": "default", "uid": f"uid-{name}", "resourceVersion": str(version)}
    return {"metadata": meta, "spec": {"type": "LoadBalancer", "ports": [{"port": 80}], **spec}}


def _page(version: int | str, *items: dict[str, Any], more: str = "") -> bytes:
    return json.dumps(
        {"metadata": {"resourceVersion": str(version), "continue": more}, "items": items}
    ).encode()


def _line(type_: str, obj: dict[str, Any]) -> bytes:
    return json.dumps({"type": type_, "object": obj}).encode()


def _bookmark(version: int) -> bytes:
    return _line("BOOKMARK", {"kind": "Service", "metadata": {"resourceVersion": str(version)}})


def _error(code: int, reason: str = "") -> bytes:
    return _line("ERROR", {"kind": "Status", "code": code, "reason": reason, "message": "too old"})


@pytest.fixture
def store() -> Store[ObjectKey, Service]:
    return Store()


@pytest.fixture
def feed(store: Store[ObjectKey, Service]) -> ServiceFeed:
    return Feed(kinds.SERVICES, store, random.Random(1), first_version="0")


def _key(name: str) -> ObjectKey:
    return ObjectKey("default", name)


def _synced(feed: ServiceFeed, *items: dict[str, Any], version: int = 10) -> None:
    assert isinstance(feed.next(), ListRequest)
    feed.page(_page(version, *items))
    assert isinstance(feed.next(), WatchRequest)


def test_lists_in_pages_then_watches_from_the_lists_version(feed: ServiceFeed) -> None:
    first = feed.next()
    assert isinstance(first, ListRequest)
    assert first.params() == {"limit": 500, "resourceVersion": "0"}
    assert feed.page(_page(7, _service("a", 1), more="token")) == [_key("a")]
    assert feed.is_listing
    second = feed.next()
    assert isinstance(second, ListRequest)
    assert second.params() == {"limit": 500, "continue": "token"}
    assert feed.page(_page(7, _service("b", 2))) == [_key("b")]
    assert feed.synced
    watch = feed.next()
    assert isinstance(watch, WatchRequest)
    params = watch.params()
    assert 290 <= int(params.pop("timeoutSeconds")) <= 590
    assert params == {"watch": "true", "allowWatchBookmarks": "true", "resourceVersion": "7"}
    assert feed.counts.lists == 1


def test_watch_goes_on_from_the_last_thing_seen(feed: ServiceFeed) -> None:
    _synced(feed)
    assert feed.line(_line("ADDED", _service("a", 12))) == _key("a")
    assert feed.ended(300.0) == 0.0
    assert _version(feed) == "12"
    assert feed.line(_bookmark(40)) is None
    assert feed.ended(300.0) == 0.0
    assert _version(feed) == "40"


def _version(feed: ServiceFeed) -> str:
    request = feed.next()
    assert isinstance(request, WatchRequest)
    return request.version


def test_only_real_changes_are_told(feed: ServiceFeed) -> None:
    _synced(feed, _service("a", 1))
    touched = _service("a", 11)
    touched["metadata"]["managedFields"] = [{"manager": "somebody"}]
    assert feed.line(_line("MODIFIED", touched)) is None
    assert feed.line(_line("MODIFIED", _service("a", 12, loadBalancerIP="192.0.2.1"))) == _key("a")
    assert feed.line(_line("DELETED", _service("a", 13))) == _key("a")
    assert feed.line(_line("DELETED", _service("a", 13))) is None
    assert (feed.counts.events, feed.counts.changes) == (4, 3)


def test_node_heartbeats_change_nothing() -> None:
    nodes: Store[str, Any] = Store()
    feed = Feed(kinds.NODES, nodes, random.Random(1))

    def node(version: int, ready: str, beat: str) -> dict[str, Any]:
        condition = {"type": "Ready", "status": ready, "lastHeartbeatTime": beat}
        return {
            "metadata": {"name": "n", "resourceVersion": str(version)},
            "status": {"conditions": [condition]},
        }

    feed.next()
    assert feed.page(_page(1, node(1, "True", "10:00"))) == ["n"]
    feed.next()
    assert feed.line(_line("MODIFIED", node(2, "True", "10:05"))) is None
    assert feed.line(_line("MODIFIED", node(3, "False", "10:10"))) == "n"


def test_a_new_uid_under_an_old_name_is_a_change(feed: ServiceFeed, store: Store[ObjectKey, Service]) -> None:
    _synced(feed, _service("a", 1))
    again = _service("a", 20)
    again["metadata"]["uid"] = "another"
    assert feed.line(_line("ADDED", again)) == _key("a")
    value = store.get(_key("a"))
    assert value is not None
    assert value.uid == "another"


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(_error(410, "Expired"), id="expired"),
        pytest.param(_error(410, "Gone"), id="gone"),
        pytest.param(_error(410), id="code only"),
    ],
)
def test_410_in_the_stream_asks_for_an_exact_list_at_once(feed: ServiceFeed, line: bytes) -> None:
    _synced(feed, _service("a", 1), _service("b", 2))
    with pytest.raises(Gone):
        feed.line(line)
    assert feed.gone(lived_s=60.0) == 0.0
    request = feed.next()
    assert isinstance(request, ListRequest)
    assert request.params() == {"limit": 500}
    assert feed.page(_page(50, _service("b", 2))) == [_key("a")], "the deletion that was missed"
    assert feed.counts.changes == 3


def test_410_right_after_an_outage_is_answered_at_once_and_in_a_row_later(feed: ServiceFeed) -> None:
    """A restarted API server remembers nothing from before."""
    _synced(feed)
    for _ in range(10):
        feed.failed()
    assert feed.gone() == 0.0
    feed.next()
    feed.page(_page(20))
    assert feed.listed() == 0.0
    feed.next()
    assert 4.0 < feed.gone() <= 5.0
    assert feed.gone(lived_s=60.0) == 0.0


def test_where_every_watch_is_told_410_lists_bring_the_news(feed: ServiceFeed) -> None:
    """A list every few seconds, a watch now and then: until one holds."""
    _synced(feed)
    asked = ""
    for version in range(20, 40):
        request = feed.next()
        if isinstance(request, WatchRequest):
            asked += "w"
            feed.gone()
        else:
            asked += "l"
            feed.page(_page(version))
            pause_s = feed.listed()
            assert pause_s == 0.0 or 4.0 < pause_s <= 5.0
    assert asked.startswith("wlwllllwllllw")
    while not isinstance(feed.next(), WatchRequest):
        feed.page(_page(50))
        feed.listed()
    assert feed.ended(60.0) == 0.0
    assert isinstance(feed.next(), WatchRequest)
    feed.gone(60.0)
    feed.next()
    feed.page(_page(60))
    assert feed.listed() == 0.0, "followed as ever"


def test_other_errors_in_the_stream_resume_the_watch(feed: ServiceFeed) -> None:
    _synced(feed)
    with pytest.raises(Unavailable):
        feed.line(_error(500, "InternalError"))
    assert 0 < feed.failed(1.0, refused=True) <= 0.2
    assert _version(feed) == "10"


def test_a_watch_refused_again_and_again_becomes_a_list(feed: ServiceFeed) -> None:
    _synced(feed, version=900)
    for _ in range(2):
        feed.failed(refused=True)
        assert isinstance(feed.next(), WatchRequest)
    feed.failed(refused=True)
    assert feed.next() == ListRequest("", 500)


def test_connections_refused_never_become_a_list(feed: ServiceFeed) -> None:
    _synced(feed, version=900)
    for _ in range(20):
        feed.failed()
        assert _version(feed) == "900"


def test_a_silent_watch_is_followed_by_a_list(feed: ServiceFeed) -> None:
    _synced(feed)
    assert feed.ended(150.0, silent=True) == 0.0
    assert isinstance(feed.next(), ListRequest)


def test_a_watch_silent_after_it_said_something_is_resumed(feed: ServiceFeed) -> None:
    _synced(feed)
    feed.line(_bookmark(11))
    assert feed.ended(150.0, silent=True) == 0.0
    assert _version(feed) == "11"


def test_an_expired_token_begins_anew_without_pages(
    feed: ServiceFeed, store: Store[ObjectKey, Service]
) -> None:
    feed.next()
    feed.page(_page(7, _service("a", 1), more="token"))
    feed.next()
    assert feed.gone() == 0.0
    assert feed.next() == ListRequest("", 0)
    feed.page(_page(9, _service("b", 8)))
    assert store.keys() == (_key("b"),), "what the first page said and the new list does not is gone"
    feed.gone()
    assert feed.next() == ListRequest("", 500), "pages again the next time"


def test_a_list_takes_only_news_apart(store: Store[ObjectKey, Service]) -> None:
    taken_apart = []

    def decode(raw: Any) -> Service | None:
        taken_apart.append(raw)
        return kinds.SERVICES.decode(raw)

    feed = Feed(dataclasses.replace(kinds.SERVICES, decode=decode), store, random.Random(1))
    broken = _service("c", 3, type="Teleport")
    _synced(feed, _service("a", 1), _service("b", 1), broken)
    assert len(taken_apart) == 3
    feed.restart()
    _synced(feed, _service("a", 1), _service("b", 2), broken)
    assert len(taken_apart) == 4, "the version of b is new, though its value is not"
    assert (feed.counts.changes, feed.counts.rejected) == (2, 1)


def test_a_failure_between_pages_begins_the_list_anew(
    feed: ServiceFeed, store: Store[ObjectKey, Service]
) -> None:
    _synced(feed, _service("kept", 1))
    feed.gone(60.0)
    feed.next()
    feed.page(_page(20, _service("kept", 1), more="token"))
    feed.failed()
    assert feed.next() == ListRequest("", 500)
    assert feed.page(_page(21)) == [_key("kept")]
    assert not store.keys()


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"<html>", id="not JSON"),
        pytest.param(b'{"metadata":{"resourceVersion":"5"},"items":[{"meta', id="cut"),
        pytest.param(b'{"items":[]}', id="no metadata"),
        pytest.param(b'{"metadata":{},"items":[]}', id="no version"),
        pytest.param(b"[]", id="not an object"),
    ],
)
def test_a_garbled_list_changes_nothing(
    feed: ServiceFeed, store: Store[ObjectKey, Service], body: bytes
) -> None:
    _synced(feed, _service("a", 1))
    feed.gone(60.0)
    feed.next()
    with pytest.raises(Unavailable):
        feed.page(body)
    assert store.keys() == (_key("a"),)


def test_one_object_that_cannot_be_read_spoils_nothing(
    feed: ServiceFeed, store: Store[ObjectKey, Service]
) -> None:
    broken = _service("b", 2, type="Teleport")
    _synced(feed, _service("a", 1), broken, _service("c", 3))
    assert set(store.keys()) == {_key("a"), _key("c")}
    assert list(feed.problems()) == [_key("b")]
    assert feed.counts.rejected == 1
    assert feed.line(_line("MODIFIED", _service("b", 11))) == _key("b")
    assert not feed.problems()


def test_an_object_that_became_unreadable_is_left_as_it_was(
    feed: ServiceFeed, store: Store[ObjectKey, Service]
) -> None:
    _synced(feed, _service("a", 1))
    before = store.get(_key("a"))
    assert feed.line(_line("MODIFIED", _service("a", 11, ports="eighty"))) is None
    feed.gone(60.0)
    feed.next()
    assert feed.page(_page(20, _service("a", 11, ports="eighty"))) == []
    assert store.get(_key("a")) is before
    assert feed.line(_line("DELETED", _service("a", 21, ports="eighty"))) == _key("a")
    assert not feed.problems()


def test_a_list_with_a_nameless_item_deletes_nothing(
    feed: ServiceFeed, store: Store[ObjectKey, Service]
) -> None:
    _synced(feed, _service("a", 1), _service("b", 2))
    feed.gone(60.0)
    feed.next()
    assert feed.page(_page(20, {"metadata": {"name": 5}}, _service("b", 2))) == []
    assert set(store.keys()) == {_key("a"), _key("b")}
    feed.gone(60.0)
    feed.next()
    assert feed.page(_page(30, _service("b", 2))) == [_key("a")]


@pytest.mark.parametrize("line", [b"{", b"null", b'{"type":"ADDED"}', b'{"type":"ADDED","object":[]}'])
def test_a_garbled_line_is_an_error_and_changes_nothing(
    feed: ServiceFeed, store: Store[ObjectKey, Service], line: bytes
) -> None:
    _synced(feed, _service("a", 1))
    with pytest.raises(Unavailable):
        feed.line(line)
    assert store.keys() == (_key("a"),)


# How often a feed asks while something is wrong, by a clock that only its own pauses move.

Outcome = Callable[[ServiceFeed, "ListRequest | WatchRequest"], float]


def _refused(feed: ServiceFeed, request: ListRequest | WatchRequest) -> float:
    return feed.failed()


def _answers_500(feed: ServiceFeed, request: ListRequest | WatchRequest) -> float:
    return feed.failed(refused=True)


def _all_gone(feed: ServiceFeed, request: ListRequest | WatchRequest) -> float:
    return feed.gone()


def _watches_gone(feed: ServiceFeed, request: ListRequest | WatchRequest) -> float:
    if isinstance(request, WatchRequest):
        return feed.gone()
    feed.page(_page(5, _service("a", 1)))
    return feed.listed()


def _watches_end_at_once(feed: ServiceFeed, request: ListRequest | WatchRequest) -> float:
    if isinstance(request, WatchRequest):
        return feed.ended(0.01)
    feed.page(_page(5, _service("a", 1)))
    return 0.0


def _tokens_expire(feed: ServiceFeed, request: ListRequest | WatchRequest) -> float:
    if isinstance(request, ListRequest) and not request.continue_ and request.limit:
        feed.page(_page(5, _service("a", 1), more="token"))
        return 0.0
    return feed.gone()


@pytest.mark.parametrize(
    "outcome", [_refused, _answers_500, _all_gone, _watches_gone, _watches_end_at_once, _tokens_expire]
)
@pytest.mark.parametrize("synced", [False, True])
def test_two_feeds_in_trouble_ask_less_than_0_7_times_a_second(outcome: Outcome, synced: bool) -> None:
    """Which leaves 0.3 for an elector."""
    requests, seconds = 0, 600.0
    for seed in (1, 2):
        feed: ServiceFeed = Feed(kinds.SERVICES, Store(), random.Random(seed))
        if synced:
            _synced(feed, _service("a", 1))
        passed_s = 0.0
        while passed_s < seconds:
            passed_s += outcome(feed, feed.next())
            requests += 1
    assert requests / seconds < 0.7


def test_a_healthy_watch_ends_the_row_of_failures(feed: ServiceFeed) -> None:
    _synced(feed)
    pauses = [feed.failed() for _ in range(5)]
    assert pauses == sorted(pauses)
    assert 4.0 <= pauses[-1] < 5.0
    assert feed.failed(lived_s=6.0) <= 0.2
    feed.failed()
    assert feed.ended(6.0) == 0.0
    assert feed.failed() <= 0.2


class _Model:
    """As much of an API server as the protocol shows: versions, pages of one moment, a history that is
    compacted, tokens that expire."""

    def __init__(self) -> None:
        self.version = 1
        self.objects: dict[str, dict[str, Any]] = {}
        self.history: list[tuple[int, bytes]] = []
        self.oldest = 1
        self.pages: dict[str, tuple[int, list[dict[str, Any]]]] = {}

    def write(self, name: str, port: int | None) -> None:
        self.version += 1
        if port is None:
            if (old := self.objects.pop(name, None)) is None:
                return
            old["metadata"]["resourceVersion"] = str(self.version)
            self.history.append((self.version, _line("DELETED", old)))
            return
        type_ = "MODIFIED" if name in self.objects else "ADDED"
        self.objects[name] = _service(name, self.version, ports=[{"port": port}])
        self.history.append((self.version, _line(type_, self.objects[name])))

    def compact(self) -> None:
        self.oldest, self.history = self.version, []
        self.pages.clear()

    def answer(self, request: ListRequest, page_items: int = 2) -> bytes:
        if request.continue_:
            if request.continue_ not in self.pages:
                raise Gone("token", status=410)
            version, items = self.pages.pop(request.continue_)
        else:
            version = self.version
            items = [json.loads(json.dumps(o)) for _, o in sorted(self.objects.items())]
        if request.limit and len(items) > page_items:
            token = f"{version}-{len(items)}"
            self.pages[token] = (version, items[page_items:])
            return _page(version, *items[:page_items], more=token)
        return _page(version, *items)

    def watch(self, request: WatchRequest) -> list[bytes]:
        if int(request.version) < self.oldest:
            raise Gone("too old", status=410)
        return [line for version, line in self.history if version > int(request.version)]


_NAMES = st.sampled_from("abcdef")
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), _NAMES, st.integers(1, 3)),
        st.tuples(st.just("delete"), _NAMES),
        st.tuples(st.just("compact")),
        st.tuples(st.just("exchange"), st.integers(0, 4)),
        st.tuples(st.just("fail")),
        st.tuples(st.just("bookmark")),
    ),
    max_size=40,
)


Listener = Callable[[ObjectKey], None]


def _exchange(feed: ServiceFeed, server: _Model, listener: Listener, lines: int = 99) -> None:
    """One request and its answer, of a watch no more than so many lines."""
    request = feed.next()
    try:
        if isinstance(request, ListRequest):
            for key in feed.page(server.answer(request)):
                listener(key)
            return
        for line in server.watch(request)[:lines]:
            if (changed := feed.line(line)) is not None:
                listener(changed)
    except Gone:
        feed.gone()
    else:
        feed.ended(0.0)


@settings(max_examples=300, deadline=None)
@given(_STEPS)
def test_whatever_happens_the_store_ends_as_the_server_is(steps: list[tuple[Any, ...]]) -> None:
    server, store = _Model(), Store[ObjectKey, Service]()
    feed: ServiceFeed = Feed(kinds.SERVICES, store, random.Random(1))
    told: dict[ObjectKey, Service | None] = {}  # what a listener knows who looks whenever it is told

    def listener(key: ObjectKey) -> None:
        value = store.get(key)
        assert told.get(key) != value, "told of a change that is none"
        told[key] = value

    for action, *details in steps:
        if action == "write":
            server.write(details[0], details[1])
        elif action == "delete":
            server.write(details[0], None)
        elif action == "compact":
            server.compact()
        elif action == "exchange":
            _exchange(feed, server, listener, details[0])
        elif action == "fail":
            feed.next()
            feed.failed()
        else:
            request = feed.next()
            if isinstance(request, WatchRequest) and int(request.version) >= server.oldest:
                for line in [*server.watch(request), _bookmark(server.version)]:
                    if (changed := feed.line(line)) is not None:
                        listener(changed)
                feed.ended(0.0)
    for _ in range(12):
        _exchange(feed, server, listener)
    assert {v.key.name: v.ports[0].port for v in store.values()} == {
        name: obj["spec"]["ports"][0]["port"] for name, obj in server.objects.items()
    }
    assert {k: v for k, v in told.items() if v is not None} == {v.key: v for v in store.values()}
    assert feed.synced
