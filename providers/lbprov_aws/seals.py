"""What an earlier process verified, so that the next one need not look at every load balancer at once.

Listeners and targets are in no listing: reading them takes a call for each load balancer and each target
group. When all of a Service is as it should be, its load balancer gets a tag with a digest of what was
wanted and of what listings showed. A process that starts, and finds both as they were, takes the rest for
granted until the Service's first re-check.

A wish may change and change back while what it brought about stays. So before anything is written that no
listing shows, the seal is taken off, or doubted in the memo from process to process (see `doubts`). With a
memo, a seal says nothing of the nodes: the memo does.

Only for those who re-check: a single pass looks at everything. Pure.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any

from lbprov.api import LoadBalancer, Target
from lbprov_aws import names, plan, plan_succession, writes
from lbprov_aws.desired import want
from lbprov_aws.resources import LoadBalancerRecord, Observed, Record, SecurityGroupRecord
from lbprov_aws.wishes import read_wishes

_READ = ("service.beta.kubernetes.io/", "lbprov.io/")
"""Annotations that anything may hang on begin so."""

VERSION = "2"
"""Raised when a process must not believe its predecessors any more (a new detail is looked at)."""

_LISTED = (
    writes.CreateSecurityGroup
    | writes.AllowIngress
    | writes.RevokeIngress
    | writes.DeleteSecurityGroup
    | writes.CreateLoadBalancer
    | writes.DeleteLoadBalancer
    | writes.SetIpAddressType
    | writes.SetSecurityGroups
    | writes.CreateTargetGroup
    | writes.DeleteTargetGroup
    | writes.SetHealthCheck
    | writes.SetTags
    | writes.RemoveTags
    | writes.Adopt
    | writes.ClaimRules
)
"""What changes nothing but what a listing shows, and so makes no seal untrue: the facts in it differ then."""


def is_of(book: str, mark: str) -> bool:
    """Whether it is a seal of ours. `book`: of which memo (see `doubts`); empty: of none."""
    return mark.startswith(_beginning(book))


def digest(desired: LoadBalancer, observed: Observed, book: str) -> str:
    """The same for the same in any process; nothing in it that only a look at the details tells. Raises
    `UserError` for a wish that cannot be met."""
    records: list[Record] = [*observed.load_balancers, *observed.target_groups, *observed.security_groups]
    ours = {k: v for k, v in desired.annotations.items() if k.startswith(_READ)}
    # Of the nodes, what `want` makes of them: their labels change for all sorts of reasons.
    wanted = dataclasses.replace(want(desired), notices=())
    if book and not picks_nodes(desired):
        wanted = dataclasses.replace(wanted, targets=frozenset(), zones=())
    wish = (wanted, dataclasses.replace(desired, annotations=ours, targets=()))
    facts = [_plain(wish), sorted((_listed(record) for record in records), key=str)]
    return _beginning(book) + _hashed(facts)


def targets_digest(targets: Iterable[Target]) -> str:
    """What the nodes are to a Service that takes them all."""
    return _hashed(sorted({(target.provider_id, target.zone) for target in targets}))[:16]


def picks_nodes(desired: LoadBalancer) -> bool:
    """Whether the Service says which nodes it wants."""
    return bool(read_wishes(desired).node_labels)


def breaks(write: writes.Write) -> bool:
    """Whether a write may make a seal untrue without a listing that shows it."""
    return not isinstance(write, _LISTED)


def _beginning(book: str) -> str:
    return f"{VERSION}.{book}-"


def _hashed(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def is_settled(desired: LoadBalancer, observed: Observed) -> bool:
    """Whether all details are as wanted, and nothing is to be said that only they tell."""
    if observed.sealed or len(observed.load_balancers) != 1:
        return False
    whole = plan_succession.plan(desired, observed)
    return whole.is_empty and whole.notices == plan.of_sealed(desired, observed).notices


def mark(observed: Observed) -> str:
    """The digest that the load balancer bears; empty: none."""
    live = observed.load_balancer
    return dict(live.tags).get(names.SEAL, "") if live is not None else ""


def _listed(record: Record) -> Any:
    tags = [pair for pair in record.tags if pair[0] != names.SEAL]
    if isinstance(record, LoadBalancerRecord):
        subnets = sorted(zone.subnet_id for zone in record.zones)
        families, groups = record.ip_address_type, sorted(record.security_groups)
        return _plain((record.arn, families, groups, record.private_link, subnets, tags))
    if isinstance(record, SecurityGroupRecord):
        rules = (record.rules, record.foreign_rules, record.other_rules)
        return _plain((record.group_id, rules, tags))
    return _plain((record.arn, record.protocol, record.port, record.health_check, tags))


def _plain(value: Any) -> Any:
    """For JSON, in an order that does not hang on the process."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [_plain(getattr(value, field.name)) for field in dataclasses.fields(value)]
    if isinstance(value, Mapping):
        return sorted([key, _plain(each)] for key, each in value.items())
    if isinstance(value, frozenset):
        return sorted((_plain(each) for each in value), key=str)
    if isinstance(value, (tuple, list)):
        return [_plain(each) for each in value]
    return value.value if isinstance(value, Enum) else value
