"""`lbprov providers`: the plugins that are installed."""

from __future__ import annotations

from typing import Any

import click

from lbprov.cli import options
from lbprov.cli.output import write_data, write_table
from lbprov.model import UserError


@click.command()
@options.output
@options.logs_at("error")
def command(output: str) -> None:
    """List the provider plugins that are installed, their classes and their options."""
    from lbprov import plugins

    found = plugins.discover()
    listed: list[dict[str, Any]] = []
    for plugin in found:
        entry: dict[str, Any] = {"name": plugin.name, "origin": plugin.origin}
        try:
            spec = plugins.load(plugin.name, found)
        except UserError as err:
            entry["error"] = str(err).removeprefix(f"{err.field}: ")
        else:
            entry["loadBalancerClass"] = spec.load_balancer_class
            entry["summary"] = spec.summary
            entry["options"] = [{"name": o.name, "default": o.default, "help": o.help} for o in spec.options]
        listed.append(entry)
    if output != "table":
        write_data({"providers": listed}, output)
        return
    write_table(
        ("NAME", "CLASS", "SUMMARY", "FROM"),
        [
            (
                e["name"],
                e.get("loadBalancerClass", ""),
                e.get("summary") or f"unusable: {e['error']}",
                e["origin"],
            )
            for e in listed
        ],
    )
