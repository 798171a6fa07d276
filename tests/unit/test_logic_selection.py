"""Which Services are served, cleaned up, held, refused or left alone."""

from dataclasses import replace
from typing import Any

import pytest

from lbprov.logic.selection import FINALIZER, Claimant, Decision, checked_classes, claim, decide, why_held
from lbprov.model import ObjectKey, Service, ServiceType, UserError

AWS = Claimant("aws", "lbprov.io/aws")
AWS_BY_DEFAULT = replace(AWS, own_classless=True)
AWS_AND_FOREIGN = replace(AWS, more_classes=("example.com/old", "example.com/lb"))
METAL = Claimant("metal", "lbprov.io/metal")
BY_AWS = {"conditions": (claim(AWS),)}
HELD = {"finalizers": (FINALIZER,)}
DELETING = {"deleted_at": "2026-01-01T00:00:00Z"}
OURS = {"load_balancer_class": "lbprov.io/aws"}
FOREIGN = {"load_balancer_class": "example.com/lb"}
CLUSTER_IP = {"type": ServiceType.CLUSTER_IP}


@pytest.mark.parametrize(
    ("fields", "claimant", "owns", "decision"),
    [
        pytest.param(OURS, AWS, False, "ensure", id="our-class"),
        pytest.param({}, AWS, False, "leave", id="no-class"),
        pytest.param({}, AWS_BY_DEFAULT, False, "ensure", id="no-class-and-those-are-ours"),
        pytest.param(FOREIGN, AWS_BY_DEFAULT, False, "leave", id="foreign-class"),
        pytest.param(FOREIGN, AWS_AND_FOREIGN, False, "ensure", id="a-class-that-is-ours-too"),
        pytest.param(OURS, AWS_AND_FOREIGN, False, "ensure", id="our-class-beside-others"),
        pytest.param({}, AWS_AND_FOREIGN, False, "leave", id="no-class-is-no-class-of-ours"),
        pytest.param(
            FOREIGN | HELD | DELETING, AWS_AND_FOREIGN, False, "clean up", id="deleting-a-class-of-ours"
        ),
        pytest.param(FOREIGN | HELD | BY_AWS, AWS, False, "hold", id="a-class-no-longer-ours"),
        pytest.param(FOREIGN | BY_AWS, AWS, False, "hold", id="a-class-no-longer-ours-finalizer-lost"),
        pytest.param(FOREIGN | HELD | BY_AWS, METAL, False, "leave", id="a-class-another-holds"),
        pytest.param(
            FOREIGN | HELD | BY_AWS | DELETING, AWS, False, "clean up", id="deleting-a-class-no-longer-ours"
        ),
        pytest.param(
            FOREIGN | HELD | DELETING, AWS, True, "clean up", id="deleting-a-foreign-class-but-it-owns"
        ),
        pytest.param(
            HELD | BY_AWS | DELETING, AWS, False, "clean up", id="deleting-classless-no-longer-ours"
        ),
        pytest.param(
            {"load_balancer_class": ""}, AWS_BY_DEFAULT, False, "leave", id="empty-class-is-a-class"
        ),
        pytest.param(CLUSTER_IP, AWS_BY_DEFAULT, False, "leave", id="cluster-ip"),
        pytest.param({"type": ServiceType.NODE_PORT}, AWS_BY_DEFAULT, False, "leave", id="node-port"),
        pytest.param(OURS | HELD | BY_AWS, AWS, False, "ensure", id="claimed-before"),
        pytest.param(OURS | HELD, AWS, False, "ensure", id="finalizer-but-no-claim"),
        pytest.param(OURS | HELD | BY_AWS | DELETING, AWS, False, "clean up", id="deleting"),
        pytest.param(OURS | HELD | DELETING, AWS, False, "clean up", id="deleting-our-class-unclaimed"),
        pytest.param(HELD | DELETING, AWS_BY_DEFAULT, False, "clean up", id="deleting-classless-unclaimed"),
        pytest.param(HELD | DELETING, AWS, False, "leave", id="deleting-classless-of-the-cloud-provider"),
        pytest.param(FOREIGN | HELD | DELETING, AWS, False, "leave", id="deleting-foreign"),
        pytest.param(OURS | DELETING, AWS, False, "leave", id="deleting-never-touched"),
        pytest.param(CLUSTER_IP | HELD | BY_AWS, AWS, False, "clean up", id="type-changed"),
        pytest.param(
            CLUSTER_IP | BY_AWS, AWS, False, "clean up", id="type-changed-crash-before-the-claim-went"
        ),
        pytest.param(CLUSTER_IP | HELD | BY_AWS, METAL, False, "leave", id="type-changed-another's"),
        pytest.param(CLUSTER_IP | HELD, AWS, False, "leave", id="type-changed-unclaimed"),
        pytest.param(CLUSTER_IP | HELD, AWS, True, "clean up", id="type-changed-claim-wiped-but-it-owns"),
        pytest.param(FOREIGN, AWS, True, "hold", id="foreign-class-but-it-owns"),
        pytest.param(HELD | BY_AWS, AWS, False, "hold", id="classless-no-longer-ours"),
        pytest.param(HELD, AWS, True, "hold", id="classless-no-longer-ours-claim-wiped"),
        pytest.param(
            {"load_balancer_class": "lbprov.io/metal"} | HELD | BY_AWS,
            METAL,
            False,
            "conflict",
            id="conflict",
        ),
        pytest.param(
            {"load_balancer_class": "lbprov.io/metal"} | HELD | BY_AWS,
            AWS,
            False,
            "clean up",
            id="class-left-for-another-provider-which-no-flag-can-have-served",
        ),
    ],
)
def test_decide(fields: dict[str, Any], claimant: Claimant, owns: bool, decision: str) -> None:
    base = Service(ObjectKey("default", "web"), "uid-1", type=ServiceType.LOAD_BALANCER)
    assert decide(replace(base, **fields), claimant, owns=owns) is Decision(decision)


@pytest.mark.parametrize(
    ("name", "flag"),
    [
        pytest.param("example.com/lb", "with --load-balancer-class example.com/lb (", id="class"),
        pytest.param(None, "with --own-classless (", id="classless"),
    ],
)
def test_what_is_held_names_the_flag_to_give_back(name: str | None, flag: str) -> None:
    held = Service(
        ObjectKey("default", "web"), "uid-1", type=ServiceType.LOAD_BALANCER, load_balancer_class=name
    )
    assert flag in why_held(held)
    assert "delete the Service or change its type" in why_held(held)


def test_classes_to_serve_beside_our_own() -> None:
    given = ["service.k8s.aws/nlb", "lbprov.io/aws", "plain", "service.k8s.aws/nlb"]
    assert checked_classes(given, "lbprov.io/aws") == ("service.k8s.aws/nlb", "plain")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        pytest.param("", "'' can be no spec.loadBalancerClass", id="empty"),
        pytest.param("a/b/c", "example.com/name", id="two slashes"),
        pytest.param("service.k8s.aws/nlb,plain", "example.com/name", id="a list"),
        pytest.param("lbprov.io/metal", "another provider of lbprov", id="another provider's"),
    ],
)
def test_classes_that_cannot_be_served(name: str, said: str) -> None:
    with pytest.raises(UserError, match=r"^--load-balancer-class: ") as refusal:
        checked_classes([name], "lbprov.io/aws")
    assert said in str(refusal.value)
