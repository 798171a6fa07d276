"""The `lbprov` command: names its verbs and imports the one that is called.

`--help` reads the table below and imports no verb, so it costs no SDK.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
from typing import Any

import click

from lbprov import __version__

VERBS: dict[str, tuple[str, str]] = {
    # verb -> (module holding a click command named `command`, one-line help)
    "controller": (
        "lbprov.cli.controller",
        "Follow a cluster's Services and keep their load balancers true.",
    ),
    "demo": ("lbprov.cli.demo", "Carry the walkthrough out on this machine: no cluster, no cloud, no root."),
    "diff": (
        "lbprov.cli.diff",
        "Say whether anything would change: exit 0 no, 1 yes, 2 or more for an error.",
    ),
    "explain": (
        "lbprov.cli.explain",
        "Follow a Service's addresses to its endpoints, or say why nothing answers.",
    ),
    "gc": ("lbprov.cli.gc", "Tell, or delete, resources of this cluster that no Service wants."),
    "node": ("lbprov.cli.node", "Program this node's Service forwarding and keep it true."),
    "plan": ("lbprov.cli.plan", "Print what a reconcile would do, and do nothing."),
    "providers": ("lbprov.cli.providers", "List the provider plugins that are installed."),
    "reconcile": ("lbprov.cli.reconcile", "Make the load balancers what the Services ask for."),
    "status": ("lbprov.cli.status", "Show the Services, their addresses and what is wrong with them."),
}


NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


class _LazyVerbs(click.Group):
    def main(self, *args: Any, **settings: Any) -> Any:
        """As click's, which knows of outputs that were closed but of none that is full."""
        try:
            return super().main(*args, **settings)
        except OSError as err:
            if err.errno not in NO_ROOM or err.filename is not None:
                raise
            click.echo(f"Error: the output cannot be written: {err.strerror}", err=True)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is left of it is not tried again at the exit
            sys.exit(os.EX_IOERR)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command: click.Command = importlib.import_module(VERBS[cmd_name][0]).command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """What is expected to go wrong is one line, not a traceback: wrong usage (a flag is named) exits
        with 2, everything else with 1."""
        try:
            return super().invoke(ctx)
        except Exception as err:
            from lbprov.model.errors import LbprovError

            if not isinstance(err, LbprovError):
                raise
            if getattr(err, "field", "").startswith("--"):
                raise click.UsageError(str(err)) from err
            raise click.ClickException(str(err)) from err

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl([(verb, help_) for verb, (_, help_) in sorted(VERBS.items())])


@click.group(
    cls=_LazyVerbs,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Every flag can be given as LBPROV_<FLAG> too. Start with: lbprov demo",
)
@click.version_option(__version__, prog_name="lbprov")
def main() -> None:
    """Load balancers for Kubernetes Services: on AWS, on Google Cloud, on bare metal."""


if __name__ == "__main__":
    main()
