"""`lbprov explain SERVICE`: why it answers, or does not, from here or from there."""

from __future__ import annotations

import ipaddress
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lbprov.cli import options
from lbprov.cli.node_status import ask_agent, metrics_address
from lbprov.model import Node, ObjectKey, UserError

if TYPE_CHECKING:
    from local_dataplane.config import NodeConfig
    from local_dataplane.explain import Client, Explanation, Route
    from local_dataplane.explain_source import Reading
    from local_dataplane.iptables.trace import Way
    from local_dataplane.selection import Mode

SHOWN_WAYS = 8


@click.command()
@click.argument("service", metavar="[NAMESPACE/]SERVICE")
@options.optional_folder
@options.state
@options.kubeconfig
@options.context
@click.option(
    "--from",
    "sources",
    metavar="ADDRESS|[NAMESPACE/]POD",
    multiple=True,
    help="Who asks; may be repeated. By default a Pod, the node itself, and somebody outside.",
)
@click.option(
    "--node",
    "node_name",
    metavar="NAME",
    default="",
    help="Whose rules to follow; by default those of the Pod's node or of this machine, else of any.",
)
@options.option(
    "--cluster-cidr",
    metavar="CIDR[,CIDR]",
    default="",
    help="Where Pods' addresses come from, as `lbprov node` is told.",
)
@options.option(
    "--mode",
    type=click.Choice(["iptables", "nftables", "auto"]),
    default="auto",
    show_default=True,
    help="Which of a node's rules to follow: they do the same, and are named differently by -v. auto: as the "
    "agent of that node says, if it runs on this machine; else iptables.",
)
@metrics_address
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.option(
    "-v", "--verbose", is_flag=True, help="Name the chains and elements that packets are led by, too."
)
def command(
    service: str,
    folder: Path | None,
    state: Path | None,
    kubeconfig: Path | None,
    context: str | None,
    sources: tuple[str, ...],
    node_name: str,
    cluster_cidr: str,
    mode: str,
    metrics_address: tuple[str, int] | None,
    output: str,
    verbose: bool,
) -> None:
    """Follow a Service's addresses by policy, node and rules to the endpoint, or say why nothing answers."""
    from local_dataplane.config import NodeConfig, canonical_cidrs
    from local_dataplane.explain import as_data, explain
    from local_dataplane.explain_source import ApiReading, FolderReading, node_of
    from local_dataplane.selection import Mode

    if folder is not None:
        from lbprov.cluster.manifests import ManifestCluster

        if kubeconfig or context:
            raise click.UsageError("-f is a cluster of its own: leave --kubeconfig and --context out")
        opened = ManifestCluster.open(folder, state_file=state, cluster_name=None, read_only=True)
        reading: Reading = FolderReading(opened.snapshot())
    else:
        reading = ApiReading.connect(kubeconfig, context)
    config = NodeConfig(cluster_cidrs=canonical_cidrs(cluster_cidr, "--cluster-cidr"))
    asked = [_asked(reading, text) for text in sources]
    hints = (*(pod_node for _, pod_node in asked if pod_node), os.uname().nodename)
    node = node_of(reading.cluster, node_name, hints)
    clients = [client for group, _ in asked for client in group] or list(_everybody(config, node))
    chosen = Mode(mode) if mode != Mode.AUTO else _mode_of(node, metrics_address)
    explanation = explain(reading.cluster, _key(service), node, clients, config, chosen)
    if output == "json":
        click.echo(json.dumps(as_data(explanation), indent=2))
        return
    for line in _lines(explanation, verbose):
        click.echo(line)


def _mode_of(node: Node, where: tuple[str, int] | None) -> Mode:
    """As the agent says that runs here, if it is this node's."""
    from local_dataplane.selection import Mode

    agent = ask_agent(where) if where else None
    return Mode(agent["mode"]) if agent and agent["node"] == node.name else Mode.IPTABLES


def _key(text: str) -> ObjectKey:
    namespace, slash, name = text.rpartition("/")
    return ObjectKey(namespace if slash else "default", name)


def _asked(reading: Reading, text: str) -> tuple[list[Client], str]:
    """Who that is (one for each of its addresses), and on which node."""
    from local_dataplane.explain import Client

    try:
        return [Client(text, str(ipaddress.ip_address(text)))], ""
    except ValueError:
        pod = reading.pod(_key(text))
    if pod is None:
        raise UserError(f"{text!r} is neither an address nor a Pod", field="--from")
    if not pod.ips:
        raise UserError(f"Pod {text} has no address yet", field="--from")
    return [Client(f"Pod {text}", ip) for ip in pod.ips], pod.node_name


def _everybody(config: NodeConfig, node: Node) -> Iterator[Client]:
    from local_dataplane.explain import Client

    for cidr in config.cluster_cidrs or node.pod_cidrs:
        yield Client("a Pod", str(ipaddress.ip_network(cidr)[-2]))
    yield Client("the node", is_node=True)
    yield Client("outside")


def _lines(explanation: Explanation, verbose: bool) -> Iterator[str]:
    rules = f"{explanation.mode} rules of node {explanation.node}"
    yield f"{explanation.service} ({explanation.kind}), by the {rules}"
    for remark in explanation.remarks:
        yield f"! {remark}"
    heading = ""
    for route in explanation.routes:
        address = f"[{route.address}]" if ":" in route.address else route.address
        title = f"{route.frontend} {address}:{route.port}/{route.protocol}"
        if title != heading:
            heading = title
            yield f"\n{title}"
        yield from _route(route, verbose)
    if explanation.endpoints:
        yield "\nendpoints"
        for endpoint in explanation.endpoints:
            yield f"  {endpoint.address} on {endpoint.node}: {endpoint.state}"


def _route(route: Route, verbose: bool) -> Iterator[str]:
    who = route.client if route.client == route.source else f"{route.client} ({route.source})"
    if route.why:
        yield f"  from {who}: {route.why}"
        return
    yield f"  from {who}:"
    for way in route.ways[:SHOWN_WAYS]:
        yield f"    {_way(way)}"
        if verbose:
            yield f"      by {' > '.join(way.path)}"
    if len(route.ways) > SHOWN_WAYS:
        yield f"    and {len(route.ways) - SHOWN_WAYS} more"


def _way(way: Way) -> str:
    seen = "which sees the node" if way.masqueraded else "which sees the client"
    where = f"{way.backend}, {seen}" if way.backend else f"{way.fate}"
    return f"{way.probability:4.0%} {where}"
