"""`lbprov demo`."""

from __future__ import annotations

import sys

import click

from lbprov.cli import options
from lbprov.model import LbprovError


@click.command()
@options.option(
    "-o",
    "--output",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="How to tell what happened.",
)
def command(output: str) -> None:
    """Carry the walkthrough out on this machine: no cluster, no cloud, no root.

    Three nodes, Pods and clients are made in namespaces of their own, AWS is an API server on 127.0.0.1. One
    web server is put behind every kind of Service in turn, and every step is proved by real requests. Exit
    code 1 names the step that does not hold. Everything is gone afterwards.
    """
    try:
        from lbprov.demo.run import run
        from lbprov.demo.show import Show

        sys.exit(run(Show(as_json=output == "json")))
    except LbprovError as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:  # before there was anything to take away
        sys.exit(130)
