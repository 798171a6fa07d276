"""Who we are, read without the official client: the same as it reads, or nothing."""

from __future__ import annotations

import base64
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lbprov.cluster.apiserver import plain_identity
from lbprov.cluster.apiserver.credentials import Credentials, Place, _ByTheClient
from lbprov.cluster.apiserver.errors import Denied
from lbprov.cluster.apiserver.transport import Transport
from lbprov.model import UserError

TLS = "https://192.0.2.1:6443"


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a key and its certificate, which vouches for itself, for 127.0.0.1."""
    folder = tmp_path_factory.mktemp("pki")
    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    name = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run(["openssl", "req", "-x509", *new_key, *name, *files], check=True, capture_output=True)
    (folder / "token").write_text("from-file\n")
    return folder


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


def _data(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def _write(folder: Path, cluster: Any, user: Any, **context: Any) -> Path:
    path = folder / "kubeconfig"
    config = {
        "current-context": "here",
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u", **context}}],
    }
    path.write_text(json.dumps(config))
    return path


def _as_contents(name: str, value: Any) -> Any:
    """The client puts data into files."""
    return Path(value).read_text() if name == "ca_certs" and value else value


def _assert_same(path: Path, plain: plain_identity.PlainIdentity) -> None:
    client = _ByTheClient(Place(str(path)))
    assert (plain.server, plain.namespace, plain.headers()) == (
        client.server,
        client.namespace,
        client.headers(),
    )
    ours = plain.pool(retries=False, maxsize=1, socket_options=[]).connection_pool_kw
    theirs = client.pool(retries=False, maxsize=1, socket_options=[]).connection_pool_kw
    if not plain.server.startswith("https"):
        return
    assert ours["cert_reqs"] == theirs["cert_reqs"]
    assert ours.get("server_hostname") == theirs.get("server_hostname")
    authority = ours.get("ca_cert_data") or _as_contents("ca_certs", ours.get("ca_certs"))
    assert authority == _as_contents("ca_certs", theirs["ca_certs"])
    if "ssl_context" in ours:
        assert theirs["cert_file"], "data, which the client writes down"
        assert ours["ssl_context"].verify_mode == theirs["cert_reqs"]
    else:
        assert (ours.get("cert_file"), ours.get("key_file")) == (theirs["cert_file"], theirs["key_file"])


@settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(values=st.data())
def test_whatever_is_taken_is_what_the_client_takes(values: st.DataObject, pki: Path) -> None:
    cert, key, odd = (
        _data(pki / "cert.pem"),
        _data(pki / "key.pem"),
        st.sampled_from(["", None, 7, "nowhere"]),
    )
    cluster = {
        "server": st.sampled_from([TLS, TLS + "/", "http://127.0.0.1:1", "http://127.0.0.1:1/prefix/"]) | odd,
        "certificate-authority": st.sampled_from(["cert.pem", "./cert.pem", str(pki / "cert.pem")]) | odd,
        "certificate-authority-data": st.just(cert) | odd,
        "insecure-skip-tls-verify": st.booleans() | odd,
        "tls-server-name": st.just("kubernetes") | odd,
        "proxy-url": st.just("http://127.0.0.1:2"),
        "extensions": st.just([{"name": "e", "extension": {}}]),
    }
    user = {
        "token": st.just("t") | odd,
        "tokenFile": st.sampled_from(["token", str(pki / "token")]) | odd,
        "client-certificate": st.just("cert.pem") | odd,
        "client-key": st.just("key.pem") | odd,
        "client-certificate-data": st.just(cert) | odd,
        "client-key-data": st.just(key) | odd,
        "username": st.just("who"),
        "password": st.just("what"),
    }
    mostly = {"server": cluster.pop("server")}
    path = _write(
        pki,
        values.draw(st.fixed_dictionaries(mostly, optional=cluster)),
        values.draw(st.fixed_dictionaries({}, optional=user)),
        **values.draw(st.fixed_dictionaries({}, optional={"namespace": st.just("home") | odd})),
    )
    plain = plain_identity.of_kubeconfig(str(path), None)
    if plain is not None:
        _assert_same(path, plain)


CA_FILE = {"server": TLS, "certificate-authority": "cert.pem"}


@pytest.mark.parametrize(
    ("cluster", "user"),
    [
        pytest.param({"server": "http://127.0.0.1:1/"}, {}, id="nobody, by HTTP"),
        pytest.param({"server": TLS, "insecure-skip-tls-verify": True}, {"token": "t"}, id="insecure"),
        pytest.param({**CA_FILE, "tls-server-name": "kubernetes"}, {"tokenFile": "token"}, id="token's file"),
        pytest.param(CA_FILE, {"client-certificate": "cert.pem", "client-key": "key.pem"}, id="certificate"),
    ],
)
def test_plain_kubeconfigs(pki: Path, cluster: Any, user: Any) -> None:
    path = _write(pki, cluster, user, namespace="home")
    plain = plain_identity.of_kubeconfig(str(path), None)
    assert plain is not None
    _assert_same(path, plain)


@pytest.mark.parametrize(
    ("cluster", "user"),
    [
        pytest.param({"server": TLS, "proxy-url": "http://127.0.0.1:2"}, {"token": "t"}, id="proxy"),
        pytest.param({"server": TLS, "certificate-authority": "nowhere"}, {"token": "t"}, id="CA not there"),
        pytest.param({"server": TLS, "certificate-authority-data": "%"}, {"token": "t"}, id="not base64"),
        pytest.param({"server": TLS}, {"client-certificate": "cert.pem"}, id="certificate without a key"),
        pytest.param({"server": TLS}, {"exec": {"command": "x"}}, id="plugin"),
        pytest.param({"server": TLS}, {"auth-provider": {"name": "oidc"}}, id="OIDC"),
        pytest.param({"server": TLS}, {"username": "a", "password": "b"}, id="password"),
        pytest.param({"server": TLS}, {"token": "t", "as": "admin"}, id="somebody else's name"),
        pytest.param({"server": TLS}, {"tokenFile": "nowhere"}, id="token's file not there"),
        pytest.param({}, {"token": "t"}, id="no server"),
        pytest.param("text", {"token": "t"}, id="a cluster that is a text"),
    ],
)
def test_what_the_client_must_decide(pki: Path, cluster: Any, user: Any) -> None:
    assert plain_identity.of_kubeconfig(str(_write(pki, cluster, user)), None) is None


def test_a_proxy_and_several_files_are_the_clients(pki: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(_write(pki, {"server": TLS}, {"token": "t"}))
    assert plain_identity.of_kubeconfig(path, None) is not None
    assert plain_identity.of_kubeconfig(path, "elsewhere") is None
    assert plain_identity.of_kubeconfig(os.pathsep.join((path, path)), None) is None
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:2")
    assert plain_identity.of_kubeconfig(path, None) is None


def test_a_pod_is_who_the_client_says(pki: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in {
        "token": "first",
        "ca.crt": (pki / "cert.pem").read_text(),
        "namespace": "n\n",
    }.items():
        (tmp_path / name).write_text(text)
    place = Place(service_account_dir=tmp_path)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(UserError, match="host/port"):
        Credentials(place)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    for host in ("10.96.0.1", "fd00::1"):
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
        plain, client = plain_identity.of_pod(tmp_path), _ByTheClient(place)
        assert plain is not None
        assert (plain.server, plain.namespace) == (client.server, client.namespace)
        assert plain.headers() == client.headers() == {"authorization": "bearer first"}
        kw = client.pool(retries=False, maxsize=1, socket_options=[]).connection_pool_kw
        assert {name: kw[name] for name in plain.tls} == plain.tls
    (tmp_path / "ca.crt").write_text("")
    with pytest.raises(UserError, match="empty"):
        Credentials(place)


def test_a_tokens_file_is_read_again_after_a_minute(tmp_path: Path) -> None:
    now_s, path = [0.0], tmp_path / "token"
    path.write_text("first\n")
    token = plain_identity.TokenFile("Bearer", path, lambda: now_s[0])
    path.write_text("second")
    now_s[0] += plain_identity.TOKEN_FRESH_S - 1
    assert token() == "Bearer first"
    now_s[0] += 1
    assert token() == "Bearer second"
    path.write_text("")
    now_s[0] += plain_identity.TOKEN_FRESH_S
    with pytest.raises(ValueError, match="token is empty"):
        token()


def test_a_tokens_file_that_goes_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("t")
    path = _write(tmp_path, {"server": "http://127.0.0.1:1"}, {"tokenFile": "token"})
    credentials = Credentials(Place(str(path)))
    (tmp_path / "token").unlink()
    monkeypatch.setattr(plain_identity, "TOKEN_FRESH_S", 0.0)
    with pytest.raises(Denied, match=r"no credentials: .*token"):
        credentials.current()


@pytest.fixture
def strict_server(pki: Path) -> Iterator[str]:
    """TLS, for clients with the certificate of `pki`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki / "cert.pem", pki / "key.pem")
    context.load_verify_locations(pki / "cert.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        peer, _ = listener.accept()
        with context.wrap_socket(peer, server_side=True) as tls:
            tls.recv(4096)
            tls.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"https://127.0.0.1:{listener.getsockname()[1]}"
    listener.close()
    thread.join(30)


@pytest.mark.parametrize("as_data", [False, True], ids=["files", "data"])
def test_a_client_certificate_is_shown(strict_server: str, pki: Path, as_data: bool) -> None:
    names = {"certificate-authority": "cert.pem", "client-certificate": "cert.pem", "client-key": "key.pem"}
    values = {f"{k}-data": _data(pki / v) for k, v in names.items()} if as_data else names
    cluster = {k: v for k, v in values.items() if k.startswith("certificate")}
    user = {k: v for k, v in values.items() if k.startswith("client")}
    path = _write(pki, {"server": strict_server, **cluster}, user)
    plain = plain_identity.of_kubeconfig(str(path), None)
    assert plain is not None
    assert ("ssl_context" in plain.tls) is as_data
    assert Transport(Place(str(path))).request("GET", "/x") == b"{}"


def test_the_client_is_not_imported_for_it(pki: Path) -> None:
    path = _write(pki, CA_FILE, {"token": "t"})
    program = (
        "import sys; from lbprov.cluster.apiserver.credentials import Credentials, Place;"
        f"Credentials(Place({str(path)!r})).current();"
        "print(sorted({'kubernetes', 'pydantic', 'oauthlib', 'requests'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
