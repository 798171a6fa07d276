"""Which API server, and who we are there: by `plain_identity` where that is enough, else by the official
client's configuration, its loaders and its pool.

The one importer of `kubernetes` (0.65 s and 57 MiB, so inside functions). Of that client only what has been
stable for years is used: the configuration, the two loaders (in-cluster files; kubeconfig with exec, OIDC and
other plugins) and the urllib3 pool made from it.
"""

from __future__ import annotations

import os
import re
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from lbprov.cluster.apiserver import plain_identity
from lbprov.cluster.apiserver.errors import Denied
from lbprov.model import UserError

if TYPE_CHECKING:
    import urllib3

SERVICE_ACCOUNT_DIR = Path("/var/run/secrets/kubernetes.io/serviceaccount")

KEEPALIVE_IDLE_S, KEEPALIVE_INTERVAL_S, KEEPALIVE_PROBES = 20, 10, 3
"""A peer that is gone without a word is noticed in 50 s; the kernel's own patience is two hours."""

POOL_SIZE = 32
"""Connections kept open: reflectors, elector and as many workers as anybody wants."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the API server is looked for. `kubeconfig` empty: in the pod's own files."""

    kubeconfig: str = ""
    context: str | None = None
    service_account_dir: Path = SERVICE_ACCOUNT_DIR

    @classmethod
    def find(
        cls, kubeconfig: Path | None, context: str | None, service_account_dir: Path = SERVICE_ACCOUNT_DIR
    ) -> Place:
        """In-cluster if nothing is named and the pod's files exist, else the usual KUBECONFIG rules."""
        in_pod = (service_account_dir / "token").is_file() and "KUBERNETES_SERVICE_HOST" in os.environ
        if kubeconfig is None and context is None and in_pod:
            return cls(service_account_dir=service_account_dir)
        usual = os.environ.get("KUBECONFIG") or str(Path("~/.kube/config").expanduser())
        paths = str(kubeconfig or usual)
        if not any(Path(path).expanduser().is_file() for path in paths.split(os.pathsep) if path):
            raise UserError(f"{paths} does not exist: name a kubeconfig by --kubeconfig or KUBECONFIG")
        return cls(paths, context)

    @property
    def in_cluster(self) -> bool:
        return not self.kubeconfig

    def __str__(self) -> str:
        return "the pod's service account" if self.in_cluster else f"kubeconfig {self.kubeconfig}"


class Credentials:
    """A pool of connections and the headers that say who we are. Thread-safe.

    Tokens are renewed in time (a token's file is read again every minute; exec plugins and OIDC are asked
    shortly before they expire). `reload` starts from the files again, for what no hook sees: a kubeconfig
    rewritten, a certificate or CA exchanged, a token revoked.
    """

    def __init__(self, place: Place, dress: Callable[[urllib3.PoolManager], None] = lambda _: None) -> None:
        """`dress` is shown every new pool before it is used."""
        self.place = place
        self._dress = dress
        self._lock = threading.Lock()
        self._load()

    def _load(self) -> None:
        identity = _plain(self.place) or _ByTheClient(self.place)
        # Pauses are ours: a refused connection is not tried four times at once.
        pool = identity.pool(retries=False, maxsize=POOL_SIZE, socket_options=_socket_options())
        self._dress(pool)
        self._identity, self._pool = identity, pool

    def reload(self) -> None:
        """Raises `UserError` as construction does; what was loaded before stays then."""
        with self._lock:
            self._load()

    def current(self) -> tuple[urllib3.PoolManager, str, dict[str, str]]:
        """Pool, base URL, and headers of authentication. May run an exec plugin; `Denied` if that or a
        token's file fails."""
        with self._lock:
            try:
                headers = self._identity.headers()
            except (OSError, ValueError) as error:
                message = f"{self.place}: no credentials: {_first_line(error)}"
                raise Denied(message, status=401, retryable=True) from error
            return self._pool, self.server, headers

    @property
    def server(self) -> str:
        """The base URL."""
        return self._identity.server

    @property
    def namespace(self) -> str:
        """The namespace we live in: the pod's, or the context's; `default` where neither says."""
        return self._identity.namespace


def _plain(place: Place) -> plain_identity.PlainIdentity | None:
    if place.in_cluster:
        return plain_identity.of_pod(place.service_account_dir)
    return plain_identity.of_kubeconfig(place.kubeconfig, place.context)


class _ByTheClient:
    """`PlainIdentity`'s counterpart for everything else. Raises `UserError`."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._configuration = _configuration(place)

    def pool(self, **arguments: Any) -> urllib3.PoolManager:
        from kubernetes.client.rest import RESTClientObject

        configuration = self._configuration
        configuration.retries = arguments["retries"]
        configuration.connection_pool_maxsize = arguments["maxsize"]
        configuration.socket_options = arguments["socket_options"]
        try:
            pool: urllib3.PoolManager = RESTClientObject(configuration).pool_manager
        except OSError as error:
            raise UserError(f"certificates: {_first_line(error)}", reason="NoCluster") from error
        return pool

    def headers(self) -> dict[str, str]:
        from kubernetes.config import ConfigException

        try:
            settings = self._configuration.auth_settings()
        except ConfigException as error:
            raise ValueError(_first_line(error)) from error
        return {s["key"]: s["value"].strip() for s in settings.values() if s.get("value")}

    @property
    def server(self) -> str:
        return str(self._configuration.host).rstrip("/")

    @property
    def namespace(self) -> str:
        if self._place.in_cluster:
            return plain_identity.pod_namespace(self._place.service_account_dir)
        return _context_of(self._place).get("namespace") or "default"


def _configuration(place: Place) -> Any:
    from kubernetes import client, config
    from kubernetes.config import incluster_config

    configuration = client.Configuration()
    try:
        if place.in_cluster:
            loader: Any = incluster_config.InClusterConfigLoader
            directory = place.service_account_dir
            loader(str(directory / "token"), str(directory / "ca.crt")).load_and_set(configuration)
        else:
            load: Any = config.load_kube_config
            load(place.kubeconfig, place.context, configuration)
    except (config.ConfigException, yaml.YAMLError, OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{place}: {_first_line(error)}", reason="NoCluster") from error
    return configuration


def _context_of(place: Place) -> dict[str, Any]:
    from kubernetes import config

    list_contexts: Any = config.list_kube_config_contexts
    try:
        contexts, active = list_contexts(place.kubeconfig)
    except config.ConfigException:
        return {}
    named = [c for c in contexts if c["name"] == place.context] if place.context else [active]
    context: dict[str, Any] = named[0]["context"] if named else {}
    return context


def _socket_options() -> list[tuple[int, int, int]]:
    return [
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES),
        # Unacknowledged data (a request into the void) is given up as soon as a silent peer is.
        (
            socket.IPPROTO_TCP,
            socket.TCP_USER_TIMEOUT,
            1000 * (KEEPALIVE_IDLE_S + KEEPALIVE_PROBES * KEEPALIVE_INTERVAL_S),
        ),
    ]


def _first_line(error: BaseException) -> str:
    """On one line, without what it quotes of the file: that may be a token."""
    if isinstance(error, yaml.YAMLError):
        mark = getattr(error, "problem_mark", None)
        return f"not YAML (line {mark.line + 1})" if mark else "not YAML"
    text = (str(error) or type(error).__name__).partition("\n")[0]
    return re.sub(r"\{.*", "…", text)  # the loader names an entry by its whole content
