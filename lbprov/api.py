"""What a provider plugin imports, and all that it may import of lbprov.

A plugin is an entry point of the group `lbprov.providers` whose value is a `ProviderSpec`. The module that
holds the spec imports no SDK (listing providers must stay fast); `build` imports it.

One reconcile calls, in this order::

    observed = provider.observe(owner, desired)     # IO; desired is None when all should go
    plan     = provider.plan(desired, observed)     # pure
    for step in plan.steps:
        provider.apply(step, bindings)              # IO, one write each
    observed = provider.observe(owner, desired)     # from what our own writes taught: no call
    status   = provider.status(desired, observed)   # pure

A deletion is `plan(None, observed)`, and is over only when `observe(owner, None, fresh=True)` plans nothing
more. `lbprov.testing.conformance` is a test suite that any provider can run.
"""

from __future__ import annotations

import time
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from lbprov.logic.desired import refuse_unread
from lbprov.logic.events import Reason
from lbprov.model import (
    Action,
    Adopt,
    Bindings,
    Change,
    Event,
    Ingress,
    IPFamily,
    IPMode,
    L4Protocol,
    LbprovError,
    Listener,
    LoadBalancer,
    Notice,
    ObjectKey,
    Owner,
    Plan,
    ProviderError,
    Replace,
    RetryLater,
    ServicePort,
    SessionAffinity,
    Severity,
    Step,
    Target,
    TrafficPolicy,
    UserError,
)

API_VERSION = 1
"""Raised when a plugin written for the old contract would no longer work."""

ENTRY_POINT_GROUP = "lbprov.providers"

ObservedT = typing.TypeVar("ObservedT")


@dataclass(frozen=True, slots=True)
class ProviderStatus:
    """What a Service's status should say. `ready`: traffic can be expected to pass; `message` says what
    is awaited otherwise (and what is good to know even when ready). `again_after_s`: in so many seconds
    something is to be done although nothing changes (a replacement goes on); None: nothing."""

    ingress: tuple[Ingress, ...]
    ready: bool
    message: str = ""
    again_after_s: float | None = None


@dataclass(slots=True)
class CallCount:
    """Calls made to the world so far, by operation ("CreateLoadBalancer"). Not reset by the provider.

    `answers`: (service, operation, error code) -> how many, of a provider that can tell; the code is empty
    for success. `waited_s`: family of calls -> seconds for which the provider itself held calls back, to stay
    within the world's limits. Both for metrics only."""

    read: int = 0
    write: int = 0
    by_operation: dict[str, int] = field(default_factory=dict)
    answers: dict[tuple[str, str, str], int] = field(default_factory=dict)
    waited_s: dict[str, float] = field(default_factory=dict)


class Provider(typing.Protocol[ObservedT]):
    """One cloud (or pool) that load balancers are made in.

    All methods may be called from several threads at once for different owners, never at once for one.
    `ObservedT` is the provider's own frozen picture of one owner's resources; the core only carries it.
    Raises `UserError` for what the Service's author must change, `RetryLater` for what needs time,
    `ProviderError` for a world that refuses. Other exceptions are bugs.
    """

    def observe(self, owner: Owner, desired: LoadBalancer | None, *, fresh: bool = False) -> ObservedT:
        """This owner's resources by their marks, and the facts that `desired` needs (is the requested
        address free?). May answer from a cache kept true by our own writes; `fresh` asks the world."""

    def plan(self, desired: LoadBalancer | None, observed: ObservedT) -> Plan:
        """Pure. None: everything of the owner goes. Deterministic: the same input gives the same text."""

    def apply(self, step: Step, bindings: Bindings) -> None:
        """Carry one step out. Checks the owner mark before it changes or deletes. Doing it twice is
        harmless. Records what it made in `bindings[step.id]`."""

    def status(self, desired: LoadBalancer, observed: ObservedT) -> ProviderStatus:
        """Pure."""

    def owners(self) -> frozenset[Owner]:
        """Every owner of our cluster that has any resource in the world (for orphans, for drift). Asks the
        world, and what it learns is what `observe` answers from until it is told to ask itself."""

    def calls(self) -> CallCount:
        """A copy of the count so far."""


class Memo(typing.Protocol):
    """A short text (a few kilobytes at most) from the process that writes to the one that writes after it.

    It is what the last one left, or nothing: nothing too if somebody has written meanwhile who keeps no memo,
    so nothing must always be right."""

    def begin(self, text: Callable[[], str]) -> str:
        """What was left. `text` is asked from now on, now and then and at a clean end, from any thread (but
        not by this call); it must answer at once."""

    def flush(self) -> None:
        """What `text` answers after this call is durable when it returns. Raises `RetryLater`. Not to be
        called with a lock held that `text` takes."""


@dataclass(frozen=True, slots=True)
class ProviderOption:
    """A setting of a provider: `--provider-option NAME=VALUE`, or NAME under the provider's name in the
    configuration file. Values arrive as text; `parse` raises ValueError with what is allowed."""

    name: str
    help: str
    default: str = ""
    parse: Callable[[str], object] = str


@dataclass(frozen=True, slots=True)
class ProviderContext:
    """What the core gives a provider. `options`: option name -> parsed value, every option present.
    `now_s` is a monotonic clock in seconds, `wall_s` the time since 1970, for what outlives the process;
    providers take time from nowhere else."""

    cluster: str
    options: Mapping[str, object]
    now_s: Callable[[], float]
    read_only: bool = False
    """A dry run: the provider must refuse to write, whatever it is told (a second lock behind the first)."""
    provider_ids: Callable[[], Iterable[str]] = tuple
    """`spec.providerID` of the Nodes that are known by now, for a provider that has to find out where it is.
    There may be none yet when the provider is built."""
    asked: Callable[[], Iterable[LoadBalancer]] = tuple
    """What the Services of ours ask for that are known by now, also those that `observe` has not been asked
    about yet; without targets, in no order. For a provider that has to settle who of two gets one thing."""
    recheck_s: float = 0.0
    """How often whoever calls looks at every owner again without a reason; 0: this is one pass, or it never
    does. What a process before this one has verified may be taken for granted until then."""
    wall_s: Callable[[], float] = time.time
    memo: Memo | None = None
    """None: nothing outlives this process but what the provider writes to its world."""


@dataclass(frozen=True, slots=True)
class ReasonDoc:
    """A reason of Events (and of the condition `lbprov.io/<topic>`; none: of Ready) that only this provider
    gives: what it means to whoever reads it. For the reference pages."""

    reason: str
    severity: Severity
    topic: str
    meaning: str


@dataclass(frozen=True, slots=True)
class ProviderSpec:
    """How a plugin introduces itself. `extra`: what to install (`lbprov[aws]`) if `build` raises
    ModuleNotFoundError. `needs_node_ports`: a Service without NodePorts cannot be served. `annotations`:
    those beginning `lbprov.io/` that this provider reads beside the core's; others are told as unknown.
    `in_flight_s`: for how long after a process was killed what it had asked for may still come about, or not
    be shown yet. `keeps_unread`: what a Service says and nobody understands (`LoadBalancer.unread_scheme`,
    `unread_source_ranges`) is left as it is, and all else followed; otherwise such a Service is refused."""

    name: str
    load_balancer_class: str
    summary: str
    build: Callable[[ProviderContext], Provider[typing.Any]]
    api_version: int = API_VERSION
    extra: str = ""
    options: tuple[ProviderOption, ...] = ()
    needs_node_ports: bool = True
    in_flight_s: float = 0.0
    keeps_unread: bool = False
    annotations: tuple[str, ...] = ()
    reasons: tuple[ReasonDoc, ...] = ()


__all__ = [
    "API_VERSION",
    "ENTRY_POINT_GROUP",
    "Action",
    "Adopt",
    "Bindings",
    "CallCount",
    "Change",
    "Event",
    "IPFamily",
    "IPMode",
    "Ingress",
    "L4Protocol",
    "LbprovError",
    "Listener",
    "LoadBalancer",
    "Memo",
    "Notice",
    "ObjectKey",
    "Owner",
    "Plan",
    "Provider",
    "ProviderContext",
    "ProviderError",
    "ProviderOption",
    "ProviderSpec",
    "ProviderStatus",
    "Reason",
    "ReasonDoc",
    "Replace",
    "RetryLater",
    "ServicePort",
    "SessionAffinity",
    "Severity",
    "Step",
    "Target",
    "TrafficPolicy",
    "UserError",
    "refuse_unread",
]
