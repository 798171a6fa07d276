"""From what was asked for on the command line to a controller that can run."""

from __future__ import annotations

import os
import re
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lbprov import plugins
from lbprov.api import Provider, ProviderContext
from lbprov.cluster.apiserver import ApiCluster, LeaderElector
from lbprov.controller.app import App
from lbprov.controller.asked import Asked
from lbprov.controller.term import Settings
from lbprov.logic.selection import Claimant, checked_classes
from lbprov.model import UserError
from lbprov.observe import metrics as m

DNS_NAME = re.compile(r"[a-z0-9](?:[-.a-z0-9]{0,251}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Election:
    """`namespace` empty: the one that we live in. Replicas with the same lease elect one of them. The times
    are the elector's (`lbprov.cluster.apiserver.lease`)."""

    namespace: str = ""
    lease: str = "lbprov-controller"
    duration_s: float = 15.0
    renew_deadline_s: float = 10.0
    retry_period_s: float = 2.0


@dataclass(frozen=True, slots=True)
class Config:
    """`election` None: this process always leads."""

    provider: str
    cluster_name: str
    kubeconfig: Path | None = None
    context: str | None = None
    provider_options: tuple[str, ...] = ()
    election: Election | None = field(default_factory=Election)
    settings: Settings = field(default_factory=Settings)


def open_app(config: Config) -> App:
    """Asks nobody anything yet. Raises `LbprovError` for what cannot be as it is asked for."""
    if config.election:
        _check_names(config.election)
    spec = plugins.load(config.provider)
    options = plugins.parse_options(spec, config.provider_options)
    cluster = ApiCluster.connect(config.kubeconfig, config.context, config.cluster_name)
    settings = config.settings
    classes = checked_classes(settings.more_classes, spec.load_balancer_class)
    claimant = Claimant(spec.name, spec.load_balancer_class, settings.own_classless, classes)
    asked = Asked(config.cluster_name, spec, claimant)
    asked.follow(cluster.services.values)
    context = ProviderContext(
        config.cluster_name,
        options,
        time.monotonic,
        provider_ids=lambda: [node.provider_id for node in cluster.nodes.values()],
        asked=asked,
        recheck_s=config.settings.drift_period_s,
    )
    elector = _elector(cluster, config.election) if config.election else None
    metrics = m.Metrics(spec.name)
    _offer_reflectors(cluster, metrics)

    def build() -> Provider[Any]:
        return plugins.build(spec, replace(context, memo=elector.memo()) if elector else context)

    # Made now, so that what is wrong with it shows at the start and not when this replica is first elected.
    made = [build()]
    app = App(
        cluster,
        spec,
        lambda: made.pop() if made else build(),
        config.settings,
        metrics,
        elector,
    )
    cluster.transport.outage.on_recovery(app.recovered)
    return app


def _check_names(election: Election) -> None:
    """An API server would say so too, but to a log, again and again."""
    for field_, name in (("--lease-name", election.lease), ("--lease-namespace", election.namespace)):
        if name and not DNS_NAME.fullmatch(name):
            raise UserError(f"{name!r} is no name that an object can have", field=field_)


def _elector(cluster: ApiCluster, election: Election) -> LeaderElector:
    # A host name alone is not unique: two of us may run on one host, and a pod's name may come again.
    identity = f"{os.uname().nodename}_{os.getpid()}_{uuid.uuid4().hex[:8]}"
    return cluster.elector(
        election.namespace,
        election.lease,
        identity,
        duration_s=election.duration_s,
        renew_deadline_s=election.renew_deadline_s,
        retry_period_s=election.retry_period_s,
    )


def _offer_reflectors(cluster: ApiCluster, metrics: m.Metrics) -> None:
    def each(read: Callable[[int], float | None]) -> Callable[[], Iterator[m.Sample]]:
        def samples() -> Iterator[m.Sample]:
            for index, kind in enumerate(("Service", "Node")):
                value = read(index)
                if value is not None:
                    yield (kind,), value

        return samples

    def age_s(index: int) -> float | None:
        heard_s = cluster.reflectors[index].last_heard_s
        return None if heard_s is None else time.monotonic() - heard_s

    reflectors = cluster.reflectors
    metrics.read_at_scrape(m.REFLECTOR_LISTS, each(lambda i: reflectors[i].counts.lists))
    metrics.read_at_scrape(m.REFLECTOR_WATCHES, each(lambda i: reflectors[i].counts.watches))
    metrics.read_at_scrape(m.REFLECTOR_EVENTS, each(lambda i: reflectors[i].counts.events))
    metrics.read_at_scrape(m.REFLECTOR_ERRORS, each(lambda i: reflectors[i].counts.failures))
    metrics.read_at_scrape(m.REFLECTOR_UNREADABLE, each(lambda i: len(reflectors[i].problems())))
    metrics.read_at_scrape(m.REFLECTOR_OBJECTS, each(lambda i: len(reflectors[i].store)))
    metrics.read_at_scrape(m.REFLECTOR_AGE, each(age_s))
    metrics.read_at_scrape(m.EVENTS_DROPPED, lambda: [((), cluster.events_dropped)])
