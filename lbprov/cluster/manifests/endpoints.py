"""Services and Pods to EndpointSlices, by the rules of Kubernetes' endpointslice controller. Pure.

Sources: k8s.io/endpointslice (podToEndpoint, getEndpointPorts, FindPort); KEP-752 (slices), KEP-1672
(terminating endpoints).
"""

from __future__ import annotations

import hashlib
import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from lbprov.cluster import decode
from lbprov.cluster.manifests.admit import Values, entries
from lbprov.model import (
    Endpoint,
    EndpointPort,
    EndpointSlice,
    IPFamily,
    Node,
    ObjectKey,
    Pod,
    Service,
    ServiceType,
)

MAX_ENDPOINTS = 100

Ports = tuple[EndpointPort, ...]


class PodIndex:
    """Finds the Pods that a selector matches without looking at all of them."""

    def __init__(self, pods: Iterable[Pod]) -> None:
        self._by_label: dict[tuple[str, str, str], list[Pod]] = defaultdict(list)
        for pod in pods:
            for name, value in pod.labels.items():
                self._by_label[pod.key.namespace, name, value].append(pod)

    def matching(self, namespace: str, selector: Mapping[str, str]) -> list[Pod]:
        shortest = min(
            (self._by_label.get((namespace, k, v), []) for k, v in selector.items()), key=len, default=[]
        )
        return [p for p in shortest if all(p.labels.get(k) == v for k, v in selector.items())]


def slices_for(
    service: Service, index: PodIndex, nodes: Mapping[str, Node], subdomains: Mapping[ObjectKey, str]
) -> Iterator[EndpointSlice]:
    """The slices of a Service with a selector; none where it has no Pods."""
    if not service.selector or service.type == ServiceType.EXTERNAL_NAME:
        return
    pods = index.matching(service.key.namespace, service.selector)
    for family in service.ip_families:
        groups: dict[Ports, list[Endpoint]] = defaultdict(list)
        for pod in sorted(pods, key=lambda p: p.key):
            ip = next((ip for ip in pod.ips if (":" in ip) == (family is IPFamily.IPV6)), "")
            if ip:
                groups[_ports(service, pod)].append(_endpoint(service, pod, ip, nodes, subdomains))
        for ports in sorted(groups, key=lambda ports: [(p.name, p.protocol, p.port) for p in ports]):
            yield from _chunks(service, family, ports, groups[ports])


def _ports(service: Service, pod: Pod) -> Ports:
    """What the Service's ports are on this Pod; a named one that the Pod does not have is left out."""
    found = []
    for port in service.ports:
        target: int | str | None = port.target_port
        if isinstance(target, str):
            named = (p.port for p in pod.ports if p.name == target and p.protocol == port.protocol)
            target = next(named, None)
        if target:
            found.append(EndpointPort(int(target), port.protocol, port.name))
    return tuple(found)


def _endpoint(
    service: Service, pod: Pod, ip: str, nodes: Mapping[str, Node], subdomains: Mapping[ObjectKey, str]
) -> Endpoint:
    node = nodes.get(pod.node_name)
    return Endpoint(
        addresses=(ip,),
        node_name=pod.node_name,
        zone=node.zone if node else "",
        ready=service.publish_not_ready_addresses or (pod.ready and not pod.terminating),
        serving=pod.ready,
        terminating=pod.terminating,
        hostname=pod.hostname if subdomains.get(pod.key) == service.key.name else "",
        target=pod.key,
    )


def _chunks(
    service: Service, family: IPFamily, ports: Ports, endpoints: Sequence[Endpoint]
) -> Iterator[EndpointSlice]:
    for number, begin in enumerate(range(0, len(endpoints), MAX_ENDPOINTS)):
        seed = f"{service.uid}/{family}/{ports}/{number}"
        suffix = hashlib.sha256(seed.encode()).hexdigest()[:8]
        yield EndpointSlice(
            key=ObjectKey(service.key.namespace, f"{service.key.name}-{suffix}"),
            service=service.key.name,
            family=family,
            ports=ports,
            endpoints=tuple(endpoints[begin : begin + MAX_ENDPOINTS]),
            labels={decode.SERVICE_NAME_LABEL: service.key.name},
        )


def written_slices(values: Values) -> Iterator[EndpointSlice]:
    """The slices that the folder's author wrote, as EndpointSlice or in the older form, Endpoints."""
    for _, entry in entries(values, "EndpointSlice"):
        if entry["object"]["addressType"] != "FQDN":
            yield decode.endpoint_slice(entry["object"])
    for key, entry in entries(values, "Endpoints"):
        for number, subset in enumerate(entry["object"].get("subsets", ())):
            yield from _mirrored(key, number, subset)


def _mirrored(key: ObjectKey, number: int, subset: Mapping[str, Any]) -> Iterator[EndpointSlice]:
    """One subset of an Endpoints object (of the Service of its name), a slice for each family."""
    addresses = [
        *((a, True) for a in subset.get("addresses", ())),
        *((a, False) for a in subset.get("notReadyAddresses", ())),
    ]
    addresses.sort(key=lambda pair: ":" in pair[0]["ip"])
    for is_v6, group in itertools.groupby(addresses, key=lambda pair: ":" in pair[0]["ip"]):
        obj = {
            "metadata": {
                "namespace": key.namespace,
                "name": f"{key.name}-mirrored-{number}-{'ipv6' if is_v6 else 'ipv4'}",
                "labels": {decode.SERVICE_NAME_LABEL: key.name},
            },
            "addressType": "IPv6" if is_v6 else "IPv4",
            "ports": subset.get("ports", ()),
            "endpoints": [
                {
                    "addresses": [address["ip"]],
                    "conditions": {"ready": ready, "serving": ready},
                    "nodeName": address.get("nodeName"),
                    "hostname": address.get("hostname"),
                }
                for address, ready in group
            ],
        }
        yield decode.endpoint_slice(obj)
