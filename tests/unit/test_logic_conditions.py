"""Notices as conditions, and which of them are news."""

import pytest

from lbprov.logic import conditions, events
from lbprov.logic.events import Reason
from lbprov.model import Condition, Event, Notice, ObjectKey, Service, Severity

GOOD = Notice(Severity.NORMAL, "LoadBalancerIPAssigned", "it is used", "RequestedIP")
BAD = Notice(Severity.WARNING, "LoadBalancerIPInUse", "somebody has it", "RequestedIP")
ONCE = Notice(Severity.NORMAL, "Moved", "it has moved")


def _service(*held: Condition) -> Service:
    return Service(ObjectKey("default", "web"), "uid-1", conditions=held)


def test_a_topic_is_a_condition_and_warnings_make_it_false() -> None:
    other = Notice(Severity.NORMAL, "Fine", "all fine", "Other")
    assert conditions.of_notices([GOOD, ONCE, other]) == (
        Condition("lbprov.io/RequestedIP", "True", "LoadBalancerIPAssigned", "it is used"),
        Condition("lbprov.io/Other", "True", "Fine", "all fine"),
    )
    assert conditions.of_notices([GOOD, BAD]) == (
        Condition("lbprov.io/RequestedIP", "False", "LoadBalancerIPInUse", "it is used; somebody has it"),
    )


@pytest.mark.parametrize("topic", ["Ready", "Provider"])
def test_topics_of_the_core_are_not_for_providers(topic: str) -> None:
    with pytest.raises(ValueError, match=topic):
        conditions.of_notices([Notice(Severity.NORMAL, "X", "x", topic)])


@pytest.mark.parametrize(
    ("held", "notices", "has_steps", "told"),
    [
        pytest.param((), [BAD], False, ["LoadBalancerIPInUse"], id="new"),
        pytest.param((BAD,), [BAD], True, [], id="told-before"),
        pytest.param((GOOD,), [BAD], False, ["LoadBalancerIPInUse"], id="changed"),
        pytest.param((BAD,), [], True, [], id="over"),
        pytest.param((), [ONCE], True, ["Moved"], id="no-topic-with-steps"),
        pytest.param((), [ONCE], False, [], id="no-topic-without-steps"),
        pytest.param(
            (BAD,), [GOOD, BAD], False, ["LoadBalancerIPAssigned", "LoadBalancerIPInUse"], id="more"
        ),
    ],
)
def test_events_are_told_when_they_are_news(
    held: tuple[Notice, ...], notices: list[Notice], has_steps: bool, told: list[str]
) -> None:
    service = _service(*conditions.of_notices(held))
    assert [e.reason for e in conditions.new_events(service, notices, has_steps=has_steps)] == told


def test_conditions_of_others_are_not_ours() -> None:
    theirs = Condition("example.com/Ready", "True", "X", "x")
    ready = conditions.ready("R", "m", is_ready=True)
    service = _service(theirs, ready)
    assert conditions.ours(service) == (ready,)
    assert conditions.is_ready(service)
    not_ready = conditions.ready("R", "m")
    assert conditions.with_(service, not_ready) == (not_ready,)


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        pytest.param(
            events.failed("no quota"),
            Event(Severity.WARNING, "SyncLoadBalancerFailed", "Error syncing load balancer: no quota"),
            id="sync",
        ),
        pytest.param(
            events.failed("no quota", deleting=True),
            Event(Severity.WARNING, "DeleteLoadBalancerFailed", "Error deleting load balancer: no quota"),
            id="delete",
        ),
        pytest.param(
            events.failed("taken", Reason.IP_IN_USE),
            Event(Severity.WARNING, "LoadBalancerIPInUse", "taken"),
            id="a-reason-of-its-own",
        ),
    ],
)
def test_failures_in_the_cloud_providers_words(event: Event, expected: Event) -> None:
    assert event == expected


def test_reasons_are_camel_case_and_each_is_there_once() -> None:
    assert len({r.value for r in Reason}) == len(list(Reason))
    assert all(r.value.isalnum() and r.value[0].isupper() for r in Reason)


def test_what_nobody_reads_to_its_end_is_cut() -> None:
    """A condition longer than the API server keeps would never be as it was written."""
    long = Notice(Severity.WARNING, "Long", "é" * 100_000 + "the remedy", "Other")
    (condition,) = conditions.of_notices([long])
    for message in (condition.message, conditions.ready("Long", long.message).message):
        assert len(message) == conditions.MAX_MESSAGE
        assert "é … é" in message
        assert message.endswith("the remedy")
    assert conditions.ready("Short", "x" * conditions.MAX_MESSAGE).message == "x" * conditions.MAX_MESSAGE
