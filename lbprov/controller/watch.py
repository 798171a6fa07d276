"""Passes for as long as it takes: when the cluster changes, when a retry is due, and now and then anyway."""

from __future__ import annotations

import logging
import threading
import typing
from collections.abc import Callable

from lbprov.api import LbprovError
from lbprov.cluster.seam import Cluster
from lbprov.controller.one_pass import Pass, PassResult
from lbprov.controller.schedule import Schedule

DRIFT_S = 300.0
JITTER = 0.1
UNREADABLE_PAUSE_S = 5.0

_log = logging.getLogger(__name__)


class WatchableCluster(Cluster, typing.Protocol):
    """A cluster that tells when to read it again."""

    def fingerprint(self) -> str:
        """Changes whenever a snapshot would be another one."""

    def wait_for_change(self, fingerprint: str, timeout_s: float, stop: threading.Event) -> bool:
        """True as soon as the cluster is another than `fingerprint`'s; False after `timeout_s` or when
        `stop` is set."""


def watch(
    cluster: WatchableCluster,
    pass_: Pass,
    report: Callable[[PassResult], None],
    *,
    drift_s: float = DRIFT_S,
    chance: Callable[[], float],
) -> None:
    """Until `pass_.stop` is set. Every `drift_s` (give or take JITTER, by `chance` in [0, 1)) a pass looks at
    the world anew and at every Service; the others only at those that are due. A cluster that cannot be read
    is waited for."""
    clock, stop, schedule = pass_.clock, pass_.stop, Schedule()
    full_s = clock.now_s()
    while not stop.is_set():
        now_s = clock.now_s()
        try:
            # Taken before the pass, whose own writes then make one more, in which nothing is due: what
            # changes during the pass is never missed.
            fingerprint = cluster.fingerprint()
            full = now_s >= full_s
            report(pass_.run(schedule, full=full))
            if full:
                full_s = now_s + drift_s * (1 + JITTER * (2 * chance() - 1))
            due_s = min(full_s, schedule.next_s() or full_s)
            cluster.wait_for_change(fingerprint, max(0.0, due_s - clock.now_s()), stop)
        except LbprovError as err:
            _log.error("the cluster cannot be read", extra={"why": str(err)})
            clock.wait(stop, UNREADABLE_PAUSE_S)
