"""The IAM policy against the provider: every operation that it can make is allowed, and no other; and under
the policy's own conditions a Service's whole life goes through, and nothing that is not ours can be touched.

The conditions are evaluated here as IAM's documentation has it ("Policy evaluation logic", "Condition
operators"). What only an account can show is in terraform/README.md.
"""

from __future__ import annotations

import ast
import fnmatch
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import botocore.session
import pytest

from lbprov.api import SessionAffinity
from lbprov.lab.aws.world import AwsWorld, client
from lbprov_aws.cloud import Cloud
from lbprov_aws.refusals import IAM_PREFIX
from tests.aws.desk import Desk
from tests.aws.peers_work import cloud_provider_aws, load_balancer_controller

if TYPE_CHECKING:
    from tests.aws.conftest import Lab

ROOT = Path(__file__).parents[2]
MODULE = ROOT / "terraform/modules/aws-iam"
SOURCES = sorted((ROOT / "providers/lbprov_aws").glob("*.py"))
SERVICES = {"ELBV2": "elbv2", "EC2": "ec2", "TAGGING": "resourcegroupstaggingapi"}


def _statements(*, adoption: bool = False) -> list[dict[str, Any]]:
    """As Terraform renders and joins them."""
    texts = [(MODULE / name).read_text() for name in ("policy.json", "adoption.json")]
    policy, more = (
        json.loads(t.replace("${partition}", "aws").replace("${cluster_name}", "lab")) for t in texts
    )
    return [*policy["Statement"], *(more if adoption else ())]


# -- the actions


def _operations() -> set[str]:
    """Every operation of the three APIs that the provider's sources name: as `cloud.call(SERVICE, "Name")`,
    or as a text that only one of the APIs has as an operation."""
    session = botocore.session.Session()
    named = {service: set(session.get_service_model(service).operation_names) for service in IAM_PREFIX}
    found: set[str] = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and len(node.args) > 1 and isinstance(node.args[0], ast.Name):
                service, operation = SERVICES.get(node.args[0].id), node.args[1]
                if service and isinstance(operation, ast.Constant) and operation.value in named[service]:
                    found.add(f"{IAM_PREFIX[service]}:{operation.value!s}")
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                having = [service for service, names in named.items() if node.value in names]
                if len(having) == 1:
                    found.add(f"{IAM_PREFIX[having[0]]}:{node.value}")
    return found


def test_the_actions_are_the_operations() -> None:
    allowed = {action for s in _statements(adoption=True) for action in s["Action"]}
    used = _operations()
    assert len(used) > 20
    missing, idle = sorted(used - allowed), sorted(allowed - used)
    assert not missing, (
        f"the provider makes {missing}, and terraform/modules/aws-iam/policy.json does not allow it: put "
        "reads into its statement Look, changes into ChangeWhatIsOurs; then pytest "
        "tests/aws/test_aws_docs.py --update-golden, for docs/providers/aws.md"
    )
    assert not idle, f"terraform/modules/aws-iam/policy.json allows {idle}, which the provider never does"


def test_reads_and_changes_are_apart() -> None:
    for statement in _statements(adoption=True):
        reads = [a for a in statement["Action"] if a.split(":")[1].startswith(("Describe", "Get"))]
        assert reads in ([], statement["Action"]), statement["Sid"]
        assert statement["Action"] == sorted(set(statement["Action"])), statement["Sid"]
        bound = "lab" in json.dumps(statement.get("Condition", {}))
        assert bound or statement["Sid"] in ("Look", "MakeSecurityGroupsInAnyVpc"), statement["Sid"]


# -- the conditions


class Iam:
    """Whether the policy allows a call: each resource that it is about, with the tags it has and gets."""

    def __init__(self, world: AwsWorld, *, adoption: bool = False) -> None:
        self._world = world
        self._statements = _statements(adoption=adoption)

    def refusals(self, service: str, operation: str, parameters: Mapping[str, Any]) -> list[str]:
        return [
            f"{action} on {arn} {context}"
            for action, arn, context in self._checks(service, operation, parameters)
            if not any(_allows(statement, action, arn, context) for statement in self._statements)
        ]

    def _checks(
        self, service: str, operation: str, parameters: Mapping[str, Any]
    ) -> Iterator[tuple[str, str, dict[str, str]]]:
        """Action, resource, condition context. A call that tags what it makes is checked for the tagging
        as well (ELB user guide and EC2 user guide, "Grant permission to tag resources during creation")."""
        action = f"{IAM_PREFIX[service]}:{operation}"
        asked = _request_tags(parameters)
        if operation.startswith(("Describe", "Get")):
            yield action, "*", {}
            return
        if operation == "CreateSecurityGroup":
            yield action, "arn:aws:ec2:eu-west-1:1:vpc/" + parameters["VpcId"], {}
        about = self._resources(operation, parameters)
        for arn, tags in about:
            yield action, arn, {**_keys("aws:ResourceTag", tags), **asked}
        if operation.startswith("Create") and asked and operation != "CreateTags":
            tagging = "ec2:CreateTags" if service == "ec2" else "elasticloadbalancing:AddTags"
            key = tagging.split(":")[0] + ":CreateAction"
            made = "arn:aws:ec2:eu-west-1:1:security-group/sg-new" if service == "ec2" else "arn:aws:elb:new"
            yield tagging, made, {**asked, key: operation}

    def _resources(self, operation: str, parameters: Mapping[str, Any]) -> list[tuple[str, dict[str, str]]]:
        arns = [
            parameters[key]
            for key in ("LoadBalancerArn", "TargetGroupArn", "ListenerArn", "ResourceArn")
            if key in parameters
        ]
        arns += parameters.get("ResourceArns", [])
        groups = [parameters["GroupId"]] if "GroupId" in parameters else parameters.get("Resources", [])
        if operation == "CreateSecurityGroup":
            return [("arn:aws:ec2:eu-west-1:1:security-group/sg-new", {})]
        if operation in ("CreateLoadBalancer", "CreateTargetGroup"):
            return [("arn:aws:elb:new", {})]
        found = [(arn, self._tags(arn)) for arn in arns]
        found += [(f"arn:aws:ec2:eu-west-1:1:security-group/{g}", self._group_tags(g)) for g in groups]
        assert found, f"{operation}: which resource is it about?"
        return found

    def _tags(self, arn: str) -> dict[str, str]:
        told = self._world.elbv2.describe_tags(ResourceArns=[arn])["TagDescriptions"]
        return {tag["Key"]: tag["Value"] for description in told for tag in description["Tags"]}

    def _group_tags(self, group_id: str) -> dict[str, str]:
        told = self._world.ec2.describe_security_groups(Filters=[{"Name": "group-id", "Values": [group_id]}])
        return {tag["Key"]: tag["Value"] for g in told["SecurityGroups"] for tag in g.get("Tags", [])}


def _request_tags(parameters: Mapping[str, Any]) -> dict[str, str]:
    given = parameters.get("Tags", []) + [
        tag for specification in parameters.get("TagSpecifications", []) for tag in specification["Tags"]
    ]
    return _keys("aws:RequestTag", {tag["Key"]: tag.get("Value", "") for tag in given})


def _keys(prefix: str, tags: Mapping[str, str]) -> dict[str, str]:
    return {f"{prefix}/{key}": value for key, value in tags.items()}


def _allows(statement: Mapping[str, Any], action: str, arn: str, context: Mapping[str, str]) -> bool:
    conditions = statement.get("Condition", {})
    assert set(conditions) <= {"StringEquals"}, "teach this test the other operators"
    return (
        action in statement["Action"]
        and fnmatch.fnmatchcase(arn, statement["Resource"])
        and all(
            context.get(key) in ([values] if isinstance(values, str) else values)
            for key, values in conditions.get("StringEquals", {}).items()
        )
    )


@pytest.fixture
def iam(world: AwsWorld, monkeypatch: pytest.MonkeyPatch) -> Iam:
    """Every call of the provider's is checked against the policy before it is made."""
    return _enforced(Iam(world), monkeypatch)


def _enforced(iam: Iam, monkeypatch: pytest.MonkeyPatch) -> Iam:
    call = Cloud.call

    def checked(self: Cloud, service: str, operation: str, **parameters: Any) -> dict[str, Any]:
        refusals = iam.refusals(service, operation, parameters)
        assert not refusals, f"the policy does not allow {refusals}"
        return call(self, service, operation, **parameters)

    monkeypatch.setattr(Cloud, "call", checked)
    return iam


def test_a_whole_life_under_the_policy(lab: Lab, iam: Iam, make_port: Any) -> None:
    lab.world.allocate_address("203.0.113.10")
    tags = "service.beta.kubernetes.io/aws-load-balancer-additional-resource-tags"
    web = lab.desired(requested_ip="203.0.113.10", annotations={tags: "team=net"})
    lab.reconcile(web)
    changes: list[dict[str, Any]] = [
        {"annotations": {tags: "team=dev,stage=prod"}},
        {"source_ranges": ("192.0.2.0/24",)},
        {"session_affinity": SessionAffinity.CLIENT_IP},
        {"health_check_node_port": 32000},
        {"nodes": sorted(lab.world.provider_ids)[:1]},
    ]
    seen: set[str] = set()
    for change in changes:
        seen |= lab.reconcile(lab.desired(requested_ip="203.0.113.10", **change)).calls.keys()
    two = (make_port(81, 30080), make_port(53, 30053, "UDP"))
    seen |= lab.reconcile(lab.desired("web", *two, requested_ip="203.0.113.10")).calls.keys()
    seen |= lab.delete(web.owner).calls.keys()
    assert lab.world.leftovers() == ()
    assert seen >= {"AddTags", "RemoveTags", "CreateTags", "RevokeSecurityGroupIngress", "ModifyListener"}


def test_a_replacement_under_the_policy(lab: Lab, iam: Iam) -> None:
    desk = Desk(lab, annotations={"lbprov.io/replace": "seamless"})
    desk.settle()
    desk.change(annotations={"lbprov.io/scheme": "internal"})
    desk.settle()
    (balancer,) = lab.world.load_balancers()
    assert balancer.scheme == "internal"
    desk.cluster.delete(desk.service.key)
    desk.settle()
    assert lab.world.leftovers() == ()


@pytest.mark.parametrize("make", [cloud_provider_aws, load_balancer_controller])
def test_an_adoption_under_the_policy(lab: Lab, monkeypatch: pytest.MonkeyPatch, make: Any) -> None:
    made = make(lab)
    _enforced(Iam(lab.world, adoption=True), monkeypatch)
    desk = Desk(lab, annotations={"lbprov.io/adopt": "take-over"})
    desk.settle()
    assert desk.hostname() == made.dns_name.lower()
    desk.cluster.delete(desk.service.key)
    desk.settle()
    assert lab.world.load_balancers() == ()


def test_wishes_under_the_policy(lab: Lab, iam: Iam, make_port: Any) -> None:
    prefix = "service.beta.kubernetes.io/aws-load-balancer-"
    acm = client(lab.server, "acm")
    one, two = (acm.request_certificate(DomainName=f"{n}.example.com")["CertificateArn"] for n in "ab")
    changes: list[dict[str, str]] = [
        {"ssl-cert": f"{one},{two}", "attributes": "deletion_protection.enabled=false"},
        {"ssl-cert": one, "attributes": "load_balancing.cross_zone.enabled=true"},
        {"target-group-attributes": "deregistration_delay.timeout_seconds=30"},
        {"healthcheck-interval": "20", "security-group-prefix-lists": "pl-12345678"},
        {"listener-attributes.TCP-443": "tcp.idle_timeout.seconds=600"},
        {},
    ]
    seen: set[str] = set()
    for change in changes:
        annotations = {prefix + name: value for name, value in change.items()}
        seen |= lab.reconcile(lab.desired("web", make_port(443, 30443), annotations=annotations)).calls.keys()
    lab.delete(lab.desired().owner)
    assert lab.world.leftovers() == ()
    assert seen >= {"AddListenerCertificates", "RemoveListenerCertificates", "ModifyLoadBalancerAttributes"}


@pytest.mark.parametrize(
    ("service", "operation", "parameters"),
    [
        ("elbv2", "DeleteLoadBalancer", {"LoadBalancerArn": "FOREIGN"}),
        (
            "elbv2",
            "AddTags",
            {"ResourceArns": ["FOREIGN"], "Tags": [{"Key": "lbprov/cluster", "Value": "lab"}]},
        ),
        (
            "elbv2",
            "CreateListener",
            {"LoadBalancerArn": "FOREIGN", "Tags": [{"Key": "lbprov/cluster", "Value": "lab"}]},
        ),
        ("elbv2", "CreateLoadBalancer", {"Name": "x"}),
        ("elbv2", "CreateLoadBalancer", {"Tags": [{"Key": "lbprov/cluster", "Value": "other"}]}),
        ("ec2", "CreateSecurityGroup", {"VpcId": "vpc-1", "GroupName": "x"}),
        ("ec2", "AuthorizeSecurityGroupIngress", {"GroupId": "FOREIGN-GROUP"}),
        (
            "ec2",
            "CreateTags",
            {"Resources": ["FOREIGN-GROUP"], "Tags": [{"Key": "lbprov/cluster", "Value": "lab"}]},
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_ours_cannot_be_touched(
    world: AwsWorld, service: str, operation: str, parameters: Mapping[str, Any]
) -> None:
    subnets = list(world.subnet_ids.values())
    made = world.elbv2.create_load_balancer(Name="theirs", Type="network", Subnets=subnets)["LoadBalancers"][
        0
    ]
    (default,) = world.ec2.describe_security_groups(Filters=[{"Name": "vpc-id", "Values": [world.vpc_id]}])[
        "SecurityGroups"
    ]
    text = json.dumps(parameters).replace("FOREIGN-GROUP", default["GroupId"])
    parameters = json.loads(text.replace("FOREIGN", made["LoadBalancerArn"]))
    assert Iam(world).refusals(service, operation, parameters)


@pytest.mark.parametrize(
    ("tags", "adoption", "allowed"),
    [
        pytest.param({"elbv2.k8s.aws/cluster": "lab"}, True, True, id="AWS Load Balancer Controller"),
        pytest.param({"kubernetes.io/cluster/lab": "owned"}, True, True, id="cloud-provider-aws"),
        pytest.param({"kubernetes.io/cluster/lab": "shared"}, True, False, id="shared with the cluster"),
        pytest.param({"elbv2.k8s.aws/cluster": "other"}, True, False, id="another cluster's"),
        pytest.param({"Name": "theirs"}, True, False, id="nobody's"),
        pytest.param({"elbv2.k8s.aws/cluster": "lab"}, False, False, id="not asked for"),
    ],
)
def test_what_others_made_is_taken_over_for_this_cluster_alone(
    world: AwsWorld, tags: Mapping[str, str], adoption: bool, allowed: bool
) -> None:
    made = world.elbv2.create_load_balancer(
        Name="theirs",
        Type="network",
        Subnets=list(world.subnet_ids.values()),
        Tags=[{"Key": key, "Value": value} for key, value in tags.items()],
    )["LoadBalancers"][0]
    iam = Iam(world, adoption=adoption)
    arn = made["LoadBalancerArn"]
    mark = {"ResourceArns": [arn], "Tags": [{"Key": "lbprov/cluster", "Value": "lab"}]}
    assert (iam.refusals("elbv2", "AddTags", mark) == []) is allowed
    other = {"ResourceArns": [arn], "Tags": [{"Key": "team", "Value": "net"}]}
    assert iam.refusals("elbv2", "AddTags", other), "only to be marked"
    assert iam.refusals("elbv2", "DeleteLoadBalancer", {"LoadBalancerArn": arn}), "before it is ours"
