"""A folder over time: what is created, changed, refused, kept, deleted."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from lbprov.cluster import Cluster
from lbprov.cluster.manifests import ManifestCluster
from lbprov.model import (
    Condition,
    Event,
    Ingress,
    IPMode,
    ObjectKey,
    RetryLater,
    Service,
    Severity,
    UserError,
)

FINALIZER = "service.kubernetes.io/load-balancer-cleanup"
WEB = ObjectKey("default", "web")


def _service(name: str = "web", spec: str = "type: LoadBalancer, ports: [{port: 80}]") -> str:
    return f"apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\nspec: {{{spec}}}\n"


def _one(cluster: ManifestCluster, key: ObjectKey = WEB) -> Service:
    return {s.key: s for s in cluster.snapshot().services}[key]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "web.yaml").write_text(_service())
    (tmp_path / "node.yaml").write_text("apiVersion: v1\nkind: Node\nmetadata: {name: n1}\n")
    return tmp_path


def test_it_is_a_cluster(folder: Path) -> None:
    cluster: Cluster = ManifestCluster.open(folder)
    assert cluster.snapshot().services


# -- names


def test_the_name_is_the_folder_s_and_stays(folder: Path) -> None:
    cluster = ManifestCluster.open(folder)
    assert cluster.name.startswith(folder.name.lower()[:20].replace("_", "-"))
    assert cluster.name == ManifestCluster.open(folder).name


def test_a_given_name_is_kept_and_no_other_is_taken(folder: Path) -> None:
    ManifestCluster.open(folder, cluster_name="prod").snapshot()
    assert ManifestCluster.open(folder).name == "prod"
    with pytest.raises(UserError, match="belongs to cluster 'prod', not 'test'"):
        ManifestCluster.open(folder, cluster_name="test")


@pytest.mark.parametrize("name", ["", "a b", "-a", "a" * 64, "a\n"])
def test_names_that_are_none(folder: Path, name: str) -> None:
    with pytest.raises(UserError, match="--cluster-name"):
        ManifestCluster.open(folder, cluster_name=name)


# -- the folder itself


@pytest.mark.parametrize(("name", "what"), [("missing", "does not exist"), ("web.yaml", "is not a folder")])
def test_no_folder(folder: Path, name: str, what: str) -> None:
    with pytest.raises(UserError, match=what):
        ManifestCluster.open(folder / name)


def test_what_is_not_a_manifest_is_not_read(folder: Path) -> None:
    for name in (".hidden.yaml", "README.md", "web.yaml~", "#web.yaml#", ".git/config.yaml"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{")
    state = folder / "state.json"
    snapshot = ManifestCluster.open(folder, state_file=state).snapshot()
    assert state.exists()
    assert ManifestCluster.open(folder, state_file=state).snapshot() == snapshot
    assert snapshot.problems == ()


def test_odd_files_are_problems_and_stop_nobody(folder: Path) -> None:
    (folder / "latin.yaml").write_bytes("a: 1\nb: é\n".encode("latin-1"))
    (folder / "loop.yaml").symlink_to(folder / "loop.yaml")
    (folder / "lost.yaml").symlink_to(folder / "nowhere")
    (folder / "up").symlink_to(folder)
    os.mkfifo(folder / "pipe.yaml")
    (folder / "dir.yaml").mkdir()
    (folder / "new\nline.yaml").write_text("kind: Service\n")
    (folder / os.fsdecode(b"\xff.yaml")).write_text("- a list\n")
    snapshot = ManifestCluster.open(folder).snapshot()
    assert len(snapshot.services) == 1
    told = {str(p).removeprefix(f"{folder}/") for p in snapshot.problems}
    assert told == {
        "latin.yaml:2: not UTF-8 text: invalid continuation byte",
        "loop.yaml: cannot be read: Too many levels of symbolic links",
        "lost.yaml: a link to nothing",
        "up: a link to a folder is not followed",
        "pipe.yaml: is not a regular file",
        "new\\nline.yaml:1: apiVersion: required (a string): not a Kubernetes manifest without it, got null",
        "\\udcff.yaml:1: a manifest is a mapping; this is a list",
    }


def test_lists_and_other_kinds(tmp_path: Path) -> None:
    (tmp_path / "a.yml").write_text(
        "apiVersion: v1\nkind: ServiceList\nitems:\n- metadata: {name: a}\n  spec: {ports: [{port: 1}]}\n"
        "- metadata: {name: b}\n  spec: {ports: [{port: 0}]}\n---\n"
        "apiVersion: v1\nkind: List\nitems:\n"
        "- {apiVersion: v1, kind: Service, metadata: {name: c}, spec: {ports: [{port: 1}]}}\n"
        "- {apiVersion: v1, kind: ConfigMap, metadata: {name: c}}\n"
        "- {apiVersion: v1, kind: ConfigMap, metadata: {name: d}}\n"
        "- {apiVersion: serving.knative.dev/v1, kind: Service, metadata: {name: c}}\n"
        "- {apiVersion: v1, kind: Namespace, metadata: {name: c}}\n"
        "- {apiVersion: v2, kind: Service, metadata: {name: e}, spec: {ports: [{port: 1}]}}\n"
    )
    (tmp_path / "b.json").write_text('{"apiVersion": "v1", "kind": "List", "items": []}')
    snapshot = ManifestCluster.open(tmp_path).snapshot()
    assert [s.key.name for s in snapshot.services] == ["a", "c"]
    assert [(p.where.rpartition("/")[2], p.field, p.fatal) for p in snapshot.problems] == [
        ("a.yml:7", "spec.ports[0].port", True),
        ("a.yml:13", "", False),
        ("a.yml:15", "", False),
        ("a.yml:17", "apiVersion", True),
    ]


def test_the_first_of_two_of_one_name_is_used(folder: Path) -> None:
    (folder / "zweb.yaml").write_text("# again\n" + _service(spec="ports: [{port: 81}]"))
    snapshot = ManifestCluster.open(folder).snapshot()
    (problem,) = snapshot.problems
    assert problem.where == f"{folder}/zweb.yaml:5"
    assert f"{folder}/web.yaml:1 is the one used" in problem.message
    assert snapshot.services[0].ports[0].port == 80
    assert ManifestCluster.open(folder).snapshot() == snapshot


@pytest.mark.parametrize("newcomer", ["a.yaml", "a/web.yaml", "z.yaml"])
def test_what_is_in_force_is_not_replaced_by_a_newcomer(folder: Path, newcomer: str) -> None:
    cluster = ManifestCluster.open(folder)
    before = _one(cluster)
    path = folder / newcomer
    path.parent.mkdir(exist_ok=True)
    path.write_text(_service(spec="ports: [{port: 81}]"))
    snapshot = cluster.snapshot()
    assert snapshot.services == (before,)
    (problem,) = snapshot.problems
    assert (problem.where, problem.fatal) == (f"{path}:4", True)
    assert f"{folder}/web.yaml:1 is the one used" in problem.message
    # It may still be changed, also wrongly, in its own place.
    (folder / "web.yaml").write_text(_service(spec="type: LoadBalancer, ports: [{port: 82}]"))
    assert _one(cluster).ports[0].port == 82
    (folder / "web.yaml").write_text(_service(spec="type: LoadBalancer, ports: [{port: 0}]"))
    assert _one(cluster).ports[0].port == 82
    # Only when it has gone does the newcomer take its place.
    (folder / "web.yaml").unlink()
    snapshot = cluster.snapshot()
    assert (snapshot.problems, snapshot.services[0].ports[0].port) == ((), 81)


def test_what_is_in_force_is_known_again_among_its_file_s(folder: Path) -> None:
    path = folder / "web.yaml"
    cluster = ManifestCluster.open(folder)
    before = _one(cluster)
    other = _service(spec="ports: [{port: 81}]")
    path.write_text(f"{other}---\n{_service()}")
    snapshot = cluster.snapshot()
    assert snapshot.services == (before,)
    assert [p.where for p in snapshot.problems] == [f"{path}:4"]
    path.write_text(f"{other}---\n{_service(spec='ports: [{port: 82}]')}")
    snapshot = cluster.snapshot()
    assert snapshot.services == (before,)
    assert [(p.where, p.fatal) for p in snapshot.problems] == [(f"{path}:4", True), (f"{path}:10", True)]
    assert f"also in {path}:7" in snapshot.problems[0].message
    path.write_text(other)
    assert _one(cluster).ports[0].port == 81


def test_a_newcomer_does_not_stand_for_a_file_that_cannot_be_read(folder: Path) -> None:
    cluster = ManifestCluster.open(folder)
    before = _one(cluster)
    (folder / "web.yaml").write_text("{ half of it")
    (folder / "a.yaml").write_text(_service(spec="ports: [{port: 81}]"))
    snapshot = cluster.snapshot()
    assert snapshot.services == (before,)
    assert f"is in force from {folder}/web.yaml" in snapshot.problems[0].message
    (folder / "web.yaml").rename(folder / "gone")
    assert _one(cluster).ports[0].port == 81


def test_what_is_in_force_may_be_renamed_beside_another(folder: Path) -> None:
    (folder / "zz.yaml").write_text(_service(spec="ports: [{port: 81}]"))
    cluster = ManifestCluster.open(folder)
    before = _one(cluster)
    (folder / "web.yaml").rename(folder / "zzz.yaml")
    assert cluster.snapshot().services == (before,)


# -- changes


def test_an_update_keeps_what_was_allocated(folder: Path) -> None:
    cluster = ManifestCluster.open(folder)
    before = _one(cluster)
    (folder / "web.yaml").write_text(
        _service(spec="type: LoadBalancer, ports: [{port: 81}], selector: {a: b}")
    )
    after = _one(cluster)
    assert (after.uid, after.cluster_ips, after.created_at) == (
        before.uid,
        before.cluster_ips,
        before.created_at,
    )
    assert (after.ports[0].port, after.ports[0].node_port) == (81, before.ports[0].node_port)
    assert (before.generation, after.generation) == (1, 2)


def test_a_label_is_no_new_generation(folder: Path) -> None:
    cluster = ManifestCluster.open(folder)
    version = cluster.snapshot().version
    text = _service().replace("name: web", "name: web\n  labels: {a: b}")
    (folder / "web.yaml").write_text(text)
    assert _one(cluster).generation == 1
    assert cluster.snapshot().version != version


def test_a_changed_type_gives_up_what_it_no_longer_needs(folder: Path) -> None:
    cluster = ManifestCluster.open(folder)
    before = _one(cluster)
    (folder / "web.yaml").write_text(_service(spec="ports: [{port: 80}]"))
    after = _one(cluster)
    assert after.ports[0].node_port == 0
    assert after.cluster_ips == before.cluster_ips
    (folder / "other.yaml").write_text(
        _service("other", f"type: NodePort, ports: [{{port: 80, nodePort: {before.ports[0].node_port}}}]")
    )
    assert cluster.snapshot().problems == ()


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        pytest.param("clusterIP: 10.96.7.7", "clusterIP: 10.96.7.8", "spec.clusterIP", id="cluster-ip"),
        pytest.param("clusterIP: None", "clusterIP: 10.96.7.8", "spec.clusterIP", id="headless-to-ip"),
        pytest.param("clusterIP: None", "type: NodePort", "spec.clusterIP", id="headless-to-node-port"),
        pytest.param("type: ClusterIP", "ipFamilies: [IPv6]", "spec.ipFamilies[0]", id="family-of-the-ip"),
        pytest.param(
            "type: ClusterIP",
            "ipFamilies: [IPv4, IPv6]",
            "spec.ipFamilyPolicy",
            id="second-family-of-a-single-stack-one",
        ),
        pytest.param(
            "clusterIP: 10.96.7.7",
            "clusterIP: 10.96.7.7, clusterIPs: [10.96.7.7, 'fd00:10:96::7']",
            "spec.ipFamilyPolicy",
            id="second-address-of-a-single-stack-one",
        ),
        pytest.param(
            "ipFamilyPolicy: RequireDualStack",
            "ipFamilyPolicy: RequireDualStack, ipFamilies: [IPv4]",
            "spec.ipFamilyPolicy",
            id="one-family-left-out",
        ),
        pytest.param(
            "ipFamilyPolicy: PreferDualStack, clusterIP: 10.96.7.7, clusterIPs: [10.96.7.7, 'fd00:10:96::7']",
            "ipFamilyPolicy: PreferDualStack, clusterIP: 10.96.7.7, clusterIPs: [10.96.7.7]",
            "spec.ipFamilyPolicy",
            id="one-address-left-out",
        ),
        pytest.param(
            "type: LoadBalancer, loadBalancerClass: a/b",
            "type: LoadBalancer, loadBalancerClass: a/c",
            "spec.loadBalancerClass",
            id="class",
        ),
        pytest.param(
            "type: LoadBalancer",
            "type: LoadBalancer, loadBalancerClass: a/c",
            "spec.loadBalancerClass",
            id="class-given",
        ),
        pytest.param("ipFamilies: [IPv4]", "ipFamilies: [IPv6]", "spec.ipFamilies[0]", id="family"),
        pytest.param(
            "type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 30001",
            "type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 30002",
            "spec.healthCheckNodePort",
            id="health-check-port",
        ),
        pytest.param(
            "type: NodePort", "type: NodePort, sessionAffinity: X", "spec.sessionAffinity", id="invalid"
        ),
    ],
)  # fmt: skip
def test_a_refused_update_leaves_the_old_in_force(folder: Path, old: str, new: str, field: str) -> None:
    path = folder / "web.yaml"
    path.write_text(_service(spec=f"{old}, ports: [{{port: 80}}]"))
    cluster = ManifestCluster.open(folder)
    before = _one(cluster)
    path.write_text(_service(spec=f"{new}, ports: [{{port: 81}}]"))
    snapshot = cluster.snapshot()
    assert snapshot.services == (before,)
    (problem,) = snapshot.problems
    assert (problem.where, problem.object, problem.field) == (f"{path}:5", "Service default/web", field)
    assert problem.message.endswith("(it stays in force as last accepted)")
    path.write_text(_service(spec=f"{old}, ports: [{{port: 81}}]"))
    assert cluster.snapshot().problems == ()
    assert _one(cluster).ports[0].port == 81


@pytest.mark.parametrize(
    ("old", "new", "families"),
    [
        pytest.param("ipFamilyPolicy: SingleStack", "ipFamilyPolicy: PreferDualStack", 2, id="upgrade"),
        pytest.param("ipFamilyPolicy: RequireDualStack", "ipFamilyPolicy: SingleStack", 1, id="downgrade"),
        pytest.param("ipFamilyPolicy: RequireDualStack", "", 2, id="policy-left-out"),
        pytest.param("", "type: ExternalName, externalName: a.b", 0, id="to-external-name"),
        pytest.param("type: ExternalName, externalName: a.b", "", 1, id="from-external-name"),
    ],
)
def test_family_changes(folder: Path, old: str, new: str, families: int) -> None:
    path = folder / "web.yaml"
    path.write_text(_service(spec=f"{old}, ports: [{{port: 80}}]".lstrip(", ")))
    cluster = ManifestCluster.open(folder)
    before = _one(cluster)
    path.write_text(_service(spec=f"{new}, ports: [{{port: 81}}]".lstrip(", ")))
    after = _one(cluster)
    assert cluster.snapshot().problems == ()
    assert len(after.cluster_ips) == families
    assert before.cluster_ips[:1] == after.cluster_ips[:1] or not before.cluster_ips or not after.cluster_ips


def test_a_file_that_is_no_yaml_any_more_keeps_its_objects(folder: Path) -> None:
    path = folder / "web.yaml"
    path.write_text(_service() + "---\n" + _service("two"))
    cluster = ManifestCluster.open(folder)
    before = cluster.snapshot().services
    path.write_text("{ half of it")
    snapshot = cluster.snapshot()
    assert snapshot.services == before
    assert [p.where for p in snapshot.problems] == [f"{path}:1"]
    path.write_text(_service("two"))
    assert [s.key.name for s in cluster.snapshot().services] == ["two"]


def test_an_object_may_move_to_another_file(folder: Path) -> None:
    cluster = ManifestCluster.open(folder)
    before = cluster.snapshot()
    (folder / "web.yaml").rename(folder / "moved.yaml")
    assert cluster.snapshot().services == before.services
    (folder / "moved.yaml").write_text("{")
    assert cluster.snapshot().services == before.services


# -- deletion


def test_without_a_finalizer_it_goes_at_once(folder: Path) -> None:
    cluster = ManifestCluster.open(folder)
    first = _one(cluster)
    (folder / "web.yaml").unlink()
    assert cluster.snapshot().services == ()
    (folder / "web.yaml").write_text(_service())
    second = _one(cluster)
    assert second.uid != first.uid  # another Service of the same name
    assert second.cluster_ips == first.cluster_ips


def test_with_a_finalizer_it_stays_until_that_is_removed(folder: Path) -> None:
    cluster = ManifestCluster.open(folder)
    first = _one(cluster)
    cluster.add_finalizer(WEB, FINALIZER)
    cluster.add_finalizer(WEB, "other.io/one")
    assert _one(ManifestCluster.open(folder)).finalizers == (FINALIZER, "other.io/one")
    (folder / "web.yaml").unlink()
    going = _one(cluster)
    assert going.deleted_at
    assert (going.uid, going.ports) == (first.uid, first.ports)
    (folder / "web.yaml").write_text(_service(spec="ports: [{port: 99}]"))
    snapshot = cluster.snapshot()
    assert snapshot.services == (going,)
    assert [(p.fatal, "still being deleted" in p.message) for p in snapshot.problems] == [(False, True)]
    with pytest.raises(RetryLater):
        cluster.add_finalizer(WEB, "late.io/one")
    cluster.remove_finalizer(WEB, "other.io/one")
    assert _one(cluster).finalizers == (FINALIZER,)
    cluster.remove_finalizer(WEB, FINALIZER)
    second = _one(cluster)
    assert (second.uid != first.uid, second.ports[0].port, second.finalizers) == (True, 99, ())


def test_a_finalizer_on_what_is_not_there_is_refused(folder: Path) -> None:
    cluster = ManifestCluster.open(folder)
    cluster.snapshot()
    with pytest.raises(RetryLater, match="gone or going"):
        cluster.add_finalizer(ObjectKey("default", "nobody"), FINALIZER)
    cluster.remove_finalizer(ObjectKey("default", "nobody"), FINALIZER)
    cluster.record_status(ObjectKey("default", "nobody"), [Ingress(ip="192.0.2.1")], [])
    assert len(cluster.snapshot().services) == 1


@pytest.mark.parametrize(
    ("total", "left", "refused"),
    [
        pytest.param(1, 0, False, id="the-only-one"),
        pytest.param(4, 0, False, id="all-of-few"),
        pytest.param(10, 0, True, id="all-of-many"),
        pytest.param(6, 1, True, id="all-but-one"),
        pytest.param(9, 4, True, id="one-more-than-half-of-an-odd-number"),
        pytest.param(10, 4, True, id="most"),
        pytest.param(10, 5, False, id="half"),
    ],
)
def test_the_brake(folder: Path, total: int, left: int, refused: bool) -> None:
    path = folder / "web.yaml"
    path.write_text("---\n".join(_service(f"s{n}") for n in range(total)))
    cluster = ManifestCluster.open(folder)
    before = cluster.snapshot()
    path.write_text("---\n".join(_service(f"s{n}") for n in range(left)))
    snapshot = cluster.snapshot()
    assert [p.fatal for p in snapshot.problems] == [True] * refused
    if refused:
        assert snapshot.services == before.services
        assert snapshot.problems[0].message.startswith(f"{total - left} of {total} Services are gone")
        assert "--force" in snapshot.problems[0].message
        assert ManifestCluster.open(folder).snapshot() == snapshot
        snapshot = ManifestCluster.open(folder, force=True).snapshot()
        assert snapshot.problems == ()
    assert len(snapshot.services) == left


def _node(name: str) -> str:
    return f"apiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\n"


@pytest.mark.parametrize(
    ("before", "after", "refused"),
    [
        pytest.param(["a"], [], True, id="the-only-one"),
        pytest.param(["a", "b", "c"], [], True, id="all"),
        pytest.param(["a", "b", "c"], ["c"], False, id="a-few"),
        pytest.param(["a"], ["b"], False, id="another-in-its-place"),
        pytest.param(list("abcdefgh"), ["a", "b", "c"], True, id="most-of-many"),
        pytest.param(list("abcdefgh"), ["a", "b", "c", "d"], False, id="half-of-many"),
    ],
)
def test_the_brake_for_nodes(folder: Path, before: list[str], after: list[str], refused: bool) -> None:
    path = folder / "node.yaml"
    path.write_text("---\n".join(map(_node, before)))
    (folder / "other.yaml").write_text(_service("other"))
    cluster = ManifestCluster.open(folder)
    assert [n.name for n in cluster.snapshot().nodes] == before
    if after:
        path.write_text("---\n".join(map(_node, after)))
    else:
        path.unlink()
    (folder / "other.yaml").unlink()
    snapshot = cluster.snapshot()
    if refused:
        (problem,) = snapshot.problems
        gone = f"{len(before) - len(after)} of {len(before)} Nodes are gone"
        assert (problem.fatal, problem.where, gone in problem.message) == (True, str(folder), True)
        assert "--force" in problem.message
        assert [n.name for n in snapshot.nodes] == before
        assert len(snapshot.services) == 2  # what else is gone from such a folder is not, either
        assert ManifestCluster.open(folder).snapshot() == snapshot
        snapshot = ManifestCluster.open(folder, force=True).snapshot()
    assert snapshot.problems == ()
    assert [n.name for n in snapshot.nodes] == after
    assert len(snapshot.services) == 1


def test_nodes_without_services_go_freely(folder: Path) -> None:
    (folder / "web.yaml").unlink()
    cluster = ManifestCluster.open(folder)
    assert cluster.snapshot().nodes
    (folder / "node.yaml").unlink()
    snapshot = cluster.snapshot()
    assert (snapshot.nodes, snapshot.problems) == ((), ())


def test_a_folder_that_never_had_nodes_may_lose_services(folder: Path) -> None:
    (folder / "node.yaml").unlink()
    (folder / "two.yaml").write_text(_service("two"))
    cluster = ManifestCluster.open(folder)
    assert len(cluster.snapshot().services) == 2
    (folder / "two.yaml").unlink()
    snapshot = cluster.snapshot()
    assert (len(snapshot.services), snapshot.problems) == (1, ())


def test_an_empty_folder_deletes_nothing(folder: Path) -> None:
    cluster = ManifestCluster.open(folder)
    before = cluster.snapshot()
    for path in folder.glob("*.yaml"):
        path.unlink()
    (folder / "values.yaml").write_text("replicas: 3\n")
    snapshot = cluster.snapshot()
    assert (snapshot.services, snapshot.nodes) == (before.services, before.nodes)
    assert any("1 of 1 Services are gone" in p.message for p in snapshot.problems)
    assert ManifestCluster.open(folder, force=True).snapshot().services == ()


# -- what is written back


def test_status_is_kept_and_others_conditions_too(folder: Path) -> None:
    cluster = ManifestCluster.open(folder)
    cluster.snapshot()
    ingress = (Ingress(ip="192.0.2.1", ip_mode=IPMode.PROXY), Ingress(hostname="a.example"))
    mine = Condition("lbprov.io/Ready", "True", "Programmed", "")
    theirs = Condition("example.com/Seen", "True", "Yes", "")
    cluster.record_status(WEB, ingress, [theirs, mine])
    cluster.record_status(WEB, ingress, [mine])
    service = _one(ManifestCluster.open(folder))
    assert (service.ingress, service.conditions) == (ingress, (theirs, mine))
    cluster.record_status(WEB, [], [])
    assert (_one(cluster).ingress, _one(cluster).conditions) == ((), (theirs,))
    assert _one(cluster).generation == 1


def test_events_are_counted_and_bounded(folder: Path) -> None:
    cluster = ManifestCluster.open(folder)
    cluster.snapshot()
    again = Event(Severity.WARNING, "SyncLoadBalancerFailed", "no such address")
    cluster.emit(WEB, [again, Event(Severity.NORMAL, "Ensured", "x")])
    cluster.emit(WEB, [again])
    assert [(e.event.reason, e.count) for e in ManifestCluster.open(folder).events(WEB)] == [
        ("Ensured", 1),
        ("SyncLoadBalancerFailed", 2),
    ]
    fingerprint = cluster.fingerprint()
    cluster.emit(WEB, [Event(Severity.NORMAL, "E", str(n)) for n in range(100)])
    assert [e.event.message for e in cluster.events(WEB)] == [str(n) for n in range(80, 100)]
    assert cluster.fingerprint() == fingerprint
    cluster.emit(ObjectKey("default", "nobody"), [again])
    assert cluster.events(ObjectKey("default", "nobody")) == ()


def test_read_only_says_what_would_be_and_writes_nothing(folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    cluster = ManifestCluster.open(folder, read_only=True)
    seen = _one(cluster)
    cluster.add_finalizer(WEB, FINALIZER)
    cluster.record_status(WEB, [Ingress(ip="192.0.2.1")], [])
    assert _one(cluster).ingress
    assert sorted(folder.rglob("*")) == before
    assert _one(ManifestCluster.open(folder)).cluster_ips == seen.cluster_ips


def test_the_snapshot_s_version_says_whether_anything_changed(folder: Path) -> None:
    cluster = ManifestCluster.open(folder)
    first = cluster.snapshot()
    os.utime(folder / "web.yaml")
    assert cluster.snapshot() == first
    cluster.record_status(WEB, [Ingress(ip="192.0.2.1")], [])
    assert cluster.snapshot().version != first.version


# -- watching


def test_waiting_ends_with_a_change_a_stop_or_the_time(folder: Path) -> None:
    cluster = ManifestCluster.open(folder)
    cluster.snapshot()
    stop = threading.Event()
    seen = cluster.fingerprint()
    assert not cluster.wait_for_change(seen, 0.05, stop)
    writer = threading.Timer(0.3, (folder / "new.yaml").write_text, [_service("new")])
    writer.start()
    assert cluster.wait_for_change(seen, 30, stop)
    writer.join()
    assert len(cluster.snapshot().services) == 2
    seen = cluster.fingerprint()
    other = ManifestCluster.open(folder)
    other.record_status(WEB, [Ingress(ip="192.0.2.1")], [])
    assert cluster.wait_for_change(seen, 30, stop)
    seen = cluster.fingerprint()
    stopper = threading.Timer(0.1, stop.set)
    stopper.start()
    assert not cluster.wait_for_change(seen, 30, stop)
    stopper.join()


def test_waiting_lets_an_editor_finish(folder: Path) -> None:
    """A file that is away for a moment while it is saved is not a deletion."""
    cluster = ManifestCluster.open(folder)
    before = cluster.snapshot().services
    seen = cluster.fingerprint()
    path = folder / "web.yaml"
    text = path.read_text()
    path.rename(folder / "web.yaml~")

    def save() -> None:
        time.sleep(0.15)
        path.write_text(text)

    saver = threading.Thread(target=save)
    saver.start()
    assert cluster.wait_for_change(seen, 30, threading.Event())
    saver.join()
    assert cluster.snapshot().services == before


def test_a_kind_is_told_so_that_a_terminal_survives_it(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"apiVersion": "v1", "kind": "Evil\\u001b[31m"}')
    (problem,) = ManifestCluster.open(tmp_path).snapshot().problems
    assert problem.message == "kind Evil\\x1b[31m (v1) is not used by lbprov: ignored"
