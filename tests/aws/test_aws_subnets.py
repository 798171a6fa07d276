"""Which subnets a load balancer gets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from lbprov.api import ProviderError
from lbprov_aws.decode import public_subnets
from lbprov_aws.resources import Network, Subnet, as_tags
from lbprov_aws.subnets import discover, named


def subnet(
    number: int,
    zone: str = "a",
    tags: Mapping[str, str] | None = None,
    *,
    public: bool = True,
    free: int = 250,
) -> Subnet:
    zone = zone if "-" in zone else f"eu-west-1{zone}"
    cidr = f"10.0.{number}.0/24"
    return Subnet(f"subnet-{number}", zone, "vpc-1", cidr, (), public, free, as_tags(tags or {}))


ELB = {"kubernetes.io/role/elb": "1"}
INTERNAL = {"kubernetes.io/role/internal-elb": "1"}
OURS = {"kubernetes.io/cluster/lab": "shared"}
THEIRS = {"kubernetes.io/cluster/other": "owned"}


@pytest.mark.parametrize(
    ("subnets", "internal", "chosen"),
    [
        pytest.param([subnet(1), subnet(2, "b")], False, [1, 2], id="public ones, one per zone"),
        pytest.param([subnet(2), subnet(1)], False, [1], id="ties by id"),
        pytest.param([subnet(1, public=False), subnet(2)], False, [2], id="a private one is not reached"),
        pytest.param([subnet(1), subnet(2, "a", ELB)], False, [2], id="the role's tag wins"),
        pytest.param([subnet(1, "a", ELB, public=False)], False, [1], id="the role's tag is believed"),
        pytest.param(
            [subnet(1, "a", INTERNAL), subnet(2)], False, [1], id="the other role's tag says nothing"
        ),
        pytest.param([subnet(1), subnet(2, public=False)], True, [2], id="internal: rather private"),
        pytest.param([subnet(1)], True, [1], id="internal: a public one if need be"),
        pytest.param(
            [subnet(1, public=False), subnet(2, "a", INTERNAL)], True, [2], id="internal: the role's tag wins"
        ),
        pytest.param(
            [subnet(1), subnet(2, "a", OURS)],
            False,
            [2],
            id="this cluster's before nobody's",
        ),
        pytest.param(
            [subnet(1, "a", THEIRS), subnet(2)],
            False,
            [2],
            id="not another cluster's",
        ),
        pytest.param([subnet(1, free=7), subnet(2)], False, [2], id="not a full one"),
        pytest.param([subnet(1, "us-west-2-lax-1a"), subnet(2)], False, [2], id="not a Local Zone"),
    ],
)
def test_discovery(subnets: list[Subnet], internal: bool, chosen: list[int]) -> None:
    network = discover("vpc-1", tuple(subnets), "lab", internal=internal)
    assert [s.subnet_id for s in network.subnets] == [f"subnet-{n}" for n in chosen]


@pytest.mark.parametrize(
    ("subnets", "internal", "said"),
    [
        pytest.param([], True, "has no subnet for a load balancer", id="none"),
        pytest.param([subnet(1, public=False)], False, "has no public subnet", id="none public"),
        pytest.param([subnet(1, free=2)], False, "with 8 free addresses", id="all full"),
    ],
)
def test_nothing_found_names_the_remedy(subnets: list[Subnet], internal: bool, said: str) -> None:
    with pytest.raises(ProviderError, match=said) as caught:
        discover("vpc-1", tuple(subnets), "lab", internal=internal)
    assert "subnet-ids=" in str(caught.value)
    assert "elb=1" in str(caught.value)
    assert not caught.value.retryable


@pytest.mark.parametrize(
    ("wishes", "answer", "said"),
    [
        pytest.param(("subnet-2", "subnet-1"), ["subnet-1", "subnet-2"], [], id="ids"),
        pytest.param(("front",), ["subnet-3"], [], id="by Name"),
        pytest.param(
            ("subnet-9",), "there is no subnet 'subnet-9'", ["there is no subnet 'subnet-9'"], id="unknown"
        ),
        pytest.param(
            ("subnet-9", "subnet-2"), ["subnet-2"], ["there is no subnet 'subnet-9'"], id="one unknown"
        ),
        pytest.param(
            ("subnet-1", "front"),
            ["subnet-1"],
            ["subnet-1 and subnet-3 are both in eu-west-1a: one subnet per zone"],
            id="two in a zone",
        ),
    ],
)
def test_named(wishes: tuple[str, ...], answer: list[str] | str, said: list[str]) -> None:
    subnets = (subnet(1), subnet(2, "b"), subnet(3, "a", {"Name": "front"}))
    complaints: list[str] = []
    network = named(wishes, subnets, complaints)
    found = [s.subnet_id for s in network.subnets] if isinstance(network, Network) else network
    assert found == answer
    assert complaints == said


def test_route_tables_decide_what_is_public() -> None:
    internet = [{"DestinationCidrBlock": "0.0.0.0/0", "GatewayId": "igw-1"}]
    nat = [{"DestinationCidrBlock": "0.0.0.0/0", "NatGatewayId": "nat-1"}]
    tables: list[Mapping[str, Any]] = [
        {"Associations": [{"Main": True}], "Routes": internet},
        {"Associations": [{"SubnetId": "subnet-2"}], "Routes": nat},
        {"Associations": [{"SubnetId": "subnet-3"}], "Routes": internet},
    ]
    assert public_subnets(tables, ["subnet-1", "subnet-2", "subnet-3"]) == {"subnet-1", "subnet-3"}
