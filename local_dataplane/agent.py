"""The node agent: reads the cluster, keeps the kernel true to it, and says what it did."""

from __future__ import annotations

import logging
import threading
import time
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from lbprov.cluster import Snapshot
from lbprov.model import IPFamily, LbprovError, UserError
from local_dataplane.config import NodeFacts
from local_dataplane.flow_keeper import FlowKeeper
from local_dataplane.kernel.seam import Busy
from local_dataplane.kernel.sysctl import Sysctls, prepare
from local_dataplane.program import FamilyProgram, Written
from local_dataplane.table import Frontend, PortKey, ServiceState, TableBuilder

log = logging.getLogger("local_dataplane")

CHECK_S = 2.0
"""How often somebody else's changes are looked for; a look costs microseconds."""

THOROUGH_S = 120.0
"""How often our rules are compared whatever the look says."""

RETRY_LEFT_OUT_S = 60.0
_BACKOFF_S = (0.2, 1.0, 5.0, 15.0)
_MANY_DEAD_CHAINS = 500
_REST = 10  # times as long as a comparison took, until the next


class Source(typing.Protocol):
    """Where the cluster is read: a folder of manifests."""

    def snapshot(self) -> Snapshot: ...

    def fingerprint(self) -> str: ...

    def wait_for_change(self, fingerprint: str, timeout_s: float, stop: threading.Event) -> bool: ...


@dataclass(slots=True)
class Agent:
    """One node's dataplane. `programs`: family -> its chains in the kernel.

    `run` returns when `stop` is set; the rules stay. Nothing that is wrong with one Service, or for a while
    with the world, ends it."""

    source: Source
    node_name: str
    programs: Mapping[IPFamily, FamilyProgram]
    flows: FlowKeeper
    sysctls: Sysctls
    take_over: Callable[[], None] = lambda: None
    """Called once after the first success: an earlier run's rules in the other backend may go."""
    now_s: Callable[[], float] = time.monotonic
    _builder: TableBuilder = field(default_factory=TableBuilder)
    _node: NodeFacts | None = None
    _waiting: dict[PortKey, ServiceState | None] = field(default_factory=dict)  # decided, not yet written
    _told: set[str] = field(default_factory=set)
    _took_over: bool = False
    _last_s: dict[str, float] = field(default_factory=dict)
    _rested_s: dict[IPFamily, float] = field(default_factory=dict)

    def run(self, stop: threading.Event) -> None:
        failures = 0
        changed = True
        while not stop.is_set():
            try:
                fingerprint = self.source.fingerprint()
                if changed or failures:
                    self.apply(self.source.snapshot())
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
                changed = self.source.wait_for_change(fingerprint, CHECK_S, stop)

    def run_once(self) -> bool:
        """Apply the cluster as it is and tidy up. False where anything was left out."""
        while True:
            try:
                snapshot = self.source.snapshot()
                refused = self.apply(snapshot)
                for program in self.programs.values():
                    program.sweep()
            except Busy as busy:
                log.info("not applied, trying again", extra={"reason": str(busy)})
                time.sleep(_BACKOFF_S[0])
            else:
                return not refused and not any(problem.fatal for problem in snapshot.problems)

    def apply(self, snapshot: Snapshot) -> dict[PortKey, str]:
        """Make the kernel forward as the snapshot says; returns what the kernel refused, and why."""
        begun_s = self.now_s()
        for problem in snapshot.problems:
            self._tell(str(problem))
        node = self._facts(snapshot)
        changes = self._builder.update(snapshot.services, snapshot.endpoint_slices, node)
        self._waiting |= changes
        for program in self.programs.values():
            program.ruleset.set_node(node)
        self._warn_of_missing_families()
        self._prepare_kernel()
        written = self._write()
        if not self._took_over:
            self.take_over()
            self._took_over = True
        self._warn_of_conflicts()
        log.info(
            "applied",
            extra={
                "node": self.node_name,
                "services": self._builder.service_count,
                "rules": written.rules,
                "duration_ms": round((self.now_s() - begun_s) * 1000, 1),
                "version": snapshot.version,
                **({"left_out": len(written.refused)} if written.refused else {}),
            },
        )
        return written.refused

    def _write(self) -> Written:
        """What is waiting, family by family; the trouble of one does not stop the other."""
        written, trouble = Written(), None
        for family, program in self.programs.items():
            own = {key: state for key, state in self._waiting.items() if key.family is family}
            try:
                written += program.apply(own)
            except LbprovError as error:
                trouble = error
                continue
            for key in own:
                del self._waiting[key]
            self.flows.judge(program)
        if trouble:
            raise trouble
        return written

    def _tend(self, *, idle: bool) -> None:
        """What is due between two changes."""
        thoroughly = self._is_due("thorough", THOROUGH_S)
        retry = self._is_due("left out", RETRY_LEFT_OUT_S)
        for family, program in self.programs.items():
            begun_s = self.now_s()
            if thoroughly or begun_s >= self._rested_s.get(family, begun_s):
                repaired = program.check(thoroughly=thoroughly)
                # Where others change their rules all the time, comparing ours must not take a whole core.
                pause_s = 0.0 if repaired else _REST * (self.now_s() - begun_s)
                self._rested_s[family] = self.now_s() + pause_s
            if retry:
                program.retry_left_out()
            if idle or program.dead_chains > _MANY_DEAD_CHAINS:
                program.sweep()
            self.flows.judge(program)

    def _is_due(self, what: str, every_s: float) -> bool:
        """Whether `every_s` has passed since this was last true (or first asked)."""
        now_s = self.now_s()
        if now_s - self._last_s.setdefault(what, now_s) < every_s:
            return False
        self._last_s[what] = now_s
        return True

    def _facts(self, snapshot: Snapshot) -> NodeFacts:
        node = next((n for n in snapshot.nodes if n.name == self.node_name), None)
        if node is not None:
            self._node = NodeFacts.of(node)
        elif self._node is None:
            known = ", ".join(n.name for n in snapshot.nodes) or "none"
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
            for frontend, won, lost in program.ruleset.table.conflicts():
                self._tell(f"{_text(frontend)} is claimed twice: {won.key} has it, {lost.key} does not")

    def _tell(self, warning: str) -> None:
        """Each warning once."""
        if warning not in self._told:
            self._told.add(warning)
            log.warning(warning)


def _text(frontend: Frontend) -> str:
    where = frontend.address or "nodePort"
    return f"{where} {frontend.port}/{frontend.protocol}"
