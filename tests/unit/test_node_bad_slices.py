"""Slices that an old API server may have stored: what is unusable is left out, alone."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv6Address

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbprov.cluster.wire import is_dotted_quad
from lbprov.model import EndpointSlice
from local_dataplane.api_source import ENDPOINT_SLICES, SERVICES


def _decoded(family: str, *endpoints: object, **fields: object) -> EndpointSlice | None:
    obj = {
        "metadata": {"namespace": "shop", "name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": family,
        "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
        "endpoints": endpoints,
        **fields,
    }
    return ENDPOINT_SLICES.decode(msgspec.Raw(json.dumps(obj).encode()))


@pytest.mark.parametrize(
    ("family", "address"),
    [
        pytest.param("IPv4", "web.example.com", id="a name"),
        pytest.param("IPv4", "fd00::1", id="of the other family"),
        pytest.param("IPv6", "10.244.1.2", id="of the other family, IPv6"),
        pytest.param("IPv4", "127.0.0.1", id="loopback"),
        pytest.param("IPv6", "::1", id="loopback, IPv6"),
        pytest.param("IPv4", "0.0.0.0", id="nothing"),
        pytest.param("IPv4", "169.254.169.254", id="link-local: a cloud's metadata service"),
        pytest.param("IPv4", "224.0.0.1", id="multicast"),
        pytest.param("IPv4", "10.244.1.2; -j ACCEPT", id="a rule"),
        pytest.param("IPv4", "", id="empty"),
    ],
)
def test_one_unusable_endpoint(family: str, address: str, caplog: pytest.LogCaptureFixture) -> None:
    good = "10.244.1.9" if family == "IPv4" else "fd00::9"
    slice_ = _decoded(family, {"addresses": [address]}, {"addresses": [good, "ignored"]}, {"addresses": []})
    assert slice_ is not None
    assert [e.addresses for e in slice_.endpoints] == [(good,)]
    assert "without a usable address" in caplog.text
    assert (vars(caplog.records[0])["slice"], vars(caplog.records[0])["count"]) == ("shop/web-1", 2)


@given(address=st.ip_addresses())
def test_what_is_usable_is_what_python_says_of_an_address(address: IPv4Address | IPv6Address) -> None:
    slice_ = _decoded(f"IPv{address.version}", {"addresses": [str(address)]})
    assert slice_ is not None
    nowhere = address.is_loopback or address.is_unspecified or address.is_multicast or address.is_link_local
    assert [e.addresses for e in slice_.endpoints] == ([] if nowhere else [(str(address),)])


@given(
    text=st.from_regex(r"[0-9]{1,4}(\.[0-9]{1,3}){2,4}\n?", fullmatch=True) | st.ip_addresses(v=4).map(str)
)
def test_an_address_that_is_taken_as_written_is_one(text: str) -> None:
    try:
        IPv4Address(text)
    except ValueError:
        assert not is_dotted_quad(text)
    else:
        assert is_dotted_quad(text)


def test_names_are_nobodys_endpoints() -> None:
    assert _decoded("FQDN", {"addresses": ["web.example.com"]}) is None


@pytest.mark.parametrize(
    "ports",
    [
        pytest.param(None, id="null"),
        pytest.param([], id="none"),
        pytest.param([{"name": "http"}], id="without a number"),
        pytest.param([{"name": "http", "port": 0}], id="zero"),
    ],
)
def test_no_ports(ports: object) -> None:
    slice_ = _decoded("IPv4", {"addresses": ["10.244.1.2"]}, ports=ports)
    assert slice_ is not None
    assert slice_.ports == ()


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"addressType": "IPv5"}, id="family"),
        pytest.param({"ports": [{"name": "http", "port": 80, "protocol": "QUIC"}]}, id="protocol"),
        pytest.param({"endpoints": "many"}, id="type"),
    ],
)
def test_what_cannot_be_read_is_an_error_of_that_object(fields: dict[str, object]) -> None:
    """The reflector leaves the object as it was known, counts it and names it."""
    with pytest.raises((msgspec.DecodeError, ValueError)):
        _decoded("IPv4", **fields)


def test_a_service_keeps_what_forwarding_needs() -> None:
    obj = {
        "metadata": {"namespace": "shop", "name": "web", "uid": "u", "annotations": {"a": "b"}},
        "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}], "selector": {"a": "b"}},
        "status": {"conditions": [{"type": "x", "status": "True"}]},
    }
    service = SERVICES.decode(msgspec.Raw(json.dumps(obj).encode()))
    assert service is not None
    assert (service.uid, service.cluster_ips, service.annotations, service.conditions) == (
        "u",
        ("10.96.0.1",),
        {},
        (),
    )
