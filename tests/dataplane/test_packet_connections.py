"""What lasts: connections while their Service changes, and packets of theirs that connection tracking cannot
place; a client's affinity to an endpoint."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from lbprov.lab import Lab, NodeHost, Probe, Reply
from lbprov.lab.lasting import is_forgotten, sticks_while_used, stray_arrives

FAMILIES = (4, 6)


def _vip(number: int, family: int) -> str:
    return f"10.96.9.{number}" if family == 4 else f"fd00:10:96::9{number:02x}"


def _service(name: str, number: int, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {
            "type": "NodePort",
            "ipFamilyPolicy": "RequireDualStack",
            "clusterIP": _vip(number, 4),
            "clusterIPs": [_vip(number, family) for family in FAMILIES],
            "ports": [{"name": "http", "port": 80, "nodePort": 31500 + number}],
            **spec,
        },
    }


def _slices(lab: Lab, name: str, *hosts: str, **conditions: bool) -> list[dict[str, Any]]:
    return [
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": f"{name}-{family}", "labels": {"kubernetes.io/service-name": name}},
            "addressType": f"IPv{family}",
            "ports": [{"name": "http", "protocol": "TCP", "port": 80}],
            "endpoints": [
                {
                    "addresses": [host.ipv4 if family == 4 else host.ipv6],
                    "nodeName": getattr(host, "node", host).name,
                    "conditions": conditions,
                }
                for host in (lab.hosts[name] for name in hosts)
            ],
        }
        for family in FAMILIES
    ]


@pytest.fixture(scope="module")
def host_network_endpoint(two_nodes: tuple[Lab, NodeHost, NodeHost]) -> None:
    _, _, node_2 = two_nodes
    node_2.serve(http=80)


@pytest.fixture(scope="module")
def world(
    two_nodes: tuple[Lab, NodeHost, NodeHost],
    tmp_path_factory: pytest.TempPathFactory,
    host_network_endpoint: None,
    follow: Any,
) -> tuple[Any, Lab]:
    lab, *nodes = two_nodes
    folder = follow(tmp_path_factory.mktemp("connections"), nodes)
    folder.settle()
    return folder, lab


def _held(lab: Lab, number: int) -> dict[str, tuple[str, Probe]]:
    """Who holds which connection, by a name."""
    found = {}
    for family in FAMILIES:
        node = lab.hosts["node-1"]
        ways = {"clusterIP": (_vip(number, family), 80)}
        ways["nodePort"] = (node.ipv4 if family == 4 else node.ipv6, 31500 + number)
        for host, way in (
            ("ask-1", "clusterIP"),
            ("ask-2", "clusterIP"),
            ("node-1", "clusterIP"),
            ("client-1", "nodePort"),
        ):
            ip, port = ways[way]
            found[f"{host} by {way}, IPv{family}"] = (host, Probe(ip, port, timeout_s=10, held=1))
    return found


def test_open_connections_stay_where_they_are(world: tuple[Any, Lab]) -> None:
    """Whatever becomes of their Service: TCP ends when its endpoint does."""
    folder, lab = world
    held = _held(lab, 1)

    def answerers() -> dict[str, str]:
        given = {name: lab.hosts[host].ask([probe])[0][0] for name, (host, probe) in held.items()}
        return {name: a.hostname if isinstance(a, Reply) else str(a) for name, a in given.items()}

    local = {"externalTrafficPolicy": "Local", "internalTrafficPolicy": "Local"}
    draining = {"ready": False, "serving": True, "terminating": True}
    folder.put("kept", _service("kept", 1), *_slices(lab, "kept", "web-1a", "web-2a"))
    folder.settle()
    first = answerers()
    assert set(first.values()) <= {"web-1a", "web-2a"}
    changes: dict[str, list[dict[str, Any]]] = {
        "all endpoints terminate": [
            _service("kept", 1),
            *_slices(lab, "kept", "web-1a", "web-2a", **draining),
        ],
        "others are there": [_service("kept", 1), *_slices(lab, "kept", "web-1b", "web-2b")],
        "for this node only": [_service("kept", 1, **local), *_slices(lab, "kept", "web-2b")],
        "none is there": [_service("kept", 1)],
        "no more nodePorts": [_service("kept", 1, type="ClusterIP", ports=[{"name": "http", "port": 80}])],
        "another port": [_service("kept", 1, ports=[{"name": "http", "port": 81, "nodePort": 31599}])],
    }
    for what, manifests in changes.items():
        folder.put("kept", *manifests)
        folder.settle()
        assert answerers() == first, what
    folder.remove("kept")
    folder.settle()
    assert answerers() == first, "the Service is gone"
    for host, probe in held.values():
        lab.hosts[host].ask([Probe(probe.ip, probe.port, held=1, times=0)])


STRAYS = [
    pytest.param("ask-1", "web-2a", "clusterIP", id="Pod to Pod"),
    pytest.param("ask-2", "web-1a", "clusterIP", id="Pod of the other node to Pod"),
    pytest.param("ask-1", "node-2", "clusterIP", id="Pod to a node"),
    pytest.param("client-1", "web-1a", "nodePort", id="outside to Pod"),
]


@pytest.mark.parametrize(("asker", "endpoint", "way"), STRAYS)
def test_clients_do_not_see_what_cannot_be_translated_back(
    asker: str, endpoint: str, way: str, world: tuple[Any, Lab]
) -> None:
    folder, lab = world
    client, server = lab.hosts[asker], lab.hosts[endpoint]
    spec = {"externalTrafficPolicy": "Local"}  # so that no answer is the node's own
    folder.put("strays", _service("strays", 2, **spec), *_slices(lab, "strays", endpoint))
    folder.settle()
    node = lab.hosts["node-1"]
    for family in FAMILIES:
        nodes = node.ipv4 if family == 4 else node.ipv6
        ip, port = (_vip(2, family), 80) if way == "clusterIP" else (nodes, 31502)
        assert not stray_arrives(client, server, ip, port), f"IPv{family}"


AFFINITY_S = 1


def test_affinity_lasts_while_it_is_used_and_no_longer(world: tuple[Any, Lab]) -> None:
    """By node-1 and by node-2, in both families, at the same time."""
    folder, lab = world
    sticky = {
        "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": AFFINITY_S}},
    }
    endpoints = ("web-1a", "web-1b", "web-2a", "web-2b")
    folder.put("sticky", _service("sticky", 3, **sticky), *_slices(lab, "sticky", *endpoints))
    folder.settle()

    def look(place: tuple[str, int]) -> tuple[bool, bool]:
        host, family = place
        asked = lab.hosts[host], _vip(3, family), 80, AFFINITY_S
        return sticks_while_used(*asked), is_forgotten(*asked)

    # Each with an asker of its own: one host asks one thing at a time.
    places = [("ask-1", 4), ("ask-2", 6), ("client-1", 6), ("client-2", 4)]
    with ThreadPoolExecutor(len(places)) as pool:
        seen = dict(zip(places, pool.map(look, places), strict=True))
    assert seen == dict.fromkeys(places, (True, True))
