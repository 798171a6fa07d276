"""The programs of a control plane as processes: started, frozen, killed, started again; none outlives us."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_GUARD = Path(__file__).with_name("guard.py")
_TAIL_BYTES = 3000


class Guard:
    """The process that ends everything in its `group` and removes `folder` when we end, or `close`."""

    def __init__(self, folder: Path) -> None:
        # A process group of its own: a Ctrl-C at the terminal is not for it, nor for what it guards.
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_GUARD), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            process_group=0,
        )
        assert self._process.stdout is not None
        self.group = int(self._process.stdout.readline())

    def close(self) -> None:
        """Returns when everything is gone. Idempotent. What was started must have been collected before."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


class Daemon:
    """One program with fixed arguments. All methods are idempotent; `start` after an end starts it anew."""

    def __init__(self, argv: Sequence[str | Path], log: Path, guard: Guard) -> None:
        self._argv = [str(argument) for argument in argv]
        self._log = log
        self._guard = guard
        self._process: subprocess.Popen[bytes] | None = None
        self.disturbances = 0
        """How often it was stopped, killed or frozen."""

    @property
    def name(self) -> str:
        return Path(self._argv[0]).name

    @property
    def pid(self) -> int:
        """0 while it does not run."""
        return self._process.pid if self._process is not None and self._process.poll() is None else 0

    def start(self) -> None:
        if self.pid:
            return
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=self._guard.group,
            )

    def stop(self, timeout_s: float = 5.0) -> None:
        """The polite end, and the hard one after `timeout_s`: an API server would wait a minute for its
        watchers to go away."""
        self._send(signal.SIGTERM)
        self._send(signal.SIGCONT)
        if self._process is not None:
            try:
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """As kill -9 or a power cut: connections are reset by the kernel."""
        self._send(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    def pause(self) -> None:
        """Freeze it: connections are accepted by the kernel, and nobody answers."""
        self._send(signal.SIGSTOP)

    def resume(self) -> None:
        self._send(signal.SIGCONT)

    def last_words(self) -> str:
        """The end of its log."""
        if not self._log.exists():
            return ""
        with self._log.open("rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - _TAIL_BYTES))
            return log.read().decode(errors="replace").strip()

    def _send(self, sig: signal.Signals) -> None:
        if self.pid:
            assert self._process is not None
            self.disturbances += sig is not signal.SIGCONT
            self._process.send_signal(sig)
