"""The Plan prints the same text and JSON for the same value, and nothing that is empty."""

from lbprov.model import Action, Change, Notice, ObjectKey, Owner, Plan, Severity, Step

OWNER = Owner("prod", ObjectKey("default", "web"), "uid-1")
PLAN = Plan(
    owner=OWNER,
    steps=(
        Step(Action.CREATE, "security group", "sg", "missing", name="lbp-default-web"),
        Step(
            Action.UPDATE,
            "target group",
            "tg:80-tcp",
            "nodes changed",
            changes=(Change("targets", "i-1", "i-1, i-2"), Change("tags", "", "a=b")),
            disruptive=False,
        ),
        Step(Action.DELETE, "listener", "ls:81-tcp", "no such port any more", disruptive=True),
    ),
    notices=(Notice(Severity.WARNING, "LoadBalancerIPNotFound", "203.0.113.9 is not ours", "RequestedIP"),),
)


def test_text() -> None:
    assert PLAN.to_text() == (
        "default/web: 1 to create, 1 to update, 1 to delete\n"
        "  + create security group lbp-default-web: missing\n"
        "  ~ update target group tg:80-tcp: nodes changed\n"
        "      targets: i-1 -> i-1, i-2\n"
        "      tags: (none) -> a=b\n"
        "  - delete listener ls:81-tcp: no such port any more\n"
        "  ! Warning LoadBalancerIPNotFound: 203.0.113.9 is not ours"
    )


def test_json_leaves_out_what_is_empty_and_tells_what_disrupts() -> None:
    data = PLAN.to_json()
    assert (data["namespace"], data["name"]) == ("default", "web")
    assert data["steps"][0] == {
        "action": "create",
        "kind": "security group",
        "id": "sg",
        "reason": "missing",
        "name": "lbp-default-web",
    }
    assert data["steps"][1]["changes"][1] == {"field": "tags", "after": "a=b"}
    assert data["steps"][2]["disruptive"] is True
    assert data["notices"][0]["severity"] == "Warning"


def test_a_plan_without_steps_is_empty_whatever_it_says() -> None:
    assert Plan(OWNER, notices=PLAN.notices).is_empty
    assert Plan(OWNER).to_text() == "default/web: no change"
    assert not PLAN.is_empty
