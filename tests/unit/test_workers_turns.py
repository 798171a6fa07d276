"""Workers: what hangs or breaks in one turn stays in that turn."""

import logging
import threading
import time
from collections.abc import Iterator

import pytest

from lbprov.controller.queue import Backoff, Lane, Settled, Turns, Verdict, WorkQueue
from lbprov.controller.workers import Fenced, Workers


class _Desk:
    """Handles keys by name: "stuck…" hangs until `release`, "poison…" raises, "fenced…" is fenced."""

    def __init__(self, count: int) -> None:
        self.queue: WorkQueue[str] = WorkQueue(
            Turns(backoff=Backoff(first_s=0.01, base_s=0.01, limit_s=0.05))
        )
        self.handled: list[str] = []
        self.bugs: list[str] = []
        self.release = threading.Event()
        self.workers = Workers(self.queue, self.handle, count, self.bugs.append)

    def handle(self, key: str) -> Verdict:
        self.handled.append(key)
        if key.startswith("stuck"):
            self.release.wait(30)
        if key.startswith("poison"):
            raise KeyError(key)
        if key.startswith("fenced"):
            raise Fenced
        return Settled()

    def wait_for(self, key: str, times: int = 1) -> None:
        deadline = time.monotonic() + 10
        while self.handled.count(key) < times:
            assert time.monotonic() < deadline, f"{key} was not handled: {self.handled}"
            time.sleep(0.002)


@pytest.fixture
def desk() -> Iterator[_Desk]:
    desk = _Desk(count=3)
    desk.workers.start()
    yield desk
    desk.release.set()
    desk.workers.stop(10)


def test_stuck_services_delay_no_other_as_long_as_a_worker_is_free(desk: _Desk) -> None:
    for key in ("stuck-1", "stuck-2", "healthy"):
        desk.queue.add(key, Lane.CHANGED)
    desk.wait_for("healthy")
    assert set(desk.queue.running_s()) == {"stuck-1", "stuck-2"}
    assert desk.workers.alive() == 3


def test_poison_is_logged_told_and_backed_off_and_kills_no_worker(
    desk: _Desk, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        for number in range(10):
            desk.queue.add(f"poison-{number}", Lane.CHANGED)
        desk.queue.add("healthy", Lane.CHANGED)
        desk.wait_for("healthy")
        desk.wait_for("poison-0", times=3)
    assert desk.workers.alive() == 3
    assert desk.bugs.count("poison-0") >= 2
    record = caplog.records[0]
    assert record.exc_info is not None
    assert record.__dict__["key"] == "poison-0"


def test_fenced_ends_the_turn_and_is_no_bug(desk: _Desk) -> None:
    desk.queue.add("fenced", Lane.CHANGED)
    desk.wait_for("fenced")
    desk.queue.add("healthy", Lane.CHANGED)
    desk.wait_for("healthy")
    assert desk.bugs == []
    assert desk.workers.alive() == 3


def test_stop_waits_for_what_has_begun_and_begins_nothing(desk: _Desk) -> None:
    desk.queue.add("stuck", Lane.CHANGED)
    desk.wait_for("stuck")
    assert not desk.workers.stop(grace_s=0.05), "one is still at it"
    desk.queue.add("later", Lane.CHANGED)
    desk.release.set()
    assert desk.workers.stop(grace_s=10)
    assert "later" not in desk.handled
    assert desk.queue.running_s() == {}
    assert desk.workers.alive() == 0
