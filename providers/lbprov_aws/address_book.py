"""Who has the addresses that Services ask for. The IO half of `addresses`.

Elastic IPs are looked up one by one when a load balancer is about to be made, and from then on only as often
as the rest of the world is looked at. Two Services that want one address before either has it are settled
here: the older one gets it.
"""

from __future__ import annotations

import dataclasses
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass

from lbprov.api import LoadBalancer, ObjectKey, Owner, RetryLater
from lbprov_aws import ec2, names
from lbprov_aws.cloud import Cloud
from lbprov_aws.ec2 import ElasticIp
from lbprov_aws.inventory import Inventory
from lbprov_aws.refusals import Denied
from lbprov_aws.resources import Address, AddressUse, owner_of

LINGER_S = 300.0
"""So long we wait for an address that a deleted load balancer of ours still holds (it takes AWS minutes)."""
RETRY_S = 15.0
_CLAIM_S = 600.0

_ELB_INTERFACE = re.compile(r"ELB net/(?P<name>[^/]+)/")
"""How ELB describes the interfaces of a Network Load Balancer."""


@dataclass(frozen=True, slots=True)
class _Claim:
    created_at: str
    service: ObjectKey
    at_s: float

    @property
    def rank(self) -> tuple[str, ObjectKey]:
        """The lowest wins: the oldest; a Service that says no time is younger than all that do."""
        return (self.created_at or "~", self.service)


@dataclass(frozen=True, slots=True)
class _Seen:
    found: ElasticIp | Denied | None
    at_s: float


class AddressBook:
    """Safe for threads."""

    def __init__(self, cloud: Cloud, inventory: Inventory, now_s: Callable[[], float]) -> None:
        self._cloud = cloud
        self._inventory = inventory
        self._now_s = now_s
        self._lock = threading.Lock()
        self._seen: dict[str, _Seen] = {}
        self._claims: dict[str, dict[Owner, _Claim]] = {}
        self._released: dict[str, float] = {}
        """Allocation id -> when we deleted the load balancer that had it."""
        self._waiting_since_s: dict[tuple[Owner, str], float] = {}

    def for_new(self, desired: LoadBalancer, ip: str) -> Address:
        """For a load balancer about to be made. Raises `RetryLater` while the address is being released by
        a load balancer of ours that is gone, for at most `LINGER_S`."""
        self._claim(desired, ip)
        return self.look_again(desired.owner, ip)

    def for_live(self, desired: LoadBalancer, ip: str) -> Address:
        """For a load balancer that exists and does not have the address: from memory where that is not
        too old."""
        self.withdraw(desired.owner)
        with self._lock:
            seen = self._seen.get(ip)
        old = seen is None or self._now_s() - seen.at_s >= self._inventory.max_age_s
        found = self._look(ip) if seen is None or old else seen.found
        return self._judge(desired.owner, ip, found)

    def look_again(self, owner: Owner, ip: str) -> Address:
        """After AWS refused it. Raises `RetryLater` as `for_new`."""
        found = self._look(ip)
        address = self._judge(owner, ip, found)
        if address.use is AddressUse.IN_USE and isinstance(found, ElasticIp) and self._is_lingering(found):
            self._wait(owner, ip)
        return address

    def _wait(self, owner: Owner, ip: str) -> None:
        """Raises `RetryLater`, unless we have been waiting for this for long enough."""
        now_s = self._now_s()
        with self._lock:
            since_s = self._waiting_since_s.setdefault((owner, ip), now_s)
        if now_s - since_s < LINGER_S:
            raise RetryLater(f"{ip} is being released by a load balancer that was deleted", RETRY_S)

    def withdraw(self, owner: Owner) -> None:
        """The owner has its load balancer, or wants none."""
        with self._lock:
            for claims in self._claims.values():
                claims.pop(owner, None)
            self._waiting_since_s = {k: v for k, v in self._waiting_since_s.items() if k[0] != owner}

    def released(self, allocation_ids: tuple[str, ...]) -> None:
        """We deleted a load balancer that had these."""
        with self._lock:
            self._seen.clear()
            self._released |= dict.fromkeys(filter(None, allocation_ids), self._now_s())

    def _claim(self, desired: LoadBalancer, ip: str) -> None:
        claim = _Claim(desired.created_at, desired.owner.service, self._now_s())
        with self._lock:
            self._claims.setdefault(ip, {})[desired.owner] = claim

    def _look(self, ip: str) -> ElasticIp | Denied | None:
        """Throttling and outages are raised: they must not decide an address."""
        found: ElasticIp | Denied | None
        try:
            found = ec2.elastic_ip(self._cloud, ip)
            if found is not None and found.interface and not found.instance:
                purpose = ec2.interface_description(self._cloud, found.interface)
                found = dataclasses.replace(found, purpose=purpose)
        except Denied as denied:
            found = denied
        with self._lock:
            self._seen[ip] = _Seen(found, self._now_s())
        return found

    def _judge(self, owner: Owner, ip: str, found: ElasticIp | Denied | None) -> Address:
        if isinstance(found, Denied):
            return Address(ip, AddressUse.UNKNOWN, message=str(found))
        if found is None:
            return Address(ip, AddressUse.ABSENT)
        if found.domain != "vpc":
            return Address(ip, AddressUse.UNFIT, message=f"its domain is {found.domain}, not vpc")
        if found.border_group not in ("", self._cloud.region):
            message = f"it belongs to the network border group {found.border_group}"
            return Address(ip, AddressUse.UNFIT, message=message)
        holder = self._holder(owner, found)
        use = AddressUse.IN_USE if holder else AddressUse.FREE
        return Address(ip, use, found.allocation_id, holder)

    def _holder(self, owner: Owner, found: ElasticIp) -> str:
        """Who has it, or is to have it before `owner`; empty: nobody."""
        for balancer in self._inventory.load_balancers():
            if any(zone.allocation_id == found.allocation_id for zone in balancer.zones):
                has = owner_of(balancer)
                return f"the load balancer of Service {has.service}" if has else balancer.name
        if found.associated:
            return self._describe(found)
        now_s = self._now_s()
        with self._lock:
            claims = self._claims.get(found.ip, {})
            mine = claims.get(owner)
            others = [c for o, c in claims.items() if o != owner and now_s - c.at_s < _CLAIM_S]
        first = min(others, key=lambda claim: claim.rank, default=None)
        if mine is not None and first is not None and first.rank < mine.rank:
            return f"Service {first.service}, which is older and asks for it too"
        return ""

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
