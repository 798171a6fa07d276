"""The node agent: reads the cluster, keeps the kernel true to it, and says what it did."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from lbprov.cluster import Problem
from lbprov.model import IPFamily, L4Protocol, LbprovError, Node, ObjectKey, RetryLater, UserError
from local_dataplane.config import NodeFacts
from local_dataplane.flow_keeper import FlowKeeper
from local_dataplane.health import health_check
from local_dataplane.kernel.seam import Busy
from local_dataplane.kernel.sysctl import Sysctls, prepare
from local_dataplane.mode import Program, Written
from local_dataplane.observer import Applied, Observer
from local_dataplane.pace import Pace
from local_dataplane.source import Backing, Changes, Source
from local_dataplane.table import Frontend, PortKey, ServiceState, TableBuilder

log = logging.getLogger("local_dataplane")

CHECK_S = 0.5
"""How often somebody else's changes are looked for; a look costs microseconds."""

THOROUGH_S = 120.0
"""How often our rules are compared whatever the look says."""

RETRY_LEFT_OUT_S = 60.0
_BACKOFF_S = (0.2, 1.0, 5.0, 15.0)
_MANY_DEAD_CHAINS = 500
_REMEMBERED = 1000  # warnings
_REST = 10  # times as long as a comparison took, until the next


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Why a Service port is not forwarded, and since when (wall clock, seconds)."""

    reason: str
    since_s: float


@dataclass(slots=True)
class Agent:
    """One node's dataplane. `programs`: family -> its rules in the kernel.

    `run` returns when `stop` is set; the rules stay. Nothing that is wrong with one Service, or for a while
    with the world, ends it."""

    source: Source
    node_name: str
    programs: Mapping[IPFamily, Program]
    flows: FlowKeeper
    sysctls: Sysctls
    take_over: Callable[[], None] = lambda: None
    """Called once after the first success: an earlier run's rules in the other backend may go."""
    mode: str = "iptables"
    observer: Observer = field(default_factory=Observer)
    pace: Pace = field(default_factory=lambda: Pace(0.0))
    thorough_s: float = THOROUGH_S
    now_s: Callable[[], float] = time.monotonic
    left_out: dict[PortKey, LeftOut] = field(default_factory=dict)
    builder: TableBuilder = field(default_factory=TableBuilder)
    node: Node | None = None
    """As the cluster has it; None: it does not."""
    _node: NodeFacts | None = None
    _waiting: dict[PortKey, ServiceState | None] = field(default_factory=dict)  # decided, not yet written
    _health_ports: dict[ObjectKey, int] = field(default_factory=dict)
    _learned_s: float | None = None  # when the oldest of it came in
    _begun_s: float | None = None  # when the write that is not done yet was begun
    _told: dict[str, None] = field(default_factory=dict)
    _took_over: bool = False
    _last_s: dict[str, float] = field(default_factory=dict)
    _rested_s: dict[IPFamily, float] = field(default_factory=dict)

    def run(self, stop: threading.Event) -> None:
        failures = 0
        changed = True
        while not stop.is_set():
            self.observer.tick()
            try:
                if changed or failures:
                    self._follow()
                if self._took_over:
                    self._tend(idle=not changed)
            except LbprovError as error:
                if not self._took_over and isinstance(error, UserError):
                    raise  # the first look shows that it cannot work at all
                pause_s = _BACKOFF_S[min(failures, len(_BACKOFF_S) - 1)]
                failures += 1
                level = logging.INFO if isinstance(error, Busy) else logging.ERROR
                log.log(level, "not applied, trying again", extra={"reason": str(error), "after_s": pause_s})
                stop.wait(pause_s)
            else:
                failures = 0
                changed = self.source.wait(CHECK_S, stop)
                if changed and (pause_s := self.pace.pause_s(self.now_s())):
                    stop.wait(pause_s)

    @property
    def pending_since_s(self) -> float | None:
        """Since when something has been waiting to be written, by the monotonic clock; None: nothing is."""
        waits = (self._learned_s, self._begun_s, getattr(self.source, "pending_since_s", None))
        return min((since_s for since_s in waits if since_s is not None), default=None)

    def warnings(self) -> list[str]:
        return list(self._told)

    def run_once(self) -> bool:
        """Apply the cluster as it is and tidy up. False where anything was left out."""
        problems: tuple[Problem, ...] = ()
        while True:
            try:
                changes = self.source.take()
                if changes is None:
                    raise RetryLater("the cluster is not known yet", after_s=_BACKOFF_S[0])
                problems = changes.problems or problems
                self.apply(changes)
                for program in self.programs.values():
                    program.sweep()
            except Busy as busy:
                log.info("not applied, trying again", extra={"reason": str(busy)})
                time.sleep(_BACKOFF_S[0])
            else:
                return not self.left_out and not any(problem.fatal for problem in problems)

    def _follow(self) -> None:
        try:
            changes = self.source.take()
        except LbprovError as error:
            self.observer.failed(None, str(error))
            raise
        if changes is not None:
            self.apply(changes)

    def apply(self, changes: Changes) -> None:
        """Make the kernel forward as the cluster says. What could not be written is kept for the next call,
        whatever that brings."""
        begun_s = self._begun_s = self.now_s()
        for problem in changes.problems:
            self._tell(str(problem))
        node = self._facts(changes)
        self.observer.learned(changes)
        self._waiting |= self._decide(changes, node)
        self._learned_s = self._learned_s if self._learned_s is not None else changes.learned_s
        self.flows.set_node(node)
        for program in self.programs.values():
            program.set_node(node)
            program.set_health_ports(frozenset(self._health_ports.values()))
        self._warn_of_missing_families()
        self._prepare_kernel()
        written = self._write()
        waited_s = self.now_s() - self._learned_s if self._learned_s is not None else None
        self._learned_s = self._begun_s = None
        if not self._took_over:
            self.take_over()
            self._took_over = True
        self._warn_of_conflicts()
        ended_s = self.now_s()
        self.pace.wrote(begun_s, ended_s)
        log.info(
            "applied",
            extra={
                "node": self.node_name,
                "services": self.builder.service_count,
                "rules": written.rules,
                "duration_ms": round((ended_s - begun_s) * 1000, 1),
                **({"waited_ms": round(waited_s * 1000, 1)} if waited_s is not None else {}),
                "version": changes.version,
                **({"left_out": len(self.left_out)} if self.left_out else {}),
            },
        )

    def _decide(self, changes: Changes, node: NodeFacts) -> dict[PortKey, ServiceState | None]:
        decided = self.builder.set_node(node)
        for key, backing in changes.services.items():
            self._note_health_port(key, backing)
            try:
                if backing is None:
                    decided |= self.builder.remove_service(key)
                else:
                    decided |= self.builder.set_service(backing.service, backing.slices, node)
            except Exception:  # one object must not stop the others
                log.exception("a bug: this change of a Service is left out", extra={"service": str(key)})
        if changes.complete:
            for key in self.builder.known():
                if key not in changes.services:
                    self._note_health_port(key, None)
                    decided |= self.builder.remove_service(key)
        return decided

    def _note_health_port(self, key: ObjectKey, backing: Backing | None) -> None:
        check = health_check(backing, self.node_name)
        if check is None:
            self._health_ports.pop(key, None)
        else:
            self._health_ports[key] = check.port

    def _write(self) -> Written:
        """What is waiting, family by family; the trouble of one does not stop the other."""
        written, trouble = Written(), None
        for family, program in self.programs.items():
            begun_s = self.now_s()
            own = {key: state for key, state in self._waiting.items() if key.family is family}
            try:
                done = program.apply(own)
            except LbprovError as error:
                trouble = error
                self.observer.failed(family, str(error))
                continue
            for key in own:
                del self._waiting[key]
            ended_s = self.now_s()
            self._note(family, program, done)
            waited_s = None if self._learned_s is None else ended_s - self._learned_s
            self.observer.applied(Applied(family, ended_s - begun_s, done.rules, done.restores, waited_s))
            if not self._took_over or any(key.protocol is L4Protocol.UDP for key in own):
                self._judge(program)
            written += done
        if trouble:
            raise trouble
        return written

    def _judge(self, program: Program) -> None:
        if ended := self.flows.judge(program):
            self.observer.flows_ended(ended)

    def _note(self, family: IPFamily, program: Program, written: Written | None) -> None:
        """Keep `left_out` true to what the program says."""
        for key, reason in (written.refused if written else {}).items():
            if key in program.left_out and key not in self.left_out:
                self.observer.refused(key, reason)
                self.left_out[key] = LeftOut(reason, time.time())
        for key in [k for k in self.left_out if k.family is family and k not in program.left_out]:
            del self.left_out[key]
            self.observer.accepted(key)

    def _tend(self, *, idle: bool) -> None:
        """What is due between two changes."""
        thoroughly = self._is_due("thorough", self.thorough_s)
        retry = self._is_due("left out", RETRY_LEFT_OUT_S)
        for family, program in self.programs.items():
            begun_s = self.now_s()
            if thoroughly or begun_s >= self._rested_s.get(family, begun_s):
                repaired = program.check(thoroughly=thoroughly)
                if repaired:
                    self.observer.repaired(family)
                    self._note(family, program, repaired)
                # Where others change their rules all the time, comparing ours must not take a whole core.
                pause_s = 0.0 if repaired else _REST * (self.now_s() - begun_s)
                self._rested_s[family] = self.now_s() + pause_s
            if retry and program.left_out:
                self._note(family, program, program.retry_left_out())
            if idle or program.dead_chains > _MANY_DEAD_CHAINS:
                program.sweep()
            if idle:
                self._judge(program)

    def _is_due(self, what: str, every_s: float) -> bool:
        """Whether `every_s` has passed since this was last true (or first asked)."""
        now_s = self.now_s()
        if now_s - self._last_s.setdefault(what, now_s) < every_s:
            return False
        self._last_s[what] = now_s
        return True

    def _facts(self, changes: Changes) -> NodeFacts:
        node = self.node = next((n for n in changes.nodes if n.name == self.node_name), None)
        if node is not None:
            self._node = NodeFacts.of(node)
        elif self._node is None and self.source.waits_for_node:
            self._tell(
                f"the cluster has no Node named {self.node_name!r} yet: Services are forwarded, but without "
                "its zone and addresses; check --node-name if it stays so"
            )
            return NodeFacts(self.node_name)
        elif self._node is None:
            known = ", ".join(n.name for n in changes.nodes) or "none"
            raise UserError(
                f"the cluster has no Node named {self.node_name!r} (there are: {known}); add its manifest, "
                "or name another one",
                field="--node-name",
            )
        else:
            self._tell("the Node of this machine is gone, going on with what was known of it")
        return self._node

    def _prepare_kernel(self) -> None:
        """Only for families that have something to forward: hosts without IPv6 Services stay as they are."""
        for family in self.programs:
            if any(state for key, state in self._waiting.items() if key.family is family):
                for complaint in prepare(self.sysctls, family):
                    self._tell(complaint)

    def _warn_of_missing_families(self) -> None:
        for key in [key for key in self._waiting if key.family not in self.programs]:
            if self._waiting.pop(key) is not None:
                self._tell(f"{key.family} is not available on this machine: its Services are not forwarded")

    def _warn_of_conflicts(self) -> None:
        for program in self.programs.values():
            for frontend, won, lost in program.table.conflicts():
                sentence = f"{_text(frontend)} is claimed twice: {won.key} has it, {lost.key} does not"
                # Every node sees it; those where the Service has an endpoint tell the cluster.
                if self._tell(sentence) and program.table.states[lost.key].choice.local:
                    self.observer.conflict(lost.key, sentence)

    def _tell(self, warning: str) -> bool:
        """Each warning once, unless many others were said since. Whether it was said now."""
        if warning in self._told:
            return False
        self._told[warning] = None
        if len(self._told) > _REMEMBERED:
            del self._told[next(iter(self._told))]
        log.warning(warning)
        return True


def _text(frontend: Frontend) -> str:
    where = frontend.address or "nodePort"
    return f"{where} {frontend.port}/{frontend.protocol}"
