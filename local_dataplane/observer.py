"""Who is told what the agent does: metrics, Events, health. The agent works the same if nobody listens."""

from __future__ import annotations

from dataclasses import dataclass

from lbprov.model import IPFamily
from local_dataplane.source import Changes
from local_dataplane.table import PortKey


@dataclass(frozen=True, slots=True)
class Applied:
    """One family is as the cluster says. `waited_s`: from the oldest change's arrival until now; None: no
    change that came in by itself (the start, a repair)."""

    family: IPFamily
    duration_s: float
    rules: int
    restores: int
    waited_s: float | None = None


class Observer:
    """Called on the agent's thread; must be quick and never raise. This one does nothing."""

    def learned(self, changes: Changes) -> None:
        """The cluster has changed; the kernel has not, yet."""

    def applied(self, done: Applied) -> None:
        """After each write that succeeded, also of nothing."""

    def failed(self, family: IPFamily | None, reason: str) -> None:
        """It is tried again. None: the cluster could not be read."""

    def refused(self, key: PortKey, reason: str) -> None:
        """The kernel will not have it: it is not forwarded until it says otherwise."""

    def accepted(self, key: PortKey) -> None:
        """What was refused is forwarded now, or wanted no longer."""

    def conflict(self, key: PortKey, sentence: str) -> None:
        """Another port has an address that this one claims, too. Said once."""

    def repaired(self, family: IPFamily) -> None:
        """Somebody else had changed our rules; they are as they should be again."""

    def flows_ended(self, count: int) -> None:
        """UDP flows that contradicted the table."""

    def tick(self) -> None:
        """Every few seconds, whatever else happens; for what is due from time to time."""
