"""`lbprov controller`: follows a cluster's Services and keeps their load balancers true."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from lbprov.cli import options
from lbprov.cli.signals import stopping
from lbprov.model import LbprovError, UserError


def _address(_context: click.Context, _parameter: click.Parameter, text: str) -> tuple[str, int]:
    from lbprov.observe.health import parse_address

    try:
        return parse_address(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.command()
@options.option(
    "--provider",
    metavar="NAME",
    required=True,
    help="Where load balancers are made; `lbprov providers` lists what is installed.",
)
@options.option(
    "--cluster-name",
    metavar="NAME",
    required=True,
    help="The name that everything made is marked with: unique among the clusters that share a cloud "
    "account, and never changed afterwards.",
)
@options.kubeconfig
@options.context
@options.option(
    "--own-classless",
    is_flag=True,
    help="Serve Services without spec.loadBalancerClass too. Only one controller of a cluster may.",
)
@options.more_classes
@options.option(
    "--leader-elect/--no-leader-elect",
    default=True,
    show_default=True,
    help="Of several replicas, let one work at a time.",
)
@options.option(
    "--lease-namespace",
    metavar="NAMESPACE",
    default="",
    help="Where the Lease is; by default in the namespace of the pod or of the kubeconfig's context.",
)
@options.option(
    "--lease-name",
    metavar="NAME",
    default="lbprov-controller",
    show_default=True,
    help="Replicas with the same one elect one of them.",
)
@options.option(
    "--lease-duration",
    type=options.Seconds(1),
    metavar="SECONDS",
    default=15,
    show_default=True,
    help="How long others wait for a leader that says nothing.",
)
@options.option(
    "--renew-deadline",
    type=options.Seconds(0.5),
    metavar="SECONDS",
    default=10,
    show_default=True,
    help="How long a leader that gets no answer goes on: shorter than the lease.",
)
@options.option(
    "--retry-period",
    type=options.Seconds(0.1),
    metavar="SECONDS",
    default=2,
    show_default=True,
    help="How often the lease is renewed, or asked for.",
)
@options.option(
    "--workers",
    type=click.IntRange(1, 64),
    default=4,
    show_default=True,
    help="How many Services are carried out at once.",
)
@options.option(
    "--drift-period",
    type=options.Seconds(0),
    metavar="SECONDS",
    default=600,
    show_default=True,
    help="How often every Service is looked at although nothing is known to have changed; 0: never.",
)
@options.option(
    "--grace-period",
    type=options.Seconds(0),
    metavar="SECONDS",
    default=20,
    show_default=True,
    help="How long what is under way may take after SIGTERM.",
)
@options.option(
    "--node-window",
    type=options.Seconds(0),
    metavar="SECONDS",
    default=1,
    show_default=True,
    help="For how long changes of nodes are gathered into one change of every load balancer.",
)
@options.option(
    "--health-address",
    metavar="[HOST]:PORT",
    default=":8080",
    show_default=True,
    callback=_address,
    help="Where /healthz, /readyz and /metrics are.",
)
@options.option(
    "--provider-option",
    "provider_options",
    metavar="NAME=VALUE",
    multiple=True,
    help="A setting of the provider's own; may be repeated.",
)
@options.logs
def command(
    provider: str,
    cluster_name: str,
    kubeconfig: Path | None,
    context: str | None,
    own_classless: bool,
    more_classes: tuple[str, ...],
    leader_elect: bool,
    lease_namespace: str,
    lease_name: str,
    lease_duration: float,
    renew_deadline: float,
    retry_period: float,
    workers: int,
    drift_period: float,
    grace_period: float,
    node_window: float,
    health_address: tuple[str, int],
    provider_options: tuple[str, ...],
) -> None:
    """Follow a cluster's Services and keep their load balancers true.

    Ends at SIGTERM or Ctrl-C, once what is under way has ended: exit 0 (a second one ends it at once). Ends
    with exit 1, to be started anew, when another replica has taken over or there is no going on."""
    from lbprov.controller.start import Config, Election, open_app
    from lbprov.controller.term import Settings

    election = Election(lease_namespace, lease_name, lease_duration, renew_deadline, retry_period)
    config = Config(
        provider,
        cluster_name,
        kubeconfig,
        context,
        provider_options,
        election if leader_elect else None,
        Settings(workers, own_classless, drift_period, grace_period, node_window, more_classes),
    )
    try:
        app = open_app(config)
        server = app.health(health_address)
    except UserError as error:
        raise click.UsageError(str(error)) from error
    except (LbprovError, OSError) as error:
        raise click.ClickException(str(error)) from error
    with stopping() as stop:
        server.start()
        code = app.run(stop)
        server.stop()
    sys.exit(code)
