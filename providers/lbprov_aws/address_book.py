"""Who has the addresses that Services ask for. The IO half of `addresses`.

Elastic IPs are looked up when a load balancer is about to be made, those that other Services wait for in the
same call, and from then on only as often as the rest of the world is looked at. Two Services that want one
address before either has it are settled here: the older one gets it, whichever of them is looked at first
(see `rivals`).
"""

from __future__ import annotations

import dataclasses
import math
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import repeat

from lbprov.api import LoadBalancer, ObjectKey, Owner, RetryLater
from lbprov_aws import ec2, names
from lbprov_aws.cloud import Cloud
from lbprov_aws.ec2 import ElasticIp
from lbprov_aws.inventory import Inventory
from lbprov_aws.refusals import Denied
from lbprov_aws.resources import Address, AddressUse, owner_of
from lbprov_aws.rivals import Rank, Rivals, rank
from lbprov_aws.wishes import POOL, is_by_tag, tag_pairs

LINGER_S = 300.0
"""So long we wait for an address that a deleted load balancer of ours still holds (it takes AWS minutes)."""
RETRY_S = 15.0
_CLAIM_S = 600.0
SHARED_S = 5.0
"""So long an address counts as free that was found to be so on behalf of another Service."""
PER_CALL = 200
"""As many values a filter may have (EC2 API reference, "Filter")."""

_ELB_INTERFACE = re.compile(r"ELB net/(?P<name>[^/]+)/")
"""How ELB describes the interfaces of a Network Load Balancer."""


@dataclass(frozen=True, slots=True)
class _Claim:
    created_at: str
    service: ObjectKey
    at_s: float

    @property
    def rank(self) -> Rank:
        return rank(self.created_at, self.service)


@dataclass(frozen=True, slots=True)
class _Seen:
    """`for_others`: it was free, and nobody has asked for it yet."""

    found: ElasticIp | Denied | None
    at_s: float
    for_others: bool = False


Found = tuple[ElasticIp, ...] | Denied
"""What is found of one wish of a list."""


def _filters(wish: str) -> list[dict[str, object]]:
    return [{"Name": f"tag:{key}", "Values": [value]} for key, value in sorted(tag_pairs(wish))]


def _older(service: ObjectKey) -> str:
    return f"Service {service}, which is older and asks for it too"


class AddressBook:
    """Safe for threads."""

    def __init__(
        self, cloud: Cloud, inventory: Inventory, rivals: Rivals, now_s: Callable[[], float]
    ) -> None:
        self._cloud = cloud
        self._inventory = inventory
        self._rivals = rivals
        self._now_s = now_s
        self._lock = threading.Lock()
        self._seen: dict[str, _Seen] = {}
        self._seen_lists: dict[str, tuple[Found, float]] = {}
        self._claims: dict[str, dict[Owner, _Claim]] = {}
        self._released: dict[str, float] = {}
        """Allocation id -> when we deleted the load balancer that had it."""
        self._waiting_since_s: dict[tuple[Owner, str], float] = {}

    def for_new(self, desired: LoadBalancer, ip: str) -> Address:
        """For a load balancer about to be made. Raises `RetryLater` while the address is being released by
        a load balancer of ours that is gone, for at most `LINGER_S`."""
        self._claim(desired, ip)
        with self._lock:
            seen = self._seen.get(ip)
        if seen is not None and seen.for_others and self._now_s() - seen.at_s < SHARED_S:
            # Should it be taken meanwhile, AWS refuses it, and it is looked at again.
            return self._judge(desired.owner, ip, seen.found)
        return self.look_again(desired.owner, ip)

    def for_live(self, desired: LoadBalancer, ip: str) -> Address:
        """For a load balancer that exists and does not have the address: from memory where that is not
        too old."""
        self.withdraw(desired.owner)
        with self._lock:
            seen = self._seen.get(ip)
        old = seen is None or self._now_s() - seen.at_s >= self._inventory.max_age_s
        found = self._look(ip) if seen is None or old else seen.found
        return self._judge(desired.owner, ip, found, rank(desired.created_at, desired.owner.service))

    def look_again(self, owner: Owner, ip: str) -> Address:
        """After AWS refused it. Raises `RetryLater` as `for_new`."""
        found = self._look(ip, beside=self._rivals.addresses(owner))
        address = self._judge(owner, ip, found)
        if address.use is AddressUse.IN_USE and isinstance(found, ElasticIp) and self._is_lingering(found):
            self._wait(owner, ip)
        return address

    def for_list(self, desired: LoadBalancer, wishes: tuple[str, ...], *, new: bool) -> tuple[Address, ...]:
        """Of addresses that a list asks for: each wish's, those that are free first. `new`: for a load
        balancer about to be made (as `for_new`); otherwise from memory where that is not too old."""
        if new:
            self._withdraw_claims(desired.owner)
        else:
            self.withdraw(desired.owner)
        found = self._look_list(wishes, remembered=not new)
        return tuple(
            address for wish in wishes for address in self._of_wish(desired, wish, found[wish], new=new)
        )

    def are_free(self, owner: Owner, allocation_ids: tuple[str, ...]) -> bool:
        """After AWS refused them. Raises `RetryLater` as `for_new`."""
        found = self._look_list(allocation_ids, remembered=False)
        free = True
        for answer in found.values():
            for ip in () if isinstance(answer, Denied) else answer:
                if self._judge(owner, ip.ip, ip).use is AddressUse.IN_USE and self._is_lingering(ip):
                    self._wait(owner, ip.ip)
            first = answer[0] if answer and not isinstance(answer, Denied) else None
            free &= first is not None and self._judge(owner, first.ip, first).use is AddressUse.FREE
        return free

    def _of_wish(self, desired: LoadBalancer, wish: str, found: Found, *, new: bool) -> Iterator[Address]:
        """One of several is claimed only where it is free, and rather one that nobody else claims."""
        if isinstance(found, Denied) or not found:
            nobody = found if isinstance(found, Denied) else None
            yield dataclasses.replace(self._judge(desired.owner, "", nobody), wish=wish)
            return
        several, needed = is_by_tag(wish), math.inf if wish.startswith(POOL) else 1
        promised = self._promised(desired, wish, found) if new and several else iter(())
        ranked = sorted(found, key=lambda ip: (self._is_claimed(desired.owner, ip), ip.allocation_id))
        answers: list[Address] = []
        for ip in ranked:
            if new and needed > 0:
                self._claim(desired, ip.ip)
            address = dataclasses.replace(self._judge(desired.owner, ip.ip, ip), wish=wish)
            if address.use is AddressUse.FREE and (holder := next(promised, "")):
                address = dataclasses.replace(address, use=AddressUse.IN_USE, holder=holder, is_promised=True)
            answers.append(address)
            if address.use is AddressUse.FREE:
                needed -= 1
            elif several:
                self._unclaim(desired.owner, ip.ip)
            elif new and self._is_lingering(ip):
                self._wait(desired.owner, ip.ip)
        yield from sorted(answers, key=lambda a: a.use is not AddressUse.FREE)

    def _look_list(self, wishes: tuple[str, ...], *, remembered: bool) -> dict[str, Found]:
        now_s = self._now_s()
        with self._lock:
            seen = {w: s for w, s in self._seen_lists.items() if now_s - s[1] < self._inventory.max_age_s}
        found = {w: seen[w][0] for w in wishes if remembered and w in seen}
        unknown = [w for w in wishes if w not in found]
        by_id = [w for w in unknown if w.startswith("eipalloc-")]
        by_ip = [w for w in unknown if not is_by_tag(w) and w not in by_id]
        try:
            for filter_, values in (("allocation-id", by_id), ("public-ip", by_ip)):
                answers = self._purposes(ec2.elastic_ips(self._cloud, filter_, values)) if values else ()
                for value in values:
                    found[value] = tuple(a for a in answers if value in (a.allocation_id, a.ip))
            for wish in (w for w in unknown if is_by_tag(w)):
                found[wish] = self._purposes(ec2.elastic_ips_of(self._cloud, _filters(wish)))
        except Denied as denied:
            found |= {w: denied for w in unknown if w not in found}
        with self._lock:
            self._seen_lists |= {w: (found[w], now_s) for w in unknown}
        return found

    def _purposes(self, found: tuple[ElasticIp, ...]) -> tuple[ElasticIp, ...]:
        return tuple(self._with_purpose(ip) for ip in found)

    def _with_purpose(self, found: ElasticIp) -> ElasticIp:
        if not found.interface or found.instance:
            return found
        return dataclasses.replace(found, purpose=ec2.interface_description(self._cloud, found.interface))

    def _promised(self, desired: LoadBalancer, wish: str, found: tuple[ElasticIp, ...]) -> Iterator[str]:
        """Who gets the first free ones of what is found, one by one: older Services with the same wish that
        have not had their turn yet, and so have not claimed any."""
        mine = rank(desired.created_at, desired.owner.service)
        with self._lock:
            claimed = {owner for ip in found for owner in self._claims.get(ip.ip, ())}
        older = [
            (rival, theirs)
            for rival, theirs in self._rivals.tagging(desired.owner, wish)
            if rival.rank < mine and rival.owner not in claimed
        ]
        for rival, theirs in sorted(older, key=lambda pair: pair[0].rank):
            yield from repeat(_older(rival.owner.service), len(found) if theirs.startswith(POOL) else 1)

    def _is_claimed(self, owner: Owner, found: ElasticIp) -> bool:
        """By somebody else."""
        return bool(self._claimants(owner, found))

    def _claimants(self, owner: Owner, found: ElasticIp) -> list[Rank]:
        """The others that ask for this very one: what they asked for at their turn, or will ask for."""
        now_s = self._now_s()
        with self._lock:
            claims = self._claims.get(found.ip, {})
            seen = [c.rank for o, c in claims.items() if o != owner and now_s - c.at_s < _CLAIM_S]
        return seen + [r.rank for r in self._rivals.naming(owner, (found.ip, found.allocation_id))]

    def _unclaim(self, owner: Owner, ip: str) -> None:
        with self._lock:
            self._claims.get(ip, {}).pop(owner, None)

    def _wait(self, owner: Owner, ip: str) -> None:
        """Raises `RetryLater`, unless we have been waiting for this for long enough."""
        now_s = self._now_s()
        with self._lock:
            since_s = self._waiting_since_s.setdefault((owner, ip), now_s)
        if now_s - since_s < LINGER_S:
            raise RetryLater(f"{ip} is being released by a load balancer that was deleted", RETRY_S)

    def withdraw(self, owner: Owner) -> None:
        """The owner has its load balancer, or wants none."""
        self._withdraw_claims(owner)
        with self._lock:
            self._waiting_since_s = {k: v for k, v in self._waiting_since_s.items() if k[0] != owner}

    def _withdraw_claims(self, owner: Owner) -> None:
        with self._lock:
            for claims in self._claims.values():
                claims.pop(owner, None)

    def released(self, allocation_ids: tuple[str, ...]) -> None:
        """We deleted a load balancer that had these."""
        with self._lock:
            self._seen.clear()
            self._seen_lists.clear()
            self._released |= dict.fromkeys(filter(None, allocation_ids), self._now_s())

    def _claim(self, desired: LoadBalancer, ip: str) -> None:
        claim = _Claim(desired.created_at, desired.owner.service, self._now_s())
        with self._lock:
            self._claims.setdefault(ip, {})[desired.owner] = claim

    def _look(self, ip: str, *, beside: frozenset[str] = frozenset()) -> ElasticIp | Denied | None:
        """Throttling and outages are raised: they must not decide an address. What is found `beside` it is
        remembered if it is free: whether it is anything else is asked when its own turn comes."""
        found: ElasticIp | Denied | None
        others: list[ElasticIp] = []
        try:
            wanted = (ip, *sorted(beside - {ip}))[:PER_CALL]
            answers = {a.ip: a for a in ec2.elastic_ips(self._cloud, "public-ip", wanted)}
            found = answers.pop(ip, None)
            found = found and self._with_purpose(found)
            others = [a for a in answers.values() if not a.associated]
        except Denied as denied:
            found = denied
        now_s = self._now_s()
        with self._lock:
            self._seen[ip] = _Seen(found, now_s)
            self._seen |= {other.ip: _Seen(other, now_s, for_others=True) for other in others}
        return found

    def _judge(
        self, owner: Owner, ip: str, found: ElasticIp | Denied | None, mine: Rank | None = None
    ) -> Address:
        """`mine`: of who has no claim, since it has a load balancer without the address."""
        if isinstance(found, Denied):
            return Address(ip, AddressUse.UNKNOWN, message=str(found))
        if found is None:
            return Address(ip, AddressUse.ABSENT)
        if found.domain != "vpc":
            return Address(ip, AddressUse.UNFIT, message=f"its domain is {found.domain}, not vpc")
        if found.border_group not in ("", self._cloud.region):
            message = f"it belongs to the network border group {found.border_group}"
            return Address(ip, AddressUse.UNFIT, message=message)
        if holder := self._holder(found):
            return Address(ip, AddressUse.IN_USE, found.allocation_id, holder)
        if heir := self._heir(owner, found, mine):
            return Address(ip, AddressUse.IN_USE, found.allocation_id, heir, is_promised=True)
        return Address(ip, AddressUse.FREE, found.allocation_id)

    def _holder(self, found: ElasticIp) -> str:
        """Who has it; empty: nobody."""
        for balancer in self._inventory.load_balancers():
            if any(zone.allocation_id == found.allocation_id for zone in balancer.zones):
                has = owner_of(balancer)
                return f"the load balancer of Service {has.service}" if has else balancer.name
        return self._describe(found) if found.associated else ""

    def _heir(self, owner: Owner, found: ElasticIp, mine: Rank | None) -> str:
        """Who is to have it before `owner`; empty: nobody."""
        with self._lock:
            claim = self._claims.get(found.ip, {}).get(owner)
        mine = claim.rank if claim else mine
        first = min(self._claimants(owner, found), default=None) if mine is not None else None
        return _older(first[1]) if mine is not None and first is not None and first < mine else ""

    @staticmethod
    def _describe(found: ElasticIp) -> str:
        if found.instance:
            return f"instance {found.instance}"
        return f"network interface {found.interface}" + (f" ({found.purpose})" if found.purpose else "")

    def _is_lingering(self, found: ElasticIp) -> bool:
        """Whether what holds it is the rest of a load balancer of ours that is deleted."""
        with self._lock:
            released_at_s = self._released.get(found.allocation_id)
        if released_at_s is not None and self._now_s() - released_at_s < LINGER_S:
            return True
        match = _ELB_INTERFACE.match(found.purpose)
        if match is None or not match["name"].startswith(names.PREFIX):
            return False
        alive = {balancer.name for balancer in self._inventory.load_balancers()}
        return match["name"] not in alive and not self._inventory.taken([match["name"]])
