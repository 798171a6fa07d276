"""The bodies of plan steps: the arguments of one write each. Frozen, printed in JSON, carried out by `apply`.

Fields called `…_ref` are step ids: `Bindings` says which ARN or group id they stand for.
"""

from __future__ import annotations

from dataclasses import dataclass

from lbprov.api import Owner
from lbprov_aws.resources import HealthCheck, IngressRule, Protocol, SubnetMapping, Tags


@dataclass(frozen=True, slots=True)
class CreateSecurityGroup:
    owner: Owner
    name: str
    vpc_id: str
    description: str
    tags: Tags


@dataclass(frozen=True, slots=True)
class AllowIngress:
    owner: Owner
    group_ref: str
    rules: tuple[IngressRule, ...]


@dataclass(frozen=True, slots=True)
class RevokeIngress:
    owner: Owner
    group_ref: str
    rules: tuple[IngressRule, ...]


@dataclass(frozen=True, slots=True)
class DeleteSecurityGroup:
    owner: Owner
    group_id: str


@dataclass(frozen=True, slots=True)
class CreateLoadBalancer:
    """`fallback`: see `addresses.Placement`."""

    owner: Owner
    name: str
    internal: bool
    ip_address_type: str
    mappings: tuple[SubnetMapping, ...]
    group_ref: str
    tags: Tags
    requested_ip: str = ""
    fallback: tuple[SubnetMapping, ...] = ()


@dataclass(frozen=True, slots=True)
class SetCrossZone:
    owner: Owner
    balancer_ref: str


@dataclass(frozen=True, slots=True)
class SetSecurityGroups:
    """All that is attached afterwards: `group_ref` and those that were attached before."""

    owner: Owner
    balancer_ref: str
    group_ref: str
    others: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DeleteLoadBalancer:
    owner: Owner
    arn: str


@dataclass(frozen=True, slots=True)
class CreateTargetGroup:
    owner: Owner
    name: str
    vpc_id: str
    protocol: Protocol
    port: int
    health_check: HealthCheck
    tags: Tags


@dataclass(frozen=True, slots=True)
class SetHealthCheck:
    owner: Owner
    arn: str
    health_check: HealthCheck


@dataclass(frozen=True, slots=True)
class SetStickiness:
    owner: Owner
    group_ref: str
    on: bool


@dataclass(frozen=True, slots=True)
class RegisterTargets:
    owner: Owner
    group_ref: str
    instances: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DeregisterTargets:
    owner: Owner
    group_ref: str
    instances: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DeleteTargetGroup:
    owner: Owner
    arn: str


@dataclass(frozen=True, slots=True)
class CreateListener:
    owner: Owner
    balancer_ref: str
    group_ref: str
    port: int
    protocol: Protocol
    tags: Tags


@dataclass(frozen=True, slots=True)
class ChangeListener:
    """`port` 0, `protocol` None, `group_ref` empty: stays as it is."""

    owner: Owner
    balancer_ref: str
    arn: str
    port: int = 0
    protocol: Protocol | None = None
    group_ref: str = ""


@dataclass(frozen=True, slots=True)
class DeleteListener:
    owner: Owner
    balancer_ref: str
    arn: str


@dataclass(frozen=True, slots=True)
class SetTags:
    """`key`: the ARN or group id."""

    owner: Owner
    key: str
    tags: Tags


@dataclass(frozen=True, slots=True)
class RemoveTags:
    owner: Owner
    key: str
    tag_keys: tuple[str, ...]


Write = (
    CreateSecurityGroup
    | AllowIngress
    | RevokeIngress
    | DeleteSecurityGroup
    | CreateLoadBalancer
    | SetCrossZone
    | SetSecurityGroups
    | DeleteLoadBalancer
    | CreateTargetGroup
    | SetHealthCheck
    | SetStickiness
    | RegisterTargets
    | DeregisterTargets
    | DeleteTargetGroup
    | CreateListener
    | ChangeListener
    | DeleteListener
    | SetTags
    | RemoveTags
)
