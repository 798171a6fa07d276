"""Our node agent beside the real kube-proxy of both modes, on one API server: `make differential`, in small.

Every case written by hand and a few random ones, with a quarter of the questions each. All are asked before
the first case looks at what was found.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lbprov.lab.controlplane import ControlPlane
from lbprov.lab.differential import cases, generate
from lbprov.lab.differential.case import Case, Ep, State
from lbprov.lab.differential.compare import Comparer, Comparison
from lbprov.lab.differential.differences import DIFFERENCES
from lbprov.lab.differential.session import opened
from lbprov.lab.differential.world import OURS, THEIRS, World
from lbprov.lab.lasting import is_forgotten, sticks_while_used, stray_arrives

CASES = cases.numbered([*cases.CASES, *generate.cases(seed=20, count=8)])
pytestmark = pytest.mark.timeout(600)  # the first test waits for all


@pytest.fixture(scope="module")
def _plane(untouched_plane: ControlPlane) -> ControlPlane:
    return untouched_plane


@pytest.fixture(scope="module")
def comparer(_plane: ControlPlane, kube_proxy: Path) -> Iterator[Comparer]:
    _plane.wait_ready()
    with opened(_plane, kube_proxy, [*THEIRS, *OURS], thin=True) as comparer:
        yield comparer


@pytest.fixture(scope="module")
def comparison(comparer: Comparer) -> Comparison:
    return comparer.compare(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_does_what_kube_proxy_does(case: Case, comparison: Comparison) -> None:
    found = [str(finding) for finding in comparison.findings if finding.ask.case == case]
    assert not found, f"{case}\n" + "\n".join(found)


@pytest.mark.parametrize("name", [difference.name for difference in DIFFERENCES])
def test_no_difference_is_accepted_that_is_none(name: str, comparison: Comparison) -> None:
    """What is not met any more is to be taken off the list."""
    assert comparison.differences[name] > 0


STRAYS = (
    ("ask-1", Case("from-pod", (State((Ep("web-2a"),)),), 900)),
    ("ask-1", Case("from-node", (State((Ep("node-2"),), protocols=("TCP",)),), 901)),
    ("client", Case("to-client", (State((Ep("web-1a"),), type="NodePort", external="Local"),), 902)),
)


def test_packets_that_connection_tracking_cannot_place(comparer: Comparer) -> None:
    """kube-proxy's iptables mode drops them, its nftables mode lets them pass; ours drops what is of Pods."""

    def arriving(world: World) -> set[str]:
        found = set()
        for client, case in STRAYS:
            node = world.node_addresses["4"], case.node_port("TCP")
            ip, port = node if client == "client" else (case.cluster_ip(4), 80)
            (state,) = case.states
            assert state
            endpoint = world.lab.hosts[state.endpoints[0].host]
            if stray_arrives(world.lab.hosts[client], endpoint, ip, port):
                found.add(case.name)
        return found

    with comparer.in_place([case for _, case in STRAYS]) as worlds:
        seen = {world.name: arriving(world) for world in worlds}
    everybody = {case.name for _, case in STRAYS}
    passing = {"kube-proxy-nftables": everybody}
    assert seen == {name: passing.get(name, set()) for name in (*THEIRS, *OURS)}


AFFINITY_S = 2


@pytest.mark.soak
def test_affinity_lasts_while_it_is_used_and_no_longer(comparer: Comparer) -> None:
    state = State((Ep("web-1a"), Ep("web-1b"), Ep("web-2a")), affinity_s=AFFINITY_S)
    case = Case("sticky-for-a-while", (state,), 903)

    def look(world: World) -> tuple[bool, bool]:
        asked = world.lab.hosts["ask-1"], case.cluster_ip(4), 80, AFFINITY_S
        return sticks_while_used(*asked), is_forgotten(*asked)

    with comparer.in_place([case]) as worlds, ThreadPoolExecutor(len(worlds)) as pool:
        seen = dict(zip((world.name for world in worlds), pool.map(look, worlds), strict=True))
    assert seen == dict.fromkeys((*THEIRS, *OURS), (True, True))
