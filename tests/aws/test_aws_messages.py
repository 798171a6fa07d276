"""What an operator reads where a change is not made: what is wrong, where it is asked for, what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from lbprov.model import Result
from lbprov_aws.peer_annotations import CONTROLLER_CLASS, PREFIX
from tests.aws.desk import KEY, Desk

if TYPE_CHECKING:
    from tests.aws.conftest import Lab

REPLACE = "lbprov.io/replace: seamless"


@pytest.mark.parametrize(
    ("changes", "topic", "said"),
    [
        pytest.param(
            {"annotations": {"lbprov.io/scheme": "internal"}},
            "Scheme",
            ("lbprov.io/scheme: internal is asked for", "stays internet-facing", REPLACE),
            id="scheme",
        ),
        pytest.param(
            {"annotations": {PREFIX + "scheme": "internal", PREFIX + "internal": "true"}},
            "Scheme",
            ("aws-load-balancer-scheme: internal", "set lbprov.io/scheme: internet-facing", REPLACE),
            id="scheme by another annotation",
        ),
        pytest.param(
            {"annotations": {PREFIX + "internal": "true"}},
            "Scheme",
            ("aws-load-balancer-internal: internal", REPLACE),
            id="internal",
        ),
        pytest.param(
            {"load_balancer_class": CONTROLLER_CLASS},
            "Scheme",
            ("internal is asked for (no annotation says one)", "set lbprov.io/scheme: internet-facing"),
            id="scheme by class",
        ),
        pytest.param(
            {"annotations": {PREFIX + "name": "shop"}},
            "Name",
            ("aws-load-balancer-name: ", "cannot rename it to shop", REPLACE),
            id="name",
        ),
        pytest.param(
            {"annotations": {PREFIX + "subnets": "subnet-0"}},
            "Subnets",
            ("aws-load-balancer-subnets: ", "chosen when it is made", REPLACE),
            id="subnets",
        ),
        pytest.param(
            {"load_balancer_ip": "203.0.113.9"},
            "RequestedIP",
            ("spec.loadBalancerIP: 203.0.113.9 is asked for now", REPLACE),
            id="address",
        ),
        pytest.param(
            {"annotations": {PREFIX + "eip-allocations": "203.0.113.9"}},
            "RequestedIP",
            ("aws-load-balancer-eip-allocations: 203.0.113.9 asked for now", REPLACE),
            id="list of addresses",
        ),
        pytest.param(
            {"annotations": {PREFIX + "security-groups": "sg-0"}},
            "SecurityGroups",
            ("aws-load-balancer-security-groups: there is no security group sg-0", "by id or tag Name"),
            id="security group",
        ),
    ],
)
def test_a_change_that_is_not_made(
    lab: Lab, changes: dict[str, Any], topic: str, said: tuple[str, ...]
) -> None:
    desk = Desk(lab)
    desk.settle()
    before = lab.world.inventory()
    desk.restart(more_classes=(CONTROLLER_CLASS,))
    desk.change(**changes)
    outcomes = desk.settle()
    assert outcomes[-1].result is Result.UNCHANGED
    reason, message = desk.condition(topic)
    assert [part for part in said if part not in message] == [], message
    assert any(event.reason == reason for event in outcomes[0].events)
    assert lab.world.inventory() == before


def test_deletion_that_is_protected(lab: Lab) -> None:
    """Nobody follows the Service's annotations any more: the message has the command."""
    desk = Desk(lab, annotations={PREFIX + "attributes": "deletion_protection.enabled=true"})
    desk.settle()
    (balancer,) = lab.world.load_balancers()
    desk.cluster.delete(KEY)
    outcome = desk.reconcile()
    assert outcome.result is Result.FAILED
    command = (
        "aws elbv2 modify-load-balancer-attributes --attributes Key=deletion_protection.enabled,Value=false "
        f"--load-balancer-arn {balancer.arn}"
    )
    assert command in outcome.message
    off: Any = [{"Key": "deletion_protection.enabled", "Value": "false"}]
    lab.world.elbv2.modify_load_balancer_attributes(LoadBalancerArn=balancer.arn, Attributes=off)
    desk.settle(until=lambda o: o.result is Result.DELETED)
    assert lab.world.leftovers() == ()
