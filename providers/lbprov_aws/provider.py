"""The AWS provider: observe, plan, apply, status. What the core calls; the decisions are elsewhere."""

from __future__ import annotations

from typing import cast

from lbprov.api import (
    Bindings,
    CallCount,
    Ingress,
    IPMode,
    LoadBalancer,
    Owner,
    Plan,
    ProviderContext,
    ProviderError,
    ProviderStatus,
    Step,
    UserError,
)
from lbprov_aws import addresses, names, plan, plan_succession, succession, writes
from lbprov_aws.address_book import AddressBook
from lbprov_aws.adoption import Adoptions
from lbprov_aws.apply import apply
from lbprov_aws.cloud import Cloud
from lbprov_aws.config import Config
from lbprov_aws.desired import want
from lbprov_aws.hands import Hands
from lbprov_aws.inventory import Inventory
from lbprov_aws.networks import Networks
from lbprov_aws.observe import Observer, Times
from lbprov_aws.placement import Placement
from lbprov_aws.refused import Refusals
from lbprov_aws.rejected import RejectedTargets
from lbprov_aws.resources import Observed
from lbprov_aws.rivals import Rivals
from lbprov_aws.seal_book import SealBook


class AwsProvider:
    """Safe for threads: for different owners at once, never for one."""

    def __init__(self, context: ProviderContext) -> None:
        _check_cluster(context.cluster)
        config = Config.of(context.options)
        placement = Placement(context.provider_ids)
        self._cloud = Cloud(
            config.region,
            read_only=context.read_only,
            elsewhere=placement.region,
            rates=config.rates,
            now_s=context.now_s,
        )
        self._inventory = Inventory(self._cloud, context.cluster, context.now_s, config.resync_s)
        address_book = AddressBook(
            self._cloud, self._inventory, Rivals(self._inventory, context.asked), context.now_s
        )
        rejected = RejectedTargets(context.now_s)
        networks = Networks(
            self._cloud,
            context.cluster,
            context.now_s,
            placement,
            vpc_id=config.vpc_id,
            subnet_ids=config.subnet_ids,
        )
        refusals = Refusals(context.now_s)
        self._hands = Hands(self._cloud, self._inventory, address_book, rejected, refusals)
        times = Times(context.wall_s, config.drain_s, config.patience_s)
        adoptions = Adoptions(self._cloud, self._inventory)
        self._observer = Observer(
            self._cloud, self._inventory, networks, address_book, rejected, refusals, times, adoptions
        )
        recheck_s = 0.0 if context.read_only else context.recheck_s
        self._seal_book = SealBook(
            self._cloud, self._inventory, self._observer, context.now_s, recheck_s, context.memo
        )
        self._read_only = context.read_only

    def observe(self, owner: Owner, desired: LoadBalancer | None, *, fresh: bool = False) -> Observed:
        if desired is None:
            left = self._observer.observe(owner, None, fresh=fresh)
            if not left.load_balancers:
                self._seal_book.forget(owner)
            return left
        if not fresh and (sealed := self._seal_book.believed(desired)):
            return sealed
        observed = self._observer.observe(owner, desired, fresh=fresh)
        self._seal_book.seal(desired, observed)
        return observed

    def plan(self, desired: LoadBalancer | None, observed: Observed) -> Plan:
        if desired is not None and observed.sealed:
            return plan.of_sealed(desired, observed)
        try:
            return plan_succession.plan(desired, observed)
        except UserError as refusal:
            if desired is not None and refusal.field != addresses.FIELD:
                # What can never be made keeps no address from others.
                self._hands.addresses.withdraw(desired.owner)
            raise

    def apply(self, step: Step, bindings: Bindings) -> None:
        if self._read_only:
            raise ProviderError(f"{step.action} {step.kind} refused: this is a dry run", retryable=False)
        self._seal_book.before(cast("writes.Write", step.body))
        apply(self._hands, step, bindings)

    def status(self, desired: LoadBalancer, observed: Observed) -> ProviderStatus:
        """An address that was asked for and given is published as such, everything else by name: a name
        outlives a change of the addresses behind it."""
        live = observed.load_balancer
        if live is None:
            return ProviderStatus((), ready=False, message="there is no load balancer yet")
        ip = addresses.published(desired.requested_ip, live)
        ingress = Ingress(ip=ip, ip_mode=IPMode.PROXY) if ip else Ingress(hostname=live.dns_name.lower())
        if live.state in ("active", "active_impaired"):  # the latter serves, and cannot grow
            again_after_s = succession.again_after_s(desired, want(desired), observed)
            message = "" if again_after_s is None else "the load balancer is being replaced"
            if observed.protected:
                message = "the load balancer is not replaced: it is protected against deletion"
            return ProviderStatus((ingress,), ready=True, message=message, again_after_s=again_after_s)
        message = f"AWS has the load balancer in state {live.state or 'unknown'}: it takes minutes to start"
        if live.state == "failed":
            message = "AWS could not set the load balancer up: delete the Service and create it again"
        return ProviderStatus((ingress,), ready=False, message=message)

    def owners(self) -> frozenset[Owner]:
        self._inventory.refresh(force=True)
        self._inventory.forget_all_details()
        return self._inventory.owners()

    def calls(self) -> CallCount:
        return self._cloud.calls()


def _check_cluster(cluster: str) -> None:
    """The cluster's name is part of every mark, so it has to be a tag's text."""
    key = names.cluster_tag(cluster)
    if not cluster or len(key) > 128 or not names.is_tag_text(cluster):
        raise ProviderError(
            f'cluster name "{cluster}": AWS tags take 1 to {128 - len(names.cluster_tag(""))} letters, '
            "digits, spaces and . _ - : / = + @",
            retryable=False,
        )
