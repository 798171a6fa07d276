"""Nodes: where traffic enters and where Pods run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

ZONE_LABEL = "topology.kubernetes.io/zone"


@dataclass(frozen=True, slots=True)
class NodeAddress:
    """`type` is InternalIP, ExternalIP, Hostname, InternalDNS or ExternalDNS; `address` an IP or a name."""

    type: str
    address: str


@dataclass(frozen=True, slots=True)
class Taint:
    key: str
    effect: str
    value: str = ""


@dataclass(frozen=True, slots=True)
class Node:
    """A Node as stored. `provider_id` is the cloud's name for it, e.g. `aws:///eu-west-1a/i-0abc`;
    empty where no cloud has claimed it. `deleted_at` empty unless the deletion has begun."""

    name: str
    uid: str = ""
    provider_id: str = ""
    addresses: tuple[NodeAddress, ...] = ()
    pod_cidrs: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    taints: tuple[Taint, ...] = ()
    unschedulable: bool = False
    ready: bool = True
    deleted_at: str = ""

    @property
    def zone(self) -> str:
        return self.labels.get(ZONE_LABEL, "")

    def ips(self, type_: str = "InternalIP") -> tuple[str, ...]:
        return tuple(a.address for a in self.addresses if a.type == type_)
