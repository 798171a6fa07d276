"""Flags that several verbs share. Each can be given as the environment variable `LBPROV_<FLAG>` too.

Decorators for click commands; the parameter that a flag fills is named in each docstring line::

    @click.command()
    @options.folder          # folder: Path
    @options.optional_folder # folder: Path | None
    @options.state           # state: Path | None
    @options.kubeconfig      # kubeconfig: Path | None
    @options.context         # context: str | None
    @options.more_classes    # more_classes: tuple[str, ...]
    @options.cluster_name    # cluster_name: str | None
    @options.force           # force: bool
    @options.output          # output: "table" | "json" | "yaml"
    @options.logs            # fills nothing: sets logging up before the command's function runs
    def command(folder: Path, ...) -> None: ...
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from lbprov.observe.logs import LEVELS, LogFormat, set_up

F = TypeVar("F", bound=Callable[..., Any])


class Seconds(click.FloatRange):
    """At least so many. To click, also `nan` and `inf` are numbers."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        seconds = super().convert(value, param, ctx)
        if not math.isfinite(seconds):
            self.fail(f"{value} is no number of seconds.", param, ctx)
        return seconds


def envvar(flag: str) -> str:
    """`--cluster-name` -> `LBPROV_CLUSTER_NAME`."""
    return "LBPROV_" + flag.lstrip("-").upper().replace("-", "_")


def option(*declarations: str, **attributes: Any) -> Callable[[F], F]:
    """`click.option` with its environment variable, named after the first long flag."""
    flag = next(d for d in declarations if d.startswith("--")).split("/")[0]
    attributes.setdefault("envvar", envvar(flag))
    return click.option(*declarations, **attributes)


_FOLDER: dict[str, Any] = {
    "metavar": "DIR",
    "type": click.Path(exists=True, file_okay=False, path_type=Path),
}
folder = option(
    "-f",
    "--filename",
    "folder",
    required=True,
    help="The folder of manifests that is the cluster.",
    **_FOLDER,
)
optional_folder = option(
    "-f",
    "--filename",
    "folder",
    help="The folder of manifests that is the cluster; without it, the kubeconfig's cluster.",
    **_FOLDER,
)

kubeconfig = option(
    "--kubeconfig",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="How to reach the cluster; by default the pod's own account or, outside of a pod, the usual rules.",
)

context = option("--context", metavar="NAME", help="The kubeconfig's context; by default its current one.")

more_classes = option(
    "--load-balancer-class",
    "more_classes",
    multiple=True,
    metavar="CLASS",
    help="Serve Services of this spec.loadBalancerClass beside the provider's own, which another controller "
    "served that does not run any more; may be repeated. Without it again, their load balancers are kept, "
    "and follow no change.",
)

state = option(
    "--state",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where addresses, status and allocations are kept; by default a hidden file in the folder.",
)

cluster_name = option(
    "--cluster-name",
    metavar="NAME",
    help="The name that everything made is marked with; by default the one that the state file has.",
)

force = option("--force", is_flag=True, help="Do also what looks like a mistake, such as a mass deletion.")

output = option(
    "-o",
    "--output",
    type=click.Choice(["table", "json", "yaml"]),
    default="table",
    show_default=True,
    help="How to print the answer.",
)


def logs_at(default: str) -> Callable[[F], F]:
    """`--log-level` (with this default) and `--log-format`."""

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def with_logs(*args: Any, log_level: str, log_format: str | None, **kwargs: Any) -> Any:
            set_up(log_level, cast("LogFormat | None", log_format))
            return function(*args, **kwargs)

        level = option(
            "--log-level",
            type=click.Choice(LEVELS),
            default=default,
            show_default=True,
            help="What to log, at least; logs go to stderr.",
        )
        format_ = option(
            "--log-format",
            type=click.Choice(["text", "json"]),
            help="How to log; by default text on a terminal, JSON elsewhere.",
        )
        return level(format_(with_logs))  # type: ignore[return-value]

    return decorate


logs = logs_at("info")
