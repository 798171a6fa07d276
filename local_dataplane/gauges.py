"""The metrics that are read when somebody asks for them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from lbprov.observe import metrics as shared
from lbprov.observe import node_metrics as own
from lbprov.observe.metrics import Sample
from local_dataplane.agent import Agent
from local_dataplane.api_source import KINDS, ApiSource
from local_dataplane.monitor import ApiTeller, Monitor


def attach(monitor: Monitor) -> None:
    """Let everything of this agent be asked for at each scrape."""
    agent, read = monitor.agent, monitor.metrics.read_at_scrape
    read(own.SERVICES, lambda: [((), agent.builder.service_count)])
    read(own.HEALTHY, lambda: [((), monitor.health().is_healthy)])
    read(own.RULES, lambda: [((str(f),), p.rules_held) for f, p in agent.programs.items()])
    read(own.QUARANTINED, lambda: _left_out(agent))
    if isinstance(agent.source, ApiSource):
        _attach_source(monitor, agent.source)


def _left_out(agent: Agent) -> Iterable[Sample]:
    keys = list(agent.left_out)
    return [((str(family),), sum(k.family is family for k in keys)) for family in agent.programs]


def _attach_source(monitor: Monitor, source: ApiSource) -> None:
    read = monitor.metrics.read_at_scrape
    named = tuple(zip(KINDS, source.reflectors, strict=True))

    def counts(what: str) -> Callable[[], Iterable[Sample]]:
        return lambda: [((kind,), getattr(r.counts, what)) for kind, r in named]

    def ages() -> Iterable[Sample]:
        now_s = time.monotonic()
        return [((kind,), now_s - r.last_heard_s) for kind, r in named if r.last_heard_s is not None]

    read(shared.REFLECTOR_LISTS, counts("lists"))
    read(shared.REFLECTOR_WATCHES, counts("watches"))
    read(shared.REFLECTOR_EVENTS, counts("events"))
    read(shared.REFLECTOR_ERRORS, counts("failures"))
    read(shared.REFLECTOR_OBJECTS, lambda: [((kind,), len(r.store)) for kind, r in named])
    read(shared.REFLECTOR_UNREADABLE, lambda: [((kind,), len(r.problems())) for kind, r in named])
    read(shared.REFLECTOR_AGE, ages)
    if isinstance(monitor.teller, ApiTeller):
        recorder = monitor.teller.recorder
        read(shared.EVENTS_DROPPED, lambda: [((), recorder.dropped)])
