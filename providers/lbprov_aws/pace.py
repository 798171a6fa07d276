"""How fast we call AWS: a token bucket per family of calls, shared by all threads of the process.

AWS refuses what comes faster than its limits, for a whole account and region at once: then others of the
account cannot work either. So every request, the SDK's own repetitions too, takes a token before it is
signed and waits for one if there is none. What is refused nevertheless (we are not alone in the account)
halves our rate; it grows back within `RECOVERY_S`. Nobody repeats anything here: that is the SDK's business,
and then the queue's.

Sources: "Request throttling for the Elastic Load Balancing API" (ELB user guide: Describe* 40 tokens, 10/s),
"Request throttling for the Amazon EC2 API" (EC2 developer guide: non-mutating 100 tokens, 20/s; mutating 50,
5/s; per action, where we count per family). RegisterTargets and Modify* (20 tokens, 4/s and 3/s) are what
the AWS Load Balancer Controller keeps to; of the actions that create and delete we take the same as Modify*.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from lbprov.api import RetryLater

MAX_WAIT_S = 30.0
"""A worker waits no longer than this for its turn; then it is better used for something else."""

RECOVERY_S = 60.0
"""From half the rate to the whole rate."""

_SLOWEST = 1 / 16
_ONE_REFUSAL_S = 1.0
"""Refusals this close together are one: calls of several threads were under way."""


class Family(StrEnum):
    ELBV2_DESCRIBE = "elbv2-describe"
    ELBV2_MUTATE = "elbv2-mutate"
    ELBV2_REGISTER = "elbv2-register"
    EC2_DESCRIBE = "ec2-describe"
    EC2_MUTATE = "ec2-mutate"
    TAGGING = "tagging"


@dataclass(frozen=True, slots=True)
class Rate:
    """`burst`: calls that may be made at once after a pause."""

    per_s: float
    burst: float

    def __str__(self) -> str:
        return f"{self.per_s:g}:{self.burst:g}"


AWS_LIMITS: Mapping[Family, Rate] = {
    Family.ELBV2_DESCRIBE: Rate(10, 40),
    Family.ELBV2_MUTATE: Rate(3, 20),
    Family.ELBV2_REGISTER: Rate(4, 20),
    Family.EC2_DESCRIBE: Rate(20, 100),
    Family.EC2_MUTATE: Rate(5, 50),
    Family.TAGGING: Rate(10, 10),
}

DEFAULTS: Mapping[Family, Rate] = {
    family: Rate(rate.per_s * 0.9, rate.burst / 2) for family, rate in AWS_LIMITS.items()
}
"""Less than AWS grants: the account has others who call, and calls that were under way for different times
arrive closer together than they left."""


def family_of(service_id: str, operation: str) -> Family | None:
    """`service_id` as in the SDK's events. None: an API that we call too seldom to count."""
    describes = operation.startswith(("Describe", "Get"))
    match service_id:
        case "elastic-load-balancing-v2" if operation in ("RegisterTargets", "DeregisterTargets"):
            return Family.ELBV2_REGISTER
        case "elastic-load-balancing-v2":
            return Family.ELBV2_DESCRIBE if describes else Family.ELBV2_MUTATE
        case "ec2":
            return Family.EC2_DESCRIBE if describes else Family.EC2_MUTATE
        case "resource-groups-tagging-api":
            return Family.TAGGING
        case _:
            return None


class Bucket:
    """One family's tokens. Pure: the clock is the caller's. The level goes below zero by what was promised to
    those who wait: who comes later waits longer, so nobody is overtaken."""

    def __init__(self, rate: Rate, now_s: float) -> None:
        self._rate = rate
        self._level = rate.burst
        self._at_s = now_s
        self._slowed_to = 1.0
        self._slowed_at_s: float | None = None

    def per_s(self, now_s: float) -> float:
        """The rate as it is now: less for a while after a refusal."""
        if self._slowed_at_s is None:
            return self._rate.per_s
        grown = (now_s - self._slowed_at_s) / RECOVERY_S / 2
        return self._rate.per_s * min(1.0, self._slowed_to + grown)

    def take(self, now_s: float, max_wait_s: float) -> float:
        """Seconds until the token that is ours now. More than `max_wait_s`: it was not taken."""
        self._refill(now_s)
        wait_s = max(0.0, (1 - self._level) / self.per_s(now_s))
        if wait_s <= max_wait_s:
            self._level -= 1
        return wait_s

    def is_idle(self, now_s: float) -> bool:
        """Whether half of the burst is left: a call that can wait is in nobody's way."""
        self._refill(now_s)
        return self._level >= self._rate.burst / 2

    def refused(self, now_s: float) -> None:
        """AWS has no token left for this family, whatever we thought."""
        self._refill(now_s)
        self._level = min(self._level, 0.0)
        if self._slowed_at_s is not None and now_s - self._slowed_at_s < _ONE_REFUSAL_S:
            return
        self._slowed_to = max(_SLOWEST, self.per_s(now_s) / self._rate.per_s / 2)
        self._slowed_at_s = now_s

    def _refill(self, now_s: float) -> None:
        gained = max(0.0, now_s - self._at_s) * self.per_s(now_s)
        self._level = min(self._rate.burst, self._level + gained)
        self._at_s = now_s


class Pace:
    """Safe for threads. A family without a rate is not held back."""

    def __init__(
        self, rates: Mapping[Family, Rate], now_s: Callable[[], float], sleep_s: Callable[[float], None]
    ) -> None:
        self._now_s = now_s
        self._sleep_s = sleep_s
        self._lock = threading.Lock()
        self._buckets = {family: Bucket(rate, now_s()) for family, rate in rates.items()}
        self._waited_s: dict[str, float] = {}

    def wait(self, family: Family | None) -> None:
        """Until a call of this family may be made. Raises `RetryLater` if that is too long."""
        if family is None or (bucket := self._buckets.get(family)) is None:
            return
        with self._lock:
            wait_s = bucket.take(self._now_s(), MAX_WAIT_S)
            if wait_s <= MAX_WAIT_S:
                self._waited_s[family] = self._waited_s.get(family, 0.0) + wait_s
        if wait_s > MAX_WAIT_S:
            raise RetryLater(f"calls to AWS ({family}) are held back to stay within its limits", wait_s)
        if wait_s > 0:
            self._sleep_s(wait_s)

    def is_idle(self, family: Family) -> bool:
        """Whether a call of this family that can wait would be in nobody's way."""
        if (bucket := self._buckets.get(family)) is None:
            return True
        with self._lock:
            return bucket.is_idle(self._now_s())

    def refused(self, family: Family | None) -> None:
        """AWS throttled a call of this family."""
        if family is not None and (bucket := self._buckets.get(family)) is not None:
            with self._lock:
                bucket.refused(self._now_s())

    def waited_s(self) -> dict[str, float]:
        """Family -> seconds that its calls were held back so far, all threads together."""
        with self._lock:
            return dict(self._waited_s)


def parse(text: str) -> dict[Family, Rate] | None:
    """`off`, or `FAMILY=PER_SECOND:BURST,…` in place of some of the defaults. None (nothing given): the
    defaults, where AWS is asked and not something on this machine. Raises ValueError."""
    if not text.strip():
        return None
    if text.strip() == "off":
        return {}
    rates = dict(DEFAULTS)
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = part.partition("=")
        per_s, _, burst = value.partition(":")
        try:
            rate = Rate(float(per_s), float(burst))
        except ValueError:
            rate = Rate(0, 0)
        if name.strip() not in set(Family) or not (
            0.01 <= rate.per_s <= 10_000 and 1 <= rate.burst <= 10_000
        ):
            families = ", ".join(Family)
            raise ValueError(f"{part!r}: off, or FAMILY=PER_SECOND:BURST,… with FAMILY one of {families}")
        rates[Family(name.strip())] = rate
    return rates
