"""The health check node ports of Services: opened and closed as the Services come and go."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from lbprov.model import IPFamily, ObjectKey
from local_dataplane.health import HealthCheck, check_answer, health_check
from local_dataplane.http_ports import Answer, HttpPorts
from local_dataplane.source import Changes

log = logging.getLogger("local_dataplane")

RETRY_S = 1.0
"""Little: when kube-proxy ends, load balancers ask us at once."""

EVERYWHERE: Mapping[IPFamily, str] = {IPFamily.IPV4: "0.0.0.0", IPFamily.IPV6: "::"}  # noqa: S104 - as NodePorts


@dataclass(slots=True)
class HealthChecks:
    """- `is_healthy`: whether this node forwards as it should at all.
    - `addresses(family)`: where to listen, if not on every address.
    - `on_trouble(service, sentence)`: a port cannot be had; it is tried again, and said again by nobody.
    """

    ports: HttpPorts
    node_name: str
    is_healthy: Callable[[], bool] = lambda: True
    on_trouble: Callable[[ObjectKey, str], None] = lambda _key, _sentence: None
    addresses: Callable[[IPFamily], tuple[str, ...]] = lambda _family: ()
    now_s: Callable[[], float] = time.monotonic
    _wanted: dict[ObjectKey, HealthCheck] = field(default_factory=dict)
    _closed: dict[tuple[ObjectKey, IPFamily], str] = field(default_factory=dict)  # wanted, not had -> why
    _tried_s: float = 0.0

    def learn(self, changes: Changes) -> None:
        gone = self._wanted.keys() - changes.services.keys() if changes.complete else ()
        for key in gone:
            self._set(key, None)
        for key, backing in changes.services.items():
            self._set(key, health_check(backing, self.node_name))

    def tend(self) -> None:
        """Try again what could not be opened."""
        if self._closed and self.now_s() - self._tried_s >= RETRY_S:
            for key, family in list(self._closed):
                self._open(key, family, self._wanted[key].port)

    def _set(self, key: ObjectKey, check: HealthCheck | None) -> None:
        before = self._wanted.get(key)
        if check == before:
            return
        had = {family for family, _ in before.local} if before else set()
        wants = {family for family, _ in check.local} if check else set()
        if check is None:
            del self._wanted[key]
        else:
            self._wanted[key] = check
        is_moved = bool(before and check and before.port != check.port)
        for family in had if is_moved else had - wants:
            self.ports.close((key, family))
            self._closed.pop((key, family), None)
        for family in sorted(wants if is_moved else wants - had):
            assert check is not None
            self._open(key, family, check.port)

    def _open(self, key: ObjectKey, family: IPFamily, port: int) -> None:
        self._tried_s = self.now_s()
        where = [(address, port) for address in self.addresses(family) or (EVERYWHERE[family],)]
        try:
            self.ports.open((key, family), where, lambda _path, _accept: self._answer(key, family))
        except OSError as error:
            why = f"{family} port {port} cannot be opened: {error.strerror or error}"
            if self._closed.get((key, family)) != why:
                self._closed[key, family] = why
                log.warning("no health check for a Service", extra={"service": str(key), "reason": why})
                self.on_trouble(key, why)
            return
        if self._closed.pop((key, family), None):
            log.info("a health check is answered now", extra={"service": str(key), "port": port})

    def _answer(self, key: ObjectKey, family: IPFamily) -> Answer:
        check = self._wanted.get(key)
        local = dict(check.local).get(family, 0) if check else 0
        return check_answer(key, local, self.is_healthy())
