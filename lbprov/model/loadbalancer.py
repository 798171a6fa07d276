"""The load balancer that a Service asks for, in no provider's words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from lbprov.model.service import IPFamily, L4Protocol, ObjectKey, SessionAffinity, TrafficPolicy


class Owner(NamedTuple):
    """Who a resource in the world belongs to: the mark that every resource of ours carries.

    A Service deleted and made again under its name has a new uid and so is another owner.
    """

    cluster: str
    service: ObjectKey
    uid: str

    def __str__(self) -> str:
        return f"{self.cluster}:{self.service}"


@dataclass(frozen=True, slots=True)
class Listener:
    """A port that clients connect to, and the NodePort behind it on every target."""

    port: int
    protocol: L4Protocol
    node_port: int
    name: str = ""

    def __str__(self) -> str:
        return f"{self.port}/{self.protocol}"


@dataclass(frozen=True, slots=True)
class Target:
    """A node that takes traffic for the load balancer."""

    node_name: str
    provider_id: str = ""
    addresses: tuple[str, ...] = ()
    zone: str = ""
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)


class Replace(StrEnum):
    """What may be done for a change that cannot be made on a load balancer that exists. `seamless`: a new one
    is made beside it, and the old one goes when its clients have had time to move. `outage`: also where the
    new one cannot stand beside the old one, which is taken away first then (an address has one holder)."""

    NEVER = "never"
    SEAMLESS = "seamless"
    OUTAGE = "outage"


class Adopt(StrEnum):
    """What becomes of a load balancer that another controller has made for the Service. `ask`: nothing, and
    nothing is made beside it; `ignore`: it stays, and one of our own is made."""

    ASK = "ask"
    TAKE_OVER = "take-over"
    IGNORE = "ignore"


@dataclass(frozen=True, slots=True)
class LoadBalancer:
    """What one Service of type LoadBalancer wants (desired state).

    - `listeners` in the Service's order; `targets` sorted by node name.
    - `source_ranges` empty: everybody may connect.
    - `requested_ip` is `spec.loadBalancerIP` as written, checked by nobody yet: a bad one is answered
      with an ephemeral address and a notice, not with a refusal.
    - `require_ip`: annotation `lbprov.io/ip-policy: require`; rather no address than another one.
    - `internal`: not reachable from the internet.
    - `health_check_node_port` 0: health is a connection to the NodePort itself.
    - `unread_scheme`, `unread_source_ranges`: what is wrong with what the Service says, with field and
      remedy, where nobody can understand it; `internal`, `source_ranges` are a guess then. A load balancer
      that exists stays as it is in this, and none is made (see `lbprov.api.ProviderSpec.keeps_unread`).
    - `created_at`: RFC 3339; the older of two Services that want one address gets it.
    - `replace`, `adopt`: what the user allows (annotations `lbprov.io/replace`, `lbprov.io/adopt`).
    - `load_balancer_class`: `spec.loadBalancerClass`, empty where there is none: other controllers' classes
      have defaults of their own.
    - `annotations`: the Service's, for what only one provider understands.
    """

    owner: Owner
    listeners: tuple[Listener, ...]
    targets: tuple[Target, ...]
    source_ranges: tuple[str, ...] = ()
    requested_ip: str = ""
    require_ip: bool = False
    internal: bool = False
    ip_families: tuple[IPFamily, ...] = (IPFamily.IPV4,)
    external_traffic_policy: TrafficPolicy = TrafficPolicy.CLUSTER
    health_check_node_port: int = 0
    session_affinity: SessionAffinity = SessionAffinity.NONE
    session_affinity_timeout_s: int = 10800
    created_at: str = ""
    replace: Replace = Replace.NEVER
    adopt: Adopt = Adopt.ASK
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    load_balancer_class: str = ""
    unread_scheme: str = ""
    unread_source_ranges: str = ""
