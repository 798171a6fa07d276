"""Who we are to an API server, where a few files say it: a pod's service account, or a kubeconfig with a
token, a token's file or a client certificate.

Read here because the official client takes 0.4 s of CPU and 50 MiB to import, on every node. What is not
entirely plain (plugins, passwords, proxies, several files, any key not known here, any error) is None: the
client's loaders decide, and say what is wrong.
"""

from __future__ import annotations

import base64
import os
import ssl
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    import urllib3

TOKEN_FRESH_S = 60.0
"""So often a token's file is read again: the kubelet exchanges it long before the token expires."""

_CLUSTER_KEYS = {
    "server",
    "certificate-authority",
    "certificate-authority-data",
    "insecure-skip-tls-verify",
    "tls-server-name",
    "extensions",
}
_NO_TEXTS = {"insecure-skip-tls-verify", "extensions"}
_CERTIFICATE_FILES = ("client-certificate", "client-key")
_CERTIFICATE_DATA = ("client-certificate-data", "client-key-data")
_USER_KEYS = {"token", "tokenFile", *_CERTIFICATE_FILES, *_CERTIFICATE_DATA}


class _NotPlain(Exception):
    """Never leaves this module."""


@dataclass(frozen=True, slots=True)
class PlainIdentity:
    """`server`: the base URL. `tls`: arguments of urllib3's pools. `authorization`: the header's value, empty
    for none; may raise OSError or ValueError where its file is gone."""

    server: str
    namespace: str
    tls: Mapping[str, Any]
    authorization: Callable[[], str]

    def headers(self) -> dict[str, str]:
        value = self.authorization()
        return {"authorization": value} if value else {}

    def pool(self, **arguments: Any) -> urllib3.PoolManager:
        import urllib3

        return urllib3.PoolManager(**self.tls, **arguments)


class TokenFile:
    """Not for several threads at once."""

    def __init__(self, scheme: str, path: Path, now_s: Callable[[], float] = time.monotonic) -> None:
        self._scheme, self._path, self._now_s = scheme, path, now_s
        self._token, self._read_s = self._read(), now_s()

    def __call__(self) -> str:
        if self._now_s() - self._read_s >= TOKEN_FRESH_S:
            self._token, self._read_s = self._read(), self._now_s()
        return f"{self._scheme} {self._token}"

    def _read(self) -> str:
        token = self._path.read_text().strip()
        if not token:
            raise ValueError(f"{self._path} is empty")
        return token


def of_pod(directory: Path) -> PlainIdentity | None:
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT")
    certificates = directory / "ca.crt"
    if _has_proxy() or not host or not port:
        return None
    try:
        if not certificates.read_text():
            return None
        token = TokenFile("bearer", directory / "token")
    except (OSError, ValueError):
        return None
    server = f"https://[{host}]:{port}" if ":" in host or "%" in host else f"https://{host}:{port}"
    tls = {"cert_reqs": ssl.CERT_REQUIRED, "ca_certs": str(certificates)}
    return PlainIdentity(server, pod_namespace(directory), tls, token)


def pod_namespace(directory: Path) -> str:
    try:
        return (directory / "namespace").read_text().strip() or "default"
    except OSError:
        return "default"


def of_kubeconfig(paths: str, context_name: str | None) -> PlainIdentity | None:
    """`paths` as in KUBECONFIG; `context_name` None: the current one."""
    if os.pathsep in paths or _has_proxy():
        return None
    path = Path(paths).expanduser()
    try:
        config = yaml.safe_load(path.read_bytes())
        if not isinstance(config, dict):
            return None
        context = _named(config, "context", context_name or config.get("current-context"))
        cluster = _named(config, "cluster", context.get("cluster"))
        user = _named(config, "user", context.get("user"))
        if cluster.keys() - _CLUSTER_KEYS or user.keys() - _USER_KEYS:
            return None
        insecure = cluster.get("insecure-skip-tls-verify", False)
        texts = {k: v for k, v in (cluster | user).items() if k not in _NO_TEXTS}
        if not isinstance(insecure, bool) or not all(isinstance(v, str) and v for v in texts.values()):
            return None
        server = _text(cluster, "server").rstrip("/")
        namespace = _text(context, "namespace") if context.get("namespace") else "default"
        folder = path.parent.absolute()
        tls = _tls(cluster, user, folder) if server.startswith("https") else {}
        return PlainIdentity(server, namespace, tls, _token(user, folder))
    except (_NotPlain, OSError, ValueError, yaml.YAMLError):
        return None


def _named(config: Mapping[str, Any], kind: str, name: object) -> dict[str, Any]:
    """The one entry of that name."""
    entries = config.get(kind + "s")
    if not isinstance(name, str) or not isinstance(entries, list):
        raise _NotPlain
    if not all(isinstance(entry, dict) and "name" in entry for entry in entries):
        raise _NotPlain
    found = [entry.get(kind) for entry in entries if entry["name"] == name]
    if len(found) != 1 or not isinstance(found[0], dict):
        raise _NotPlain
    return found[0]


def _text(values: Mapping[str, Any], key: str) -> str:
    value = values.get(key)
    if not isinstance(value, str) or not value:
        raise _NotPlain
    return value


def _file(values: Mapping[str, Any], key: str, folder: Path) -> Path:
    path = Path(os.path.normpath(folder / _text(values, key)))
    if not path.is_file():
        raise _NotPlain
    return path


def _token(user: Mapping[str, Any], folder: Path) -> Callable[[], str]:
    if "token" in user:
        value = f"Bearer {_text(user, 'token')}".strip()
        return lambda: value
    if "tokenFile" in user:
        return TokenFile("Bearer", _file(user, "tokenFile", folder))
    return lambda: ""


def _tls(cluster: Mapping[str, Any], user: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    is_insecure = cluster.get("insecure-skip-tls-verify", False)
    tls: dict[str, Any] = {"cert_reqs": ssl.CERT_NONE if is_insecure else ssl.CERT_REQUIRED}
    if "certificate-authority-data" in cluster:
        tls["ca_cert_data"] = _decoded(cluster, "certificate-authority-data").decode("ascii")
    elif "certificate-authority" in cluster:
        tls["ca_certs"] = str(_file(cluster, "certificate-authority", folder))
    if "tls-server-name" in cluster:
        tls["server_hostname"] = _text(cluster, "tls-server-name")
    keys = user.keys() - {"token", "tokenFile"}
    if keys == set(_CERTIFICATE_FILES):  # read for every connection anew: others exchange them
        files = [str(_file(user, key, folder)) for key in _CERTIFICATE_FILES]
        tls["cert_file"], tls["key_file"] = files
    elif keys == set(_CERTIFICATE_DATA):
        tls["ssl_context"] = _context(tls, *(_decoded(user, key) for key in _CERTIFICATE_DATA))
    elif keys:
        raise _NotPlain
    return tls


def _decoded(values: Mapping[str, Any], key: str) -> bytes:
    decoded = base64.standard_b64decode(_text(values, key))  # which skips what is not base64, as newlines
    if not decoded:
        raise _NotPlain
    return decoded


def _context(tls: Mapping[str, Any], certificate: bytes, key: bytes) -> ssl.SSLContext:
    """With a client certificate, which OpenSSL takes from a file only: it is there for a moment."""
    from urllib3.util.ssl_ import create_urllib3_context

    context = create_urllib3_context(cert_reqs=tls["cert_reqs"])
    if "ca_cert_data" not in tls and "ca_certs" not in tls:
        context.load_default_certs()
    with tempfile.NamedTemporaryFile() as both:  # nobody else may read it
        both.write(certificate + b"\n" + key)
        both.flush()
        context.load_cert_chain(both.name)
    return context


def _has_proxy() -> bool:
    names = (name.lower() for name, value in os.environ.items() if value)
    return any(name.endswith("_proxy") and name != "no_proxy" for name in names)
