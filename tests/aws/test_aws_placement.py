"""Region and VPC: by whom they are told, in which order, and what is said where they cannot be right."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import lbprov_aws
from lbprov.api import Provider, ProviderContext, ProviderError
from lbprov.lab.aws.server import MotoServer
from lbprov.lab.aws.world import AwsWorld
from lbprov_aws import placement
from lbprov_aws.cloud import EC2, ELBV2, Cloud
from lbprov_aws.metadata import Instance, NoMetadata
from lbprov_aws.placement import Placement
from lbprov_aws.resources import Observed

if TYPE_CHECKING:
    from tests.aws.conftest import Lab

ROOT = Path(__file__).parents[2]
HERE = Instance("i-0123456789abcdef0", "eu-central-1", "vpc-0123")


def _nowhere() -> Instance:
    raise NoMetadata("this is no EC2 instance")


@pytest.mark.parametrize(
    ("zone", "region"),
    [
        pytest.param("eu-west-1a", "eu-west-1", id="zone"),
        pytest.param("us-gov-west-1b", "us-gov-west-1", id="GovCloud"),
        pytest.param("cn-north-1a", "cn-north-1", id="China"),
        pytest.param("eusc-de-east-1a", "eusc-de-east-1", id="European Sovereign Cloud"),
        pytest.param("us-west-2-lax-1a", "us-west-2", id="Local Zone"),
        pytest.param("us-east-1-wl1-bos-wlz-1", "us-east-1", id="Wavelength Zone"),
        pytest.param("rack-7", "", id="no zone of AWS"),
    ],
)
def test_region_of_a_zone(zone: str, region: str) -> None:
    assert placement.region_of_zone(zone) == region


def test_region_of_nodes() -> None:
    nodes = [
        "aws:///eu-west-1a/i-00000001",
        "aws:///eu-north-1a/i-00000002",
        "aws:///eu-north-1b/i-00000003",
        "gce://project/zone/name",
        "",
    ]
    assert placement.region_of_nodes(nodes) == "eu-north-1"
    assert placement.region_of_nodes(nodes[3:]) == ""


def test_the_instance_comes_before_the_nodes() -> None:
    nodes = ["aws:///eu-west-1a/i-00000001"]
    assert Placement(lambda: nodes, lambda: HERE).region() == "eu-central-1"
    assert Placement(lambda: nodes, _nowhere).region() == "eu-west-1"
    with pytest.raises(ProviderError, match=r"no AWS region: .*region=.*no EC2 instance.*no node") as caught:
        Placement(tuple, _nowhere).region()
    assert caught.value.retryable, "a node may come"


def test_the_instance_tells_the_vpc_only_where_it_is_a_node() -> None:
    """A bastion's network is not the cluster's."""
    here = Placement(tuple, lambda: HERE)
    assert here.vpc_id([HERE.instance_id]) == "vpc-0123"
    assert here.vpc_id(["i-00000001"]) == ""
    assert Placement(tuple, _nowhere).vpc_id([HERE.instance_id]) == ""


def test_metadata_is_looked_for_once() -> None:
    looks = []

    def look() -> Instance:
        looks.append(1)
        raise NoMetadata("nothing here")

    here = Placement(tuple, look)
    for _ in range(3):
        here.vpc_id(["i-00000001"])
    assert len(looks) == 1


def test_order_of_the_region(aws_server: MotoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "eu-west-3")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-2")
    elsewhere = ["eu-south-1"]
    assert Cloud("eu-west-1", elsewhere=elsewhere.pop).region == "eu-west-1"
    assert Cloud(elsewhere=elsewhere.pop).region == "eu-west-3"
    monkeypatch.delenv("AWS_REGION")
    assert Cloud(elsewhere=elsewhere.pop).region == "eu-west-2"
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    assert Cloud(elsewhere=elsewhere.pop).region == "eu-south-1"


def test_a_region_that_only_nodes_tell(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first Node may come after the provider: until then, every call says what is missing."""
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    nodes: list[str] = []
    options = {o.name: o.parse(o.default) for o in lbprov_aws.SPEC.options}
    context = ProviderContext("lab", options, lab.clock, provider_ids=lambda: nodes)
    provider: Provider[Observed] = lbprov_aws.SPEC.build(context)
    for _ in range(2):
        with pytest.raises(ProviderError, match="no AWS region"):
            provider.owners()
    nodes += lab.world.provider_ids.values()
    assert provider.owners() == frozenset()
    lab.provider = provider
    lab.reconcile(lab.desired())
    assert len(lab.world.load_balancers()) == 1


def test_nodes_of_another_region(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "eu-north-1")
    lab.restart()
    with pytest.raises(ProviderError, match="in eu-west-1, and lbprov works in eu-north-1: use ") as caught:
        lab.reconcile(lab.desired())
    assert (caught.value.reason, caught.value.retryable) == (placement.WRONG_REGION, False)
    assert lab.world.leftovers() == ()


def test_a_word_that_is_no_region(aws_server: MotoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "eu west")
    with pytest.raises(ProviderError, match=r"the region: .*eu west") as caught:
        Cloud()
    assert (caught.value.reason, caught.value.retryable) == (placement.WRONG_REGION, False)


# -- partitions


@pytest.mark.parametrize(
    ("region", "partition", "host"),
    [
        ("eu-west-1", "aws", r"\.eu-west-1\.amazonaws\.com$"),
        ("cn-northwest-1", "aws-cn", r"\.cn-northwest-1\.amazonaws\.com\.cn$"),
        ("us-gov-west-1", "aws-us-gov", r"\.us-gov-west-1\.amazonaws\.com$"),
    ],
)
def test_a_partition_from_end_to_end(
    aws_server: MotoServer,
    monkeypatch: pytest.MonkeyPatch,
    make_lab: type[Lab],
    region: str,
    partition: str,
    host: str,
) -> None:
    """Endpoints and ARNs are the SDK's and AWS's: nothing in between knows of partitions."""
    monkeypatch.setattr(aws_server, "region", region)
    for name, value in aws_server.environment.items():
        monkeypatch.setenv(name, value)
    lab = make_lab(AwsWorld.create(aws_server))
    made = lab.reconcile(lab.desired())
    assert made.status is not None
    (balancer,) = lab.world.load_balancers()
    assert balancer.arn.startswith(f"arn:{partition}:elasticloadbalancing:{region}:")
    lab.delete(lab.desired().owner)
    assert lab.world.leftovers() == ()
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    assert re.search(host, Cloud().endpoint(ELBV2))
    assert re.search(host, Cloud().endpoint(EC2))


def test_no_partition_is_written_down() -> None:
    """Nor an endpoint. What ends in amazonaws.com in Terraform's modules are names of services as IAM has
    them, the same in every partition."""
    code = list(ROOT.glob("providers/lbprov_aws/*.py"))
    modules = [*ROOT.glob("terraform/*/*/*.tf"), *ROOT.glob("terraform/*/*/*.json")]
    assert len(code) > 20
    assert len(modules) > 8
    arns = [f"{path.name}: {match}" for path in (*code, *modules) for match in _ARN.findall(path.read_text())]
    assert arns == []
    hosts = {match for path in (*code, *modules) for match in _HOST.findall(path.read_text())}
    assert hosts == {"elasticloadbalancing", "pods.eks", "sts"}


_ARN = re.compile(r"arn:aws[a-z-]*:")
_HOST = re.compile(r"([\w.-]+)\.amazonaws\.com\b(?!/)")
