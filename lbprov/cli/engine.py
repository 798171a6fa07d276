"""What `reconcile`, `plan` and `diff` share: the flags for a provider and a cluster, and the wiring."""

from __future__ import annotations

import contextlib
import functools
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from lbprov.cli import options

if TYPE_CHECKING:
    from lbprov.cluster.manifests import ManifestCluster
    from lbprov.controller.one_pass import Pass

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Choice:
    """What the flags say."""

    provider: str
    provider_options: tuple[str, ...]
    folder: Path
    state: Path | None
    cluster_name: str | None
    own_classless: bool
    workers: int
    force: bool


def flags(function: F) -> F:
    """Fills one parameter: `choice: Choice`."""

    @functools.wraps(function)
    def with_choice(*args: Any, **kwargs: Any) -> Any:
        chosen = {name: kwargs.pop(name) for name in Choice.__dataclass_fields__}
        return function(*args, choice=Choice(**chosen), **kwargs)

    decorated: Any = with_choice
    for decorate in reversed(_FLAGS):
        decorated = decorate(decorated)
    return decorated  # type: ignore[no-any-return]


_FLAGS: tuple[Callable[[Any], Any], ...] = (
    options.option("--provider", required=True, metavar="NAME", help="Who makes the load balancers."),
    options.option(
        "--provider-option",
        "provider_options",
        multiple=True,
        metavar="NAME=VALUE",
        help="A setting of the provider (see `lbprov providers -o yaml`); any number of them.",
    ),
    options.folder,
    options.state,
    options.cluster_name,
    options.option(
        "--own-classless/--no-own-classless",
        default=True,
        show_default=True,
        help="Whether Services without spec.loadBalancerClass are this provider's.",
    ),
    options.option(
        "--workers",
        type=click.IntRange(1, 64),
        default=8,
        show_default=True,
        help="How many Services to work on at once.",
    ),
    options.force,
)


@dataclass(frozen=True, slots=True)
class Engine:
    """A provider over a folder of manifests, ready to go."""

    cluster: ManifestCluster
    pass_: Pass


def open_engine(
    choice: Choice, stop: threading.Event, *, dry_run: bool = False, wait_s: float = 0.0
) -> Engine:
    """`dry_run`: provider and cluster are opened so that they refuse to write."""
    from lbprov import plugins
    from lbprov.api import ProviderContext
    from lbprov.cluster.manifests import ManifestCluster
    from lbprov.controller.clock import MonotonicClock
    from lbprov.controller.one_pass import Pass
    from lbprov.controller.reconcile import Reconciler

    spec = plugins.load(choice.provider)
    settings = plugins.parse_options(spec, choice.provider_options)
    cluster = ManifestCluster.open(
        choice.folder,
        state_file=choice.state,
        cluster_name=choice.cluster_name,
        read_only=dry_run,
        force=choice.force,
    )
    provider = plugins.build(spec, ProviderContext(cluster.name, settings, time.monotonic, dry_run))
    reconciler = Reconciler(cluster, provider, spec, own_classless=choice.own_classless, dry_run=dry_run)
    clock = MonotonicClock()
    return Engine(
        cluster, Pass(cluster, provider, reconciler, clock, stop, choice.workers, choice.force, wait_s)
    )


@contextlib.contextmanager
def stopping() -> Iterator[threading.Event]:
    """Set by the first SIGTERM or SIGINT: what has begun is ended. The second one ends the process."""
    stop = threading.Event()
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in numbers}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def ask(*_: object) -> None:
        stop.set()
        restore()

    for number in numbers:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        restore()
