"""The reconcile of one Service: what it should have against what it has, and the difference carried out.

    leave       it is not ours
    hold        Event and condition Ready, nothing else
    ensure      desired, observe, plan, claim and finalizer, steps, observe, status and Events
    clean up    observe, plan towards nothing, steps, a fresh look that finds nothing, finalizer off

Every path ends in an `Outcome`, whatever goes wrong: one Service never stops another. It may be broken off
anywhere; the next reconcile goes on from what it finds.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lbprov.api import (
    Adopt,
    Bindings,
    LoadBalancer,
    Owner,
    Plan,
    Provider,
    ProviderError,
    ProviderSpec,
    Reason,
    RetryLater,
    Step,
    Target,
    UserError,
)
from lbprov.cluster.seam import Cluster
from lbprov.controller.account import Account, UntoldError
from lbprov.controller.reminders import Reminders
from lbprov.controller.settled import Settled, repaired
from lbprov.logic import conditions, events
from lbprov.logic.annotations import ADOPT
from lbprov.logic.desired import desired_for, notices_for
from lbprov.logic.selection import (
    FINALIZER,
    Claimant,
    Decision,
    claim,
    claimed,
    decide,
    owner_of,
    why_held,
)
from lbprov.model import Outcome, Result, Service, ServiceType

READY_POLL_S = 2.0
"""How often to look whether a load balancer that is made serves traffic yet."""

LEFT_POLL_S = 1.0
"""How soon to go on where one plan was not enough."""

GONE_POLL_S = 2.0
"""How often to look whether what was deleted is gone yet."""

RETRY_S = 5.0
"""The first pause after the world refused; whoever calls makes it grow."""

HOPELESS_S = 300.0
"""The pause where the same request will be refused again."""

TURN_S = 15.0
"""A turn that has taken so long goes on in another one, after whoever has waited: one Service with a thousand
ports holds nobody up, nor the end of the process."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Attempt:
    """What one reconcile has come to so far. `plan` has a former owner's steps first, if there were any.
    `hosts`: the Nodes' names, where they are all that is to be changed."""

    account: Account
    deleting: bool
    steps: list[Step] = field(default_factory=list)
    plan: Plan | None = None
    hosts: tuple[str, ...] | None = None
    outage: bool = False


class Reconciler:
    """Carries Services through, one per call; any number of calls at once, for different Services.

    `dry_run`: plans, and writes neither to the world nor to the cluster. `adopt`: what other controllers have
    made for Services is taken over, unless a Service says otherwise. `turn_s`: after so long, what is left to
    do is left to the next call. `in_flight_s`: for so long from now on, a world that shows nothing of a
    Service may only be late: another process may have been killed just after it had asked for something."""

    def __init__(
        self,
        cluster: Cluster,
        provider: Provider[Any],
        spec: ProviderSpec,
        *,
        own_classless: bool = False,
        more_classes: tuple[str, ...] = (),
        dry_run: bool = False,
        turn_s: float = math.inf,
        in_flight_s: float = 0.0,
        now_s: Callable[[], float] = time.monotonic,
        adopt: bool = False,
    ) -> None:
        self.claimant = Claimant(spec.name, spec.load_balancer_class, own_classless, more_classes)
        self._cluster = cluster
        self._provider = provider
        self._spec = spec
        self._dry_run = dry_run
        self._adopt = adopt
        self._settled = Settled()
        self._reminders = Reminders(now_s)
        self._turn_s = turn_s
        self._in_flight_until_s = now_s() + in_flight_s
        self._begun: set[str] = set()  # uids of Services that no former process has worked on
        self._now_s = now_s

    def decide(self, service: Service, *, owns: bool = False) -> Decision:
        return decide(service, self.claimant, owns=owns)

    def reconcile(
        self,
        service: Service,
        targets: tuple[Target, ...],
        *,
        former: Sequence[Owner] = (),
        owns: bool = False,
        refusal: UserError | None = None,
    ) -> Outcome | None:
        """None: the Service is not ours.

        - `targets`: by `lbprov.logic.nodes.targets_of`, the same for all Services.
        - `former`: owners of the same name and another uid that still have something; they go first.
        - `owns`: the world is known to hold something with this Service's mark.
        - `refusal`: why nothing must be done for it now (a brake).
        """
        decision = self.decide(service, owns=owns)
        account = Account(self._cluster, self.claimant, service, self._dry_run)
        attempt = _Attempt(account, deleting=decision is Decision.CLEAN_UP)
        try:
            if decision is Decision.LEAVE:
                _forget(account)
                return None
            if decision is Decision.CONFLICT:
                return self._conflict(attempt)
            if decision is Decision.HOLD:
                return self._failed(attempt, why_held(service), None, reason=Reason.CLASS_NOT_SERVED)
            if refusal is not None:
                return self._failed(attempt, str(refusal), None, reason=refusal.reason)
            return self._carry_through(attempt, targets, former)
        except UntoldError as err:
            account.left_untold(err.__cause__)
            return self._outcome(attempt, Result.FAILED, str(err), RETRY_S)
        except Exception as err:
            _log.exception("bug", extra={"service": str(service.key)})
            return replace(self._outcome(attempt, Result.FAILED, _is_bug(err), RETRY_S), bug=True)

    def _carry_through(
        self, attempt: _Attempt, targets: tuple[Target, ...], former: Sequence[Owner]
    ) -> Outcome:
        try:
            for owner in former:
                self._remove(attempt, owner, "a former Service of this name")
            return self._clean_up(attempt) if attempt.deleting else self._ensure(attempt, targets)
        except UntoldError:
            raise
        except RetryLater as later:
            return self._pending(attempt, str(later), later.after_s)
        except UserError as err:
            return self._failed(attempt, str(err), None, reason=err.reason)
        except ProviderError as err:
            pause_s = RETRY_S if err.retryable else HOPELESS_S
            return self._failed(attempt, str(err), pause_s, reason=err.reason)
        except Exception as err:
            _log.exception("bug", extra={"service": str(attempt.account.service.key)})
            return replace(self._failed(attempt, _is_bug(err), RETRY_S), bug=True)

    # -- the two ways

    def _ensure(self, attempt: _Attempt, targets: tuple[Target, ...]) -> Outcome:
        account, service = attempt.account, attempt.account.service
        owner = owner_of(self._cluster.name, service)
        desired = desired_for(
            service,
            targets,
            owner,
            needs_node_ports=self._spec.needs_node_ports,
            keeps_unread=self._spec.keeps_unread,
        )
        if self._adopt and ADOPT not in service.annotations:
            desired = replace(desired, adopt=Adopt.TAKE_OVER)
        observed = self._provider.observe(owner, desired)
        if _is_awaited(service) and not self._provider.status(desired, observed).ready:
            # Only the world knows whether what we wait for has come about.
            observed = self._provider.observe(owner, desired, fresh=True)
        plan = after = self._planned(attempt, owner, desired, observed)
        if account.claim() and self._now_s() < self._in_flight_until_s:
            self._begun.add(service.uid)
        drift = self._settled.drift(desired, plan)
        if self._settled.is_about_hosts(desired):
            attempt.hosts = tuple(target.node_name for target in targets)
        if plan.steps:
            if attempt.hosts is None:
                account.events.append(events.ENSURING)
                account.emit()  # at once: the rest may take minutes
            if not self._dry_run:
                self._apply(plan)
                if drift:
                    account.events.append(repaired(drift))
                observed = self._provider.observe(owner, desired)
                after = self._provider.plan(desired, observed)
        told = [
            *notices_for(service, targets, self._spec.annotations),
            *(n for n in plan.notices if not n.topic),
            *(n for n in after.notices if n.topic),
        ]
        account.events += conditions.new_events(service, told, has_steps=bool(plan.steps))
        account.events += self._reminders.due(service.key, conditions.standing(service, told))
        if self._dry_run:
            return self._outcome(attempt, result_of(service, changed=bool(attempt.steps)))
        status = self._provider.status(desired, observed)
        left = [step for step in after.steps if not step.expected]
        ready, message = status.ready and not left, status.message
        if left:
            message = f"{len(left)} changes are still to be made"
        elif ready:
            unread = conditions.about(told, Reason.UNKNOWN_ANNOTATION)
            message = "; ".join((message or "the load balancer is in place", *unread))
        changed = bool(attempt.steps) or status.ingress != service.ingress
        if ready and (changed or not conditions.is_ready(service)):
            account.events.append(events.ENSURED if attempt.hosts is None else events.UPDATED)
        state = conditions.ready(Reason.ENSURED if ready else Reason.WAITING, message, is_ready=ready)
        account.record(status.ingress, (claim(self.claimant), state, *conditions.of_notices(told)))
        again_s = LEFT_POLL_S if after.steps else status.again_after_s
        if ready and again_s is None:
            self._settled.settle(desired)
            return self._outcome(attempt, result_of(service, changed=changed))
        return self._outcome(attempt, Result.PENDING, message, READY_POLL_S if again_s is None else again_s)

    def _clean_up(self, attempt: _Attempt) -> Outcome:
        account = attempt.account
        self._remove(attempt, owner_of(self._cluster.name, account.service), "the Service")
        self._wait_for_what_is_late(account.service)
        account.events.append(events.DELETED)
        account.release()
        self._settled.forget(account.service.key)
        self._reminders.forget(account.service.key)
        return self._outcome(attempt, Result.DELETED)

    def _remove(self, attempt: _Attempt, owner: Owner, whose: str) -> None:
        """Everything of `owner`, until a fresh look shows nothing. Raises `RetryLater` while there is."""
        account = attempt.account
        plan = self._planned(attempt, owner, None, self._provider.observe(owner, None))
        if plan.steps and not is_being_deleted(account.service) and events.DELETING not in account.events:
            account.events.append(events.DELETING)
        if self._dry_run:
            return
        self._apply(plan)
        left = self._provider.plan(None, self._provider.observe(owner, None, fresh=True))
        if left.steps:
            kinds = ", ".join(dict.fromkeys(step.kind for step in left.steps))
            raise RetryLater(f"{whose} still has resources that are going away: {kinds}", GONE_POLL_S)

    def _wait_for_what_is_late(self, service: Service) -> None:
        """Raises `RetryLater` while a former process's last request may still come about: the next look finds
        it. (What comes even later is told as an orphan.)"""
        late_s = self._in_flight_until_s - self._now_s()
        if (
            late_s > 0
            and FINALIZER in service.finalizers
            and service.uid not in self._begun
            and not self._dry_run
        ):
            raise RetryLater("what was asked for just before the last start may come yet", late_s)

    def _planned(self, attempt: _Attempt, owner: Owner, desired: LoadBalancer | None, observed: Any) -> Plan:
        plan = self._provider.plan(desired, observed)
        if plan.owner != owner:
            raise ValueError(f"the plan for {owner} is one for {plan.owner}: not carried out")
        attempt.steps += plan.steps
        attempt.outage |= plan.outage
        mine = owner_of(self._cluster.name, attempt.account.service)
        attempt.plan = replace(plan, owner=mine, steps=tuple(attempt.steps))
        return plan

    def _apply(self, plan: Plan) -> None:
        bindings: Bindings = dict(plan.bindings)
        began_s = self._now_s()
        for number, step in enumerate(plan.steps):
            if self._now_s() - began_s > self._turn_s:
                left = len(plan.steps) - number
                raise RetryLater(f"{number} changes are made, {left} more follow", after_s=0.0)
            self._provider.apply(step, bindings)
            what = f"{step.action} {step.kind} {step.name or step.id}"
            _log.debug(
                "applied", extra={"service": str(plan.owner.service), "step": what, "why": step.reason}
            )

    # -- the ends

    def _pending(self, attempt: _Attempt, message: str, after_s: float) -> Outcome:
        """Status stays; so does Ready where it is True: what serves traffic goes on doing so, unless it was
        taken away for something else to come."""
        if attempt.deleting:
            attempt.account.record_ready(conditions.ready(Reason.DELETING, message))
        elif attempt.outage or not conditions.is_ready(attempt.account.service):
            attempt.account.record_ready(conditions.ready(Reason.WAITING, message))
        return self._outcome(attempt, Result.PENDING, message, after_s)

    def _failed(
        self, attempt: _Attempt, message: str, retry_after_s: float | None, reason: str = Reason.SYNC_FAILED
    ) -> Outcome:
        """Status stays. Told once, until it is another failure."""
        account = attempt.account
        event = events.failed(message, reason, deleting=attempt.deleting, hosts=attempt.hosts)
        state = conditions.ready(event.reason, message)
        if account.service.condition(conditions.READY) != state:
            account.events.append(event)
            self._reminders.forget(account.service.key)
        account.events += self._reminders.due(account.service.key, (event,))
        account.record_ready(state)
        return self._outcome(attempt, Result.FAILED, message, retry_after_s)

    def _conflict(self, attempt: _Attempt) -> Outcome:
        """Nothing is recorded: status and conditions are the other provider's until it lets go."""
        service = attempt.account.service
        message = (
            f"provider {claimed(service)} has a load balancer for this Service: let it clean that up, make "
            "the Service anew, or leave it to that provider by spec.loadBalancerClass"
        )
        event = events.failed(message, Reason.OTHER_PROVIDER)
        attempt.account.events.append(event)
        if not self._dry_run:
            self._cluster.emit(service.key, [event])
        return self._outcome(attempt, Result.FAILED, message, RETRY_S)

    def _outcome(
        self, attempt: _Attempt, result: Result, message: str = "", retry_after_s: float | None = None
    ) -> Outcome:
        service = attempt.account.service
        if result is not Result.UNCHANGED:
            level = logging.WARNING if result is Result.FAILED else logging.INFO
            fields = {"service": str(service.key), "steps": len(attempt.steps), "why": message}
            _log.log(level, result.value, extra={k: v for k, v in fields.items() if v})
        return Outcome(
            key=service.key,
            result=result,
            ingress=() if result is Result.DELETED else service.ingress,
            events=tuple(attempt.account.events),
            plan=attempt.plan,
            retry_after_s=retry_after_s,
            message=message,
        )


def result_of(before: Service, *, changed: bool) -> Result:
    """Of a Service that has what it should: `changed` says whether something had to be done for it."""
    if not changed:
        return Result.UNCHANGED
    return Result.UPDATED if before.ingress else Result.CREATED


def _forget(account: Account) -> None:
    """A Service refused before it was ever claimed, and then made one that wants no load balancer."""
    service = account.service
    if service.type is ServiceType.LOAD_BALANCER or claimed(service) or FINALIZER in service.finalizers:
        return
    account.record(service.ingress, ())


def _is_awaited(service: Service) -> bool:
    """Whether a former reconcile ended in waiting for the world."""
    ready = service.condition(conditions.READY)
    return ready is not None and ready.reason == Reason.WAITING


def is_being_deleted(service: Service) -> bool:
    """Whether a former reconcile has begun to take its load balancer away, and has not ended yet."""
    ready = service.condition(conditions.READY)
    return ready is not None and ready.reason == Reason.DELETING


def _is_bug(err: Exception) -> str:
    return f"a bug in lbprov, its log says more ({type(err).__name__}: {err})"
