"""What other controllers make for Services, and how it is known: by their tags, never by a name alone. Pure.

| controller | a load balancer's or target group's tags |
|---|---|
| cloud-provider-aws | `kubernetes.io/service-name` = NAMESPACE/NAME, `kubernetes.io/cluster/CLUSTER`; its name is "a" and the Service's uid |
| AWS Load Balancer Controller | `elbv2.k8s.aws/cluster` = CLUSTER, `service.k8s.aws/stack` = NAMESPACE/NAME, `service.k8s.aws/resource` |
"""  # noqa: E501 - a table

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from lbprov.api import ObjectKey, Owner
from lbprov_aws import names
from lbprov_aws.resources import (
    ListenerRecord,
    LoadBalancerRecord,
    SecurityGroupRecord,
    Tags,
    TargetGroupRecord,
)

CPA_SERVICE = "kubernetes.io/service-name"
LBC_CLUSTER, LBC_STACK, LBC_RESOURCE = (
    "elbv2.k8s.aws/cluster",
    "service.k8s.aws/stack",
    "service.k8s.aws/resource",
)
THEIRS = (CPA_SERVICE, LBC_CLUSTER, LBC_STACK, LBC_RESOURCE)
"""Tags by which they would take a resource for their own."""
_LBC_GROUP = "ManagedLBSecurityGroup"

_LIKE_THEIRS = re.compile(r"a[0-9a-f]{31}|k8s-.*")


class Maker(StrEnum):
    CPA = "cloud-provider-aws"
    LBC = "AWS Load Balancer Controller"


class Kind(StrEnum):
    NETWORK = "Network Load Balancer"
    APPLICATION = "Application Load Balancer"
    CLASSIC = "Classic Load Balancer"


@dataclass(frozen=True, slots=True)
class Found:
    """A load balancer that another controller has made for a Service. `record` None: it is none that we could
    have; `kind` says what."""

    maker: Maker
    arn: str
    kind: Kind
    record: LoadBalancerRecord | None = None

    @property
    def name(self) -> str:
        """`arn:…:loadbalancer/net/NAME/ID`, of a classic one `arn:…:loadbalancer/NAME`."""
        if self.record is not None:
            return self.record.name
        parts = self.arn.split("/")
        return parts[2] if len(parts) > 2 else parts[-1]


@dataclass(frozen=True, slots=True)
class Takeover:
    """All that is to be taken over with a load balancer, as it is now: its listeners, each with its tags, and
    the target groups and the security group that were made for the same Service."""

    maker: Maker
    balancer: LoadBalancerRecord
    listeners: tuple[tuple[ListenerRecord, Tags], ...] = ()
    target_groups: tuple[TargetGroupRecord, ...] = ()
    security_group: SecurityGroupRecord | None = None


def claim(tags: Iterable[tuple[str, str]], cluster: str) -> tuple[Maker, ObjectKey] | None:
    """Who has made what has these tags in this cluster, and for which Service."""
    had = dict(tags)
    if had.get(LBC_CLUSTER) == cluster and (key := _key(had.get(LBC_STACK, ""))):
        return Maker.LBC, key
    if names.cluster_tag(cluster) in had and (key := _key(had.get(CPA_SERVICE, ""))):
        return Maker.CPA, key
    return None


def _key(text: str) -> ObjectKey | None:
    namespace, _, name = text.partition("/")
    return ObjectKey(namespace, name) if namespace and name else None


def is_of(tags: Iterable[tuple[str, str]], owner: Owner) -> bool:
    """Whether another controller has made it for this Service."""
    found = claim(tags, owner.cluster)
    return found is not None and found[1] == owner.service


def kind_of(arn: str) -> Kind:
    """Of one that is no Network Load Balancer."""
    return Kind.APPLICATION if "/app/" in arn else Kind.CLASSIC


def is_of_another_uid(found: Found, owner: Owner) -> bool:
    """Whether cloud-provider-aws has made it for a former Service of this name: the name holds the uid."""
    return found.maker is Maker.CPA and found.name != ("a" + owner.uid.replace("-", ""))[:32]


def is_managed_group(group: SecurityGroupRecord, owner: Owner, balancer_name: str) -> bool:
    """Whether it was made for this load balancer alone, and is not one that several share or the user's."""
    tags = dict(group.tags)
    if is_of(group.tags, owner):
        return tags.get(LBC_RESOURCE, _LBC_GROUP) == _LBC_GROUP
    return group.name == f"k8s-elb-{balancer_name}" and names.cluster_tag(owner.cluster) in tags


def is_like_theirs(name: str) -> bool:
    """Whether a load balancer or target group may be of theirs, by its name."""
    return _LIKE_THEIRS.fullmatch(name) is not None
