"""Good manifests spoiled at random: always an answer, never a traceback, never a state that does not read."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from lbprov.cluster.manifests import ManifestCluster

GOOD = list(
    yaml.safe_load_all("""
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default, labels: {a: b}, annotations: {c: d}}
spec:
  type: LoadBalancer
  clusterIP: 10.96.7.7
  clusterIPs: [10.96.7.7, "fd00:10:96::7"]
  ipFamilies: [IPv4, IPv6]
  ipFamilyPolicy: RequireDualStack
  selector: {app: web}
  externalIPs: [192.0.2.1]
  loadBalancerIP: 192.0.2.2
  loadBalancerClass: lbprov.io/aws
  loadBalancerSourceRanges: [192.0.2.0/24]
  externalTrafficPolicy: Local
  internalTrafficPolicy: Local
  healthCheckNodePort: 30999
  allocateLoadBalancerNodePorts: true
  publishNotReadyAddresses: true
  sessionAffinity: ClientIP
  sessionAffinityConfig: {clientIP: {timeoutSeconds: 60}}
  ports:
  - {name: a, port: 80, targetPort: http, protocol: TCP, nodePort: 30080, appProtocol: http}
  - {name: b, port: 53, targetPort: 53, protocol: UDP}
status: {loadBalancer: {ingress: [{ip: 192.0.2.3, ipMode: VIP}, {hostname: a.example}]}}
---
apiVersion: v1
kind: Pod
metadata: {name: p, labels: {app: web}, deletionTimestamp: null}
spec:
  nodeName: n1
  hostNetwork: false
  hostname: p
  subdomain: web
  nodeSelector: {a: b}
  tolerations: [{key: a, operator: Equal, value: b, effect: NoSchedule}]
  containers: [{name: c, image: i, ports: [{name: http, containerPort: 80, protocol: TCP}]}]
  initContainers: [{name: i, image: i, restartPolicy: Always, ports: [{name: x, containerPort: 81}]}]
status:
  {phase: Running, podIP: 10.244.0.9, podIPs: [{ip: 10.244.0.9}], conditions: [{type: Ready, status: "True"}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: d}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}, matchExpressions: [{key: app, operator: In, values: [web]}]}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: i, ports: [{containerPort: 80}]}]}
---
apiVersion: v1
kind: Node
metadata: {name: n1, labels: {a: b}}
spec:
  podCIDR: 10.244.0.0/24
  podCIDRs: [10.244.0.0/24]
  providerID: "aws:///a/i-1"
  unschedulable: false
  taints: [{key: k, value: v, effect: PreferNoSchedule}]
status: {addresses: [{type: InternalIP, address: 172.18.0.1}], conditions: [{type: Ready, status: "True"}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: s, labels: {kubernetes.io/service-name: other}}
addressType: IPv4
ports: [{name: a, port: 80, protocol: TCP}]
endpoints:
- addresses: [10.1.2.3]
  nodeName: n1
  zone: z
  hostname: h
  conditions: {ready: true, serving: true, terminating: false}
  targetRef: {kind: Pod, namespace: default, name: p}
  hints: {forZones: [{name: z}], forNodes: [{name: n1}]}
---
apiVersion: v1
kind: Endpoints
metadata: {name: e}
subsets:
- addresses: [{ip: 10.1.2.3, nodeName: n1}]
  notReadyAddresses: [{ip: 10.1.2.4}]
  ports: [{name: a, port: 80}]
""")
)

ODD = ["", "x", "A b", 0, -1, 1, 70000, 10**20, 1.5, True, None, [], {}, [None], [""], [{}], {"": ""},
       {"a": None}, "10.0.0.1", "fd00::1", "::", "10.0.0.0/8", "None", "IPv6", "UDP", "ClusterIP",
       "ExternalName", "a\x00b",       "\u202e", "ä" * 100]  # fmt: skip


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from _places(inner, (*path, key))


PLACES = [(number, path) for number, document in enumerate(GOOD) for path in _places(document)]


def _spoil(documents: list[Any], number: int, path: tuple[Any, ...], value: Any, how: str) -> None:
    target = documents[number]
    for step in path[:-1]:
        try:
            target = target[step]
        except (KeyError, IndexError, TypeError):
            return  # an earlier change took this place away
    if isinstance(target, dict):
        if how == "remove":
            target.pop(path[-1], None)
        elif how == "rename":
            target[f"{path[-1]}s"] = target.pop(path[-1], value)
        else:
            target[path[-1]] = value
    elif isinstance(target, list) and target and isinstance(path[-1], int):
        target[path[-1] % len(target)] = value


CHANGES = st.lists(
    st.tuples(st.sampled_from(PLACES), st.sampled_from(ODD), st.sampled_from(["set", "remove", "rename"])),
    min_size=1,
    max_size=4,
)  # fmt: skip


def _write(folder: Path, documents: list[Any]) -> None:
    for number, document in enumerate(documents):
        (folder / f"{number}.json").write_text(json.dumps(document))


def test_the_good_ones_are_good(tmp_path: Path) -> None:
    _write(tmp_path, GOOD)
    snapshot = ManifestCluster.open(tmp_path).snapshot()
    assert snapshot.problems == ()
    assert (len(snapshot.services), len(snapshot.nodes), len(snapshot.pods)) == (1, 1, 3)
    assert {s.service for s in snapshot.endpoint_slices} == {"web", "other", "e"}


@settings(max_examples=80, deadline=None)
@given(CHANGES)
@pytest.mark.parametrize("update", [False, True], ids=["created", "updated"])
def test_spoiled(tmp_path_factory: pytest.TempPathFactory, update: bool, changes: list[Any]) -> None:
    folder = tmp_path_factory.mktemp("m")
    if update:
        _write(folder, GOOD)
        ManifestCluster.open(folder).snapshot()
    documents = copy.deepcopy(GOOD)
    for (number, path), value, how in changes:
        _spoil(documents, number, path, value, how)
    _write(folder, documents)
    snapshot = ManifestCluster.open(folder).snapshot()
    assert ManifestCluster.open(folder).snapshot() == snapshot
    for problem in snapshot.problems:
        assert str(problem).isprintable()
    if update:  # nothing went away that a manifest of sound identity still speaks of
        whole = all(path[0] not in ("metadata", "kind", "apiVersion") for (_, path), _, _ in changes)
        assert not whole or len(snapshot.services) == len(snapshot.nodes) == 1


@pytest.mark.parametrize(
    ("number", "path"), PLACES, ids=lambda v: ".".join(map(str, v)) if isinstance(v, tuple) else str(v)
)
def test_each_place_empty(tmp_path: Path, number: int, path: tuple[Any, ...]) -> None:
    empty: tuple[Any, ...] = ("", None, 0, [], {})
    for index, value in enumerate(empty):
        folder = tmp_path / str(index)
        folder.mkdir()
        documents = copy.deepcopy(GOOD)
        _spoil(documents, number, path, value, "set")
        _write(folder, documents)
        snapshot = ManifestCluster.open(folder).snapshot()
        assert ManifestCluster.open(folder, read_only=True).snapshot() == snapshot
