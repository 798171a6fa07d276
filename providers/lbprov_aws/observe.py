"""One owner's part of AWS: from the inventory, with what only reading each resource tells."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

from lbprov.api import Adopt, LoadBalancer, Owner, ProviderError, UserError
from lbprov_aws import (
    address_lists,
    addresses,
    elbv2,
    names,
    plan_listener_attributes,
    plan_listeners,
    plan_targets,
    settled,
    succession,
)
from lbprov_aws.address_book import AddressBook
from lbprov_aws.adoption import Adoptions
from lbprov_aws.cloud import Cloud
from lbprov_aws.desired import Wanted, want
from lbprov_aws.inventory import Inventory
from lbprov_aws.networks import Networks
from lbprov_aws.peers import Found
from lbprov_aws.refusals import GONE, Refused
from lbprov_aws.refused import Refusals
from lbprov_aws.rejected import RejectedTargets
from lbprov_aws.resources import (
    Address,
    LoadBalancerRecord,
    Network,
    Observed,
    SecurityGroupRecord,
    Subnet,
    TargetGroupRecord,
)
from lbprov_aws.succession import Cast
from lbprov_aws.wishes import refuse_unread_wishes


@dataclasses.dataclass(frozen=True, slots=True)
class Times:
    """`now_s`: since 1970."""

    now_s: Callable[[], float]
    drain_s: float
    patience_s: float


class Observer:
    def __init__(
        self,
        cloud: Cloud,
        inventory: Inventory,
        networks: Networks,
        address_book: AddressBook,
        rejected: RejectedTargets,
        refusals: Refusals,
        times: Times,
        adoptions: Adoptions,
    ) -> None:
        self._cloud = cloud
        self._inventory = inventory
        self._networks = networks
        self._address_book = address_book
        self._rejected = rejected
        self._refusals = refusals
        self._times = times
        self._adoptions = adoptions

    def observe(self, owner: Owner, desired: LoadBalancer | None, *, fresh: bool) -> Observed:
        if not fresh:
            self._inventory.refresh()
        elif desired is not None and self._is_settling(owner):
            self._inventory.refresh_settling()
            self._inventory.take_settled(owner)
        elif desired is None or not self._inventory.take_settled(owner):
            self._inventory.refresh_owner(owner)
        self._inventory.verify(owner)
        if desired is None:
            self._address_book.withdraw(owner)
            self._refusals.forget(owner)
            return self._with_takeover(self._listed(owner))
        try:
            return self._detailed(desired)
        except Refused as refusal:
            if refusal.code not in GONE:
                raise
        # Something went away since the listing.
        self._inventory.refresh_owner(owner)
        return self._detailed(desired)

    def without_details(self, desired: LoadBalancer, believes: Callable[[Observed], bool]) -> Observed | None:
        """From listings alone, if `believes` finds that enough. None: the details have to be looked at."""
        self._inventory.refresh()
        observed = self._listed(desired.owner)
        live = observed.load_balancer
        if live is None or len(observed.load_balancers) > 1 or self._inventory.is_detailed(live.arn):
            return None
        if not believes(observed):
            return None
        wanted = want(desired)
        return dataclasses.replace(
            observed,
            network=self._network(desired, wanted, live),
            address=self._address(desired, wanted, live),
            addresses=self._addresses(desired, wanted, live),
            taken=self._inventory.taken(_names(wanted, live, observed.target_groups, live.vpc_id)),
            rejected=self._rejected.now(),
            once_rejected=self._rejected.ever(),
            sealed=True,
        )

    def _listed(self, owner: Owner) -> Observed:
        records = self._inventory.of(owner)
        balancers = [r for r in records if isinstance(r, LoadBalancerRecord)]
        return Observed(
            owner=owner,
            region=self._cloud.region,
            load_balancers=succession.in_order(owner, balancers),
            target_groups=tuple(r for r in records if isinstance(r, TargetGroupRecord)),
            security_groups=tuple(r for r in records if isinstance(r, SecurityGroupRecord)),
            unmarked=self._inventory.unmarked(owner),
            now_s=self._times.now_s(),
            drain_s=self._times.drain_s,
            patience_s=self._times.patience_s,
        )

    def _detailed(self, desired: LoadBalancer) -> Observed:
        wanted = want(desired)
        observed = self._listed(desired.owner)
        if observed.unmarked:
            return observed
        if len(observed.load_balancers) > 1 and self._is_settling(desired.owner):
            self._inventory.refresh_settling()
            observed = self._listed(desired.owner)
        if not observed.load_balancers and (found := self._adoptions.found(desired)) is not None:
            return self._found(desired, observed, found)
        observed = self._with_takeover(observed)
        if observed.takeover is not None:
            return observed
        cast = succession.cast(desired, wanted, observed.load_balancers)
        live = succession.stand_in(desired, wanted, cast)
        begins = succession.is_about_to_begin(desired, cast)
        network, no_network = self._network_beside(desired, wanted, live, begins=begins)
        vpc_id = live.vpc_id if live else (network.vpc_id if network else "")
        groups = tuple(self._with_targets(group, wanted) for group in observed.target_groups)
        balancers = tuple(
            b if b in cast.superfluous else self._with_details(b, wanted, succession.groups_of(groups, b))
            for b in observed.load_balancers
        )
        return dataclasses.replace(
            observed,
            load_balancers=balancers,
            target_groups=groups,
            network=network,
            no_network=no_network,
            address=self._address(desired, wanted, live),
            addresses=self._addresses(desired, wanted, live),
            taken=self._inventory.taken(_names(wanted, live, groups, vpc_id)),
            healthy=self._healthy(cast, groups),
            protected=self._protected(observed, cast, begins=begins),
            rejected=self._rejected.now(),
            once_rejected=self._rejected.ever(),
            refused=self._refusals.of(desired.owner),
            once_refused=self._refusals.once(desired.owner),
            subnet_complaints=self._subnet_complaints(wanted, live),
            standing=self._standing(wanted, live),
            groups=self._security_groups(wanted, live, vpc_id),
        )

    def _subnet_complaints(self, wanted: Wanted, live: LoadBalancerRecord | None) -> tuple[str, ...]:
        if wanted.subnets and (live is None or settled.uses_fewer_subnets(wanted, live)):
            return self._networks.complaints(wanted.subnets)
        return ()

    def _standing(self, wanted: Wanted, live: LoadBalancerRecord | None) -> tuple[Subnet, ...]:
        """Where it matters: for a load balancer that is to get IPv6 addresses."""
        if live is None or not wanted.dual_stack or live.ip_address_type == "dualstack":
            return ()
        return self._networks.standing(tuple(sorted(zone.subnet_id for zone in live.zones)))

    def _security_groups(
        self, wanted: Wanted, live: LoadBalancerRecord | None, vpc_id: str
    ) -> tuple[tuple[str, str], ...]:
        """What is attached need not be looked up."""
        wishes = (*wanted.access.groups, *wanted.access.extra_groups)
        if live is not None and set(wishes) <= set(live.security_groups):
            return tuple((wish, wish) for wish in wishes)
        return self._networks.groups(wishes, vpc_id) if wishes else ()

    def _found(self, desired: LoadBalancer, observed: Observed, found: Found) -> Observed:
        takeover = None
        if desired.adopt is Adopt.TAKE_OVER and found.record is not None:
            takeover = self._adoptions.read(found.maker, found.record, desired.owner)
        return dataclasses.replace(observed, found=found, takeover=takeover)

    def _with_takeover(self, observed: Observed) -> Observed:
        """One that was begun is gone on with, whatever is asked for by now."""
        begun = (self._adoptions.begun(b, observed.owner) for b in observed.load_balancers)
        takeover = next((t for t in begun if t is not None), None)
        return observed if takeover is None else dataclasses.replace(observed, takeover=takeover)

    def _with_details(
        self, live: LoadBalancerRecord, wanted: Wanted, groups: Iterable[TargetGroupRecord]
    ) -> LoadBalancerRecord:
        known = live
        if not self._inventory.is_detailed(live.arn):
            listeners = elbv2.listeners(self._cloud, live.arn)
            live = dataclasses.replace(live, listeners=listeners, attributes=None)
        asked = wanted.attributes or names.ATTRIBUTES in dict(live.tags)
        asked = asked or wanted.spans_zones(zone.zone for zone in live.zones)
        if live.attributes is None and asked:
            live = dataclasses.replace(live, attributes=elbv2.balancer_attributes(self._cloud, live.arn))
        live = self._with_certificates(live, wanted)
        live = self._with_listener_attributes(live, wanted)
        live = self._with_marks(live, wanted, groups)
        if live is not known:
            self._inventory.learn(live)
        return live

    def _with_certificates(self, live: LoadBalancerRecord, wanted: Wanted) -> LoadBalancerRecord:
        """Those for SNI, where listeners are to speak TLS."""
        if all(port.tls is None for port in wanted.ports):
            return live
        unread = {
            x.arn: elbv2.more_certificates(self._cloud, x.arn)
            for x in live.listeners or ()
            if x.protocol == "TLS" and x.more_certificates is None
        }
        if not unread:
            return live
        listeners = tuple(
            dataclasses.replace(x, more_certificates=unread[x.arn]) if x.arn in unread else x
            for x in live.listeners or ()
        )
        return dataclasses.replace(live, listeners=listeners)

    def _with_listener_attributes(self, live: LoadBalancerRecord, wanted: Wanted) -> LoadBalancerRecord:
        """Where the Service asks for any, or did."""
        if not plan_listener_attributes.matter(wanted, live):
            return live
        unread = {
            x.arn: elbv2.listener_attributes(self._cloud, x.arn)
            for x in live.listeners or ()
            if x.attributes is None and plan_listener_attributes.are_there(x)
        }
        if not unread:
            return live
        listeners = tuple(
            dataclasses.replace(x, attributes=unread[x.arn]) if x.arn in unread else x
            for x in live.listeners or ()
        )
        return dataclasses.replace(live, listeners=listeners)

    def _healthy(self, cast: Cast, groups: Iterable[TargetGroupRecord]) -> frozenset[str]:
        """Asked anew each time: it is what is waited for."""
        successor = cast.successor
        if successor is None or not successor.state.startswith("active"):
            return frozenset()
        found = succession.groups_of(groups, successor)
        return frozenset(g.arn for g in found if g.targets and elbv2.has_healthy(self._cloud, g.arn))

    def _protected(self, observed: Observed, cast: Cast, *, begins: bool) -> frozenset[str]:
        going = [b for b in cast.retired if succession.drains_for_s(observed, b) == 0]
        if begins and cast.serving is not None:
            going.append(cast.serving)
        return frozenset(b.arn for b in going if elbv2.is_protected(self._cloud, b.arn))

    def _is_settling(self, owner: Owner) -> bool:
        """Whether what is awaited is AWS setting a load balancer up."""
        balancers = [r for r in self._inventory.of(owner) if isinstance(r, LoadBalancerRecord)]
        return any(b.state == "provisioning" for b in balancers)

    def _with_marks(
        self, live: LoadBalancerRecord, wanted: Wanted, groups: Iterable[TargetGroupRecord]
    ) -> LoadBalancerRecord:
        """Whose the listeners are that are not as wanted; the tags of the others matter to nobody."""
        listeners = live.listeners or ()
        by_id = {k: g.arn for k, g in plan_targets.groups_by_id(groups, live.vpc_id).items()}
        unsettled = plan_listeners.unsettled(wanted, live, by_id)
        unknown = [x.arn for x in listeners if x.ours is None and x.arn in unsettled]
        if not unknown:
            return live
        tags = elbv2.tags(self._cloud, unknown)
        marked = tuple(
            dataclasses.replace(x, ours=names.owner_of(dict(tags.get(x.arn, ()))) == wanted.owner)
            if x.arn in unknown
            else x
            for x in listeners
        )
        return dataclasses.replace(live, listeners=marked)

    def _with_targets(self, group: TargetGroupRecord, wanted: Wanted) -> TargetGroupRecord:
        known = group
        if not self._inventory.is_detailed(group.arn):
            group = dataclasses.replace(group, targets=elbv2.targets(self._cloud, group.arn), attributes=None)
        asked = wanted.attributes_of(plan_targets.group_id(group)) or names.ATTRIBUTES in dict(group.tags)
        if group.attributes is None and asked:
            group = dataclasses.replace(group, attributes=elbv2.group_attributes(self._cloud, group.arn))
        if group is not known:
            self._inventory.learn(group)
        return group

    def _network_beside(
        self, desired: LoadBalancer, wanted: Wanted, live: LoadBalancerRecord | None, *, begins: bool
    ) -> tuple[Network | None, str]:
        """The network, or why there is none for another load balancer than the one that serves, which goes on
        being kept up."""
        if live is None:
            refuse_unread_wishes(desired)
            return self._network(desired, wanted, None), ""
        try:
            return self._network(desired, wanted, None if begins else live), ""
        except UserError as refusal:
            return None, str(refusal)
        except ProviderError as refusal:
            if refusal.retryable:
                raise
            return None, str(refusal)

    def _network(
        self, desired: LoadBalancer, wanted: Wanted, live: LoadBalancerRecord | None
    ) -> Network | None:
        """Where it matters: for a new load balancer, and for a wish for an address of a subnet."""
        if live is not None:
            if wanted.addresses:
                missing = address_lists.unsatisfied(wanted.addresses, live)
                needed = address_lists.needs_subnets(wanted.addresses, missing)
                return self._networks.find(wanted, wanted.subnets) if needed else None
            wish = desired.requested_ip
            if addresses.is_honoured(wish, live):
                return None
            if not addresses.needs_subnets(wish, internal=wanted.internal):
                return None
        return self._networks.find(wanted, wanted.subnets)

    def _addresses(
        self, desired: LoadBalancer, wanted: Wanted, live: LoadBalancerRecord | None
    ) -> tuple[Address, ...]:
        """Those that annotations list, as far as the load balancer does not have them."""
        wishes = () if wanted.internal else wanted.addresses.elastic
        if live is not None:
            wishes = tuple(w for w in wishes if w in address_lists.unsatisfied(wanted.addresses, live))
        if not wishes:
            if wanted.addresses:
                self._address_book.withdraw(desired.owner)
            return ()
        return self._address_book.for_list(desired, wishes, new=live is None)

    def _address(
        self, desired: LoadBalancer, wanted: Wanted, live: LoadBalancerRecord | None
    ) -> Address | None:
        wish = desired.requested_ip
        if wanted.addresses:
            return None
        if not addresses.needs_lookup(wish, internal=wanted.internal):
            self._address_book.withdraw(desired.owner)
            return None
        if live is None:
            return self._address_book.for_new(desired, wish.strip())
        if addresses.is_honoured(wish, live):
            self._address_book.withdraw(desired.owner)
            return None
        return self._address_book.for_live(desired, wish.strip())


def _names(
    wanted: Wanted,
    live: LoadBalancerRecord | None,
    groups: Iterable[TargetGroupRecord],
    vpc_id: str,
) -> set[str]:
    """The names of what has yet to be made."""
    there = {group.name for group in groups}
    generation = names.generation_of(live.tags) if live else ""
    wanted_names = {
        names.target_group_name(wanted.owner, port.group_protocol, port.node_port, vpc_id, generation)
        for port in wanted.ports
    }
    if live is None:
        wanted_names.add(wanted.balancer_name)
    return wanted_names - there
