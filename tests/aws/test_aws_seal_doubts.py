"""A seal is never believed of what it does not tell any more: wishes that go away and come back while no
process looks."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pytest

from lbprov.api import LoadBalancer
from lbprov_aws.cloud import Cloud

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.aws.conftest import Lab

RECHECK_S = 600.0
PEERS = "service.beta.kubernetes.io/aws-load-balancer-"
CHANGES: dict[str, dict[str, Any]] = {
    "nodes": {"nodes": ["node-1"]},
    "more nodes": {"nodes": ["node-2", "node-3"]},
    "port": {"port": 8080},
    "attributes": {"annotations": {PEERS + "attributes": "load_balancing.cross_zone.enabled=true"}},
    "affinity": {"annotations": {PEERS + "target-group-attributes": "deregistration_delay.timeout_seconds=30"}},
    "source ranges": {"source_ranges": ("192.0.2.0/24",)},
}


class Killed(BaseException):
    pass


def changed(lab: Lab, change: dict[str, Any]) -> LoadBalancer:
    change = dict(change)
    number = change.pop("port", 80)
    desired = lab.desired(**change)
    return dataclasses.replace(
        desired, listeners=(dataclasses.replace(desired.listeners[0], port=number),)
    )


@pytest.mark.parametrize("change", [pytest.param(c, id=name) for name, c in CHANGES.items()])
@pytest.mark.parametrize("nth", [1, 2, 3])
def test_wish_goes_and_comes_back(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], nth: int
) -> None:
    lab.recheck_s = RECHECK_S
    lab.restart()
    first = changed(lab, {})
    lab.reconcile(first)
    call, count = Cloud.call, 0

    def killing(cloud: Cloud, service: str, operation: str, **parameters: object) -> dict[str, object]:
        nonlocal count
        answer = call(cloud, service, operation, **parameters)
        count += not operation.startswith(("Describe", "Get"))
        if count == nth:
            raise Killed
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(Cloud, "call", killing)
        try:
            lab.reconcile(changed(lab, change))
        except Killed:
            pass
    lab.restart()
    lab.reconcile(first)
    lab.recheck_s = 0.0
    lab.restart()
    plan = lab.provider.plan(first, lab.provider.observe(first.owner, first))
    assert plan.is_empty, plan.to_text()
