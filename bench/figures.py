"""Timing and printing, the same for every bench."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One figure beside its baseline. `ratio` is what to quote: the machine's mood cancels out."""

    what: str
    figure: str
    baseline: str = ""
    ratio: str = ""


def median_s(work: Callable[[], object], runs: int = 5) -> float:
    """Median wall time of `runs` calls after one that is not counted."""
    work()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def print_rows(title: str, rows: Sequence[Row]) -> None:
    print(f"\n{title}")
    table = [("", "lbprov", "baseline", "ratio"), *((r.what, r.figure, r.baseline, r.ratio) for r in rows)]
    widths = [max(len(line[i]) for line in table) for i in range(4)]
    for line in table:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
