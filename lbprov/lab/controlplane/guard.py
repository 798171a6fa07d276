"""Kills a process group and removes a folder when its standard input ends, however that came about.

A program of its own (`python -I -S guard.py FOLDER`) that imports nothing of ours: it starts in milliseconds
and has nothing to break. It prints the id of the group; whoever is started into that group cannot outlive the
process that holds the other end of the pipe, kill -9 included.
"""

import contextlib
import os
import shutil
import signal
import sys
import time

_PATIENCE_S = 5.0


def _hold_group() -> int:
    """A sleeping child that leads the group, so that it exists while no other member does."""
    leader = os.fork()
    if leader == 0:
        os.setpgid(0, 0)
        sys.stdin.close()
        sys.stdout.close()
        while True:
            signal.pause()
    with contextlib.suppress(OSError):  # one of the two comes first
        os.setpgid(leader, leader)
    return leader


def main(folder: str) -> None:
    group = _hold_group()
    sys.stdout.write(f"{group}\n")
    sys.stdout.flush()
    sys.stdin.buffer.read()
    deadline_s = time.monotonic() + _PATIENCE_S
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
        os.waitpid(group, 0)
        while time.monotonic() < deadline_s:  # until the last of them has been collected
            os.killpg(group, signal.SIGKILL)
            time.sleep(0.01)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1])
