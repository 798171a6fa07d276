"""What `reconcile`, `plan` and `diff` share: the flags for a provider and a cluster, and the wiring."""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from lbprov.cli import options
from lbprov.model import UserError

if TYPE_CHECKING:
    from lbprov.cluster.apiserver import ApiCluster
    from lbprov.cluster.manifests import ManifestCluster
    from lbprov.controller.one_pass import Pass

adopt_flag = options.option(
    "--adopt",
    is_flag=True,
    help="Take over load balancers that another controller has made for these Services, names and addresses "
    "unchanged; of a Service that says lbprov.io/adopt itself, that counts.",
)
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Choice:
    """What the flags say. `folder` None: the cluster is the kubeconfig's."""

    provider: str
    provider_options: tuple[str, ...]
    folder: Path | None
    state: Path | None
    kubeconfig: Path | None
    context: str | None
    cluster_name: str | None
    own_classless: bool | None
    more_classes: tuple[str, ...]
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
    options.optional_folder,
    options.state,
    options.kubeconfig,
    options.context,
    options.option(
        "--cluster-name",
        metavar="NAME",
        help="The name that everything made is marked with; of a folder by default the one that the state "
        "file has, of a kubeconfig's cluster always to be given.",
    ),
    options.option(
        "--own-classless/--no-own-classless",
        default=None,
        help="Whether Services without spec.loadBalancerClass are this provider's; by default in a folder, "
        "not in a kubeconfig's cluster.",
    ),
    options.more_classes,
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
    """A provider over a cluster, ready to go. `folder` None: the cluster is the kubeconfig's."""

    pass_: Pass
    folder: ManifestCluster | None = None


@contextlib.contextmanager
def opened_engine(
    choice: Choice,
    stop: threading.Event,
    *,
    dry_run: bool = False,
    reads_cluster_only: bool = False,
    adopt: bool = False,
    wait_s: float = 0.0,
) -> Iterator[Engine]:
    """`dry_run`: the provider is opened so that it refuses to write, and so is a folder;
    `reads_cluster_only`: the folder alone. Raises `UserError`."""
    from lbprov import plugins
    from lbprov.api import ProviderContext
    from lbprov.controller.asked import Asked
    from lbprov.controller.clock import MonotonicClock
    from lbprov.controller.one_pass import Pass
    from lbprov.controller.reconcile import Reconciler
    from lbprov.logic.selection import Claimant, checked_classes

    spec = plugins.load(choice.provider)
    settings = plugins.parse_options(spec, choice.provider_options)
    own_classless = choice.own_classless
    if own_classless is None:
        own_classless = choice.folder is not None
    classes = checked_classes(choice.more_classes, spec.load_balancer_class)
    with _opened_cluster(choice, dry_run or reads_cluster_only) as cluster:
        asked = Asked(
            cluster.name, spec, Claimant(spec.name, spec.load_balancer_class, own_classless, classes)
        )
        context = ProviderContext(
            cluster.name,
            settings,
            time.monotonic,
            dry_run,
            provider_ids=lambda: [node.provider_id for node in cluster.snapshot().nodes],
            asked=asked,
        )
        provider = plugins.build(spec, context)
        reconciler = Reconciler(
            cluster,
            provider,
            spec,
            own_classless=own_classless,
            more_classes=classes,
            dry_run=dry_run,
            adopt=adopt,
        )
        pass_ = Pass(
            cluster,
            provider,
            reconciler,
            MonotonicClock(),
            stop,
            choice.workers,
            choice.force,
            wait_s,
            asked,
        )
        yield Engine(pass_, None if choice.folder is None else cast("ManifestCluster", cluster))


@contextlib.contextmanager
def _opened_cluster(choice: Choice, dry_run: bool) -> Iterator[ManifestCluster | ApiCluster]:
    if choice.folder is not None:
        from lbprov.cluster.manifests import ManifestCluster

        if choice.kubeconfig or choice.context:
            raise click.UsageError("-f is a cluster of its own: leave --kubeconfig and --context out")
        yield ManifestCluster.open(
            choice.folder,
            state_file=choice.state,
            cluster_name=choice.cluster_name,
            read_only=dry_run,
            force=choice.force,
        )
        return
    if not choice.cluster_name:
        raise click.UsageError("give a folder with -f, or the cluster's name with --cluster-name")
    from lbprov.cluster.apiserver import ApiCluster

    try:
        cluster = ApiCluster.connect(choice.kubeconfig, choice.context, choice.cluster_name)
    except UserError as err:
        raise click.UsageError(str(err)) from err
    try:
        yield cluster
    finally:
        cluster.stop()  # tells the Events that are still queued
