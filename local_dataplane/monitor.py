"""What a running agent says of itself: health, metrics, Events, and a status for `lbprov node status`."""

from __future__ import annotations

import json
import logging
import time
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from lbprov import __version__
from lbprov.cluster.apiserver.events import EventRecorder, Subject
from lbprov.model import Event, IPFamily, ObjectKey, Severity
from lbprov.observe.node_metrics import NodeMetrics
from local_dataplane.agent import Agent
from local_dataplane.events import EXPLAINED, Reason
from local_dataplane.health import TIMEOUT_S, Health, healthz, livez, takes_traffic
from local_dataplane.health_checks import RETRY_S, HealthChecks
from local_dataplane.http_ports import Answer, HttpPorts
from local_dataplane.observer import Applied, Observer
from local_dataplane.source import Changes
from local_dataplane.table import PortKey

log = logging.getLogger("local_dataplane")

TELL_NODE_AFTER_S = 10.0
"""A failure that is over sooner is nobody's affair."""


class Teller(typing.Protocol):
    """Who hears of Events; never blocks, never raises."""

    def tell_service(self, key: ObjectKey, uid: str, event: Event) -> None: ...

    def tell_node(self, name: str, event: Event) -> None: ...


class Silence:
    """See `Teller`: of a folder nobody asks for Events; the log has them all."""

    def tell_service(self, key: ObjectKey, uid: str, event: Event) -> None: ...

    def tell_node(self, name: str, event: Event) -> None: ...


@dataclass(frozen=True, slots=True)
class ApiTeller:
    """See `Teller`."""

    recorder: EventRecorder

    def tell_service(self, key: ObjectKey, uid: str, event: Event) -> None:
        self.recorder.emit(Subject(key, uid), [event])

    def tell_node(self, name: str, event: Event) -> None:
        # Node Events carry the name as uid: that is what `kubectl describe node` looks for.
        self.recorder.emit(Subject(ObjectKey("", name), name, "Node"), [event])


@dataclass(slots=True)
class Monitor(Observer):
    """The agent's observer, and its HTTP pages. `pages`: where those are; a port that is taken is tried again
    for as long as it takes, and nothing else waits for it."""

    agent: Agent
    metrics: NodeMetrics
    http: HttpPorts
    checks: HealthChecks
    teller: Teller
    pages: Mapping[str, tuple[str, int]]
    now_s: Callable[[], float] = time.monotonic
    begun: datetime = field(default_factory=lambda: datetime.now(UTC))
    _updated: dict[IPFamily, datetime] = field(default_factory=dict)
    _failing_s: dict[IPFamily, float] = field(default_factory=dict)
    _told_node: bool = False
    _complained: set[str] = field(default_factory=set)
    _tried_s: float = float("-inf")
    _version: str = ""

    # ── what the agent says ──

    def learned(self, changes: Changes) -> None:
        self._version = changes.version
        self.checks.learn(changes)

    def applied(self, done: Applied) -> None:
        self._updated[done.family] = datetime.now(UTC)
        if self._failing_s.pop(done.family, None) is not None and not self._failing_s:
            self._told_node = False
        self.metrics.applied(done.family, done.duration_s, done.rules, done.waited_s)

    def failed(self, family: IPFamily | None, reason: str) -> None:
        self.metrics.failed(family)
        if family is None:
            return
        since_s = self._failing_s.setdefault(family, self.now_s())
        if not self._told_node and self.now_s() - since_s >= TELL_NODE_AFTER_S:
            self._told_node = True
            self.teller.tell_node(
                self.agent.node_name, _event(Reason.FORWARDING_FAILED, f"{family}: {reason}")
            )

    def refused(self, key: PortKey, reason: str) -> None:
        self._tell(key.service, Reason.NOT_FORWARDED, f"{_port(key)} is not forwarded: {reason}")

    def accepted(self, key: PortKey) -> None:
        if self.agent.builder.service(key.service) is not None:
            self._tell(key.service, Reason.FORWARDED, f"{_port(key)} is forwarded now")

    def conflict(self, key: PortKey, sentence: str) -> None:
        self._tell(key.service, Reason.CLAIMED_TWICE, sentence)

    def repaired(self, family: IPFamily) -> None:
        self.metrics.repaired(family)

    def flows_ended(self, count: int) -> None:
        self.metrics.flows_ended(count)

    def tick(self) -> None:
        self.checks.tend()
        self.open_pages()

    def no_health_check(self, key: ObjectKey, sentence: str) -> None:
        self._tell(key, Reason.NO_HEALTH_CHECK, sentence)

    def _tell(self, key: ObjectKey, reason: Reason, sentence: str) -> None:
        service = self.agent.builder.service(key)
        message = f"on node {self.agent.node_name}: {sentence}"
        self.teller.tell_service(key, service.uid if service else "", _event(reason, message))

    # ── what is asked of us ──

    def open_pages(self) -> None:
        if self.now_s() - self._tried_s < RETRY_S:
            return
        self._tried_s = self.now_s()
        for name, (host, port) in self.pages.items():
            if self.http.is_open(name):
                continue
            try:
                self.http.open(name, [(host, port)], self.respond)
            except OSError as error:
                if name not in self._complained:
                    self._complained.add(name)
                    log.warning(
                        "a port cannot be opened, trying again",
                        extra={"port": port, "for": name, "reason": error.strerror or str(error)},
                    )

    def respond(self, path: str, accept: str) -> Answer:
        if path == "/healthz":
            return healthz(self.health(), self.agent.node)
        if path == "/livez":
            return livez(self.health())
        if path == "/readyz":
            missing = "" if self._updated else self._awaited()
            return Answer(503 if missing else 200, f"{missing or 'ok'}\n".encode())
        if path == "/metrics":
            body, content_type = self.metrics.exposition(accept)
            return Answer(200, body, content_type)
        if path == "/status":
            return Answer(200, json.dumps(self.status()).encode(), "application/json")
        return Answer(404, b"There are /healthz, /livez, /readyz, /metrics and /status.\n")

    def _awaited(self) -> str:
        return self.agent.source.missing() or "not everything has been applied once yet"

    def health(self) -> Health:
        now_s = self.now_s()
        waiting_s = self.agent.pending_since_s
        late = {f for f, since_s in list(self._failing_s.items()) if now_s - since_s >= TIMEOUT_S}
        if waiting_s is not None and now_s - waiting_s >= TIMEOUT_S:
            late |= self.agent.programs.keys()
        return Health(datetime.now(UTC), dict(self._updated), frozenset(late))

    def status(self) -> dict[str, object]:
        left_out = [
            {
                "service": str(key.service),
                "port": key.port_name,
                "protocol": str(key.protocol),
                "family": str(key.family),
                "reason": left.reason,
                "since": _time(left.since_s),
            }
            for key, left in sorted(dict(self.agent.left_out).items())
        ]
        return {
            "version": __version__,
            "node": self.agent.node_name,
            "mode": self.agent.mode,
            "running_since": self.begun.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "cluster": self.agent.source.name,
            "cluster_version": self._version,
            "applied": {str(f): at.strftime("%Y-%m-%dT%H:%M:%SZ") for f, at in sorted(self._updated.items())},
            "healthy": self.health().is_healthy,
            "takes_new_traffic": takes_traffic(self.agent.node),
            "services": self.agent.builder.service_count,
            "left_out": left_out,
            "awaited": "" if self._updated else self._awaited(),
            "warnings": self.agent.warnings(),
        }


def _event(reason: Reason, message: str) -> Event:
    severity: Severity = EXPLAINED[reason][0]
    return Event(severity, reason, message)


def _port(key: PortKey) -> str:
    return f"port {key.port_name or key.protocol} ({key.family}, {key.protocol})"


def _time(at_s: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at_s))
