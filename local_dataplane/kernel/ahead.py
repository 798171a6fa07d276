"""A program that is told by its input what to do, started before that is known."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Sequence


class Ahead:
    """Runs one program again and again, a process for each time. The next one is started when one has ended,
    and waits for its input: the start, some milliseconds, is over when there is something to do.

    Should we die, its input ends, and it ends, having done nothing. Its input must be ours alone: a fork of
    us that is no other program yet would hold it up."""

    def __init__(self, argv: Sequence[str]) -> None:
        self.argv = tuple(argv)
        self._next: subprocess.Popen[str] | None = None

    def run(self, text: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
        """Raises OSError, subprocess.TimeoutExpired; what it prints is left out, what it complains is not."""
        process = self._take()
        try:
            _, said = process.communicate(text, timeout_s)
        except BaseException:
            process.kill()
            process.wait()
            raise
        with contextlib.suppress(OSError):  # whoever runs it next is told
            self._next = self._start()
        return subprocess.CompletedProcess(self.argv, process.returncode, "", said)

    def close(self) -> None:
        process, self._next = self._next, None
        if process is not None:
            process.communicate("")

    def _take(self) -> subprocess.Popen[str]:
        process, self._next = self._next, None
        if process is not None and process.poll() is None:
            return process
        if process is not None:  # somebody has ended it
            process.communicate()
        return self._start()

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for us, not for a write that is under way
        )
