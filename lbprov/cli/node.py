"""`lbprov node`: this node's Service forwarding; `node cleanup`. `node status` is in `node_status`."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lbprov.cli import options
from lbprov.cli.node_status import address, metrics_address, status
from lbprov.cli.signals import stopping
from lbprov.model import LbprovError, UserError

if TYPE_CHECKING:
    from local_dataplane.source import Source


@dataclass(frozen=True, slots=True)
class _Cluster:
    """Where Services are read: a folder, or (None) an API server."""

    folder: Path | None
    state: Path | None
    cluster_name: str | None
    force: bool
    kubeconfig: Path | None
    context: str | None

    @contextlib.contextmanager
    def opened(self, node_name: str, *, once: bool) -> Iterator[Source]:
        if self.folder is not None:
            from lbprov.cluster.manifests import ManifestCluster
            from local_dataplane.source import FolderSource

            yield FolderSource(
                ManifestCluster.open(
                    self.folder, state_file=self.state, cluster_name=self.cluster_name, force=self.force
                ),
                str(self.folder),
            )
            return
        from local_dataplane.api_source import ApiSource

        source = ApiSource.connect(self.kubeconfig, self.context, node_name)
        if once:
            source.read_once()
            yield source
            return
        source.start()
        try:
            yield source
        finally:
            source.stop()


_INTERFACE_OF = {
    "bridge-interface": "pod_bridge_interface",
    "interface-name-prefix": "pod_interface_name_prefix",
}


def _follow_until_signal(cluster: _Cluster, **settings: Any) -> None:
    from local_dataplane import garbage
    from local_dataplane.config import Detect, NodeConfig, canonical_cidrs
    from local_dataplane.kernel.instance import claim
    from local_dataplane.pace import Pace
    from local_dataplane.reporting import reporting
    from local_dataplane.selection import Mode
    from local_dataplane.start import open_agent

    detect = Detect(settings["detect_local"])
    for way, name in _INTERFACE_OF.items():
        if settings[name] and detect != way:
            raise UserError(f"goes with --detect-local {way}", field=f"--{name.replace('_', '-')}")
    nodeports = settings["nodeport_addresses"].strip()
    primary = nodeports == "primary"
    config = NodeConfig(
        cluster_cidrs=canonical_cidrs(settings["cluster_cidr"], "--cluster-cidr"),
        masquerade_all=settings["masquerade_all"],
        masquerade_bit=settings["masquerade_bit"],
        refusal_bit=settings["refusal_bit"],
        nodeport_addresses=() if primary else canonical_cidrs(nodeports, "--nodeport-addresses"),
        nodeport_primary=primary,
        detect_local=detect,
        pod_interface=settings[_INTERFACE_OF[detect]] if detect in _INTERFACE_OF else "",
        localhost_nodeports=settings["localhost_nodeports"],
    )
    node_name = settings["node_name"] or os.uname().nodename
    garbage.expect_much()
    with claim(), cluster.opened(node_name, once=settings["once"]) as source:
        agent = open_agent(source, node_name, config, settings["iptables_backend"], Mode(settings["mode"]))
        agent.pace = Pace(settings["min_sync_period"])
        agent.thorough_s = settings["sync_period"]
        if settings["once"]:
            if not agent.run_once():
                sys.exit(1)
        else:
            pages = {n: a for n in ("health", "metrics") if (a := settings[f"{n}_address"])}
            with stopping() as stop, reporting(agent, config, pages):
                agent.run(stop)


@click.group(invoke_without_command=True)
@options.option(
    "-f",
    "--filename",
    "folder",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The folder of manifests that is the cluster; without it, the kubeconfig's cluster.",
)
@options.state
@options.cluster_name
@options.kubeconfig
@options.context
@options.option("--node-name", metavar="NAME", help="Which Node this machine is; by default its hostname.")
@options.option(
    "--cluster-cidr",
    metavar="CIDR[,CIDR]",
    default="",
    help="Where Pods' addresses come from, one CIDR per family. Clients of a clusterIP from elsewhere are "
    "masqueraded; without it nobody is.",
)
@options.option(
    "--detect-local",
    type=click.Choice(["cluster-cidr", "node-cidr", "bridge-interface", "interface-name-prefix", "none"]),
    default="cluster-cidr",
    show_default=True,
    help="How Pods are told from everybody else: by --cluster-cidr, by the Node's podCIDRs, or by the "
    "interface that their packets come in on.",
)
@options.option(
    "--pod-bridge-interface",
    metavar="NAME",
    default="",
    help="The bridge of this node's Pods, for --detect-local bridge-interface.",
)
@options.option(
    "--pod-interface-name-prefix",
    metavar="TEXT",
    default="",
    help="How the names of Pods' interfaces begin, for --detect-local interface-name-prefix.",
)
@options.option("--once", is_flag=True, help="Apply the cluster as it is, and end.")
@options.option(
    "--min-sync-period",
    type=click.FloatRange(0),
    metavar="SECONDS",
    default=0.01,
    show_default=True,
    help="Two writes begin at least so far apart: what changes meanwhile is gathered. The first change after "
    "a quiet time is written at once.",
)
@options.option(
    "--sync-period",
    type=click.FloatRange(1),
    metavar="SECONDS",
    default=120,
    show_default=True,
    help="How often all rules are compared with the kernel's, although nobody is known to have changed any.",
)
@options.option(
    "--mode",
    type=click.Choice(["iptables", "nftables", "auto"]),
    default="iptables",
    show_default=True,
    help="How packets are forwarded; auto: nftables where the kernel has what it takes. Rules of the other "
    "one go when the new ones are in place.",
)
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
    metavar="CIDR,…|primary",
    default="",
    help="Serve NodePorts on the node's addresses in these networks, or (primary) on its first of each "
    "family; by default on all but loopback.",
)
@options.option(
    "--localhost-nodeports",
    is_flag=True,
    help="Serve NodePorts on 127.0.0.1 too, for this node's own programs (IPv4). It sets route_localnet, and "
    "keeps neighbours from what listens there.",
)
@options.option(
    "--health-address",
    metavar="[HOST]:PORT",
    default=":10256",
    show_default=True,
    callback=address,
    help="Where /healthz, /livez and /readyz are; empty: nowhere. Load balancers ask there.",
)
@metrics_address
@options.force
@options.logs
@click.pass_context
def command(
    ctx: click.Context,
    /,
    folder: Path | None,
    state: Path | None,
    cluster_name: str | None,
    kubeconfig: Path | None,
    context: str | None,
    force: bool,
    **settings: object,
) -> None:
    """Program this node's Service forwarding and keep it true.

    Takes the right to change packet filter rules (root, or a namespace of your own). The rules stay when it
    ends, whatever the reason; `lbprov node cleanup` removes them.
    """
    if ctx.invoked_subcommand is not None:
        return
    if folder is not None and (kubeconfig or context):
        raise click.UsageError("-f is a cluster of its own: leave --kubeconfig and --context out", ctx)
    cluster = _Cluster(folder, state, cluster_name, force, kubeconfig, context)
    try:
        _follow_until_signal(cluster, **settings)
    except UserError as error:
        if error.field.startswith("--") and error.field not in (
            "--node-name",
            "--iptables-backend",
            "--mode",
        ):
            raise click.UsageError(str(error), ctx) from error
        raise click.ClickException(str(error)) from error
    except LbprovError as error:
        raise click.ClickException(str(error)) from error


@command.command("cleanup")
@click.option(
    "--kube-proxy",
    "of_kube_proxy",
    is_flag=True,
    help="Remove what a kube-proxy that has ended left, instead; an agent may run meanwhile.",
)
@click.option(
    "--after-kube-proxy",
    is_flag=True,
    help="Wait until a kube-proxy on this node has written all its rules, and only then remove ours.",
)
@click.option(
    "--stay",
    is_flag=True,
    help="Do not end before SIGTERM, and say at /livez and /readyz that all is well: for a Pod in an agent's "
    "place.",
)
@metrics_address
def cleanup(
    of_kube_proxy: bool, after_kube_proxy: bool, stay: bool, metrics_address: tuple[str, int] | None
) -> None:
    """Remove every rule, chain and table of ours, in both families and every mode, and end the UDP flows that
    they began, unless a kube-proxy runs here: it goes on with them."""
    if of_kube_proxy and after_kube_proxy:
        raise click.UsageError("--kube-proxy removes its rules, --after-kube-proxy ours: give one of them")
    from local_dataplane.cleanup import cleanup as remove
    from local_dataplane.kernel import kube_proxy
    from local_dataplane.kernel.instance import claim

    try:
        if of_kube_proxy:
            for where, restores in kube_proxy.remove().items():
                click.echo(f"{where}: {'removed' if restores else 'nothing'} of kube-proxy's")
        else:
            with claim():
                if after_kube_proxy:
                    kube_proxy.await_complete()
                removed = remove(end_flows=not kube_proxy.running())
                for where, chains in removed.chains.items():
                    click.echo(f"{where}: {chains} chains removed" if chains else f"{where}: nothing of ours")
                for family, flows in removed.flows.items():
                    if flows:
                        click.echo(f"{family}: {flows} UDP flows ended")
    except LbprovError as error:
        raise click.ClickException(str(error)) from error
    if stay:
        _stay(metrics_address)


def _stay(where: tuple[str, int] | None) -> None:
    from local_dataplane.http_ports import Answer, HttpPorts

    http = HttpPorts()
    http.start()
    try:
        if where:
            http.open("stay", [where], lambda _path, _accept: Answer(200, b"cleaned up\n"))
        with stopping() as stop:
            stop.wait()
    except OSError as error:
        raise click.ClickException(f"cannot listen on port {where and where[1]}: {error.strerror}") from error
    finally:
        http.stop()


command.add_command(status)
