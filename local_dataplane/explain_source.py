"""Reads what `explain` needs, once: a folder of manifests, or an API server by the user's rights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lbprov.cluster import Snapshot
from lbprov.cluster.apiserver import Store, kinds
from lbprov.cluster.apiserver.credentials import Place
from lbprov.cluster.apiserver.errors import NotFound
from lbprov.cluster.apiserver.reflector import Reflector
from lbprov.cluster.apiserver.transport import Transport
from lbprov.cluster.wire import canonical_ip
from lbprov.model import EndpointSlice, Node, ObjectKey, Pod, Service, UserError
from local_dataplane.explain import Cluster


class FolderReading:
    """See `Reading`."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.cluster = Cluster(snapshot.services, snapshot.endpoint_slices, snapshot.nodes)
        self._pods = {pod.key: pod for pod in snapshot.pods}

    def pod(self, key: ObjectKey) -> Pod | None:
        return self._pods.get(key)


class ApiReading:
    """`cluster`, and Pods by name."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        services: Store[ObjectKey, Service] = Store()
        slices: Store[ObjectKey, EndpointSlice] = Store()
        nodes: Store[str, Node] = Store()
        Reflector(transport, kinds.SERVICES, services).list_once()
        Reflector(transport, kinds.ENDPOINT_SLICES, slices).list_once()
        Reflector(transport, kinds.NODES, nodes).list_once()
        self.cluster = Cluster(
            tuple(sorted(services.values(), key=lambda s: s.key)),
            tuple(sorted(slices.values(), key=lambda s: s.key)),
            tuple(sorted(nodes.values(), key=lambda n: n.name)),
        )

    @classmethod
    def connect(cls, kubeconfig: Path | None, context: str | None) -> ApiReading:
        return cls(Transport(Place.find(kubeconfig, context)))

    def pod(self, key: ObjectKey) -> Pod | None:
        try:
            answer = self._transport.request("GET", f"/api/v1/namespaces/{key.namespace}/pods/{key.name}")
        except NotFound:
            return None
        found: dict[str, Any] = json.loads(answer)
        ips = tuple(canonical_ip(ip["ip"]) for ip in found.get("status", {}).get("podIPs") or ())
        return Pod(key, node_name=found.get("spec", {}).get("nodeName") or "", ips=ips)


Reading = FolderReading | ApiReading


def node_of(cluster: Cluster, wanted: str, hints: tuple[str, ...]) -> Node:
    """The Node named, or the first of `hints` that there is, or the first that there is at all."""
    by_name = {node.name: node for node in cluster.nodes}
    if wanted and wanted not in by_name:
        known = ", ".join(sorted(by_name)[:10]) or "none"
        raise UserError(f"there is no Node {wanted} (there are: {known})", field="--node")
    for name in (wanted, *hints, *sorted(by_name)):
        if name in by_name:
            return by_name[name]
    return Node("(no node)")
