"""What kubectl and curl would print of the demo's cluster."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lbprov.lab import Answer, Refused, Reply
from lbprov.model import Pod, Service, ServiceType

HEAD = ("NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)")


def get_services(services: Iterable[Service]) -> list[tuple[str, ...]]:
    """The rows of `kubectl get service`."""
    return [(s.key.name, s.type, _cluster_ip(s), _external(s), _ports(s)) for s in services]


def _cluster_ip(service: Service) -> str:
    return next(iter(service.cluster_ips), "None" if service.headless else "<none>")


def _external(service: Service) -> str:
    addresses = [*(str(i) for i in service.ingress), *service.external_ips]
    pending = "<pending>" if service.type is ServiceType.LOAD_BALANCER else "<none>"
    return ",".join(addresses) or pending


def _ports(service: Service) -> str:
    return ",".join(
        f"{p.port}:{p.node_port}/{p.protocol}" if p.node_port else f"{p.port}/{p.protocol}"
        for p in service.ports
    )


PODS_HEAD = ("NAME", "STATUS", "IP", "NODE")


def get_pods(pods: Iterable[Pod]) -> list[tuple[str, ...]]:
    """The rows of `kubectl get pods -o wide`."""
    return [(p.key.name, "Running", next(iter(p.ips), "<none>"), p.node_name or "<none>") for p in pods]


def curl(host: str, port: int, answer: Answer) -> str:
    """What `curl host:port` prints."""
    if isinstance(answer, Reply):
        return answer.body
    if isinstance(answer, Refused):
        after = f"after {answer.elapsed_ms:.0f} ms"
        return f"curl: (7) Failed to connect to {host} port {port} {after}: Connection refused"
    return f"curl: {answer}"


def names(pods: Sequence[Pod]) -> set[str]:
    return {pod.key.name for pod in pods}
