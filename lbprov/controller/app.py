"""The controller as a process: the order in which it starts, changes hands, and ends.

health and metrics answer -> the cluster is followed -> everything has been seen once (ready)
  -> elected (or nobody is to be) -> a term: workers work
SIGTERM: no turn begins, those under way end, the lease is given up, exit 0
somebody else has the lease: nothing is written any more, exit 1 for a clean start
nobody answers about the lease: nothing is written any more; a new term when it is ours again
"""

from __future__ import annotations

import logging
import threading
import time
import typing
from collections import Counter
from collections.abc import Callable, Iterator

from lbprov.api import CallCount, Provider, ProviderSpec
from lbprov.controller.live import LiveCluster
from lbprov.controller.term import Settings, Term
from lbprov.controller.turn import State
from lbprov.model import ObjectKey
from lbprov.observe import metrics as m
from lbprov.observe.health import Check, HealthServer, Pulse

log = logging.getLogger(__name__)

POLL_S = 0.2
STUCK_S = 900.0
"""Longer than any call to a cloud may take, with all its retries."""
DEPOSED_S = 60.0
"""An elector that has not said within this time that the fence has run out is dead."""


class Elector(typing.Protocol):
    """See `lbprov.cluster.apiserver.LeaderElector`."""

    @property
    def identity(self) -> str: ...

    @property
    def holder(self) -> str: ...

    def is_leader(self) -> bool: ...

    def run(self, on_started: Callable[[], None], on_stopped: Callable[[], None]) -> None: ...

    def release(self) -> None: ...


class App:
    """`build` makes a provider with no memory; it is called once per term. `elector` None: we always lead."""

    def __init__(
        self,
        cluster: LiveCluster,
        spec: ProviderSpec,
        build: Callable[[], Provider[typing.Any]],
        settings: Settings,
        metrics: m.Metrics,
        elector: Elector | None = None,
    ) -> None:
        self._cluster = cluster
        self._spec = spec
        self._build = build
        self._settings = settings
        self._elector = elector
        self._pulse = Pulse()
        self._synced = False
        self._stopping = False
        self._failure = ""
        self._deposed_s: float | None = None
        self._term: Term | None = None
        self._provider: Provider[typing.Any] | None = None
        self._past_answers: Counter[tuple[str, str, str]] = Counter()
        self._past_waits_s: dict[str, float] = {}
        self._elector_thread: threading.Thread | None = None
        self._metrics = metrics
        self._offer(metrics)

    def health(self, address: tuple[str, int]) -> HealthServer:
        """Not started yet. OSError: the address cannot be had."""
        healthy: dict[str, Check] = {
            "loops": self._pulse.check,
            "workers": self._workers_check,
            "stuck": self._stuck_check,
            "elector": self._elector_check,
        }
        ready: dict[str, Check] = {"caches": lambda: "" if self._synced else "the cluster is not listed yet"}
        return HealthServer(address, healthy, ready, self._metrics.exposition)

    def run(self, stop: threading.Event) -> int:
        """Until `stop` is set (SIGTERM) or there is no going on; the exit code."""
        self._cluster.start(self._on_service, self._on_nodes)
        try:
            while not self._synced and not stop.is_set():
                self._synced = self._cluster.wait_synced(POLL_S)
            if self._synced and not stop.is_set():
                log.info("the cluster is listed", extra={"services": len(self._cluster.services.values())})
                self._campaign()
            while not stop.wait(POLL_S) and not self._failure:
                self._watch_elector()
            return self._end()
        finally:
            self._cluster.stop()

    def recovered(self) -> None:
        """The API server answers again after an outage. From any thread; returns at once."""
        if (term := self._term) is not None:
            term.on_recovery()

    # -- leadership

    def _campaign(self) -> None:
        if self._elector is None:
            self._lead()
            return
        self._elector_thread = threading.Thread(
            target=self._elector.run, args=(self._lead, self._step_down), name="elector", daemon=True
        )
        self._elector_thread.start()

    def _lead(self) -> None:
        """On the elector's thread, which renews nothing meanwhile."""
        if self._stopping:
            return
        try:
            provider = self._build()
        except Exception as error:
            log.exception("the provider cannot be made")
            self._failure = f"the provider cannot be made: {error}"
            return
        self._past_answers, self._past_waits_s = self._answers(), self._waits_s()
        self._provider = provider
        is_leader = self._elector.is_leader if self._elector else lambda: True
        self._term = Term(
            self._cluster,
            provider,
            self._spec,
            self._settings,
            self._metrics,
            self._pulse,
            is_leader=is_leader,
        )
        self._term.begin()
        log.info("leading", extra={"workers": self._settings.workers})

    def _step_down(self) -> None:
        """On the elector's thread, once `is_leader` is false already."""
        term, self._term = self._term, None
        if self._stopping or term is None:
            return
        term.fence()
        assert self._elector is not None
        holder = self._elector.holder
        if holder not in ("", self._elector.identity):
            self._failure = f"the lease was lost to {holder}"
        else:
            log.warning("the lease could not be kept: nothing is written until it is ours again")

    def _watch_elector(self) -> None:
        """The fence runs out by the clock; only that the term is over needs the elector's thread."""
        if self._term is None or self._elector is None or self._elector.is_leader():
            self._deposed_s = None
        elif self._deposed_s is None:
            self._deposed_s = time.monotonic()
        elif time.monotonic() - self._deposed_s > DEPOSED_S:
            self._failure = "the elector hangs"

    def _end(self) -> int:
        self._stopping = True
        term, self._term = self._term, None
        if self._failure:
            log.error("ending, to be started anew", extra={"why": self._failure})
            if term is not None:
                term.fence()
            elif self._elector_thread is not None and self._elector is not None:
                self._elector.release()
            return 1
        log.info("ending: what is under way may finish", extra={"grace_s": self._settings.grace_s})
        drained = term.end(self._settings.grace_s) if term is not None else True
        if not drained:
            # Whoever took over now could meet our last call: the lease is left to run out.
            log.warning("not all ended within the grace")
            return 1
        if self._elector_thread is not None and self._elector is not None:
            self._elector.release()
        return 0

    # -- what the cluster tells

    def _on_service(self, key: ObjectKey) -> None:
        if (term := self._term) is not None:
            term.on_service(key)

    def _on_nodes(self) -> None:
        if (term := self._term) is not None:
            term.on_nodes()

    # -- health and metrics

    def _workers_check(self) -> str:
        return term.workers_check() if (term := self._term) is not None else ""

    def _stuck_check(self) -> str:
        stuck = [f"{key} for {s:.0f} s" for key, s in self._running_s().items() if s > STUCK_S]
        return ", ".join(stuck)

    def _elector_check(self) -> str:
        thread = self._elector_thread
        return "" if thread is None or thread.is_alive() or self._stopping else "its thread died"

    def _running_s(self) -> dict[ObjectKey, float]:
        return term.queue.running_s() if (term := self._term) is not None else {}

    def _offer(self, metrics: m.Metrics) -> None:
        """Everything that is read at scrape."""
        metrics.read_at_scrape(m.QUEUE_DEPTH, self._depths)
        metrics.read_at_scrape(m.QUEUE_ADDS, lambda: [((), self._queue_counts()[0])])
        metrics.read_at_scrape(m.QUEUE_RETRIES, lambda: [((), self._queue_counts()[1])])
        metrics.read_at_scrape(m.QUEUE_LONGEST, lambda: [((), max(self._running_s().values(), default=0.0))])
        metrics.read_at_scrape(m.LOAD_BALANCERS, self._states)
        metrics.read_at_scrape(m.ORPHANS, lambda: [((), t.orphans() if (t := self._term) else 0)])
        metrics.read_at_scrape(
            m.LEADER, lambda: [((), float((t := self._term) is not None and t.may_write()))]
        )
        metrics.read_at_scrape(m.CLOUD_REQUESTS, self._cloud_requests)
        metrics.read_at_scrape(m.CLOUD_WAITS, self._cloud_waits)

    def _depths(self) -> Iterator[m.Sample]:
        if (term := self._term) is not None:
            for lane, depth in term.queue.depth().items():
                yield (lane.name.lower(),), depth

    def _queue_counts(self) -> tuple[int, int]:
        return term.queue.counts() if (term := self._term) is not None else (0, 0)

    def _states(self) -> Iterator[m.Sample]:
        counts = term.states() if (term := self._term) is not None else dict.fromkeys(State, 0)
        for state, count in counts.items():
            yield (state,), count

    def _answers(self) -> Counter[tuple[str, str, str]]:
        """By service, operation and code, of this term and of those before it."""
        calls = self._provider.calls() if self._provider else CallCount()
        by_operation = {(self._spec.name, operation, ""): n for operation, n in calls.by_operation.items()}
        return self._past_answers + Counter(calls.answers or by_operation)

    def _cloud_requests(self) -> Iterator[m.Sample]:
        yield from sorted(self._answers().items())

    def _waits_s(self) -> dict[str, float]:
        """By family of requests, of this term and of those before it."""
        now_s = self._provider.calls().waited_s if self._provider else {}
        families = self._past_waits_s.keys() | now_s.keys()
        return {f: self._past_waits_s.get(f, 0.0) + now_s.get(f, 0.0) for f in families}

    def _cloud_waits(self) -> Iterator[m.Sample]:
        for family, waited_s in sorted(self._waits_s().items()):
            yield (family,), waited_s
