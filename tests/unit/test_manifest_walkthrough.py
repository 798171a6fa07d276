"""The walkthrough's manifests as a cluster, as a user would have them in a folder."""

from __future__ import annotations

import ipaddress
import shutil
from pathlib import Path

import pytest

from lbprov.cluster.manifests import ManifestCluster
from lbprov.model import ObjectKey, Service, ServiceType

WALKTHROUGH = Path(__file__).parent.parent / "walkthrough"
NODES = """
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Node
  metadata: {name: node-1, labels: {topology.kubernetes.io/zone: eu-west-1a}}
  spec: {providerID: "aws:///eu-west-1a/i-0a1"}
  status: {addresses: [{type: InternalIP, address: 172.18.0.2}]}
- apiVersion: v1
  kind: Node
  metadata: {name: node-2, labels: {topology.kubernetes.io/zone: eu-west-1b}}
  spec: {providerID: "aws:///eu-west-1b/i-0a2"}
  status: {addresses: [{type: InternalIP, address: 172.18.0.3}]}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "manifests"
    shutil.copytree(WALKTHROUGH, folder)
    (folder / "cluster").mkdir()
    (folder / "cluster" / "nodes.yaml").write_text(NODES)
    return folder


def _service(folder: Path, name: str) -> Service:
    return {s.key: s for s in ManifestCluster.open(folder).snapshot().services}[ObjectKey("default", name)]


def test_everything_is_accepted(folder: Path) -> None:
    snapshot = ManifestCluster.open(folder).snapshot()
    assert snapshot.problems == ()
    assert [n.name for n in snapshot.nodes] == ["node-1", "node-2"]
    assert snapshot.nodes[0].provider_id == "aws:///eu-west-1a/i-0a1"
    assert len(snapshot.services) == 6


def test_an_automatic_cluster_ip_is_of_the_service_range(folder: Path) -> None:
    (ip,) = _service(folder, "service-web-clusterip").cluster_ips
    assert ipaddress.ip_address(ip) in ipaddress.ip_network("10.96.0.0/12")


def test_requested_values_are_given(folder: Path) -> None:
    assert _service(folder, "service-web-clusterip-static").cluster_ips == ("10.101.150.150",)
    (port,) = _service(folder, "service-web-nodeport").ports
    assert (port.port, port.target_port, port.node_port) == (80, 80, 32001)
    assert _service(folder, "service-web-externalips").external_ips == ("101.101.101.1",)
    assert _service(folder, "service-web-lb-ip").load_balancer_ip == "203.0.113.10"


def test_a_load_balancer_gets_a_node_port(folder: Path) -> None:
    service = _service(folder, "service-web-lb")
    assert service.type is ServiceType.LOAD_BALANCER
    assert 30000 <= service.ports[0].node_port <= 32767


def test_endpoints_come_and_go_with_the_deployment(folder: Path) -> None:
    manifest = folder / "deployment-web.yaml"
    text = manifest.read_text()
    manifest.unlink()
    cluster = ManifestCluster.open(folder)
    assert cluster.snapshot().endpoint_slices == ()
    manifest.write_text(text.replace("replicas: 1", "replicas: 3"))
    snapshot = cluster.snapshot()
    pods = [p for p in snapshot.pods if p.owner == "webserver"]
    assert len(pods) == len({p.ips for p in pods}) == 3
    assert {p.node_name for p in pods} == {"node-1", "node-2"}
    assert {s.service for s in snapshot.endpoint_slices} == {s.key.name for s in snapshot.services}
    for piece in snapshot.endpoint_slices:
        assert {e.addresses[0] for e in piece.endpoints} == {p.ips[0] for p in pods}
        assert {e.zone for e in piece.endpoints} == {"eu-west-1a", "eu-west-1b"}
    manifest.write_text(text)
    (left,) = [p for p in cluster.snapshot().pods if p.owner == "webserver"]
    assert left in pods  # scaling down moves nobody


def test_a_cluster_ip_outside_of_the_range_is_refused_at_its_line(folder: Path) -> None:
    path = folder / "service-web-clusterip-static.yaml"
    path.write_text(path.read_text().replace("10.101.150.150", "10.200.0.1"))
    snapshot = ManifestCluster.open(folder).snapshot()
    assert [str(p) for p in snapshot.problems] == [
        f"{path}:6: Service default/service-web-clusterip-static: spec.clusterIP: "
        "10.200.0.1 is outside 10.96.0.1-10.111.255.254"
    ]
    assert len(snapshot.services) == 5


def test_a_second_run_changes_not_one_byte(folder: Path) -> None:
    first = ManifestCluster.open(folder).snapshot()
    files = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()}
    second = ManifestCluster.open(folder).snapshot()
    assert second == first
    assert {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()} == files


def test_a_lost_state_gives_the_same_uids_and_addresses(folder: Path) -> None:
    def essence() -> list[tuple[str, tuple[str, ...], tuple[int, ...]]]:
        services = ManifestCluster.open(folder).snapshot().services
        return [(s.uid, s.cluster_ips, tuple(p.node_port for p in s.ports)) for s in services]

    before = essence()
    for state in folder.glob(".lbprov-state*"):
        state.unlink()
    assert essence() == before
