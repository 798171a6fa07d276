"""`lbprov gc`: resources with our mark that no Service wants."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from lbprov.cli import engine, options
from lbprov.cli.output import calls_data, one_line, tell_problems, write_data, write_table
from lbprov.cli.signals import stopping
from lbprov.model import LbprovError

if TYPE_CHECKING:
    from lbprov.api import CallCount
    from lbprov.controller.sweep import Orphan, SweepResult

HEAD = ("NAMESPACE", "NAME", "UID", "KIND", "RESOURCE", "SINCE", "FATE", "WHY")


@click.command()
@engine.flags
@options.option("--delete", is_flag=True, help="Delete them; without it they are only told.")
@options.option(
    "--wait",
    "wait_s",
    type=options.Seconds(min=0),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="With --delete: how long to go on with what needs time to go away.",
)
@options.output
@options.logs_at("error")
def command(choice: engine.Choice, delete: bool, wait_s: float, output: str) -> None:
    """Tell which resources bear this cluster's mark although no Service wants them, and delete them if told
    to. What a crash has left in part counts too; what bears no mark, or another cluster's, does not.

    Exit status: 0 told, or all deleted; 1 something could not be, or needs more time; 2 wrong usage."""
    from lbprov.controller.sweep import Sweep

    with (
        stopping() as stop,
        engine.opened_engine(choice, stop, dry_run=not delete, reads_cluster_only=True) as opened,
    ):
        pass_ = opened.pass_
        sweep = Sweep(
            pass_.cluster,
            pass_.provider,
            pass_.engine.claimant,
            pass_.clock,
            stop,
            choice.workers,
            choice.force,
            wait_s,
        )
        try:
            result = sweep.run(delete=delete)
        except LbprovError as err:
            raise click.ClickException(str(err)) from err
    _print(result, pass_.provider.calls(), output)
    sys.exit(0 if result.clean else 1)


def _print(result: SweepResult, calls: CallCount, output: str) -> None:
    tell_problems(result.problems)
    if result.refusal:
        click.echo(one_line(result.refusal), err=True)
    if output != "table":
        for orphan in result.orphans:
            if orphan.message:
                click.echo(one_line(f"{orphan.owner.service}: {orphan.fate}: {orphan.message}"), err=True)
        write_data(gc_data(result, calls), output)
        return
    rows = [row for orphan in result.orphans for row in _rows(orphan)]
    if rows:
        write_table(HEAD, rows)
    click.echo(_summary(result))


def gc_data(result: SweepResult, calls: CallCount) -> dict[str, Any]:
    """The documented shape of `lbprov gc -o json`."""
    return {"orphans": [_orphan_data(orphan) for orphan in result.orphans], "calls": calls_data(calls)}


def _orphan_data(orphan: Orphan) -> dict[str, Any]:
    resources = [
        {"kind": r.kind, "name": r.name, "id": r.id, **({"since": r.since} if r.since else {})}
        for r in orphan.resources
    ]
    return {
        "namespace": orphan.owner.service.namespace,
        "name": orphan.owner.service.name,
        "uid": orphan.owner.uid,
        "why": orphan.why,
        "fate": orphan.fate.value,
        **({"message": orphan.message} if orphan.message else {}),
        "resources": resources,
    }


def _rows(orphan: Orphan) -> Iterator[tuple[str, ...]]:
    key, note = orphan.owner.service, f"{orphan.why}; {orphan.message}" if orphan.message else orphan.why
    whose = (key.namespace, key.name, orphan.owner.uid)
    for held in orphan.resources:
        yield (*whose, held.kind, held.name or held.id, held.since or "-", orphan.fate.value, note)
    if not orphan.resources:
        yield (*whose, "-", "-", "-", orphan.fate.value, note)


def _summary(result: SweepResult) -> str:
    if not result.orphans:
        return "Nothing is there that no Service wants."
    fates = [orphan.fate for orphan in result.orphans]
    counts = ", ".join(f"{fates.count(fate)} {fate.value}" for fate in dict.fromkeys(sorted(fates)))
    resources = sum(len(orphan.resources) for orphan in result.orphans)
    owners = len(result.orphans)
    text = f"{resources} resource{'s'[: resources != 1]} of {owners} Service{'s'[: owners != 1]}: {counts}"
    return text if "kept" not in fates or result.refusal else text + ". `--delete` deletes them."
