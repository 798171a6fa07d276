"""How fast AWS is called: the buckets by themselves, and against an AWS that throttles."""

from __future__ import annotations

import heapq
import math
import random
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbprov.api import RetryLater
from lbprov.lab.aws.call import Call
from lbprov.lab.aws.rates import Rates, limit_of
from lbprov_aws import elbv2, pace
from lbprov_aws.cloud import Cloud
from lbprov_aws.config import OPTIONS
from lbprov_aws.pace import AWS_LIMITS, DEFAULTS, Bucket, Family, Pace, Rate, family_of

if TYPE_CHECKING:
    from lbprov.lab.aws.server import MotoServer
    from tests.aws.conftest import Lab

SERVICE_IDS = {
    "elasticloadbalancing": "elastic-load-balancing-v2",
    "ec2": "ec2",
    "tagging": "resource-groups-tagging-api",
}


@pytest.mark.parametrize(
    ("service", "operation", "family"),
    [
        ("elasticloadbalancing", "DescribeTargetHealth", "elbv2-describe"),
        ("elasticloadbalancing", "CreateLoadBalancer", "elbv2-mutate"),
        ("elasticloadbalancing", "ModifyListener", "elbv2-mutate"),
        ("elasticloadbalancing", "DeregisterTargets", "elbv2-register"),
        ("ec2", "DescribeSubnets", "ec2-describe"),
        ("ec2", "AuthorizeSecurityGroupIngress", "ec2-mutate"),
        ("tagging", "GetResources", "tagging"),
    ],
)
def test_family_is_no_faster_than_any_bucket_that_aws_counts_it_in(
    service: str, operation: str, family: str
) -> None:
    found = family_of(SERVICE_IDS[service], operation)
    assert found == family
    _, limit = limit_of(Call(service, operation, "eu-west-1"))
    assert AWS_LIMITS[found].per_s <= limit.per_s
    assert AWS_LIMITS[found].burst <= limit.tokens
    assert DEFAULTS[found].per_s < AWS_LIMITS[found].per_s
    assert DEFAULTS[found].burst < AWS_LIMITS[found].burst


def test_apis_called_seldom_are_not_held_back() -> None:
    assert family_of("sts", "AssumeRole") is None


def test_burst_then_rate() -> None:
    bucket = Bucket(Rate(per_s=2, burst=3), now_s=0)
    assert [bucket.take(0, 60) for _ in range(6)] == [0, 0, 0, 0.5, 1, 1.5]
    assert bucket.take(10, 60) == 0


def test_idle_while_half_of_the_burst_is_left() -> None:
    bucket = Bucket(Rate(per_s=1, burst=4), now_s=0)
    assert [(bucket.is_idle(0), bucket.take(0, 60))[0] for _ in range(5)] == [True, True, True, False, False]
    assert bucket.is_idle(3)


def test_what_would_take_too_long_is_not_promised() -> None:
    bucket = Bucket(Rate(per_s=1, burst=1), now_s=0)
    assert bucket.take(0, 2) == 0
    assert bucket.take(0, 2) == 1
    assert bucket.take(0, 2) == 2
    assert bucket.take(0, 2) == 3  # told, and not taken
    assert bucket.take(0, 2) == 3
    assert bucket.take(1, 2) == 2


def test_refusal_halves_the_rate_and_it_grows_back() -> None:
    bucket = Bucket(Rate(per_s=8, burst=10), now_s=0)
    bucket.refused(0)
    bucket.refused(0.5)
    assert bucket.per_s(0) == 4, "refusals of calls that were under way together are one"
    assert bucket.take(0.5, 60) > 0, "nothing is left of the burst"
    bucket.refused(2)
    assert bucket.per_s(2) == pytest.approx(2, rel=0.1)
    rates = [bucket.per_s(2 + s) for s in range(0, 120, 10)]
    assert rates == sorted(rates)
    assert rates[-1] == 8
    for n in range(100):
        bucket.refused(200 + 2 * n)
    assert bucket.per_s(400) > 0.4, "it never stops"


@settings(deadline=None)  # it is about numbers, not about this machine
@given(
    st.lists(st.tuples(st.floats(0, 5), st.booleans()), max_size=80),
    st.floats(0.1, 50),
    st.integers(1, 40),
)
def test_no_window_has_more_calls_than_burst_and_rate_allow(
    steps: list[tuple[float, bool]], per_s: float, burst: int
) -> None:
    bucket, now_s, made = Bucket(Rate(per_s, burst), 0), 0.0, []
    for pause_s, refused in steps:
        now_s += pause_s
        if refused:
            bucket.refused(now_s)
        if (wait_s := bucket.take(now_s, 30)) <= 30:
            made.append(now_s + wait_s)
    made.sort()
    for first in range(len(made)):
        for last in range(first, len(made)):
            assert last - first + 1 <= burst + per_s * (made[last] - made[first]) + 1e-6


class _Sleeper:
    """A clock that goes on when somebody sleeps by it."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def test_pace_waits_tells_and_gives_up() -> None:
    clock = _Sleeper()
    held = Pace({Family.EC2_MUTATE: Rate(1, 1)}, clock, clock.sleep)
    for _ in range(4):
        held.wait(Family.EC2_MUTATE)
        held.wait(Family.EC2_DESCRIBE)
        held.wait(None)
    assert clock.now_s == 3
    assert held.waited_s() == {"ec2-mutate": 3}
    crowded = Pace({Family.EC2_MUTATE: Rate(1, 1)}, clock, lambda _: None)
    for _ in range(31):
        crowded.wait(Family.EC2_MUTATE)
    with pytest.raises(RetryLater, match="ec2-mutate") as caught:
        crowded.wait(Family.EC2_MUTATE)
    assert caught.value.after_s == 31


# The option


@pytest.mark.parametrize(
    ("text", "rates"),
    [
        pytest.param("", None, id="nothing"),
        pytest.param("off", {}, id="off"),
        pytest.param(
            "elbv2-mutate=6:40, ec2-mutate=0.5:1",
            {**DEFAULTS, Family.ELBV2_MUTATE: Rate(6, 40), Family.EC2_MUTATE: Rate(0.5, 1)},
            id="some",
        ),
    ],
)
def test_option(text: str, rates: object) -> None:
    assert pace.parse(text) == rates
    assert next(o for o in OPTIONS if o.name == "api-rates").parse(text) == rates


@pytest.mark.parametrize("text", ["s3=1:1", "ec2-mutate", "ec2-mutate=1", "ec2-mutate=0:5", "tagging=1:nan"])
def test_option_malformed(text: str) -> None:
    with pytest.raises(ValueError, match="FAMILY=PER_SECOND:BURST"):
        pace.parse(text)


def test_emulator_on_this_machine_is_not_held_back_and_aws_is(
    aws_server: MotoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not Cloud()._pace._buckets
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    assert Cloud()._pace._buckets.keys() == set(Family)


# Against an AWS that throttles


def test_requests_repeated_by_the_sdk_wait_too(aws_server: MotoServer, impatient_sdk: None) -> None:
    cloud = Cloud(rates={Family.ELBV2_DESCRIBE: Rate(per_s=50, burst=1)}, now_s=lambda: 0.0)
    aws_server.fail("DescribeLoadBalancers", "InternalFailure", times=3, status=500)
    elbv2.all_load_balancers(cloud)
    assert aws_server.calls() == {"DescribeLoadBalancers": 4}
    assert cloud.calls().waited_s["elbv2-describe"] == pytest.approx(1 / 50 + 2 / 50 + 3 / 50)
    assert cloud.calls().answers["elastic-load-balancing-v2", "DescribeLoadBalancers", "InternalFailure"] == 3


WORKERS = 8
"""No more than half of the smallest burst. Then nothing hangs on how fast this machine is: each has one call
under way, so that many come late at most, and AWS has that many tokens more than we take."""


def hurried(speed: float) -> str:
    return ",".join(f"{f}={r.per_s * speed}:{r.burst}" for f, r in DEFAULTS.items())


def create(lab: Lab, services: int) -> list[RetryLater]:
    """So many Services by several workers, as the queue hands them out; what had to be tried again."""
    left = [lab.desired(f"web-{n}") for n in range(services)]
    late: list[RetryLater] = []

    def work() -> None:
        while True:
            try:
                desired = left.pop(0)
            except IndexError:
                return
            try:
                lab.reconcile(desired)
            except RetryLater as later:
                late.append(later)
                left.append(desired)

    with ThreadPoolExecutor(WORKERS) as pool:
        for future in [pool.submit(work) for _ in range(WORKERS)]:
            future.result()
    return late


def throttled(server: MotoServer) -> int:
    codes = ("Throttling", "RequestLimitExceeded", "ThrottledException")
    return sum(request["code"] in codes for request in server.requests())


class RealTime:
    """For a `Lab` whose time goes on by itself."""

    @property
    def now(self) -> float:
        return time.monotonic()

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("services", "speed"),
    [
        pytest.param(30, 10, id="30"),
        pytest.param(1000, 20, id="1000", marks=[pytest.mark.soak, pytest.mark.timeout(900)]),
    ],
)
def test_many_services_at_once_are_never_throttled(lab: Lab, services: int, speed: int) -> None:
    """AWS's limits and ours, with time going `speed` times as fast for both."""
    lab.server.quotas(load_balancers=services)
    lab.options["api-rates"] = hurried(speed)
    lab.clock = RealTime()  # type: ignore[assignment]
    lab.restart()
    lab.server.limit_rates(speed)
    assert create(lab, services) == []
    assert throttled(lab.server) == 0
    lab.server.limit_rates(0)
    assert len(lab.world.load_balancers()) == services


def test_without_our_buckets_they_are_and_it_converges(lab: Lab, impatient_sdk: None) -> None:
    lab.options["api-rates"] = "off"
    lab.restart()
    lab.server.limit_rates(1e-6)  # no token comes back
    late = []
    for number in range(12):
        try:
            lab.reconcile(lab.desired(f"web-{number}"))
        except RetryLater as later:
            late.append(later)
    assert late
    assert throttled(lab.server) > 0
    lab.server.limit_rates(0)
    for number in range(12):
        lab.reconcile(lab.desired(f"web-{number}"))
    assert len(lab.world.load_balancers()) == 12


CREATION = (
    ("ec2", "CreateSecurityGroup"),
    ("ec2", "AuthorizeSecurityGroupIngress"),
    ("elasticloadbalancing", "CreateLoadBalancer"),
    ("elasticloadbalancing", "CreateTargetGroup"),
    ("elasticloadbalancing", "DescribeTags"),
    ("elasticloadbalancing", "RegisterTargets"),
    ("elasticloadbalancing", "CreateListener"),
)


def simulate(services: int, rates: Mapping[Family, Rate], longest_s: float) -> tuple[float, int]:
    """Services made by several workers, in simulated time: (how long it took, how many calls AWS refused).
    Every call takes another time, up to `longest_s`; one that is refused is made again at once."""
    dice, aws = random.Random(7), Rates()
    aws.enforce(1)
    buckets = {family: Bucket(rate, 0.0) for family, rate in rates.items()}
    left, refused, now_s = services * len(CREATION), 0, 0.0
    # (when, the worker, what it does then: None: ask for its turn; otherwise the call that arrives)
    events: list[tuple[float, int, Call | None]] = [(0.0, worker, None) for worker in range(WORKERS)]
    while events:
        now_s, worker, call = heapq.heappop(events)
        if call is not None:
            again = aws.refusal(call, now_s) is not None
            refused += again
            left += again
            heapq.heappush(events, (now_s, worker, None))
        elif left > 0:
            left -= 1
            service, operation = CREATION[left % len(CREATION)]
            bucket = buckets.get(family_of(SERVICE_IDS[service], operation))  # type: ignore[arg-type]
            wait_s = bucket.take(now_s, math.inf) if bucket else 0.0
            arrives_s = now_s + wait_s + dice.uniform(0.0, longest_s)
            heapq.heappush(events, (arrives_s, worker, Call(service, operation, "eu-west-1")))
    return now_s, refused


@pytest.mark.parametrize("longest_s", [0.05, 1.0, 5.0])
def test_a_thousand_services_in_simulated_time(longest_s: float) -> None:
    took_s, refused = simulate(1000, DEFAULTS, longest_s)
    assert refused == 0
    assert took_s < 1.1 * max(3 * 1000 / DEFAULTS[Family.ELBV2_MUTATE].per_s, 7000 * longest_s / 2 / WORKERS)


def test_a_thousand_services_without_buckets_in_simulated_time() -> None:
    _, refused = simulate(1000, {}, 0.05)
    assert refused > 1000


def test_others_in_the_account_make_us_slower(lab: Lab, impatient_sdk: None) -> None:
    """Somebody else has taken all tokens: we are refused once or twice, and then go at half the rate."""
    lab.options["api-rates"] = "elbv2-describe=1000:1000"
    lab.restart()
    cloud = lab.provider._cloud  # type: ignore[attr-defined]
    before = cloud._pace._buckets[Family.ELBV2_DESCRIBE].per_s(lab.clock())
    lab.server.fail("DescribeLoadBalancers", "Throttling", times=2)
    elbv2.all_load_balancers(cloud)
    assert cloud._pace._buckets[Family.ELBV2_DESCRIBE].per_s(lab.clock()) == before / 2
