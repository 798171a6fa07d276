"""A second opinion while requests wait: is the server slow, or does it not answer at all?

A server that hung and is back, or was replaced, never answers what was asked of it before. Waiting little
would never get through to one that is slow; so reflectors wait long, and meanwhile something small is asked
again and again. If that was not answered either, and then is, whoever has waited for longer asks anew.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from lbprov.cluster.apiserver.transport import Params, Transport
from lbprov.model import LbprovError

log = logging.getLogger(__name__)

ONE_FROM_CACHE: Params = {"limit": 1, "resourceVersion": "0"}
LOOK_S, PACE_S = 0.25, 2.5
SUSPICIOUS_S = 3.0
"""A request that has waited for so long calls for a second opinion; as long is it waited for."""

UNDISTURBED_S = 60.0
"""After requests were given up, the next may take so long: a server at its limits fails some probes only."""


class Probe:
    """A daemon thread, silent while nobody waits for long. `path` and `selection` of a list we may read."""

    def __init__(
        self,
        transport: Transport,
        path: str,
        selection: Params | None = None,
        *,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._transport = transport
        self._path = path
        self._params = {**ONE_FROM_CACHE, **(selection or {})}
        self._now_s = now_s
        self._unanswered = False
        self._gave_up_s = float("-inf")
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"probe-{path}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()

    def _run(self) -> None:
        pause_s = LOOK_S
        while not self._over.wait(pause_s):
            pause_s = LOOK_S
            try:
                if self._is_time():
                    self.ask()
                    pause_s = PACE_S
            except Exception:
                log.exception("a bug in the probe; it goes on")

    def _is_time(self) -> bool:
        waited_s = self._transport.waiting.longest_s()
        return waited_s >= SUSPICIOUS_S and not self._transport.outage.hold_s()

    def ask(self) -> None:
        began_s = self._now_s()
        try:
            self._transport.request(
                "GET", self._path, params=self._params, timeout_s=SUSPICIOUS_S, vital=True
            )
        except LbprovError as error:
            log.debug("probe: %s", error)
            self._unanswered = True
            return
        if self._unanswered and began_s - self._gave_up_s >= UNDISTURBED_S:
            self._gave_up_s = began_s
            self._transport.waiting.give_up(began_s)
        self._unanswered = False
