"""One AWS for all tests of this folder; each test finds it empty."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lbprov.lab.aws.server import MotoServer
from lbprov.lab.aws.world import AwsWorld


@pytest.fixture(scope="session")
def moto_server() -> Iterator[MotoServer]:
    with MotoServer() as server:
        yield server


@pytest.fixture
def aws_server(moto_server: MotoServer) -> MotoServer:
    moto_server.reset()
    return moto_server


@pytest.fixture
def world(aws_server: MotoServer) -> AwsWorld:
    """A network of three zones with a node in each; faults and counts start behind its making."""
    world = AwsWorld.create(aws_server)
    aws_server.control(reset=True)
    return world
