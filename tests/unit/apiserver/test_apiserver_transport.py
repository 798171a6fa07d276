"""Everything an HTTP server can do to a request, and what the caller is told."""

from __future__ import annotations

import gzip
import itertools
import json
import logging
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lbprov.cluster.apiserver.credentials import Place
from lbprov.cluster.apiserver.errors import (
    ApiError,
    Conflict,
    Denied,
    Gone,
    NotFound,
    Unavailable,
    Untrusted,
)
from lbprov.cluster.apiserver.outage import APART_S, FRESH_S, LONG_ENOUGH_S, SILENT_AFTER_S, Outage
from lbprov.cluster.apiserver.transport import MERGE_PATCH, Transport
from lbprov.model import UserError

if TYPE_CHECKING:
    from tests.unit.apiserver.conftest import Call, ScriptedServer

FORBIDDEN = (
    'services "web" is forbidden: User "system:serviceaccount:lbprov:x" cannot patch resource "services"'
)


@pytest.mark.parametrize(
    ("status", "kind", "retryable", "says"),
    [
        pytest.param(400, ApiError, False, "said so", id="400"),
        pytest.param(401, Denied, True, "renew the kubeconfig", id="401"),
        pytest.param(403, Denied, False, "RBAC", id="403"),
        pytest.param(404, NotFound, True, "said so", id="404"),
        pytest.param(409, Conflict, True, "said so", id="409"),
        pytest.param(410, Gone, True, "said so", id="410"),
        pytest.param(422, ApiError, False, "said so", id="422"),
    ],
)
def test_refusals(
    server: ScriptedServer,
    transport: Transport,
    status: int,
    kind: type[ApiError],
    retryable: bool,
    says: str,
) -> None:
    server.script = lambda call: call.refuse(status, "said so")
    with pytest.raises(kind) as caught:
        transport.request("PATCH", "/api/v1/namespaces/a/services/b", body={})
    assert type(caught.value) is kind
    assert caught.value.status == status
    assert caught.value.retryable is retryable
    assert "PATCH /api/v1/namespaces/a/services/b: said so" in str(caught.value)
    assert says in str(caught.value)


def test_what_rbac_lacks_is_named(server: ScriptedServer, transport: Transport) -> None:
    server.script = lambda call: call.refuse(403, FORBIDDEN)
    with pytest.raises(Denied, match=r'cannot patch resource "services".*RBAC'):
        transport.request("GET", "/x")


def test_an_anonymous_refusal_blames_the_credentials(server: ScriptedServer, transport: Transport) -> None:
    server.script = lambda call: call.refuse(403, 'User "system:anonymous" cannot list resource "nodes"')
    with pytest.raises(Denied, match="no credentials were sent"):
        transport.request("GET", "/x")


@pytest.mark.parametrize(
    ("status", "headers", "asked_s", "after_s"),
    [
        pytest.param(429, {"Retry_After": "7"}, 7.0, 7.0, id="429 with Retry-After"),
        pytest.param(429, {}, 0.0, 5.0, id="429"),
        pytest.param(500, {}, 0.0, 5.0, id="500"),
        pytest.param(503, {"Retry_After": "100000"}, 30.0, 30.0, id="for ever"),
        pytest.param(503, {"Retry_After": "Wed, 21 Oct 2026 07:28:00 GMT"}, 0.0, 5.0, id="a date"),
        pytest.param(504, {"Retry_After": "-3"}, 0.0, 5.0, id="negative"),
    ],
)
def test_not_now(
    server: ScriptedServer,
    transport: Transport,
    status: int,
    headers: dict[str, str],
    asked_s: float,
    after_s: float,
) -> None:
    server.script = lambda call: call.refuse(status, "overloaded", **headers)
    with pytest.raises(Unavailable, match="overloaded") as caught:
        transport.request("GET", "/x")
    assert (caught.value.asked_s, caught.value.after_s) == (asked_s, after_s)
    assert caught.value.answered


@pytest.mark.parametrize("sends", [pytest.param("whole", id="whole"), pytest.param("chunks", id="in chunks")])
def test_a_list_may_come_compressed(server: ScriptedServer, transport: Transport, sends: str) -> None:
    body = json.dumps({"items": [{"n": n} for n in range(20_000)]}).encode()
    packed = gzip.compress(body)
    parts = [packed[i : i + 100] for i in range(0, len(packed), 100)]
    server.script = lambda call: (
        call.say(packed, Content_Encoding="gzip")
        if sends == "whole"
        else call.stream(parts, Content_Encoding="gzip")
    )
    assert transport.request("GET", "/x") == body
    assert server.calls[0].headers["accept-encoding"] == "gzip"


def test_half_of_a_compressed_list_is_no_answer(server: ScriptedServer, transport: Transport) -> None:
    packed = gzip.compress(json.dumps([n * n for n in range(20_000)]).encode())
    server.script = lambda call: call.stream([packed[:1000]], end=False, Content_Encoding="gzip")
    with pytest.raises(Unavailable):
        transport.request("GET", "/x")


def test_a_watch_is_not_asked_for_in_a_form_that_gathers(
    server: ScriptedServer, transport: Transport
) -> None:
    server.script = lambda call: call.stream([b"{}\n"])
    params = {"watch": "true"}
    with transport.stream("/x", params, answer_timeout_s=30.0, silence_s=30.0) as stream:
        assert list(stream.lines()) == [b"{}"]
    assert server.calls[0].headers["accept-encoding"] == "identity"


def test_a_proxys_page_is_quoted_in_a_line(server: ScriptedServer, transport: Transport) -> None:
    server.script = lambda call: call.say(b"<h1>Bad Gateway</h1>\n<p>more</p>", 502)
    with pytest.raises(Unavailable, match=r"^GET /x: <h1>Bad Gateway</h1> \(HTTP 502\)$"):
        transport.request("GET", "/x")


def test_an_answer_is_bytes_and_the_request_is_told(server: ScriptedServer, transport: Transport) -> None:
    server.script = lambda call: call.say({"ok": True})
    answer = transport.request(
        "PATCH", "/x", params={"a": "b c&d", "n": 1}, body={"k": "é"}, content_type=MERGE_PATCH
    )
    assert json.loads(answer) == {"ok": True}
    (call,) = server.calls
    assert (call.method, call.path, call.params) == ("PATCH", "/x", {"a": "b c&d", "n": "1"})
    assert json.loads(call.body) == {"k": "é"}
    assert call.headers["content-type"] == MERGE_PATCH
    assert call.headers["authorization"] == "Bearer secret-token"
    assert call.headers["user-agent"].startswith("lbprov/")


def test_connections_are_kept(server: ScriptedServer, transport: Transport) -> None:
    server.script = lambda call: call.say({}) if call.path == "/a" else call.stream([b"{", b"}"])
    for path in ("/a", "/b", "/a", "/b", "/a"):
        transport.request("GET", path)
    assert len(server.connections) == 1


def test_refused_connections_are_tried_once(server: ScriptedServer, transport: Transport) -> None:
    server.down()
    with pytest.raises(Unavailable, match="Connection refused") as caught:
        transport.request("GET", "/x")
    assert not caught.value.answered
    assert not server.calls


def test_no_answer_in_time(server: ScriptedServer, transport: Transport) -> None:
    server.script = lambda call: call.hang()
    began_s = time.monotonic()
    with pytest.raises(Unavailable, match="no answer in time") as caught:
        transport.request("GET", "/x", timeout_s=0.3)
    assert caught.value.timed_out
    assert time.monotonic() - began_s < 30, "not when the server gives up, in a minute"


def test_a_dripping_answer_ends_in_time(server: ScriptedServer, transport: Transport) -> None:
    def drip(call: Call) -> None:
        call.stream(b" " for _ in iter(lambda: call.ending.wait(0.05), True))

    server.script = drip
    with pytest.raises(Unavailable, match="no answer in time"):
        transport.request("GET", "/x", timeout_s=0.3, body_timeout_s=0.5)


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(lambda call: call.cut(), id="no answer at all"),
        pytest.param(lambda call: call.stream([b"{"], end=False), id="in a chunk"),
        pytest.param(
            lambda call: (call.say(b"{", Content_Length="100"), call.cut()), id="shorter than it says"
        ),
        pytest.param(lambda call: call.handler.wfile.write(b"garbage\r\n\r\n"), id="not HTTP"),
    ],
)
def test_cut_answers(server: ScriptedServer, transport: Transport, script: Callable[[Call], Any]) -> None:
    server.script = script
    with pytest.raises(Unavailable):
        transport.request("GET", "/x")


def test_a_host_that_does_not_exist(tmp_path: Path) -> None:
    transport = _transport_to(tmp_path, {"server": "http://no-such-host.invalid:1"})
    with pytest.raises(Unavailable, match="GET /x"):
        transport.request("GET", "/x")


def _transport_to(tmp_path: Path, cluster: dict[str, str], user: dict[str, Any] | None = None) -> Transport:
    path = tmp_path / "config"
    path.write_text(
        json.dumps(
            {
                "current-context": "c",
                "clusters": [{"name": "c", "cluster": cluster}],
                "users": [{"name": "c", "user": user or {}}],
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
            }
        )
    )
    return Transport(Place(str(path)))


def test_a_certificate_that_nobody_vouches_for(tmp_path: Path) -> None:
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        [
            *(
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
            ),
            *("-keyout", key, "-out", cert, "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        for _ in range(2):
            peer, _ = listener.accept()
            try:
                with context.wrap_socket(peer, server_side=True) as tls:
                    tls.recv(4096)
                    tls.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
            except OSError:
                peer.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    url = f"https://127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(Untrusted, match="not vouched for by kubeconfig"):
        _transport_to(tmp_path, {"server": url}).request("GET", "/x")
    trusting = _transport_to(tmp_path, {"server": url, "certificate-authority": str(cert)})
    assert trusting.request("GET", "/x") == b"{}"
    thread.join(5)
    listener.close()


# Credentials


def test_in_cluster_tokens_rotate(
    server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kubelet exchanges the file; a revoked token is noticed by a 401 before the minute is over."""
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.port))
    (tmp_path / "token").write_text("first")
    (tmp_path / "ca.crt").write_text("unused: the base URL is made http below")
    (tmp_path / "namespace").write_text("lbprov-system\n")
    place = Place.find(None, None, tmp_path)
    assert place.in_cluster
    monkeypatch.setattr("ssl.SSLContext.load_verify_locations", lambda *args, **kwargs: None)
    transport = Transport(place)
    assert transport.namespace == "lbprov-system"
    assert transport.server == f"https://127.0.0.1:{server.port}"
    assert transport._credentials.current()[2] == {"authorization": "bearer first"}
    (tmp_path / "token").write_text("second\n")
    transport._credentials.reload()
    assert transport._credentials.current()[2] == {"authorization": "bearer second"}


def test_a_401_is_answered_by_reading_the_credentials_anew_once(
    server: ScriptedServer, transport: Transport, kubeconfig: Path
) -> None:
    def script(call: Call) -> None:
        if call.headers["authorization"] == "Bearer renewed":
            call.say({})
        else:
            call.refuse(401, "Unauthorized")

    server.script = script
    kubeconfig.write_text(kubeconfig.read_text().replace("secret-token", "renewed"))
    assert transport.request("GET", "/x") == b"{}"
    assert len(server.calls) == 2
    kubeconfig.write_text(kubeconfig.read_text().replace("renewed", "revoked"))
    server.script = lambda call: call.refuse(401, "Unauthorized")
    for _ in range(3):
        with pytest.raises(Denied):
            transport.request("GET", "/x")
    assert len(server.calls) == 5, "files and plugins are not asked for every 401"


def test_a_plugin_gives_the_token(server: ScriptedServer, tmp_path: Path) -> None:
    plugin = tmp_path / "plugin.py"
    plugin.write_text(
        "import json; print(json.dumps({'apiVersion': 'client.authentication.k8s.io/v1',"
        "'kind': 'ExecCredential', 'status': {'token': 'from-plugin'}}))"
    )
    command = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": sys.executable,
        "args": [str(plugin)],
        "interactiveMode": "Never",
    }
    server.script = lambda call: call.say({})
    _transport_to(tmp_path, {"server": server.url}, {"exec": command}).request("GET", "/x")
    assert server.calls[0].headers["authorization"] == "Bearer from-plugin"


def test_secrets_are_in_no_error_and_no_log(
    server: ScriptedServer, transport: Transport, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server.script = lambda call: call.refuse(401, "Unauthorized")
    with pytest.raises(Denied) as caught:
        transport.request("GET", "/x")
    assert "Authorization" not in caplog.text
    server.down()
    with pytest.raises(Unavailable) as away:
        transport.request("GET", "/x")
    for text in (caplog.text, str(caught.value), str(away.value), repr(away.value.__cause__)):
        assert "secret-token" not in text


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("users: [{name: u, token: hidden}]", id="a token in the wrong place"),
        pytest.param("users: [{name: u, user: {token: hidden}]", id="a bracket is missing"),
        pytest.param("users: [{token: hidden}]", id="a user without a name"),
    ],
)
def test_a_bad_kubeconfig_is_not_quoted(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config"
    path.write_text(
        "current-context: c\nclusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}]\n"
        "contexts: [{name: c, context: {cluster: c, user: u}}]\n" + text
    )
    with pytest.raises(UserError) as caught:
        Transport(Place(str(path)))
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "context", "says"),
    [
        pytest.param(None, None, "does not exist", id="no file"),
        pytest.param("", None, "empty", id="empty"),
        pytest.param("{ token: abc", None, r"not YAML \(line 1\)", id="not YAML"),
        pytest.param("current-context: x\ncontexts: []\n", None, "x", id="no such context"),
        pytest.param(
            "contexts: [{name: a, context: {cluster: b}}]\nclusters: []\n", "a", "b", id="no cluster"
        ),
        pytest.param("[1, 2]", None, "config", id="a list"),
    ],
)
def test_a_bad_kubeconfig_is_the_users_error(
    tmp_path: Path, text: str | None, context: str | None, says: str
) -> None:
    path = tmp_path / "config"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=says) as caught:
        Transport(Place.find(path, context, tmp_path / "nothing"))
    assert str(path) in str(caught.value)


def test_which_api_server(kubeconfig: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pod = tmp_path / "pod"
    pod.mkdir()
    (pod / "token").write_text("t")
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    assert Place.find(None, None, pod) == Place(str(kubeconfig)), "a token alone is no pod"
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    assert Place.find(None, None, pod).in_cluster
    assert Place.find(None, None, tmp_path) == Place(str(kubeconfig))
    assert Place.find(None, "here", pod) == Place(str(kubeconfig), "here"), "a context is a kubeconfig's"
    assert Place.find(kubeconfig, None, pod) == Place(str(kubeconfig))
    assert Transport(Place.find(kubeconfig, "here", pod)).namespace == "home"
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(UserError, match="KUBECONFIG"):
        Place.find(None, None, tmp_path)


# Outages, seen together


class _Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_an_outage_is_on_while_somebody_keeps_finding_out() -> None:
    clock, woken = _Clock(), []
    outage = Outage(clock)
    outage.on_recovery(lambda: woken.append(clock.now_s))
    outage.failed()
    clock.now_s += SILENT_AFTER_S - 0.1
    assert not outage.is_on(), "a stumble is no outage"
    clock.now_s += LONG_ENOUGH_S
    outage.failed()
    assert outage.is_on()
    clock.now_s += FRESH_S
    assert not outage.is_on(), "nobody has tried lately"
    outage.failed()
    outage.answered()
    assert not outage.is_on()
    assert woken == [clock.now_s]
    outage.failed()
    clock.now_s += 1
    outage.answered()
    assert len(woken) == 1, "a stumble wakes nobody"


def test_in_an_outage_one_asks_for_everybody() -> None:
    clock = _Clock()
    outage = Outage(clock)
    assert [outage.hold_s() for _ in range(3)] == [0.0] * 3, "all is well"
    outage.failed()
    asked = [0.0]
    while clock.now_s < 60:
        if hold_s := outage.hold_s():
            assert hold_s <= APART_S[-1]
            clock.now_s += 0.01
        else:
            asked.append(clock.now_s)
            outage.failed()
    apart = [b - a for a, b in itertools.pairwise(asked)]
    assert apart[:3] == [pytest.approx(most_s, abs=0.3) for most_s in APART_S[:3]]
    assert all(2.2 < one <= 2.6 for one in apart[3:])
    clock.now_s += APART_S[-1]
    outage.asks()
    assert outage.hold_s() > 2, "one who could not wait counts, too"
    outage.answered()
    assert outage.hold_s() == 0.0


def test_in_an_outage_only_vital_requests_are_sent(server: ScriptedServer, kubeconfig: Path) -> None:
    clock = _Clock()
    transport = Transport(Place(str(kubeconfig)), now_s=clock)
    server.script = lambda call: call.refuse(503, "starting")
    for _ in range(3):
        with pytest.raises(Unavailable):
            transport.request("GET", "/list", vital=True)
        clock.now_s += 2
    with pytest.raises(Unavailable, match="not answered lately"):
        transport.request("PATCH", "/write", body={})
    server.script = lambda call: call.say({})
    transport.request("GET", "/list", vital=True)
    transport.request("PATCH", "/write", body={})
    assert [c.path for c in server.calls] == ["/list"] * 4 + ["/write"]


def test_a_writes_500_is_about_its_object_not_about_the_server(
    server: ScriptedServer, kubeconfig: Path
) -> None:
    """A broken admission webhook for one Service must not silence the others."""
    clock = _Clock()
    transport = Transport(Place(str(kubeconfig)), now_s=clock)
    server.script = lambda call: call.refuse(500, "webhook") if call.path == "/bad" else call.say({})
    for _ in range(5):
        with pytest.raises(Unavailable, match="webhook"):
            transport.request("PATCH", "/bad", body={})
        clock.now_s += 2
        transport.request("PATCH", "/good", body={})
