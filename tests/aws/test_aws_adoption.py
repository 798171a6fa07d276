"""What another controller has made for a Service is told, and taken over only when that is asked for."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from lbprov.cli.main import main
from lbprov.model import Result, ServicePort
from lbprov_aws import names
from lbprov_aws.cloud import Cloud
from tests.aws.conftest import CLUSTER, Lab
from tests.aws.desk import KEY, Desk
from tests.aws.peers_work import Made, cloud_provider_aws, load_balancer_controller
from tests.aws.test_aws_replacement import Killed, dying_at

TAKE_OVER = {"lbprov.io/adopt": "take-over"}
THEIRS = ("kubernetes.io/service-name", "elbv2.k8s.aws", "service.k8s.aws")

BOTH = pytest.mark.parametrize(
    "make",
    [
        pytest.param(cloud_provider_aws, id="cloud-provider-aws"),
        pytest.param(load_balancer_controller, id="load balancer controller"),
    ],
)


def registered(lab: Lab) -> dict[int, int]:
    """Listener's port -> targets behind it."""
    return {x.port: len(x.targets) for b in lab.world.load_balancers() for x in b.listeners}


def all_tags(lab: Lab, arn: str) -> dict[str, dict[str, str]]:
    elbv2 = lab.world.elbv2
    listeners = elbv2.describe_listeners(LoadBalancerArn=arn)["Listeners"]
    groups = [x["DefaultActions"][0]["TargetGroupArn"] for x in listeners]
    arns = [arn, *(x["ListenerArn"] for x in listeners), *groups]
    described = elbv2.describe_tags(ResourceArns=arns)["TagDescriptions"]
    return {d["ResourceArn"]: {t["Key"]: t["Value"] for t in d["Tags"]} for d in described}


@BOTH
def test_told_and_left_alone_without_a_word_of_the_user(lab: Lab, make: Callable[[Lab], Made]) -> None:
    made = make(lab)
    desk = Desk(lab)
    before = lab.world.inventory()
    outcome = desk.reconcile()
    assert outcome.result is Result.FAILED
    (event,) = outcome.events
    assert event.reason == "PeerLoadBalancerFound"
    assert made.dns_name in event.message
    assert "lbprov.io/adopt: take-over" in event.message
    assert lab.world.inventory() == before
    assert outcome.retry_after_s is None
    assert desk.reconcile().events == ()
    assert lab.provider.calls().write == 0


@BOTH
@pytest.mark.parametrize("how", ["annotation", "flag"])
def test_taken_over(lab: Lab, make: Callable[[Lab], Made], how: str) -> None:
    made = make(lab)
    groups = {g["TargetGroupArn"] for g in lab.world.elbv2.describe_target_groups()["TargetGroups"]}
    desk = Desk(lab, annotations=TAKE_OVER if how == "annotation" else {})
    if how == "flag":
        desk.restart(adopt=True)
    outcomes = desk.settle()
    assert outcomes[-1].result in (Result.UPDATED, Result.UNCHANGED, Result.CREATED)
    assert desk.hostname() == made.dns_name.lower()
    (balancer,) = lab.world.load_balancers()
    assert balancer.arn == made.arn
    assert registered(lab) == {80: 3, 443: 3}
    after = lab.world.elbv2.describe_target_groups()["TargetGroups"]
    assert {g["TargetGroupArn"] for g in after} == groups
    requests = [r["operation"] for r in lab.server.requests()]
    assert not {"DeregisterTargets", "ModifyListener", "CreateListener", "CreateTargetGroup"} & set(
        requests[requests.index("AddTags") :]
    )
    for tags in all_tags(lab, made.arn).values():
        marks = (tags[names.CLUSTER], tags[names.SERVICE], tags[names.UID])
        assert marks == (CLUSTER, "default/web", "uid-web")
        assert not any(key.startswith(THEIRS) for key in tags)
    assert "LoadBalancerAdopted" in desk.reasons()
    assert desk.reconcile().result is Result.UNCHANGED
    desk.restart()
    assert desk.reconcile().result is Result.UNCHANGED
    assert lab.provider.calls().write == 0


def test_its_security_group_follows_the_service_from_then_on(lab: Lab) -> None:
    load_balancer_controller(lab)
    desk = Desk(lab, annotations=TAKE_OVER)
    desk.settle()
    (balancer,) = lab.world.load_balancers()
    assert balancer.source_ranges == ("0.0.0.0/0",)
    desk.change(load_balancer_source_ranges=("198.51.100.0/24",))
    desk.settle()
    (balancer,) = lab.world.load_balancers()
    assert balancer.source_ranges == ("198.51.100.0/24",)
    names_ = {g["GroupName"] for g in lab.world.ec2.describe_security_groups()["SecurityGroups"]}
    assert {"k8s-default-web-0123456789", "k8s-traffic-lab"} <= names_
    desk.cluster.delete(KEY)
    assert desk.settle()[-1].result is Result.DELETED
    (left,) = lab.world.leftovers()
    assert "k8s-traffic-lab" in left  # the cluster's: not this Service's


def test_one_without_a_security_group_goes_on_without(lab: Lab) -> None:
    """AWS gives none to a load balancer that was made without: nothing of that is tried, and it is told."""
    cloud_provider_aws(lab)
    desk = Desk(lab, annotations=TAKE_OVER)
    desk.settle()
    reason, message = desk.condition("SecurityGroup")
    assert reason == "WithoutSecurityGroup"
    assert "lbprov.io/replace: seamless" in message
    assert not [r for r in lab.server.requests() if r["operation"] == "SetSecurityGroups"]
    desk.change(ports=(ServicePort(80, node_port=30080), ServicePort(8443, node_port=30443)))
    desk.settle()
    assert registered(lab) == {80: 3, 8443: 3}
    desk.change(annotations={"lbprov.io/replace": "seamless"})
    desk.settle()
    (balancer,) = lab.world.load_balancers()
    assert balancer.source_ranges == ("0.0.0.0/0",)
    desk.cluster.delete(KEY)
    desk.settle()
    assert lab.world.leftovers() == ()


@BOTH
def test_everything_goes_with_the_service(lab: Lab, make: Callable[[Lab], Made]) -> None:
    make(lab)
    desk = Desk(lab, annotations=TAKE_OVER)
    desk.settle()
    desk.cluster.delete(KEY)
    desk.restart()
    assert desk.settle()[-1].result is Result.DELETED
    assert not [line for line in lab.world.leftovers() if "k8s-traffic-lab" not in line]


def test_pods_as_targets_are_replaced_by_nodes_before_the_listener_turns(lab: Lab) -> None:
    made = cloud_provider_aws(lab, target_type="ip")
    desk = Desk(lab, annotations=TAKE_OVER)
    desk.settle()
    (balancer,) = lab.world.load_balancers()
    assert balancer.arn == made.arn
    assert registered(lab) == {80: 3, 443: 3}
    operations = [r["operation"] for r in lab.server.requests()]
    assert operations.index("RegisterTargets") < operations.index("ModifyListener")
    assert len(lab.world.elbv2.describe_target_groups()["TargetGroups"]) == 2


def test_a_new_one_beside_it_if_the_user_says_so(lab: Lab) -> None:
    made = cloud_provider_aws(lab)
    before = lab.world.inventory()
    desk = Desk(lab, annotations={"lbprov.io/adopt": "ignore"})
    desk.restart(adopt=True)  # the Service's own word counts
    desk.settle()
    assert desk.hostname() != made.dns_name.lower()
    assert before <= lab.world.inventory()


def test_of_a_former_service_of_the_name(lab: Lab) -> None:
    """Its name holds another uid: nobody is stopped by it, and it is not taken over."""
    cloud_provider_aws(lab, uid="uid-of-a-former-one")
    before = lab.world.inventory()
    desk = Desk(lab, annotations=TAKE_OVER)
    outcome = desk.reconcile()
    assert outcome.result is Result.FAILED
    assert "former Service" in outcome.message
    assert lab.world.inventory() == before
    desk.change(annotations={"lbprov.io/adopt": "ask"})
    desk.settle()
    assert before <= lab.world.inventory()


CPA_SERVICE, LBC_CLUSTER = "kubernetes.io/service-name", "elbv2.k8s.aws/cluster"


@pytest.mark.parametrize(
    "tags",
    [
        pytest.param({CPA_SERVICE: "default/web", "kubernetes.io/cluster/other": "owned"}, id="cluster"),
        pytest.param({CPA_SERVICE: "default/api", "kubernetes.io/cluster/lab": "owned"}, id="service"),
        pytest.param({"kubernetes.io/cluster/lab": "owned"}, id="no service"),
        pytest.param({LBC_CLUSTER: "lab", "ingress.k8s.aws/stack": "default/web"}, id="an Ingress's"),
        pytest.param({LBC_CLUSTER: "other", "service.k8s.aws/stack": "default/web"}, id="cluster, too"),
    ],
)
def test_others_are_none_of_our_business(lab: Lab, tags: dict[str, str]) -> None:
    Made(lab, "auidweb", tags)
    before = lab.world.inventory()
    desk = Desk(lab, annotations=TAKE_OVER)
    desk.settle()
    assert before <= lab.world.inventory()
    assert len(lab.world.load_balancers()) == 2


def test_other_kinds_cannot_be_had(lab: Lab) -> None:
    tags: Any = [
        {"Key": "kubernetes.io/service-name", "Value": "default/web"},
        {"Key": "kubernetes.io/cluster/lab", "Value": "owned"},
    ]
    lab.world.elbv2.create_load_balancer(
        Name="auidweb", Type="application", Subnets=list(lab.world.subnet_ids.values()), Tags=tags
    )
    desk = Desk(lab, annotations=TAKE_OVER)
    before = lab.world.inventory()
    outcome = desk.reconcile()
    assert outcome.result is Result.FAILED
    assert "Application Load Balancer auidweb" in outcome.message
    assert "lbprov.io/adopt: ignore" in outcome.message
    assert lab.world.inventory() == before
    desk.change(annotations={"lbprov.io/adopt": "ignore"})
    desk.settle()
    assert before <= lab.world.inventory()


def test_a_listener_that_somebody_added_stays_somebodys(lab: Lab) -> None:
    made = load_balancer_controller(lab)
    group = lab.world.elbv2.create_target_group(
        Name="theirs", Protocol="TCP", Port=9, VpcId=lab.world.vpc_id, HealthCheckProtocol="TCP"
    )["TargetGroups"][0]["TargetGroupArn"]
    action: Any = [{"Type": "forward", "TargetGroupArn": group}]
    listener = lab.world.elbv2.create_listener(
        LoadBalancerArn=made.arn, Protocol="TCP", Port=9, DefaultActions=action
    )["Listeners"][0]["ListenerArn"]
    desk = Desk(lab, annotations=TAKE_OVER)
    desk.settle()
    assert "listener on port 9" in desk.condition("Foreign")[1]
    described = lab.world.elbv2.describe_tags(ResourceArns=[listener, group])["TagDescriptions"]
    assert [d["Tags"] for d in described] == [[], []]


@pytest.mark.parametrize(
    ("make", "then"),
    [
        pytest.param(cloud_provider_aws, "kept", id="cloud-provider-aws, kept", marks=pytest.mark.soak),
        pytest.param(
            cloud_provider_aws,
            "annotation gone",
            id="cloud-provider-aws, annotation gone",
            marks=pytest.mark.soak,
        ),
        pytest.param(cloud_provider_aws, "deleted", id="cloud-provider-aws, deleted", marks=pytest.mark.soak),
        pytest.param(
            load_balancer_controller, "kept", id="load balancer controller, kept", marks=pytest.mark.soak
        ),
        pytest.param(
            load_balancer_controller,
            "annotation gone",
            id="load balancer controller, annotation gone",
            marks=pytest.mark.soak,
        ),
        pytest.param(load_balancer_controller, "deleted", id="load balancer controller, deleted"),
    ],
)
def test_killed_at_any_write(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, make: Callable[[Lab], Made], then: str
) -> None:
    """The next process goes on with the takeover, whatever the annotation says, or with the deletion."""
    expected: frozenset[str] = frozenset()
    for number in itertools.count(1):
        made = make(lab)
        desk = Desk(lab, annotations=TAKE_OVER)
        crashed = False
        with monkeypatch.context() as patch:
            patch.setattr(Cloud, "call", dying_at(number, "after"))
            try:
                desk.settle()
            except Killed:
                crashed = True
        if crashed:
            assert registered(lab) == {80: 3, 443: 3}
            if then == "annotation gone":
                desk.change(annotations={"lbprov.io/adopt": "ask"})
            if then == "deleted":
                desk.cluster.delete(KEY)
            desk.restart()
            desk.settle()
        if then != "deleted" or not crashed:
            assert desk.hostname() == made.dns_name.lower()
            assert registered(lab) == {80: 3, 443: 3}
            expected = expected or lab.world.inventory()
            assert lab.world.inventory() == expected, f"killed after write {number}"
            desk.cluster.delete(KEY)
            desk.settle()
        left = [line for line in lab.world.leftovers() if "k8s-traffic-lab" not in line]
        assert left == [], f"killed after write {number}"
        for group in lab.world.ec2.describe_security_groups()["SecurityGroups"]:
            if group["GroupName"] == "k8s-traffic-lab":
                lab.world.ec2.delete_security_group(GroupId=group["GroupId"])
        if not crashed:
            break
    assert number > 7


def test_asked_for_and_not_there(lab: Lab) -> None:
    desk = Desk(lab, annotations=TAKE_OVER)
    desk.settle()
    assert "NothingToAdopt" in desk.reasons()
    assert desk.reconcile().events == ()


def test_asked_for_where_we_may_not_look(lab: Lab) -> None:
    """To make a new one would be wrong; a Service that does not ask is served."""
    cloud_provider_aws(lab)
    lab.server.fail("GetResources", "AccessDeniedException", times=100)
    desk = Desk(lab, annotations=TAKE_OVER)
    before = lab.world.inventory()
    outcome = desk.reconcile()
    assert outcome.result is Result.FAILED
    assert "tag:GetResources" in outcome.message
    assert lab.world.inventory() == before
    lab.reconcile(lab.desired("other"))


@pytest.mark.usefixtures("impatient_sdk")
def test_an_answer_that_does_not_come_is_waited_for(lab: Lab) -> None:
    """And is not taken for the answer that there is nothing."""
    made = cloud_provider_aws(lab)
    desk = Desk(lab)
    lab.provider.owners()
    lab.server.fail("GetResources", "ThrottledException", times=8)
    for _ in range(2):
        assert desk.reconcile().result is Result.PENDING
    outcome = desk.reconcile()
    assert outcome.result is Result.FAILED
    assert made.dns_name in outcome.message
    assert len(lab.world.load_balancers()) == 1


def test_looking_for_what_others_made_costs_two_calls_for_all_services(lab: Lab) -> None:
    lab.reconcile(lab.desired("first"))
    assert lab.provider.calls().by_operation["GetResources"] == 3
    for name in ("second", "third"):
        lab.reconcile(lab.desired(name))
    assert lab.provider.calls().by_operation["GetResources"] == 3


def test_plan_shows_it(lab: Lab, tmp_path: Path) -> None:
    ports = [
        {"name": "http", "port": 80, "nodePort": 30080},
        {"name": "tls", "port": 443, "nodePort": 30443},
    ]
    spec = {"type": "LoadBalancer", "ports": ports}
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": spec}
    (tmp_path / "web.yaml").write_text(yaml.safe_dump(service))

    def run(verb: str, *arguments: str) -> Any:
        where = ["--provider", "aws", "-f", str(tmp_path), "--cluster-name", CLUSTER]
        return CliRunner().invoke(main, [verb, *where, *arguments])

    made = load_balancer_controller(lab)
    before = lab.world.inventory()
    told = run("plan")
    assert told.exit_code == 1
    assert made.dns_name in told.output
    shown = run("plan", "--adopt")
    assert shown.exit_code == 0, shown.output
    assert (
        "~ update load balancer k8s-default-web-0a1b2c3d4e: made by AWS Load Balancer Controller"
        in shown.output
    )
    assert lab.world.inventory() == before
    done = run("reconcile", "--adopt", "-o", "json")
    assert done.exit_code == 0, done.output
    (answer,) = json.loads(done.stdout)["services"]
    assert answer["ingress"] == [{"hostname": made.dns_name.lower()}]


CONTROLLERS = "service.k8s.aws/nlb"
"""The class of the AWS Load Balancer Controller's Services."""


@pytest.mark.parametrize("by", ["flag", "environment"])
def test_services_of_the_other_controllers_class(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    """The class cannot be changed, so they are served by it: planned, taken over, followed, deleted."""
    spec: dict[str, Any] = {
        "type": "LoadBalancer",
        "loadBalancerClass": CONTROLLERS,
        "ports": [
            {"name": "http", "port": 80, "nodePort": 30080},
            {"name": "tls", "port": 443, "nodePort": 30443},
        ],
    }
    metadata = {
        "name": "web",
        "annotations": {"service.beta.kubernetes.io/aws-load-balancer-scheme": "internet-facing"},
    }
    service = {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}
    nodes = [
        {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {"providerID": id_}}
        for name, id_ in lab.world.provider_ids.items()
    ]

    def write(*services: Any) -> None:
        (tmp_path / "cluster.yaml").write_text(yaml.safe_dump_all([*services, *nodes]))

    flag = ["--load-balancer-class", CONTROLLERS]
    if by == "environment":
        monkeypatch.setenv("LBPROV_LOAD_BALANCER_CLASS", f"example.com/other {CONTROLLERS}")
        flag = []

    def run(verb: str, *arguments: str) -> Any:
        where = ["--provider", "aws", "-f", str(tmp_path), "--cluster-name", CLUSTER]
        return CliRunner().invoke(main, [verb, *where, *flag, *arguments])

    made = load_balancer_controller(lab)
    write(service)
    left_alone = run("plan", "-o", "json")
    assert made.dns_name in left_alone.output
    shown = run("plan", "--adopt")
    assert shown.exit_code == 0, shown.output
    assert "made by AWS Load Balancer Controller" in shown.output
    done = run("reconcile", "--adopt", "-o", "json")
    assert done.exit_code == 0, done.output
    (answer,) = json.loads(done.stdout)["services"]
    assert answer["ingress"] == [{"hostname": made.dns_name.lower()}]
    spec["ports"].append({"name": "more", "port": 8080, "nodePort": 30880})
    write(service)
    assert run("reconcile").exit_code == 0
    assert registered(lab) == {80: 3, 443: 3, 8080: 3}
    assert [b.arn for b in lab.world.load_balancers()] == [made.arn]
    write()
    assert run("reconcile", "--force").exit_code == 0
    assert lab.world.load_balancers() == ()


def test_a_service_of_the_other_controllers_class_is_left_alone_without_a_word(lab: Lab) -> None:
    load_balancer_controller(lab)
    desk = Desk(lab, load_balancer_class=CONTROLLERS)
    before = lab.world.inventory()
    assert desk.engine.reconcile(desk.service, ()) is None
    assert (lab.world.inventory(), desk.cluster.writes, desk.reasons()) == (before, [], [])


@pytest.mark.parametrize(
    ("annotations", "scheme"),
    [
        pytest.param({}, "internal", id="as it is with that controller"),
        pytest.param({"lbprov.io/scheme": "internet-facing"}, "internet-facing", id="ours wins"),
        pytest.param(
            {"service.beta.kubernetes.io/aws-load-balancer-scheme": "internet-facing"},
            "internet-facing",
            id="theirs",
        ),
    ],
)
def test_what_that_class_asks_for_is_internal(lab: Lab, annotations: dict[str, str], scheme: str) -> None:
    desk = Desk(lab, load_balancer_class=CONTROLLERS, annotations=annotations)
    desk.restart(more_classes=(CONTROLLERS,))
    desk.settle()
    (balancer,) = lab.world.load_balancers()
    assert balancer.scheme == scheme


def test_gc_of_a_takeover_that_was_broken_off(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its Service is gone: what is marked already, and what belongs to it and is not marked yet."""
    load_balancer_controller(lab)
    desk = Desk(lab, annotations=TAKE_OVER)
    with monkeypatch.context() as patch:
        patch.setattr(Cloud, "call", dying_at(2, "after"))
        with pytest.raises(Killed):
            desk.settle()
    where = ["--provider", "aws", "-f", str(tmp_path), "--cluster-name", CLUSTER, "--force", "-o", "json"]
    told = CliRunner().invoke(main, ["gc", *where])
    assert told.exit_code == 0, told.output
    (orphan,) = json.loads(told.stdout)["orphans"]
    assert (orphan["name"], orphan["fate"]) == ("web", "kept")
    assert orphan["resources"]
    done = CliRunner().invoke(main, ["gc", *where, "--delete"])
    assert done.exit_code == 0, done.output
    assert [line for line in lab.world.leftovers() if "k8s-traffic-lab" not in line] == []
