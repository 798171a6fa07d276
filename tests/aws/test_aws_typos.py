"""A value that nobody can read, of a Service that is served: what it is about stays as it is, which is said.
It goes back to its default when nothing is said of it any more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from lbprov.api import LoadBalancer
from lbprov.lab.aws.world import client
from lbprov_aws.peer_annotations import PREFIX

if TYPE_CHECKING:
    from tests.aws.conftest import Lab

LEFT = "stays as it is on the load balancer"
LOGS = "access_logs.s3.enabled=true,access_logs.s3.bucket=logs"


def saying(lab: Lab, says: dict[str, str]) -> LoadBalancer:
    desired: LoadBalancer = lab.desired(
        "web", annotations={PREFIX + key: value for key, value in says.items()}
    )
    return desired


def settings(lab: Lab) -> dict[str, object]:
    """All attributes and the check, as AWS has them."""
    elbv2 = lab.world.elbv2
    (balancer,) = lab.world.load_balancers()
    (group,) = elbv2.describe_target_groups()["TargetGroups"]
    (listener,) = elbv2.describe_listeners(LoadBalancerArn=balancer.arn)["Listeners"]
    answers: dict[str, Any] = {
        "lb": elbv2.describe_load_balancer_attributes(LoadBalancerArn=balancer.arn),
        "tg": elbv2.describe_target_group_attributes(TargetGroupArn=group["TargetGroupArn"]),
        "listener": elbv2.describe_listener_attributes(ListenerArn=listener["ListenerArn"]),
    }
    found: dict[str, object] = {
        f"{kind} {a['Key']}": str(a["Value"])
        for kind, answer in answers.items()
        for a in answer["Attributes"]
    }
    return found | {k: v for k, v in group.items() if k.startswith("HealthCheck") or "Threshold" in k}


@pytest.mark.parametrize(
    ("right", "mistaken"),
    [
        pytest.param(
            {"attributes": "deletion_protection.enabled=true"},
            {"attributes": "deletion_protection.enabled=ture"},
            id="value",
        ),
        pytest.param(
            {"attributes": "deletion_protection.enabled=true"},
            {"attributes": "deletion_protection.enable=true"},
            id="key",
        ),
        pytest.param({"attributes": LOGS}, {"attributes": LOGS.removesuffix("=logs")}, id="no pair"),
        pytest.param(
            {"attributes": LOGS}, {"attributes": LOGS.partition(",")[0]}, id="logs without a bucket"
        ),
        pytest.param(
            {"cross-zone-load-balancing-enabled": "true"},
            {"cross-zone-load-balancing-enabled": "ture"},
            id="by a name of its own",
        ),
        pytest.param(
            {"target-group-attributes": "preserve_client_ip.enabled=false"},
            {"target-group-attributes": "preserve_client_ip.enabled=no"},
            id="of target groups",
        ),
        pytest.param(
            {"target-group-attributes.80": "preserve_client_ip.enabled=false"},
            {"target-group-attributes.8o": "preserve_client_ip.enabled=false"},
            id="of no port",
        ),
        pytest.param({"proxy-protocol": "*"}, {"proxy-protocol": "on"}, id="proxy protocol"),
        pytest.param(
            {"proxy-protocol-per-target-group": "80"},
            {"proxy-protocol-per-target-group": "8o"},
            id="proxy protocol of a port",
        ),
        pytest.param(
            {"listener-attributes.TCP-80": "tcp.idle_timeout.seconds=400"},
            {"listener-attributes.TCP-80": "tcp.idle_timeout.seconds=4OO"},
            id="of a listener",
        ),
        pytest.param(
            {"listener-attributes.TCP-80": "tcp.idle_timeout.seconds=400"},
            {"listener-attributes.TPC-80": "tcp.idle_timeout.seconds=400"},
            id="of no listener",
        ),
        pytest.param({"healthcheck-port": "30999"}, {"healthcheck-port": "3o999"}, id="port of the check"),
        pytest.param(
            {"healthcheck-protocol": "http", "healthcheck-path": "/ready"},
            {"healthcheck-protocol": "htp", "healthcheck-path": "/ready"},
            id="protocol of the check",
        ),
        pytest.param(
            {"healthcheck-interval": "30", "healthcheck-timeout": "20"},
            {"healthcheck-interval": "3O", "healthcheck-timeout": "20"},
            id="interval of the check",
        ),
    ],
)
def test_it_stays_as_it_is(lab: Lab, right: dict[str, str], mistaken: dict[str, str]) -> None:
    client(lab.server, "s3").create_bucket(
        Bucket="logs", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"}
    )
    lab.reconcile(saying(lab, {}))
    usual = settings(lab)
    lab.reconcile(saying(lab, right))
    before = settings(lab)
    assert before != usual
    bad = lab.reconcile(saying(lab, mistaken))
    assert LEFT in bad.notices["AnnotationsIgnored"]
    assert bad.writes.keys() <= {"AddTags"}
    assert settings(lab) == before
    lab.restart()
    assert lab.reconcile(saying(lab, mistaken)).writes == {}
    lab.reconcile(saying(lab, {}))
    # AWS has no bucket to go back to, and a path that it does not use with TCP stays there.
    after = {**usual, **{k: v for k, v in settings(lab).items() if "bucket" in k or k == "HealthCheckPath"}}
    assert settings(lab) == after
    lab.restart()
    assert lab.reconcile(saying(lab, {})).writes == {}


def test_what_was_never_asked_for_is_not_taken_for_asked(lab: Lab) -> None:
    lab.reconcile(saying(lab, {}))
    (balancer,) = lab.world.load_balancers()
    by_hand: Any = [{"Key": "deletion_protection.enabled", "Value": "true"}]
    lab.world.elbv2.modify_load_balancer_attributes(LoadBalancerArn=balancer.arn, Attributes=by_hand)
    before = settings(lab)
    for says in ({"attributes": "deletion_protection.enabled=ture"}, {"attributes": "oops"}, {}):
        lab.reconcile(saying(lab, says))
        lab.restart()
        assert settings(lab) == before


def test_what_stands_beside_it_is_followed(lab: Lab) -> None:
    lab.reconcile(saying(lab, {"attributes": "deletion_protection.enabled=true"}))
    mistaken = "deletion_protection.enabled=ture,zonal_shift.config.enabled=true"
    lab.reconcile(saying(lab, {"attributes": mistaken}))
    found = settings(lab)
    assert found["lb deletion_protection.enabled"] == "true"
    assert found["lb zonal_shift.config.enabled"] == "true"
    lab.reconcile(saying(lab, {"attributes": "deletion_protection.enabled=false"}))
    assert settings(lab)["lb deletion_protection.enabled"] == "false"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param("listener-attributes.TCP-80", "listener-attributes.tcp-80", id="listener"),
        pytest.param("target-group-attributes.080", "target-group-attributes.80", id="port"),
    ],
)
def test_of_two_names_for_one_thing_one_is_followed_and_it_is_said(lab: Lab, one: str, other: str) -> None:
    key = "tcp.idle_timeout.seconds" if "TCP" in one else "deregistration_delay.timeout_seconds"
    kind = "listener" if "TCP" in one else "tg"
    done = lab.reconcile(saying(lab, {one: f"{key}=400", other: f"{key}=500"}))
    assert settings(lab)[f"{kind} {key}"] == "500"
    assert done.notices["AnnotationsIgnored"] == (
        f"aws-load-balancer-{one}: not looked at: aws-load-balancer-{other} is for the same"
    )
