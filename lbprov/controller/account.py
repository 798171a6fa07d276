"""What one reconcile writes about its Service to the cluster: claim, finalizer, status, Events."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from lbprov.cluster.seam import Cluster
from lbprov.logic import conditions, events
from lbprov.logic.events import Reason
from lbprov.logic.selection import CLAIM, FINALIZER, Claimant, claim, claimed
from lbprov.model import Condition, Event, Ingress, LbprovError, RetryLater, Service


class UntoldError(Exception):
    """The cluster could not be written, which its cause says why. Whether it was all the same (the answer was
    lost) is not known: nothing is written on top of it before the Service has been read again."""


@dataclass(slots=True)
class Account:
    """`service` is the Service as it was read and then as it was written here. Events are collected and
    emitted together with the next status. `dry_run`: everything is kept here and nothing is written."""

    cluster: Cluster
    claimant: Claimant
    service: Service
    dry_run: bool = False
    events: list[Event] = field(default_factory=list)
    _emitted: int = 0

    def claim(self) -> bool:
        """Durable when it returns: the first write to the world comes after it. Claim before finalizer, so
        that a finalizer is never nobody's. Whether it is the first one: nothing can have been made before."""
        service = self.service
        if claimed(service) != self.claimant.provider:
            first = conditions.ready(Reason.ENSURING, "the load balancer is being made")
            told = () if service.condition(conditions.READY) else (first,)
            self._write(service.ingress, conditions.with_(service, claim(self.claimant), *told))
        if FINALIZER in service.finalizers or self.dry_run:
            return False
        with _told():
            self.cluster.add_finalizer(service.key, FINALIZER)
        self.service = replace(self.service, finalizers=(*service.finalizers, FINALIZER))
        return True

    def release(self) -> None:
        """Once a fresh look at the world has shown nothing of ours. The claim goes last: until then, whatever
        happens, it is known whose the finalizer is."""
        service = self.service
        self.emit()
        goes_now = bool(service.deleted_at) and set(service.finalizers) <= {FINALIZER}
        if not goes_now:
            self._write((), tuple(c for c in conditions.ours(service) if c.type == CLAIM))
        if FINALIZER in service.finalizers and not self.dry_run:
            with _told():
                self.cluster.remove_finalizer(service.key, FINALIZER)
        if not goes_now:
            self._write((), ())

    def record(self, ingress: Sequence[Ingress], ours: Sequence[Condition]) -> None:
        """Status (only if it differs) and what has happened."""
        self._write(tuple(ingress), conditions.in_order(ours))
        self.emit()

    def record_ready(self, state: Condition) -> None:
        """The one condition; everything else stays as it was."""
        self.record(self.service.ingress, conditions.with_(self.service, state))

    def _write(self, ingress: tuple[Ingress, ...], ours: tuple[Condition, ...]) -> None:
        if (ingress, ours) == (self.service.ingress, conditions.ours(self.service)):
            return
        if not self.dry_run:
            with _told():
                self.cluster.record_status(self.service.key, ingress, ours)
        theirs = tuple(c for c in self.service.conditions if not c.type.startswith(conditions.PREFIX))
        self.service = replace(self.service, ingress=ingress, conditions=(*theirs, *ours))

    def left_untold(self, why: BaseException | None) -> None:
        """The status could not be written: what has happened is told all the same, and so is a refusal."""
        if why is not None and not isinstance(why, RetryLater):
            self.events.append(events.failed(str(why)))
        self.emit()

    def emit(self) -> None:
        """What has happened and is not told yet."""
        new, self._emitted = self.events[self._emitted :], len(self.events)
        if new and not self.dry_run:
            self.cluster.emit(self.service.key, new)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except LbprovError as error:
        raise UntoldError(str(error)) from error
