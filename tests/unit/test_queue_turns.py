"""The queue's core, by tables: waits, what cuts them short, lanes and fairness. Time is given."""

import pytest

from lbprov.controller.queue import SHARE, Backoff, Failed, Lane, Later, Settled, Turns, Verdict


def _turns() -> Turns[str]:
    return Turns(group=lambda key: key.partition("/")[0], backoff=Backoff(jitter=0.0))


def _one_turn(turns: Turns[str], key: str, verdict: Verdict, now_s: float) -> None:
    assert turns.take(now_s) == key
    turns.done(key, verdict, now_s)


def _waits_s(turns: Turns[str], verdict: Verdict, times: int) -> list[float]:
    """How long the key waits after each of so many turns that end alike."""
    now_s, waits = 0.0, []
    for _ in range(times):
        _one_turn(turns, "a", verdict, now_s)
        wait_s = turns.next_s(now_s)
        assert wait_s is not None
        assert turns.take(now_s + wait_s - 0.001) is None
        waits.append(wait_s)
        now_s += wait_s
    return waits


@pytest.mark.parametrize(
    ("verdict", "waits"),
    [
        pytest.param(Failed(), [1, 5, 10, 20, 40, 80, 160, 300, 300], id="failures-back-off"),
        pytest.param(Failed(hopeless=True), [300, 300], id="hopeless-goes-to-the-slowest-pace-at-once"),
        pytest.param(Later(42), [42, 42, 42], id="later-is-exact-and-does-not-grow"),
        pytest.param(Settled(recheck_s=600), [600, 600], id="settled-is-looked-at-again"),
    ],
)
def test_waits(verdict: Verdict, waits: list[float]) -> None:
    turns = _turns()
    turns.add("a", Lane.CHANGED, 0.0)
    assert _waits_s(turns, verdict, len(waits)) == waits


def test_settled_forgets_the_key_and_its_failures() -> None:
    turns = _turns()
    turns.add("a", Lane.CHANGED, 0.0)
    _one_turn(turns, "a", Failed(), 0.0)
    _one_turn(turns, "a", Failed(), 1.0)
    _one_turn(turns, "a", Settled(), 6.0)
    assert turns.next_s(6.0) is None
    turns.add("a", Lane.RECHECK, 7.0)
    _one_turn(turns, "a", Failed(), 7.0)
    assert turns.next_s(7.0) == 1.0


def test_later_does_not_forget_failures() -> None:
    turns = _turns()
    turns.add("a", Lane.CHANGED, 0.0)
    _one_turn(turns, "a", Failed(), 0.0)
    _one_turn(turns, "a", Later(2.0), 1.0)
    _one_turn(turns, "a", Failed(), 3.0)
    assert turns.next_s(3.0) == 5.0


def test_failing_for_ever_never_overflows() -> None:
    backoff = Backoff(jitter=0.2)
    assert backoff.wait_s(100_000, hopeless=False, chance=0.0) == 300.0
    assert backoff.wait_s(100_000, hopeless=False, chance=0.999) == pytest.approx(240.0, abs=0.1)


@pytest.mark.parametrize(
    ("verdict", "news", "cut_short"),
    [
        pytest.param(Failed(), Lane.CHANGED, True, id="a-change-ends-a-failures-wait"),
        pytest.param(Failed(), Lane.AFFECTED, False, id="new-targets-do-not"),
        pytest.param(Failed(), Lane.RECHECK, False, id="a-re-check-does-not"),
        pytest.param(Later(30), Lane.CHANGED, True, id="a-change-ends-a-later"),
        pytest.param(Later(30), Lane.AFFECTED, True, id="new-targets-end-a-later"),
        pytest.param(Later(30), Lane.RECHECK, False, id="a-re-check-does-not-end-a-later"),
        pytest.param(Settled(600), Lane.AFFECTED, True, id="new-targets-come-before-the-re-check"),
        pytest.param(Settled(600), Lane.RECHECK, False, id="re-checks-keep-their-time"),
    ],
)
def test_what_cuts_a_wait_short(verdict: Verdict, news: Lane, cut_short: bool) -> None:
    turns = _turns()
    turns.add("a", Lane.CHANGED, 0.0)
    _one_turn(turns, "a", verdict, 0.0)
    turns.add("a", news, 0.5)
    assert turns.take(0.5) == ("a" if cut_short else None)


def test_a_change_forgets_the_failures_of_what_was_before() -> None:
    turns = _turns()
    turns.add("a", Lane.CHANGED, 0.0)
    _one_turn(turns, "a", Failed(), 0.0)
    _one_turn(turns, "a", Failed(), 1.0)
    turns.add("a", Lane.CHANGED, 2.0)
    _one_turn(turns, "a", Failed(), 2.0)
    assert turns.next_s(2.0) == 1.0


@pytest.mark.parametrize(
    ("news", "verdict", "at_once"),
    [
        pytest.param(Lane.CHANGED, Settled(600), True, id="change-then-success"),
        pytest.param(Lane.CHANGED, Failed(), True, id="change-then-failure-of-the-old"),
        pytest.param(Lane.AFFECTED, Settled(600), True, id="targets-then-success"),
        pytest.param(Lane.AFFECTED, Failed(), False, id="targets-then-failure-backs-off"),
        pytest.param(Lane.RECHECK, Later(9), True, id="re-check-then-later"),
    ],
)
def test_what_comes_during_a_turn_has_its_turn_after(news: Lane, verdict: Verdict, at_once: bool) -> None:
    turns = _turns()
    turns.add("a", Lane.CHANGED, 0.0)
    assert turns.take(0.0) == "a"
    turns.add("a", news, 0.1)
    assert turns.take(0.1) is None, "never the same key twice at once"
    turns.done("a", verdict, 0.2)
    assert turns.take(0.2) == ("a" if at_once else None)


def test_added_twice_is_there_once_in_the_more_urgent_lane() -> None:
    turns = _turns()
    turns.add("a", Lane.RECHECK, 0.0)
    turns.add("b", Lane.AFFECTED, 0.0)
    turns.add("a", Lane.CHANGED, 0.0)
    turns.add("a", Lane.RECHECK, 0.0)
    assert turns.depth() == {Lane.CHANGED: 1, Lane.AFFECTED: 1, Lane.RECHECK: 0}
    assert [turns.take(0.0), turns.take(0.0), turns.take(0.0)] == ["a", "b", None]


def test_a_new_service_goes_before_five_thousand_re_checks_but_does_not_stop_them() -> None:
    turns = _turns()
    for number in range(5000):
        turns.add(f"old/{number}", Lane.RECHECK, 0.0)
    for number in range(100):
        turns.add(f"new/{number}", Lane.CHANGED, 0.0)
    first = [turns.take(0.0) for _ in range(SHARE * 2 + 2)]
    assert [first.index("old/0"), first.index("old/1")] == [SHARE, SHARE * 2 + 1]
    assert first.count("old/0") + first.count("old/1") == 2
    assert first[:SHARE] == [f"new/{n}" for n in range(SHARE)]


def test_namespaces_take_turns() -> None:
    turns = _turns()
    for number in range(10_000):
        turns.add(f"hostile/{number}", Lane.CHANGED, 0.0)
    turns.add("healthy/0", Lane.CHANGED, 0.0)
    turns.add("healthy/1", Lane.CHANGED, 0.0)
    assert [turns.take(0.0) for _ in range(4)] == ["hostile/0", "healthy/0", "hostile/1", "healthy/1"]


def test_waits_cut_short_do_not_pile_up() -> None:
    turns = _turns()
    for second in range(10_000):
        turns.add("a", Lane.AFFECTED, float(second))
        _one_turn(turns, "a", Settled(1e6), float(second))
    assert len(turns._waits) < 200


def test_a_turn_that_never_began_cannot_end() -> None:
    turns = _turns()
    turns.add("a", Lane.CHANGED, 0.0)
    with pytest.raises(ValueError, match="no turn"):
        turns.done("a", Settled(), 0.0)


def test_counts() -> None:
    turns = _turns()
    turns.add("a", Lane.CHANGED, 0.0)
    _one_turn(turns, "a", Failed(), 0.0)
    _one_turn(turns, "a", Later(1.0), 1.0)
    _one_turn(turns, "a", Settled(9.0), 2.0)
    assert (turns.adds, turns.retries) == (1, 2)
    turns.add("a", Lane.CHANGED, 3.0)
    assert turns.take(3.0) == "a"
    assert turns.running() == {"a": 3.0}
