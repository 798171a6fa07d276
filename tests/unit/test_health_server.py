"""The health server over real sockets of 127.0.0.1."""

import http.client
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from lbprov.observe import health
from lbprov.observe.health import HealthServer, Pulse, parse_address


@dataclass
class _Served:
    """`wrong`: what the checks say."""

    wrong: dict[str, str] = field(default_factory=lambda: {"workers": "", "caches": "not complete"})
    server: HealthServer = field(init=False)

    def __post_init__(self) -> None:
        self.server = HealthServer(
            ("127.0.0.1", 0),
            healthy={"workers": lambda: self.wrong["workers"]},
            ready={"workers": lambda: self.wrong["workers"], "caches": lambda: self.wrong["caches"]},
            exposition=lambda accept: (f"accepts {accept}".encode(), "text/x-test"),
        )

    def get(self, path: str, accept: str = "") -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=10)
        try:
            connection.request("GET", path, headers={"Accept": accept})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()


@pytest.fixture
def served() -> Iterator[_Served]:
    served = _Served()
    served.server.start()
    yield served
    served.server.stop()


def test_each_page_says_which_check_fails(served: _Served) -> None:
    assert served.get("/healthz") == (200, "[+] workers\n")
    assert served.get("/readyz?verbose") == (503, "[+] workers\n[-] caches: not complete\n")
    served.wrong |= {"workers": "1 of 4 died", "caches": ""}
    assert served.get("/healthz") == (503, "[-] workers: 1 of 4 died\n")
    assert served.get("/metrics", "application/x") == (200, "accepts application/x")
    assert served.get("/") == (404, "There are /healthz, /readyz and /metrics.\n")


def test_a_check_that_breaks_is_a_failed_check(served: _Served) -> None:
    del served.wrong["workers"]
    status, body = served.get("/healthz")
    assert status == 503
    assert "the check itself failed: KeyError" in body


def test_whoever_opens_connections_and_says_nothing_shuts_out_nobody(
    served: _Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health._Handler, "timeout", 0.3)
    silent = [socket.create_connection(("127.0.0.1", served.server.port)) for _ in range(health.CONNECTIONS)]
    deadline = time.monotonic() + 60
    status = 0
    while status != 200 and time.monotonic() < deadline:
        try:
            status, _ = served.get("/healthz")
        except OSError:  # hung up on: all places are taken until the silent ones time out
            time.sleep(0.05)
    for connection in silent:
        connection.close()
    assert status == 200


def test_a_taken_port_is_an_error_at_once(served: _Served) -> None:
    with pytest.raises(OSError, match="in use"):
        HealthServer(("127.0.0.1", served.server.port), {}, {}, lambda _: (b"", ""))


def test_no_host_is_every_address() -> None:
    server = HealthServer(("", 0), {}, {}, lambda _: (b"", ""))
    server.start()
    try:
        hosts = ["127.0.0.1", "::1"] if socket.has_dualstack_ipv6() else ["127.0.0.1"]
        for host in hosts:
            connection = http.client.HTTPConnection(host, server.port, timeout=10)
            connection.request("GET", "/healthz")
            assert connection.getresponse().status == 200
            connection.close()
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("text", "address"),
    [
        pytest.param(":8080", ("", 8080), id="every-address"),
        pytest.param("127.0.0.1:9", ("127.0.0.1", 9), id="ipv4"),
        pytest.param("[::1]:65535", ("::1", 65535), id="ipv6"),
    ],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["8080", ":", ":http", ":65536", "localhost:80", "host:80", "::1:x", ""])
def test_what_is_no_address_says_what_is_allowed(text: str) -> None:
    with pytest.raises(ValueError, match=r"give \[HOST\]:PORT"):
        parse_address(text)


def test_pulse_names_who_is_silent() -> None:
    now_s = 0.0
    pulse = Pulse(lambda: now_s)
    pulse.beat("nodes", 5)
    pulse.beat("elector", 60)
    now_s = 5.0
    assert pulse.check() == ""
    now_s = 6.0
    assert pulse.check() == "nodes silent for 6 s"
    pulse.beat("nodes", 5)
    assert pulse.check() == ""
    now_s = 100.0
    assert pulse.check() == "nodes silent for 94 s, elector silent for 100 s"
    pulse.end("nodes")
    pulse.end("elector")
    assert pulse.check() == ""
