"""`spec.loadBalancerIP`, row by row: honoured, or answered with another address and a reason; one reconcile
ends with a working load balancer either way."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from lbprov.api import Ingress, IPMode, LoadBalancer, ProviderError, RetryLater, Severity, UserError
from lbprov_aws import ec2
from lbprov_aws.address_book import LINGER_S
from lbprov_aws.ec2 import ElasticIp

if TYPE_CHECKING:
    from tests.aws.conftest import Lab, Pass

IP = "203.0.113.10"
INTERNAL = {"internal": True}


def assigned(lab: Lab) -> tuple[str, ...]:
    """The fixed addresses of the only load balancer."""
    (balancer,) = lab.world.load_balancers()
    return balancer.addresses


def told(result: Pass) -> tuple[str, str, str]:
    (notice,) = [n for n in result.plan.notices if n.topic == "RequestedIP"]
    return notice.severity, notice.reason, notice.message


def assert_fallback(lab: Lab, result: Pass, reason: str, *said: str) -> None:
    severity, told_reason, message = told(result)
    assert (severity, told_reason) == (Severity.WARNING, reason)
    assert message.endswith("an address of AWS's choice is used instead")
    assert [part for part in said if part not in message] == [], message
    assert_serves_without_fixed_address(lab, result)


def assert_serves_without_fixed_address(lab: Lab, result: Pass) -> None:
    (balancer,) = lab.world.load_balancers()
    assert balancer.addresses == ()
    assert len(balancer.zones) == 3
    assert [len(listener.targets) for listener in balancer.listeners] == [3]
    assert result.status is not None
    assert result.status.ingress == (Ingress(hostname=balancer.dns_name),)


def made(lab: Lab) -> set[str]:
    """What there is, without a look at addresses (which tests make fail)."""
    groups = lab.world.ec2.describe_security_groups()["SecurityGroups"]
    return {b.name for b in lab.world.load_balancers()} | {group["GroupName"] for group in groups}


def occupy(lab: Lab, ip: str) -> str:
    """Somebody else's use of the address; returns the interface's id."""
    subnet = next(iter(lab.world.subnet_ids.values()))
    interface = lab.world.ec2.create_network_interface(SubnetId=subnet)["NetworkInterface"]
    (address,) = lab.world.ec2.describe_addresses(PublicIps=[ip])["Addresses"]
    lab.world.ec2.associate_address(
        AllocationId=address["AllocationId"], NetworkInterfaceId=interface["NetworkInterfaceId"]
    )
    return interface["NetworkInterfaceId"]


# Usable


def test_free_address_is_used(lab: Lab) -> None:
    allocation = lab.world.allocate_address(IP)
    result = lab.reconcile(lab.desired(requested_ip=IP))
    assert told(result)[:2] == (Severity.NORMAL, "LoadBalancerIPAssigned")
    assert "it does not outlive that zone" in told(result)[2]
    (request,) = [r for r in lab.server.requests() if r["operation"] == "CreateLoadBalancer"]
    assert request["params"]["SubnetMappings.member.1.AllocationId"] == allocation
    assert "SubnetMappings.member.2.SubnetId" not in request["params"]
    (address,) = lab.world.ec2.describe_addresses(PublicIps=[IP])["Addresses"]
    assert address["AssociationId"]
    assert result.status is not None
    assert result.status.ingress == (Ingress(ip=IP, ip_mode=IPMode.PROXY),)
    assert any("cross-zone true" in line for line in lab.world.inventory())


def test_our_own_address_is_not_in_use(lab: Lab) -> None:
    lab.world.allocate_address(IP)
    first = lab.reconcile(lab.desired(requested_ip=IP))
    for restart in (False, True):
        if restart:
            lab.restart()
        again = lab.reconcile(lab.desired(requested_ip=IP))
        assert again.plan.is_empty
        assert told(again) == told(first)
        assert "DescribeAddresses" not in again.calls


def test_spelling_does_not_matter(lab: Lab) -> None:
    lab.world.allocate_address(IP)
    result = lab.reconcile(lab.desired(requested_ip=f" {IP} "))
    assert assigned(lab) == (IP,)
    assert result.status is not None
    assert result.status.ingress == (Ingress(ip=IP, ip_mode=IPMode.PROXY),)


@pytest.mark.parametrize(
    ("nodes", "zone"),
    [
        pytest.param(["node-1", "node-2", "node-3"], "eu-west-1a", id="ties: the first by name"),
        pytest.param(["node-2", "node-3", "node-4"], "eu-west-1c", id="where most nodes are"),
    ],
)
def test_zone_is_that_of_most_nodes(lab: Lab, nodes: list[str], zone: str) -> None:
    lab.world.add_node("node-4", "eu-west-1c")
    lab.world.allocate_address(IP)
    lab.reconcile(lab.desired(requested_ip=IP, nodes=nodes))
    (balancer,) = lab.world.load_balancers()
    assert balancer.zones == (zone,)


def test_zone_is_never_chosen_again(lab: Lab) -> None:
    lab.world.allocate_address(IP)
    lab.reconcile(lab.desired(requested_ip=IP))
    for name in ("node-4", "node-5"):
        lab.world.add_node(name, "eu-west-1c")
    result = lab.reconcile(lab.desired(requested_ip=IP))
    assert result.writes == {"RegisterTargets": 1}


def test_private_address_of_an_internal_load_balancer(lab: Lab) -> None:
    result = lab.reconcile(lab.desired(requested_ip="10.0.1.77", internal=True))
    (balancer,) = lab.world.load_balancers()
    assert (balancer.scheme, balancer.zones, balancer.addresses) == (
        "internal",
        ("eu-west-1b",),
        ("10.0.1.77",),
    )
    assert told(result)[1] == "LoadBalancerIPAssigned"
    assert result.status is not None
    assert result.status.ingress == (Ingress(ip="10.0.1.77", ip_mode=IPMode.PROXY),)
    assert lab.reconcile(lab.desired(requested_ip="10.0.1.77", internal=True)).calls == {}


# Not usable


def nothing(lab: Lab) -> None:
    pass


def allocated(lab: Lab) -> None:
    lab.world.allocate_address(IP)


def used_by_instance(lab: Lab) -> None:
    allocation = lab.world.allocate_address(IP)
    lab.world.ec2.associate_address(AllocationId=allocation, InstanceId=lab.world.instance_id("node-1"))


def used_by_interface(lab: Lab) -> None:
    lab.world.allocate_address(IP)
    occupy(lab, IP)


def used_by_service(lab: Lab) -> None:
    lab.world.allocate_address(IP)
    lab.reconcile(lab.desired("first", requested_ip=IP))


def lookup_denied(lab: Lab) -> None:
    lab.server.fail("DescribeAddresses", "UnauthorizedOperation", times=100, status=403)


UNUSABLE = [
    pytest.param(nothing, IP, {}, "LoadBalancerIPNotFound", ("eu-west-1", "allocate it"), id="not found"),
    pytest.param(used_by_instance, IP, {}, "LoadBalancerIPInUse", ("instance i-",), id="used by an instance"),
    pytest.param(
        used_by_interface,
        IP,
        {},
        "LoadBalancerIPInUse",
        ("network interface eni-",),
        id="used by an interface",
    ),
    pytest.param(
        used_by_service, IP, {}, "LoadBalancerIPInUse", ("of Service default/first",), id="used by a Service"
    ),
    pytest.param(
        lookup_denied, IP, {}, "LoadBalancerIPLookupFailed", ("ec2:DescribeAddresses",), id="look-up denied"
    ),
    pytest.param(
        allocated, IP, INTERNAL, "LoadBalancerIPUnsupported", ("10.0.0.0/24",), id="internal, public address"
    ),
    pytest.param(
        nothing, "10.9.9.9", INTERNAL, "LoadBalancerIPUnsupported", ("10.0.0.0/24",), id="internal, elsewhere"
    ),
    pytest.param(
        nothing, "10.0.0.77", {}, "LoadBalancerIPUnsupported", ("is a private address",), id="private address"
    ),
    pytest.param(nothing, "web", {}, "LoadBalancerIPInvalid", ("'web' is not an IP",), id="malformed"),
    pytest.param(nothing, "203.0.113.256", {}, "LoadBalancerIPInvalid", (), id="out of range"),
    pytest.param(
        nothing,
        "2001:db8::1",
        {},
        "LoadBalancerIPUnsupported",
        ("an IPv6 address",),
        id="IPv6, IPv4 balancer",
    ),
]


@pytest.mark.parametrize(("prepare", "ip", "changes", "reason", "said"), UNUSABLE)
def test_unusable_address_is_answered_with_another(
    lab: Lab,
    prepare: Callable[[Lab], None],
    ip: str,
    changes: dict[str, Any],
    reason: str,
    said: tuple[str, ...],
) -> None:
    prepare(lab)
    others = {b.arn for b in lab.world.load_balancers()}
    desired = lab.desired(requested_ip=ip, **changes)
    result = lab.reconcile(desired)
    severity, told_reason, message = told(result)
    assert (severity, told_reason) == (Severity.WARNING, reason)
    assert ip in message
    assert [part for part in said if part not in message] == [], message
    assert message.endswith("an address of AWS's choice is used instead")
    (balancer,) = [b for b in lab.world.load_balancers() if b.arn not in others]
    assert (balancer.addresses, len(balancer.zones)) == ((), 3)
    assert result.status is not None
    assert result.status.ingress == (Ingress(hostname=balancer.dns_name),)
    # Said again in the same words, from memory and by a new process, without a write.
    for restart in (False, True):
        if restart:
            lab.restart()
        again = lab.reconcile(desired)
        assert again.writes == {}
        assert told(again) == told(result)


@pytest.mark.parametrize(("prepare", "ip", "changes", "reason", "said"), UNUSABLE)
def test_required_address_that_is_unusable_makes_nothing(
    lab: Lab,
    prepare: Callable[[Lab], None],
    ip: str,
    changes: dict[str, Any],
    reason: str,
    said: tuple[str, ...],
) -> None:
    prepare(lab)
    before = made(lab)
    with pytest.raises(UserError, match=r"^spec\.loadBalancerIP: ") as caught:
        lab.reconcile(lab.desired(requested_ip=ip, require_ip=True, **changes))
    assert caught.value.reason == reason
    assert "lbprov.io/ip-policy: require" in str(caught.value)
    assert [part for part in (ip, *said) if part not in str(caught.value)] == []
    assert made(lab) == before


@pytest.mark.parametrize(
    ("found", "said"),
    [
        pytest.param(ElasticIp(IP, "eipalloc-1", border_group="eu-west-1-wl1"), "eu-west-1-wl1", id="zone"),
        pytest.param(ElasticIp(IP, "", domain="standard"), "domain is standard", id="classic"),
    ],
)
def test_address_of_another_kind(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, found: ElasticIp, said: str
) -> None:
    monkeypatch.setattr(ec2, "elastic_ips", lambda cloud, filter_, values: (found,))
    result = lab.reconcile(lab.desired(requested_ip=IP))
    assert_fallback(lab, result, "LoadBalancerIPUnsupported", IP, said)


def test_holder_that_we_may_not_look_at(lab: Lab) -> None:
    lab.world.allocate_address(IP)
    interface = occupy(lab, IP)
    lab.server.fail("DescribeNetworkInterfaces", "UnauthorizedOperation", times=9, status=403)
    result = lab.reconcile(lab.desired(requested_ip=IP))
    assert_fallback(lab, result, "LoadBalancerIPInUse", f"network interface {interface}: free it")


@pytest.mark.usefixtures("impatient_sdk")
def test_throttled_lookup_decides_nothing(lab: Lab) -> None:
    lab.world.allocate_address(IP)
    lab.server.fail("DescribeAddresses", "RequestLimitExceeded", times=4, status=503)
    before = made(lab)
    with pytest.raises(RetryLater, match="throttles ec2:DescribeAddresses"):
        lab.reconcile(lab.desired(requested_ip=IP))
    assert made(lab) == before
    lab.reconcile(lab.desired(requested_ip=IP))
    assert assigned(lab) == (IP,)


def test_outage_of_the_lookup_decides_nothing(lab: Lab) -> None:
    lab.world.allocate_address(IP)
    lab.server.fail("DescribeAddresses", "InvalidAction")
    with pytest.raises(ProviderError):
        lab.reconcile(lab.desired(requested_ip=IP))
    assert lab.world.load_balancers() == ()


# Two Services, one address


@pytest.mark.parametrize("older", ["a", "b"])
@pytest.mark.parametrize("first", ["a", "b"])
def test_older_of_two_waiting_services_gets_it(lab: Lab, older: str, first: str) -> None:
    """Both have been looked at before either is made."""
    lab.world.allocate_address(IP)
    younger = {"a": "b", "b": "a"}[older]
    wanted = {
        older: lab.desired(older, requested_ip=IP, created_at="2026-01-01T00:00:00Z"),
        younger: lab.desired(younger, requested_ip=IP, created_at="2026-01-02T00:00:00Z"),
    }
    for desired in wanted.values():
        lab.provider.observe(desired.owner, desired)
    order = sorted(wanted, key=lambda name: name != first)
    results = {name: lab.reconcile(wanted[name]) for name in order}
    assert told(results[older])[1] == "LoadBalancerIPAssigned"
    assert told(results[younger])[1] == "LoadBalancerIPInUse"
    assert f"Service default/{older}" in told(results[younger])[2]
    holders = [b.tags["lbprov/service"] for b in lab.world.load_balancers() if b.addresses]
    assert holders == [f"default/{older}"]


def test_equal_age_is_settled_by_name(lab: Lab) -> None:
    lab.world.allocate_address(IP)
    one, two = lab.desired("a", requested_ip=IP), lab.desired("b", requested_ip=IP)
    for desired in (two, one):
        lab.provider.observe(desired.owner, desired)
    assert told(lab.reconcile(two))[1] == "LoadBalancerIPInUse"
    assert told(lab.reconcile(one))[1] == "LoadBalancerIPAssigned"


def test_claim_ends_with_the_service(lab: Lab) -> None:
    lab.world.allocate_address(IP)
    older = lab.desired("older", requested_ip=IP)
    younger = lab.desired("younger", requested_ip=IP, created_at="2026-02-01T00:00:00Z")
    lab.provider.observe(older.owner, older)
    lab.provider.observe(older.owner, None)
    assert told(lab.reconcile(younger))[1] == "LoadBalancerIPAssigned"


def test_address_in_use_is_not_taken_from_a_younger_service(lab: Lab) -> None:
    lab.world.allocate_address(IP)
    lab.reconcile(lab.desired("younger", requested_ip=IP, created_at="2026-02-01T00:00:00Z"))
    result = lab.reconcile(lab.desired("older", requested_ip=IP, created_at="2026-01-01T00:00:00Z"))
    assert told(result)[1] == "LoadBalancerIPInUse"


# Races


@pytest.mark.parametrize("code", ["ResourceInUse", "AllocationIdNotFound", "InvalidConfigurationRequest"])
def test_refused_at_the_last_moment(lab: Lab, code: str) -> None:
    lab.world.allocate_address(IP)
    lab.server.fail("CreateLoadBalancer", code)
    result = lab.reconcile(lab.desired(requested_ip=IP))
    assert_serves_without_fixed_address(lab, result)
    again = lab.reconcile(lab.desired(requested_ip=IP))
    assert again.plan.is_empty
    assert told(again)[1] == "LoadBalancerIPAvailable"


def test_taken_between_look_and_call(lab: Lab) -> None:
    lab.world.allocate_address(IP)
    desired = lab.desired(requested_ip=IP)
    result = lab.reconcile(desired, before_apply=lambda: occupy(lab, IP))
    assert_serves_without_fixed_address(lab, result)
    assert told(lab.reconcile(desired))[1] == "LoadBalancerIPInUse"


def test_released_between_look_and_call(lab: Lab) -> None:
    allocation = lab.world.allocate_address(IP)
    desired = lab.desired(requested_ip=IP)
    release = lambda: lab.world.ec2.release_address(AllocationId=allocation)  # noqa: E731
    result = lab.reconcile(desired, before_apply=release)
    assert_serves_without_fixed_address(lab, result)
    assert told(lab.reconcile(desired))[1] == "LoadBalancerIPNotFound"


def test_required_and_taken_between_look_and_call(lab: Lab) -> None:
    lab.world.allocate_address(IP)
    desired = lab.desired(requested_ip=IP, require_ip=True)
    with pytest.raises(RetryLater, match="taken meanwhile"):
        lab.reconcile(desired, before_apply=lambda: occupy(lab, IP))
    assert lab.world.load_balancers() == ()
    with pytest.raises(UserError, match="in use"):
        lab.reconcile(desired)


def test_private_address_taken_meanwhile(lab: Lab) -> None:
    lab.server.fail("CreateLoadBalancer", "InvalidConfigurationRequest")
    desired = lab.desired(requested_ip="10.0.1.77", internal=True)
    assert_serves_without_fixed_address(lab, lab.reconcile(desired))
    lab.restart()
    again = lab.reconcile(desired)
    assert_fallback(lab, again, "LoadBalancerIPInUse", "10.0.1.77", "refused by AWS when")


@pytest.mark.parametrize("same_process", [True, False])
def test_address_of_our_deleted_load_balancer_is_waited_for(lab: Lab, same_process: bool) -> None:
    lab.world.allocate_address(IP)
    former = lab.desired("former", requested_ip=IP)
    lab.reconcile(former)
    lab.server.linger(True)
    with pytest.raises(RetryLater, match="network interfaces"):
        lab.delete(former.owner)
    if not same_process:
        lab.restart()
    desired = lab.desired(requested_ip=IP)
    with pytest.raises(RetryLater, match=r"203\.0\.113\.10 is being released"):
        lab.reconcile(desired)
    assert lab.world.load_balancers() == ()
    lab.server.linger(False)
    assert told(lab.reconcile(desired))[1] == "LoadBalancerIPAssigned"
    assert assigned(lab) == (IP,)


def test_waiting_for_a_released_address_ends(lab: Lab) -> None:
    lab.world.allocate_address(IP)
    former = lab.desired("former", requested_ip=IP)
    lab.reconcile(former)
    lab.server.linger(True)
    with pytest.raises(RetryLater):
        lab.delete(former.owner)
    desired = lab.desired(requested_ip=IP)
    with pytest.raises(RetryLater):
        lab.reconcile(desired)
    lab.clock.now += LINGER_S
    result = lab.reconcile(desired)
    assert_fallback(lab, result, "LoadBalancerIPInUse", "ELB net/lbp-default-former-")


# Afterwards


def test_address_that_appears_later_is_told_and_not_taken(lab: Lab) -> None:
    desired = lab.desired(requested_ip=IP)
    lab.reconcile(desired)
    lab.world.allocate_address(IP)
    assert told(lab.reconcile(desired))[1] == "LoadBalancerIPNotFound"
    lab.clock.now += 301
    result = lab.reconcile(desired)
    assert told(result)[:2] == (Severity.NORMAL, "LoadBalancerIPAvailable")
    assert result.writes == {}
    assert_serves_without_fixed_address(lab, result)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        pytest.param(IP, "203.0.113.11", ("203.0.113.11 is asked for now", f"keeps {IP}"), id="another"),
        pytest.param(IP, "", (f"{IP} is not asked for any more", f"keeps {IP}"), id="none"),
        pytest.param("", IP, (f"{IP} is asked for now", "keeps addresses of AWS's choice"), id="one"),
        pytest.param("203.0.113.99", IP, (f"{IP} is asked for now",), id="instead of an unusable one"),
    ],
)
def test_edit_of_a_live_load_balancer(lab: Lab, before: str, after: str, said: tuple[str, ...]) -> None:
    for ip in (IP, "203.0.113.11"):
        lab.world.allocate_address(ip)
    lab.reconcile(lab.desired(requested_ip=before))
    addresses = assigned(lab)
    result = lab.reconcile(lab.desired(requested_ip=after))
    severity, reason, message = told(result)
    assert (severity, reason) == (Severity.WARNING, "LoadBalancerIPChangeIgnored")
    assert [part for part in said if part not in message] == [], message
    assert result.writes == {}
    assert assigned(lab) == addresses
    assert result.status is not None
    # What serves traffic stays published as it was: a kept address by itself, others by the name.
    assert [i.ip for i in result.status.ingress] == [IP if before == IP else ""]


def test_edit_back_is_honoured_again(lab: Lab) -> None:
    lab.world.allocate_address(IP)
    desired = lab.desired(requested_ip=IP)
    first = lab.reconcile(desired)
    lab.reconcile(dataclasses.replace(desired, requested_ip=""))
    again = lab.reconcile(desired)
    assert told(again) == told(first)
    assert again.status is not None
    assert again.status.ingress == (Ingress(ip=IP, ip_mode=IPMode.PROXY),)


def test_address_is_free_after_deletion(lab: Lab) -> None:
    lab.world.allocate_address(IP)
    desired: LoadBalancer = lab.desired(requested_ip=IP)
    lab.reconcile(desired)
    lab.delete(desired.owner)
    (address,) = lab.world.ec2.describe_addresses(PublicIps=[IP])["Addresses"]
    assert not address.get("AssociationId")
    lab.reconcile(lab.desired("next", requested_ip=IP))
    assert assigned(lab) == (IP,)
