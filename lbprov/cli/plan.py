"""`lbprov plan`: what a reconcile would do."""

from __future__ import annotations

import sys

import click

from lbprov.cli import engine, options
from lbprov.cli.output import print_plans
from lbprov.cli.signals import stopping


@click.command()
@engine.flags
@engine.adopt_flag
@options.output
@options.logs_at("error")
def command(choice: engine.Choice, adopt: bool, output: str) -> None:
    """Print what a reconcile would do, and do nothing: neither the world nor the state file is written.

    Exit status: 0 all could be planned, 1 something could not, 2 wrong usage."""
    with stopping() as stop, engine.opened_engine(choice, stop, dry_run=True, adopt=adopt) as opened:
        result = opened.pass_.run()
    print_plans(result, opened.pass_.provider.calls(), output)
    sys.exit(0 if result.converged else 1)
