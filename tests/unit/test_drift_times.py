"""When to look again: spread re-checks, bursts, repairs that do not last."""

from hypothesis import given
from hypothesis import strategies as st

from lbprov.controller.drift import CALM_S, MAX_PAUSE_S, Debounce, Repairs, recheck_s


@given(st.text(), st.floats(1, 86_400), st.floats(0, 1e7))
def test_a_re_check_is_due_between_half_a_period_and_one_and_a_half(
    key: str, period_s: float, now_s: float
) -> None:
    assert 0.5 * period_s - 1e-6 <= recheck_s(key, period_s, now_s) <= 1.5 * period_s + 1e-6


def test_what_settled_together_is_re_checked_spread_out_for_ever() -> None:
    keys = [f"default/web-{n}" for n in range(1000)]
    due_s = dict.fromkeys(keys, 0.0)
    for _ in range(5):
        due_s = {key: at_s + recheck_s(key, 600, at_s) for key, at_s in due_s.items()}
        tenths = [0] * 10
        for at_s in due_s.values():
            tenths[int(at_s % 600 // 60)] += 1
        assert min(tenths) > 70, tenths
        assert max(tenths) < 130, tenths


def test_a_burst_is_one_piece_of_news_however_long_it_lasts() -> None:
    debounce = Debounce(window_s=1.0)
    assert not debounce.take(0.0)
    taken = []
    for tenth in range(32):
        debounce.news(tenth / 10)
        if debounce.take(tenth / 10):
            taken.append(tenth)
    assert taken == [10, 21]
    assert debounce.take(9.0)
    assert not debounce.take(9.0)


def test_the_first_repair_is_due_at_once_and_once() -> None:
    repairs: Repairs[str] = Repairs()
    repairs.ask("a", 10.0)
    repairs.ask("a", 10.0)
    repairs.ask("b", 10.0)
    assert repairs.take(10.0) == ["a", "b"]
    assert repairs.take(10.0) == []


def _pauses_s(repairs: Repairs[str], count: int) -> tuple[list[float], float]:
    """The pauses between so many repairs of what is overwritten again at once, and the time at the end."""
    now_s, last_s = 0.0, 0.0
    pauses: list[float] = []
    while len(pauses) < count:
        repairs.ask("a", now_s)
        if repairs.take(now_s):
            pauses.append(now_s - last_s)
            last_s = now_s
        now_s += 0.5
    return pauses, last_s


def test_a_fight_slows_down() -> None:
    pauses, _ = _pauses_s(Repairs(), 13)
    assert pauses[:7] == [0, 1, 2, 4, 8, 16, 32]
    assert pauses[-2:] == [MAX_PAUSE_S, MAX_PAUSE_S]


def test_calm_is_forgiven_and_forgotten() -> None:
    repairs: Repairs[str] = Repairs()
    _, last_s = _pauses_s(repairs, 8)
    assert repairs._last
    repairs.take(last_s + CALM_S)
    assert not repairs._last
    repairs.ask("a", last_s + CALM_S)
    assert repairs.take(last_s + CALM_S) == ["a"]


def test_others_are_not_slowed_down_by_a_fight() -> None:
    repairs: Repairs[str] = Repairs()
    for second in range(100):
        repairs.ask("fought-over", float(second))
        repairs.take(float(second))
    repairs.ask("calm", 100.0)
    assert "calm" in repairs.take(100.0)
