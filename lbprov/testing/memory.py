"""A provider whose world is in memory: the reference of what `lbprov.api.Provider` asks for.

Read it, and the pure half of it in `memory_plan`, before you write a provider of your own. Both import
`lbprov.api` alone, as every provider does.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace

from lbprov.api import (
    Action,
    Bindings,
    CallCount,
    Ingress,
    IPMode,
    LoadBalancer,
    Owner,
    Plan,
    ProviderContext,
    ProviderError,
    ProviderSpec,
    ProviderStatus,
    RetryLater,
    Step,
)
from lbprov.testing.memory_plan import POLL_S, Observed, balancer_name, observed_of, plan
from lbprov.testing.memory_world import MemoryWorld, Name, Resource, WorldError


class MemoryProvider:
    """Keeps an inventory of the world, true by its own writes: an unchanged Service costs no call."""

    def __init__(self, context: ProviderContext, world: MemoryWorld) -> None:
        self._cluster = context.cluster
        self._read_only = context.read_only
        self._world = world
        self._lock = threading.Lock()
        self._inventory: _Inventory | None = None
        self._calls = CallCount()

    def observe(self, owner: Owner, desired: LoadBalancer | None, *, fresh: bool = False) -> Observed:
        with self._lock:
            inventory = self._refreshed() if fresh or self._inventory is None else self._inventory
            mine = [
                r
                for internal in (False, True)
                for r in inventory.of(balancer_name(owner, internal=internal))
                if r.owner == owner
            ]
            holder = inventory.holders.get(desired.requested_ip) if desired else None
        return observed_of(owner, mine, holder if holder != owner else None)

    def plan(self, desired: LoadBalancer | None, observed: Observed) -> Plan:
        return plan(desired, observed)

    def apply(self, step: Step, bindings: Bindings) -> None:
        if self._read_only:
            raise ProviderError(f"refused in a dry run: {step.action} {step.kind}", retryable=False)
        wanted = step.body
        assert isinstance(wanted, Resource)
        try:
            if step.action is Action.DELETE:
                self._delete(wanted)
                bindings.pop(step.id, None)
            else:
                made = self._create(wanted) if step.action is Action.CREATE else self._update(wanted)
                bindings[step.id] = made.id
        except WorldError as err:
            raise self._translated(err) from err

    def status(self, desired: LoadBalancer, observed: Observed) -> ProviderStatus:
        if observed.frontend is None:
            return ProviderStatus((), ready=False, message="the load balancer is not there yet")
        ingress = Ingress(ip=observed.frontend.address, ip_mode=IPMode.PROXY)
        return ProviderStatus((ingress,), ready=True)

    def owners(self) -> frozenset[Owner]:
        with self._lock:
            inventory = self._refreshed()
        return frozenset(r.owner for r in inventory if r.owner.cluster == self._cluster)

    def calls(self) -> CallCount:
        with self._lock:
            return replace(self._calls, by_operation=dict(self._calls.by_operation))

    # -- the world, with the inventory kept true

    def _refreshed(self) -> _Inventory:
        self._count("list", write=False)
        self._inventory = _Inventory(self._world.list_all())
        return self._inventory

    def _create(self, wanted: Resource) -> Resource:
        try:
            self._count_locked(f"create {wanted.name.kind}")
            made = self._world.create(wanted)
        except WorldError as err:
            if err.existing is None:
                raise
            made = err.existing  # ours, if we were here before: a crash, or a step done twice
            self._check_mark(made, wanted)
            if made.deleting:
                raise RetryLater("the former load balancer is still going away", POLL_S) from err
        self._learn(made)
        return made

    def _update(self, wanted: Resource) -> Resource:
        self._check_mark(self._world.get(wanted.id), wanted)
        self._count_locked(f"update {wanted.name.kind}")
        made = self._world.update(wanted)
        self._learn(made)
        return made

    def _delete(self, wanted: Resource) -> None:
        try:
            current = self._world.get(wanted.id)
            self._check_mark(current, wanted)
            if current.deleting:
                raise RetryLater(f"{wanted.name.kind} {wanted.name.balancer} is still going away", POLL_S)
            self._count_locked(f"delete {wanted.name.kind}")
            self._world.delete(wanted.id)
            self._learn(self._world.get(wanted.id))
        except WorldError as err:
            if err.code != "NotFound":
                raise
            with self._lock:
                if self._inventory is not None:
                    self._inventory.drop(wanted.name)

    def _check_mark(self, found: Resource, wanted: Resource) -> None:
        if found.owner != wanted.owner:
            raise ProviderError(
                f"{found.name.kind} {found.name.balancer} belongs to {found.owner}: not touched",
                retryable=False,
            )

    def _translated(self, err: WorldError) -> Exception:
        """What the world says, as what the caller does next. Our picture was old: make a new one, and a new
        plan by it."""
        with self._lock:
            self._inventory = None
        if err.code == "InUse":
            return RetryLater(str(err), POLL_S)
        if err.code in ("AddressTaken", "NotFound"):
            return RetryLater(f"the world has changed meanwhile ({err})", 0.0)
        return ProviderError(str(err))

    def _learn(self, resource: Resource) -> None:
        with self._lock:
            if self._inventory is not None:
                self._inventory.put(resource)

    def _count_locked(self, operation: str) -> None:
        with self._lock:
            self._count(operation, write=True)

    def _count(self, operation: str, *, write: bool) -> None:
        self._calls.write += write
        self._calls.read += not write
        self._calls.by_operation[operation] = self._calls.by_operation.get(operation, 0) + 1


class _Inventory:
    """What the world holds, by balancer and by address."""

    def __init__(self, resources: Iterable[Resource]) -> None:
        self._by_balancer: dict[str, dict[Name, Resource]] = {}
        self.holders: dict[str, Owner] = {}
        for resource in resources:
            self.put(resource)

    def __iter__(self) -> Iterator[Resource]:
        return (r for mine in self._by_balancer.values() for r in mine.values())

    def of(self, balancer: str) -> Iterable[Resource]:
        return self._by_balancer.get(balancer, {}).values()

    def put(self, resource: Resource) -> None:
        self._by_balancer.setdefault(resource.name.balancer, {})[resource.name] = resource
        if resource.address:
            self.holders[resource.address] = resource.owner

    def drop(self, name: Name) -> None:
        gone = self._by_balancer.get(name.balancer, {}).pop(name, None)
        if gone and gone.address:
            self.holders.pop(gone.address, None)


def spec_for(world: MemoryWorld) -> ProviderSpec:
    """The plugin's introduction, were it one: `world` is where its load balancers are."""
    return ProviderSpec(
        name="memory",
        load_balancer_class="lbprov.io/memory",
        summary="Load balancers that are in memory only, for tests",
        build=lambda context: MemoryProvider(context, world),
        keeps_unread=True,
    )
