"""A whole provider in one small module: its load balancers are files, one per Service, for a proxy to read.

Real ones are larger in their `plan` and in their boundary to a cloud, not in their shape.
"""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lbprov.api import (
    Action,
    Bindings,
    CallCount,
    Change,
    Ingress,
    IPMode,
    LoadBalancer,
    Notice,
    ObjectKey,
    Owner,
    Plan,
    ProviderContext,
    ProviderError,
    ProviderOption,
    ProviderSpec,
    ProviderStatus,
    Reason,
    RetryLater,
    Severity,
    Step,
    UserError,
)

# What there is. The core only carries it from `observe` to `plan` and `status`.


@dataclass(frozen=True, slots=True)
class Balancer:
    """One file. `owner` is the mark: cluster, namespace, name, uid. `address` empty: any."""

    owner: tuple[str, str, str, str]
    address: str
    listeners: tuple[str, ...]
    targets: tuple[str, ...]
    source_ranges: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Observed:
    """`usable`: whether the requested address is in the pool and nobody else's."""

    owner: Owner
    balancer: Balancer | None
    usable: bool


# From what should be and what is to steps. Pure: no file is touched here.


def plan(desired: LoadBalancer | None, observed: Observed) -> Plan:
    held = observed.balancer
    if desired is None:
        gone = Step(Action.DELETE, "file", "file", "the Service does not want it any more", body=held)
        return Plan(observed.owner, (gone,) if held else ())
    if desired.internal:
        raise UserError(
            "this provider has no internal addresses", field="metadata.annotations[lbprov.io/scheme]"
        )
    address, notices = requested_address(desired, observed)
    wanted = Balancer(
        owner=mark(desired.owner),
        address=held.address if held else address,
        listeners=tuple(f"{listener}->{listener.node_port}" for listener in desired.listeners),
        targets=tuple(ip for target in desired.targets for ip in target.addresses[:1]),
        source_ranges=desired.source_ranges,
    )
    if held is None:
        step = Step(Action.CREATE, "file", "file", "clients need something to connect to", body=wanted)
        return Plan(desired.owner, (step,), notices)
    changes = tuple(
        Change(name, ", ".join(before), ", ".join(after))
        for name in ("listeners", "targets", "source_ranges")
        if (before := getattr(held, name)) != (after := getattr(wanted, name))
    )
    step = Step(Action.UPDATE, "file", "file", "it is not as wanted", changes=changes, body=wanted)
    return Plan(desired.owner, (step,) if changes else (), notices)


def requested_address(desired: LoadBalancer, observed: Observed) -> tuple[str, tuple[Notice, ...]]:
    """Honoured, or not and said why, in the same words each time: the core tells what is new only."""
    wanted, held = desired.requested_ip, observed.balancer
    if not wanted:
        return "", ()
    if observed.usable and (held is None or held.address == wanted):
        return wanted, (Notice(Severity.NORMAL, Reason.IP_ASSIGNED, f"{wanted} is used", "RequestedIP"),)
    if observed.usable:
        reason, why = (
            Reason.IP_CHANGE_IGNORED,
            f"{wanted} is free, but another address serves traffic already",
        )
    else:
        reason, why = Reason.IP_NOT_FOUND, f"{wanted} is not in the pool, or somebody else's"
    if desired.require_ip:
        raise UserError(why, field="spec.loadBalancerIP", reason=reason)
    return "", (Notice(Severity.WARNING, reason, f"{why}: another address is used", "RequestedIP"),)


def mark(owner: Owner) -> tuple[str, str, str, str]:
    return (owner.cluster, *owner.service, owner.uid)


# The boundary: the one place that touches the world, and that translates its errors.


class TinyProvider:
    def __init__(self, context: ProviderContext) -> None:
        self._cluster = context.cluster
        self._read_only = context.read_only
        self._folder = Path(str(context.options["dir"]))
        self._pool: Any = context.options["addresses"]
        self._lock = threading.Lock()
        self._calls = CallCount()

    def observe(self, owner: Owner, desired: LoadBalancer | None, *, fresh: bool = False) -> Observed:
        balancers = self._read_all()
        mine = next((b for b in balancers if b.owner == mark(owner)), None)
        taken = {b.address for b in balancers if b is not mine}
        wanted = desired.requested_ip if desired else ""
        return Observed(owner, mine, usable=wanted in self._pool and wanted not in taken)

    def plan(self, desired: LoadBalancer | None, observed: Observed) -> Plan:
        return plan(desired, observed)

    def apply(self, step: Step, bindings: Bindings) -> None:
        """Idempotent: it brings about how the file should be, whatever it was. The file's name is made of
        the mark, so the file is ours."""
        assert isinstance(step.body, Balancer)
        if self._read_only:
            raise ProviderError(f"refused in a dry run: {step.action} {step.kind}", retryable=False)
        with self._lock:
            try:
                if step.action is Action.DELETE:
                    self._count(write=True, operation="delete")
                    self._path(step.body).unlink(missing_ok=True)
                else:
                    self._count(write=True, operation="write")
                    self._write(step.body)
            except OSError as err:
                raise ProviderError(f"{err.filename}: {err.strerror}") from err

    def status(self, desired: LoadBalancer, observed: Observed) -> ProviderStatus:
        if observed.balancer is None:
            return ProviderStatus((), ready=False, message="the file is not there yet")
        return ProviderStatus((Ingress(ip=observed.balancer.address, ip_mode=IPMode.VIP),), ready=True)

    def owners(self) -> frozenset[Owner]:
        marks = (b.owner for b in self._read_all())
        return frozenset(
            Owner(c, ObjectKey(ns, name), uid) for c, ns, name, uid in marks if c == self._cluster
        )

    def calls(self) -> CallCount:
        with self._lock:
            return CallCount(self._calls.read, self._calls.write, dict(self._calls.by_operation))

    def _read_all(self) -> list[Balancer]:
        with self._lock:
            self._count(write=False, operation="read")
            return self._files()

    def _files(self) -> list[Balancer]:
        try:
            texts = [path.read_text() for path in sorted(self._folder.glob("*.json"))]
        except OSError as err:
            raise ProviderError(f"{err.filename}: {err.strerror}") from err
        return [Balancer(**{k: _frozen(v) for k, v in json.loads(text).items()}) for text in texts]

    def _write(self, balancer: Balancer) -> None:
        """At once or not at all. The address is chosen, and checked once more, where no other thread is."""
        others = {b.address for b in self._files() if b.owner != balancer.owner}
        held = next((b.address for b in self._files() if b.owner == balancer.owner), "")
        free = [a for a in self._pool if a not in others]
        address = held or balancer.address or next(iter(free), "")
        if not address:
            raise RetryLater("no address of the pool is free", 30.0)
        if address not in free:
            raise RetryLater(f"{address} was taken meanwhile", 0.0)
        text = json.dumps({**asdict(balancer), "address": address}, indent=1)
        temporary = self._path(balancer).with_suffix(".tmp")
        temporary.write_text(text)
        temporary.replace(self._path(balancer))

    def _path(self, balancer: Balancer) -> Path:
        digest = hashlib.sha256("\0".join(balancer.owner).encode()).hexdigest()[:8]
        return self._folder / f"{balancer.owner[1]}.{balancer.owner[2]}.{digest}.json"

    def _count(self, *, write: bool, operation: str) -> None:
        self._calls.write += write
        self._calls.read += not write
        self._calls.by_operation[operation] = self._calls.by_operation.get(operation, 0) + 1


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


# How the plugin introduces itself. This module imports no SDK; where there is one, `build` imports it.


def existing_folder(text: str) -> str:
    if not Path(text).is_dir():
        raise ValueError("an existing folder is needed")
    return text


SPEC = ProviderSpec(
    name="tiny",
    load_balancer_class="example.com/tiny",
    summary="Load balancers that are files",
    build=TinyProvider,
    options=(
        ProviderOption("dir", "The folder that the files go to.", ".", existing_folder),
        ProviderOption(
            "addresses",
            "The pool, comma-separated.",
            "203.0.113.1,203.0.113.2",
            lambda text: tuple(text.split(",")),
        ),
    ),
)
