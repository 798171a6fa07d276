"""Killed at a write: the next process goes on from what it finds, whatever is wanted by then.

That every write of a creation, a change and a deletion may be the last is the conformance suite's business;
here the Service is gone, or has changed, when the next process starts.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest

from lbprov_aws.cloud import Cloud

if TYPE_CHECKING:
    from collections.abc import Callable

    from lbprov.api import Listener, LoadBalancer
    from tests.aws.conftest import Lab


class Killed(BaseException):
    """No `except Exception` survives it."""


def crash(lab: Lab, desired: LoadBalancer, number: int, when: str, patch: pytest.MonkeyPatch) -> bool:
    """Reconcile, killed before or after its `number`-th write; False if there are fewer."""
    writes = itertools.count(1)
    call = Cloud.call

    def crashing(cloud: Cloud, service: str, operation: str, **parameters: Any) -> dict[str, Any]:
        mine = not operation.startswith(("Describe", "Get")) and next(writes) == number
        if mine and when == "before":
            raise Killed
        answer = call(cloud, service, operation, **parameters)
        if mine:
            raise Killed
        return answer

    with patch.context() as patched:
        patched.setattr(Cloud, "call", crashing)
        try:
            lab.reconcile(desired)
        except Killed:
            return True
    return False


def test_service_deleted_while_down(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.world.allocate_address("203.0.113.10")
    desired = lab.desired(requested_ip="203.0.113.10")
    for number in itertools.count(1):
        crashed = crash(lab, desired, number, "after", monkeypatch)
        lab.restart()
        lab.delete(desired.owner)
        assert lab.world.leftovers() == (), f"after write {number}"
        if not crashed:
            break
    assert number == 8  # 7 writes: 6 of a new Service and cross-zone load balancing


@pytest.mark.parametrize("when", ["before", "after"])
def test_service_changed_while_down(
    lab: Lab, make_port: Callable[..., Listener], monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    before = lab.desired()
    after = lab.desired("web", make_port(443, 31443), make_port(53, 30053, "UDP"), nodes=["node-1"])
    lab.reconcile(after)
    expected = lab.world.inventory()
    lab.delete(after.owner)
    for number in itertools.count(1):
        crashed = crash(lab, before, number, when, monkeypatch)
        lab.restart()
        lab.reconcile(after)
        assert lab.world.inventory() == expected, f"{when} write {number}"
        lab.delete(after.owner)
        if not crashed:
            break
    assert number == 7


@pytest.mark.parametrize(
    "operation",
    [
        "CreateSecurityGroup",
        "AuthorizeSecurityGroupIngress",
        "CreateLoadBalancer",
        "CreateTargetGroup",
        "RegisterTargets",
        "CreateListener",
    ],
)
@pytest.mark.usefixtures("impatient_sdk")
def test_answer_lost_and_asked_again_by_the_sdk(lab: Lab, operation: str) -> None:
    """The call is carried out, its answer is an outage, and the SDK repeats it: AWS's creates are idempotent
    or say that there is one already, which is ours then."""
    lab.reconcile(lab.desired("expected"))
    expected = {line.replace("expected", "web") for line in lab.world.inventory()}
    lab.delete(lab.desired("expected").owner)
    lab.server.fail(operation, "InternalFailure", when="after", status=500)
    lab.reconcile(lab.desired())
    assert len(lab.world.inventory()) == len(expected)
    assert lab.reconcile(lab.desired()).calls == {}
    lab.restart()
    assert lab.reconcile(lab.desired()).writes == {}
