"""`lbprov status`: what the Services of a folder are and have."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lbprov.cli import options
from lbprov.cli.output import event_data, ingress_data, tell_problems, write_data, write_table
from lbprov.model import Service

if TYPE_CHECKING:
    from lbprov.cluster.manifests import ManifestCluster

READY = "lbprov.io/Ready"


@click.command()
@options.folder
@options.state
@options.cluster_name
@options.output
@options.logs_at("error")
def command(folder: Path, state: Path | None, cluster_name: str | None, output: str) -> None:
    """Show the Services, their addresses and what is wrong with them, from the folder and its state alone."""
    from lbprov.cluster.manifests import ManifestCluster

    cluster = ManifestCluster.open(folder, state_file=state, cluster_name=cluster_name, read_only=True)
    snapshot = cluster.snapshot()
    tell_problems(snapshot.problems)
    if output != "table":
        services = [_data(cluster, service) for service in snapshot.services]
        write_data({"cluster": cluster.name, "services": services}, output)
        return
    head = ("NAMESPACE", "NAME", "TYPE", "CLUSTER-IP", "EXTERNAL", "PORTS", "READY", "NOTE")
    write_table(head, map(_row, snapshot.services))


def _row(service: Service) -> tuple[str, ...]:
    ready = service.condition(READY)
    wrong = [c.message for c in service.conditions if c.status == "False" and c.type.startswith("lbprov.io/")]
    external = [*map(str, service.ingress), *service.external_ips]
    return (
        service.key.namespace,
        service.key.name,
        service.type.value,
        ",".join(service.cluster_ips) or "None",
        ",".join(external) or ("<pending>" if service.type == "LoadBalancer" else ""),
        ",".join(_ports(service)),
        ready.status if ready else "",
        "; ".join(["being deleted", *wrong] if service.deleted_at else wrong),
    )


def _ports(service: Service) -> list[str]:
    """As kubectl shows them: PORT:NODEPORT/PROTOCOL."""
    return [f"{p.port}{f':{p.node_port}' if p.node_port else ''}/{p.protocol}" for p in service.ports]


def _data(cluster: ManifestCluster, service: Service) -> dict[str, Any]:
    return {
        "namespace": service.key.namespace,
        "name": service.key.name,
        "type": service.type.value,
        "deleting": bool(service.deleted_at),
        "clusterIPs": list(service.cluster_ips),
        "externalIPs": list(service.external_ips),
        "ports": [
            {
                "name": port.name,
                "port": port.port,
                "protocol": port.protocol.value,
                "targetPort": port.target_port,
                "nodePort": port.node_port,
            }
            for port in service.ports
        ],
        "ingress": [ingress_data(i) for i in service.ingress],
        "conditions": [asdict(c) for c in service.conditions],
        "events": [
            {**event_data(e.event), "count": e.count, "firstAt": e.first_at, "lastAt": e.last_at}
            for e in cluster.events(service.key)
        ],
    }
