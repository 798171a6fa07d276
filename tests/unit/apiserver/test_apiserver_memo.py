"""What a leader leaves on the lease, and what the next one finds there."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from lbprov.cluster.apiserver import memo as memo_module
from lbprov.cluster.apiserver.errors import Conflict, NotFound, Unavailable
from lbprov.cluster.apiserver.lease import LeaderElector, LeaseRecord
from lbprov.cluster.apiserver.memo import LeaseMemo
from lbprov.model import RetryLater

LIMIT_S = 60.0
"""Bounds a hang."""


class _Lease:
    """In memory; `refuses`: nothing is written any more."""

    def __init__(self) -> None:
        self.record: LeaseRecord | None = None
        self.refuses = False
        self.now_s = 0.0
        self._version = 0

    def get(self, timeout_s: float) -> LeaseRecord | None:
        return self.record

    def create(self, record: LeaseRecord, timeout_s: float) -> LeaseRecord:
        return self.update(record, timeout_s)

    def update(self, record: LeaseRecord, timeout_s: float) -> LeaseRecord:
        if self.refuses:
            raise Unavailable("away")
        if self.record is None and record.version:
            raise NotFound("gone", status=404)
        if self.record is not None and record.version != self.record.version:
            raise Conflict("changed", status=409, retryable=True)
        self._version += 1
        self.record = dataclasses.replace(record, version=str(self._version))
        return self.record

    @property
    def memo(self) -> str:
        assert self.record is not None
        return self.record.memo

    def elector(self, name: str) -> LeaderElector:
        return LeaderElector(self, name, now_s=lambda: self.now_s)

    def leading(self, name: str) -> LeaderElector:
        """After whoever had it before was waited out."""
        elector = self.elector(name)
        elector.attempt()
        self.now_s += 20
        elector.attempt()
        assert elector.is_leader()
        return elector


@pytest.fixture
def lease(monkeypatch: pytest.MonkeyPatch) -> _Lease:
    monkeypatch.setattr(memo_module, "FLUSH_S", LIMIT_S)
    return _Lease()


@contextlib.contextmanager
def running(elector: LeaderElector) -> Iterator[None]:
    began = threading.Event()
    thread = threading.Thread(target=elector.run, args=(began.set, lambda: None), daemon=True)
    thread.start()
    assert began.wait(LIMIT_S)
    yield
    elector.release(LIMIT_S)
    thread.join(LIMIT_S)
    assert not thread.is_alive()


def test_it_is_left_to_the_next(lease: _Lease) -> None:
    first = lease.leading("a")
    memo = first.memo()
    told = "one"
    assert memo.begin(lambda: told) == ""
    first.attempt()
    told = "two"
    assert lease.leading("b").memo().begin(str) == "one", "what was durable when a died"


def test_it_is_kept_by_a_leader_that_says_nothing_yet(lease: _Lease) -> None:
    first = lease.leading("a")
    first.memo().begin(lambda: "one")
    first.attempt()
    second = lease.leading("b")
    second.attempt()
    second.memo()
    second.attempt()
    assert lease.leading("c").memo().begin(str) == "one"


def test_somebody_in_between_who_keeps_none_makes_it_worthless(lease: _Lease) -> None:
    """As an lbprov of before there were memos, which leaves what stands there as it is."""
    first = lease.leading("a")
    first.memo().begin(lambda: "one")
    first.attempt()
    assert lease.record is not None
    lease.record = dataclasses.replace(lease.record, holder="old", transitions=lease.record.transitions + 1)
    third = lease.leading("c")
    assert third.memo().begin(str) == ""
    assert lease.memo == ""


def test_a_clean_end_leaves_the_last_word(lease: _Lease) -> None:
    elector = lease.elector("a")
    words = iter(["one", "two"])
    told = ""
    with running(elector):
        elector.memo().begin(lambda: told)
        told = next(words)
    assert lease.record is not None
    assert (lease.record.holder, lease.memo) == ("", "0:one")
    assert lease.leading("b").memo().begin(str) == "one"


def test_flush_waits_for_the_write(lease: _Lease) -> None:
    elector = lease.elector("a")
    with running(elector):
        memo = elector.memo()
        told = 0
        memo.begin(lambda: str(told))
        for told in range(1, 20):
            memo.flush()
            assert lease.memo == f"0:{told}"


def test_many_may_wait_at_once(lease: _Lease) -> None:
    elector = lease.elector("a")
    said: set[int] = set()
    lacking: list[int] = []
    lock = threading.Lock()

    def text() -> str:
        with lock:
            return " ".join(map(str, sorted(said)))

    def say(memo: LeaseMemo, number: int) -> None:
        with lock:
            said.add(number)
        memo.flush()
        if str(number) not in lease.memo.removeprefix("0:").split():
            lacking.append(number)

    with running(elector):
        memo = elector.memo()
        memo.begin(text)
        threads = [threading.Thread(target=say, args=(memo, number)) for number in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LIMIT_S)
    assert (lacking, len(said)) == ([], 20)


def test_flush_fails_where_the_lease_cannot_be_written(
    lease: _Lease, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memo_module, "FLUSH_S", 0.2)
    elector = lease.elector("a")
    with running(elector):
        memo = elector.memo()
        memo.begin(lambda: "one")
        lease.refuses = True
        with pytest.raises(RetryLater, match="nothing is changed"):
            memo.flush()
        assert lease.memo == ""
        lease.refuses = False


@pytest.mark.parametrize(
    "end",
    [
        pytest.param(lambda elector: elector._memo.end_term(), id="the term is over"),
        pytest.param(lambda elector: elector.memo().begin(lambda: "next"), id="the next has begun"),
    ],
)
def test_a_term_that_is_over_says_nothing_more(lease: _Lease, end: Callable[[LeaderElector], None]) -> None:
    elector = lease.leading("a")
    before = elector.memo()
    before.begin(lambda: "before")
    elector.attempt()
    end(elector)
    elector.attempt()
    assert lease.memo in ("0:before", "0:next")
    with pytest.raises(RetryLater):
        before.flush()
    with pytest.raises(RetryLater):
        before.begin(str)


def test_a_term_that_ends_and_another_of_ours(lease: _Lease) -> None:
    """The API server was away: nobody else has led, and what we told last is true."""
    elector = lease.elector("a")
    began: list[str] = []
    stopped = threading.Event()
    again = threading.Event()

    def start() -> None:
        began.append(elector.memo().begin(lambda: f"term {len(began)}"))
        if len(began) == 2:
            again.set()

    thread = threading.Thread(target=elector.run, args=(start, stopped.set), daemon=True)
    thread.start()
    while not lease.record or lease.memo != "0:term 1":
        elector.wake()
        time.sleep(0.01)
        assert thread.is_alive()
    lease.refuses = True
    lease.now_s += 11
    elector.wake()
    assert stopped.wait(LIMIT_S)
    lease.refuses = False
    elector.wake()
    assert again.wait(LIMIT_S)
    elector.release(LIMIT_S)
    assert began == ["", "term 1"]


def test_a_lease_deleted_under_its_leader_bears_it_again(lease: _Lease) -> None:
    elector = lease.leading("a")
    elector.memo().begin(lambda: "one")
    elector.attempt()
    lease.record = None
    elector.attempt()
    elector.attempt()
    assert lease.memo == "0:one"


def test_a_bug_in_the_text_costs_no_leadership(lease: _Lease) -> None:
    elector = lease.leading("a")

    def text() -> str:
        raise ZeroDivisionError

    elector.memo().begin(text)
    lease.now_s += 5
    elector.attempt()
    lease.now_s += 9
    assert elector.is_leader()
    assert lease.memo == ""
