"""A controller that starts takes for granted what the one before it verified, and looks at it later."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import pytest

from lbprov.api import LoadBalancer, SessionAffinity
from lbprov.testing.memo import MemoryMemo
from lbprov_aws import elbv2, names
from lbprov_aws.cloud import Cloud

if TYPE_CHECKING:
    from collections.abc import Callable

    from lbprov.lab.aws.world import AwsWorld
    from tests.aws.conftest import Lab, Pass

RECHECK_S = 600.0
NODE_LABELS = "service.beta.kubernetes.io/aws-load-balancer-target-node-labels"
LISTINGS = {"GetResources", "DescribeLoadBalancers", "DescribeTargetGroups", "DescribeSecurityGroups"}


@pytest.fixture
def restart(lab: Lab) -> Callable[[], None]:
    """The controller's next process, after the one before has ended in peace; one has begun already."""
    lab.memo = memo = MemoryMemo()

    def begin() -> None:
        lab.recheck_s = RECHECK_S
        memo.keep()
        lab.restart()
        lab.server.control(reset=True)

    begin()
    return begin


def seal_of(world: AwsWorld) -> str:
    (balancer,) = world.load_balancers()
    return balancer.tags.get(names.SEAL, "")


def is_from_listings(result: Pass) -> bool:
    return result.calls.keys() <= LISTINGS and result.plan.is_empty


def test_it_costs_one_write_at_the_end_of_a_change(lab: Lab, restart: Callable[[], None]) -> None:
    lab.reconcile(lab.desired("other"))
    fresh = lab.reconcile(lab.desired(nodes=["node-1"]))
    assert fresh.calls["AddTags"] == 1
    assert sum(fresh.calls.values()) == 8
    assert lab.server.requests()[-1]["operation"] == "AddTags"
    assert lab.reconcile(lab.desired(nodes=["node-1"])).calls == {}
    assert lab.reconcile(lab.desired()).calls == {"RegisterTargets": 1}, "no seal tells of nodes"
    assert lab.reconcile(lab.desired()).calls == {}
    irrelevant = lab.desired(annotations={"example.com/note": "changed"})
    assert lab.reconcile(irrelevant).calls == {}


def test_restart_reads_pages_and_no_resources(lab: Lab, restart: Callable[[], None]) -> None:
    lab.world.allocate_address("203.0.113.10")
    wanted = [
        lab.desired("plain"),
        lab.desired("sticky", session_affinity=SessionAffinity.CLIENT_IP),
        lab.desired("ranges", source_ranges=("198.51.100.0/24", "2001:db8::/32")),
        lab.desired("ip", requested_ip="203.0.113.10"),
        lab.desired("no-ip", requested_ip="203.0.113.99"),
        *(lab.desired(f"web-{n}") for n in range(20)),
    ]
    notices = {d.owner: lab.reconcile(d).notices for d in wanted}
    again = {d.owner: lab.reconcile(d) for d in wanted}
    assert all(result.writes == {} for result in again.values())
    restart()
    results = {d.owner: lab.reconcile(d) for d in wanted}
    assert all(result.plan.is_empty for result in results.values())
    assert {o: r.notices for o, r in results.items()} == {o: r.notices for o, r in again.items()}
    assert all(r.status and r.status.ready for r in results.values())
    assert notices[wanted[4].owner].keys() == {"LoadBalancerIPNotFound"}
    calls = dict(lab.provider.calls().by_operation)
    assert calls.pop("DescribeAddresses") == 1  # an address that was not to be had may be now
    assert calls == {
        "GetResources": 3,
        "DescribeLoadBalancers": 1,
        "DescribeTargetGroups": 1,
        "DescribeSecurityGroups": 1,
    }


def test_re_check_looks_at_everything(lab: Lab, restart: Callable[[], None]) -> None:
    desired = lab.desired()
    lab.reconcile(desired)
    restart()
    (balancer,) = lab.world.load_balancers()
    (listener,) = lab.world.elbv2.describe_listeners(LoadBalancerArn=balancer.arn)["Listeners"]
    lab.world.elbv2.delete_listener(ListenerArn=listener["ListenerArn"])
    assert is_from_listings(lab.reconcile(desired))
    lab.clock.now += RECHECK_S / 2
    assert lab.reconcile(desired).writes == {"CreateListener": 1}
    assert lab.world.load_balancers()[0].listeners == balancer.listeners
    restart()
    assert is_from_listings(lab.reconcile(desired))


@pytest.mark.parametrize(
    ("change", "writes"),
    [
        pytest.param({"nodes": ["node-1"]}, {"DeregisterTargets": 1}, id="nodes"),
        pytest.param(
            {"source_ranges": ("192.0.2.0/24",)},
            {"AuthorizeSecurityGroupIngress": 1, "RevokeSecurityGroupIngress": 1, "AddTags": 1},
            id="source ranges",
        ),
        pytest.param(
            {"session_affinity": SessionAffinity.CLIENT_IP},
            {"ModifyTargetGroupAttributes": 1, "AddTags": 2},
            id="affinity",
        ),
    ],
)
def test_wish_changed_while_down(
    lab: Lab, restart: Callable[[], None], change: dict[str, Any], writes: dict[str, int]
) -> None:
    lab.reconcile(lab.desired())
    restart()
    assert lab.reconcile(lab.desired(**change)).writes == writes
    restart()
    assert is_from_listings(lab.reconcile(lab.desired(**change)))


def test_what_a_listing_shows_is_seen_at_once(lab: Lab, restart: Callable[[], None]) -> None:
    desired = lab.desired()
    lab.reconcile(desired)
    ours: Any = [{"Name": "tag:lbprov/cluster", "Values": ["lab"]}]
    (group,) = lab.world.ec2.describe_security_groups(Filters=ours)["SecurityGroups"]
    rules: Any = group["IpPermissions"]
    lab.world.ec2.revoke_security_group_ingress(GroupId=group["GroupId"], IpPermissions=rules)
    restart()
    assert lab.reconcile(desired).writes == {"AuthorizeSecurityGroupIngress": 1}
    (target_group,) = lab.world.elbv2.describe_target_groups()["TargetGroups"]
    lab.world.elbv2.modify_target_group(
        TargetGroupArn=target_group["TargetGroupArn"], HealthCheckIntervalSeconds=30
    )
    restart()
    assert lab.reconcile(desired).writes == {"ModifyTargetGroup": 1}


class Killed(BaseException):
    pass


@pytest.mark.parametrize("last", ["RegisterTargets", "DeregisterTargets"])
def test_killed_before_it_is_sealed_anew(
    lab: Lab, restart: Callable[[], None], monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    """The seal is doubted since before the first write, so what is half done is looked at."""
    lab.reconcile(lab.desired(nodes=["node-1"]))
    after = lab.desired(nodes=["node-2"])
    call = Cloud.call

    def killing(cloud: Cloud, service: str, operation: str, **parameters: object) -> dict[str, object]:
        answer = call(cloud, service, operation, **parameters)
        if operation == last:
            raise Killed
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(Cloud, "call", killing)
        with pytest.raises(Killed):
            lab.reconcile(after)
    restart()
    lab.reconcile(after)
    assert lab.world.load_balancers()[0].listeners[0].targets == (lab.world.instance_id("node-2"),)
    restart()
    assert is_from_listings(lab.reconcile(after))


def test_without_the_permission_all_goes_on(lab: Lab, restart: Callable[[], None]) -> None:
    lab.server.fail("AddTags", "AccessDenied", times=100)
    for nodes in (["node-1"], ["node-2"]):
        for _ in range(3):
            lab.reconcile(lab.desired(nodes=nodes))
    assert lab.server.calls()["AddTags"] == 2, "once per change"
    assert seal_of(lab.world) == ""
    restart()
    assert lab.reconcile(lab.desired(nodes=["node-2"])).calls["DescribeTargetHealth"] == 1


def test_it_waits_where_calls_queue_up(lab: Lab, restart: Callable[[], None]) -> None:
    """A thousand Services that get a node at once are served first."""
    lab.options["api-rates"] = "elbv2-mutate=0.01:5"
    restart()
    assert "AddTags" not in lab.reconcile(lab.desired()).calls
    assert lab.reconcile(lab.desired()).calls == {}
    lab.clock.now += 100
    assert lab.reconcile(lab.desired()).calls == {"AddTags": 1}
    assert lab.reconcile(lab.desired()).calls == {}


def test_what_only_a_look_tells_is_not_sealed(lab: Lab, restart: Callable[[], None]) -> None:
    """A listener that somebody added is said as long as it is there."""
    lab.reconcile(lab.desired())
    (balancer,) = lab.world.load_balancers()
    (group,) = lab.world.elbv2.describe_target_groups()["TargetGroups"]
    lab.world.elbv2.create_listener(
        LoadBalancerArn=balancer.arn,
        Port=9,
        Protocol="TCP",
        DefaultActions=[{"Type": "forward", "TargetGroupArn": group["TargetGroupArn"]}],
    )
    lab.clock.now += RECHECK_S
    changed = lab.desired(source_ranges=("192.0.2.0/24",))
    assert lab.reconcile(changed).notices.keys() == {"ForeignResourcesIgnored"}
    restart()
    assert lab.reconcile(changed).notices.keys() == {"ForeignResourcesIgnored"}


def test_labels_of_nodes_break_no_seal(lab: Lab, restart: Callable[[], None]) -> None:
    desired = lab.desired()
    lab.reconcile(desired)
    restart()
    labelled = tuple(dataclasses.replace(t, labels={"feature": "new"}) for t in desired.targets)
    assert is_from_listings(lab.reconcile(dataclasses.replace(desired, targets=labelled)))


def test_one_pass_looks_at_everything_and_seals_nothing(lab: Lab) -> None:
    lab.reconcile(lab.desired())
    assert seal_of(lab.world) == ""
    lab.restart()
    assert lab.reconcile(lab.desired()).calls["DescribeListeners"] == 1


def test_load_balancers_of_before_there_were_seals_get_theirs_once(
    lab: Lab, restart: Callable[[], None]
) -> None:
    desired = lab.desired()
    lab.recheck_s = 0
    lab.restart()
    lab.reconcile(desired)
    restart()
    assert lab.reconcile(desired).writes == {"AddTags": 1}
    assert lab.reconcile(desired).calls == {}
    restart()
    assert is_from_listings(lab.reconcile(desired))


def test_seal_stays_where_tags_are_put_right(lab: Lab, restart: Callable[[], None]) -> None:
    lab.reconcile(lab.desired())
    seal = seal_of(lab.world)
    assert seal
    (balancer,) = lab.world.load_balancers()
    elbv2.remove_tags(Cloud(), balancer.arn, [names.RESOURCE])
    restart()
    lab.reconcile(lab.desired())
    assert seal_of(lab.world) == seal
    lab.recheck_s = 0  # a pass of the command line beside it
    lab.restart()
    assert lab.reconcile(lab.desired()).writes == {}
    assert seal_of(lab.world) == seal


def test_digest_does_not_hang_on_the_process() -> None:
    """Sets have another order in every process."""
    program = textwrap.dedent("""
        from lbprov.api import L4Protocol, Listener, LoadBalancer, ObjectKey, Owner, Target
        from lbprov_aws import seals
        from lbprov_aws.resources import IngressRule, Observed, SecurityGroupRecord
        owner = Owner("lab", ObjectKey("default", "web"), "uid")
        rules = frozenset(IngressRule("tcp", n, f"10.0.{n}.0/24") for n in range(30))
        group = SecurityGroupRecord("sg-1", "web", "vpc-1", rules)
        notes = {"lbprov.io/b": "1", "lbprov.io/a": "2", "example.com/c": "3"}
        nodes = tuple(Target(f"node-{n}", f"aws:///a/i-{n:08x}") for n in range(9))
        wish = LoadBalancer(owner, (Listener(80, L4Protocol.TCP, 30080, "http"),), nodes, annotations=notes)
        print(seals.digest(wish, Observed(owner, "eu-west-1", security_groups=(group,)), ""))
        print(seals.targets_digest(nodes))
    """)
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, "PATH": ""},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(outputs) == 1


def test_digest_tells_every_wish_from_every_other(lab: Lab, restart: Callable[[], None]) -> None:
    from lbprov_aws import seals

    lab.reconcile(lab.desired())
    base = lab.desired()
    observed = lab.provider.observe(base.owner, base)
    picky = {NODE_LABELS: "disk=fast"}
    wishes: list[LoadBalancer] = [
        base,
        dataclasses.replace(base, internal=True),
        dataclasses.replace(base, requested_ip="203.0.113.10"),
        dataclasses.replace(base, annotations={"lbprov.io/x": "1"}),
        dataclasses.replace(base, health_check_node_port=32000),
        dataclasses.replace(base, listeners=(dataclasses.replace(base.listeners[0], port=81),)),
        dataclasses.replace(base, annotations=picky),
        dataclasses.replace(
            base,
            annotations=picky,
            targets=tuple(dataclasses.replace(t, labels={"disk": "fast"}) for t in base.targets),
        ),
    ]
    for book in ("", "book"):
        assert len({seals.digest(wish, observed, book) for wish in wishes}) == len(wishes)
    one_node = lab.desired(nodes=["node-1"])
    assert seals.digest(one_node, observed, "") != seals.digest(base, observed, "")
    assert seals.digest(one_node, observed, "book") == seals.digest(base, observed, "book")
    assert seals.targets_digest(one_node.targets) != seals.targets_digest(base.targets)
