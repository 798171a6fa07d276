"""Addresses that annotations list, one per zone: by id, by address, by tag; each honoured, or answered with
another and a reason."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from lbprov.api import Ingress, LoadBalancer, Replace, RetryLater, Severity, UserError
from lbprov_aws.peer_annotations import PREFIX

if TYPE_CHECKING:
    from tests.aws.conftest import Lab, Pass

IPS = ("203.0.113.10", "203.0.113.11", "203.0.113.12")
EIPS = PREFIX + "eip-allocations"
TAGS = PREFIX + "eip-allocations-discovery-tags"
PRIVATE = PREFIX + "private-ipv4-addresses"
IPV6 = PREFIX + "ipv6-addresses"
SUBNETS = PREFIX + "subnets"


def allocate(lab: Lab, *ips: str, **tags: str) -> list[str]:
    return [lab.world.allocate_address(ip, tags) for ip in ips or IPS]


def listing(lab: Lab, annotations: dict[str, str], name: str = "web", **changes: Any) -> LoadBalancer:
    desired: LoadBalancer = lab.desired(name, annotations=annotations, **changes)
    return desired


def told(result: Pass) -> tuple[str, str, str]:
    (notice,) = [n for n in result.plan.notices if n.topic == "RequestedIP"]
    return notice.severity, notice.reason, notice.message


def standing(lab: Lab, name: str = "web") -> dict[str, str]:
    """Zone -> its fixed address, of a Service's load balancer."""
    found: Any = lab.world.elbv2.describe_load_balancers()["LoadBalancers"]
    (balancer,) = [b for b in found if f"-{name}-" in b["LoadBalancerName"]]
    zones = sorted(balancer["AvailabilityZones"], key=lambda zone: zone["ZoneName"])
    return {
        zone["ZoneName"]: " ".join(
            address[field]
            for address in zone["LoadBalancerAddresses"]
            for field in ("IpAddress", "PrivateIPv4Address", "IPv6Address")
            if address.get(field)
        )
        for zone in zones
    }


ZONES = ("eu-west-1a", "eu-west-1b", "eu-west-1c")


@pytest.mark.parametrize("by", ["allocation", "address", "tag", "mixed"])
def test_one_per_zone_keeps_the_zones(lab: Lab, by: str) -> None:
    ids = [lab.world.allocate_address(ip, {"shop": str(n)}) for n, ip in enumerate(IPS)]
    wishes = {
        "allocation": ids,
        "address": IPS,
        "tag": ["tag:shop=0", "tag:shop=1", "tag:shop=2"],
        "mixed": [ids[0], IPS[1], "tag:shop=2"],
    }[by]
    desired = listing(lab, {EIPS: ",".join(wishes)})
    result = lab.reconcile(desired)
    assert told(result)[:2] == (Severity.NORMAL, "LoadBalancerIPAssigned")
    assert standing(lab) == dict(zip(ZONES, IPS, strict=True))
    # As with the other controllers: by its name.
    (balancer,) = lab.world.load_balancers()
    assert result.status is not None
    assert result.status.ingress == (Ingress(hostname=balancer.dns_name),)
    again = lab.reconcile(desired)
    assert again.calls == {}
    assert told(again) == told(result)
    lab.restart()
    again = lab.reconcile(desired)
    assert again.writes == {}
    assert told(again) == told(result)
    assert "DescribeAddresses" not in again.calls


def test_one_look_for_all(lab: Lab) -> None:
    lab.reconcile(lab.desired("other"))
    calls = lab.reconcile(listing(lab, {EIPS: ",".join(allocate(lab))})).calls
    assert calls["DescribeAddresses"] == 1
    assert sum(calls.values()) == 8


def test_fewer_than_zones(lab: Lab) -> None:
    """It stands where its addresses are, where most nodes are first, and serves the nodes of all zones."""
    lab.world.add_node("node-4", "eu-west-1c")
    lab.reconcile(listing(lab, {EIPS: ",".join(allocate(lab, *IPS[:2]))}))
    assert standing(lab) == {"eu-west-1a": IPS[1], "eu-west-1c": IPS[0]}
    assert any("cross-zone true" in line for line in lab.world.inventory())
    lab.restart()
    assert lab.reconcile(listing(lab, {EIPS: ",".join(IPS[:2])})).writes == {}, "the same by other names"


def test_in_the_order_of_the_subnets_that_are_named(lab: Lab) -> None:
    ids = allocate(lab)
    subnets = [lab.world.subnet_ids[zone] for zone in ("eu-west-1c", "eu-west-1a", "eu-west-1b")]
    lab.reconcile(listing(lab, {EIPS: ",".join(ids), SUBNETS: ",".join(subnets)}))
    assert standing(lab) == {"eu-west-1a": IPS[1], "eu-west-1b": IPS[2], "eu-west-1c": IPS[0]}


def test_pool_by_tags(lab: Lab) -> None:
    allocate(lab, pool="public")
    allocate(lab, "203.0.113.99", pool="other")
    desired = listing(lab, {TAGS: "pool=public"})
    lab.reconcile(desired)
    assert sorted(standing(lab).values()) == list(IPS)
    assert lab.reconcile(desired).calls == {}


def test_pool_that_is_too_small(lab: Lab) -> None:
    allocate(lab, *IPS[:2], pool="public")
    result = lab.reconcile(listing(lab, {TAGS: "pool=public"}))
    assert told(result)[:2] == (Severity.WARNING, "LoadBalancerIPNotFound")
    assert "2 free Elastic IPs in eu-west-1 for 3 subnets" in told(result)[2]
    assert sorted(filter(None, standing(lab).values())) == list(IPS[:2])
    assert len(standing(lab)) == 3


def test_two_services_of_one_pool(lab: Lab) -> None:
    """Each gets one that the other has not, also where both look before either is made."""
    allocate(lab, *IPS[:2], pool="public")
    one = listing(lab, {EIPS: "tag:pool=public"}, "one")
    two = listing(lab, {EIPS: "tag:pool=public"}, "two")
    for desired in (one, two):
        lab.provider.observe(desired.owner, desired)
    results = [lab.reconcile(desired) for desired in (two, one)]
    assert [told(result)[1] for result in results] == ["LoadBalancerIPAssigned"] * 2
    assert {*standing(lab, "one").values()} | {*standing(lab, "two").values()} == set(IPS[:2])


def test_older_of_two_gets_what_both_name(lab: Lab) -> None:
    (eip,) = allocate(lab, IPS[0])
    older = listing(lab, {EIPS: eip}, "older", created_at="2026-01-01T00:00:00Z")
    younger = listing(lab, {EIPS: IPS[0]}, "younger", created_at="2026-01-02T00:00:00Z")
    for desired in (younger, older):
        lab.provider.observe(desired.owner, desired)
    result = lab.reconcile(younger)
    assert told(result)[1] == "LoadBalancerIPInUse"
    assert "Service default/older, which is older" in told(result)[2]
    assert told(lab.reconcile(older))[1] == "LoadBalancerIPAssigned"


def test_a_list_and_a_load_balancer_ip_of_two_services(lab: Lab) -> None:
    (eip,) = allocate(lab, IPS[0])
    lab.reconcile(lab.desired("first", requested_ip=IPS[0]))
    result = lab.reconcile(listing(lab, {EIPS: eip}))
    assert told(result)[1] == "LoadBalancerIPInUse"
    assert "the load balancer of Service default/first" in told(result)[2]


# One of several that cannot be had costs that one


@pytest.mark.parametrize(
    ("bad", "reason", "said"),
    [
        pytest.param("eipalloc-0dead", "LoadBalancerIPNotFound", "eipalloc-0dead is no Elastic IP", id="id"),
        pytest.param(
            "198.51.100.1", "LoadBalancerIPNotFound", "198.51.100.1 is no Elastic IP", id="elsewhere"
        ),
        pytest.param("tag:no=such", "LoadBalancerIPNotFound", "tag:no=such is no Elastic IP", id="tag"),
        pytest.param(IPS[2], "LoadBalancerIPInUse", "by instance i-", id="in use"),
    ],
)
def test_one_of_several(lab: Lab, bad: str, reason: str, said: str) -> None:
    one, two, three = allocate(lab)
    lab.world.ec2.associate_address(AllocationId=three, InstanceId=lab.world.instance_id("node-1"))
    desired = listing(lab, {EIPS: f"{one},{two},{bad}"})
    result = lab.reconcile(desired)
    severity, told_reason, message = told(result)
    assert (severity, told_reason) == (Severity.WARNING, reason)
    assert said in message
    assert message.endswith("addresses of AWS's choice are used instead")
    assert standing(lab) == {"eu-west-1a": IPS[0], "eu-west-1b": IPS[1], "eu-west-1c": ""}
    again = lab.reconcile(desired)
    assert again.writes == {}
    assert told(again)[:2] == (severity, reason)
    assert lab.reconcile(desired).calls == {}, "said from memory"


def test_one_that_is_named_twice_counts_once(lab: Lab) -> None:
    one, *_ = allocate(lab)
    result = lab.reconcile(listing(lab, {EIPS: f"{one},{IPS[0]}"}))
    assert f"{IPS[0]} is named twice" in told(result)[2]
    kept = lab.reconcile(listing(lab, {EIPS: f"{one},{IPS[0]}"}))
    assert kept.calls == {}
    assert f"{IPS[0]} is named twice: it is {one}" in told(kept)[2]
    assert standing(lab) == {"eu-west-1a": IPS[0], "eu-west-1b": ""}


def test_required_and_one_missing_makes_nothing(lab: Lab) -> None:
    (one,) = allocate(lab, IPS[0])
    with pytest.raises(UserError, match=r"annotations\[.*eip-allocations\]: eipalloc-0dead is no Elastic IP"):
        lab.reconcile(listing(lab, {EIPS: f"{one},eipalloc-0dead"}, require_ip=True))
    assert lab.world.load_balancers() == ()


def test_more_than_zones(lab: Lab) -> None:
    ids = allocate(lab, *IPS, "203.0.113.13")
    result = lab.reconcile(listing(lab, {EIPS: ",".join(ids)}))
    assert told(result)[1] == "LoadBalancerIPUnsupported"
    assert "203.0.113.13 finds no subnet: there are 3" in told(result)[2]
    assert list(standing(lab).values()) == list(IPS)


def test_look_up_denied(lab: Lab) -> None:
    ids = allocate(lab)
    lab.server.fail("DescribeAddresses", "UnauthorizedOperation", times=9, status=403)
    result = lab.reconcile(listing(lab, {EIPS: ",".join(ids)}))
    assert told(result)[1] == "LoadBalancerIPLookupFailed"
    assert "ec2:DescribeAddresses" in told(result)[2]
    assert set(standing(lab).values()) == {""}


@pytest.mark.usefixtures("impatient_sdk")
def test_throttled_look_up_decides_nothing(lab: Lab) -> None:
    ids = allocate(lab)
    desired = listing(lab, {EIPS: ",".join(ids)})
    lab.server.fail("DescribeAddresses", "RequestLimitExceeded", times=4, status=503)
    with pytest.raises(RetryLater):
        lab.reconcile(desired)
    assert lab.world.load_balancers() == ()
    lab.reconcile(desired)
    assert list(standing(lab).values()) == list(IPS)


def test_scheme_decides_the_kind(lab: Lab) -> None:
    ids = allocate(lab)
    result = lab.reconcile(listing(lab, {EIPS: ids[0]}, "inside", internal=True))
    assert "Elastic IPs are for a load balancer that faces the internet" in told(result)[2]
    result = lab.reconcile(listing(lab, {PRIVATE: "10.0.0.9"}, "outside"))
    assert "private addresses are for an internal load balancer" in told(result)[2]
    assert len(standing(lab, "inside")) == len(standing(lab, "outside")) == 3


# Private and IPv6 addresses


def test_private_addresses(lab: Lab) -> None:
    desired = listing(lab, {PRIVATE: "10.0.2.9, 10.0.0.9"}, internal=True)
    result = lab.reconcile(desired)
    assert told(result)[1] == "LoadBalancerIPAssigned"
    assert standing(lab) == {"eu-west-1a": "10.0.0.9", "eu-west-1c": "10.0.2.9"}
    lab.restart()
    again = lab.reconcile(desired)
    assert again.writes == {}
    assert told(again) == told(result)


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        pytest.param("10.0.0.9,10.0.0.10", "10.0.0.10 and 10.0.0.9 are both of subnet-", id="one subnet"),
        pytest.param(
            "10.0.0.9,10.9.9.9", "10.9.9.9 is in none of the load balancer's subnets", id="elsewhere"
        ),
    ],
)
def test_private_address_that_cannot_be_had(lab: Lab, wish: str, said: str) -> None:
    desired = listing(lab, {PRIVATE: wish}, internal=True)
    result = lab.reconcile(desired)
    assert told(result)[:2] == (Severity.WARNING, "LoadBalancerIPUnsupported")
    assert said in told(result)[2]
    assert standing(lab) == {"eu-west-1a": "10.0.0.9", "eu-west-1b": ""}
    assert lab.reconcile(desired).writes == {}


def test_private_address_that_is_taken(lab: Lab) -> None:
    """Who has it cannot be looked up: AWS says it when the load balancer is made."""
    subnet = lab.world.subnet_ids["eu-west-1a"]
    lab.world.ec2.create_network_interface(SubnetId=subnet, PrivateIpAddress="10.0.0.9")
    desired = listing(lab, {PRIVATE: "10.0.0.9"}, internal=True)
    lab.reconcile(desired)
    assert set(standing(lab).values()) == {""}
    again = lab.reconcile(desired)
    assert told(again)[1] == "LoadBalancerIPInUse"
    assert "10.0.0.9 refused by AWS when it was made" in told(again)[2]


def test_ipv6_beside_elastic_ips(lab: Lab) -> None:
    lab.world.add_ipv6()
    subnets: Any = lab.world.ec2.describe_subnets(SubnetIds=list(lab.world.subnet_ids.values()))["Subnets"]
    ranges = {s["AvailabilityZone"]: s["Ipv6CidrBlockAssociationSet"][0]["Ipv6CidrBlock"] for s in subnets}
    ipv6 = ranges["eu-west-1b"].replace("::/64", "::9")
    (eip,) = allocate(lab, IPS[0])
    annotations = {EIPS: eip, IPV6: ipv6, PREFIX + "ip-address-type": "dualstack"}
    result = lab.reconcile(listing(lab, annotations))
    assert told(result)[1] == "LoadBalancerIPAssigned"
    assert standing(lab) == {"eu-west-1b": f"{IPS[0]} {ipv6}"}


# Races, and afterwards


def test_one_taken_between_look_and_call(lab: Lab) -> None:
    """The others are had: the next plan is without it."""
    one, two, _ = allocate(lab)
    desired = listing(lab, {EIPS: f"{one},{two}"})

    def take() -> None:
        lab.world.ec2.associate_address(AllocationId=two, InstanceId=lab.world.instance_id("node-1"))

    with pytest.raises(RetryLater, match="taken meanwhile"):
        lab.reconcile(desired, before_apply=take)
    result = lab.reconcile(desired)
    assert told(result)[1] == "LoadBalancerIPInUse"
    assert sorted(standing(lab).values()) == ["", IPS[0]]


@pytest.mark.parametrize("code", ["InvalidConfigurationRequest", "ResourceInUse"])
def test_refused_without_a_reason_that_we_see(lab: Lab, code: str) -> None:
    ids = allocate(lab)
    desired = listing(lab, {EIPS: ",".join(ids)})
    lab.server.fail("CreateLoadBalancer", code)
    lab.reconcile(desired)
    assert set(standing(lab).values()) == {""}
    again = lab.reconcile(desired)
    assert told(again)[0] == Severity.WARNING
    assert code in told(again)[2]


def test_address_of_a_deleted_load_balancer_is_waited_for(lab: Lab) -> None:
    ids = allocate(lab)
    former = listing(lab, {EIPS: ",".join(ids)}, "former")
    lab.reconcile(former)
    lab.server.linger(True)
    with pytest.raises(RetryLater):
        lab.delete(former.owner)
    desired = listing(lab, {EIPS: ",".join(ids)})
    with pytest.raises(RetryLater, match="is being released"):
        lab.reconcile(desired)
    lab.server.linger(False)
    assert told(lab.reconcile(desired))[1] == "LoadBalancerIPAssigned"


def test_edit_of_a_live_load_balancer(lab: Lab) -> None:
    one, two, three = allocate(lab)
    lab.reconcile(listing(lab, {EIPS: f"{one},{two}"}))
    before = standing(lab)
    result = lab.reconcile(listing(lab, {EIPS: f"{one},{three}"}))
    assert result.writes == {}
    assert told(result)[1] == "LoadBalancerIPChangeIgnored"
    assert f"{three} asked for now, but the load balancer keeps" in told(result)[2]
    assert standing(lab) == before
    assert lab.reconcile(lab.desired()).writes == {}
    assert told(lab.reconcile(listing(lab, {EIPS: f"{two},{one}"})))[1] == "LoadBalancerIPAssigned"


def test_address_that_appears_later(lab: Lab) -> None:
    desired = listing(lab, {EIPS: IPS[0]})
    assert told(lab.reconcile(desired))[1] == "LoadBalancerIPNotFound"
    allocate(lab, IPS[0])
    lab.clock.now += 301
    result = lab.reconcile(desired)
    assert told(result)[:2] == (Severity.NORMAL, "LoadBalancerIPAvailable")
    assert result.writes == {}


def test_replaced_for_other_addresses(lab: Lab) -> None:
    one, two, three = allocate(lab)
    lab.reconcile(listing(lab, {EIPS: one}))
    desired = listing(lab, {EIPS: f"{two},{three}"}, replace=Replace.SEAMLESS)
    plan = lab.provider.plan(desired, lab.provider.observe(desired.owner, desired))
    assert "addresses: " in plan.to_text()
    assert next(s.kind for s in plan.steps if s.action == "create") == "load balancer"


def test_load_balancer_ip_beside_a_list(lab: Lab) -> None:
    one, _, _ = allocate(lab)
    result = lab.reconcile(listing(lab, {EIPS: one}, requested_ip=IPS[1]))
    assert list(standing(lab).values()) == [IPS[0]]
    assert "spec.loadBalancerIP: 203.0.113.11 is not looked at" in result.notices["AnnotationsIgnored"]
