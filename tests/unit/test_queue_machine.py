"""The queue against a model that anybody can check by reading: a list of facts, searched from the start."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from lbprov.controller.queue import SHARE, Backoff, Failed, Lane, Later, Settled, Turns, Verdict

KEYS = [f"{namespace}/{name}" for namespace in "xy" for name in "abc"]
VERDICTS = st.one_of(
    st.just(Settled()),
    st.builds(Settled, st.floats(1, 600)),
    st.builds(Later, st.floats(0, 60)),
    st.builds(Failed, st.booleans()),
)


@dataclass
class _Fact:
    """What is known of a key: `due_s` None while it has its turn."""

    lane: Lane
    due_s: float | None
    failures: int = 0
    failed: bool = False
    news: Lane | None = None


class QueueMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.backoff = Backoff(jitter=0.0)
        self.turns: Turns[str] = Turns(lambda key: key[0], self.backoff)
        self.facts: dict[str, _Fact] = {}
        self.now_s = 0.0
        self.passed_by = dict.fromkeys(Lane, 0)

    def takeable(self) -> list[str]:
        return [k for k, f in self.facts.items() if f.due_s is not None and f.due_s <= self.now_s]

    @rule(key=st.sampled_from(KEYS), lane=st.sampled_from(Lane))
    def add(self, key: str, lane: Lane) -> None:
        self.turns.add(key, lane, self.now_s)
        fact = self.facts.get(key)
        if fact is None:
            self.facts[key] = _Fact(lane, self.now_s)
        elif fact.due_s is None:
            fact.news = lane if fact.news is None else min(fact.news, lane)
        elif fact.due_s <= self.now_s and not self.asleep(key):
            fact.lane = min(fact.lane, lane)
        elif lane is Lane.CHANGED or (lane is Lane.AFFECTED and not fact.failed):
            fact.lane, fact.due_s = min(fact.lane, lane), self.now_s
        if lane is Lane.CHANGED:
            self.facts[key].failures = 0

    def asleep(self, key: str) -> bool:
        """A wait that is over is noticed by the next `take`; until then it is one that news can end."""
        return key not in [k for lane in Lane for ks in self.turns._ready[lane]._groups.values() for k in ks]

    @rule()
    def take(self) -> None:
        held = {self.facts[k].lane for k in self.takeable()}
        key = self.turns.take(self.now_s)
        if key is None:
            assert not held
            return
        assert key in self.takeable(), "taken too early, twice at once, or never added"
        fact = self.facts[key]
        overtaken = [lane for lane in held if lane < fact.lane]
        assert not overtaken or self.passed_by[fact.lane] >= SHARE
        for lane in Lane:
            self.passed_by[lane] = self.passed_by[lane] + 1 if lane in held - {fact.lane} else 0
        assert max(self.passed_by.values()) <= SHARE + 1, "a lane starves"
        fact.due_s, fact.news = None, None

    @precondition(lambda self: any(f.due_s is None for f in self.facts.values()))
    @rule(data=st.data(), verdict=VERDICTS)
    def done(self, data: st.DataObject, verdict: Verdict) -> None:
        key = data.draw(st.sampled_from([k for k, f in self.facts.items() if f.due_s is None]))
        self.turns.done(key, verdict, self.now_s)
        fact = self.facts[key]
        fact.failed = isinstance(verdict, Failed)
        if isinstance(verdict, Settled):
            fact.failures = 0
        if fact.news is Lane.CHANGED or (fact.news is not None and not fact.failed):
            fact.lane, fact.due_s = fact.news, self.now_s
        elif isinstance(verdict, Failed):
            fact.failures += 1
            fact.due_s = self.now_s + self.backoff.wait_s(fact.failures, verdict.hopeless, 0.0)
        elif isinstance(verdict, Later):
            fact.due_s = self.now_s + verdict.after_s
        elif verdict.recheck_s is not None:
            fact.lane, fact.due_s = Lane.RECHECK, self.now_s + verdict.recheck_s
        else:
            del self.facts[key]

    @rule(seconds=st.one_of(st.floats(0, 2), st.floats(0, 400)))
    def pass_time(self, seconds: float) -> None:
        self.now_s += seconds

    @invariant()
    def next_wake_is_never_too_late(self) -> None:
        due = [f.due_s for f in self.facts.values() if f.due_s is not None]
        told = self.turns.next_s(self.now_s)
        if not due:
            assert told is None
        else:
            assert told is not None
            assert abs(told - max(0.0, min(due) - self.now_s)) < 1e-6

    @invariant()
    def running_is_known(self) -> None:
        assert set(self.turns.running()) == {k for k, f in self.facts.items() if f.due_s is None}

    def teardown(self) -> None:
        """Nothing that was added is lost: everything gets its turn in the end."""
        for key in list(self.turns.running()):
            self.turns.done(key, Settled(), self.now_s)
            if self.facts[key].news is None:
                del self.facts[key]
        self.now_s += 1000
        taken = []
        while (last := self.turns.take(self.now_s)) is not None:
            taken.append(last)
            self.turns.done(last, Settled(), self.now_s)
        assert sorted(taken) == sorted(self.facts)


TestQueueMachine = QueueMachine.TestCase
TestQueueMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
