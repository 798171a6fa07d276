"""`lbprov reconcile`: one pass over a cluster, or over a folder passes for as long as it runs."""

from __future__ import annotations

import random
import sys
import threading
import time
from typing import TYPE_CHECKING

import click

from lbprov.cli import engine, options
from lbprov.cli.output import (
    OUTCOME_HEAD,
    outcome_row,
    print_plans,
    reconcile_data,
    summary,
    tell_orphans,
    tell_problems,
    tell_unsettled,
    write_data,
    write_table,
)
from lbprov.cli.signals import stopping

if TYPE_CHECKING:
    from lbprov.api import CallCount
    from lbprov.cluster.seam import Problem
    from lbprov.controller.one_pass import PassResult


@click.command()
@engine.flags
@engine.adopt_flag
@options.option("--dry-run", is_flag=True, help="Print what would be done, and do nothing: what `plan` does.")
@options.option("--watch", is_flag=True, help="Go on: follow the folder, retry, and mend drift.")
@options.option(
    "--wait",
    "wait_s",
    type=options.Seconds(min=0),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How long one pass goes on with what needs time; with --watch it is gone on with anyway.",
)
@options.option(
    "--drift-interval",
    "drift_s",
    type=options.Seconds(min=1),
    default=300.0,
    show_default=True,
    metavar="SECONDS",
    help="With --watch: how often to compare everything with the world anew.",
)
@options.output
@options.logs_at("error")
def command(
    choice: engine.Choice, adopt: bool, dry_run: bool, watch: bool, wait_s: float, drift_s: float, output: str
) -> None:
    """Make the load balancers what the Services ask for.

    Exit status: 0 everything is as it should be, 1 something failed or needs more time, 2 wrong usage."""
    if dry_run and watch:
        raise click.UsageError("--dry-run and --watch exclude each other")
    if watch and choice.folder is None:
        raise click.UsageError("--watch follows a folder (-f); a cluster is followed by `lbprov controller`")
    with stopping() as stop:
        if watch:
            _watch(choice, stop, drift_s, output, adopt=adopt)
            return
        wait_s = 0.0 if dry_run else wait_s
        with engine.opened_engine(choice, stop, dry_run=dry_run, adopt=adopt, wait_s=wait_s) as opened:
            result = opened.pass_.run()
    calls = opened.pass_.provider.calls()
    if dry_run:
        print_plans(result, calls, output)
    else:
        _print(result, calls, output)
    sys.exit(0 if result.converged else 1)


def _print(result: PassResult, calls: CallCount, output: str) -> None:
    tell_problems(result.problems)
    tell_orphans(result)
    if output != "table":
        tell_unsettled(result.outcomes)
        write_data(reconcile_data(result, calls), output)
        return
    if result.outcomes:
        write_table(OUTCOME_HEAD, map(outcome_row, result.outcomes))
    click.echo(summary(result.outcomes, calls))


def _watch(choice: engine.Choice, stop: threading.Event, drift_s: float, output: str, *, adopt: bool) -> None:
    from lbprov.controller.watch import watch

    told: tuple[Problem, ...] = ()

    def report(result: PassResult) -> None:
        nonlocal told
        if result.problems != told:
            tell_problems(result.problems)
            told = result.problems
        tell_orphans(result)
        _print_news(result, opened.pass_.provider.calls(), output)

    with engine.opened_engine(choice, stop, adopt=adopt) as opened:
        assert opened.folder is not None
        watch(opened.folder, opened.pass_, report, drift_s=drift_s, chance=random.random)


def _print_news(result: PassResult, calls: CallCount, output: str) -> None:
    """A line per Service that is not as it was, or one document per pass that had any."""
    news = tuple(o for o in result.outcomes if o.result != "unchanged" or o.events)
    if output == "table":
        for outcome in news:
            _, _, what, addresses, note = outcome_row(outcome)
            line = " ".join(filter(None, (time.strftime("%H:%M:%S"), str(outcome.key), what, addresses)))
            click.echo(line + (f": {note}" if note else ""))
    elif news:
        tell_unsettled(news)
        write_data(reconcile_data(result, calls), output, one_line=True)
    sys.stdout.flush()
