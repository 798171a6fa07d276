"""Following a real API server through restarts, outages, proxies that misbehave, and history that is gone."""

from __future__ import annotations

import contextlib
import json
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lbprov.cluster.apiserver import ApiCluster
from lbprov.cluster.apiserver import feed as feed_module
from lbprov.cluster.apiserver.reflector import PATIENCE_S, SILENCE_S
from lbprov.lab.controlplane import Api, ControlPlane, Fault, Relay, eventually
from lbprov.lab.controlplane.objects import add_node, service
from lbprov.model import ObjectKey

OUTAGE_S = 5.0


def _compact(plane: ControlPlane) -> None:
    """Let etcd forget everything but the present."""
    argv = Path(f"/proc/{plane.etcd.pid}/cmdline").read_text().split("\0")
    (etcd,) = (a.partition("=")[2] for a in argv if a.startswith("--listen-client-urls="))

    def ask(path: str, body: object) -> Any:
        request = urllib.request.Request(etcd + path, json.dumps(body).encode())
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    revision = ask("/v3/kv/range", {"key": "AA=="})["header"]["revision"]
    ask("/v3/kv/compaction", {"revision": revision, "physical": True})


class _Followed:
    def __init__(self, cluster: ApiCluster, namespace: str) -> None:
        self.cluster = cluster
        self._namespace = namespace
        self.told: list[str] = []
        self._lock = threading.Lock()
        cluster.start(self._tell, lambda: None)
        assert cluster.wait_synced(60)

    def _tell(self, key: ObjectKey) -> None:
        if key.namespace == self._namespace:
            with self._lock:
                self.told.append(key.name)

    @property
    def names(self) -> list[str]:
        keys = self.cluster.services.keys()
        return sorted(key.name for key in keys if key.namespace == self._namespace)

    def count(self, what: str) -> int:
        return sum(getattr(r.counts, what) for r in self.cluster.reflectors)


@pytest.fixture
def plane(control_plane: ControlPlane, api: Api) -> ControlPlane:
    """Without its controllers, which would need a minute to be well again after what is done to the API
    server here; they are started again for the next test."""
    control_plane.controller_manager.kill()
    return control_plane


@pytest.fixture
def direct(api: Api, controller_kubeconfig: Path) -> Iterator[_Followed]:
    followed = _Followed(ApiCluster.connect(controller_kubeconfig, None, "test"), api.namespace)
    yield followed
    followed.cluster.stop()


@pytest.fixture
def relayed(api: Api, control_plane: ControlPlane, installed: str, relay: Relay) -> Iterator[_Followed]:
    path = control_plane.kubeconfig(installed, "lbprov-controller", relay.server)
    followed = _Followed(ApiCluster.connect(path, None, "test"), api.namespace)
    yield followed
    followed.cluster.stop()


def _make(api: Api, *names: str) -> None:
    for name in names:
        api.create(service(name))


def test_an_api_server_that_is_restarted(api: Api, plane: ControlPlane, direct: _Followed) -> None:
    """Its memory of the past is gone with it: the resumed watch may be told 410, and what was deleted in
    between must be noticed."""
    _make(api, "stays", "goes")
    eventually(lambda: direct.names == ["goes", "stays"])
    plane.apiserver.kill()
    time.sleep(3)
    assert direct.names == ["goes", "stays"], "state is kept"
    plane.apiserver.start()
    plane.wait_ready()
    api.delete("Service", "goes")
    _make(api, "comes")
    eventually(lambda: direct.names == ["comes", "stays"])
    assert sorted(direct.told) == ["comes", "goes", "goes", "stays"], "each change once"


def test_deletions_that_were_missed(api: Api, plane: ControlPlane, relay: Relay, relayed: _Followed) -> None:
    """Cut off while the API server is restarted: what the watch would resume from is history (410)."""
    _make(api, "stays", "goes")
    eventually(lambda: relayed.names == ["goes", "stays"])
    relay.break_down(Fault("drop"))
    api.delete("Service", "goes")
    _make(api, "comes")
    plane.apiserver.stop()
    plane.apiserver.start()
    plane.wait_ready()
    lists = relayed.count("lists")
    relay.recover()
    eventually(lambda: relayed.names == ["comes", "stays"])
    assert relayed.count("lists") > lists, "told 410"
    assert sorted(relayed.told) == ["comes", "goes", "goes", "stays"]


FAULTS = {
    "500": Fault("refuse", 500),
    "503": Fault("refuse", 503, retry_after_s=1),
    "429": Fault("refuse", 429, "TooManyRequests", retry_after_s=1),
    "410": Fault("refuse", 410, "Expired"),
    "410 in every stream": Fault("gone"),
    "never answers": Fault("hang"),
    "hangs up": Fault("drop"),
    "slow": Fault("delay", delay_s=2.0),
}


def test_outages(api: Api, control_plane: ControlPlane, installed: str) -> None:
    """All at once, each with a way of its own to the API server. Asked little, state kept, soon back."""
    _make(api, "stays", "goes")
    relays = {name: Relay(control_plane.server, control_plane.ca_pem) for name in FAULTS}
    paths = {
        name: control_plane.kubeconfig(installed, "lbprov-controller", relay.server)
        for name, relay in relays.items()
    }
    with contextlib.ExitStack() as stack:
        followed = {}
        for name, relay in relays.items():
            stack.enter_context(relay)
            cluster = ApiCluster.connect(paths[name], None, "test")
            followed[name] = _Followed(cluster, api.namespace)
            stack.callback(cluster.stop)
        assert {n: f.names for n, f in followed.items()} == {name: ["goes", "stays"] for name in FAULTS}
        began_s = time.monotonic()
        for name, relay in relays.items():
            relay.break_down(FAULTS[name])
        api.delete("Service", "goes")
        _make(api, "comes")
        eventually(lambda: all(len(relay.asked(began_s)) >= 2 for relay in relays.values()))
        time.sleep(OUTAGE_S)
        asked = {name: len(relay.asked(began_s)) for name, relay in relays.items()}
        # Two reflectors, in their first seconds, when pauses are shortest.
        most = 8 + (time.monotonic() - began_s)
        assert {name: count for name, count in asked.items() if count > most} == {}
        deaf = {n: f.names for n, f in followed.items() if n not in ("slow", "410 in every stream")}
        assert deaf == {name: ["goes", "stays"] for name in deaf}
        for relay in relays.values():
            relay.recover()
        right = {name: ["comes", "stays"] for name in FAULTS}
        eventually(lambda: {n: f.names for n, f in followed.items()} == right)
        told = {n: sorted(f.told) for n, f in followed.items()}
        assert told == {name: ["comes", "goes", "goes", "stays"] for name in FAULTS}, "each change once"


def test_a_list_whose_next_page_is_compacted_away(
    api: Api, plane: ControlPlane, controller_kubeconfig: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "PAGE_ITEMS", 3)
    _make(api, *(f"s{n}" for n in range(7)))
    cluster = ApiCluster.connect(controller_kubeconfig, None, "test")
    asked: list[Any] = []
    request = cluster.transport.request

    def between_pages(method: str, path: str, **details: Any) -> bytes:
        asked.append(details.get("params", {}))
        if "continue" in asked[-1]:
            api.delete("Service", "s0")
            plane.apiserver.stop()  # with its cache goes what it could have answered the token from
            _compact(plane)
            plane.apiserver.start()
            plane.wait_ready()
            cluster.transport.request = request  # type: ignore[method-assign]
        return request(method, path, **details)

    cluster.transport.request = between_pages  # type: ignore[method-assign]
    names = [s.key.name for s in cluster.snapshot().services if s.key.namespace == api.namespace]
    assert names == [f"s{n}" for n in range(1, 7)]
    assert [sorted(params) for params in asked] == [["limit"], ["continue", "limit"]]
    assert cluster.reflectors[0].counts.failures == 1, "410: all anew, in one page"
    assert cluster.reflectors[0].counts.lists == 2


def test_a_proxy_that_cuts_streams_loses_nothing(api: Api, relay: Relay, relayed: _Followed) -> None:
    for n in range(12):
        _make(api, f"s{n:02}")
        if n % 3 == 0:
            relay.cut()
    names = [f"s{n:02}" for n in range(12)]
    eventually(lambda: relayed.names == names)
    assert sorted(relayed.told) == names
    assert relayed.count("lists") == 2, "resumed each time"


def test_a_frozen_api_server(api: Api, plane: ControlPlane, direct: _Followed) -> None:
    _make(api, "a")
    eventually(lambda: direct.names == ["a"])
    plane.apiserver.pause()
    time.sleep(3)
    assert direct.names == ["a"]
    plane.apiserver.resume()
    plane.wait_ready()
    _make(api, "b")
    eventually(lambda: direct.names == ["a", "b"])


def test_nodes_and_services_are_followed_apart(api: Api, relay: Relay, relayed: _Followed) -> None:
    """What is wrong with one kind (a right that is missing) delays the other not at all."""
    relay.break_down(Fault("refuse", 403, "Forbidden"), lambda asked: "/nodes" in asked.path)
    time.sleep(2)
    add_node(api, "n1")
    _make(api, "a")
    eventually(lambda: relayed.names == ["a"])
    assert relayed.cluster.nodes.get("n1") is None
    relay.recover()
    eventually(lambda: relayed.cluster.nodes.get("n1"))


def test_stop_cuts_an_encrypted_watch(direct: _Followed) -> None:
    direct.cluster.stop()
    for thread in threading.enumerate():
        if thread.name.startswith("reflector-"):
            thread.join(SILENCE_S / 2)
    assert not any(t.name.startswith("reflector-") for t in threading.enumerate())


def test_stop_is_at_once_whatever_the_server_does(relay: Relay, relayed: _Followed) -> None:
    began_s = time.monotonic()
    relay.break_down(Fault("hang"))
    eventually(lambda: relay.asked(began_s))
    began_s = time.monotonic()
    relayed.cluster.stop()
    assert time.monotonic() - began_s < PATIENCE_S / 2
