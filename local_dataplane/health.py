"""What load balancers and the kubelet are told, in kube-proxy's words. Pure.

`/healthz`: whether new traffic may come to this node; a node that is being taken away says no, so that load
balancers turn to others while it still serves what it has (KEP-3836). `/livez`: whether the agent should be
started anew. A Service's health check node port: whether this node has an endpoint of it (KEP-27).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from lbprov.model import IPFamily, Node, ObjectKey, ServiceType, TrafficPolicy
from local_dataplane.config import family_of
from local_dataplane.http_ports import Answer
from local_dataplane.source import Backing

TIMEOUT_S = 60.0
"""An agent whose changes wait for longer is not healthy; kube-proxy: twice its sync period of 30 s."""

TO_BE_DELETED = "ToBeDeletedByClusterAutoscaler"
_NEVER = datetime(1, 1, 1, tzinfo=UTC)
_HEADERS = (("X-Content-Type-Options", "nosniff"),)


@dataclass(frozen=True, slots=True)
class Health:
    """- `updated`: when each family was last as the cluster says; a family that has not been yet is missing.
    - `late`: families whose changes have waited for longer than `TIMEOUT_S`.
    """

    now: datetime
    updated: Mapping[IPFamily, datetime] = field(default_factory=dict)
    late: frozenset[IPFamily] = frozenset()

    @property
    def is_healthy(self) -> bool:
        """Also while it starts up."""
        return not self.late & self.updated.keys()


def takes_traffic(node: Node | None) -> bool:
    """Whether a node is to be given new traffic: it is there, and nobody is taking it away."""
    return node is not None and not node.deleted_at and all(t.key != TO_BE_DELETED for t in node.taints)


def healthz(health: Health, node: Node | None) -> Answer:
    eligible = takes_traffic(node)
    return _proxy_answer(health, health.is_healthy and eligible, {"nodeEligible": eligible})


def livez(health: Health) -> Answer:
    return _proxy_answer(health, health.is_healthy, {})


def _proxy_answer(health: Health, good: bool, eligible: Mapping[str, bool]) -> Answer:
    last = health.now if good else max(health.updated.values(), default=_NEVER)
    body = {
        "lastUpdated": _time(last),
        "currentTime": _time(health.now),
        **eligible,
        "healthy": health.is_healthy,
    }
    if health.updated:
        body["status"] = {
            str(family): {"lastUpdated": _time(at), "healthy": family not in health.late}
            for family, at in sorted(health.updated.items())
        }
    text = json.dumps(body, separators=(",", ":"))
    return Answer(200 if good else 503, text.encode(), "application/json", _HEADERS)


def _time(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%S.%f").rjust(26, "0").rstrip("0").rstrip(".") + "Z"


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """A Service's health check node port. `local`: family -> how many addresses of ready endpoints are on
    this node."""

    port: int
    local: tuple[tuple[IPFamily, int], ...]


def health_check(backing: Backing | None, node_name: str) -> HealthCheck | None:
    """None where the Service has none. Endpoints that only finish what they have do not count: load balancers
    turn away while traffic that still comes is served (KEP-1669)."""
    if backing is None:
        return None
    service = backing.service
    is_local = service.external_traffic_policy is TrafficPolicy.LOCAL
    if not (is_local and service.type is ServiceType.LOAD_BALANCER and service.health_check_node_port):
        return None
    counts = []
    for family in sorted({family_of(ip) for ip in service.cluster_ips}):
        addresses = {
            endpoint.addresses[0]
            for slice_ in backing.slices
            if slice_.family is family and slice_.ports
            for endpoint in slice_.endpoints
            if endpoint.ready and endpoint.node_name == node_name and endpoint.addresses
        }
        counts.append((family, len(addresses)))
    return HealthCheck(service.health_check_node_port, tuple(counts))


def check_answer(key: ObjectKey, local: int, healthy: bool) -> Answer:
    """Byte for byte what kube-proxy says."""
    body = (
        "{\n"
        '\t"service": {\n'
        f'\t\t"namespace": "{key.namespace}",\n'
        f'\t\t"name": "{key.name}"\n'
        "\t},\n"
        f'\t"localEndpoints": {local},\n'
        f'\t"serviceProxyHealthy": {str(healthy).lower()}\n'
        "}"
    )
    headers = (*_HEADERS, ("X-Load-Balancing-Endpoint-Weight", str(local)))
    return Answer(200 if local and healthy else 503, body.encode(), "application/json", headers)
