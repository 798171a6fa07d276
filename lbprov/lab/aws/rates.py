"""AWS's request limits: a token bucket per account, region and group of actions, refilled at a fixed rate.

Off unless told to: a test that is about something else makes calls as fast as it can.

| API | buckets | source |
|---|---|---|
| ELBv2 | `Describe*` 40 tokens, 10/s. `RegisterTargets` and `DeregisterTargets` 20, 4/s; `Modify*` 20, 3/s. The rest 20, 3/s (the strictest of the published ones) | ELB user guide, "Request throttling for the Elastic Load Balancing API" |
| EC2 | each action by itself: non-mutating 100, 20/s; mutating 50, 5/s | EC2 developer guide, "Request throttling for the Amazon EC2 API" |
| tagging | `GetResources` 15, 15/s | Resource Groups Tagging API: it throttles, and publishes no figure |
"""  # noqa: E501 - a table

from __future__ import annotations

import threading
from dataclasses import dataclass

from lbprov.lab.aws.call import EC2, ELBV2, Call, Refusal

_REGISTRATIONS = ("RegisterTargets", "DeregisterTargets")


@dataclass(frozen=True, slots=True)
class Limit:
    tokens: float
    per_s: float


def limit_of(call: Call) -> tuple[str, Limit]:
    """The name of the bucket that a call takes its token from, and its size."""
    reads = call.operation.startswith(("Describe", "Get"))
    if call.service == EC2:
        return f"ec2 {call.operation}", Limit(100, 20) if reads else Limit(50, 5)
    if call.service != ELBV2:
        return f"{call.service} {call.operation}", Limit(15, 15)
    if reads:
        return "elbv2 describe", Limit(40, 10)
    if call.operation in _REGISTRATIONS:
        return "elbv2 register", Limit(20, 4)
    return ("elbv2 modify" if call.operation.startswith("Modify") else "elbv2 mutate"), Limit(20, 3)


def refusal_of(call: Call) -> Refusal:
    """As the SDKs meet it. The ELB guide calls the code ThrottlingException; what ELB sends is Throttling."""
    if call.service == EC2:
        return Refusal("RequestLimitExceeded", "Request limit exceeded.", 503)
    return Refusal("Throttling" if call.service == ELBV2 else "ThrottledException", "Rate exceeded")


@dataclass(slots=True)
class _Bucket:
    level: float
    at_s: float


class Rates:
    """Safe for threads. `speed`: how much faster than on AWS time goes, so that minutes need not be waited
    for; 0: there are no limits."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._speed = 0.0
        self._buckets: dict[tuple[str, str], _Bucket] = {}

    def enforce(self, speed: float) -> None:
        """From now on; all buckets are full."""
        with self._lock:
            self._speed = speed
            self._buckets.clear()

    def refusal(self, call: Call, now_s: float) -> Refusal | None:
        """None: a token was taken. A refused call costs none."""
        with self._lock:
            if not self._speed:
                return None
            name, limit = limit_of(call)
            bucket = self._buckets.setdefault((call.region, name), _Bucket(limit.tokens, now_s))
            gained = max(0.0, now_s - bucket.at_s) * self._speed * limit.per_s
            bucket.level, bucket.at_s = min(limit.tokens, bucket.level + gained), max(now_s, bucket.at_s)
            if bucket.level < 1:
                return refusal_of(call)
            bucket.level -= 1
            return None
