"""The relay passes everything on unchanged until it is told to misbehave, and then does exactly that."""

from __future__ import annotations

import http.client
import json
import threading
import time
import urllib.parse
from contextlib import closing

import pytest

from lbprov.lab.controlplane import Api, Asked, ControlPlane, Fault, Relay
from lbprov.lab.controlplane.objects import service

SERVICES = "/api/v1/services"


class Client:
    """A plain HTTP client of the relay, with the administrator's token."""

    def __init__(self, relay: Relay, kubeconfig: dict[str, object]) -> None:
        self._port = urllib.parse.urlsplit(relay.server).port
        users: list[dict[str, dict[str, str]]] = kubeconfig["users"]  # type: ignore[assignment]
        self._headers = {"Authorization": f"Bearer {users[0]['user']['token']}"}

    def ask(self, path: str, timeout_s: float = 10) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=timeout_s)
        connection.request("GET", path, headers=self._headers)
        return connection.getresponse()


@pytest.fixture
def client(relay: Relay, control_plane: ControlPlane) -> Client:
    return Client(relay, json.loads(control_plane.admin_kubeconfig.read_text()))


def test_requests_pass_unchanged_and_are_noted(api: Api, client: Client, relay: Relay) -> None:
    api.create(service("web"))
    with closing(client.ask(SERVICES)) as answer:
        assert answer.status == 200
        names = {item["metadata"]["name"] for item in json.load(answer)["items"]}
    assert "web" in names
    assert [(a.method, a.path, a.watch) for a in relay.asked()] == [("GET", SERVICES, False)]
    assert relay.asked(since_s=time.monotonic()) == []


def test_watches_stream_until_they_are_cut(api: Api, client: Client, relay: Relay) -> None:
    with closing(client.ask(f"{SERVICES}?watch=true")) as stream:
        api.create(service("web"))
        event = json.loads(stream.readline())
        while event["object"]["metadata"]["name"] != "web":
            event = json.loads(stream.readline())
        assert event["type"] == "ADDED"
        relay.cut()
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            stream.read()
    assert [a.watch for a in relay.asked()] == [True]


def test_refusals_carry_a_status_object_until_recovery(client: Client, relay: Relay) -> None:
    relay.break_down(Fault("refuse", status=429, reason="TooManyRequests", retry_after_s=7))
    with closing(client.ask(SERVICES)) as answer:
        assert (answer.status, answer.headers["Retry-After"]) == (429, "7")
        assert json.load(answer)["reason"] == "TooManyRequests"
    relay.recover()
    with closing(client.ask(SERVICES)) as answer:
        assert answer.status == 200


def test_only_the_chosen_requests_are_troubled(client: Client, relay: Relay) -> None:
    def nodes(asked: Asked) -> bool:
        return "/nodes" in asked.path

    relay.break_down(Fault("refuse", status=503, reason="ServiceUnavailable"), only=nodes)
    with closing(client.ask(SERVICES)) as services, closing(client.ask("/api/v1/nodes")) as refused:
        assert (services.status, refused.status) == (200, 503)


def test_gone_is_said_in_watches_and_not_to_lists(client: Client, relay: Relay) -> None:
    relay.break_down(Fault("gone"))
    with closing(client.ask(SERVICES)) as listing:
        assert json.load(listing)["kind"] == "ServiceList"
    with closing(client.ask(f"{SERVICES}?watch=1&resourceVersion=1")) as stream:
        event = json.loads(stream.read())
        assert (stream.status, event["type"]) == (200, "ERROR")
        assert (event["object"]["code"], event["object"]["reason"]) == (410, "Expired")


def test_hanging_requests_get_no_answer_and_end_at_recovery(client: Client, relay: Relay) -> None:
    relay.break_down(Fault("hang"))
    with pytest.raises(TimeoutError):
        client.ask(SERVICES, timeout_s=0.3)
    ended = threading.Event()

    def wait_for_the_end() -> None:
        with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
            client.ask(SERVICES)
        ended.set()

    waiting = threading.Thread(target=wait_for_the_end)
    waiting.start()
    assert not ended.wait(0.3)
    relay.recover()
    assert ended.wait(10)
    waiting.join()


def test_dropped_and_delayed(client: Client, relay: Relay) -> None:
    relay.break_down(Fault("drop"))
    with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
        client.ask(SERVICES)
    relay.break_down(Fault("delay", delay_s=0.4))
    begun_s = time.monotonic()
    with closing(client.ask(SERVICES)) as answer:
        assert answer.status == 200
    assert time.monotonic() - begun_s >= 0.4


def test_an_api_server_that_is_away_looks_away(
    client: Client, control_plane: ControlPlane, relay: Relay
) -> None:
    control_plane.apiserver.kill()
    with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
        client.ask(SERVICES)
