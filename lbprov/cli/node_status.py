"""`lbprov node status`: what a node forwards, by its kernel, and how its agent is, by itself."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from typing import Any

import click

from lbprov.cli import options
from lbprov.model import LbprovError

ANSWER_WITHIN_S = 3.0
SHOWN_WARNINGS = 10


def address(_context: click.Context, _parameter: click.Parameter, text: str) -> tuple[str, int] | None:
    """A flag's `[HOST]:PORT`; None where it is empty."""
    from lbprov.observe.health import parse_address

    try:
        return parse_address(text) if text else None
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


metrics_address = options.option(
    "--metrics-address",
    metavar="[HOST]:PORT",
    default="127.0.0.1:10264",
    show_default=True,
    callback=address,
    help="Where the agent's /metrics and /status (and its health, too) are; empty: nowhere. Not where "
    "kube-proxy's are, so that both can run while one takes over.",
)


@click.command("status")
@metrics_address
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def status(metrics_address: tuple[str, int] | None, output: str) -> None:
    """Show what this node forwards, read from the rules in the kernel, and what its agent says of itself."""
    from local_dataplane.start import status as read

    try:
        found = read()
    except LbprovError as error:
        raise click.ClickException(str(error)) from error
    agent = ask_agent(metrics_address) if metrics_address else None
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
        click.echo(json.dumps({"agent": agent, "forwarded": rows}, indent=2))
        return
    for line in _about(agent) if agent else ["agent: none answers here; its rules stay while it is away"]:
        click.echo(line)
    click.echo()
    if rows:
        _table(rows)
    else:
        click.echo("nothing is forwarded here")


def ask_agent(where: tuple[str, int]) -> dict[str, Any] | None:
    """What an agent says of itself at its metrics address; None where none answers."""
    host, port = where[0] or "127.0.0.1", where[1]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}/status"
    try:
        with urllib.request.urlopen(url, timeout=ANSWER_WITHIN_S) as answer:
            said: dict[str, Any] = json.load(answer)
    except (OSError, ValueError):
        return None
    return said if "left_out" in said else None  # somebody else has that port


def _about(agent: dict[str, Any]) -> Iterator[str]:
    yield (
        f"agent: lbprov {agent['version']} on {agent['node']}, running since {agent['running_since']}, "
        f"mode {agent['mode']}, follows {agent['cluster']}"
    )
    applied = ", ".join(f"{family} {at}" for family, at in agent["applied"].items())
    yield f"last applied: {applied or 'nothing yet'}; {agent['services']} Services are forwarded"
    if agent["awaited"]:
        yield f"WAITING: {agent['awaited']}; what was forwarded before still is"
    if not agent["healthy"]:
        yield "NOT HEALTHY: changes have been waiting for more than a minute; the agent's log says why"
    if not agent["takes_new_traffic"]:
        yield "not for new traffic: the Node is unknown, or is being taken away"
    for left in agent["left_out"]:
        port = left["port"] or left["protocol"]
        yield (
            f"LEFT OUT: {left['service']} port {port} ({left['family']}, {left['protocol']}) "
            f"since {left['since']}: {left['reason']}"
        )
    for warning in agent["warnings"][-SHOWN_WARNINGS:]:
        yield f"warning: {warning}"


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
