"""Values that nobody understands, on AWS: who may connect stays as it is, never more than that; ports and
nodes are followed; nothing is made on a guess."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from lbprov.model import Result, ServicePort
from lbprov_aws.peer_annotations import PREFIX
from tests.aws.desk import Desk

if TYPE_CHECKING:
    from tests.aws.conftest import Lab

RANGES = "service.beta.kubernetes.io/load-balancer-source-ranges"
LISTS = PREFIX + "security-group-prefix-lists"
HTTP, TLS = ServicePort(80, node_port=30080, name="http"), ServicePort(443, node_port=30443, name="tls")
MORE = ServicePort(8080, node_port=30880, name="more")


def prefix_list(lab: Lab, name: str) -> str:
    made: Any = lab.world.ec2.create_managed_prefix_list(
        PrefixListName=name, MaxEntries=1, AddressFamily="IPv4", Entries=[{"Cidr": "198.51.100.0/24"}]
    )
    return str(made["PrefixList"]["PrefixListId"])


def admitted(lab: Lab) -> dict[int, set[str]]:
    """Port -> who may connect to it."""
    filters: Any = [{"Name": "group-name", "Values": ["lbp-*"]}]
    (group,) = lab.world.ec2.describe_security_groups(Filters=filters)["SecurityGroups"]
    found: dict[int, set[str]] = {}
    for rule in group["IpPermissions"]:
        sources = [entry["CidrIp"] for entry in rule.get("IpRanges", ())]
        sources += [entry["PrefixListId"] for entry in rule.get("PrefixListIds", ())]
        found.setdefault(rule["FromPort"], set()).update(sources)
    return found


def ports(lab: Lab) -> list[tuple[int, int]]:
    """Of the load balancer, with how many targets each has."""
    (balancer,) = lab.world.load_balancers()
    return [(listener.port, len(listener.targets)) for listener in balancer.listeners]


@pytest.mark.parametrize(
    ("before", "sources"),
    [
        pytest.param({RANGES: "203.0.113.0/24,192.0.2.0/24"}, {"203.0.113.0/24", "192.0.2.0/24"}, id="some"),
        pytest.param({}, {"0.0.0.0/0"}, id="everybody"),
    ],
)
@pytest.mark.parametrize(
    "mistaken",
    [
        pytest.param({RANGES: "203.0.113.0/33"}, id="no range"),
        pytest.param({RANGES: "203.0.113.0/24,all"}, id="one of two"),
        pytest.param({LISTS: "pl_1234"}, id="no prefix list"),
    ],
)
def test_who_may_connect_stays(
    lab: Lab, before: dict[str, str], sources: set[str], mistaken: dict[str, str]
) -> None:
    desk = Desk(lab, annotations=before, ports=(HTTP, TLS))
    desk.settle()
    desk.change(annotations=mistaken, ports=(HTTP, MORE))
    desk.cluster.nodes = desk.cluster.nodes[1:]
    desk.restart()
    (outcome,) = desk.settle()
    assert (outcome.result, outcome.retry_after_s) == (Result.UPDATED, None)
    assert admitted(lab) == {80: sources, 8080: sources}
    assert ports(lab) == [(80, 2), (8080, 2)]
    ((name, value),) = mistaken.items()
    said = desk.condition("UnknownAnnotations")[1] or desk.condition("Annotations")[1]
    assert name.removeprefix("service.beta.kubernetes.io/") in said
    assert value.rpartition(",")[2] in said
    assert "stays as it is" in said
    calls = lab.provider.calls().by_operation
    again = desk.reconcile()
    assert (again.result, again.events) == (Result.UNCHANGED, ())
    assert lab.provider.calls().by_operation == calls
    desk.change(annotations={name: ""})
    desk.settle()
    assert set(admitted(lab)) == {80, 8080}


def test_prefix_lists_stay_too(lab: Lab) -> None:
    office, home = prefix_list(lab, "office"), prefix_list(lab, "home")
    desk = Desk(lab, annotations={LISTS: f"{office},{home}"}, ports=(HTTP,))
    desk.settle()
    desk.change(annotations={LISTS: f"{office};{home}"}, ports=(HTTP, MORE))
    desk.settle()
    assert admitted(lab) == {80: {office, home}, 8080: {office, home}}
    desk.change(annotations={LISTS: office})
    desk.settle()
    assert admitted(lab) == {80: {office}, 8080: {office}}


def test_nobody_is_admitted_where_nothing_tells_who_was(lab: Lab) -> None:
    """The rules are revoked by hand in the meantime."""
    desk = Desk(lab, annotations={RANGES: "203.0.113.0/24"}, ports=(HTTP,))
    desk.settle()
    filters: Any = [{"Name": "group-name", "Values": ["lbp-*"]}]
    (group,) = lab.world.ec2.describe_security_groups(Filters=filters)["SecurityGroups"]
    lab.world.ec2.revoke_security_group_ingress(
        GroupId=group["GroupId"], IpPermissions=group["IpPermissions"]
    )
    desk.change(annotations={RANGES: "the office"}, ports=(HTTP, MORE))
    desk.restart()
    desk.settle()
    assert admitted(lab) == {}
    assert "nobody is admitted" in desk.condition("Annotations")[1]
    desk.change(annotations={RANGES: "203.0.113.0/24"})
    desk.settle()
    assert admitted(lab) == {80: {"203.0.113.0/24"}, 8080: {"203.0.113.0/24"}}
    assert desk.condition("Annotations") == ("", "")


@pytest.mark.parametrize(
    "mistaken",
    [
        pytest.param({RANGES: "203.0.113.0/33"}, id="no range"),
        pytest.param({LISTS: "pl_1234"}, id="no prefix list, and nobody else"),
        pytest.param({"lbprov.io/scheme": "intern"}, id="no scheme"),
    ],
)
def test_nothing_is_made_on_a_guess(lab: Lab, mistaken: dict[str, str]) -> None:
    desk = Desk(lab, annotations=mistaken)
    outcome = desk.reconcile()
    assert (outcome.result, outcome.retry_after_s) == (Result.FAILED, None)
    ((name, value),) = mistaken.items()
    assert f"metadata.annotations[{name}]" in outcome.message
    assert value in outcome.message
    assert outcome.message.endswith("until then nothing is made")
    assert lab.world.leftovers() == ()
    assert lab.provider.calls().write == 0
    desk.change(annotations={name: "internal" if "scheme" in name else ""})
    desk.settle()
    assert len(ports(lab)) == 2


def test_a_new_one_for_those_that_are_understood(lab: Lab) -> None:
    office = prefix_list(lab, "office")
    desk = Desk(lab, annotations={LISTS: f"{office},pl_1234"}, ports=(HTTP,))
    desk.settle()
    assert admitted(lab) == {80: {office}}
    assert "pl_1234" in desk.condition("Annotations")[1]


@pytest.mark.parametrize("replace", ["seamless", "outage"])
@pytest.mark.parametrize(
    "mistaken",
    [pytest.param({"lbprov.io/scheme": "intern"}, id="scheme"), pytest.param({RANGES: "all"}, id="ranges")],
)
def test_nothing_is_replaced_on_a_guess(lab: Lab, mistaken: dict[str, str], replace: str) -> None:
    desk = Desk(lab, ports=(HTTP,))
    desk.settle()
    (before,) = lab.world.load_balancers()
    desk.change(
        annotations={**mistaken, "lbprov.io/replace": replace, PREFIX + "name": "shop"}, ports=(HTTP, MORE)
    )
    desk.settle()
    (after,) = lab.world.load_balancers()
    assert (after.arn, after.scheme) == (before.arn, "internet-facing")
    assert ports(lab) == [(80, 3), (8080, 3)]
    assert admitted(lab) == {80: {"0.0.0.0/0"}, 8080: {"0.0.0.0/0"}}
    assert desk.condition("Replacement")[0] == "ReplacementBlocked"
