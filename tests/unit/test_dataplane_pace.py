"""Pacing of writes: the first at once, bursts gathered, never more than a share of a core for long."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local_dataplane.pace import BURST_S, MAX_REST_S, SHARE, Pace


@pytest.mark.parametrize(
    ("min_period_s", "took_s", "later_s", "pause_s"),
    [
        pytest.param(0.05, 0.01, 0.0, 0.04, id="a burst waits for the rest of the period"),
        pytest.param(0.05, 0.01, 0.03, 0.01, id="less, when some of it has passed"),
        pytest.param(0.05, 0.01, 0.04, 0.0, id="not at all after it"),
        pytest.param(0.05, 0.2, 0.0, 0.0, id="one that is slow is followed at once"),
        pytest.param(0.05, BURST_S + 0.02, 0.0, 0.2, id="one that is very slow is not"),
        pytest.param(0.05, BURST_S + 0.02, 0.15, 0.05, id="until the rest is over"),
        pytest.param(0.05, 8.0, 0.0, MAX_REST_S, id="but not for ever"),
        pytest.param(0.0, 0.01, 0.0, 0.0, id="without a period"),
        pytest.param(5.0, 1.0, 1.0, 3.0, id="a long period counts from the beginning"),
    ],
)
def test_pause_before_the_next_write(
    min_period_s: float, took_s: float, later_s: float, pause_s: float
) -> None:
    pace = Pace(min_period_s)
    assert pace.pause_s(1000.0) == 0, "the first is written at once"
    pace.wrote(1000.0, 1000.0 + took_s)
    assert pace.pause_s(1000.0 + took_s + later_s) == pytest.approx(pause_s)


@given(took_s=st.lists(st.floats(0.001, MAX_REST_S * SHARE), min_size=1, max_size=300))
def test_writing_on_and_on_takes_its_share(took_s: list[float]) -> None:
    pace, now_s = Pace(0.05), 1000.0
    for write_s in took_s:
        pause_s = pace.pause_s(now_s)
        assert pause_s <= MAX_REST_S
        now_s += pause_s
        pace.wrote(now_s, now_s + write_s)
        now_s += write_s
    assert sum(took_s) <= (now_s - 1000.0) * SHARE + BURST_S + max(took_s) + 1e-6


def test_a_quiet_time_makes_up_for_it() -> None:
    pace = Pace(0.05)
    pace.wrote(1000.0, 1001.0)
    assert pace.pause_s(1001.0) > 0
    pace.wrote(1010.0, 1010.1)
    pace.wrote(1010.2, 1010.3)
    assert pace.pause_s(1010.3) == 0
