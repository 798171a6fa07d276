"""The prefix tree: every key is found, and the shape depends on the entries alone."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from local_dataplane.iptables.tree import LEAF_RULES, Entry, PrefixTree, Rules, Shape

BITS = 12
SHAPE = Shape(BITS, lambda p, n: f"{p}/{n} ", lambda p, n: f"C{p}-{n}")


class _Kernel:
    """What a caller that follows the changes ends up with."""

    def __init__(self) -> None:
        self.tree = PrefixTree(SHAPE)
        self.chains: dict[str, Rules] = {}

    def set(self, key: int, entry: Entry | None) -> None:
        self.tree.set(key, entry)

    def follow(self) -> dict[str, Rules]:
        for chain, rules in self.tree.take_changes().items():
            if rules is None:
                self.chains.pop(chain, None)
            else:
                self.chains[chain] = rules
        return {**self.chains, "root": self.tree.root_rules()}


def _walk(chains: dict[str, Rules], key: int) -> tuple[list[str], int]:
    """The key's own rules in the order in which it meets them, and how many it meets in all."""
    found, met = [], 0
    todo = list(chains["root"])
    while todo:
        rule = todo.pop(0)
        met += 1
        match, _, rest = rule.partition(" ")
        if "/" not in match:
            found += [rule] if match == f"={key}" else []
            continue
        prefix, length = map(int, match.split("/"))
        if key >> (BITS - length) == prefix >> (BITS - length):
            verb, chain = rest.split()
            todo = list(chains[chain]) + (todo if verb == "-j" else [])
    return found, met


def _entry(key: int, heads: int, tails: int = 0) -> Entry:
    return Entry(tuple(f"={key} h{i}" for i in range(heads)), tuple(f"={key} t{i}" for i in range(tails)))


keys = st.integers(0, (1 << BITS) - 1) | st.integers(0, 63)
entries = st.builds(lambda h, t: (h, t), st.integers(0, 3), st.integers(0, 1))


@settings(max_examples=150, deadline=None)
@given(
    wanted=st.dictionaries(keys, entries, max_size=200),
    detour=st.lists(st.tuples(keys, entries | st.none()), max_size=60),
    shuffle=st.randoms(use_true_random=False),
    follow_often=st.booleans(),
)
def test_any_way_to_the_same_entries_gives_the_same_chains(
    wanted: dict[int, tuple[int, int]],
    detour: list[tuple[int, tuple[int, int] | None]],
    shuffle: object,
    follow_often: bool,
) -> None:
    straight = _Kernel()
    for key, counts in sorted(wanted.items()):
        straight.set(key, _entry(key, *counts))
    roundabout = _Kernel()
    for key, maybe in detour:
        roundabout.set(key, _entry(key, *maybe) if maybe else None)
        if follow_often:
            roundabout.follow()
    order = [*wanted.items(), *((key, (0, 0)) for key, _ in detour if key not in wanted)]
    shuffle.shuffle(order)  # type: ignore[attr-defined]
    for key, counts in order:
        roundabout.set(key, _entry(key, *counts))
        if follow_often:
            roundabout.follow()
    chains = straight.follow()
    assert roundabout.follow() == chains

    for key, counts in wanted.items():
        entry = _entry(key, *counts)
        assert _walk(chains, key)[0] == [*entry.heads, *entry.tails]
    for stranger in (0, 1, (1 << BITS) - 1, 1234):
        if stranger not in wanted:
            assert _walk(chains, stranger)[0] == []
    assert all(len(rules) <= LEAF_RULES for rules in chains.values()), "no list grows"


@pytest.mark.parametrize(
    ("entry", "chains"),
    [
        pytest.param(Entry(("=400 other",), ("=400 t0",)), 1, id="changed-in-place"),
        pytest.param(_entry(400, 2, 1), 1 + 4, id="leaf-too-long: it becomes a branch and four leaves"),
        pytest.param(None, 1, id="gone"),
    ],
)
def test_one_entry_touches_few_chains(entry: Entry | None, chains: int) -> None:
    kernel = _Kernel()
    for key in range(0, 4096, 4):
        kernel.set(key, _entry(key, 1, 1))
    before = kernel.follow()
    kernel.set(400, entry)
    after = kernel.follow()
    assert len([c for c in before.keys() | after.keys() if before.get(c) != after.get(c)]) == chains


@pytest.mark.parametrize("step", [1, 3], ids=["dense", "sparse"])
def test_a_full_tree_is_shallow(step: int) -> None:
    kernel = _Kernel()
    for key in range(0, 4096, step):
        kernel.set(key, _entry(key, 1, 1))
    chains = kernel.follow()
    assert max(_walk(chains, key)[1] for key in range(4096)) <= 1 + 4 * 4 + LEAF_RULES


def test_an_empty_tree_says_nothing() -> None:
    kernel = _Kernel()
    kernel.set(5, _entry(5, 1))
    kernel.set(6, None)
    kernel.set(5, None)
    assert kernel.follow() == {"root": ()}
