"""API JSON to the model: what is kept, what is tolerated, what is refused."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from lbprov.cluster import decode, wire
from lbprov.cluster.apiserver import kinds
from lbprov.model import (
    Condition,
    Endpoint,
    EndpointPort,
    EndpointSlice,
    Ingress,
    IPFamily,
    IPMode,
    L4Protocol,
    Node,
    NodeAddress,
    ObjectKey,
    Service,
    ServicePort,
    ServiceType,
    SessionAffinity,
    Taint,
    TrafficPolicy,
)

FULL_SERVICE: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {
        "name": "web",
        "namespace": "shop",
        "uid": "0a1b",
        "resourceVersion": "71",
        "creationTimestamp": "2026-01-02T03:04:05Z",
        "deletionTimestamp": "2026-02-02T03:04:05Z",
        "labels": {"app": "web"},
        "annotations": {"lbprov.io/ip-policy": "require"},
        "finalizers": ["service.kubernetes.io/load-balancer-cleanup", "other/one"],
        "managedFields": [{"manager": "kubectl", "fieldsV1": {"f:spec": {}}}],
    },
    "spec": {
        "type": "LoadBalancer",
        "clusterIP": "10.96.0.7",
        "clusterIPs": ["10.96.0.7", "FD00:0::7"],
        "ipFamilies": ["IPv4", "IPv6"],
        "ipFamilyPolicy": "PreferDualStack",
        "selector": {"app": "web"},
        "ports": [
            {"name": "http", "port": 80, "targetPort": "web", "nodePort": 30080, "protocol": "TCP"},
            {"name": "dns", "port": 53, "nodePort": 30053, "protocol": "UDP", "appProtocol": "x.io/dns"},
        ],
        "externalIPs": ["192.0.2.9"],
        "loadBalancerIP": "203.0.113.5",
        "loadBalancerClass": "lbprov.io/aws",
        "loadBalancerSourceRanges": [" 10.1.2.3/8 ", "192.0.2.0/24"],
        "externalTrafficPolicy": "Local",
        "internalTrafficPolicy": "Local",
        "healthCheckNodePort": 31000,
        "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
        "allocateLoadBalancerNodePorts": False,
        "publishNotReadyAddresses": True,
        "someFutureField": {"x": [1]},
    },
    "status": {
        "loadBalancer": {
            "ingress": [
                {"ip": "203.0.113.5", "ipMode": "Proxy", "ports": [{"port": 80, "protocol": "TCP"}]},
                {"hostname": "x.example"},
                {},
            ]
        },
        "conditions": [
            {
                "type": "lbprov.io/Ready",
                "status": "True",
                "reason": "Ok",
                "message": "m",
                "observedGeneration": 1,
            }
        ],
    },
}


def _service(obj: object) -> Service:
    value = kinds.SERVICES.decode(msgspec.Raw(json.dumps(obj).encode()))
    assert value is not None
    return value


def test_every_field_of_a_service() -> None:
    assert _service(FULL_SERVICE) == Service(
        key=ObjectKey("shop", "web"),
        uid="0a1b",
        type=ServiceType.LOAD_BALANCER,
        ports=(
            ServicePort(80, L4Protocol.TCP, "http", "web", 30080),
            ServicePort(53, L4Protocol.UDP, "dns", 53, 30053, "x.io/dns"),
        ),
        selector={"app": "web"},
        cluster_ips=("10.96.0.7", "fd00::7"),
        ip_families=(IPFamily.IPV4, IPFamily.IPV6),
        external_ips=("192.0.2.9",),
        load_balancer_ip="203.0.113.5",
        load_balancer_class="lbprov.io/aws",
        load_balancer_source_ranges=("10.0.0.0/8", "192.0.2.0/24"),
        external_traffic_policy=TrafficPolicy.LOCAL,
        internal_traffic_policy=TrafficPolicy.LOCAL,
        session_affinity=SessionAffinity.CLIENT_IP,
        session_affinity_timeout_s=60,
        health_check_node_port=31000,
        allocate_node_ports=False,
        publish_not_ready_addresses=True,
        annotations={"lbprov.io/ip-policy": "require"},
        labels={"app": "web"},
        finalizers=("service.kubernetes.io/load-balancer-cleanup", "other/one"),
        created_at="2026-01-02T03:04:05Z",
        deleted_at="2026-02-02T03:04:05Z",
        ingress=(Ingress(ip="203.0.113.5", ip_mode=IPMode.PROXY), Ingress(hostname="x.example")),
        conditions=(Condition("lbprov.io/Ready", "True", "Ok", "m"),),
    )


TWO_IN_ONE = {"ip": "10.0.0.1", "hostname": "x"}
BARE: dict[str, Any] = {"metadata": {"name": "s", "namespace": "n"}}


@pytest.mark.parametrize(
    ("rest", "fields"),
    [
        pytest.param({}, {"type": ServiceType.CLUSTER_IP, "ip_families": (IPFamily.IPV4,)}, id="bare"),
        pytest.param(
            {"spec": {"clusterIP": "None", "clusterIPs": ["None"]}},
            {"headless": True, "cluster_ips": ()},
            id="headless",
        ),
        pytest.param(
            {"spec": {"type": "ExternalName", "externalName": "x.example"}},
            {"type": ServiceType.EXTERNAL_NAME, "cluster_ips": ()},
            id="external name",
        ),
        pytest.param({"spec": {"clusterIP": "10.0.0.1"}}, {"cluster_ips": ("10.0.0.1",)}, id="one clusterIP"),
        pytest.param({"spec": {"selector": {}}}, {"selector": None}, id="empty selector"),
        pytest.param({"spec": {"externalIPs": ["010.001.2.3"]}}, {"external_ips": ("10.1.2.3",)}, id="zeros"),
        pytest.param(
            {"spec": {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {}}}},
            {"session_affinity": SessionAffinity.CLIENT_IP, "session_affinity_timeout_s": 10800},
            id="affinity without timeout",
        ),
        pytest.param(
            {
                "status": {
                    "loadBalancer": {"ingress": [{"ip": "10.0.0.1", "hostname": "x"}, {"hostname": "y"}]}
                }
            },
            {"ingress": (Ingress(ip="10.0.0.1"), Ingress(hostname="y"))},
            id="both in one ingress",
        ),
        pytest.param(
            {"spec": {"ports": [{"port": 7}]}}, {"ports": (ServicePort(7, target_port=7),)}, id="port"
        ),
    ],
)
def test_services(rest: dict[str, Any], fields: dict[str, Any]) -> None:
    value = _service(BARE | rest)
    assert {name: getattr(value, name) for name in fields} == fields
    assert decode.service(BARE | rest) == value, "a manifest's dict is the same as JSON"


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"labels": None, "annotations": None, "creationTimestamp": None}, id="metadata"),
        pytest.param({"deletionTimestamp": None, "finalizers": None}, id="deletion"),
    ],
)
def test_null_is_absent(change: dict[str, None]) -> None:
    meta = {"name": "s", "namespace": "n", "uid": "u"}
    assert _service({"metadata": meta | change}) == _service({"metadata": meta})
    everything = dict.fromkeys(
        ["ports", "selector", "clusterIPs", "ipFamilies", "externalIPs", "loadBalancerSourceRanges"]
    )
    assert _service({"metadata": meta, "spec": everything}) == _service({"metadata": meta})


def test_kubectls_copy_of_the_manifest_is_not_kept() -> None:
    with_copy = BARE["metadata"] | {"annotations": {wire.LAST_APPLIED: "{…}", "kept": "yes"}}
    assert _service({"metadata": with_copy}).annotations == {"kept": "yes"}


@pytest.mark.parametrize(
    ("spec", "kept"),
    [
        pytest.param({"externalIPs": ["not-an-ip"]}, {"external_ips": ("not-an-ip",)}, id="address"),
        pytest.param(
            {"loadBalancerSourceRanges": ["10.0.0.0/33"]},
            {"load_balancer_source_ranges": ("10.0.0.0/33",)},
            id="range",
        ),
    ],
)
def test_what_python_cannot_parse_is_left_to_those_who_can_name_the_field(
    spec: dict[str, Any], kept: dict[str, Any]
) -> None:
    value = _service(BARE | {"spec": spec})
    assert {name: getattr(value, name) for name in kept} == kept


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({"type": "Teleport"}, id="type"),
        pytest.param({"ports": [{"port": "80"}]}, id="port as text"),
        pytest.param({"ports": [{"port": 80, "protocol": "QUIC"}]}, id="protocol"),
        pytest.param({"ipFamilies": ["IPv7"]}, id="family"),
        pytest.param({"ports": 5}, id="ports"),
    ],
)
def test_what_a_newer_server_may_say_is_refused_for_that_object(spec: dict[str, Any]) -> None:
    with pytest.raises((msgspec.DecodeError, ValueError)):
        _service(BARE | {"spec": spec})


FULL_NODE: dict[str, Any] = {
    "metadata": {"name": "n1", "uid": "u", "labels": {"topology.kubernetes.io/zone": "z"}},
    "spec": {
        "providerID": "aws:///z/i-1",
        "podCIDR": "10.244.1.0/24",
        "podCIDRs": ["10.244.1.0/24", "fd00:1::/64"],
        "taints": [{"key": "ToBeDeletedByClusterAutoscaler", "value": "1", "effect": "NoSchedule"}],
        "unschedulable": True,
    },
    "status": {
        "addresses": [
            {"type": "InternalIP", "address": "10.0.0.1"},
            {"type": "Hostname", "address": "n1"},
        ],
        "conditions": [
            {"type": "MemoryPressure", "status": "False"},
            {"type": "Ready", "status": "Unknown", "lastHeartbeatTime": "2026-01-01T00:00:00Z"},
        ],
        "images": [{"names": ["x"], "sizeBytes": 5}],
    },
}


def _node(obj: object) -> Node | None:
    return kinds.NODES.decode(msgspec.Raw(json.dumps(obj).encode()))


def test_every_field_of_a_node() -> None:
    assert _node(FULL_NODE) == Node(
        name="n1",
        uid="u",
        provider_id="aws:///z/i-1",
        addresses=(NodeAddress("InternalIP", "10.0.0.1"), NodeAddress("Hostname", "n1")),
        pod_cidrs=("10.244.1.0/24", "fd00:1::/64"),
        labels={"topology.kubernetes.io/zone": "z"},
        taints=(Taint("ToBeDeletedByClusterAutoscaler", "NoSchedule", "1"),),
        unschedulable=True,
        ready=False,
    )


@pytest.mark.parametrize(
    ("rest", "fields"),
    [
        pytest.param({}, {"ready": True, "addresses": (), "provider_id": "", "zone": ""}, id="bare"),
        pytest.param({"spec": {"podCIDR": "10.0.0.0/24"}}, {"pod_cidrs": ("10.0.0.0/24",)}, id="one CIDR"),
        pytest.param(
            {"status": {"conditions": [{"type": "Ready", "status": "False"}]}},
            {"ready": False},
            id="not ready",
        ),
        pytest.param(
            {"spec": {"taints": [{"key": "k", "effect": "e"}]}}, {"taints": (Taint("k", "e"),)}, id="taint"
        ),
    ],
)
def test_nodes(rest: dict[str, Any], fields: dict[str, Any]) -> None:
    obj = {"metadata": {"name": "n"}, **rest}
    value = _node(obj)
    assert {name: getattr(value, name) for name in fields} == fields
    assert decode.node(obj) == value


FULL_SLICE: dict[str, Any] = {
    "metadata": {"name": "web-x", "namespace": "d", "labels": {"kubernetes.io/service-name": "web"}},
    "addressType": "IPv4",
    "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}, {"name": "any", "port": None}],
    "endpoints": [
        {
            "addresses": ["10.0.0.1"],
            "conditions": {"ready": False, "serving": True, "terminating": True},
            "nodeName": "n1",
            "zone": "z1",
            "hostname": "h",
            "targetRef": {"kind": "Pod", "name": "p", "namespace": "d"},
            "hints": {"forZones": [{"name": "z1"}], "forNodes": [{"name": "n1"}]},
        },
        {"addresses": ["10.0.0.2"], "conditions": {}},
    ],
}


def _slice(obj: object) -> EndpointSlice | None:
    return kinds.ENDPOINT_SLICES.decode(msgspec.Raw(json.dumps(obj).encode()))


def test_every_field_of_a_slice() -> None:
    """A port without a number means all ports, which no Service can use."""
    expected = EndpointSlice(
        key=ObjectKey("d", "web-x"),
        service="web",
        family=IPFamily.IPV4,
        ports=(EndpointPort(8080, L4Protocol.TCP, "http"),),
        endpoints=(
            Endpoint(
                addresses=("10.0.0.1",),
                node_name="n1",
                zone="z1",
                ready=False,
                serving=True,
                terminating=True,
                hostname="h",
                target=ObjectKey("d", "p"),
                zone_hints=("z1",),
                node_hints=("n1",),
            ),
            Endpoint(addresses=("10.0.0.2",), ready=True, serving=True),
        ),
        labels={"kubernetes.io/service-name": "web"},
    )
    assert _slice(FULL_SLICE) == expected
    assert decode.endpoint_slice(FULL_SLICE) == expected


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        pytest.param({"ports": None, "endpoints": None}, {"ports": (), "endpoints": ()}, id="null lists"),
        pytest.param({"metadata": {"name": "x", "namespace": "d"}}, {"service": ""}, id="of no Service"),
    ],
)
def test_slices(change: dict[str, Any], fields: dict[str, Any]) -> None:
    value = _slice(FULL_SLICE | change)
    assert {name: getattr(value, name) for name in fields} == fields


def test_slices_of_names_are_left_out() -> None:
    names = {**FULL_SLICE, "addressType": "FQDN", "endpoints": [{"addresses": ["x.example"]}]}
    assert _slice(names) is None
    with pytest.raises(ValueError, match="of names"):
        decode.endpoint_slice(names)
