"""How answers are printed: a table for people, JSON and YAML for programs. Only answers go to stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

import click

from lbprov.model import Event, Ingress, Outcome, Result, Severity

if TYPE_CHECKING:
    from lbprov.api import CallCount
    from lbprov.cluster.seam import Problem
    from lbprov.controller.one_pass import PassResult


MIN_NOTE_WIDTH = 24


def write_data(data: Any, output: str, *, one_line: bool = False) -> None:
    """`data` as JSON or YAML. `one_line`: as one of several documents of a stream."""
    if output == "json":
        click.echo(json.dumps(data, ensure_ascii=False, indent=None if one_line else 2))
        return
    import yaml

    text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True, default_flow_style=False)
    click.echo(("---\n" if one_line else "") + text, nl=False)


def write_table(head: Sequence[str], rows: Iterable[Sequence[str]], stream: TextIO | None = None) -> None:
    """Aligned columns."""
    stream = stream or sys.stdout
    rows = [[one_line(cell) for cell in row] for row in rows]
    if stream.isatty():
        _write_rich_table(head, rows, stream)
        return
    widths = [max(len(row[i]) for row in [list(head), *rows]) for i in range(len(head))]
    for row in [list(head), *rows]:
        line = "   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo(line.rstrip(), file=stream)


def _write_rich_table(head: Sequence[str], rows: Sequence[Sequence[str]], stream: TextIO) -> None:
    """The last column is folded. The others are whole, however narrow the terminal: they are to be copied."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for index, name in enumerate(head):
        table.add_column(name, no_wrap=index < len(head) - 1, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
    console = Console(file=stream, highlight=False)
    whole = sum(max(len(row[i]) for row in [head, *rows]) + 3 for i in range(len(head) - 1))
    console.width = max(console.width, whole + MIN_NOTE_WIDTH)
    console.print(table)


_STYLES = {"created": "green", "updated": "green", "deleted": "yellow", "pending": "yellow", "failed": "red"}


def one_line(text: str) -> str:
    """What comes from others may hold line ends and control characters."""
    return "".join(c if c.isprintable() else " " for c in text)


def reconcile_data(result: PassResult, calls: CallCount) -> dict[str, Any]:
    """The documented shape of `lbprov reconcile -o json`."""
    return {
        "services": [
            {
                "namespace": outcome.key.namespace,
                "name": outcome.key.name,
                "result": outcome.result.value,
                "ingress": [ingress_data(i) for i in outcome.ingress],
                "events": [event_data(e) for e in outcome.events],
            }
            for outcome in result.outcomes
        ],
        "calls": calls_data(calls),
    }


def calls_data(calls: CallCount) -> dict[str, Any]:
    return {
        "read": calls.read,
        "write": calls.write,
        "by_operation": dict(sorted(calls.by_operation.items())),
    }


def ingress_data(ingress: Ingress) -> dict[str, str]:
    """As in `status.loadBalancer.ingress`."""
    if ingress.hostname:
        return {"hostname": ingress.hostname}
    return {"ip": ingress.ip, **({"ipMode": ingress.ip_mode.value} if ingress.ip_mode else {})}


def event_data(event: Event) -> dict[str, str]:
    return {"type": event.severity.value, "reason": event.reason, "message": event.message}


def outcome_row(outcome: Outcome) -> tuple[str, str, str, str, str]:
    """Under NAMESPACE, NAME, RESULT, ADDRESS, NOTE. The note: why it is not done, or what was warned of."""
    warnings = [e.message for e in outcome.events if e.severity is Severity.WARNING]
    note = outcome.message or "; ".join(warnings)
    addresses = ",".join(map(str, outcome.ingress))
    return (outcome.key.namespace, outcome.key.name, outcome.result.value, addresses, note)


OUTCOME_HEAD = ("NAMESPACE", "NAME", "RESULT", "ADDRESS", "NOTE")


def summary(outcomes: Iterable[Outcome], calls: CallCount) -> str:
    results = [outcome.result for outcome in outcomes]
    counts = (
        ", ".join(f"{results.count(r)} {r.value}" for r in Result if r in results) or "no Services of ours"
    )
    return f"{counts}; {_plural(calls.read, 'read')}, {_plural(calls.write, 'write')}"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def tell_problems(problems: Iterable[Problem]) -> None:
    """On stderr, `FILE:LINE: OBJECT: FIELD: MESSAGE` each."""
    for problem in problems:
        click.echo(one_line(("" if problem.fatal else "warning: ") + str(problem)), err=True)


def tell_unsettled(outcomes: Iterable[Outcome]) -> None:
    """On stderr, for programs' formats, which have no place for it."""
    for outcome in outcomes:
        if outcome.message:
            line = f"Service {outcome.key}: {outcome.result.value}: {outcome.message}"
            click.echo(one_line(line), err=True)


def tell_orphans(result: PassResult) -> None:
    if result.orphans:
        shown = ", ".join(f"{o.service} (uid {o.uid})" for o in result.orphans[:5])
        more = f" and {len(result.orphans) - 5} more" if len(result.orphans) > 5 else ""
        click.echo(
            f"warning: left alone, as no Service stands for them: resources of {shown}{more}. `lbprov gc`, "
            "with the same flags, lists them, and deletes them with --delete",
            err=True,
        )


def print_plans(result: PassResult, calls: CallCount, output: str) -> None:
    tell_problems(result.problems)
    tell_orphans(result)
    if output == "table":
        click.echo(plans_text(result))
    else:
        tell_unsettled(result.outcomes)
        write_data(plans_data(result, calls), output)


def plans_data(result: PassResult, calls: CallCount) -> dict[str, Any]:
    """The documented shape of `lbprov plan -o json`."""
    return {"plans": [_plan_data(outcome) for outcome in result.outcomes], "calls": calls_data(calls)}


def _plan_data(outcome: Outcome) -> Mapping[str, Any]:
    nothing: dict[str, Any] = {"steps": [], "notices": []}
    plan = outcome.plan.to_json() if outcome.plan else nothing
    return {
        "namespace": outcome.key.namespace,
        "name": outcome.key.name,
        "result": outcome.result.value,
        **({"message": outcome.message} if outcome.message else {}),
        "steps": plan["steps"],
        "notices": plan["notices"],
    }


def plans_text(result: PassResult) -> str:
    """Every Service that something would be done for, or that something is wrong with; then the sum."""
    parts = []
    for outcome in result.outcomes:
        plan = outcome.plan
        if plan and (plan.steps or any(n.severity is Severity.WARNING for n in plan.notices)):
            parts.append(plan.to_text())
        if outcome.message:
            parts.append(f"{outcome.key}: {outcome.result.value}: {outcome.message}")
    steps = [step for outcome in result.outcomes if outcome.plan for step in outcome.plan.steps]
    counts = ", ".join(
        f"{sum(step.action == action for step in steps)} to {action}"
        for action in ("create", "update", "delete")
    )
    services = _plural(sum(bool(o.plan and o.plan.steps) for o in result.outcomes), "Service")
    parts.append(f"Plan: {counts} for {services}." if steps else "No change.")
    return "\n".join(parts)
