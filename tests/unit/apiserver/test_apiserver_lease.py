"""Never two leaders: the elector against a Lease in memory, by a clock that the test moves."""

from __future__ import annotations

import dataclasses
import json
import random
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbprov.cluster.apiserver.errors import Conflict, Denied, NotFound, Unavailable
from lbprov.cluster.apiserver.lease import ApiLease, LeaderElector, LeaseRecord, boottime_s
from lbprov.cluster.apiserver.transport import Transport
from lbprov.model import LbprovError, UserError

if TYPE_CHECKING:
    from tests.unit.apiserver.conftest import Call, ScriptedServer


class _World:
    """A clock, a Lease, and electors whose attempts fall due; anything may happen inside a request."""

    def __init__(self, rng: random.Random | None = None) -> None:
        self.now_s = 0.0
        self.rng = rng
        self.record: LeaseRecord | None = None
        self.version = 0
        self.faults: Callable[[], LbprovError | None] = lambda: None
        self.electors: list[LeaderElector] = []
        self.due_s: dict[LeaderElector, float] = {}
        self.busy: set[LeaderElector] = set()
        self.late: list[tuple[float, LeaseRecord]] = []
        self.requests = 0

    def elector(self, name: str) -> LeaderElector:
        elector = LeaderElector(_Lease(self), name, now_s=lambda: self.now_s, rng=random.Random(name))
        self.electors.append(elector)
        self.due_s[elector] = self.now_s
        return elector

    def leaders(self) -> list[str]:
        return [e.identity for e in self.electors if e.is_leader()]

    def pass_time(self, seconds: float) -> None:
        """Everybody who is not in the middle of something goes on meanwhile."""
        end_s = self.now_s + seconds
        while True:
            assert len(self.leaders()) <= 1, f"at {self.now_s}"
            ready = [e for e in self.electors if e not in self.busy and self.due_s[e] <= end_s]
            if not ready:
                break
            elector = min(ready, key=lambda e: self.due_s[e])
            self._advance(max(self.now_s, self.due_s[elector]))
            self.busy.add(elector)
            elector.attempt()
            self.busy.discard(elector)
            frozen_s = self.rng.choice([0, 0, 0, 0, 0, 5, 12, 40]) if self.rng else 0.0
            self.due_s[elector] = self.now_s + elector.pause_s() + frozen_s
        self._advance(max(self.now_s, end_s))
        assert len(self.leaders()) <= 1, f"at {self.now_s}"

    def _advance(self, to_s: float) -> None:
        for at_s, record in sorted(self.late, key=lambda late: late[0]):
            if at_s <= to_s:
                self.late.remove((at_s, record))
                self.now_s = max(self.now_s, at_s)
                try:
                    self.write(record)
                except LbprovError:
                    continue
        self.now_s = to_s

    def write(self, record: LeaseRecord) -> LeaseRecord:
        if self.record is None and record.version:
            raise NotFound("gone", status=404)
        if self.record is not None and record.version != self.record.version:
            raise Conflict("changed", status=409, retryable=True)
        self.version += 1
        self.record = dataclasses.replace(record, version=str(self.version))
        return self.record


class _Lease:
    """Requests that may be slow, lost, answered too late, or carried out after the client gave up."""

    def __init__(self, world: _World) -> None:
        self._world = world

    def get(self, timeout_s: float) -> LeaseRecord | None:
        self._world.requests += 1
        self._travel(timeout_s, None)
        found = self._world.record
        self._travel(timeout_s, None)
        return found

    def create(self, record: LeaseRecord, timeout_s: float) -> LeaseRecord:
        return self.update(record, timeout_s)

    def update(self, record: LeaseRecord, timeout_s: float) -> LeaseRecord:
        self._world.requests += 1
        self._travel(timeout_s, record)
        written = self._world.write(record)
        self._travel(timeout_s, None)
        return written

    def _travel(self, timeout_s: float, record: LeaseRecord | None) -> None:
        world = self._world
        if (error := world.faults()) is not None:
            raise error
        if world.rng is None:
            return
        fate = world.rng.random()
        if fate < 0.6:
            world.pass_time(world.rng.uniform(0, 0.5))
        elif fate < 0.75:
            world.pass_time(world.rng.uniform(0, timeout_s))
        elif fate < 0.85:  # the client is frozen, then gets its answer all the same
            world.pass_time(world.rng.uniform(0, 60))
        elif fate < 0.95:
            if record is not None and world.rng.random() < 0.5:
                world.late.append((world.now_s + world.rng.uniform(0, 30), record))
            world.pass_time(timeout_s)
            raise Unavailable("no answer in time", timed_out=True)
        else:
            raise Unavailable("connection refused")


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32))
def test_never_two_leaders_and_soon_one(seed: int) -> None:
    """Slow and lost requests, writes that arrive late, processes frozen anywhere, the lease deleted."""
    world = _World(random.Random(seed))
    for name in ("a", "b", "c"):
        world.elector(name)
    for _ in range(6):
        world.pass_time(50)
        if seed % 2 and all(elector._last for elector in world.electors):
            world.record = None  # somebody has deleted it
    world.rng = None
    world.pass_time(60 + 15 + 3)  # the last of the frozen thaw, and a lease runs out
    assert len(world.leaders()) == 1


def _leading() -> tuple[_World, LeaderElector]:
    world = _World()
    elector = world.elector("a")
    world.pass_time(0)
    assert elector.is_leader()
    return world, elector


def test_the_lease_says_who_and_since_when() -> None:
    world, _ = _leading()
    first = world.record
    assert first is not None
    assert (first.holder, first.duration_s, first.transitions) == ("a", 15, 0)
    assert first.acquired_at == first.renewed_at
    time.sleep(0.001)
    world.pass_time(5)
    assert world.record is not None
    assert world.record.acquired_at == first.acquired_at
    assert world.record.renewed_at > first.renewed_at


def test_renewal_is_one_request_every_two_seconds() -> None:
    world, _ = _leading()
    world.requests = 0
    world.pass_time(60)
    assert 25 <= world.requests <= 30


def test_leadership_ends_10_s_after_the_last_renewal_whatever_the_thread_does() -> None:
    world, elector = _leading()
    world.pass_time(5)
    renewed_s = elector._fence_s - 10
    world.due_s[elector] = float("inf")  # the thread is frozen
    world.now_s = renewed_s + 9.99
    assert elector.is_leader()
    world.now_s = renewed_s + 10
    assert not elector.is_leader()


def test_a_thawed_leader_is_none_before_it_has_asked() -> None:
    world, elector = _leading()
    other = world.elector("b")
    world.due_s[elector] = 100.0
    world.pass_time(99)
    assert world.leaders() == ["b"]
    world.pass_time(5)
    assert not elector.is_leader()
    assert elector.holder == "b"
    assert other.is_leader()
    assert world.record is not None
    assert world.record.transitions == 1


def test_whoever_was_superseded_steps_down_before_leading_again() -> None:
    """Frozen while another led, and thawed when that one has given the lease up: what was known is old."""
    world, elector = _leading()
    assert world.record is not None
    world.now_s += 100
    world.version += 1
    given_up = dataclasses.replace(world.record, holder="", duration_s=1, transitions=1)
    world.record = dataclasses.replace(given_up, version=str(world.version))
    elector.attempt()
    assert not elector.is_leader(), "the old leadership ends"
    elector.attempt()
    assert elector.is_leader(), "and a new one begins"


def test_a_successor_waits_for_the_whole_lease_by_its_own_clock() -> None:
    """The times in the lease are of another machine, whose clock may be years off."""
    world, elector = _leading()
    assert world.record is not None
    world.record = dataclasses.replace(world.record, renewed_at="1999-01-01T00:00:00.000000Z")
    world.due_s[elector] = float("inf")
    world.pass_time(100)
    other = world.elector("b")
    world.pass_time(14.9)
    assert not other.is_leader()
    world.pass_time(2.5)
    assert other.is_leader()


@pytest.mark.parametrize(
    ("duration_s", "waits_s"),
    [
        pytest.param(40, 40, id="its holder asked for more"),
        pytest.param(5, 5, id="less"),
        pytest.param(0, 15, id="it does not say"),
    ],
)
def test_the_leases_own_duration_counts(duration_s: int, waits_s: float) -> None:
    world = _World()
    world.record = LeaseRecord("gone", duration_s, "", "", version="0")
    other = world.elector("b")
    world.pass_time(waits_s - 0.1)
    assert not other.is_leader()
    world.pass_time(2.6)
    assert other.is_leader()


def test_labels_that_others_put_on_the_lease_are_no_renewal() -> None:
    world = _World()
    world.record = LeaseRecord("gone", 15, "", "", version="0")
    other = world.elector("b")
    for _ in range(20):
        world.version += 1
        world.record = dataclasses.replace(world.record, version=str(world.version))
        world.pass_time(1)
        assert world.record is not None
    assert other.is_leader()


def test_a_refusing_api_server_costs_leadership_at_the_deadline_and_it_comes_back() -> None:
    world, elector = _leading()
    world.faults = lambda: Unavailable("connection refused")
    world.requests = 0
    world.pass_time(60)
    assert not elector.is_leader()
    assert world.requests / 60 < 0.4, "reflectors ask too"
    world.faults = lambda: None
    world.pass_time(3.7)
    assert elector.is_leader()
    assert world.record is not None
    assert world.record.transitions == 0


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(Denied("patch leases: RBAC", status=403), id="403"),
        pytest.param(NotFound("no such namespace", status=404), id="404"),
    ],
)
def test_what_is_refused_is_tried_again_quietly(error: LbprovError) -> None:
    world = _World()
    world.faults = lambda: error
    elector = world.elector("a")
    world.pass_time(30)
    assert not elector.is_leader()
    assert world.requests < 15


def test_a_lease_deleted_under_its_leader_is_nobody_elses_at_once() -> None:
    """Who leads does not know yet, and may not get through to learn it."""
    world, leader = _leading()
    other = world.elector("b")
    world.pass_time(20)
    assert (leader.is_leader(), other.is_leader()) == (True, False)
    world.faults = lambda: Unavailable("away") if world.busy == {leader} else None
    world.record = None
    world.pass_time(9)
    assert not other.is_leader()
    world.pass_time(20)
    assert (leader.is_leader(), other.is_leader()) == (False, True)


def test_a_lease_deleted_under_its_leader_is_made_anew() -> None:
    world, elector = _leading()
    world.record = None
    world.pass_time(3)
    assert elector.is_leader()
    assert world.record is not None


def test_a_lease_given_to_another_by_hand_is_respected() -> None:
    world, elector = _leading()
    assert world.record is not None
    world.version += 1
    world.record = dataclasses.replace(world.record, holder="b", version=str(world.version))
    world.pass_time(3)
    assert not elector.is_leader()
    assert elector.holder == "b"


@pytest.mark.parametrize(
    "timing",
    [
        pytest.param({"duration_s": 10.0, "renew_deadline_s": 10.0}, id="deadline"),
        pytest.param({"renew_deadline_s": 2.0}, id="retry"),
        pytest.param({"retry_period_s": 0.0}, id="zero"),
    ],
)
def test_timing_that_cannot_be_safe_is_refused(timing: dict[str, float]) -> None:
    with pytest.raises(UserError, match="lease"):
        LeaderElector(_Lease(_World()), "a", **timing)  # type: ignore[arg-type]


def test_the_clock_runs_while_the_machine_sleeps() -> None:
    assert boottime_s() == pytest.approx(time.clock_gettime(time.CLOCK_BOOTTIME), abs=1)


# In threads


class _Running:
    def __init__(self, world: _World, name: str, times: float = 1.0) -> None:
        self.said: list[str] = []
        self.elector = LeaderElector(
            _Lease(world), name, duration_s=3.0 * times, renew_deadline_s=2.0 * times, retry_period_s=0.1
        )
        self.thread = threading.Thread(
            target=self.elector.run,
            args=(lambda: self.said.append("started"), self._stopped),
            daemon=True,
        )
        self.holder_when_stopped = ""
        self._world = world
        self.thread.start()

    def _stopped(self) -> None:
        self.said.append("stopped")
        assert self._world.record is not None
        self.holder_when_stopped = self._world.record.holder


def test_release_hands_over_at_once_after_the_leader_has_stopped(eventually: Callable[..., None]) -> None:
    world = _World()
    first = _Running(world, "a", times=100)  # its end is not waited for
    eventually(lambda: first.said == ["started"])
    second = _Running(world, "b", times=100)
    time.sleep(0.3)
    assert not second.said
    first.elector.release()
    assert not first.elector.is_leader()
    assert first.said == ["started", "stopped"]
    assert first.holder_when_stopped == "a", "given up only after on_stopped"
    eventually(second.elector.is_leader)
    second.elector.release()
    first.thread.join(60)
    second.thread.join(60)
    assert world.record is not None
    assert (world.record.holder, world.record.transitions) == ("", 1)


def test_the_leader_is_told_at_its_deadline_and_again_when_it_leads_again(
    eventually: Callable[..., None],
) -> None:
    world = _World()
    running = _Running(world, "a")
    eventually(lambda: running.said == ["started"])
    world.faults = lambda: Unavailable("away")
    eventually(lambda: running.said == ["started", "stopped"])
    world.faults = lambda: None
    running.elector.wake()
    eventually(lambda: running.said == ["started", "stopped", "started"])
    running.elector.release()


def test_release_of_one_that_does_not_lead_writes_nothing(eventually: Callable[..., None]) -> None:
    world = _World()
    world.record = LeaseRecord("other", 3600, "", "", version="0")
    running = _Running(world, "a")
    eventually(lambda: world.requests >= 2)
    running.elector.release()
    assert not running.thread.is_alive()
    assert running.said == []
    assert world.record == LeaseRecord("other", 3600, "", "", version="0")


# On the wire


def test_a_lease_on_an_api_server(server: ScriptedServer, transport: Transport) -> None:
    stored = {
        "metadata": {
            "name": "l",
            "resourceVersion": "7",
            "labels": {"kept": "yes"},
            "annotations": {"lbprov.io/memo": "2:said", "kept": "yes"},
        },
        "spec": {
            "holderIdentity": "a",
            "leaseDurationSeconds": 15,
            "acquireTime": "2026-01-01T00:00:00.000000Z",
            "renewTime": "2026-01-01T00:00:05.000000Z",
            "leaseTransitions": 3,
        },
    }
    lease = ApiLease(transport, "ns", "l")
    server.script = lambda call: call.say(stored)
    record = lease.get(1.0)
    times = "2026-01-01T00:00:00.000000Z", "2026-01-01T00:00:05.000000Z"
    assert record == LeaseRecord("a", 15, *times, transitions=3, version="7", memo="2:said")
    assert lease.update(record, 1.0) == record
    lease.create(record, 1.0)
    path = "/apis/coordination.k8s.io/v1/namespaces/ns/leases"
    assert [(c.method, c.path) for c in server.calls] == [
        ("GET", f"{path}/l"),
        ("PATCH", f"{path}/l"),
        ("POST", path),
    ]
    assert json.loads(server.calls[1].body) == {
        "metadata": {"resourceVersion": "7", "annotations": {"lbprov.io/memo": "2:said"}},
        "spec": stored["spec"],
    }


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"spec":{}}'])
def test_an_answer_that_is_no_lease_ends_no_elector(
    server: ScriptedServer, transport: Transport, body: bytes
) -> None:
    server.script = lambda call: call.say(body)
    with pytest.raises(Unavailable, match="not a Lease"):
        ApiLease(transport, "ns", "l").get(1.0)


def test_an_empty_lease_is_free(server: ScriptedServer, transport: Transport) -> None:
    """As `kubectl create -f` leaves it."""

    def script(call: Call) -> None:
        call.say({"metadata": {"resourceVersion": "1"}})

    server.script = script
    elector = LeaderElector(ApiLease(transport, "ns", "l"), "a")
    elector.attempt()
    assert elector.is_leader()
    assert [c.method for c in server.calls] == ["GET", "PATCH"]
