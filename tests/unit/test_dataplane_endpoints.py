"""Which endpoints take traffic: conditions, hints, duplicates."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from lbprov.model import Endpoint, EndpointPort, EndpointSlice, IPFamily, L4Protocol, ObjectKey
from local_dataplane.config import NodeFacts
from local_dataplane.endpoints import HEADLESS_LABEL, Backend, candidates, choose

HERE = NodeFacts("here", zone="a")


def _slice(
    *endpoints: Endpoint,
    name: str = "s1",
    ports: Sequence[EndpointPort] = (EndpointPort(8080),),
    family: IPFamily = IPFamily.IPV4,
    labels: dict[str, str] | None = None,
) -> EndpointSlice:
    return EndpointSlice(ObjectKey("ns", name), "web", family, tuple(ports), endpoints, labels or {})


def _ep(address: str, node: str = "there", **facts: object) -> Endpoint:
    return Endpoint((address,), node, **facts)  # type: ignore[arg-type]


def _found(*slices: EndpointSlice, port: str = "", protocol: L4Protocol = L4Protocol.TCP) -> list[Backend]:
    return [c.backend for c in candidates(slices, port, protocol, IPFamily.IPV4)]


def _addresses(backends: Sequence[Backend]) -> list[str]:
    return [b.address[-1] for b in backends]


READY_HERE = _ep("10.0.0.1", "here")
READY_THERE = _ep("10.0.0.2")
DRAINING_HERE = _ep("10.0.0.3", "here", ready=False, terminating=True)
DRAINING_THERE = _ep("10.0.0.4", ready=False, terminating=True)
STOPPED_HERE = _ep("10.0.0.5", "here", ready=False, serving=False, terminating=True)
UNREADY_HERE = _ep("10.0.0.6", "here", ready=False, serving=False)
SERVING_UNREADY = _ep("10.0.0.7", ready=False, serving=True)


@pytest.mark.parametrize(
    ("endpoints", "cluster", "local", "serving"),
    [
        pytest.param([], "", "", "", id="none"),
        pytest.param([READY_HERE, READY_THERE], "12", "1", "12", id="ready-everywhere"),
        pytest.param([READY_THERE], "2", "", "2", id="ready-elsewhere-only"),
        pytest.param([READY_HERE, DRAINING_THERE], "1", "1", "14", id="draining-unused-while-some-are-ready"),
        pytest.param([DRAINING_HERE, DRAINING_THERE], "34", "3", "34", id="all-draining"),
        pytest.param(
            [READY_THERE, DRAINING_HERE], "2", "3", "23", id="local-falls-back-by-itself, cluster-does-not"
        ),
        pytest.param([READY_HERE, DRAINING_HERE], "1", "1", "13", id="local-ready-beats-local-draining"),
        pytest.param([STOPPED_HERE, UNREADY_HERE], "", "", "", id="neither-ready-nor-serving"),
        pytest.param([SERVING_UNREADY], "", "", "7", id="serving-alone-is-not-enough"),
        pytest.param([_ep("10.0.0.8", node="")], "8", "", "8", id="no-node-is-local-to-none"),
    ],
)
def test_conditions(endpoints: list[Endpoint], cluster: str, local: str, serving: str) -> None:
    choice = choose(candidates([_slice(*endpoints)], "", L4Protocol.TCP, IPFamily.IPV4), HERE)
    assert [
        "".join(_addresses(part)) for part in (choice.cluster, choice.local, choice.serving)
    ] == [cluster, local, serving]  # fmt: skip


def _hinted(number: int, zone: str = "", node: str = "", **facts: object) -> Endpoint:
    hints = {"zone_hints": (zone,) if zone else (), "node_hints": (node,) if node else ()}
    return _ep(f"10.0.0.{number}", "there", **hints, **facts)


@pytest.mark.parametrize(
    ("endpoints", "node", "cluster"),
    [
        pytest.param([_hinted(1, "a"), _hinted(2, "b")], HERE, "1", id="same-zone"),
        pytest.param([_hinted(1, "a"), _hinted(2)], HERE, "12", id="one-hint-missing-disables"),
        pytest.param([_hinted(1, "b"), _hinted(2, "c")], HERE, "12", id="no-hint-for-this-zone"),
        pytest.param([_hinted(1, "a"), _hinted(2, "b")], NodeFacts("here"), "12", id="node-without-zone"),
        pytest.param([_hinted(1, "a", "here"), _hinted(2, "a", "there")], HERE, "1", id="same-node"),
        pytest.param(
            [_hinted(1, "b", "there"), _hinted(2, "a", "there")], HERE, "2", id="no-node-hint-here-then-zone"
        ),
        pytest.param(
            [_hinted(1, "a"), _hinted(2, "", ready=False, serving=False)],
            HERE,
            "1",
            id="unready-need-no-hint",
        ),
        pytest.param(
            [
                _hinted(1, "b", ready=False, terminating=True),
                _hinted(2, "a", ready=False, terminating=True),
            ],
            HERE,
            "12",
            id="draining-ignore-hints",
        ),
    ],
)
def test_hints(endpoints: list[Endpoint], node: NodeFacts, cluster: str) -> None:
    choice = choose(candidates([_slice(*endpoints)], "", L4Protocol.TCP, IPFamily.IPV4), node)
    assert "".join(_addresses(choice.cluster)) == cluster


def test_local_traffic_ignores_hints() -> None:
    far = _hinted(1, "b", "elsewhere")
    here = Endpoint(("10.0.0.2",), "here", zone_hints=("b",), node_hints=("elsewhere",))
    choice = choose(candidates([_slice(far, here)], "", L4Protocol.TCP, IPFamily.IPV4), HERE)
    assert _addresses(choice.local) == ["2"]


@pytest.mark.parametrize(
    ("slices", "found"),
    [
        pytest.param(
            [_slice(_ep("10.0.0.1"), ports=[EndpointPort(1, name="x")])], [], id="another-port-name"
        ),
        pytest.param(
            [_slice(_ep("10.0.0.1"), ports=[EndpointPort(1, L4Protocol.UDP)])], [], id="other-protocol"
        ),
        pytest.param([_slice(_ep("10.0.0.1"), ports=[EndpointPort(0)])], [], id="no-port-number"),
        pytest.param([_slice(_ep("fd00::1"), family=IPFamily.IPV6)], [], id="other-family"),
        pytest.param([_slice(_ep("10.0.0.1"), labels={HEADLESS_LABEL: ""})], [], id="headless-slice"),
        pytest.param([_slice(Endpoint(()))], [], id="no-address"),
        pytest.param([_slice(Endpoint(("10.0.0.1", "10.0.0.9")))], ["10.0.0.1"], id="first-address-only"),
        pytest.param(
            [_slice(_ep("10.0.0.1")), _slice(_ep("10.0.0.1"), name="s2")], ["10.0.0.1"], id="in-two-slices"
        ),
        pytest.param(
            [_slice(_ep("10.0.0.2"), _ep("10.0.0.1")), _slice(_ep("10.0.0.3"), name="s0")],
            ["10.0.0.1", "10.0.0.2", "10.0.0.3"],
            id="sorted",
        ),
    ],
)
def test_candidates(slices: list[EndpointSlice], found: list[str]) -> None:
    assert [b.address for b in _found(*slices)] == found


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["as-listed", "reversed"])
@pytest.mark.parametrize(
    ("copies", "kept"),
    [
        pytest.param(
            (READY_HERE, _ep("10.0.0.1", ready=False, terminating=True)), 0, id="not-terminating-wins"
        ),
        pytest.param((_ep("10.0.0.1", ready=False), READY_HERE), 1, id="ready-wins"),
        pytest.param((_ep("10.0.0.1", "n1"), _ep("10.0.0.1", "n2")), 0, id="first-slice-wins"),
    ],
)
def test_copies_that_disagree(copies: tuple[Endpoint, Endpoint], kept: int, order: tuple[int, int]) -> None:
    slices = [_slice(copies[0], name="s0"), _slice(copies[1], name="s1")]
    (only,) = candidates([slices[i] for i in order], "", L4Protocol.TCP, IPFamily.IPV4)
    assert only.endpoint == copies[kept]


def test_hairpin_addresses_are_those_that_may_be_here() -> None:
    nowhere = _ep("10.0.0.9", node="")
    choice = choose(
        candidates([_slice(READY_HERE, READY_THERE, nowhere)], "", L4Protocol.TCP, IPFamily.IPV4), HERE
    )
    assert choice.hairpin == ("10.0.0.1", "10.0.0.9")
