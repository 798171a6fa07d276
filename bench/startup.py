"""What `lbprov --help` costs over a Python that does nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from bench.figures import Row, median_s

LBPROV = str(Path(sys.executable).parent / "lbprov")


def rows() -> list[Row]:
    bare_s = median_s(lambda: subprocess.run([sys.executable, "-c", "pass"], check=True), runs=9)
    help_s = median_s(
        lambda: subprocess.run([LBPROV, "--help"], check=True, stdout=subprocess.DEVNULL), runs=9
    )
    return [
        Row(
            "lbprov --help",
            f"{help_s * 1000:.0f} ms",
            f"python -c pass {bare_s * 1000:.0f} ms",
            f"{help_s / bare_s:.1f}x",
        )
    ]
