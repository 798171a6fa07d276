"""No seal is believed that something has made untrue: not of wishes that went away and came back while no
process looked, whoever was killed where, and whatever it had to leave a word with."""

from __future__ import annotations

import contextlib
import dataclasses
import random
from typing import TYPE_CHECKING, Any

import pytest

from lbprov.api import LoadBalancer, RetryLater
from lbprov.lab.aws.world import client
from lbprov.testing.memo import MemoryMemo
from lbprov_aws import doubts, names
from lbprov_aws.cloud import Cloud
from lbprov_aws.inventory import Inventory
from lbprov_aws.resources import replace_tags

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lbprov.api import Plan
    from tests.aws.conftest import Lab

RECHECK_S = 600.0
PEERS = "service.beta.kubernetes.io/aws-load-balancer-"
NODE_LABELS = PEERS + "target-node-labels"
GROUPS = {PEERS + "security-groups": "theirs"}
"""With groups of its own, no rule of ours changes with a port, which a listing would show."""


class Killed(BaseException):
    pass


@pytest.fixture(params=["memo", "no memo"])
def controller(lab: Lab, request: pytest.FixtureRequest) -> Lab:
    """A process of a controller has begun; it has a lease to leave a memo on, or not."""
    lab.memo = MemoryMemo() if request.param == "memo" else None
    lab.recheck_s = RECHECK_S
    lab.restart()
    return lab


@pytest.fixture
def memo(lab: Lab) -> MemoryMemo:
    lab.memo = MemoryMemo()
    lab.recheck_s = RECHECK_S
    lab.restart()
    return lab.memo


@contextlib.contextmanager
def killed(monkeypatch: pytest.MonkeyPatch, nth: int) -> Iterator[None]:
    """After the nth write that is not the seal's, if there are so many."""
    call, count = Cloud.call, 0

    def killing(cloud: Cloud, service: str, operation: str, **parameters: object) -> dict[str, object]:
        nonlocal count
        answer = call(cloud, service, operation, **parameters)
        if not operation.startswith(("Describe", "Get", "RemoveTags")):
            count += 1
            if count == nth:
                raise Killed
        return answer

    with monkeypatch.context() as patch, contextlib.suppress(Killed):
        patch.setattr(Cloud, "call", killing)
        yield


def their_groups(lab: Lab) -> None:
    """See `GROUPS`."""
    tags: Any = [{"ResourceType": "security-group", "Tags": [{"Key": "Name", "Value": "theirs"}]}]
    lab.world.ec2.create_security_group(
        GroupName="theirs", Description="theirs", VpcId=lab.world.vpc_id, TagSpecifications=tags
    )


def left_to_do(lab: Lab, desired: LoadBalancer) -> Plan:
    """By a process that believes nobody."""
    before, lab.recheck_s = lab.recheck_s, 0.0
    provider = lab.start()
    lab.recheck_s = before
    return provider.plan(desired, provider.observe(desired.owner, desired))


def on_port(number: int) -> Callable[[Lab], LoadBalancer]:
    def wish(lab: Lab) -> LoadBalancer:
        desired = lab.desired(annotations=GROUPS)
        return dataclasses.replace(
            desired, listeners=(dataclasses.replace(desired.listeners[0], port=number),)
        )

    return wish


def with_certificate(domain: str) -> Callable[[Lab], LoadBalancer]:
    def wish(lab: Lab) -> LoadBalancer:
        known = client(lab.server, "acm").list_certificates()["CertificateSummaryList"]
        arns = {certificate["DomainName"]: certificate["CertificateArn"] for certificate in known}
        return lab.desired(annotations={PEERS + "ssl-cert": arns[domain]})

    return wish


def on_nodes(*nodes: str, **changes: Any) -> Callable[[Lab], LoadBalancer]:
    return lambda lab: lab.desired(nodes=nodes, **changes)


def labelled(disk: str) -> Callable[[Lab], LoadBalancer]:
    """Wants the nodes with fast disks; node-1 has one, and the others one of this kind."""

    def wish(lab: Lab) -> LoadBalancer:
        desired = lab.desired(annotations={NODE_LABELS: "disk=fast"})
        labels = {"node-1": "fast"}
        targets = tuple(
            dataclasses.replace(t, labels={"disk": labels.get(t.node_name, disk)}) for t in desired.targets
        )
        return dataclasses.replace(desired, targets=targets)

    return wish


def says(name: str, value: str) -> Callable[[Lab], LoadBalancer]:
    return lambda lab: lab.desired(annotations={PEERS + name: value})


@pytest.mark.parametrize("nth", [1, 99])
@pytest.mark.parametrize(
    ("first", "then"),
    [
        pytest.param(on_nodes("node-1", "node-2"), on_nodes("node-1"), id="node left"),
        pytest.param(on_nodes("node-1"), on_nodes("node-1", "node-2"), id="node joined"),
        pytest.param(on_nodes("node-1"), on_nodes("node-2"), id="nodes swapped"),
        pytest.param(on_port(80), on_port(8080), id="port"),
        pytest.param(with_certificate("one.example"), with_certificate("two.example"), id="certificate"),
        pytest.param(labelled("slow"), labelled("fast"), id="labels of nodes"),
        pytest.param(
            says("attributes", "deletion_protection.enabled=false"),
            says("attributes", "load_balancing.cross_zone.enabled=true"),
            id="attributes",
        ),
        pytest.param(
            says("target-group-attributes", "deregistration_delay.timeout_seconds=30"),
            says("target-group-attributes", "deregistration_delay.timeout_seconds=40"),
            id="attributes of target groups",
        ),
    ],
)
def test_wish_goes_and_comes_back(
    controller: Lab, monkeypatch: pytest.MonkeyPatch, first: Any, then: Any, nth: int
) -> None:
    """Brought about, all of it or the first calls, by a process that is killed before it can seal that."""
    lab = controller
    for domain in ("one.example", "two.example"):
        client(lab.server, "acm").request_certificate(DomainName=domain)
    their_groups(lab)
    before, after = first(lab), then(lab)
    lab.reconcile(before)
    if lab.memo is not None:
        lab.memo.keep()
    monkeypatch.setattr("lbprov_aws.elbv2.is_idle", lambda _: False)
    with killed(monkeypatch, nth):
        lab.reconcile(after)
    lab.restart()
    assert left_to_do(lab, before).steps, "the change has come about, in part at least"
    lab.reconcile(before)
    assert left_to_do(lab, before).is_empty


# -- what it costs, with a memo


def test_nodes_cost_register_calls_alone(lab: Lab, memo: MemoryMemo) -> None:
    """One per target group, and one flush of the memo for all Services. What they cost is paid: a process
    that begins then reads pages and writes nothing."""
    port = lab.desired().listeners[0]
    ports = (port, dataclasses.replace(port, port=81, node_port=30081))

    def wanted(*nodes: str) -> list[LoadBalancer]:
        return [lab.desired(f"web-{n}", *ports, nodes=nodes) for n in range(5)]

    for desired in wanted("node-1", "node-2"):
        lab.reconcile(desired)
    memo.keep()
    lab.server.control(reset=True)
    memo.flushes = 0
    for desired in wanted("node-1", "node-2", "node-3"):
        assert lab.reconcile(desired).calls == {"RegisterTargets": 2}
    memo.keep()
    for desired in wanted("node-1"):
        assert lab.reconcile(desired).calls == {"DeregisterTargets": 2}
    assert lab.server.calls() == {"RegisterTargets": 10, "DeregisterTargets": 10}
    assert memo.flushes == 2, "once per change of the nodes"
    memo.keep()
    lab.restart()
    for desired in wanted("node-1"):
        assert lab.reconcile(desired).writes == {}
    assert not lab.provider.calls().by_operation.keys() & {"DescribeListeners", "DescribeTargetHealth"}


@pytest.mark.parametrize("many", [500, 2])
def test_killed_in_the_middle_of_many(
    lab: Lab, memo: MemoryMemo, monkeypatch: pytest.MonkeyPatch, many: int
) -> None:
    """Half of the Services have the new node. The nodes change back, or not."""
    monkeypatch.setattr(doubts, "MANY", many)
    names_ = [f"web-{n}" for n in range(6)]
    for name in names_:
        lab.reconcile(lab.desired(name, nodes=["node-1"]))
    memo.keep()
    for nodes in (["node-1"], ["node-1", "node-2"]):
        for name in names_[:3]:
            lab.reconcile(lab.desired(name, nodes=["node-1", "node-2"]))
            memo.keep()
        lab.restart()
        for name in names_:
            lab.reconcile(lab.desired(name, nodes=nodes))
            assert left_to_do(lab, lab.desired(name, nodes=nodes)).is_empty
    memo.keep()
    lab.restart()
    for name in names_:
        assert "DescribeListeners" not in lab.reconcile(lab.desired(name, nodes=nodes)).calls


def test_one_that_lags_behind_is_doubted_alone(lab: Lab, memo: MemoryMemo) -> None:
    """Its Service cannot be served any more, and so nobody changes its targets."""
    for name in ("web", "stuck"):
        lab.reconcile(lab.desired(name, nodes=["node-1"]))
    lab.reconcile(lab.desired("web", nodes=["node-2"]))
    memo.keep()
    lab.restart()
    assert "DescribeListeners" not in lab.reconcile(lab.desired("web", nodes=["node-2"])).calls
    assert lab.reconcile(lab.desired("stuck", nodes=["node-2"])).writes == {
        "RegisterTargets": 1,
        "DeregisterTargets": 1,
    }


def test_nothing_is_written_that_the_memo_cannot_tell(
    lab: Lab, memo: MemoryMemo, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.reconcile(lab.desired(nodes=["node-1"]))
    memo.keep()

    def refuse() -> None:
        raise RetryLater("the lease cannot be written", 2)

    lab.server.control(reset=True)
    with monkeypatch.context() as patch:
        patch.setattr(memo, "flush", refuse)
        for _ in range(2):
            with pytest.raises(RetryLater):
                lab.reconcile(lab.desired(nodes=["node-2"]))
    assert lab.server.calls() == {}
    assert lab.reconcile(lab.desired(nodes=["node-2"])).writes == {
        "RegisterTargets": 1,
        "DeregisterTargets": 1,
    }


def test_a_seal_is_of_the_nodes_that_were_told(lab: Lab, memo: MemoryMemo) -> None:
    """A Service that comes while the memo still speaks of other nodes."""
    lab.reconcile(lab.desired("old", nodes=["node-1"]))
    memo.keep()
    lab.reconcile(lab.desired("new", nodes=["node-1", "node-2"]))
    lab.restart()
    for name in ("old", "new"):
        lab.reconcile(lab.desired(name, nodes=["node-1"]))
        assert left_to_do(lab, lab.desired(name, nodes=["node-1"])).is_empty


def test_a_memo_that_is_lost_or_strange_vouches_for_nothing(lab: Lab, memo: MemoryMemo) -> None:
    desired = lab.desired()
    lab.reconcile(desired)
    memo.keep()
    for text in ("", "gcp-9 whatever", "aws-2", "aws-2 w0 0badb00k 0123456789abcdef"):
        memo.text = text
        lab.restart()
        result = lab.reconcile(desired)
        assert result.calls["DescribeListeners"] == 1
        assert result.writes == {"AddTags": 1}, "sealed as of the book that begins"
        memo.keep()
        lab.restart()
        assert "DescribeListeners" not in lab.reconcile(desired).calls


def test_another_world_under_the_same_lease(
    lab: Lab, memo: MemoryMemo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process with a mistyped cluster name leads for a moment, and sees none of what is doubted."""
    two, one = lab.desired(nodes=["node-1", "node-2"]), lab.desired(nodes=["node-1"])
    lab.reconcile(two)
    memo.keep()
    with killed(monkeypatch, 1):
        lab.reconcile(one)
    lab.restart()
    owner = one.owner._replace(cluster="labb")
    lab.start(cluster="labb").observe(owner, dataclasses.replace(two, owner=owner))
    memo.keep()
    lab.restart()
    lab.reconcile(two)
    assert left_to_do(lab, two).is_empty


def test_a_seal_that_listings_do_not_show_yet(
    lab: Lab, memo: MemoryMemo, monkeypatch: pytest.MonkeyPatch
) -> None:
    two, one = lab.desired(nodes=["node-1", "node-2"]), lab.desired(nodes=["node-1"])
    lab.reconcile(two)
    memo.keep()
    lab.restart()
    listed, of, call = Inventory.load_balancers, Inventory.of, Cloud.call

    def unsealed(records: Any) -> Any:
        return tuple(replace_tags(r, {}, (names.SEAL,)) for r in records)

    def dying(cloud: Cloud, service: str, operation: str, **parameters: object) -> dict[str, object]:
        if operation == "DeregisterTargets":
            raise Killed
        return call(cloud, service, operation, **parameters)

    with monkeypatch.context() as patch:
        patch.setattr(Inventory, "load_balancers", lambda inventory: unsealed(listed(inventory)))
        patch.setattr(Inventory, "of", lambda inventory, owner: unsealed(of(inventory, owner)))
        patch.setattr(Cloud, "call", dying)
        with pytest.raises(Killed):
            lab.reconcile(one)
        memo.keep()
    lab.restart()
    lab.reconcile(one)
    assert left_to_do(lab, one).is_empty


# -- beside processes that have none


@pytest.mark.parametrize("recheck_s", [0.0, RECHECK_S])
def test_others_take_the_seal_off(lab: Lab, memo: MemoryMemo, recheck_s: float) -> None:
    """A pass of the command line, or a controller that nobody elected, works between two that keep a memo."""
    lab.reconcile(lab.desired(nodes=["node-1"]))
    memo.keep()
    lab.memo, lab.recheck_s = None, recheck_s
    lab.restart()
    assert lab.reconcile(lab.desired(nodes=["node-2"])).writes["RemoveTags"] == 1
    lab.memo, lab.recheck_s = memo, RECHECK_S
    lab.restart()
    lab.reconcile(lab.desired(nodes=["node-1"]))
    assert left_to_do(lab, lab.desired(nodes=["node-1"])).is_empty


def test_a_strange_seal_is_taken_off(lab: Lab, memo: MemoryMemo) -> None:
    """Of a version before or behind this one, which might come back and believe it."""
    lab.reconcile(lab.desired(nodes=["node-1"]))
    (balancer,) = lab.world.load_balancers()
    lab.world.elbv2.add_tags(ResourceArns=[balancer.arn], Tags=[{"Key": names.SEAL, "Value": "1-0123"}])
    lab.restart()
    assert lab.reconcile(lab.desired(nodes=["node-2"])).writes == {
        "RemoveTags": 1,
        "RegisterTargets": 1,
        "DeregisterTargets": 1,
        "AddTags": 1,
    }


def test_without_a_memo_a_change_of_nodes_takes_the_seal_off_first(lab: Lab) -> None:
    lab.recheck_s = RECHECK_S
    lab.restart()
    lab.reconcile(lab.desired(nodes=["node-1"]))
    lab.server.control(reset=True)
    lab.reconcile(lab.desired(nodes=["node-1", "node-2"]))
    assert [r["operation"] for r in lab.server.requests()] == ["RemoveTags", "RegisterTargets", "AddTags"]


def test_a_load_balancer_that_somebody_deleted_is_made_anew(controller: Lab) -> None:
    """Though its seal is believed to be there still."""
    lab = controller
    lab.reconcile(lab.desired(nodes=["node-1"]))
    (balancer,) = lab.world.load_balancers()
    lab.world.elbv2.delete_load_balancer(LoadBalancerArn=balancer.arn)
    # Another port: the listener that goes with the load balancer cannot be changed.
    after = dataclasses.replace(
        lab.desired(nodes=["node-1", "node-2"]),
        listeners=(dataclasses.replace(lab.desired().listeners[0], port=81),),
    )
    with pytest.raises(RetryLater, match="looking again"):
        lab.reconcile(after)
    lab.reconcile(after)
    assert left_to_do(lab, after).is_empty
    assert [x.port for b in lab.world.load_balancers() for x in b.listeners] == [81]


def test_an_unanswered_seal_may_have_been_written(controller: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its answer is lost; the tag is there."""
    lab = controller
    call = Cloud.call

    def deaf(cloud: Cloud, service: str, operation: str, **parameters: object) -> dict[str, object]:
        answer = call(cloud, service, operation, **parameters)
        if operation == "AddTags":
            raise RetryLater("no answer", 1)
        return answer

    first = lab.desired(nodes=["node-1"])
    with monkeypatch.context() as patch:
        patch.setattr(Cloud, "call", deaf)
        lab.reconcile(first)
    if lab.memo is not None:
        lab.memo.keep()
    with killed(monkeypatch, 1):
        lab.reconcile(lab.desired(nodes=["node-2", "node-3"]))
    lab.restart()
    lab.reconcile(first)
    assert left_to_do(lab, first).is_empty


# -- anything, in any order


def walk(lab: Lab, rng: random.Random, monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Wishes and nodes change, and processes of all kinds work on some Services, are killed, and followed by
    others; every now and then, all of it is looked at by one that believes what it is told."""
    nodes: tuple[str, ...] = ("node-1", "node-2")
    ports = dict.fromkeys(("one", "two", "three"), 80)
    kinds: list[tuple[MemoryMemo | None, float]] = [(memo := MemoryMemo(), RECHECK_S)] * 6
    kinds += [(None, RECHECK_S), (None, 0.0)]

    def wish(name: str) -> LoadBalancer:
        desired = lab.desired(name, nodes=nodes, annotations=GROUPS)
        (listener,) = desired.listeners
        return dataclasses.replace(desired, listeners=(dataclasses.replace(listener, port=ports[name]),))

    def restart() -> None:
        lab.restart()
        lab.memo, lab.recheck_s = rng.choice(kinds)
        lab.restart()

    def work() -> None:
        monkeypatch.setattr("lbprov_aws.elbv2.is_idle", lambda _: rng.random() < 0.7)
        for name in rng.sample(sorted(ports), rng.randint(1, 3)):
            done = []
            with killed(monkeypatch, rng.choice([1, 2, 3, 99, 99, 99])):
                done.append(lab.reconcile(wish(name)))
            if not done:
                restart()

    def check() -> None:
        restart()
        for name in ports:
            lab.reconcile(wish(name))
            assert left_to_do(lab, wish(name)).is_empty, name

    for _ in range(steps):
        match rng.choice(["nodes", "port", "work", "work", "keep", "restart", "check"]):
            case "nodes":
                nodes = tuple(rng.sample(["node-1", "node-2", "node-3"], rng.randint(1, 2)))
            case "port":
                ports[rng.choice(sorted(ports))] = rng.choice([80, 81])
            case "work":
                work()
            case "keep":
                memo.keep()
            case "restart":
                restart()
            case "check":
                check()
    check()


@pytest.mark.parametrize("seed", [1, *(pytest.param(n, marks=pytest.mark.soak) for n in range(2, 20))])
def test_whatever_happens(lab: Lab, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    their_groups(lab)
    walk(lab, random.Random(seed), monkeypatch, steps=30)
