"""What all Services of ours ask for, as they are known now.

A provider that has one thing for two Services (an address) has to know of the other one before that has had
its turn: with several workers, and at a start, the order of turns says nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from lbprov.api import LoadBalancer, ProviderSpec, UserError
from lbprov.logic import conditions
from lbprov.logic.desired import desired_for
from lbprov.logic.selection import Claimant, Decision, decide, owner_of
from lbprov.model import ObjectKey, Service


class Asked:
    """Safe for threads. Nothing is known before `follow`."""

    def __init__(self, cluster: str, spec: ProviderSpec, claimant: Claimant) -> None:
        self._cluster = cluster
        self._spec = spec
        self._claimant = claimant
        self._services: Callable[[], Iterable[Service]] = tuple
        self._lock = threading.Lock()
        self._known: dict[ObjectKey, tuple[Service, LoadBalancer | None]] = {}

    def follow(self, services: Callable[[], Iterable[Service]]) -> None:
        """`services`: all that there are now."""
        self._services = services

    def __call__(self) -> tuple[LoadBalancer, ...]:
        """Without targets, in no order; none of a Service that asks for what cannot be, as far as its ports
        or its condition Ready tell."""
        with self._lock:
            # A Service that is unchanged is the same object: of ten thousand few are read anew.
            known: dict[ObjectKey, tuple[Service, LoadBalancer | None]] = {}
            for service in self._services():
                before = self._known.get(service.key)
                if before is None or before[0] is not service:
                    before = service, self._read(service)
                known[service.key] = before
            self._known = known
            return tuple(desired for _, desired in known.values() if desired is not None)

    def _read(self, service: Service) -> LoadBalancer | None:
        if decide(service, self._claimant) is not Decision.ENSURE or conditions.is_refused(service):
            return None
        owner = owner_of(self._cluster, service)
        try:
            return desired_for(service, (), owner, needs_node_ports=self._spec.needs_node_ports)
        except UserError:
            return None
