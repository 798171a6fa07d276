"""Cases into the API server, questions to every world, and what the answers say about ours."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from lbprov.lab.controlplane import Api, Object
from lbprov.lab.differential.asking import (
    FIRST_TRY_S,
    HELD_FLOWS,
    Ask,
    Outcome,
    asks,
    held_asks,
    is_answered,
    moves,
    stuck,
    thinned,
)
from lbprov.lab.differential.case import Case, Ep, State
from lbprov.lab.differential.differences import Question, find
from lbprov.lab.differential.world import World

SEVERAL = 8
MANY = 60
_PATIENT_S = 3.0
_HELD_S = 2.0  # they are asked once: another packet would be another question
_LOOKS = 4

Say = Callable[[str], None]
Seen = Mapping[str, Outcome]
"""World -> outcome."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A question on which a mode of ours did not do what it should; `should` says what that is."""

    ask: Ask
    phase: int
    ours: str
    did: Outcome
    should: str
    seen: Seen

    def __str__(self) -> str:
        them = "; ".join(f"{world}: {_text(o)}" for world, o in sorted(self.seen.items()))
        state = self.ask.case.at(self.phase)
        said = f"{self.ours}: {_text(self.did)}, should be: {self.should}"
        return f"{self.ask} (phase {self.phase})\n    {said}\n    {them}\n    {state or 'deleted'}"


def _text(seen: Outcome) -> str:
    return " | ".join(sorted(seen)) or "nothing"


@dataclass
class Comparison:
    """- `findings`: what is to be mended. `differences`: name of an accepted difference -> how often met.
    - `questions`: how many were asked of each world."""

    findings: list[Finding] = field(default_factory=list)
    differences: Counter[str] = field(default_factory=Counter)
    questions: int = 0


class Comparer:
    """Not for several threads. `compare` leaves the API server as it found it, but for its sentinels."""

    def __init__(
        self, api: Api, worlds: Sequence[World], say: Say = lambda _: None, *, thin: bool = False
    ) -> None:
        """`thin`: a quarter of the questions, spread evenly."""
        self._chosen: Callable[[list[Ask]], list[Ask]] = (lambda a: list(thinned(a))) if thin else list
        self._api = api
        self._worlds = worlds
        self._say = say
        self._sentinels = itertools.count(1)
        self._epochs = itertools.count()
        self._addresses = worlds[0].addresses
        self._applied: dict[str, dict[str, str]] = {}  # case -> path of its objects -> what they are
        self._pool = ThreadPoolExecutor(4 + len(worlds))

    def compare(self, cases: Sequence[Case]) -> Comparison:
        """All cases at the same time; each goes from state to state with the others."""
        result = Comparison()
        phases = max(len(case.states) for case in cases)
        for phase in range(phases):
            held = self._chosen([ask for case in cases for ask in held_asks(case, phase)])
            self._begin_epoch()
            before = self._ask_all(held, timeout_s=_HELD_S)
            self._apply(cases, phase)
            self.settle()
            if held:
                after = self._ask_all(held, timeout_s=_HELD_S)
                self._judge_held(held, before, after, phase, result)
                self._ask_all([ask for ask in held if ask.protocol == "TCP"], times=0)  # hang up
            moved = [case for case in cases if phase == 0 or case.changes_at(phase)]
            new = self._chosen([ask for case in moved for ask in asks(case, phase)])
            self._judge_new(new, phase, result)
            self._say(f"phase {phase + 1} of {phases}: {result.questions} questions so far")
        self._remove(cases)
        return result

    @contextlib.contextmanager
    def in_place(self, cases: Sequence[Case]) -> Iterator[Sequence[World]]:
        """The worlds, all of which have applied the cases' first states, for questions of another kind."""
        self._begin_epoch()
        self._apply(cases, 0)
        self.settle()
        yield self._worlds
        self._remove(cases)

    def ask_all(self) -> None:
        """From now on, not thinned."""
        self._chosen = list

    def close(self) -> None:
        self._pool.shutdown()

    def _begin_epoch(self) -> None:
        """What was asked before must not be taken for a flow of what is asked now."""
        number = next(self._epochs)
        list(self._pool.map(lambda world: world.begin_epoch(number), self._worlds))

    # Objects

    def _apply(self, cases: Iterable[Case], phase: int) -> None:
        changing = [case for case in cases if phase == 0 or case.changes_at(phase)]
        list(self._pool.map(lambda case: self._apply_one(case, case.at(phase)), changing))

    def _apply_one(self, case: Case, state: State | None) -> None:
        wanted: dict[str, Object] = {}
        if state:
            objects = [case.service(state), *case.slices(state, self._addresses)]
            wanted = {f"{o['kind']} {o['metadata']['name']}": o for o in objects}
        old = self._applied.get(case.name, {})
        texts = {path: json.dumps(obj, sort_keys=True) for path, obj in wanted.items()}
        for path, obj in wanted.items():
            if old.get(path) != texts[path]:
                self._api.apply(obj)
        if state:
            status = {"status": {"loadBalancer": {"ingress": case.ingress(state)}}}
            if state.type == "LoadBalancer":
                self._api.patch("Service", case.name, status, subresource="status")
        for path in old.keys() - wanted.keys():
            kind, _, name = path.partition(" ")
            self._api.delete("EndpointSlice.discovery.k8s.io" if kind == "EndpointSlice" else kind, name)
        self._applied[case.name] = texts

    def _remove(self, cases: Iterable[Case]) -> None:
        list(self._pool.map(lambda case: self._apply_one(case, None), cases))
        self.settle()

    def settle(self) -> None:
        """Until every proxy has applied what is in the API server, and has done what it does afterwards: that
        is sure when it has applied something that came still later."""
        for _ in range(2):
            number = next(self._sentinels)
            case = Case(f"sentinel-{number}", (_SENTINEL,), 20000 + number)
            self._apply_one(case, _SENTINEL)
            ips = [case.cluster_ip(family) for family in (4, 6)]
            list(self._pool.map(lambda world, ips=ips: world.await_answers(ips), self._worlds))
            self._apply_one(case, None)

    # Questions

    def _ask_all(
        self, questions: Sequence[Ask], times: int = 1, timeout_s: float = FIRST_TRY_S
    ) -> dict[str, dict[Ask, Outcome]]:
        def ask(world: World) -> dict[Ask, Outcome]:
            return world.ask(questions, times, timeout_s) if questions else {}

        found = self._pool.map(ask, self._worlds)
        return {world.name: seen for world, seen in zip(self._worlds, found, strict=True)}

    def _ask_again(
        self, doubtful: Sequence[Ask], seen: Mapping[str, Mapping[Ask, Outcome]]
    ) -> dict[str, dict[Ask, Outcome]]:
        def again(world: World) -> dict[Ask, Outcome]:
            by = seen[world.name]
            times = {ask: MANY if is_answered(by[ask]) else 2 for ask in doubtful}
            times |= {ask: SEVERAL for ask in doubtful if _is_mixed(by[ask])}
            return world.ask(doubtful, times, _PATIENT_S)

        found = self._pool.map(again, self._worlds)
        return {world.name: new for world, new in zip(self._worlds, found, strict=True)}

    def _judge_new(self, questions: list[Ask], phase: int, result: Comparison) -> None:
        result.questions += len(questions)
        seen = self._ask_all(questions)
        answered = [ask for ask in questions if any(is_answered(by[ask]) for by in seen.values())]
        for world, more in self._ask_all(answered, SEVERAL).items():
            for ask, outcome in more.items():
                seen[world][ask] |= outcome
        # Chance (not every endpoint was met) and haste (a slow answer) are no differences: ask again, longer.
        for _ in range(_LOOKS):
            doubtful = [ask for ask in questions if self._findings(ask, phase, seen, None)]
            if doubtful:
                for world, new in self._ask_again(doubtful, seen).items():
                    seen[world] |= {ask: _settled(seen[world][ask], new[ask]) for ask in doubtful}
        for ask in questions:
            result.findings += self._findings(ask, phase, seen, result)

    def _judge_held(
        self,
        questions: list[Ask],
        before: Mapping[str, Mapping[Ask, Outcome]],
        after: Mapping[str, Mapping[Ask, Outcome]],
        phase: int,
        result: Comparison,
    ) -> None:
        """Flow by flow as far as the worlds chose alike: what became of those that an endpoint had. A TCP
        connection that was not made is none."""
        result.questions += len(questions)
        for ask in (ask for ask in questions if ask.held == 1):
            flows = [ask._replace(held=number) for number in range(1, HELD_FLOWS + 1)]
            by_world = {}
            for world, begun in before.items():
                held = [f for f in flows if ask.protocol == "UDP" or is_answered(begun[f])]
                by_world[world] = moves([begun[f] for f in held], [after[world][f] for f in held])
            for was in sorted(set.union(*({*found} for found in by_world.values()))):
                seen = {
                    world: frozenset(f"{was} → {word}" for word in found[was])
                    for world, found in by_world.items()
                    if was in found
                }
                result.findings += self._judge(ask, phase, seen, result)

    def _findings(
        self, ask: Ask, phase: int, seen: Mapping[str, Mapping[Ask, Outcome]], result: Comparison | None
    ) -> list[Finding]:
        state = ask.case.at(phase)
        normal = stuck if state and state.affinity_s and len(state.endpoints) > 1 else lambda o: o
        return self._judge(ask, phase, {world: normal(by[ask]) for world, by in seen.items()}, result)

    def _judge(self, ask: Ask, phase: int, seen: Seen, result: Comparison | None) -> list[Finding]:
        theirs = {w.removeprefix("kube-proxy-"): o for w, o in seen.items() if w.startswith("kube-proxy-")}
        ours = {w: o for w, o in seen.items() if not w.startswith("kube-proxy-")}
        if not theirs or not ours:
            return []
        question = Question(ask, phase, theirs)
        difference = find(question)
        if difference:
            if result is not None and len({*theirs.values(), *ours.values()}) > 1:
                result.differences[difference.name] += 1
            should = difference.name
            wrong = {w: did for w, did in ours.items() if not difference.accepts(question, did)}
        else:
            done = set(theirs.values())
            should = _text(*done) if len(done) == 1 else "undecided, kube-proxy's modes disagree"
            wrong = {w: did for w, did in ours.items() if done != {did}}
        return [Finding(ask, phase, world, did, should, seen) for world, did in wrong.items()]


def _is_mixed(seen: Outcome) -> bool:
    """Some tries are answered, others wait in vain: some way back is not the way there."""
    return is_answered(seen) and "dropped" in seen


def _settled(before: Outcome, now: Outcome) -> Outcome:
    """What a longer look says, and where that takes long, both together."""
    return before | now if _is_mixed(before) and _is_mixed(now) else now


_SENTINEL = State(endpoints=(Ep("web-1a"),))


def by_case(findings: Iterable[Finding]) -> Iterator[tuple[Case, list[Finding]]]:
    for case, group in itertools.groupby(findings, key=lambda f: f.ask.case):
        yield case, list(group)
