"""AWS shows things late: nothing is made twice because of that, nothing is forgotten, and all ends well.

"Late" is for good here, until the test says otherwise: no clock decides what is seen.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

from lbprov.api import LoadBalancer, RetryLater

if TYPE_CHECKING:
    from collections.abc import Callable

    from lbprov.api import Listener
    from tests.aws.conftest import Lab

ALL: dict[str, float] = {"tagging": math.inf, "elbv2": math.inf, "ec2": math.inf}
LAGS = [
    pytest.param({"tagging": math.inf}, id="tagging"),
    pytest.param({"elbv2": math.inf}, id="elbv2"),
    pytest.param({"ec2": math.inf}, id="ec2"),
    pytest.param(ALL, id="all"),
]


def go(lab: Lab, desired: LoadBalancer, *, delete: bool = False) -> bool:
    """One turn; whether it got through."""
    try:
        lab.go(desired.owner, None if delete else desired)
    except RetryLater as later:
        lab.clock.now += later.after_s
        return False
    return lab.provider.plan(None, lab.provider.observe(desired.owner, None)).is_empty if delete else True


def until(lab: Lab, desired: LoadBalancer, *, delete: bool = False) -> None:
    for _ in range(20):
        if go(lab, desired, delete=delete):
            return
    raise AssertionError("it never got through")


@pytest.fixture
def expected(lab: Lab, make_port: Callable[..., Listener]) -> tuple[LoadBalancer, LoadBalancer, Any]:
    """Two shapes of a Service, and the inventory of the second."""
    first, second = lab.desired(), lab.desired("web", make_port(443, 31443), nodes=["node-1"])
    lab.reconcile(second)
    inventory = lab.world.inventory()
    lab.delete(second.owner)
    lab.restart()
    return first, second, inventory


@pytest.mark.parametrize("lag", LAGS)
def test_made_changed_and_deleted_while_reads_are_behind(
    lab: Lab, expected: tuple[LoadBalancer, LoadBalancer, Any], lag: dict[str, float]
) -> None:
    first, second, inventory = expected
    lab.server.lag(**lag)
    go(lab, first)
    for desired in (first, second, second):
        lab.clock.now += 1000  # the listing is too old, and the new one shows what was
        go(lab, desired)
    lab.server.lag()
    lab.clock.now += 1000
    until(lab, second)
    assert lab.world.inventory() == inventory
    lab.server.lag(**lag)
    for _ in range(3):
        go(lab, second, delete=True)
    lab.server.lag()
    until(lab, second, delete=True)
    assert lab.world.leftovers() == ()


@pytest.mark.parametrize("lag", LAGS)
def test_next_process_finds_what_is_not_shown_yet(
    lab: Lab, expected: tuple[LoadBalancer, LoadBalancer, Any], lag: dict[str, float]
) -> None:
    """Names are the same for the same, and creates are idempotent by name: nothing is made twice."""
    first, second, inventory = expected
    lab.server.lag(**lag)
    go(lab, first)
    lab.restart()
    go(lab, first)
    lab.restart()
    go(lab, second)
    lab.server.lag()
    lab.restart()
    until(lab, second)
    assert lab.world.inventory() == inventory


def test_deletion_is_over_only_when_nothing_is_shown_any_more(lab: Lab) -> None:
    desired = lab.desired()
    lab.reconcile(desired)
    lab.server.lag(elbv2=math.inf, ec2=math.inf, tagging=math.inf)
    for _ in range(3):
        assert not go(lab, desired, delete=True)
    lab.server.lag()
    until(lab, desired, delete=True)
    assert lab.world.leftovers() == ()
