"""Seals, read, written and taken off. The IO half of `seals`.

A seal is a note to our next process and nothing that anybody wants: where it cannot be written, all goes on
without it.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable, Iterator

from lbprov.api import LbprovError, LoadBalancer, Memo, Owner, RetryLater, Target
from lbprov_aws import elbv2, names, seals, writes
from lbprov_aws.cloud import Cloud
from lbprov_aws.doubts import Doubts
from lbprov_aws.inventory import Inventory
from lbprov_aws.observe import Observer
from lbprov_aws.refusals import GONE, Denied, Refused
from lbprov_aws.resources import LoadBalancerRecord, Observed, owner_of, replace_tags

_log = logging.getLogger(__name__)


class SealBook:
    """Safe for threads. `recheck_s`: how often everything is looked at anew; 0: no seal is written or
    believed. `memo` None: what makes a seal untrue costs a call that takes it off, and one that writes the
    next."""

    def __init__(
        self,
        cloud: Cloud,
        inventory: Inventory,
        observer: Observer,
        now_s: Callable[[], float],
        recheck_s: float,
        memo: Memo | None,
    ) -> None:
        self._cloud = cloud
        self._inventory = inventory
        self._observer = observer
        self._now_s = now_s
        self._recheck_s = recheck_s
        self._doubts = Doubts(memo, self._inherited, self._world) if memo is not None and recheck_s else None
        self._lock = threading.Lock()
        self._began_s: float | None = None
        self._settled: dict[Owner, int] = {}
        """The last write of ours to what an owner has that is under its seal."""
        self._unsure: set[Owner] = set()
        """Whose load balancers may have a seal that we do not know of: nobody answered whether it was
        written."""
        self._nodes: tuple[tuple[Target, ...], str] = ((), "")
        """Those that were digested last, the same for all."""

    def believed(self, desired: LoadBalancer) -> Observed | None:
        """What is there, if an earlier process verified just this. Only at the beginning: re-checks come
        half a period later at the earliest, and look at everything."""
        if not self._recheck_s:
            return None
        book = self._begin(desired)
        with self._lock:
            self._began_s = self._now_s() if self._began_s is None else self._began_s
            if self._now_s() - self._began_s >= self._recheck_s / 2:
                return None
        doubts, uid, nodes = self._doubts, desired.owner.uid, self._digest(desired)
        if doubts is not None and not doubts.holds(uid, "" if seals.picks_nodes(desired) else nodes):
            return None

        def is_sealed(observed: Observed) -> bool:
            return seals.mark(observed) == seals.digest(desired, observed, book)

        found = self._observer.without_details(desired, is_sealed)
        if found is not None and doubts is not None:
            doubts.settle(uid, nodes)
        return found

    def seal(self, desired: LoadBalancer, observed: Observed) -> None:
        """At the first look, and when what we wrote since has become all that is wanted: one write, if the
        seal says something else. What changed nothing on AWS is worth no call, and while calls queue up for
        their turn it can wait until the next look."""
        live = observed.load_balancer
        if not self._recheck_s or live is None:
            return
        book, owner, nodes = self._begin(desired), desired.owner, self._digest(desired)
        with self._lock:
            settled = self._settled.get(owner, -1)
        is_known = self._doubts is None or self._doubts.holds(owner.uid, nodes)
        if self._inventory.last_write(owner) <= settled and is_known:
            return
        if not seals.is_settled(desired, observed):
            return
        if (digest := seals.digest(desired, observed, book)) != seals.mark(observed):
            if not elbv2.is_idle(self._cloud):
                return
            if self._doubts is not None:
                self._doubts.expect_seal(owner.uid, nodes, any_nodes=seals.picks_nodes(desired))
            is_sealed = self._write(owner, live, digest)
        else:
            is_sealed = True
        if is_sealed and self._doubts is not None:
            self._doubts.settle(owner.uid, nodes)
        with self._lock:
            self._settled[owner] = self._inventory.last_write(owner)

    def before(self, write: writes.Write) -> None:
        """Whoever comes after us believes no seal that the write makes untrue. Raises `RetryLater` and
        `ProviderError`."""
        if not seals.breaks(write):
            return
        owner = write.owner
        with self._lock:
            is_unsure = owner in self._unsure
        book = self._doubts.begin() if self._doubts is not None else ""
        for balancer in self._balancers(owner):
            mark = dict(balancer.tags).get(names.SEAL, "")
            may_be_sealed = bool(mark) or is_unsure
            if self._doubts is not None and (not mark or seals.is_of(book, mark)):
                # A listing lags, and may not show yet what a process before us wrote.
                if may_be_sealed or not self._inventory.is_made_here(balancer.arn):
                    self._doubts.doubt(owner.uid)
            elif may_be_sealed:
                self._take_off(balancer, owner)

    def forget(self, owner: Owner) -> None:
        """Nothing of the owner's is left."""
        if self._doubts is not None:
            self._doubts.forget(owner.uid)
        with self._lock:
            self._settled.pop(owner, None)
            self._unsure.discard(owner)

    def _begin(self, desired: LoadBalancer) -> str:
        """The book that seals are of."""
        if self._doubts is None:
            return ""
        self._inventory.refresh()
        book = self._doubts.begin()
        self._doubts.wants(self._digest(desired))
        return book

    def _digest(self, desired: LoadBalancer) -> str:
        nodes, digest = self._nodes
        if nodes is not desired.targets or not digest:
            digest = seals.targets_digest(desired.targets)
            self._nodes = desired.targets, digest
        return digest

    def _inherited(self) -> Iterator[str]:
        """Uids of owners."""
        for balancer in self._inventory.load_balancers():
            owner = owner_of(balancer)
            if owner is not None and not self._inventory.is_made_here(balancer.arn):
                yield owner.uid

    def _world(self) -> str:
        """Of the cluster, and the partition, region and account that its load balancers are in: told by
        their ARNs, which cost no call. Without any, nothing is sealed."""
        places = {tuple(b.arn.split(":")[1:5]) for b in self._inventory.load_balancers()}
        return hashlib.sha256(repr((self._inventory.cluster, sorted(places))).encode()).hexdigest()[:8]

    def _balancers(self, owner: Owner) -> list[LoadBalancerRecord]:
        return [r for r in self._inventory.of(owner) if isinstance(r, LoadBalancerRecord)]

    def _write(self, owner: Owner, live: LoadBalancerRecord, digest: str) -> bool:
        try:
            elbv2.set_tags(self._cloud, live.arn, ((names.SEAL, digest),))
        except LbprovError as error:
            _log.debug("not sealed", extra={"service": str(owner.service), "why": str(error)})
            if not isinstance(error, Denied):
                with self._lock:
                    self._unsure.add(owner)
            return False
        record = self._inventory.get(live.arn)
        if isinstance(record, LoadBalancerRecord):
            self._inventory.put(replace_tags(record, {names.SEAL: digest}, ()))
        return True

    def _take_off(self, balancer: LoadBalancerRecord, owner: Owner) -> None:
        record = self._inventory.require_own(balancer.arn, owner)
        try:
            elbv2.remove_tags(self._cloud, balancer.arn, (names.SEAL,))
        except Denied as error:
            # Nobody is held up by a note that must stay: should it become true again, a re-check will tell.
            _log.debug("the seal stays", extra={"service": str(owner.service), "why": str(error)})
            return
        except Refused as refusal:
            if refusal.code not in GONE:
                raise
            # Deleted by somebody, as it will show: then it is made anew.
            self._inventory.doubt()
            raise RetryLater(f"{refusal}: looking again", 2) from refusal
        self._inventory.put(replace_tags(record, {}, (names.SEAL,)))
        with self._lock:
            self._unsure.discard(owner)
