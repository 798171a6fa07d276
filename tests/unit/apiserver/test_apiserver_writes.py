"""What is written into a Service: as little as possible, nobody else's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest

from lbprov.cluster.apiserver.cluster import ApiCluster
from lbprov.cluster.apiserver.errors import Conflict, Unavailable
from lbprov.cluster.apiserver.transport import STRATEGIC_PATCH, Transport
from lbprov.cluster.apiserver.writes import (
    MAX_CONDITION_MESSAGE,
    ServiceWriter,
    finalizer_patch,
    rfc3339,
    status_patch,
)
from lbprov.model import Condition, Ingress, IPMode, ObjectKey, RetryLater, Service

if TYPE_CHECKING:
    from tests.unit.apiserver.conftest import Call, ScriptedServer

NOW = datetime(2026, 5, 6, 7, 8, 9, tzinfo=UTC)
KEY = ObjectKey("shop", "web")
READY = Condition("lbprov.io/Ready", "True", "Ready", "serves")
FOREIGN = Condition("example.com/Fine", "True", "Fine", "")


def _service(ingress: Sequence[Ingress] = (), conditions: Sequence[Condition] = ()) -> Service:
    return Service(key=KEY, uid="u", ingress=tuple(ingress), conditions=tuple(conditions))


IP, VIP = Ingress(ip="192.0.2.1"), Ingress(ip="192.0.2.1", ip_mode=IPMode.VIP)
PROXY, NAME = Ingress(ip="192.0.2.1", ip_mode=IPMode.PROXY), Ingress(hostname="x.example")


@pytest.mark.parametrize(
    ("before", "after", "loadbalancer"),
    [
        pytest.param((), (), None, id="nothing"),
        pytest.param((), (IP,), {"ingress": [{"ip": "192.0.2.1", "ipMode": "VIP"}]}, id="mode said aloud"),
        pytest.param((VIP,), (IP,), None, id="VIP is what no mode means"),
        pytest.param((IP,), (VIP,), None, id="and the other way"),
        pytest.param((VIP,), (PROXY,), {"ingress": [{"ip": "192.0.2.1", "ipMode": "Proxy"}]}, id="mode"),
        pytest.param((VIP,), (NAME,), {"ingress": [{"hostname": "x.example"}]}, id="no mode with a name"),
        pytest.param(
            (NAME,),
            (NAME, PROXY),
            {"ingress": [{"hostname": "x.example"}, {"ip": "192.0.2.1", "ipMode": "Proxy"}]},
            id="whole list",
        ),
        pytest.param((NAME,), (), {"ingress": None}, id="emptied"),
        pytest.param((PROXY, NAME), (PROXY, NAME), None, id="same"),
    ],
)
def test_ingress_is_replaced_whole_or_left(
    before: tuple[Ingress, ...], after: tuple[Ingress, ...], loadbalancer: dict[str, Any] | None
) -> None:
    patch = status_patch(_service(before), after, (), NOW)
    assert patch == (None if loadbalancer is None else {"status": {"loadBalancer": loadbalancer}})


TIME = {"lastTransitionTime": "2026-05-06T07:08:09Z"}


@pytest.mark.parametrize(
    ("before", "after", "entries"),
    [
        pytest.param((READY, FOREIGN), (READY,), None, id="same"),
        pytest.param(
            (FOREIGN,),
            (READY,),
            [{"type": "lbprov.io/Ready", "status": "True", "reason": "Ready", "message": "serves", **TIME}],
            id="new",
        ),
        pytest.param(
            (READY,),
            (Condition("lbprov.io/Ready", "False", "Failed", "no"),),
            [{"type": "lbprov.io/Ready", "status": "False", "reason": "Failed", "message": "no", **TIME}],
            id="status changes: a transition",
        ),
        pytest.param(
            (READY,),
            (Condition("lbprov.io/Ready", "True", "Ready", "serves well"),),
            [{"type": "lbprov.io/Ready", "status": "True", "reason": "Ready", "message": "serves well"}],
            id="message changes: no transition",
        ),
        pytest.param((READY, FOREIGN), (), [{"$patch": "delete", "type": "lbprov.io/Ready"}], id="removed"),
        pytest.param((FOREIGN,), (), None, id="others' stay"),
    ],
)
def test_conditions_are_ours_alone(
    before: tuple[Condition, ...], after: tuple[Condition, ...], entries: list[dict[str, str]] | None
) -> None:
    patch = status_patch(_service((), before), (), after, NOW)
    assert patch == (None if entries is None else {"status": {"conditions": entries}})


def test_a_long_message_is_cut_to_what_a_condition_may_hold() -> None:
    patch = status_patch(_service(), (), (Condition("lbprov.io/Ready", "False", "R", "x" * 40000),), NOW)
    assert patch is not None
    assert len(patch["status"]["conditions"][0]["message"]) == MAX_CONDITION_MESSAGE


def test_times_are_utc() -> None:
    assert rfc3339(NOW.astimezone(timezone(timedelta(hours=2)))) == "2026-05-06T07:08:09Z"


def test_finalizers_are_merged_by_value() -> None:
    assert finalizer_patch("a/b", present=True) == {"metadata": {"finalizers": ["a/b"]}}
    assert finalizer_patch("a/b", present=False) == {
        "metadata": {"$deleteFromPrimitiveList/finalizers": ["a/b"]}
    }


# Carried out


def test_a_conflict_is_tried_again_a_few_times(server: ScriptedServer, transport: Transport) -> None:
    server.script = lambda call: call.refuse(409, "busy") if len(server.calls) < 3 else call.say({})
    assert ServiceWriter(transport).patch(KEY, {"metadata": {}})
    assert len(server.calls) == 3
    server.calls.clear()
    server.script = lambda call: call.refuse(409, "busy")
    with pytest.raises(Conflict):
        ServiceWriter(transport).patch(KEY, {"metadata": {}})
    assert len(server.calls) == 4


def test_a_service_that_is_gone_needs_nothing(server: ScriptedServer, transport: Transport) -> None:
    cluster = ApiCluster(transport, "c")
    server.script = lambda call: call.refuse(404, "not found")
    cluster.remove_finalizer(KEY, "a/b")
    cluster.record_status(KEY, (IP,), (READY,))
    with pytest.raises(RetryLater, match="gone"):
        cluster.add_finalizer(KEY, "a/b")


def test_patches_name_only_what_is_ours(server: ScriptedServer, transport: Transport) -> None:
    stored = {
        "metadata": {"name": "web", "namespace": "shop", "uid": "u", "resourceVersion": "5"},
        "spec": {},
        "status": {"loadBalancer": {}, "conditions": [{"type": "example.com/Fine", "status": "True"}]},
    }
    server.script = lambda call: call.say(stored)
    cluster = ApiCluster(transport, "c")
    cluster.add_finalizer(KEY, "a/b")
    cluster.record_status(KEY, (PROXY,), ())
    cluster.record_status(KEY, (), ())
    writes = [c for c in server.calls if c.method != "GET"]
    assert [(c.method, c.path) for c in writes] == [
        ("PATCH", "/api/v1/namespaces/shop/services/web"),
        ("PATCH", "/api/v1/namespaces/shop/services/web/status"),
    ], "what would change nothing is not sent"
    assert {c.headers["content-type"] for c in writes} == {STRATEGIC_PATCH}
    assert json.loads(writes[1].body) == {
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1", "ipMode": "Proxy"}]}}
    }


def test_a_finalizer_that_is_there_is_not_written(server: ScriptedServer, transport: Transport) -> None:
    stored = {"metadata": {"name": "web", "namespace": "shop", "resourceVersion": "5", "finalizers": ["a/b"]}}

    def script(call: Call) -> None:
        items = [stored] if call.path.endswith("services") else []
        call.say({"metadata": {"resourceVersion": "9"}, "items": items})

    server.script = script
    cluster = ApiCluster(transport, "c")
    assert [s.key for s in cluster.snapshot().services] == [KEY]
    cluster.add_finalizer(KEY, "a/b")
    assert {c.method for c in server.calls} == {"GET"}


def test_snapshots_without_following(server: ScriptedServer, transport: Transport) -> None:
    nodes = ["n2", "n1"]

    def script(call: Call) -> None:
        names = nodes if call.path.endswith("nodes") else []
        items = [{"metadata": {"name": n, "resourceVersion": "1"}} for n in names]
        broken = [
            {"metadata": {"name": "odd", "namespace": "x", "resourceVersion": "1"}, "spec": {"type": "?"}}
        ]
        call.say({"metadata": {"resourceVersion": "9"}, "items": items or broken})

    server.script = script
    cluster = ApiCluster(transport, "c")
    first = cluster.snapshot()
    assert cluster.name == "c"
    assert [n.name for n in first.nodes] == ["n1", "n2"]
    (problem,) = first.problems
    assert problem.object == "Service x/odd"
    assert "'?' is not a valid ServiceType" in problem.message
    assert cluster.snapshot() == first
    nodes.append("n3")
    assert cluster.snapshot().version != first.version
    server.script = lambda call: call.refuse(500)
    with pytest.raises(Unavailable):
        cluster.snapshot()
