"""A program that waits, started, for its input."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from local_dataplane.kernel.ahead import Ahead

# Says that it has begun and what it was told; complains and fails if told to.
_PROGRAM = """
import os, sys
with open(sys.argv[1], "a") as log:
    log.write(f"begun {os.getpid()}\\n")
    log.flush()
    told = sys.stdin.read()
    log.write(f"told {os.getpid()} {told!r}\\n")
if told == "fail":
    sys.exit("no")
"""
_LIMIT_S = 60.0


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def ahead(log: Path) -> Iterator[Ahead]:
    made = Ahead([sys.executable, "-I", "-S", "-c", _PROGRAM, str(log)])
    yield made
    made.close()


def told(log: Path) -> list[str]:
    return [line.split(" ", 2)[2] for line in log.read_text().splitlines() if line.startswith("told")]


def test_each_run_is_a_process_of_its_own_and_in_order(ahead: Ahead, log: Path) -> None:
    codes = [ahead.run(text, _LIMIT_S).returncode for text in ("a", "b", "c")]
    assert codes == [0, 0, 0]
    assert told(log) == ["'a'", "'b'", "'c'"]
    pids = {line.split()[1] for line in log.read_text().splitlines() if line.startswith("told")}
    assert len(pids) == 3


def test_the_next_one_is_there_before_it_is_needed(ahead: Ahead) -> None:
    ahead.run("a", _LIMIT_S)
    waiting = ahead._next
    assert waiting is not None
    assert waiting.poll() is None
    ahead.run("b", _LIMIT_S)
    assert waiting.returncode == 0


def test_a_failure_is_told_and_the_next_run_is_another_process(ahead: Ahead) -> None:
    failed = ahead.run("fail", _LIMIT_S)
    assert (failed.returncode, failed.stderr) == (1, "no\n")
    assert ahead.run("a", _LIMIT_S).returncode == 0


def test_one_that_somebody_has_ended_meanwhile_is_replaced(ahead: Ahead, log: Path) -> None:
    ahead.run("a", _LIMIT_S)
    assert ahead._next is not None
    os.kill(ahead._next.pid, signal.SIGKILL)
    os.waitid(os.P_PID, ahead._next.pid, os.WEXITED | os.WNOWAIT)
    assert ahead.run("b", _LIMIT_S).returncode == 0
    assert told(log) == ["'a'", "'b'"]


def test_one_that_does_not_end_is_killed(log: Path) -> None:
    stuck = Ahead(["sleep", "3600"])
    with pytest.raises(subprocess.TimeoutExpired):
        stuck.run("", 0.1)
    assert stuck._next is None


def test_what_cannot_be_run_is_an_os_error() -> None:
    with pytest.raises(FileNotFoundError):
        Ahead(["/nowhere/iptables-restore"]).run("", _LIMIT_S)


def test_when_we_are_killed_the_waiting_one_ends_and_has_done_nothing(log: Path) -> None:
    """Its standard error ends when all who have it have ended."""
    parent = f"""
import os, signal, sys
from local_dataplane.kernel.ahead import Ahead
ahead = Ahead([sys.executable, "-I", "-S", "-c", {_PROGRAM!r}, {str(log)!r}])
ahead.run("a", {_LIMIT_S})
print(ahead._next.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", parent], capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    waiting = int(killed.stdout)
    _await_end(waiting)
    assert told(log) in (["'a'"], ["'a'", "''"])  # told nothing, if it came to that at all


def _await_end(pid: int) -> None:
    """A stranger's end is told by its pidfd."""
    import select

    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([descriptor], [], [], _LIMIT_S)[0], "it is still there"
    finally:
        os.close(descriptor)
