"""Seals, read and written. The IO half of `seals`.

A seal is a note to our next process and nothing that anybody wants: where it cannot be written, all goes on
without it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from lbprov.api import LbprovError, LoadBalancer, Owner
from lbprov_aws import elbv2, names, seals
from lbprov_aws.cloud import Cloud
from lbprov_aws.inventory import Inventory
from lbprov_aws.observe import Observer
from lbprov_aws.resources import LoadBalancerRecord, Observed, replace_tags

_log = logging.getLogger(__name__)


class SealBook:
    """Safe for threads. `recheck_s`: how often everything is looked at anew; 0: there are no seals."""

    def __init__(
        self,
        cloud: Cloud,
        inventory: Inventory,
        observer: Observer,
        now_s: Callable[[], float],
        recheck_s: float,
    ) -> None:
        self._cloud = cloud
        self._inventory = inventory
        self._observer = observer
        self._now_s = now_s
        self._recheck_s = recheck_s
        self._lock = threading.Lock()
        self._began_s: float | None = None
        self._settled: dict[Owner, int] = {}
        """The last write of ours to what an owner has that is under its seal."""

    def believed(self, desired: LoadBalancer) -> Observed | None:
        """What is there, if an earlier process verified just this. Only at the beginning: re-checks come
        half a period later at the earliest, and look at everything."""
        if not self._recheck_s:
            return None
        with self._lock:
            self._began_s = self._now_s() if self._began_s is None else self._began_s
            if self._now_s() - self._began_s >= self._recheck_s / 2:
                return None

        def is_sealed(observed: Observed) -> bool:
            return seals.mark(observed) == seals.digest(desired, observed)

        return self._observer.without_details(desired, is_sealed)

    def seal(self, desired: LoadBalancer, observed: Observed) -> None:
        """At the first look, and when what we wrote since has become all that is wanted: one write, if the
        seal says something else. What changed nothing on AWS is worth no call, and while calls queue up for
        their turn it can wait until the next look."""
        live = observed.load_balancer
        if not self._recheck_s or live is None:
            return
        last_write = self._inventory.last_write(desired.owner)
        with self._lock:
            settled = self._settled.get(desired.owner, -1)
        if last_write <= settled or not elbv2.is_idle(self._cloud):
            return
        if not seals.is_settled(desired, observed):
            return
        if (digest := seals.digest(desired, observed)) != seals.mark(observed):
            self._write(desired.owner, live, digest)
        with self._lock:
            self._settled[desired.owner] = self._inventory.last_write(desired.owner)

    def _write(self, owner: Owner, live: LoadBalancerRecord, digest: str) -> None:
        try:
            elbv2.set_tags(self._cloud, live.arn, ((names.SEAL, digest),))
        except LbprovError as error:
            _log.debug("not sealed", extra={"service": str(owner.service), "why": str(error)})
            return
        record = self._inventory.get(live.arn)
        if isinstance(record, LoadBalancerRecord):
            self._inventory.put(replace_tags(record, {names.SEAL: digest}, ()))
