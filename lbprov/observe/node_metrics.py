"""What a node agent tells Prometheus: declared here, once, as the controller's metrics are in `metrics`."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import choose_encoder

from lbprov import __version__
from lbprov.observe.metrics import (
    EVENTS_DROPPED,
    REFLECTOR_AGE,
    REFLECTOR_ERRORS,
    REFLECTOR_EVENTS,
    REFLECTOR_LISTS,
    REFLECTOR_OBJECTS,
    REFLECTOR_UNREADABLE,
    REFLECTOR_WATCHES,
    Declared,
    ReadAtScrape,
    Sample,
)

BUCKETS_S = (
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip

_FAMILY = ("family", "`IPv4` or `IPv6`")

SYNC_DURATION = Declared(
    "lbprov_node_sync_duration_seconds",
    "histogram",
    "How long each write to the kernel took, of nothing too.",
    (_FAMILY,),
)
EVENT_TO_APPLIED = Declared(
    "lbprov_node_event_to_applied_seconds",
    "histogram",
    "From the moment at which the oldest change of a write came in until it was in the kernel.",
    (_FAMILY,),
)
SYNC_ERRORS = Declared(
    "lbprov_node_sync_errors_total",
    "counter",
    "Writes to the kernel that failed; they are tried again.",
    (_FAMILY,),
)
SOURCE_ERRORS = Declared(
    "lbprov_node_source_errors_total", "counter", "Times at which Services could not be read."
)
LAST_SYNC = Declared(
    "lbprov_node_last_sync_timestamp_seconds",
    "gauge",
    "When the kernel was last as the cluster says, in seconds since 1970.",
    (_FAMILY,),
)
RULES_WRITTEN = Declared("lbprov_node_rules_written_total", "counter", "Rules written.", (_FAMILY,))
RULES = Declared("lbprov_node_rules", "gauge", "Rules of ours in the kernel.", (_FAMILY,))
SERVICES = Declared("lbprov_node_services", "gauge", "Services that are forwarded.")
QUARANTINED = Declared(
    "lbprov_node_quarantined_service_ports",
    "gauge",
    "Ports of Services that the kernel refuses: an Event on the Service says why.",
    (_FAMILY,),
)
CONNTRACK_DELETIONS = Declared(
    "lbprov_node_conntrack_deletions_total",
    "counter",
    "UDP flows that were ended because their endpoint is gone.",
)
DRIFT_REPAIRS = Declared(
    "lbprov_node_drift_repairs_total",
    "counter",
    "Times at which somebody else had changed our rules, and they were put right.",
    (_FAMILY,),
)
HEALTHY = Declared("lbprov_node_healthy", "gauge", "1 while no change has waited for longer than a minute.")
NODE_BUILD_INFO = Declared(
    "lbprov_node_build_info",
    "gauge",
    "Always 1.",
    (("version", "of lbprov"), ("python", "of the interpreter"), ("mode", "how packets are forwarded")),
)

NODE_DECLARED = (
    SYNC_DURATION,
    EVENT_TO_APPLIED,
    SYNC_ERRORS,
    SOURCE_ERRORS,
    LAST_SYNC,
    RULES_WRITTEN,
    RULES,
    SERVICES,
    QUARANTINED,
    CONNTRACK_DELETIONS,
    DRIFT_REPAIRS,
    HEALTHY,
    NODE_BUILD_INFO,
)

SHARED = (
    REFLECTOR_LISTS,
    REFLECTOR_WATCHES,
    REFLECTOR_EVENTS,
    REFLECTOR_ERRORS,
    REFLECTOR_OBJECTS,
    REFLECTOR_UNREADABLE,
    REFLECTOR_AGE,
    EVENTS_DROPPED,
)
"""Declared for the controller and told by agents too, about Services, EndpointSlices and their own Node."""


class NodeMetrics:
    """One agent's metrics, with the process's own beside them."""

    def __init__(self, mode: str) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._sync = self._histogram(SYNC_DURATION)
        self._event = self._histogram(EVENT_TO_APPLIED)
        self._errors = self._counter(SYNC_ERRORS)
        self._source_errors = self._counter(SOURCE_ERRORS)
        self._written = self._counter(RULES_WRITTEN)
        self._flows = self._counter(CONNTRACK_DELETIONS)
        self._repairs = self._counter(DRIFT_REPAIRS)
        self._last = self._gauge(LAST_SYNC)
        self._gauge(NODE_BUILD_INFO).labels(__version__, platform.python_version(), mode).set(1)
        self._scraped = ReadAtScrape()
        self._registry.register(self._scraped)

    def applied(self, family: str, duration_s: float, rules: int, waited_s: float | None) -> None:
        self._sync.labels(family).observe(duration_s)
        if waited_s is not None:
            self._event.labels(family).observe(waited_s)
        if rules:
            self._written.labels(family).inc(rules)
        self._last.labels(family).set_to_current_time()

    def failed(self, family: str | None) -> None:
        (self._errors.labels(family) if family else self._source_errors).inc()

    def repaired(self, family: str) -> None:
        self._repairs.labels(family).inc()

    def flows_ended(self, count: int) -> None:
        self._flows.inc(count)

    def read_at_scrape(self, declared: Declared, read: Callable[[], Iterable[Sample]]) -> None:
        self._scraped.sources.append((declared, read))

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """(body, content type) in the format that the `Accept` header prefers."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def _histogram(self, declared: Declared) -> Histogram:
        return Histogram(
            declared.name, declared.help, declared.label_names, buckets=BUCKETS_S, registry=self._registry
        )

    def _counter(self, declared: Declared) -> Counter:
        return Counter(declared.name, declared.help, declared.label_names, registry=self._registry)

    def _gauge(self, declared: Declared) -> Gauge:
        return Gauge(declared.name, declared.help, declared.label_names, registry=self._registry)
