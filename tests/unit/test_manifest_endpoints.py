"""Pods of a folder, where they run, and the EndpointSlices that Services have of them."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest
import yaml

from lbprov.cluster.manifests import ManifestCluster
from lbprov.cluster.seam import Snapshot
from lbprov.model import EndpointSlice, IPFamily, ObjectKey, Pod


def _node(name: str, spec: str = "", zone: str = "z1") -> str:
    return (
        f"apiVersion: v1\nkind: Node\n"
        f"metadata: {{name: {name}, labels: {{topology.kubernetes.io/zone: {zone}}}}}\n"
        f"spec: {{{spec}}}\nstatus: {{addresses: [{{type: InternalIP, address: 172.18.0.{name[-1]}}}]}}\n"
    )


def _pod(name: str, spec: str = "", status: str = "", meta: str = "") -> str:
    return (
        f"apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: web, pod: {name}}}, {meta}}}\n"
        f"spec: {{containers: [{{name: c, image: i, ports: [{{name: http, containerPort: 8080}}]}}], "
        f"{spec}}}\nstatus: {{{status}}}\n"
    )


def _service(spec: str = "", ports: str = "[{port: 80, targetPort: http}]", name: str = "web") -> str:
    return (
        f"apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n"
        f"spec: {{selector: {{app: web}}, ports: {ports}, {spec}}}\n"
    )


def _workload(kind: str, replicas: int, extra: str = "", labels: str = "app: web") -> str:
    return (
        f"apiVersion: apps/v1\nkind: {kind}\nmetadata: {{name: web}}\n"
        f"spec: {{replicas: {replicas}, selector: {{matchLabels: {{app: web}}}}, template: {{metadata: "
        f"{{labels: {{{labels}}}}}, "
        f"spec: {{containers: [{{name: c, image: i, ports: [{{name: http, containerPort: 8080}}]}}], "
        f"{extra}}}}}}}\n"
    )


def _snapshot(folder: Path, *documents: str) -> Snapshot:
    (folder / "all.yaml").write_text("---\n".join(documents))
    snapshot = ManifestCluster.open(folder).snapshot()
    assert [str(p) for p in snapshot.problems] == []
    return snapshot


def _pods(snapshot: Snapshot) -> dict[str, Pod]:
    return {p.key.name: p for p in snapshot.pods}


NODES = (_node("n1"), _node("n2", zone="z2"))


# -- where Pods run


def test_pods_are_spread_and_stay(tmp_path: Path) -> None:
    first = _pods(_snapshot(tmp_path, *NODES, *(_pod(f"p{n}") for n in range(4))))
    assert sorted(p.node_name for p in first.values()) == ["n1", "n1", "n2", "n2"]
    more = _pods(_snapshot(tmp_path, *NODES, _node("n3"), *(_pod(f"p{n}") for n in (1, 2, 3, 4, 5))))
    assert {n: more[n] for n in ("p1", "p2", "p3")} == {n: first[n] for n in ("p1", "p2", "p3")}
    assert more["p4"].node_name == "n3"
    relabelled = _pods(_snapshot(tmp_path, *NODES, _pod("p1", meta="annotations: {a: b}")))
    assert relabelled["p1"] == first["p1"]


def test_a_pod_of_a_node_that_is_gone_moves(tmp_path: Path) -> None:
    first = _pods(_snapshot(tmp_path, *NODES, _pod("p1"), _pod("p2")))
    after = _pods(_snapshot(tmp_path, NODES[1], _pod("p1"), _pod("p2")))
    assert {p.node_name for p in after.values()} == {"n2"}
    assert after["p2"] == first["p2"]
    assert after["p1"].ips != first["p1"].ips


@pytest.mark.parametrize(
    ("pod", "node"),
    [
        pytest.param(_pod("p"), "n1", id="first-by-name"),
        pytest.param(_pod("p", "nodeName: n2"), "n2", id="node-name"),
        pytest.param(_pod("p", "nodeSelector: {topology.kubernetes.io/zone: z2}"), "n2", id="node-selector"),
        pytest.param(_pod("p", "tolerations: [{key: k, operator: Exists}]"), "n0", id="tolerates"),
        pytest.param(_pod("p", "tolerations: [{key: k, value: other}]"), "n1", id="tolerates-another"),
    ],
)
def test_scheduling(tmp_path: Path, pod: str, node: str) -> None:
    nodes = (
        _node("n0", "taints: [{key: k, effect: NoSchedule}]"),
        *NODES,
        _node("a9", "unschedulable: true"),
    )
    assert _pods(_snapshot(tmp_path, *nodes, pod))["p"].node_name == node


def test_nobody_to_run_on_is_no_address(tmp_path: Path) -> None:
    snapshot = _snapshot(tmp_path, _service(), _pod("p"))
    assert (snapshot.pods[0].node_name, snapshot.pods[0].ips) == ("", ())
    assert snapshot.endpoint_slices == ()


def test_addresses_are_of_the_node_s_ranges(tmp_path: Path) -> None:
    snapshot = _snapshot(
        tmp_path, _node("n1"), _node("n2", "podCIDRs: [192.168.7.0/24]"), *(_pod(f"p{n}") for n in range(40))
    )
    cidrs = {n.name: n.pod_cidrs for n in snapshot.nodes}
    assert cidrs == {"n1": ("10.244.0.0/24", "fd00:10:244::/64"), "n2": ("192.168.7.0/24",)}
    for pod in snapshot.pods:
        assert len(pod.ips) == len(cidrs[pod.node_name])
        for ip, cidr in zip(pod.ips, cidrs[pod.node_name], strict=True):
            network = ipaddress.ip_network(cidr)
            assert ipaddress.ip_address(ip) in network
            assert int(ipaddress.ip_address(ip)) - int(network.network_address) >= 2
    assert len({ip for p in snapshot.pods for ip in p.ips}) == sum(len(p.ips) for p in snapshot.pods)


def test_a_full_node_range_gives_no_address_twice(tmp_path: Path) -> None:
    pods = [_pod(f"p{n}") for n in range(7)]
    snapshot = _snapshot(tmp_path, _node("n1", "podCIDR: 192.168.7.0/29"), *pods)
    given = [ip for p in snapshot.pods for ip in p.ips]
    assert sorted(given) == [f"192.168.7.{n}" for n in (2, 3, 4, 5, 6)]


def test_node_ranges_are_kept_when_nodes_come_and_go(tmp_path: Path) -> None:
    _snapshot(tmp_path, *NODES)
    snapshot = _snapshot(tmp_path, _node("n0"), NODES[1])
    assert {n.name: n.pod_cidrs[0] for n in snapshot.nodes} == {"n0": "10.244.0.0/24", "n2": "10.244.1.0/24"}


def test_what_the_manifest_says_of_a_pod_wins(tmp_path: Path) -> None:
    snapshot = _snapshot(
        tmp_path,
        *NODES,
        _pod("given", "nodeName: n2", "podIP: 10.9.9.9, podIPs: [{ip: 10.9.9.9}, {ip: 'fd09::9'}]"),
        _pod("host", "hostNetwork: true, nodeName: n1"),
        _pod("waiting", status="phase: Pending"),
        _pod("unready", status="conditions: [{type: Ready, status: 'False'}]"),
        _pod("done", status="phase: Succeeded"),
    )
    pods = _pods(snapshot)
    assert pods["given"].ips == ("10.9.9.9", "fd09::9")
    assert pods["host"].ips == ("172.18.0.1",)
    assert {n: p.ready for n, p in pods.items()} == {
        "given": True,
        "host": True,
        "waiting": False,
        "unready": False,
    }


# -- workloads


@pytest.mark.parametrize("kind", ["Deployment", "ReplicaSet"])
def test_replicas_become_pods(tmp_path: Path, kind: str) -> None:
    names = _pods(_snapshot(tmp_path, *NODES, _workload(kind, 5)))
    assert len(names) == 5
    assert all(p.owner == "web" for p in names.values())
    fewer = _pods(_snapshot(tmp_path, *NODES, _workload(kind, 3)))
    assert fewer.items() <= names.items()
    other = _pods(_snapshot(tmp_path, *NODES, _workload(kind, 5, labels="app: web, v: '2'")))
    assert not other.keys() & names.keys()
    # The whole template counts, also what is not read.
    commanded = _workload(kind, 5).replace("image: i", "image: i, command: [other]")
    assert not _pods(_snapshot(tmp_path, *NODES, commanded)).keys() & names.keys()


def test_a_deployment_s_names(tmp_path: Path) -> None:
    (name,) = _pods(_snapshot(tmp_path, _workload("Deployment", 1)))
    base, template, suffix = name.split("-")
    assert (base, len(template), len(suffix)) == ("web", 10, 5)


def test_stateful_and_daemon_sets(tmp_path: Path) -> None:
    assert list(_pods(_snapshot(tmp_path, *NODES, _workload("StatefulSet", 3)))) == [
        "web-0",
        "web-1",
        "web-2",
    ]
    pods = _pods(_snapshot(tmp_path, *NODES, _workload("DaemonSet", 1).replace("replicas: 1, ", "")))
    assert sorted(p.node_name for p in pods.values()) == ["n1", "n2"]


# -- endpoints


def _by_service(snapshot: Snapshot, name: str = "web") -> list[EndpointSlice]:
    return [s for s in snapshot.endpoint_slices if s.service == name]


def test_a_named_target_port_is_the_pod_s_own(tmp_path: Path) -> None:
    other = _pod("p2").replace("8080", "9090")
    nameless = _pod("p3").replace("name: http, ", "")
    snapshot = _snapshot(
        tmp_path,
        *NODES,
        _service(ports="[{port: 80, name: w, targetPort: http}]"),
        _pod("p1"),
        other,
        nameless,
    )
    ports = {s.endpoints[0].target: [(p.name, p.port) for p in s.ports] for s in _by_service(snapshot)}
    assert ports == {
        ObjectKey("default", "p1"): [("w", 8080)],
        ObjectKey("default", "p2"): [("w", 9090)],
        ObjectKey("default", "p3"): [],
    }


def test_a_name_counts_for_its_protocol_only(tmp_path: Path) -> None:
    snapshot = _snapshot(
        tmp_path, *NODES, _service(ports="[{port: 80, targetPort: http, protocol: UDP}]"), _pod("p")
    )
    assert [s.ports for s in _by_service(snapshot)] == [()]


def test_all_labels_must_match_within_the_namespace(tmp_path: Path) -> None:
    service = _service().replace("selector: {app: web}", "selector: {app: web, pod: p1}")
    elsewhere = _pod("p1", meta="namespace: other")
    snapshot = _snapshot(tmp_path, *NODES, service, _pod("p1"), _pod("p2"), elsewhere)
    (piece,) = _by_service(snapshot)
    assert [e.target for e in piece.endpoints] == [ObjectKey("default", "p1")]


@pytest.mark.parametrize(
    ("service", "pod", "conditions"),
    [
        pytest.param(_service(), _pod("p"), (True, True, False), id="ready"),
        pytest.param(
            _service(),
            _pod("p", status="conditions: [{type: Ready, status: 'False'}]"),
            (False, False, False),
            id="not",
        ),
        pytest.param(
            _service("publishNotReadyAddresses: true"),
            _pod("p", status="conditions: [{type: Ready, status: 'False'}]"),
            (True, False, False),
            id="published-not-ready",
        ),
        pytest.param(
            _service(),
            _pod("p", meta="deletionTimestamp: '2026-01-01T00:00:00Z'"),
            (False, True, True),
            id="terminating",
        ),
    ],
)
def test_conditions(tmp_path: Path, service: str, pod: str, conditions: tuple[bool, bool, bool]) -> None:
    (piece,) = _by_service(_snapshot(tmp_path, *NODES, service, pod))
    (endpoint,) = piece.endpoints
    assert (endpoint.ready, endpoint.serving, endpoint.terminating) == conditions
    assert (endpoint.node_name, endpoint.zone) == ("n1", "z1")


def test_a_dual_stack_service_has_slices_of_both_families(tmp_path: Path) -> None:
    snapshot = _snapshot(tmp_path, *NODES, _service("ipFamilyPolicy: RequireDualStack"), _pod("p"))
    pieces = {s.family: s for s in _by_service(snapshot)}
    assert pieces.keys() == {IPFamily.IPV4, IPFamily.IPV6}
    assert ":" in pieces[IPFamily.IPV6].endpoints[0].addresses[0]


def test_slices_hold_at_most_a_hundred(tmp_path: Path) -> None:
    snapshot = _snapshot(tmp_path, *NODES, _service(), _workload("Deployment", 230))
    pieces = _by_service(snapshot)
    assert sorted(len(s.endpoints) for s in pieces) == [30, 100, 100]
    assert len({s.key for s in pieces}) == 3


def test_a_headless_service_publishes_hostnames_of_its_subdomain(tmp_path: Path) -> None:
    pods = _pod("p1", "hostname: one, subdomain: web"), _pod("p2", "hostname: two, subdomain: other")
    snapshot = _snapshot(tmp_path, *NODES, _service("clusterIP: None"), *pods)
    (piece,) = _by_service(snapshot)
    assert [e.hostname for e in piece.endpoints] == ["one", ""]


def test_external_names_have_none(tmp_path: Path) -> None:
    snapshot = _snapshot(tmp_path, *NODES, _service("type: ExternalName, externalName: a.b"), _pod("p"))
    assert snapshot.endpoint_slices == ()


WRITTEN = """
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-x, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: w, port: 8080}]
endpoints:
- addresses: [10.1.2.3]
  nodeName: n1
  conditions: {ready: null, terminating: true}
  hints: {forZones: [{name: z1}]}
- addresses: [10.1.2.4]
  conditions: {ready: false}
"""


def test_written_slices_are_taken_as_they_are(tmp_path: Path) -> None:
    fqdn = yaml.safe_load(WRITTEN) | {"addressType": "FQDN", "metadata": {"name": "f"}}
    fqdn["endpoints"] = [{"addresses": ["a.example"]}]
    (piece,) = _snapshot(tmp_path, WRITTEN, yaml.safe_dump(fqdn)).endpoint_slices
    assert (piece.key.name, piece.service, piece.ports[0].port, piece.ports[0].protocol) == (
        "web-x",
        "web",
        8080,
        "TCP",
    )
    first, second = piece.endpoints
    assert (first.ready, first.serving, first.terminating, first.zone_hints) == (True, True, True, ("z1",))
    assert (second.ready, second.serving) == (False, True)


def test_a_port_without_a_number_is_left_out(tmp_path: Path) -> None:
    (piece,) = _snapshot(tmp_path, WRITTEN.replace("port: 8080", "protocol: TCP")).endpoint_slices
    assert piece.ports == ()


def test_endpoints_of_the_older_kind_are_mirrored(tmp_path: Path) -> None:
    text = (
        "apiVersion: v1\nkind: Endpoints\nmetadata: {name: web}\nsubsets:\n"
        "- addresses: [{ip: 10.1.2.3, nodeName: n1}, {ip: 'fd00::1'}]\n"
        "  notReadyAddresses: [{ip: 10.1.2.4}]\n  ports: [{name: w, port: 80}]\n"
    )
    pieces = {s.family: s for s in _snapshot(tmp_path, text).endpoint_slices}
    assert [(e.addresses[0], e.ready) for e in pieces[IPFamily.IPV4].endpoints] == [
        ("10.1.2.3", True),
        ("10.1.2.4", False),
    ]
    assert [s.service for s in pieces.values()] == ["web", "web"]


# -- what is refused

PORT = "spec.containers[0].ports"
ENDPOINTS = (
    "apiVersion: v1\nkind: Endpoints\nmetadata: {name: web}\n"
    "subsets: [{addresses: [{ip: 10.1.2.3}], ports: [{port: 80}]}]\n"
)


@pytest.mark.parametrize(
    ("text", "line", "expected"),
    [
        pytest.param(_node("n1", "podCIDR: 10.0.0.1/24"), 4, "spec.podCIDR: ", id="node-cidr"),
        pytest.param(
            _node("n1", "podCIDRs: [10.1.0.0/24, 10.2.0.0/24]"), 4, "spec.podCIDRs: at most", id="node-cidrs"
        ),
        pytest.param(
            _node("n1", "taints: [{key: a, effect: No}]"), 4, "spec.taints[0].effect: ", id="node-taint"
        ),
        pytest.param(
            _node("n1").replace("172.18.0.1", "nowhere"),
            5,
            "status.addresses[0].address: ",
            id="node-address",
        ),
        pytest.param(
            _node("n1").replace("InternalIP", "Internal"), 5, "status.addresses[0].type: ", id="node-type"
        ),
        pytest.param(_pod("p", status="podIP: 127.0.0.1"), 5, "status.podIP: ", id="pod-ip"),
        pytest.param(_pod("p", "nodeName: N1"), 4, "spec.nodeName: ", id="pod-node"),
        pytest.param(
            _pod("p").replace("8080", "0"), 4, "spec.containers[0].ports[0].containerPort: 0", id="pod-port"
        ),
        pytest.param(
            _pod("p").replace("containers: [", "containerz: ["),
            4,
            "spec.containers: required",
            id="pod-containers",
        ),
        pytest.param(_workload("Deployment", -1), 4, "spec.replicas: -1 is outside", id="replicas"),
        pytest.param(
            _workload("Deployment", 1000000), 4, "spec.replicas: 1000000 is outside", id="replicas-many"
        ),
        pytest.param(
            _workload("Deployment", 1, labels="app: other"),
            4,
            "spec.template.metadata.labels: do not match spec.selector.matchLabels.app",
            id="selector-other",
        ),
        pytest.param(
            _workload("StatefulSet", 1).replace("name: web", "name: we.b"),
            3,
            "metadata.name: ",
            id="set-name",
        ),
        *(
            pytest.param(_pod("p", spec), 4, expected, id=id_)
            for spec, expected, id_ in (
                ("tolerations: [{key: a, operator: In}]", "spec.tolerations[0].operator: ", "operator"),
                ("tolerations: [{value: b}]", "spec.tolerations[0].operator: ", "toleration-without-key"),
                (
                    "tolerations: [{key: a, operator: Exists, value: b}]",
                    "spec.tolerations[0].o",
                    "exists-value",
                ),
                ("tolerations: [{key: a b}]", "spec.tolerations[0].key: ", "toleration-key"),
                ("tolerations: [{key: a, effect: Never}]", "spec.tolerations[0].effect: ", "effect"),
                ("initContainers: [{name: c, image: i}]", "spec.initContainers[0].name: ", "name-twice"),
                ("initContainers: [{image: i}]", "spec.initContainers[0].name: required", "no-name"),
                ("initContainers: [{name: d}]", "spec.initContainers[0].image: required", "no-image"),
                ("initContainers: [{name: d, image: ' i'}]", "spec.initContainers[0].image: ", "image-space"),
            )
        ),
        *(
            pytest.param(_pod("p", spec).replace("8080}", f"8080, {port}}}"), 4, f"{PORT}{expected}", id=id_)
            for port, spec, expected, id_ in (
                ("hostPort: 70000", "", "[0].hostPort: 70000 is outside", "host-port"),
                ("hostPort: 80", "hostNetwork: true", "[0].hostPort: 80 is not", "host-port-of-host-network"),
                (
                    "hostPort: 80}, {containerPort: 81, hostPort: 80",
                    "",
                    "[1].hostPort: 80/TCP",
                    "host-port-twice",
                ),
            )
        ),
        pytest.param(
            _node("n1", "taints: [{key: a, value: b c, effect: NoSchedule}]"),
            4,
            "spec.taints[0].value: ",
            id="taint-value",
        ),
        pytest.param(
            _node("n1", "taints: [{key: a, effect: NoSchedule}, {key: a, value: b, effect: NoSchedule}]"),
            4,
            "spec.taints[1]: ",
            id="taint-twice",
        ),
        pytest.param(
            WRITTEN.strip()
            .replace("IPv4", "IPv6")
            .replace("10.1.2.3", "FD00::1")
            .replace("10.1.2.4", "fd00::2"),
            7,
            "endpoints[0].addresses[0]: ",
            id="slice-spelling",
        ),
        *(
            pytest.param(WRITTEN.strip().replace(old, new), line, expected, id=id_)
            for old, new, line, expected, id_ in (
                ("port: 8080", "port: 80, protocol: ''", 5, "ports[0].protocol: ", "slice-protocol"),
                (
                    "port: 8080",
                    "port: 80, appProtocol: a b",
                    5,
                    "ports[0].appProtocol: ",
                    "slice-app-protocol",
                ),
                ("nodeName: n1", "nodeName: N1", 8, "endpoints[0].nodeName: ", "slice-node"),
                ("nodeName: n1", "hostname: a.b", 8, "endpoints[0].hostname: ", "slice-hostname"),
                ("name: z1", "name: z 1", 10, "endpoints[0].hints.forZones[0].name: ", "slice-hint"),
                ("{name: z1}", "{name: z1}, {name: z1}", 10, "endpoints[0].hints.forZones[1]", "slice-hints"),
            )
        ),
        *(
            pytest.param(ENDPOINTS.replace(old, new), 4, expected, id=id_)
            for old, new, expected, id_ in (
                ("addresses: [{ip: 10.1.2.3}], ", "", "subsets[0]: addresses or", "endpoints-nobody"),
                (
                    "10.1.2.3",
                    "10.1.2.3, hostname: a.b",
                    "subsets[0].addresses[0].hostname: ",
                    "endpoints-host",
                ),
                (
                    "{port: 80}",
                    "{port: 80}, {port: 81, name: a}",
                    "subsets[0].ports[0].name: ",
                    "endpoints-name",
                ),
                ("port: 80", "name: a", "subsets[0].ports[0].port: required", "endpoints-no-port"),
            )
        ),
        pytest.param(
            WRITTEN.strip().replace("10.1.2.4", "fd00::1"),
            11,
            "endpoints[1].addresses[0]: fd00::1",
            id="slice-family",
        ),
        pytest.param(WRITTEN.strip().replace("IPv4", "IPv5"), 4, "addressType: ", id="slice-type"),
        pytest.param(WRITTEN.strip().replace("8080", "0"), 5, "ports[0].port: 0 is outside", id="slice-port"),
    ],
)
def test_refused(tmp_path: Path, text: str, line: int, expected: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    snapshot = ManifestCluster.open(tmp_path).snapshot()
    assert (snapshot.nodes, snapshot.pods, snapshot.endpoint_slices) == ((), (), ())
    told = [(p.where, f"{p.field}: {p.message}") for p in snapshot.problems if p.fatal]
    assert any(message.startswith(expected) and where == f"{path}:{line}" for where, message in told), told


@pytest.mark.parametrize(
    ("expression", "matches"),
    [
        ("{key: app, operator: In, values: [web, x]}", True),
        ("{key: app, operator: In, values: [x]}", False),
        ("{key: app, operator: NotIn, values: [x]}", True),
        ("{key: app, operator: NotIn, values: [web]}", False),
        ("{key: none, operator: NotIn, values: [web]}", True),
        ("{key: app, operator: Exists}", True),
        ("{key: none, operator: Exists}", False),
        ("{key: none, operator: DoesNotExist}", True),
        ("{key: app, operator: DoesNotExist}", False),
        ("{key: app, operator: Exists, values: [web]}", False),
        ("{key: app, operator: In}", False),
        ("{key: app, operator: in, values: [web]}", False),
    ],
)
def test_match_expressions(tmp_path: Path, expression: str, matches: bool) -> None:
    text = _workload("Deployment", 1).replace(
        "{matchLabels: {app: web}}", f"{{matchExpressions: [{expression}]}}"
    )
    (tmp_path / "a.yaml").write_text(text)
    snapshot = ManifestCluster.open(tmp_path).snapshot()
    assert (len(snapshot.pods) == 1) == matches == (snapshot.problems == ())


def test_unknown_fields_of_large_kinds_are_told_and_the_rest_is_used(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(_pod("p", "nodename: n1"))
    snapshot = ManifestCluster.open(tmp_path).snapshot()
    assert len(snapshot.pods) == 1
    (problem,) = snapshot.problems
    assert (problem.fatal, problem.field) == (False, "spec.nodename")
    assert problem.message == "unknown field (did you mean nodeName?): ignored"
