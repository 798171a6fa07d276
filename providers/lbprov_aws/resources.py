"""AWS resources as frozen values: what was seen (`…Record`), and what is wanted.

Records hold what a decision needs and nothing else. Tags are tuples of pairs, sorted, so that records can be
compared and hashed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from lbprov.api import Owner
from lbprov_aws import names

if TYPE_CHECKING:
    from lbprov_aws.peers import Found, Takeover

Tags = tuple[tuple[str, str], ...]


def as_tags(pairs: Mapping[str, str]) -> Tags:
    return tuple(sorted(pairs.items()))


class Protocol(StrEnum):
    """Of a listener and of a target group; both have the same, unless the listener speaks TLS."""

    TCP = "TCP"
    UDP = "UDP"
    TCP_UDP = "TCP_UDP"
    TLS = "TLS"


DEFAULT_POLICY = "ELBSecurityPolicy-2016-08"
"""Of a TLS listener that names none (API_CreateListener, SslPolicy)."""


@dataclass(frozen=True, slots=True)
class Tls:
    """How a TLS listener speaks; `more_certificates` are for SNI. `certificate` empty: it is asked for TLS
    and has no certificate that could be used, so it is not made; plain text must not take its place."""

    certificate: str
    more_certificates: frozenset[str] = frozenset()
    policy: str = DEFAULT_POLICY
    alpn: str = ""


DEFAULT_CODES = "200-399"
"""HTTP codes of a healthy target, as AWS has it for Network Load Balancers."""


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """`port`: a number or "traffic-port". `path` and `codes` only for HTTP and HTTPS. Interval 5-300 s,
    timeout 2-120 s, thresholds 2-10 (API_CreateTargetGroup)."""

    protocol: str
    port: str
    path: str = ""
    interval_s: int = 10
    timeout_s: int = 6
    healthy: int = 3
    unhealthy: int = 3
    codes: str = ""

    def __str__(self) -> str:
        where = f"{self.protocol} {self.port}{self.path}"
        codes = f" ({self.codes})" if self.codes not in ("", DEFAULT_CODES) else ""
        usual = 10 if self.protocol == "TCP" else 6
        timeout = f" (timeout {self.timeout_s} s)" if self.timeout_s != usual else ""
        return f"{where}{codes} every {self.interval_s} s{timeout}, {self.healthy}/{self.unhealthy}"


@dataclass(frozen=True, slots=True, order=True)
class IngressRule:
    """An inbound rule of a security group. `protocol` as EC2 spells it: tcp, udp, icmp, icmpv6; of the
    latter two `port` is the message's type. `cidr` of either family, or the id of a prefix list."""

    protocol: str
    port: int
    cidr: str

    def __str__(self) -> str:
        return f"{self.protocol} {self.port} from {self.cidr}"


@dataclass(frozen=True, slots=True)
class SubnetMapping:
    """Where in one zone a load balancer stands, and the address it has there if not one of AWS's choice."""

    subnet_id: str
    zone: str
    allocation_id: str = ""
    private_ip: str = ""
    ipv6: str = ""

    @property
    def has_address(self) -> bool:
        return bool(self.allocation_id or self.private_ip or self.ipv6)


@dataclass(frozen=True, slots=True)
class ZoneRecord:
    """A zone of a load balancer; `ip` the fixed address there: of an Elastic IP, private, or IPv6."""

    zone: str
    subnet_id: str
    allocation_id: str = ""
    ips: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ListenerRecord:
    """`ours` None: nobody needed to know (its tags were not read). `attributes` None: not read. The rest only
    of TLS: `certificate` the default one, `more_certificates` those for SNI (None: not read)."""

    arn: str
    port: int
    protocol: str
    target_group_arn: str = ""
    ours: bool | None = None
    certificate: str = ""
    policy: str = ""
    alpn: str = ""
    more_certificates: frozenset[str] | None = None
    attributes: Tags | None = None


@dataclass(frozen=True, slots=True)
class LoadBalancerRecord:
    """`listeners` None: not read. `attributes` None: not read, as nobody asked for any (all are at their
    default). `private_link`: whether its security groups apply to traffic by PrivateLink. `created_at`:
    RFC 3339."""

    arn: str
    name: str
    dns_name: str
    internal: bool
    state: str
    ip_address_type: str
    vpc_id: str
    zones: tuple[ZoneRecord, ...]
    security_groups: tuple[str, ...]
    tags: Tags = ()
    listeners: tuple[ListenerRecord, ...] | None = None
    attributes: Tags | None = None
    private_link: bool = True
    created_at: str = ""

    @property
    def key(self) -> str:
        return self.arn

    @property
    def ips(self) -> tuple[str, ...]:
        return tuple(ip for zone in self.zones for ip in zone.ips)


@dataclass(frozen=True, slots=True)
class TargetGroupRecord:
    """`targets` None: not read; instance ids, without those that are draining. `attributes` None: not read,
    as nobody asked for any (all are at their default)."""

    arn: str
    name: str
    protocol: str
    port: int
    vpc_id: str
    health_check: HealthCheck
    tags: Tags = ()
    target_type: str = "instance"
    targets: frozenset[str] | None = None
    attributes: Tags | None = None

    @property
    def key(self) -> str:
        return self.arn


@dataclass(frozen=True, slots=True)
class SecurityGroupRecord:
    """`rules`: those with our description. The others are not ours: `foreign_rules` are of the same shape,
    `other_rules` counts what has no such shape (another group, a prefix list)."""

    group_id: str
    name: str
    vpc_id: str
    rules: frozenset[IngressRule] = frozenset()
    foreign_rules: frozenset[IngressRule] = frozenset()
    other_rules: int = 0
    tags: Tags = ()

    @property
    def key(self) -> str:
        return self.group_id


Attributed = LoadBalancerRecord | TargetGroupRecord
Record = Attributed | SecurityGroupRecord


def owner_of(record: Record) -> Owner | None:
    return names.owner_of(dict(record.tags))


@dataclass(frozen=True, slots=True)
class Subnet:
    """`public`: its route table leads to an internet gateway."""

    subnet_id: str
    zone: str
    vpc_id: str
    cidr: str
    ipv6_cidrs: tuple[str, ...] = ()
    public: bool = False
    free_ips: int = 0
    tags: Tags = ()


@dataclass(frozen=True, slots=True)
class Network:
    """Where a new load balancer can stand: at most one subnet per zone, sorted by zone."""

    vpc_id: str
    subnets: tuple[Subnet, ...]


class AddressUse(StrEnum):
    """What the look-up of a requested address found."""

    FREE = "free"
    ABSENT = "absent"
    IN_USE = "in use"
    UNFIT = "unfit"
    """It exists, but not for a load balancer of this region (Local Zone, EC2-Classic)."""
    UNKNOWN = "unknown"
    """We may not look."""


@dataclass(frozen=True, slots=True)
class Address:
    """A requested public address as it was found. `holder`: who has it, as a person reads it, or
    (`is_promised`) is to have it; `message`: why it is unfit or unknown; `wish`: as it is asked for in a list
    (`eipalloc-…`, `tag:key=value`)."""

    ip: str
    use: AddressUse
    allocation_id: str = ""
    holder: str = ""
    message: str = ""
    wish: str = ""
    is_promised: bool = False


@dataclass(frozen=True, slots=True)
class Observed:
    """One owner's part of the world, and the facts that its desired state needs.

    - `network` and `address` are None where nothing depends on them; `addresses`: of those that annotations
      list, each wish's, where something depends on them.
    - `no_network`: why a load balancer beside the one that serves would find no network.
    - `taken`: names that we would use and that are somebody else's, with whose.
    - `load_balancers`: the one that serves first (see `succession`); `generation`: of one yet to be made.
    - `healthy`: ARNs of a successor's target groups that have a healthy target; `protected`: ARNs of load
      balancers that are protected against deletion, of those that are to be deleted or replaced.
    - `unmarked`: the owner's, with marks taken off by somebody.
    - `found`: what another controller has made, where nothing is ours; `takeover`: what is to be taken over.
    - `now_s`: since 1970; `drain_s` and `patience_s`: as configured.
    - `sealed`: all is as wanted, by what an earlier process verified; what no listing shows was not read.
    - `rejected`: instances that AWS refused as targets a short time ago; `once_rejected`: at any time.
    - `attached`: security groups of other load balancers of the owner's, where one is looked at alone.
    - `refused`: wishes of the owner's that AWS refused a short time ago, with what it said (see `Refusals`);
      `once_refused`: keys of those that it refused at any time.
    - `subnet_complaints`: what is wrong with some of the subnets that the Service names.
    - `standing`: the subnets that the load balancer stands in, where that matters.
    - `groups`: of security groups that the Service names, name -> id; those that do not exist are missing.
    """

    owner: Owner
    region: str
    load_balancers: tuple[LoadBalancerRecord, ...] = ()
    target_groups: tuple[TargetGroupRecord, ...] = ()
    security_groups: tuple[SecurityGroupRecord, ...] = ()
    network: Network | None = None
    no_network: str = ""
    address: Address | None = None
    addresses: tuple[Address, ...] = ()
    taken: tuple[tuple[str, str], ...] = ()
    sealed: bool = False
    rejected: frozenset[str] = frozenset()
    once_rejected: frozenset[str] = frozenset()
    generation: str = ""
    unmarked: tuple[Record, ...] = ()
    found: Found | None = None
    takeover: Takeover | None = None
    healthy: frozenset[str] = frozenset()
    protected: frozenset[str] = frozenset()
    now_s: float = 0.0
    drain_s: float = 0.0
    patience_s: float = 0.0
    attached: frozenset[str] = frozenset()
    refused: tuple[tuple[str, str], ...] = ()
    once_refused: frozenset[str] = frozenset()
    subnet_complaints: tuple[str, ...] = ()
    standing: tuple[Subnet, ...] = ()
    groups: tuple[tuple[str, str], ...] = ()

    @property
    def load_balancer(self) -> LoadBalancerRecord | None:
        """The one that serves."""
        return self.load_balancers[0] if self.load_balancers else None

    @property
    def security_group(self) -> SecurityGroupRecord | None:
        return self.security_groups[0] if self.security_groups else None


def replace_tags(record: Record, set_: Mapping[str, str], remove: Iterable[str]) -> Record:
    tags = {**dict(record.tags), **set_}
    for key in remove:
        tags.pop(key, None)
    return dataclasses.replace(record, tags=as_tags(tags))
