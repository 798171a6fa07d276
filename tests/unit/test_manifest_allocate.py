"""Allocation: no value twice, the same answer everywhere, nobody moved."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbprov.cluster.manifests.allocate import (
    Pool,
    Ranges,
    address_pool,
    allocate,
    claims,
    port_pool,
)
from lbprov.model import ObjectKey, UserError

RANGES = Ranges.parse(("10.96.0.0/26", "fd00::/122"), (30000, 30063))
WIDE = Ranges.parse(("10.96.0.0/12",), (30000, 32767))


def _spec(node_port: int = 0, ip: str = "", type_: str = "NodePort", ports: int = 1) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "type": type_,
        "ipFamilies": ["IPv4"],
        "ports": [{"name": f"p{i}", "port": 80 + i, "protocol": "TCP"} for i in range(ports)],
    }
    if node_port:
        spec["ports"][0]["nodePort"] = node_port
    if ip:
        spec |= {"clusterIP": ip, "clusterIPs": [ip]}
    return spec


def _key(n: int | str) -> ObjectKey:
    return ObjectKey("default", f"s{n}")


specs = st.builds(
    _spec,
    node_port=st.just(0) | st.integers(29998, 30066),
    ip=st.just("") | st.integers(0, 70).map(lambda n: f"10.96.0.{n}"),
    type_=st.sampled_from(["ClusterIP", "NodePort", "LoadBalancer"]),
    ports=st.integers(1, 3),
)
folders = st.dictionaries(st.integers(0, 40).map(_key), specs, max_size=30)


def _pairs(specs: dict[ObjectKey, dict[str, Any]]) -> list[tuple[str, int]]:
    return [(pool, number) for spec in specs.values() for pool, number, _ in claims(spec)]


@given(folders)
def test_nothing_twice_and_everybody_answered(wanted: dict[ObjectKey, dict[str, Any]]) -> None:
    result = allocate({}, wanted, RANGES)
    assert result.specs.keys() | result.refused.keys() == wanted.keys()
    assert not result.specs.keys() & result.refused.keys()
    pairs = _pairs(result.specs)
    assert len(pairs) == len(set(pairs))
    for key, spec in result.specs.items():
        asked = {(p, n) for p, n, _ in claims(wanted[key])}
        assert asked <= {(p, n) for p, n, _ in claims(spec)}
        assert spec["clusterIPs"]
        if spec["type"] != "ClusterIP":
            assert all(30000 <= port["nodePort"] <= 30063 for port in spec["ports"])


@given(folders, st.randoms(use_true_random=False))
def test_the_order_of_files_is_of_no_account(
    wanted: dict[ObjectKey, dict[str, Any]], order: random.Random
) -> None:
    items = list(wanted.items())
    order.shuffle(items)
    assert allocate({}, dict(items), RANGES) == allocate({}, wanted, RANGES)


@given(folders, folders)
def test_what_is_in_force_stays(
    first: dict[ObjectKey, dict[str, Any]], second: dict[ObjectKey, dict[str, Any]]
) -> None:
    in_force = allocate({}, first, RANGES).specs
    new = {k: v for k, v in second.items() if k not in in_force}
    result = allocate(in_force, new, RANGES)
    pairs = _pairs({**in_force, **result.specs})
    assert len(pairs) == len(set(pairs))
    again = allocate(in_force, dict(in_force), RANGES)
    assert again.specs == in_force
    assert again.refused == {}


@settings(max_examples=30)
@given(st.sets(st.integers(0, 2000), min_size=2, max_size=40))
def test_one_service_more_moves_no_other(numbers: set[int]) -> None:
    *others, one = sorted(numbers)
    without = allocate({}, {_key(n): _spec() for n in others}, WIDE).specs
    merged = allocate(without, {_key(one): _spec()}, WIDE).specs
    assert merged.keys() == {_key(one)}
    alone = allocate({}, {_key(one): _spec()}, WIDE).specs[_key(one)]
    taken = set(_pairs(without))
    if not taken & set(_pairs({_key(one): alone})):
        assert merged[_key(one)] == alone


def test_fixed_values_are_served_before_automatic_ones() -> None:
    automatic = allocate({}, {_key("a"): _spec()}, WIDE).specs[_key("a")]
    number, ip = automatic["ports"][0]["nodePort"], automatic["clusterIP"]
    result = allocate({}, {_key("a"): _spec(), _key("z"): _spec(number, ip)}, WIDE)
    assert result.refused == {}
    assert result.specs[_key("z")]["ports"][0]["nodePort"] == number
    assert result.specs[_key("a")]["ports"][0]["nodePort"] != number


def test_a_kept_automatic_value_is_not_taken_away() -> None:
    in_force = allocate({}, {_key("a"): _spec()}, WIDE).specs
    number = in_force[_key("a")]["ports"][0]["nodePort"]
    result = allocate(in_force, {_key("b"): _spec(number)}, WIDE)
    (finding,) = result.refused[_key("b")]
    assert finding.path == ("spec", "ports", 0, "nodePort")
    assert finding.message == f"{number} is taken by Service default/sa"


def test_a_node_port_is_one_service_s_whatever_the_protocol() -> None:
    udp = _spec(30001)
    udp["ports"][0]["protocol"] = "UDP"
    result = allocate({}, {_key("a"): _spec(30001), _key("b"): udp}, WIDE)
    assert result.refused.keys() == {_key("b")}


def test_two_services_can_swap() -> None:
    in_force = allocate({}, {_key("a"): _spec(30001), _key("b"): _spec(30002)}, WIDE).specs
    changes = {_key("a"): _spec(30002), _key("b"): _spec(30001)}
    assert allocate(in_force, changes, WIDE).refused == {}


def test_a_refused_change_keeps_what_it_had() -> None:
    in_force = allocate({}, {_key("a"): _spec(30001), _key("b"): _spec(30002)}, WIDE).specs
    # b wants what nobody can have, c wants what b would have given up.
    result = allocate(in_force, {_key("b"): _spec(40000), _key("c"): _spec(30002)}, WIDE)
    assert result.refused.keys() == {_key("b"), _key("c")}


def test_values_given_out_when_the_range_was_another_stay() -> None:
    old = {_key("a"): _spec(31000, "10.97.0.1")}
    result = allocate(old, {_key("a"): _spec(31000, "10.97.0.1")}, RANGES)
    assert result.refused.keys() == set()


def test_an_exhausted_range_is_told() -> None:
    result = allocate({}, {_key(n): _spec() for n in range(100)}, RANGES)
    assert len(result.specs) == 62  # a /26 without network and broadcast address
    assert {f.message for wrong in result.refused.values() for f in wrong} <= {
        "no IPv4 address of the service range is free",
        "no port of the nodePort range is free",
    }


@pytest.mark.parametrize(
    ("pool", "reserved", "size"),
    [
        pytest.param(address_pool(WIDE.networks[0]), 256, 2**20 - 2, id="ipv4-12"),
        pytest.param(address_pool(RANGES.networks[0]), 16, 62, id="ipv4-26"),
        pytest.param(address_pool(RANGES.networks[1]), 16, 63, id="ipv6-122"),
        pytest.param(port_pool((30000, 32767)), 86, 2768, id="ports"),
        pytest.param(port_pool((30000, 30007)), 0, 8, id="few-ports"),
    ],
)
def test_bands(pool: Pool, reserved: int, size: int) -> None:
    assert (pool.reserved, pool.last - pool.first + 1) == (reserved, size)


@given(st.lists(st.text(max_size=5), max_size=70))
def test_a_pool_gives_its_upper_band_first_then_all(seeds: list[str]) -> None:
    pool = port_pool((30000, 30063))
    for count, seed in enumerate(seeds):
        number = pool.pick(seed)
        if count >= 64:
            assert number is None
            continue
        assert number is not None
        assert number not in pool.holders
        assert (number >= 30016) == (count < 48)
        pool.holders[number] = _key(count)


@pytest.mark.parametrize(
    ("cidrs", "ports"),
    [
        pytest.param((), (1, 2), id="no-range"),
        pytest.param(("10.0.0.1/8",), (1, 2), id="host-bits"),
        pytest.param(("10.0.0.0/8", "11.0.0.0/8"), (1, 2), id="one-family-twice"),
        pytest.param(("10.0.0.0/31",), (1, 2), id="tiny"),
        pytest.param(("10.0.0.0/8",), (2, 1), id="ports-backwards"),
        pytest.param(("10.0.0.0/8",), (0, 1), id="port-0"),
    ],
)
def test_ranges_that_cannot_serve(cidrs: tuple[str, ...], ports: tuple[int, int]) -> None:
    with pytest.raises(UserError):
        Ranges.parse(cidrs, ports)
