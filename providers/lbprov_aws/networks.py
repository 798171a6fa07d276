"""Where new load balancers can stand: the subnets, looked up and remembered. The IO half of `subnets`."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass

from lbprov.api import ProviderError, UserError
from lbprov_aws import ec2, peer_annotations, subnets
from lbprov_aws.cloud import Cloud
from lbprov_aws.desired import Wanted
from lbprov_aws.placement import Placement, check_region
from lbprov_aws.resources import Network, Subnet, Tags, as_tags

MAX_AGE_S = 600.0
"""Networks change seldom, and only new load balancers look."""


@dataclass(frozen=True, slots=True)
class _Seen:
    subnets: tuple[Subnet, ...]
    at_s: float


class Networks:
    """Safe for threads. `vpc_id` and `subnet_ids` as configured; empty: found out."""

    def __init__(
        self,
        cloud: Cloud,
        cluster: str,
        now_s: Callable[[], float],
        placement: Placement,
        *,
        vpc_id: str = "",
        subnet_ids: tuple[str, ...] = (),
    ) -> None:
        self._cloud = cloud
        self._cluster = cluster
        self._now_s = now_s
        self._placement = placement
        self._vpc_id = vpc_id
        self._subnet_ids = subnet_ids
        self._lock = threading.Lock()
        self._seen: dict[tuple[str, ...], _Seen] = {}
        self._groups: dict[tuple[str, ...], tuple[Tags, float]] = {}

    def standing(self, subnet_ids: tuple[str, ...]) -> tuple[Subnet, ...]:
        """The subnets that a load balancer stands in."""
        return self._remembered(subnet_ids, self._look_up_named)

    def groups(self, wishes: tuple[str, ...], vpc_id: str) -> tuple[tuple[str, str], ...]:
        """Of security groups that a Service names, id or tag Name -> id; those that do not exist are
        missing."""
        with self._lock:
            now_s = self._now_s()
            seen, at_s = self._groups.get((vpc_id, *wishes), ((), -math.inf))
            if now_s - at_s >= MAX_AGE_S:
                seen = as_tags(ec2.named_groups(self._cloud, wishes, vpc_id))
                self._groups[(vpc_id, *wishes)] = (seen, now_s)
            return seen

    def find(self, wanted: Wanted, wishes: tuple[str, ...]) -> Network:
        """`wishes`: the subnets that the Service names. Raises `UserError` for those, `ProviderError` for
        what whoever runs lbprov has to settle."""
        check_region(self._cloud.region, wanted.zones)
        if chosen := wishes or self._subnet_ids:
            complaints: list[str] = []
            network = subnets.named(chosen, self._remembered(chosen, self._look_up_named), complaints)
            if isinstance(network, Network) and (wishes or not complaints):
                return network
            if wishes:
                raise UserError(
                    f"{network}: name one subnet of each zone, of one VPC, by id or tag Name",
                    field=peer_annotations.field(peer_annotations.SUBNETS),
                )
            raise ProviderError(f"--provider-option subnet-ids: {'; '.join(complaints)}", retryable=False)
        vpc_id = self._find_vpc(wanted.targets)
        found = self._remembered((vpc_id,), self._look_up_vpc)
        return subnets.discover(vpc_id, found, self._cluster, internal=wanted.internal)

    def complaints(self, wishes: tuple[str, ...]) -> tuple[str, ...]:
        """What is wrong with some of the subnets that a Service names."""
        found: list[str] = []
        subnets.named(wishes, self._remembered(wishes, self._look_up_named), found)
        return tuple(found)

    def _find_vpc(self, instances: frozenset[str]) -> str:
        """The VPC of the nodes, from any one of them."""
        with self._lock:
            self._vpc_id = self._vpc_id or self._placement.vpc_id(instances)
            for instance in sorted(instances):
                if self._vpc_id:
                    break
                self._vpc_id = ec2.vpc_of_instance(self._cloud, instance)
            if self._vpc_id:
                return self._vpc_id
        raise ProviderError(
            "no node tells which VPC this is (spec.providerID aws:///ZONE/i-…): "
            "use --provider-option vpc-id=…"
        )

    def _remembered(
        self, key: tuple[str, ...], look_up: Callable[[tuple[str, ...]], tuple[Subnet, ...]]
    ) -> tuple[Subnet, ...]:
        with self._lock:  # one look-up for all that wait for it
            seen = self._seen.get(key)
            if seen is None or self._now_s() - seen.at_s >= MAX_AGE_S:
                seen = self._seen[key] = _Seen(look_up(key), self._now_s())
            return seen.subnets

    def _look_up_named(self, key: tuple[str, ...]) -> tuple[Subnet, ...]:
        return ec2.subnets_named(self._cloud, key)

    def _look_up_vpc(self, key: tuple[str, ...]) -> tuple[Subnet, ...]:
        return ec2.subnets_of_vpc(self._cloud, key[0])
