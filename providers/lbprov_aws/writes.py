"""The bodies of plan steps: the arguments of one write each. Frozen, printed in JSON, carried out by `apply`.

Fields called `…_ref` are step ids: `Bindings` says which ARN or group id they stand for.
"""

from __future__ import annotations

from dataclasses import dataclass

from lbprov.api import Owner
from lbprov_aws.resources import HealthCheck, IngressRule, Protocol, SubnetMapping, Tags, Tls


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
    """`fallback`: see `addresses.Placement`. Security groups: `group_ref` (empty: none of our own) and
    `more_groups`. `listed`: annotations list the addresses."""

    owner: Owner
    name: str
    internal: bool
    ip_address_type: str
    mappings: tuple[SubnetMapping, ...]
    group_ref: str
    tags: Tags
    requested_ip: str = ""
    fallback: tuple[SubnetMapping, ...] = ()
    more_groups: tuple[str, ...] = ()
    listed: bool = False


@dataclass(frozen=True, slots=True)
class SetAttributes:
    """Of a load balancer or of a target group; `subject`: which, as wishes are remembered by ("lb", "tg:…").
    `zones`: cross-zone only if it stands in no more zones than that."""

    owner: Owner
    ref: str
    subject: str
    attributes: Tags
    zones: int = 0


@dataclass(frozen=True, slots=True)
class SetSecurityGroups:
    """All that is attached afterwards: `group_ref` (empty: none of our own) and `others`. `private_link`:
    whether they apply to traffic by PrivateLink."""

    owner: Owner
    balancer_ref: str
    group_ref: str
    others: tuple[str, ...] = ()
    private_link: bool = True


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
    tls: Tls | None = None
    refusal_key: str = ""


@dataclass(frozen=True, slots=True)
class ChangeListener:
    """`port` 0, `protocol` None, `group_ref` empty, `tls` None: stays as it is. `refusal_key`: see
    `Refusals`."""

    owner: Owner
    balancer_ref: str
    arn: str
    port: int = 0
    protocol: Protocol | None = None
    group_ref: str = ""
    tls: Tls | None = None
    refusal_key: str = ""


@dataclass(frozen=True, slots=True)
class ChangeCertificates:
    """Those for SNI, of the listener on `number`: the one that exists (`arn`), or that is made before."""

    owner: Owner
    balancer_ref: str
    listener_ref: str
    arn: str
    number: int
    add: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SetListenerAttributes:
    """Of the listener that exists (`arn`), or that is made before (`listener_ref`)."""

    owner: Owner
    balancer_ref: str
    listener_ref: str
    arn: str
    attributes: Tags


@dataclass(frozen=True, slots=True)
class SetIpAddressType:
    owner: Owner
    balancer_ref: str
    ip_address_type: str


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
class Adopt:
    """Mark what another controller has made for the owner. `key`: the ARN or group id."""

    owner: Owner
    key: str
    tags: Tags


@dataclass(frozen=True, slots=True)
class ClaimRules:
    """Rules of a security group that was taken over: described as ours."""

    owner: Owner
    group_id: str
    rules: tuple[IngressRule, ...]


@dataclass(frozen=True, slots=True)
class TagListener:
    """Of a load balancer that was taken over. One of `tags` and `tag_keys` (to be removed) is empty."""

    owner: Owner
    balancer_arn: str
    arn: str
    tags: Tags
    tag_keys: tuple[str, ...] = ()


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
    | SetAttributes
    | SetSecurityGroups
    | DeleteLoadBalancer
    | CreateTargetGroup
    | SetHealthCheck
    | RegisterTargets
    | DeregisterTargets
    | DeleteTargetGroup
    | CreateListener
    | ChangeListener
    | ChangeCertificates
    | SetListenerAttributes
    | SetIpAddressType
    | DeleteListener
    | SetTags
    | RemoveTags
    | Adopt
    | ClaimRules
    | TagListener
)
