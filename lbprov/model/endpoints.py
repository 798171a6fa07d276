"""EndpointSlices and Pods: who answers for a Service."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lbprov.model.service import IPFamily, L4Protocol, ObjectKey


@dataclass(frozen=True, slots=True)
class EndpointPort:
    """A port of every endpoint of a slice; `name` is the ServicePort's name."""

    port: int
    protocol: L4Protocol = L4Protocol.TCP
    name: str = ""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One backend. Conditions are decoded with the API's defaults: ready and serving absent mean true,
    terminating absent means false. Only `addresses[0]` is ever used (discovery.k8s.io/v1).
    `node_name` empty: not bound to a node, so local to none."""

    addresses: tuple[str, ...]
    node_name: str = ""
    zone: str = ""
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    hostname: str = ""
    target: ObjectKey | None = None
    zone_hints: tuple[str, ...] = ()
    node_hints: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EndpointSlice:
    """A part of a Service's endpoints, of one family. `service` is the label
    `kubernetes.io/service-name`; a slice without it belongs to no Service."""

    key: ObjectKey
    service: str
    family: IPFamily
    ports: tuple[EndpointPort, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def service_key(self) -> ObjectKey:
        return ObjectKey(self.key.namespace, self.service)


@dataclass(frozen=True, slots=True)
class Pod:
    """A Pod as far as Services care. `ips` empty: not running yet. `ports`: named container ports,
    which a named `targetPort` refers to. `owner` is the Deployment's name, empty for a bare Pod."""

    key: ObjectKey
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    node_name: str = ""
    ips: tuple[str, ...] = ()
    ports: tuple[EndpointPort, ...] = ()
    ready: bool = True
    terminating: bool = False
    host_network: bool = False
    hostname: str = ""
    owner: str = ""
