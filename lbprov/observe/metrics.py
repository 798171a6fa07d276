"""What lbprov tells Prometheus: every metric is declared here, once, and documented from here.

Some are counted where things happen (`count`, `time`), others are read when somebody asks (`read_at_scrape`).
`docs/reference/metrics.md` is generated from `DECLARED`.
"""

from __future__ import annotations

import contextlib
import logging
import platform
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from lbprov import __version__

log = logging.getLogger(__name__)

Kind = Literal["counter", "gauge", "histogram"]
Sample = tuple[tuple[str, ...], float]
"""Label values in the order of the declaration, and the value."""

STAGE_BUCKETS_S = (0.001, 0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


@dataclass(frozen=True, slots=True)
class Declared:
    """A metric as users know it. `labels`: label -> what its values say."""

    name: str
    kind: Kind
    help: str
    labels: tuple[tuple[str, str], ...] = ()

    @property
    def label_names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.labels)


_PROVIDER = ("provider", "the provider's name, as in `--provider`")
_STAGE = (
    "stage",
    "`observe`, `plan`, `apply`, `status` (results written to the cluster), `finalizer`, `total`",
)
_KIND = ("kind", "`Service` or `Node`")

RECONCILE_DURATION = Declared(
    "lbprov_reconcile_duration_seconds",
    "histogram",
    "How long each stage of carrying one Service out took.",
    (_STAGE, _PROVIDER),
)
RECONCILE_ERRORS = Declared(
    "lbprov_reconcile_errors_total",
    "counter",
    "Stages that ended in an error.",
    (
        _STAGE,
        (
            "reason",
            "`user`: the Service must be changed; `provider`: the cloud refused or did not answer; "
            "`cluster`: the API server did; `bug`: a bug of lbprov, whose traceback is in the log",
        ),
    ),
)
RECONCILE_RESULTS = Declared(
    "lbprov_reconcile_results_total",
    "counter",
    "Turns of Services, by what became of them.",
    (("result", "`created`, `updated`, `unchanged`, `deleted`, `pending`, `failed`"),),
)
CLOUD_REQUESTS = Declared(
    "lbprov_cloud_api_requests_total",
    "counter",
    "Requests to the cloud's API, the SDK's own repetitions included.",
    (
        ("service", "the cloud's API, or the provider's name where it has but one"),
        ("operation", "as the cloud names it: `CreateLoadBalancer`"),
        ("code", "the cloud's error code; empty for success, and where the provider does not tell"),
    ),
)
CLOUD_WAITS = Declared(
    "lbprov_cloud_api_wait_seconds_total",
    "counter",
    "How long requests were held back before they were made, to stay within the cloud's rate limits; all "
    "workers together.",
    (("family", "requests that the cloud counts together, as the provider names them: `elbv2-mutate`"),),
)
QUEUE_DEPTH = Declared(
    "lbprov_workqueue_depth",
    "gauge",
    "Services that could have their turn now and wait for a worker.",
    (
        (
            "lane",
            "`changed`: new or changed Services; `affected`: the nodes changed, or somebody overwrote a "
            "status; `recheck`: nothing known has changed. Served in this order",
        ),
    ),
)
QUEUE_ADDS = Declared("lbprov_workqueue_adds_total", "counter", "Reasons given for a turn.")
QUEUE_RETRIES = Declared(
    "lbprov_workqueue_retries_total", "counter", "Turns that ended in another attempt later."
)
QUEUE_LONGEST = Declared(
    "lbprov_workqueue_longest_running_seconds",
    "gauge",
    "How long the turn that has lasted longest has lasted.",
)
LOAD_BALANCERS = Declared(
    "lbprov_load_balancers",
    "gauge",
    "Services of ours, by how their load balancer is; the leader knows, followers say 0.",
    (
        (
            "state",
            "`ready`; `pending`: the cloud needs time; `refused`: the Service must be changed; `failed`: the "
            "cloud refused or did not answer; `unknown`: not looked at yet",
        ),
    ),
)
ORPHANS = Declared(
    "lbprov_orphaned_owners",
    "gauge",
    "Services that are gone while the cloud still holds something with their mark: reported, not touched.",
)
LEADER = Declared("lbprov_leader", "gauge", "1 while this replica may write.")
BUILD_INFO = Declared(
    "lbprov_build_info",
    "gauge",
    "Always 1.",
    (("version", "of lbprov"), ("python", "of the interpreter"), _PROVIDER),
)
REFLECTOR_LISTS = Declared(
    "lbprov_reflector_lists_total", "counter", "Full lists taken from the API server.", (_KIND,)
)
REFLECTOR_WATCHES = Declared(
    "lbprov_reflector_watches_total", "counter", "Watches begun at the API server.", (_KIND,)
)
REFLECTOR_EVENTS = Declared(
    "lbprov_reflector_events_total", "counter", "Changes that watches told of.", (_KIND,)
)
REFLECTOR_UNREADABLE = Declared(
    "lbprov_reflector_unreadable_objects",
    "gauge",
    "Objects that exist and cannot be read: they are left as they were last known, the log says why.",
    (_KIND,),
)
REFLECTOR_ERRORS = Declared(
    "lbprov_reflector_errors_total", "counter", "Lists and watches that ended in an error.", (_KIND,)
)
REFLECTOR_OBJECTS = Declared("lbprov_reflector_objects", "gauge", "Objects known.", (_KIND,))
REFLECTOR_AGE = Declared(
    "lbprov_reflector_last_event_age_seconds",
    "gauge",
    "Seconds since the API server last said anything (a bookmark counts).",
    (_KIND,),
)
EVENTS_DROPPED = Declared(
    "lbprov_events_dropped_total", "counter", "Events that could not be told to the API server."
)

DECLARED = (
    RECONCILE_DURATION,
    RECONCILE_ERRORS,
    RECONCILE_RESULTS,
    CLOUD_REQUESTS,
    CLOUD_WAITS,
    QUEUE_DEPTH,
    QUEUE_ADDS,
    QUEUE_RETRIES,
    QUEUE_LONGEST,
    LOAD_BALANCERS,
    ORPHANS,
    LEADER,
    BUILD_INFO,
    REFLECTOR_LISTS,
    REFLECTOR_WATCHES,
    REFLECTOR_EVENTS,
    REFLECTOR_ERRORS,
    REFLECTOR_OBJECTS,
    REFLECTOR_UNREADABLE,
    REFLECTOR_AGE,
    EVENTS_DROPPED,
)


class Metrics:
    """One process's metrics, with the process's own (memory, CPU time, open files) beside them."""

    def __init__(self, provider: str) -> None:
        self._provider = provider
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._duration = Histogram(
            RECONCILE_DURATION.name,
            RECONCILE_DURATION.help,
            RECONCILE_DURATION.label_names,
            buckets=STAGE_BUCKETS_S,
            registry=self._registry,
        )
        self._errors = self._counter(RECONCILE_ERRORS)
        self._results = self._counter(RECONCILE_RESULTS)
        build = Gauge(BUILD_INFO.name, BUILD_INFO.help, BUILD_INFO.label_names, registry=self._registry)
        build.labels(__version__, platform.python_version(), provider).set(1)
        self._scraped = ReadAtScrape()
        self._registry.register(self._scraped)

    def _counter(self, declared: Declared) -> Counter:
        return Counter(declared.name, declared.help, declared.label_names, registry=self._registry)

    @contextlib.contextmanager
    def time(self, stage: str) -> Iterator[None]:
        """Time a stage, however it ends."""
        begun_s = time.perf_counter()
        try:
            yield
        finally:
            self._duration.labels(stage, self._provider).observe(time.perf_counter() - begun_s)

    def count_error(self, stage: str, reason: str) -> None:
        self._errors.labels(stage, reason).inc()

    def count_result(self, result: str) -> None:
        self._results.labels(result).inc()

    def read_at_scrape(self, declared: Declared, read: Callable[[], Iterable[Sample]]) -> None:
        """Ask `read` at every scrape. One that raises is left out of that scrape, and logged."""
        self._scraped.sources.append((declared, read))

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """(body, content type) in the format that the `Accept` header prefers."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type


class ReadAtScrape(Collector):
    """Metrics whose values are asked for at every scrape: (declaration, who to ask)."""

    def __init__(self) -> None:
        self.sources: list[tuple[Declared, Callable[[], Iterable[Sample]]]] = []

    def describe(self) -> Iterable[Metric]:
        """Nothing: else the registry would scrape to find the names out."""
        return ()

    def collect(self) -> Iterator[Metric]:
        for declared, read in self.sources:
            make = CounterMetricFamily if declared.kind == "counter" else GaugeMetricFamily
            family = make(declared.name, declared.help, labels=declared.label_names)
            try:
                for labels, value in read():
                    family.add_metric(labels, value)
            except Exception:
                log.exception("a metric could not be read", extra={"metric": declared.name})
                continue
            yield family
