"""`lbprov node`: this node's Service forwarding; `node status`, `node cleanup`."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path

import click

from lbprov.cli import options
from lbprov.cli.signals import stopping
from lbprov.model import LbprovError, UserError


def _follow_until_signal(
    directory: Path, state: Path | None, cluster_name: str | None, **settings: object
) -> None:
    from lbprov.cluster.manifests import ManifestCluster
    from local_dataplane.config import NodeConfig, canonical_cidrs
    from local_dataplane.kernel.instance import claim
    from local_dataplane.start import open_agent

    config = NodeConfig(
        cluster_cidrs=canonical_cidrs(str(settings["cluster_cidr"]), "--cluster-cidr"),
        masquerade_all=bool(settings["masquerade_all"]),
        masquerade_bit=int(str(settings["masquerade_bit"])),
        refusal_bit=int(str(settings["refusal_bit"])),
        nodeport_addresses=canonical_cidrs(str(settings["nodeport_addresses"]), "--nodeport-addresses"),
    )
    node_name = str(settings["node_name"] or socket.gethostname())
    cluster = ManifestCluster.open(
        directory, state_file=state, cluster_name=cluster_name, force=bool(settings["force"])
    )
    with claim():
        agent = open_agent(cluster, node_name, config, str(settings["iptables_backend"]))
        if settings["once"]:
            if not agent.run_once():
                sys.exit(1)
        else:
            with stopping() as stop:
                agent.run(stop)


@click.group(invoke_without_command=True)
@options.option(
    "-f",
    "--filename",
    "folder",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The folder of manifests that is the cluster.",
)
@options.state
@options.cluster_name
@options.option("--node-name", metavar="NAME", help="Which Node this machine is; by default its hostname.")
@options.option(
    "--cluster-cidr",
    metavar="CIDR[,CIDR]",
    default="",
    help="Where Pods' addresses come from, one CIDR per family. Clients of a clusterIP from elsewhere are "
    "masqueraded; without it nobody is.",
)
@options.option("--once", is_flag=True, help="Apply the folder as it is, and end.")
@options.option(
    "--iptables-backend",
    type=click.Choice(["auto", "nft", "legacy"]),
    default="auto",
    show_default=True,
    help="Which iptables to use; auto: the one that the node's other programs use.",
)
@options.option("--masquerade-all", is_flag=True, help="Masquerade every client of a clusterIP.")
@options.option(
    "--masquerade-bit",
    type=int,
    default=14,
    show_default=True,
    help="The bit of the packet mark that says: masquerade.",
)
@options.option(
    "--refusal-bit",
    type=int,
    default=15,
    show_default=True,
    help="The bit of the packet mark that says: refuse.",
)
@options.option(
    "--nodeport-addresses",
    metavar="CIDR,…",
    default="",
    help="Serve NodePorts on the node's addresses in these networks; by default on all but loopback.",
)
@options.force
@options.logs
@click.pass_context
def command(
    ctx: click.Context,
    /,
    folder: Path | None,
    state: Path | None,
    cluster_name: str | None,
    **settings: object,
) -> None:
    """Program this node's Service forwarding and keep it true.

    Takes the right to change packet filter rules (root, or a namespace of your own). The rules stay when it
    ends, whatever the reason; `lbprov node cleanup` removes them.
    """
    if ctx.invoked_subcommand is not None:
        return
    if folder is None:
        raise click.UsageError("Missing option '-f' / '--filename'.", ctx)
    try:
        _follow_until_signal(folder, state, cluster_name, **settings)
    except UserError as error:
        if error.field.startswith("--") and error.field not in ("--node-name", "--iptables-backend"):
            raise click.UsageError(str(error), ctx) from error
        raise click.ClickException(str(error)) from error
    except LbprovError as error:
        raise click.ClickException(str(error)) from error


@command.command("cleanup")
def cleanup() -> None:
    """Remove every rule and chain of ours, in both families and both iptables backends."""
    from local_dataplane.kernel.instance import claim
    from local_dataplane.start import cleanup as remove

    try:
        with claim():
            removed = remove()
    except LbprovError as error:
        raise click.ClickException(str(error)) from error
    for where, chains in removed.items():
        click.echo(f"{where}: {chains} chains removed" if chains else f"{where}: nothing of ours")


@command.command("status")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def status(output: str) -> None:
    """Show what this node forwards, read from the rules in the kernel."""
    from local_dataplane.start import status as read

    try:
        found = read()
    except LbprovError as error:
        raise click.ClickException(str(error)) from error
    rows = [
        {
            "address": entry.frontend.address or "nodePort",
            "port": entry.frontend.port,
            "protocol": str(entry.frontend.protocol),
            "family": str(family),
            "backend": str(backend),
            "service": entry.label,
            "endpoints": [f"{b.address}:{b.port}" for b in entry.backends],
        }
        for (family, backend), entries in found.items()
        for entry in entries
    ]
    if output == "json":
        click.echo(json.dumps(rows, indent=2))
    elif not rows:
        click.echo("nothing is forwarded here")
    else:
        _table(rows)


def _table(rows: list[dict[str, object]]) -> None:
    lines = [("ADDRESS", "PORT", "SERVICE", "ENDPOINTS")]
    for row in rows:
        endpoints = [str(e) for e in row["endpoints"]] if isinstance(row["endpoints"], list) else []
        shown = ", ".join(endpoints[:3]) + (f" and {len(endpoints) - 3} more" if len(endpoints) > 3 else "")
        where = str(row["address"])
        if where == "nodePort":
            where = f"nodePort ({row['family']})"
        lines.append((where, f"{row['port']}/{row['protocol']}", str(row["service"]), shown or "(none)"))
    widths = [max(len(line[i]) for line in lines) for i in range(3)]
    for line in lines:
        click.echo(
            "  ".join([*(text.ljust(width) for text, width in zip(line, widths, strict=False)), line[3]])
        )
