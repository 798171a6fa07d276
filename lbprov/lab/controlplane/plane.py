"""A real Kubernetes control plane on 127.0.0.1, in seconds: etcd, kube-apiserver, kube-controller-manager.

RBAC and all default admission plugins are on, Pod Security among them. There are no nodes, no kubelets and no
scheduler: whoever uses it makes Nodes and plays the kubelet (`lbprov.lab.controlplane.objects`).

Everything is gone when it is closed or when this process dies, however it dies.
"""

from __future__ import annotations

import json
import random
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from lbprov.lab.controlplane.api import Api, ApiError
from lbprov.lab.controlplane.audit import AUDIT_POLICY, ApiCall, parse
from lbprov.lab.controlplane.binaries import CONTROL_PLANE, Say, programs
from lbprov.lab.controlplane.daemon import Daemon, Guard

SERVICE_CIDRS = ("10.96.0.0/12", "fd00:10:96::/112")
CONTROLLERS = (
    "deployment-controller",
    "endpointslice-controller",
    "garbage-collector-controller",
    "namespace-controller",
    "replicaset-controller",
    "serviceaccount-controller",
)
_READY_WITHIN_S = 60.0
_ANSWER_WITHIN_S = 1.0
_POLL_S = 0.05
_TOKEN_LASTS_S = 24 * 3600


class ControlPlane:
    """A context manager, and the handle on what runs.

    `etcd`, `apiserver` and `controller_manager` can be stopped, killed, frozen and started again; the API
    server keeps its port, its certificate and its data. After a start, `wait_ready`. `admin` may do anything.
    """

    def __init__(self, paths: Mapping[str, Path]) -> None:
        """`paths` as `programs` gives them. Nothing runs yet."""
        self._folder = Path(tempfile.mkdtemp(prefix="lbprov-control-plane-"))
        self._guard = Guard(self._folder)
        self._token = secrets.token_hex(16)
        etcd_port, peer_port, self._port = free_ports(3)
        self.server = f"https://127.0.0.1:{self._port}"
        self.admin_kubeconfig = self._folder / "admin.kubeconfig"
        self._audit_log = self._folder / "audit.log"
        etcd = f"http://127.0.0.1:{etcd_port}"
        self.etcd = self._daemon(
            paths["etcd"],
            data_dir=self._folder / "etcd",
            listen_client_urls=etcd,
            advertise_client_urls=etcd,
            listen_peer_urls=f"http://127.0.0.1:{peer_port}",
            initial_advertise_peer_urls=f"http://127.0.0.1:{peer_port}",
            initial_cluster=f"default=http://127.0.0.1:{peer_port}",
            unsafe_no_fsync="true",
            log_level="warn",
        )
        certificate = self._folder / "pki/apiserver"  # made by the server at its first start, then kept
        self.apiserver = self._daemon(
            paths["kube-apiserver"],
            etcd_servers=etcd,
            bind_address="127.0.0.1",
            # What the Service `kubernetes` would lead to: a documentation address, so that no route of the
            # machine is asked for.
            advertise_address="192.0.2.1",
            secure_port=str(self._port),
            cert_dir=certificate.parent,
            service_account_issuer="https://kubernetes.default.svc",
            service_account_key_file=certificate.with_suffix(".key"),
            service_account_signing_key_file=certificate.with_suffix(".key"),
            token_auth_file=self._write("tokens.csv", f"{self._token},admin,admin,system:masters\n"),
            authorization_mode="RBAC",
            service_cluster_ip_range=",".join(SERVICE_CIDRS),
            allow_privileged="true",
            audit_policy_file=self._write("audit-policy.yaml", AUDIT_POLICY),
            audit_log_path=self._audit_log,
        )
        self.controller_manager = self._daemon(
            paths["kube-controller-manager"],
            kubeconfig=self.admin_kubeconfig,
            controllers=",".join(CONTROLLERS),
            leader_elect="false",
            secure_port="0",
            kube_api_qps="500",
            kube_api_burst="1000",
        )

    @classmethod
    def open(cls, module: Path, say: Say = lambda _: None) -> ControlPlane:
        """Build what is missing from the Go module at `module`, and start. Raises UserError when the programs
        cannot be had, RuntimeError with a program's last words when it does not come up."""
        plane = cls(programs(module, CONTROL_PLANE, say))
        try:
            plane.start()
        except BaseException:
            plane.close()
            raise
        return plane

    def __enter__(self) -> ControlPlane:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Idempotent."""
        for daemon in (self.controller_manager, self.apiserver, self.etcd):
            daemon.kill()
        self._guard.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def process_group(self) -> int:
        """What is started into it ends with the control plane, however that ends."""
        return self._guard.group

    @property
    def ca_pem(self) -> str:
        return (self._folder / "pki/apiserver.crt").read_text()

    @property
    def admin(self) -> Api:
        return Api(self.server, self.ca_pem, self._token)

    def wait_ready(self, timeout_s: float = _READY_WITHIN_S) -> None:
        """Until the API server says that it is ready."""
        deadline_s = time.monotonic() + timeout_s
        problem: Exception | None = None
        while time.monotonic() < deadline_s:
            for daemon in (self.etcd, self.apiserver):
                if not daemon.pid:
                    raise RuntimeError(f"{daemon.name} ended: {daemon.last_words()}")
            try:
                Api(self.server, self.ca_pem, self._token, timeout_s=_ANSWER_WITHIN_S).text("/readyz")
            except (OSError, ApiError) as error:
                problem = error
                time.sleep(_POLL_S)
            else:
                return
        raise RuntimeError(
            f"the API server is not ready after {timeout_s} s: {problem}: {self.apiserver.last_words()}"
        )

    def token(self, namespace: str, service_account: str) -> str:
        """What a Pod of that ServiceAccount would be given. The ServiceAccount must exist."""
        path = self.admin.path("ServiceAccount", service_account, namespace, "token")
        spec = {"spec": {"expirationSeconds": _TOKEN_LASTS_S}}
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", **spec}
        token: str = self.admin.request("POST", path, body)["status"]["token"]
        return token

    def kubeconfig(self, namespace: str, service_account: str, server: str = "") -> Path:
        """A new file, with a fresh token of that ServiceAccount. `server`: another way to the API server,
        such as a relay that misbehaves."""
        token = self.token(namespace, service_account)
        name = f"{namespace}.{service_account}.{secrets.token_hex(4)}.kubeconfig"
        return self._write(name, self._kubeconfig_text(token, namespace, server))

    def pod_files(self, namespace: str, service_account: str, pod: str) -> Path:
        """A folder with the files that a Pod finds under /var/run/secrets/kubernetes.io/serviceaccount."""
        folder = self._folder / f"{namespace}.{pod}.{secrets.token_hex(4)}"
        folder.mkdir(mode=0o700)
        files = {"ca.crt": self.ca_pem, "token": self.token(namespace, service_account)}
        for name, text in {**files, "namespace": namespace}.items():
            self._write(f"{folder.name}/{name}", text)
        return folder

    def _kubeconfig_text(self, token: str, namespace: str = "default", server: str = "") -> str:
        cluster: dict[str, Any] = {"server": server or self.server}
        if cluster["server"].startswith("https:"):
            certificate = self._folder / "pki/apiserver.crt"
            cluster["certificate-authority"] = str(certificate)
        context = {"cluster": "lab", "user": "lab", "namespace": namespace}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "lab", "cluster": cluster}],
            "users": [{"name": "lab", "user": {"token": token}}],
            "contexts": [{"name": "lab", "context": context}],
            "current-context": "lab",
        }
        return json.dumps(config, indent=1) + "\n"  # JSON is YAML

    def calls(self, user: str = "") -> Sequence[ApiCall]:
        """The requests that reached the API server since its first start, oldest first, without those of the
        control plane itself and of `admin`. `user`: of one user only,
        `system:serviceaccount:NAMESPACE:NAME`."""
        if not self._audit_log.exists():
            return ()
        calls = parse(self._audit_log.read_text())
        return tuple(call for call in calls if user in ("", call.user))

    def start(self) -> None:
        """For `open`: everything, in order, until it is ready."""
        self.etcd.start()
        self.apiserver.start()
        self._wait_for_certificate()
        self._write(self.admin_kubeconfig.name, self._kubeconfig_text(self._token))
        self.wait_ready()
        self.controller_manager.start()

    def _wait_for_certificate(self) -> None:
        certificate = self._folder / "pki/apiserver.crt"
        deadline_s = time.monotonic() + _READY_WITHIN_S
        while not certificate.exists() or "END CERTIFICATE" not in certificate.read_text():
            if not self.apiserver.pid or time.monotonic() > deadline_s:
                raise RuntimeError(f"kube-apiserver did not start: {self.apiserver.last_words()}")
            time.sleep(_POLL_S)

    def _daemon(self, program: Path, **flags: str | Path) -> Daemon:
        arguments = [f"--{flag.replace('_', '-')}={value}" for flag, value in flags.items()]
        return Daemon([program, *arguments], self._folder / f"{program.name}.log", self._guard)

    def _write(self, name: str, text: str) -> Path:
        path = self._folder / name
        path.write_text(text)
        path.chmod(0o600)
        return path


def free_ports(count: int) -> list[int]:
    """Ports that nobody uses, outside of those that the kernel gives to clients: a server can come back to
    such a port after a restart, and a client that dials it in the meantime cannot meet itself."""
    first, last = (int(n) for n in Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    candidates = [port for port in range(10000, 65536) if not first <= port <= last]
    found: list[int] = []
    for port in random.sample(candidates, len(candidates)):
        with socket.socket() as probe:
            # As the server does it; what lingers in TIME_WAIT is no hindrance.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError("no free port on 127.0.0.1")
