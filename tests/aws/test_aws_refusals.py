"""What goes wrong between us and AWS, and what is said about it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from click.testing import CliRunner

from lbprov.api import ProviderError, RetryLater, UserError
from lbprov.cli.main import main
from lbprov.lab.aws.server import MotoServer
from lbprov.lab.aws.world import AwsWorld
from lbprov_aws.cloud import Cloud
from lbprov_aws.config import OPTIONS
from lbprov_aws.refusals import denial, presentable

if TYPE_CHECKING:
    from tests.aws.conftest import Lab


@pytest.mark.parametrize(
    ("operation", "code", "action"),
    [
        ("CreateLoadBalancer", "AccessDenied", "elasticloadbalancing:CreateLoadBalancer"),
        ("CreateSecurityGroup", "UnauthorizedOperation", "ec2:CreateSecurityGroup"),
        ("DescribeLoadBalancers", "AccessDenied", "elasticloadbalancing:DescribeLoadBalancers"),
        ("DescribeInstances", "UnauthorizedOperation", "ec2:DescribeInstances"),
    ],
)
def test_missing_permission_is_named(lab: Lab, operation: str, code: str, action: str) -> None:
    lab.server.fail(operation, code, status=403)
    with pytest.raises(ProviderError, match=f"AWS refuses {action}: allow it") as caught:
        lab.reconcile(lab.desired())
    assert not caught.value.retryable


_WHO = "arn:aws:sts::1:assumed-role/lbprov/pod"


@pytest.mark.parametrize(
    ("message", "said"),
    [
        pytest.param(
            f"You are not authorized to perform this operation. User: {_WHO} is not authorized to perform: "
            "ec2:CreateTags on resource: arn:aws:ec2:eu-west-1:1:security-group/* because no identity-based "
            "policy allows the ec2:CreateTags action. Encoded authorization failure message: 4GIOHlTkIaWHQ",
            "AWS refuses ec2:CreateTags (asked for by ec2:CreateSecurityGroup) on "
            f"arn:aws:ec2:eu-west-1:1:security-group/*: allow it to {_WHO} (an IAM policy; see "
            "docs/providers/aws.md)",
            id="another action than the call's",
        ),
        pytest.param(
            f"User: {_WHO} is not authorized to perform: ec2:CreateSecurityGroup on resource: * with an "
            "explicit deny in a service control policy",
            f"AWS refuses ec2:CreateSecurityGroup to {_WHO}, with an explicit deny in a service control "
            "policy: whoever made that has to change it",
            id="denied by the organisation",
        ),
        pytest.param(
            f"User: {_WHO} is not authorized to perform: ec2:CreateSecurityGroup because no permissions "
            "boundary allows the ec2:CreateSecurityGroup action",
            f"AWS refuses ec2:CreateSecurityGroup to {_WHO}, because no permissions boundary allows the "
            "ec2:CreateSecurityGroup action: whoever made that has to change it",
            id="denied by a boundary",
        ),
        pytest.param(
            "You are not authorized to perform this operation. Encoded authorization failure message: 4GIO",
            "AWS refuses ec2:CreateSecurityGroup: allow it to the credentials in use (an IAM policy). "
            "You are not authorized to perform this operation.",
            id="AWS says little",
        ),
        pytest.param(
            "",
            "AWS refuses ec2:CreateSecurityGroup: allow it to the credentials in use (an IAM policy).",
            id="AWS says nothing",
        ),
    ],
)
def test_a_denial_in_words_that_help(message: str, said: str) -> None:
    assert denial("ec2:CreateSecurityGroup", message) == said


def test_endless_messages_are_cut() -> None:
    assert len(presentable("word\n" * 1000)) == 400


@pytest.mark.parametrize(
    ("operation", "code", "reason", "said"),
    [
        (
            "CreateLoadBalancer",
            "AccessDenied",
            "PermissionMissing",
            "elasticloadbalancing:CreateLoadBalancer",
        ),
        ("CreateTargetGroup", "TooManyTargetGroups", "QuotaReached", '"Target Groups per Region"'),
        ("DescribeSubnets", "RequestExpired", "CredentialsRefused", "clock"),
    ],
)
def test_from_the_command_line(
    world: AwsWorld, tmp_path: Path, operation: str, code: str, reason: str, said: str
) -> None:
    """One line for the person, one Event and the condition for the Service; the rest of what was made stays,
    and the next run, with the obstacle gone, ends it."""
    nodes = [
        {"apiVersion": "v1", "kind": "Node", "metadata": {"name": n}, "spec": {"providerID": provider_id}}
        for n, provider_id in world.provider_ids.items()
    ]
    ports = [{"port": 80, "nodePort": 30080}]
    service = {"type": "LoadBalancer", "ports": ports}
    objects = [*nodes, {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": service}]
    (tmp_path / "all.yaml").write_text(yaml.safe_dump_all(objects))

    def run() -> Any:
        arguments = ["reconcile", "--provider", "aws", "-f", str(tmp_path), "-o", "json"]
        result = CliRunner().invoke(main, arguments)
        return result.exit_code, json.loads(result.stdout)["services"][0]

    world.server.fail(operation, code, status=403)
    exit_code, told = run()
    assert exit_code == 1
    (warning,) = (e for e in told["events"] if e["type"] == "Warning")
    assert warning["reason"] == reason
    assert said in warning["message"]
    assert len(warning["message"]) < 1024, "what an Event has room for"
    assert run()[0] == 0
    assert len(world.load_balancers()) == 1


@pytest.mark.usefixtures("impatient_sdk")
@pytest.mark.parametrize(
    ("operation", "code"),
    [
        ("CreateTargetGroup", "Throttling"),
        ("AuthorizeSecurityGroupIngress", "RequestLimitExceeded"),
        ("GetResources", "ThrottledException"),
    ],
)
def test_throttling_is_repeated_by_the_sdk_and_then_by_the_queue(lab: Lab, operation: str, code: str) -> None:
    lab.server.fail(operation, code, times=4)
    with pytest.raises(RetryLater, match=f"throttles .*:{operation}"):
        lab.reconcile(lab.desired())
    assert lab.server.calls()[operation] == 4
    lab.server.fail(operation, code, times=2)
    result = lab.reconcile(lab.desired())
    made = lab.server.calls()[operation] - 4
    assert result.calls[operation] == made >= 3, "every request is counted, the repeated ones too"


@pytest.mark.parametrize(
    ("operation", "code", "said", "retryable"),
    [
        ("CreateLoadBalancer", "TooManyLoadBalancers", '"Network Load Balancers per Region" is', False),
        ("CreateLoadBalancer", "ExpiredToken", "does not accept the credentials", False),
        ("CreateLoadBalancer", "InvalidSubnet", r"\(InvalidSubnet\)", True),
    ],
)
def test_other_refusals(lab: Lab, operation: str, code: str, said: str, retryable: bool) -> None:
    lab.server.fail(operation, code)
    with pytest.raises(ProviderError, match=said) as caught:
        lab.reconcile(lab.desired())
    assert caught.value.retryable is retryable
    lab.reconcile(lab.desired())


@pytest.mark.parametrize(
    ("operation", "code"),
    [
        ("AuthorizeSecurityGroupIngress", "InvalidGroup.NotFound"),
        ("CreateLoadBalancer", "InvalidSecurityGroup"),
        ("RegisterTargets", "TargetGroupNotFound"),
        ("CreateListener", "DuplicateListener"),
    ],
)
def test_what_aws_does_not_know_yet_is_awaited(lab: Lab, operation: str, code: str) -> None:
    lab.server.fail(operation, code)
    with pytest.raises(RetryLater, match="looking again"):
        lab.reconcile(lab.desired())
    lab.reconcile(lab.desired())
    assert len(lab.world.load_balancers()) == 1


def test_no_region(aws_server: MotoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    with pytest.raises(ProviderError, match="no AWS region: use --provider-option region="):
        Cloud()
    assert Cloud("eu-north-1").region == "eu-north-1"


def test_no_credentials(aws_server: MotoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    with pytest.raises(ProviderError, match=r"no AWS credentials here: .*AWS_PROFILE") as caught:
        Cloud().call("ec2", "DescribeAddresses")
    assert not caught.value.retryable


def test_unknown_profile(aws_server: MotoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(
        ProviderError, match=r"no AWS credentials from the profile nobody: .*nobody.*list-profiles"
    ):
        Cloud()


@pytest.mark.usefixtures("aws_server", "impatient_sdk")
@pytest.mark.parametrize(
    ("url", "said"),
    [
        pytest.param("http://127.0.0.1:1", r"does not answer at http://127\.0\.0\.1:1", id="nobody there"),
        pytest.param("127.0.0.1:1", "AWS_ENDPOINT_URL: .*http://HOST:PORT", id="no scheme"),
    ],
)
def test_endpoint(monkeypatch: pytest.MonkeyPatch, url: str, said: str) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    with pytest.raises(ProviderError, match=said):
        Cloud().call("ec2", "DescribeAddresses")


def test_dry_run_writes_nothing_whatever_it_is_told(lab: Lab) -> None:
    provider = lab.start(read_only=True)
    desired = lab.desired()
    plan = provider.plan(desired, provider.observe(desired.owner, desired))
    assert plan.steps
    for step in plan.steps:
        with pytest.raises(ProviderError, match="dry run"):
            provider.apply(step, {})
    with pytest.raises(ProviderError, match="CreateSecurityGroup refused: this is a dry run"):
        Cloud(read_only=True).call("ec2", "CreateSecurityGroup", GroupName="x", Description="y")
    assert lab.world.leftovers() == ()


@pytest.mark.parametrize("cluster", ["", "a*b", "x" * 107])
def test_cluster_name_must_be_a_tag(lab: Lab, cluster: str) -> None:
    with pytest.raises(ProviderError, match="cluster name"):
        lab.start(cluster=cluster)


def test_no_node_tells_the_vpc(lab: Lab) -> None:
    with pytest.raises(ProviderError, match="--provider-option vpc-id="):
        lab.reconcile(lab.desired(nodes=[]))
    lab.options = {"vpc-id": lab.world.vpc_id}
    lab.restart()
    lab.reconcile(lab.desired(nodes=[]))
    (balancer,) = lab.world.load_balancers()
    assert [x.targets for x in balancer.listeners] == [()]


def test_configured_subnets(lab: Lab) -> None:
    one = lab.world.subnet_ids["eu-west-1c"]
    lab.options = {"subnet-ids": f"{one},subnet-0"}
    lab.restart()
    with pytest.raises(ProviderError, match="subnet-ids: there is no subnet 'subnet-0'"):
        lab.reconcile(lab.desired())
    lab.options = {"subnet-ids": one}
    lab.restart()
    result = lab.reconcile(lab.desired())
    assert "DescribeRouteTables" not in result.calls
    assert lab.world.load_balancers()[0].zones == ("eu-west-1c",)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("region", "eu west"),
        ("vpc-id", "my-vpc"),
        ("subnet-ids", "subnet-1,x"),
        ("resync-seconds", "often"),
        ("resync-seconds", "-1"),
    ],
)
def test_bad_options(name: str, value: str) -> None:
    (parse,) = (option.parse for option in OPTIONS if option.name == name)
    with pytest.raises(ValueError, match=r"looks like|comma-separated|a number of seconds"):
        parse(value)


def test_services_that_cannot_be_served_make_nothing(lab: Lab) -> None:
    with pytest.raises(UserError):
        lab.reconcile(lab.desired(annotations={"service.beta.kubernetes.io/aws-load-balancer-scheme": "?"}))
    assert lab.world.leftovers() == ()
