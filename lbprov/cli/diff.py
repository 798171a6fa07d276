"""`lbprov diff`: whether a reconcile would do anything."""

from __future__ import annotations

import sys

import click

from lbprov.cli import engine, options
from lbprov.cli.output import print_plans
from lbprov.cli.signals import stopping
from lbprov.model import LbprovError


@click.command()
@engine.flags
@options.output
@options.logs_at("error")
def command(choice: engine.Choice, output: str) -> None:
    """Say whether anything would change, and print what. Nothing is written anywhere.

    Exit status, as of `kubectl diff`: 0 nothing would change, 1 something would, 2 or more an error."""
    try:
        with stopping() as stop, engine.opened_engine(choice, stop, dry_run=True) as opened:
            result = opened.pass_.run()
    except LbprovError as err:
        raise click.UsageError(str(err)) from err
    print_plans(result, opened.pass_.provider.calls(), output)
    if not result.converged:
        sys.exit(2)
    sys.exit(1 if any(outcome.result != "unchanged" for outcome in result.outcomes) else 0)
