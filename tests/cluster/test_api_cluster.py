"""The API cluster on a real API server, with the token and the rights of the ServiceAccount that we ship."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from lbprov.cluster.apiserver import ApiCluster
from lbprov.cluster.apiserver.credentials import Place
from lbprov.cluster.apiserver.errors import ApiError, Denied, NotFound
from lbprov.cluster.apiserver.transport import Transport
from lbprov.cluster.apiserver.writes import ServiceWriter
from lbprov.lab.controlplane import Api, ControlPlane, eventually
from lbprov.lab.controlplane.objects import add_node, service, set_node_ready
from lbprov.model import (
    Condition,
    Event,
    Ingress,
    IPMode,
    ObjectKey,
    RetryLater,
    Service,
    ServiceType,
    Severity,
    UserError,
)

FINALIZER = "service.kubernetes.io/load-balancer-cleanup"
FOREIGN = "example.com/keep"
CONTROLLER = "system:serviceaccount:lbprov-system:lbprov-controller"
READY = Condition("lbprov.io/Ready", "True", "Ready", "serves")
NOT_READY = Condition("lbprov.io/Ready", "False", "Pending", "wait for it")


class _Told:
    """Who was told of what."""

    def __init__(self) -> None:
        self.services: list[ObjectKey] = []
        self.nodes = 0

    def on_nodes(self) -> None:
        self.nodes += 1


@pytest.fixture
def once(api: Api, controller_kubeconfig: Path) -> Iterator[ApiCluster]:
    """Does not follow."""
    one = ApiCluster.connect(controller_kubeconfig, None, "test")
    yield one
    one.stop()


@pytest.fixture
def told() -> _Told:
    return _Told()


@pytest.fixture
def cluster(api: Api, controller_kubeconfig: Path, told: _Told) -> Iterator[ApiCluster]:
    one = ApiCluster.connect(controller_kubeconfig, None, "test")
    one.start(told.services.append, told.on_nodes)
    assert one.wait_synced(60)
    yield one
    one.stop()


@pytest.fixture
def key(api: Api) -> ObjectKey:
    return ObjectKey(api.namespace, "web")


def _known(cluster: ApiCluster, key: ObjectKey) -> Service:
    eventually(lambda: cluster.services.get(key))
    value = cluster.services.get(key)
    assert value is not None
    return value


def _stored(api: Api) -> dict[str, Any]:
    return api.get("Service", "web")


def test_follows_services_and_nodes(api: Api, cluster: ApiCluster, key: ObjectKey, told: _Told) -> None:
    told.services.clear()
    api.create(service("web", loadBalancerClass="lbprov.io/aws"))
    value = _known(cluster, key)
    assert (value.type, value.load_balancer_class) == (ServiceType.LOAD_BALANCER, "lbprov.io/aws")
    assert value.ports[0].node_port >= 30000
    assert value.uid == _stored(api)["metadata"]["uid"]
    assert told.services == [key]
    add_node(api, "n1", ips=["192.0.2.1"], provider_id="aws:///z/i-1", zone="z")
    eventually(lambda: (node := cluster.nodes.get("n1")) and node.ready and node.ips() == ("192.0.2.1",))
    set_node_ready(api, "n1", False)
    eventually(lambda: (node := cluster.nodes.get("n1")) and not node.ready and node.taints)
    before = told.nodes
    beat = {"status": {"nodeInfo": {"kubeletVersion": "v9.9.9"}}}
    api.patch("Node", "n1", beat, subresource="status")
    api.patch("Node", "n1", {"metadata": {"annotations": {"x": "y"}}})
    api.patch("Service", "web", {"spec": {"externalTrafficPolicy": "Local"}})
    eventually(lambda: _known(cluster, key).health_check_node_port)
    time.sleep(0.3)
    assert told.nodes == before, "heartbeats are nobody's news"
    api.delete("Node", "n1")
    eventually(lambda: cluster.nodes.get("n1") is None)
    api.delete("Service", "web")
    eventually(lambda: cluster.services.get(key) is None)
    assert told.services == [key] * 3


def test_a_uid_under_an_old_name(api: Api, cluster: ApiCluster, key: ObjectKey) -> None:
    api.create(service("web"))
    first = _known(cluster, key).uid
    api.delete("Service", "web")
    api.create(service("web"))
    eventually(lambda: _known(cluster, key).uid not in ("", first))


def test_finalizers_beside_others(api: Api, cluster: ApiCluster, key: ObjectKey) -> None:
    api.create(service("web") | {"metadata": {"name": "web", "finalizers": [FOREIGN]}})
    _known(cluster, key)
    cluster.add_finalizer(key, FINALIZER)
    assert set(_stored(api)["metadata"]["finalizers"]) == {FOREIGN, FINALIZER}, "durable when it returns"
    eventually(lambda: FINALIZER in _known(cluster, key).finalizers)
    version = _stored(api)["metadata"]["resourceVersion"]
    cluster.add_finalizer(key, FINALIZER)
    ServiceWriter(cluster.transport).patch(key, {"metadata": {"finalizers": [FINALIZER]}})
    assert _stored(api)["metadata"]["resourceVersion"] == version, "adding twice is adding once"
    api.delete("Service", "web")
    eventually(lambda: _known(cluster, key).deleted_at)
    cluster.remove_finalizer(key, FINALIZER)
    assert _stored(api)["metadata"]["finalizers"] == [FOREIGN]
    cluster.remove_finalizer(key, FINALIZER)
    api.patch("Service", "web", {"metadata": {"finalizers": None}})
    eventually(lambda: cluster.services.get(key) is None)
    cluster.remove_finalizer(key, FINALIZER)


def test_no_finalizer_on_what_is_gone(cluster: ApiCluster, key: ObjectKey) -> None:
    with pytest.raises(RetryLater, match="gone"):
        cluster.add_finalizer(key, FINALIZER)


def test_no_finalizer_on_what_is_being_deleted(api: Api, cluster: ApiCluster, key: ObjectKey) -> None:
    api.create(service("web") | {"metadata": {"name": "web", "finalizers": [FOREIGN]}})
    _known(cluster, key)
    api.delete("Service", "web")
    with pytest.raises(ApiError, match="no new finalizers can be added"):
        cluster.add_finalizer(key, FINALIZER)


def test_many_writers_of_one_service_do_not_conflict(api: Api, cluster: ApiCluster, key: ObjectKey) -> None:
    """Others' labels, our finalizer and status at once: nobody needs a resourceVersion."""
    api.create(service("web"))
    _known(cluster, key)
    for n in range(15):
        api.patch("Service", "web", {"metadata": {"labels": {"n": str(n)}}})
        cluster.add_finalizer(key, FINALIZER)
        cluster.record_status(key, [Ingress(ip=f"192.0.2.{n + 1}")], [])
        cluster.remove_finalizer(key, FINALIZER)
    stored = _stored(api)
    assert stored["metadata"]["labels"] == {"n": "14"}
    assert "finalizers" not in stored["metadata"]


@pytest.mark.parametrize(
    ("ingress", "stored"),
    [
        pytest.param([Ingress(ip="192.0.2.1")], [{"ip": "192.0.2.1", "ipMode": "VIP"}], id="no mode"),
        pytest.param(
            [Ingress(ip="192.0.2.1", ip_mode=IPMode.PROXY)],
            [{"ip": "192.0.2.1", "ipMode": "Proxy"}],
            id="proxy",
        ),
        pytest.param([Ingress(hostname="x.example")], [{"hostname": "x.example"}], id="hostname"),
        pytest.param(
            [Ingress(ip="192.0.2.1"), Ingress(ip="2001:db8::1")],
            [{"ip": "192.0.2.1", "ipMode": "VIP"}, {"ip": "2001:db8::1", "ipMode": "VIP"}],
            id="dual stack",
        ),
    ],
)
def test_ingress_is_written_once(
    api: Api,
    control_plane: ControlPlane,
    cluster: ApiCluster,
    key: ObjectKey,
    ingress: list[Ingress],
    stored: list[dict[str, str]],
) -> None:
    api.create(service("web"))
    _known(cluster, key)
    cluster.record_status(key, [Ingress(hostname="old.example"), Ingress(ip="198.51.100.1")], [])
    eventually(lambda: len(_known(cluster, key).ingress) == 2)
    cluster.record_status(key, ingress, [])
    assert _stored(api)["status"]["loadBalancer"]["ingress"] == stored
    eventually(lambda: len(_known(cluster, key).ingress) == len(stored) and _is_last(cluster, key, ingress))
    writes = len(_patches(control_plane, key))
    cluster.record_status(key, ingress, [])
    assert len(_patches(control_plane, key)) == writes == 2
    cluster.record_status(key, [], [])
    assert "ingress" not in _stored(api)["status"]["loadBalancer"]


def _is_last(cluster: ApiCluster, key: ObjectKey, ingress: list[Ingress]) -> bool:
    return [str(i) for i in _known(cluster, key).ingress] == [str(i) for i in ingress]


def _patches(control_plane: ControlPlane, key: ObjectKey) -> list[str]:
    calls = control_plane.calls(CONTROLLER)
    return [c.path for c in calls if c.verb == "patch" and c.namespace == key.namespace]


def test_a_status_wiped_by_somebody_else_is_seen_and_written_again(
    api: Api, cluster: ApiCluster, key: ObjectKey, told: _Told
) -> None:
    api.create(service("web"))
    _known(cluster, key)
    cluster.record_status(key, [Ingress(hostname="x.example")], [READY])
    eventually(lambda: _known(cluster, key).ingress)
    told.services.clear()
    api.patch("Service", "web", {"status": {"loadBalancer": None, "conditions": None}}, subresource="status")
    eventually(lambda: told.services)
    assert not _known(cluster, key).ingress
    cluster.record_status(key, [Ingress(hostname="x.example")], [READY])
    status = _stored(api)["status"]
    assert status["loadBalancer"]["ingress"] == [{"hostname": "x.example"}]
    assert [c["type"] for c in status["conditions"]] == ["lbprov.io/Ready"]


def test_conditions_are_ours_alone(api: Api, cluster: ApiCluster, key: ObjectKey) -> None:
    api.create(service("web"))
    foreign = {
        "type": "example.com/Fine",
        "status": "True",
        "reason": "Fine",
        "message": "",
        "lastTransitionTime": "2020-01-01T00:00:00Z",
    }
    api.patch("Service", "web", {"status": {"conditions": [foreign]}}, subresource="status")
    eventually(lambda: _known(cluster, key).conditions)
    topic = Condition("lbprov.io/RequestedIP", "False", "InUse", "taken")
    _record(cluster, key, READY, topic)
    stored = _conditions(api)
    assert set(stored) == {"example.com/Fine", "lbprov.io/Ready", "lbprov.io/RequestedIP"}
    began = stored["lbprov.io/Ready"]["lastTransitionTime"]
    assert datetime.fromisoformat(began).timestamp() == pytest.approx(time.time(), abs=300)
    time.sleep(1.1)
    louder = Condition("lbprov.io/Ready", "True", "Ready", "serves well")
    _record(cluster, key, louder)
    stored = _conditions(api)
    assert stored["example.com/Fine"] == foreign
    assert stored["lbprov.io/Ready"]["message"] == "serves well"
    assert stored["lbprov.io/Ready"]["lastTransitionTime"] == began, "its status has not changed"
    assert "lbprov.io/RequestedIP" not in stored
    _record(cluster, key, NOT_READY)
    assert _conditions(api)["lbprov.io/Ready"]["lastTransitionTime"] > began
    _record(cluster, key)
    assert _conditions(api) == {"example.com/Fine": foreign}


def _record(cluster: ApiCluster, key: ObjectKey, *conditions: Condition) -> None:
    """And wait until it is known."""
    cluster.record_status(key, [], conditions)
    eventually(lambda: set(conditions) == {c for c in _known(cluster, key).conditions if "lbprov" in c.type})


def _conditions(api: Api) -> dict[str, Any]:
    return {c["type"]: c for c in _stored(api)["status"].get("conditions", ())}


def test_status_of_what_is_gone_is_nobodys_error(api: Api, cluster: ApiCluster, key: ObjectKey) -> None:
    cluster.record_status(key, [Ingress(hostname="x.example")], [READY])
    api.create(service("web"))
    _known(cluster, key)
    api.delete("Service", "web")
    cluster.record_status(key, [Ingress(hostname="x.example")], [READY])


def test_events_as_kubectl_describe_looks_for_them(api: Api, cluster: ApiCluster, key: ObjectKey) -> None:
    api.create(service("web"))
    uid = _known(cluster, key).uid
    warning = Event(Severity.WARNING, "SyncLoadBalancerFailed", "no: " + "é" * 2000)
    ensured = Event(Severity.NORMAL, "EnsuredLoadBalancer", "Ensured load balancer")
    cluster.emit(key, [ensured, warning])
    cluster.emit(key, [ensured])
    # The selector of `kubectl describe service`, and ours alone.
    about = f"involvedObject.name=web,involvedObject.namespace={key.namespace},involvedObject.uid={uid}"
    about += ",source=lbprov"
    eventually(lambda: sum(e["count"] for e in api.list("Event", fieldSelector=about)) == 3)
    events = {e["reason"]: e for e in api.list("Event", fieldSelector=about)}
    one = events["EnsuredLoadBalancer"]
    assert (one["type"], one["message"], one["count"]) == ("Normal", "Ensured load balancer", 2)
    assert one["source"] == {"component": "lbprov"}
    assert one["involvedObject"]["kind"] == "Service"
    other = events["SyncLoadBalancerFailed"]
    assert other["type"] == "Warning"
    assert len(other["message"].encode()) <= 1024
    assert "…" in other["message"]
    assert cluster.events_dropped == 0


def test_one_pass_without_following(api: Api, once: ApiCluster, key: ObjectKey) -> None:
    api.create(service("web"))
    add_node(api, "n1")
    snapshot = once.snapshot()
    assert key in [s.key for s in snapshot.services]
    assert [n.name for n in snapshot.nodes] == ["n1"]
    assert once.snapshot() == snapshot
    once.add_finalizer(key, FINALIZER)
    once.record_status(key, [Ingress(hostname="x.example")], [READY])
    once.emit(key, [Event(Severity.NORMAL, "EnsuredLoadBalancer", "m")])
    once.stop()
    stored = _stored(api)
    assert stored["metadata"]["finalizers"] == [FINALIZER]
    assert stored["status"]["loadBalancer"]["ingress"] == [{"hostname": "x.example"}]
    assert len(api.list("Event", fieldSelector="source=lbprov")) == 1, "told before it ends"
    assert once.snapshot().version != snapshot.version


def test_pages_are_put_together(
    api: Api, controller_kubeconfig: Path, control_plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lbprov.cluster.apiserver.feed.PAGE_ITEMS", 3)
    once, began_s = ApiCluster.connect(controller_kubeconfig, None, "test"), time.time()
    for n in range(10):
        api.create(service(f"s{n}", type="ClusterIP"))
    names = [s.key.name for s in once.snapshot().services if s.key.namespace == api.namespace]
    assert names == [f"s{n}" for n in range(10)]
    calls = [c for c in control_plane.calls(CONTROLLER) if c.at_s >= began_s and c.resource == "services"]
    assert len(calls) >= 4
    assert once.reflectors[0].counts.lists == 1


def test_what_rbac_lacks_is_named(
    api: Api, control_plane: ControlPlane, key: ObjectKey, tmp_path: Path
) -> None:
    """A ServiceAccount without any rights."""
    cluster = ApiCluster.connect(control_plane.kubeconfig(api.namespace, "default"), None, "test")
    with pytest.raises(
        Denied, match=r'cannot list resource "services" in API group "" at the cluster scope.*RBAC'
    ):
        cluster.snapshot()
    with pytest.raises(Denied, match='cannot patch resource "services/status"'):
        ServiceWriter(cluster.transport).patch(key, {"status": {}}, subresource="status")


def test_a_token_that_expired_or_never_was(control_plane: ControlPlane, tmp_path: Path) -> None:
    bad = tmp_path / "kubeconfig"
    text = control_plane.admin_kubeconfig.read_text()
    bad.write_text(text.replace('"token": "', '"token": "not-'))
    with pytest.raises(Denied, match="does not know these credentials"):
        ApiCluster.connect(bad, None, "test").snapshot()
    with pytest.raises(UserError, match="no-such"):
        ApiCluster.connect(control_plane.admin_kubeconfig, "no-such", "test")


def test_in_a_pod(
    api: Api, control_plane: ControlPlane, installed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pod's files and environment; the token is exchanged by the kubelet meanwhile."""
    (tmp_path / "ca.crt").write_text(control_plane.ca_pem)
    (tmp_path / "namespace").write_text(installed)
    (tmp_path / "token").write_text("expired")
    host, port = control_plane.server.removeprefix("https://").split(":")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)
    cluster = ApiCluster(Transport(Place.find(None, None, tmp_path)), "test")
    assert cluster.transport.namespace == installed
    (tmp_path / "token").write_text(control_plane.token(installed, "lbprov-controller"))
    assert cluster.snapshot().services, "a 401 makes it read the file again"


def test_everything_stays_within_the_rights_that_we_ship(
    api: Api, control_plane: ControlPlane, cluster: ApiCluster, key: ObjectKey
) -> None:
    began_s = time.time()
    api.create(service("web"))
    _known(cluster, key)
    cluster.add_finalizer(key, FINALIZER)
    cluster.record_status(key, [Ingress(hostname="x.example")], [READY])
    cluster.emit(key, [Event(Severity.NORMAL, "A", "m"), Event(Severity.NORMAL, "A", "m")])
    cluster.remove_finalizer(key, FINALIZER)
    cluster.stop()
    calls = [c for c in control_plane.calls(CONTROLLER) if c.at_s >= began_s]
    assert {c.code for c in calls} <= {200, 201}
    verbs = {(c.verb, c.resource) for c in calls}
    assert {("patch", "services"), ("patch", "services/status"), ("patch", "events")} <= verbs
    assert not {"update", "delete"} & {verb for verb, _ in verbs}


def test_nothing_is_found_where_nothing_is(once: ApiCluster, key: ObjectKey) -> None:
    with pytest.raises(NotFound):
        once.transport.request("GET", f"/api/v1/namespaces/{key.namespace}/services/none")
