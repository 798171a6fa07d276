"""Many ports, one thread: answers, limits, and health checks that come and go. On loopback, for real."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from lbprov.model import (
    Endpoint,
    EndpointPort,
    EndpointSlice,
    IPFamily,
    ObjectKey,
    Service,
    ServicePort,
    ServiceType,
    TrafficPolicy,
)
from local_dataplane import health_checks as health_checks_module
from local_dataplane import http_ports as http_ports_module
from local_dataplane.health_checks import HealthChecks
from local_dataplane.http_ports import Answer, HttpPorts
from local_dataplane.source import Backing, Changes

LOOPBACK = "127.0.0.1"


@pytest.fixture
def ports() -> Iterator[HttpPorts]:
    one = HttpPorts()
    one.start()
    yield one
    one.stop()


def _port(ports: HttpPorts, name: object = "a") -> int:
    (port,) = ports.ports(name)
    return port


def _get(port: int, path: str = "/", method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=30)
    with contextlib.closing(connection):
        connection.request(method, path, headers={"Accept": "text/x"})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()


def _echo(path: str, accept: str) -> Answer:
    return Answer(200, f"{path} {accept}".encode(), headers=(("X-Own", "1"),))


def test_answers_and_closes(ports: HttpPorts) -> None:
    ports.open("a", [(LOOPBACK, 0)], _echo)
    (port,) = ports.ports("a")
    status, headers, body = _get(port, "/x?y=1")
    assert (status, headers["X-Own"], headers["Connection"], body) == (200, "1", "close", b"/x text/x")
    assert _get(port, method="HEAD")[2] == b""
    ports.close("a")
    with pytest.raises(ConnectionRefusedError):
        _get(port)
    ports.open("b", [(LOOPBACK, port)], _echo)  # free at once
    assert _get(port)[0] == 200


def test_all_addresses_or_none(ports: HttpPorts) -> None:
    ports.open("a", [(LOOPBACK, 0)], _echo)
    (taken,) = ports.ports("a")
    with socket.create_server((LOOPBACK, 0)) as probe:
        free = probe.getsockname()[1]
    with pytest.raises(OSError, match="in use"):
        ports.open("b", [(LOOPBACK, free), (LOOPBACK, taken)], _echo)
    assert not ports.is_open("b")
    with pytest.raises(ConnectionRefusedError):
        _get(free)


def test_a_large_answer_to_a_slow_reader_holds_nobody_up(ports: HttpPorts) -> None:
    large = b"x" * 20_000_000
    ports.open("large", [(LOOPBACK, 0)], lambda _path, _accept: Answer(200, large))
    ports.open("small", [(LOOPBACK, 0)], _echo)
    with socket.create_connection((LOOPBACK, _port(ports, "large"))) as slow:
        slow.settimeout(30)
        slow.sendall(b"GET / HTTP/1.1\r\n\r\n")
        begun = slow.recv(100)
        assert _get(_port(ports, "small"))[0] == 200
        received = len(begun)
        while chunk := slow.recv(1 << 20):
            received += len(chunk)
    assert received > len(large)


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        pytest.param(b"\r\n\r\n", b"HTTP/1.1 400", id="nothing"),
        pytest.param(b"\x16\x03\x01\r\n\r\n", b"HTTP/1.1 400", id="TLS"),
        pytest.param(b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 10_000, b"", id="no end"),
    ],
)
def test_garbage(ports: HttpPorts, sent: bytes, expected: bytes) -> None:
    ports.open("a", [(LOOPBACK, 0)], _echo)
    with socket.create_connection((LOOPBACK, _port(ports))) as client:
        client.settimeout(30)
        with contextlib.suppress(ConnectionError):
            client.sendall(sent)
        answer = b""
        with contextlib.suppress(ConnectionError):
            answer = client.recv(1000)
    assert answer.startswith(expected)
    assert _get(_port(ports))[0] == 200


def test_whoever_says_nothing_is_hung_up_on(monkeypatch: pytest.MonkeyPatch, ports: HttpPorts) -> None:
    ports.open("a", [(LOOPBACK, 0)], _echo)
    monkeypatch.setattr(http_ports_module, "PATIENCE_S", 0.1)
    with socket.create_connection((LOOPBACK, _port(ports))) as silent:
        silent.settimeout(30)
        assert silent.recv(10) == b""


def test_those_who_say_nothing_take_nobodys_place(monkeypatch: pytest.MonkeyPatch, ports: HttpPorts) -> None:
    monkeypatch.setattr(http_ports_module, "MAX_CONNECTIONS", 3)
    monkeypatch.setattr(http_ports_module, "PATIENCE_S", 600.0)
    ports.open("a", [(LOOPBACK, 0)], _echo)
    silent = [socket.create_connection((LOOPBACK, _port(ports))) for _ in range(8)]
    assert _get(_port(ports))[0] == 200
    for client in silent[:5]:
        client.settimeout(30)
        assert client.recv(10) == b""
    for client in silent:
        client.close()


def test_a_bug_in_an_answer_is_said(ports: HttpPorts, caplog: pytest.LogCaptureFixture) -> None:
    def broken(_path: str, _accept: str) -> Answer:
        raise RuntimeError("a bug")

    ports.open("a", [(LOOPBACK, 0)], broken)
    assert _get(_port(ports))[0] == 500
    assert "a bug in an answer" in caplog.text


# ── health checks ──

WEB, API = ObjectKey("shop", "web"), ObjectKey("shop", "api")


def _backing(key: ObjectKey, port: int, *nodes: str) -> Backing:
    service = Service(
        key,
        "u",
        type=ServiceType.LOAD_BALANCER,
        ports=(ServicePort(80),),
        cluster_ips=("10.96.0.1",),
        external_traffic_policy=TrafficPolicy.LOCAL,
        health_check_node_port=port,
    )
    endpoints = tuple(Endpoint((f"10.244.1.{i}",), node_name=node) for i, node in enumerate(nodes, 2))
    return Backing(service, (EndpointSlice(key, key.name, IPFamily.IPV4, (EndpointPort(80),), endpoints),))


@pytest.fixture
def free_port() -> Callable[[], int]:
    def find() -> int:
        with socket.create_server((LOOPBACK, 0)) as probe:
            port: int = probe.getsockname()[1]
            return port

    return find


def test_health_checks_come_and_go(ports: HttpPorts, free_port: Callable[[], int]) -> None:
    healthy = [True]
    checks = HealthChecks(ports, "node-1", lambda: healthy[0], addresses=lambda _family: (LOOPBACK,))
    web, api, moved = free_port(), free_port(), free_port()
    checks.learn(
        Changes({WEB: _backing(WEB, web, "node-1"), API: _backing(API, api, "node-2")}, complete=True)
    )
    assert (_get(web)[0], _get(api)[0]) == (200, 503)
    healthy[0] = False
    assert _get(web)[0] == 503
    healthy[0] = True
    checks.learn(Changes({API: _backing(API, api, "node-2", "node-1", "node-1")}))
    status, headers, body = _get(api)
    assert (status, headers["X-Load-Balancing-Endpoint-Weight"]) == (200, "2")
    assert b'"localEndpoints": 2' in body
    checks.learn(Changes({WEB: _backing(WEB, moved, "node-1")}))
    with pytest.raises(ConnectionRefusedError):
        _get(web)
    assert _get(moved)[0] == 200
    checks.learn(Changes({API: None}))
    with pytest.raises(ConnectionRefusedError):
        _get(api)
    checks.learn(Changes({}, complete=True))
    with pytest.raises(ConnectionRefusedError):
        _get(moved)


def test_a_port_that_is_taken_is_said_once_and_tried_again(
    ports: HttpPorts, monkeypatch: pytest.MonkeyPatch, free_port: Callable[[], int]
) -> None:
    monkeypatch.setattr(health_checks_module, "RETRY_S", 0.0)
    troubles: list[tuple[ObjectKey, str]] = []
    checks = HealthChecks(
        ports,
        "node-1",
        on_trouble=lambda key, why: troubles.append((key, why)),
        addresses=lambda _family: (LOOPBACK,),
    )
    other = free_port()
    with socket.create_server((LOOPBACK, 0)) as thief:
        taken = thief.getsockname()[1]
        checks.learn(Changes({WEB: _backing(WEB, taken, "node-1"), API: _backing(API, other, "node-1")}))
        assert _get(other)[0] == 200, "others go on"
        checks.tend()
        checks.tend()
        assert troubles == [(WEB, f"IPv4 port {taken} cannot be opened: Address already in use")]
    checks.tend()
    assert _get(taken)[0] == 200


def test_hundreds_of_ports_and_one_thread(ports: HttpPorts) -> None:
    before = threading.active_count()
    for number in range(300):
        ports.open(number, [(LOOPBACK, 0)], lambda path, _accept: Answer(200, path.encode()))
    assert threading.active_count() == before
    for number in range(0, 300, 50):
        assert _get(_port(ports, number), f"/{number}")[2] == f"/{number}".encode()
