"""The threads that carry Services' turns out: as many at once as there are workers.

A Service that hangs costs one worker for as long as the provider's own time-outs allow; one that raises
costs nobody anything. Neither stops a worker.
"""

from __future__ import annotations

import logging
import threading
import time
import typing
from collections.abc import Callable, Hashable

from lbprov.controller.queue import Failed, Verdict, WorkQueue

K = typing.TypeVar("K", bound=Hashable)

log = logging.getLogger(__name__)


class Fenced(BaseException):
    """The right to write is lost: nothing must be written any more, not even that. Raised by whatever guards
    the writes; passes through all handling of errors (hence no Exception) and ends the turn."""


class Workers(typing.Generic[K]):
    """`handle` carries one turn out and never returns before it is over. `on_bug(key)` is told of exceptions
    that `handle` should not have let through; their traceback is logged here."""

    def __init__(
        self,
        queue: WorkQueue[K],
        handle: Callable[[K], Verdict],
        count: int,
        on_bug: Callable[[K], None] = lambda _: None,
    ) -> None:
        self._queue = queue
        self._handle = handle
        self._on_bug = on_bug
        # Daemons: a call that hangs beyond the grace period must not keep the process.
        self._threads = [
            threading.Thread(target=self._work, name=f"worker-{number}", daemon=True)
            for number in range(1, count + 1)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self, grace_s: float) -> bool:
        """No turn begins any more; true when those that had begun ended within `grace_s`. Idempotent."""
        self._queue.close()
        deadline_s = time.monotonic() + grace_s
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, deadline_s - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def alive(self) -> int:
        """Workers that live (as many as there are, between `start` and `stop`)."""
        return sum(thread.is_alive() for thread in self._threads)

    def _work(self) -> None:
        while (key := self._queue.take()) is not None:
            verdict: Verdict = Failed()
            try:
                verdict = self._handle(key)
            except Fenced:
                log.warning("turn ended without the right to write", extra={"key": str(key)})
            except Exception:
                log.exception("a bug in lbprov: this Service is tried again later", extra={"key": str(key)})
                self._on_bug(key)
            finally:
                self._queue.done(key, verdict)
