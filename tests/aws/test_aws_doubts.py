"""The memo never vouches for a seal that is not true, whatever happens between any two steps of anybody."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbprov.api import RetryLater
from lbprov_aws import doubts
from lbprov_aws.doubts import Doubts, Word, parse

SERVICES = ("a", "b", "c", "d")
NODES = ("n1", "n2")
WISHES = ("w1", "w2")


class _World:
    """What is at AWS of each Service, its seal, the lease, and the process that works on all of that, several
    Services at once. `state`: (wish, nodes), the one or the other of which is half done in between."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.state: dict[str, tuple[str, str]] = {}
        self.seals: dict[str, tuple[str, str]] = {}  # -> (book, wish)
        self.durable = ""
        self.nodes = NODES[0]
        self.wishes = dict.fromkeys(SERVICES, WISHES[0])
        self.believed = 0
        self.begin()

    def begin(self) -> None:
        """A process with nothing but what stands on the lease."""
        self.source: Callable[[], str] | None = None
        self.looked: set[str] = set()
        self.made: set[str] = set()
        self.unseen = {s for s in self.seals if self.rng.random() < 0.3}
        """Seals that listings do not show yet."""
        self.turns: dict[str, Iterator[None]] = {}
        self.doubts = Doubts(_Memo(self), lambda: [s for s in self.state if s not in self.made], lambda: "w0")

    def check(self) -> None:
        word = parse(self.durable)
        for service, (book, wish) in self.seals.items():
            if word is not None and word.book == book and word.vouches(service):
                assert self.state[service] == (wish, word.targets), f"{service}: {word}"

    def step(self) -> None:
        """Something happens."""
        match self.rng.randint(0, 50):
            case 0:
                self.nodes = self.rng.choice(NODES)
            case 1:
                self.wishes[self.rng.choice(SERVICES)] = self.rng.choice(WISHES)
            case 2:
                self.begin()
            case 3:
                self.delete(self.rng.choice(SERVICES))
            case 4:
                self.durable = self.rng.choice([*[self.durable] * 9, ""])
            case 5 | 6 | 7 | 8:
                self.pull()
            case _:
                self.go_on(self.rng.choice(SERVICES))
        self.check()

    def pull(self) -> None:
        """A renewal, which may not arrive."""
        if self.source is not None:
            text = self.source()
            self.durable = self.rng.choice([text, text, self.durable])

    def go_on(self, service: str) -> None:
        turn = self.turns.setdefault(service, self.turn(service))
        try:
            next(turn)
        except (StopIteration, RetryLater):
            self.turns.pop(service, None)

    def delete(self, service: str) -> None:
        if service in self.turns or service not in self.state:
            return
        self.seals.pop(service, None)
        del self.state[service]
        self.doubts.begin()
        self.doubts.forget(service)

    def turn(self, service: str) -> Iterator[None]:
        """As `SealBook` does it. Others have their turns at each `yield`; the process may end there."""
        wish, nodes = self.wishes[service], self.nodes
        book = self.doubts.begin()
        self.doubts.wants(nodes)
        yield
        is_sealed = service not in self.looked | self.unseen and self.seals.get(service) == (book, wish)
        if is_sealed and self.doubts.holds(service, nodes):
            assert self.state[service] == (wish, nodes)
            self.believed += 1
            self.doubts.settle(service, nodes)
            return
        self.looked.add(service)
        if self.state.get(service) != (wish, nodes):
            if service not in self.state:
                self.made.add(service)
            elif service in self.seals and service not in self.unseen and self.seals[service][0] != book:
                del self.seals[service]
            elif service in self.seals.keys() - self.unseen or service not in self.made:
                self.doubts.doubt(service)
            yield
            for half in (("half", nodes), (wish, "half"), (wish, nodes)):
                self.state[service] = half
                yield
        elif self.doubts.holds(service, nodes):
            return
        if service in self.unseen or self.seals.get(service) != (book, wish):
            if self.rng.random() < 0.3:  # calls queue up
                return
            self.doubts.expect_seal(service, nodes, any_nodes=False)
            yield
            if service in self.state:
                self.seals[service] = (book, wish)
                self.unseen.discard(service)
            yield
        self.doubts.settle(service, nodes)


class _Memo:
    def __init__(self, world: _World) -> None:
        self._world = world

    def begin(self, text: Callable[[], str]) -> str:
        self._world.source = text
        return self._world.durable

    def flush(self) -> None:
        world = self._world
        source = world.source
        assert source is not None
        others = [s for s in SERVICES if s not in world.turns or not _runs(world.turns[s])]
        if others and world.rng.random() < 0.3:
            world.go_on(world.rng.choice(others))  # another worker
        if world.rng.random() < 0.1:
            world.pull()
            raise RetryLater("the lease cannot be written", 1)
        world.durable = source()


def _runs(turn: Iterator[None]) -> bool:
    return bool(turn.gi_running)  # type: ignore[attr-defined]


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([0, 1, 500]))
def test_no_untrue_seal_is_vouched_for(seed: int, many: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(doubts, "MANY", many)
        world = _World(random.Random(seed))
        for _ in range(300):
            world.step()


def test_seals_are_believed_at_all() -> None:
    """Or what is above is no test."""
    worlds = [_World(random.Random(seed)) for seed in range(30)]
    for world in worlds:
        for _ in range(300):
            world.step()
    assert sum(world.believed for world in worlds) > 100


@pytest.mark.parametrize(
    "word",
    [
        pytest.param(Word("w0", "b00k", "0123"), id="all"),
        pytest.param(Word("w0", "b00k", ""), id="none"),
        pytest.param(Word("w0", "b00k", "0123", frozenset({"aa", "bb"})), id="some"),
    ],
)
def test_a_word_is_read_as_it_was_written(word: Word) -> None:
    assert parse(str(word)) == word


@pytest.mark.parametrize("text", ["", " ", "aws-2", "aws-2 w0 b00k", "aws-1 w0 b00k 0123", "{}"])
def test_what_is_not_understood_is_nothing(text: str) -> None:
    assert parse(text) is None
