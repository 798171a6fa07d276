"""What AWS cannot change on a load balancer is had by another one beside it, and nobody is without one."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from lbprov.model import Ingress, Result, ServicePort
from lbprov_aws.cloud import Cloud
from lbprov_aws.peer_annotations import PREFIX
from tests.aws.conftest import Lab
from tests.aws.desk import KEY, Desk

SEAMLESS = {"lbprov.io/replace": "seamless"}
INTERNAL = {"lbprov.io/scheme": "internal"}
PUBLIC = {"lbprov.io/scheme": "internet-facing"}


@pytest.fixture
def desk(lab: Lab) -> Desk:
    made = Desk(lab, annotations={**SEAMLESS, **PUBLIC})
    made.settle()
    return made


def schemes(lab: Lab) -> list[str]:
    return sorted(b.scheme for b in lab.world.load_balancers())


def served_by(desk: Desk) -> Any:
    """The load balancer that the status names. It is whole, whatever the moment."""
    wanted = [(p.port, p.node_port) for p in sorted(desk.service.ports, key=lambda p: p.port)]
    found = next(b for b in desk.lab.world.load_balancers() if b.dns_name.lower() == desk.hostname())
    assert [(x.port, x.target_port) for x in found.listeners] == wanted
    assert all(len(x.targets) == len(desk.cluster.nodes) for x in found.listeners)
    return found


def until_switched(desk: Desk) -> None:
    before = desk.hostname()
    for _ in range(20):
        outcome = desk.reconcile()
        served_by(desk)
        if desk.hostname() != before:
            return
        assert outcome.result is Result.PENDING, outcome
        desk.lab.clock.now += outcome.retry_after_s or 0.0
    raise AssertionError("never switched")


def protect(lab: Lab, scheme: str, *, on: bool) -> None:
    (arn,) = [b.arn for b in lab.world.load_balancers() if b.scheme == scheme]
    attributes: Any = [{"Key": "deletion_protection.enabled", "Value": "true" if on else "false"}]
    lab.world.elbv2.modify_load_balancer_attributes(LoadBalancerArn=arn, Attributes=attributes)


def test_the_whole_way(desk: Desk) -> None:
    lab = desk.lab
    old = served_by(desk)
    desk.change(annotations=INTERNAL)
    first = desk.reconcile()
    assert first.result is Result.PENDING
    assert desk.condition("Replacement")[0] == "ReplacingLoadBalancer"
    assert "scheme: internet-facing -> internal" in desk.condition("Replacement")[1]
    assert schemes(lab) == ["internal", "internet-facing"]
    assert served_by(desk).arn == old.arn
    assert desk.condition("Ready")[0] == "EnsuredLoadBalancer"
    until_switched(desk)
    new = served_by(desk)
    assert new.scheme == "internal"
    assert schemes(lab) == ["internal", "internet-facing"]
    assert "has taken the place of" in desk.condition("Replacement")[1]
    switched_at = lab.clock.now
    outcomes = desk.settle()
    assert outcomes[-1].result in (Result.UPDATED, Result.UNCHANGED)
    assert 290 <= lab.clock.now - switched_at < 400
    assert schemes(lab) == ["internal"]
    assert served_by(desk).arn == new.arn
    assert desk.condition("Replacement") == ("", "")
    assert len(lab.world.elbv2.describe_target_groups()["TargetGroups"]) == 2
    assert "DriftRepaired" not in desk.reasons()
    calls = dict(lab.provider.calls().by_operation)
    assert desk.reconcile().result is Result.UNCHANGED
    assert lab.provider.calls().by_operation == calls
    desk.cluster.delete(KEY)
    assert desk.settle()[-1].result is Result.DELETED
    assert lab.world.leftovers() == ()


def test_not_without_leave(lab: Lab) -> None:
    desk = Desk(lab)
    desk.settle()
    desk.change(annotations=INTERNAL, ports=(*desk.service.ports, ServicePort(81, node_port=30081)))
    writes = lab.provider.calls().write
    assert desk.reconcile().result is Result.UPDATED
    reason, message = desk.condition("Scheme")
    assert reason == "SchemeChangeIgnored"
    assert "lbprov.io/replace: seamless" in message
    assert served_by(desk).scheme == "internet-facing"
    assert lab.provider.calls().write == writes + 4  # the port that was added
    outcome = desk.reconcile()
    assert (outcome.result, outcome.events) == (Result.UNCHANGED, ())


def test_targets_that_are_not_healthy_are_waited_for(desk: Desk) -> None:
    """Meanwhile both are kept as the Service asks for."""
    lab = desk.lab
    lab.server.settle_targets(3600)
    old = desk.hostname()
    desk.change(annotations=INTERNAL)
    for _ in range(5):
        outcome = desk.reconcile()
        assert outcome.result is Result.PENDING
        lab.clock.now += outcome.retry_after_s or 0.0
    assert desk.hostname() == old
    desk.change(ports=(ServicePort(80, node_port=30080), ServicePort(8443, node_port=30443)))
    desk.cluster.nodes = desk.cluster.nodes[:2]
    desk.reconcile()
    for balancer in lab.world.load_balancers():
        assert [(x.port, len(x.targets)) for x in balancer.listeners] == [(80, 2), (8443, 2)]
    lab.clock.now += 600
    desk.reconcile()
    assert desk.hostname() != old
    assert served_by(desk).scheme == "internal"


def test_wish_withdrawn_before_the_switch(desk: Desk) -> None:
    lab = desk.lab
    lab.server.settle_targets(3600)
    before, old = lab.world.inventory(), desk.hostname()
    desk.change(annotations=INTERNAL)
    desk.reconcile()
    assert lab.world.inventory() != before
    desk.change(annotations=PUBLIC)
    desk.settle()
    assert lab.world.inventory() == before
    assert desk.hostname() == old


def test_leave_withdrawn_before_the_switch(desk: Desk) -> None:
    lab = desk.lab
    lab.server.settle_targets(3600)
    before = lab.world.inventory()
    desk.change(annotations=INTERNAL)
    desk.reconcile()
    desk.change(annotations={"lbprov.io/replace": "never"})
    desk.settle()
    assert lab.world.inventory() == before
    assert desk.condition("Scheme")[0] == "SchemeChangeIgnored"


def test_wish_back_while_the_old_one_is_still_there(desk: Desk) -> None:
    lab = desk.lab
    before, old = lab.world.inventory(), desk.hostname()
    desk.change(annotations=INTERNAL)
    until_switched(desk)
    new = desk.hostname()
    desk.change(annotations=PUBLIC)
    desk.reconcile()
    assert desk.hostname() == old
    assert served_by(desk).scheme == "internet-facing"
    assert schemes(lab) == ["internal", "internet-facing"], f"{new} had clients"
    desk.settle()
    assert lab.world.inventory() == before


def test_there_and_back_again(desk: Desk) -> None:
    """Each time a generation of its own: names that are still in use are not used again."""
    for wish, scheme in ((INTERNAL, "internal"), (PUBLIC, "internet-facing"), (INTERNAL, "internal")):
        desk.change(annotations=wish)
        desk.settle()
        assert schemes(desk.lab) == [scheme]
        served_by(desk)


def test_another_address(lab: Lab) -> None:
    for ip in ("203.0.113.10", "203.0.113.11"):
        lab.world.allocate_address(ip)
    desk = Desk(lab, annotations=SEAMLESS, load_balancer_ip="203.0.113.10")
    desk.settle()
    desk.change(load_balancer_ip="203.0.113.11")
    desk.reconcile()
    assert [i.ip for i in desk.service.ingress] == ["203.0.113.10"]
    desk.settle()
    assert [i.ip for i in desk.service.ingress] == ["203.0.113.11"]
    assert [b.addresses for b in lab.world.load_balancers()] == [("203.0.113.11",)]
    assert desk.condition("RequestedIP")[0] == "LoadBalancerIPAssigned"
    desk.change(load_balancer_ip="")
    desk.settle()
    assert desk.service.ingress != (Ingress(ip="203.0.113.11"),)
    assert [b.addresses for b in lab.world.load_balancers()] == [()]


def test_an_address_that_cannot_be_had_replaces_nothing(lab: Lab) -> None:
    lab.world.allocate_address("203.0.113.10")
    desk = Desk(lab, annotations=SEAMLESS, load_balancer_ip="203.0.113.10")
    desk.settle()
    before = lab.world.inventory()
    desk.change(load_balancer_ip="203.0.113.99")
    assert desk.reconcile().result is Result.UNCHANGED
    reason, message = desk.condition("Replacement")
    assert reason == "ReplacementBlocked"
    assert "203.0.113.99 is no Elastic IP" in message
    assert lab.world.inventory() == before
    outcome = desk.reconcile()
    assert (outcome.result, outcome.events) == (Result.UNCHANGED, ())


def test_an_address_that_is_free_by_now(lab: Lab) -> None:
    desk = Desk(lab, annotations=SEAMLESS, load_balancer_ip="203.0.113.10")
    desk.settle()
    assert desk.service.ingress[0].hostname
    lab.world.allocate_address("203.0.113.10")
    lab.clock.now += 400
    desk.settle()
    assert [i.ip for i in desk.service.ingress] == ["203.0.113.10"]
    assert len(lab.world.load_balancers()) == 1


def test_protected_against_deletion(desk: Desk) -> None:
    lab = desk.lab
    protect(lab, "internet-facing", on=True)
    before = lab.world.inventory()
    desk.change(annotations=INTERNAL)
    outcome = desk.reconcile()
    assert (outcome.result, outcome.retry_after_s) == (Result.PENDING, 300.0)
    assert outcome.message == "the load balancer is not replaced: it is protected against deletion"
    reason, message = desk.condition("Replacement")
    assert reason == "ReplacementBlocked"
    assert "deletion_protection.enabled" in message
    assert lab.world.inventory() == before
    assert desk.condition("Ready")[0] == "EnsuredLoadBalancer"
    assert desk.reconcile().events == ()
    protect(lab, "internet-facing", on=False)
    desk.settle()
    assert schemes(lab) == ["internal"]


@pytest.mark.parametrize("replace", ["seamless", "outage"])
def test_subnets_that_do_not_exist_hold_nothing_up(desk: Desk, replace: str) -> None:
    lab = desk.lab
    desk.change(
        annotations={"lbprov.io/replace": replace, PREFIX + "subnets": "nope"},
        ports=(ServicePort(81, node_port=30080, name="http"),),
    )
    desk.cluster.nodes = desk.cluster.nodes[1:]
    outcome = desk.reconcile()
    assert outcome.result is Result.UPDATED
    assert [x.port for x in served_by(desk).listeners] == [81]
    reason, message = desk.condition("Replacement")
    assert reason == "ReplacementBlocked"
    assert f"annotations[{PREFIX}subnets]: there is no subnet 'nope': name one subnet of each zone" in message
    assert desk.reconcile().events == ()
    assert len(lab.world.load_balancers()) == 1


@pytest.mark.parametrize("name", ["subnets", "security-groups"])
def test_nothing_is_taken_away_for_what_could_not_be_made(lab: Lab, name: str) -> None:
    """The address has one holder, so that the old one would have to go first."""
    lab.world.allocate_address("203.0.113.10")
    says = {"lbprov.io/replace": "outage", PREFIX + "eip-allocations": "203.0.113.10"}
    desk = Desk(lab, annotations=says)
    desk.settle()
    before = desk.hostname()
    desk.change(annotations={PREFIX + "name": "another", PREFIX + name: "nope"})
    desk.settle()
    assert desk.hostname() == served_by(desk).dns_name.lower() == before
    reason, message = desk.condition("Replacement")
    assert reason == "ReplacementBlocked"
    assert f"{PREFIX}{name}" in message
    desk.change(annotations={PREFIX + name: ""})
    desk.settle()
    assert served_by(desk).name.startswith("another")


def test_protected_while_it_drains(desk: Desk) -> None:
    lab = desk.lab
    desk.change(annotations=INTERNAL)
    until_switched(desk)
    protect(lab, "internet-facing", on=True)
    assert "is protected against deletion" in desk.settle(lambda o: o.retry_after_s == 300.0)[-1].message
    assert schemes(lab) == ["internal", "internet-facing"]
    assert desk.condition("Replacement")[0] == "ReplacementBlocked"
    assert desk.reconcile().events == ()
    protect(lab, "internet-facing", on=False)
    desk.settle()
    assert schemes(lab) == ["internal"]


@pytest.mark.parametrize("moment", ["before the switch", "behind the switch"])
def test_service_deleted_meanwhile(desk: Desk, moment: str) -> None:
    desk.change(annotations=INTERNAL)
    desk.reconcile()
    if moment == "behind the switch":
        until_switched(desk)
    assert len(desk.lab.world.load_balancers()) == 2
    desk.cluster.delete(KEY)
    desk.restart()
    assert desk.settle()[-1].result is Result.DELETED
    assert desk.lab.world.leftovers() == ()


def test_the_new_one_is_deleted_by_hand_while_the_old_one_drains(desk: Desk) -> None:
    lab = desk.lab
    desk.change(annotations=INTERNAL)
    until_switched(desk)
    (arn,) = [b.arn for b in lab.world.load_balancers() if b.scheme == "internal"]
    lab.world.elbv2.delete_load_balancer(LoadBalancerArn=arn)
    lab.provider.owners()
    desk.settle()
    assert schemes(lab) == ["internal"]
    served_by(desk)


class Killed(BaseException):
    """No `except Exception` survives it."""


def dying_at(number: int, when: str) -> Any:
    """`Cloud.call`, whose process dies before or after the `number`-th write (0: never)."""
    writes, call = itertools.count(1), Cloud.call

    def dying(cloud: Cloud, service: str, operation: str, **parameters: Any) -> dict[str, Any]:
        mine = not operation.startswith(("Describe", "Get")) and next(writes) == number
        if mine and when == "before":
            raise Killed
        answer = call(cloud, service, operation, **parameters)
        if mine:
            raise Killed
        return answer

    return dying


@pytest.mark.soak  # the crash matrix has the short version
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_any_write(lab: Lab, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    """And the next process goes on from what it finds; whoever the status names is whole all the while."""
    expected: frozenset[str] = frozenset()
    for number in itertools.count(0):
        desk = Desk(lab, annotations={**SEAMLESS, **PUBLIC})
        desk.settle()
        desk.change(annotations=INTERNAL)
        crashed = False
        with monkeypatch.context() as patch:
            patch.setattr(Cloud, "call", dying_at(number, when))
            try:
                desk.settle()
            except Killed:
                crashed = True
        if crashed:
            served_by(desk)
            desk.restart()
            desk.settle()
        assert served_by(desk).scheme == "internal"
        expected = expected or lab.world.inventory()
        assert lab.world.inventory() == expected, f"killed {when} write {number}"
        desk.cluster.delete(KEY)
        desk.settle()
        assert lab.world.leftovers() == (), f"killed {when} write {number}"
        if number and not crashed:
            break
    assert number == 12  # 7 of the new one with its two ports, 1 the switch, 3 the old one's


SUBNETS = "service.beta.kubernetes.io/aws-load-balancer-subnets"


@pytest.fixture
def moved(lab: Lab) -> Desk:
    """It has a requested address in one zone, and is asked for in another one: with the same address."""
    lab.world.allocate_address("203.0.113.10")
    first, second, _ = lab.world.subnet_ids.values()
    desk = Desk(lab, annotations={**SEAMLESS, SUBNETS: first}, load_balancer_ip="203.0.113.10")
    desk.settle()
    desk.change(annotations={SUBNETS: second})
    return desk


def test_an_address_has_one_holder(moved: Desk) -> None:
    lab = moved.lab
    before = lab.world.inventory()
    assert moved.reconcile().result is Result.UNCHANGED
    reason, message = moved.condition("Replacement")
    assert reason == "ReplacementBlocked"
    assert "203.0.113.10 can have one holder only" in message
    assert "lbprov.io/replace: outage" in message
    assert lab.world.inventory() == before
    assert moved.reconcile().events == ()


def test_an_address_moves_where_an_outage_is_allowed(moved: Desk) -> None:
    """The target groups stay; AWS takes its time to let go of the address."""
    lab = moved.lab
    groups = {g["TargetGroupArn"] for g in lab.world.elbv2.describe_target_groups()["TargetGroups"]}
    (old,) = lab.world.load_balancers()
    lab.server.linger(True)
    moved.change(annotations={"lbprov.io/replace": "outage"})
    assert moved.reconcile().result is Result.PENDING
    assert moved.condition("Ready")[0] == "WaitingForLoadBalancer"
    assert lab.world.load_balancers() == ()
    lab.clock.now += 15
    assert moved.reconcile().result is Result.PENDING
    lab.server.linger(False)
    moved.settle()
    (new,) = lab.world.load_balancers()
    assert (new.addresses, [i.ip for i in moved.service.ingress]) == (("203.0.113.10",), ["203.0.113.10"])
    assert new.zones != old.zones
    after = {g["TargetGroupArn"] for g in lab.world.elbv2.describe_target_groups()["TargetGroups"]}
    assert after == groups
    served = [(x.port, len(x.targets)) for x in new.listeners]
    assert served == [(80, 3), (443, 3)]
    assert moved.reconcile().result is Result.UNCHANGED


def test_killed_while_an_address_moves(moved: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    moved.change(annotations={"lbprov.io/replace": "outage"})
    with monkeypatch.context() as patch:
        patch.setattr(Cloud, "call", dying_at(1, "after"))
        with pytest.raises(Killed):
            moved.settle()
    assert moved.lab.world.load_balancers() == ()
    moved.restart()
    moved.settle()
    assert [b.addresses for b in moved.lab.world.load_balancers()] == [("203.0.113.10",)]
    moved.cluster.delete(KEY)
    moved.settle()
    assert moved.lab.world.leftovers() == ()


EIPS = "service.beta.kubernetes.io/aws-load-balancer-eip-allocations"


def test_other_addresses_of_a_list(lab: Lab) -> None:
    """One per zone; the retired one keeps those that it has."""
    ids = [lab.world.allocate_address(f"203.0.113.{n}") for n in range(10, 16)]
    before, after = ",".join(ids[:3]), ",".join(ids[3:])
    desk = Desk(lab, annotations={**SEAMLESS, EIPS: before})
    desk.settle()
    desk.change(annotations={EIPS: after})
    until_switched(desk)
    assert len(lab.world.load_balancers()) == 2
    desk.cluster.nodes = desk.cluster.nodes[:2]
    desk.reconcile()
    assert all(len(x.targets) == 2 for b in lab.world.load_balancers() for x in b.listeners)
    desk.settle()
    (balancer,) = lab.world.load_balancers()
    assert balancer.addresses == ("203.0.113.13", "203.0.113.14", "203.0.113.15")


def test_as_a_controller_that_seals(lab: Lab) -> None:
    lab.recheck_s = 600.0
    desk = Desk(lab, annotations={**SEAMLESS, **PUBLIC})
    desk.settle()
    desk.change(annotations=INTERNAL)
    until_switched(desk)
    desk.restart()
    desk.settle()
    assert schemes(lab) == ["internal"]
    desk.restart()
    assert desk.reconcile().result is Result.UNCHANGED
    assert lab.provider.calls().write == 0


def test_name_that_is_asked_for_has_one_holder(lab: Lab) -> None:
    """A successor of a load balancer that goes on being asked for by its name has that name with a suffix;
    who asks for another name gets that by replacement too, and it ends there."""
    name = "service.beta.kubernetes.io/aws-load-balancer-name"
    desk = Desk(lab, annotations={**SEAMLESS, **PUBLIC, name: "my-shop"})
    desk.settle()
    assert served_by(desk).name == "my-shop"
    for change, begins in ((INTERNAL, "my-shop-"), ({name: "other"}, "other-")):
        desk.change(annotations=change)
        until_switched(desk)
        desk.settle()
        (balancer,) = lab.world.load_balancers()
        assert balancer.name.startswith(begins)
        assert desk.reconcile().result is Result.UNCHANGED
