"""Calls to AWS, counted at the server: what each operation may cost, and that it is less than others need."""

from __future__ import annotations

import math

import pytest

from bench import aws_calls
from lbprov.lab.aws.server import MotoServer

TAGS_PER_PAGE = 100
"""Of the emulator's tagging API, where AWS has 100 resources on a page."""
TAGS_EACH = 5


@pytest.fixture(scope="module")
def counted(moto_server: MotoServer) -> dict[str, int]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in moto_server.environment.items():
            patch.setenv(name, value)
        return aws_calls.measure(moto_server)


@pytest.mark.parametrize(
    ("operation", "most"),
    [
        ("new Service, 1 port", 8),
        ("new Service, 3 ports", 5 + 3 * 3),
        ("event that changes nothing", 0),
        ("node joined, 1 port", 1),
        ("node joined, 3 ports", 3),
        ("node left, 1 port", 1),
        ("node left, 3 ports", 3),
        ("port number changed", 4),
        ("deleted, 1 port", 4 + 1),
        ("deleted, 3 ports", 4 + 3),
        ("20 Services at once", 20 * 8 + 9),
        ("writes at restart", 0),
    ],
)
def test_budget(counted: dict[str, int], operation: str, most: int) -> None:
    assert counted[operation] <= most


def test_all_cost_less_than_what_others_need(counted: dict[str, int]) -> None:
    assert counted.keys() >= aws_calls.PEERS.keys()
    assert all(counted[operation] < min(peers) for operation, peers in aws_calls.PEERS.items())


@pytest.mark.parametrize(
    "services",
    [
        pytest.param(60, id="60"),
        pytest.param(1000, id="1000", marks=[pytest.mark.soak, pytest.mark.timeout(1800)]),
    ],
)
def test_crowd_costs_pages_at_a_restart_and_a_look_per_resource_at_a_re_check(
    moto_server: MotoServer, services: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in moto_server.environment.items():
        monkeypatch.setenv(name, value)
    found = aws_calls.crowd(moto_server, services)
    # Load balancers have a tag more: the seal.
    tagging = math.ceil(services * (2 * TAGS_EACH + 1) / TAGS_PER_PAGE) + 1
    pages = tagging + 2 * math.ceil(services / 400) + math.ceil((services + 1) / 1000)
    assert found["writes at restart"] == 0
    assert found[f"restart with {services} Services"] <= pages
    assert found[f"re-check of {services} Services"] <= pages + 2 * services
