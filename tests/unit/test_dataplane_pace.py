"""Pacing of writes: the first at once, bursts gathered, never more than half a core."""

from __future__ import annotations

import pytest

from local_dataplane.pace import Pace


@pytest.mark.parametrize(
    ("min_period_s", "took_s", "later_s", "pause_s"),
    [
        pytest.param(0.05, 0.01, 0.0, 0.04, id="a burst waits for the rest of the period"),
        pytest.param(0.05, 0.01, 0.03, 0.01, id="less, when some of it has passed"),
        pytest.param(0.05, 0.01, 0.04, 0.0, id="not at all after it"),
        pytest.param(0.05, 0.3, 0.0, 0.3, id="as long as a slow write took"),
        pytest.param(0.05, 8.0, 0.0, 0.5, id="but not for ever"),
        pytest.param(0.0, 0.25, 0.0, 0.25, id="also without a period"),
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
