"""Which nodes take traffic, and what their changes cost."""

from __future__ import annotations

import time
from typing import Any

import pytest

from lbprov.api import ProviderError
from lbprov.lab.aws.world import AwsWorld
from lbprov.lab.controlplane import Api, eventually
from lbprov.lab.controlplane.objects import add_node, service, set_node_ready

SITE_FLAGS = ("--drift-period", "0", "--node-window", "0.2")
EXCLUDE = "node.kubernetes.io/exclude-from-external-load-balancers"
AUTOSCALER = {"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule", "value": "1"}
KARPENTER = {"key": "karpenter.sh/disrupted", "effect": "NoSchedule"}


def targets(site: Any, name: str = "web") -> set[str]:
    return {r.name.detail for r in site.resources(name) if r.name.kind == "target"}


def turns(site: Any) -> float:
    return float(site.controller.metric("lbprov_reconcile_results_total"))


@pytest.fixture
def web(site: Any) -> Any:
    """A Service that is served by three nodes."""
    for number in (1, 2, 3):
        add_node(site.api, f"node-{number}", provider_id=f"memory://{number}", zone="a")
    site.api.create(service("web", loadBalancerClass="lbprov.io/memory"))
    site.wait_ready("web")
    eventually(lambda: targets(site) == {"node-1", "node-2", "node-3"})
    site.controller.settle()
    return site


def quiet(site: Any) -> None:
    """Until the node window has passed for all that has been told so far, the nodes that the test began with
    among them: a marker node comes and goes."""
    add_node(site.api, "marker")
    eventually(lambda: "marker" in targets(site))
    site.api.delete("Node", "marker")
    eventually(lambda: "marker" not in targets(site))
    site.controller.settle()


def test_nodes_come_and_go(web: Any) -> None:
    add_node(web.api, "node-4")
    eventually(lambda: len(targets(web)) == 4)
    web.api.delete("Node", "node-1")
    eventually(lambda: targets(web) == {"node-2", "node-3", "node-4"})


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"metadata": {"labels": {EXCLUDE: ""}}}, id="excluded"),
        pytest.param({"metadata": {"labels": {EXCLUDE: "true"}}}, id="excluded-true"),
        pytest.param({"metadata": {"labels": {EXCLUDE: "foo"}}}, id="excluded-anything"),
        pytest.param({"spec": {"taints": [AUTOSCALER]}}, id="leaving-by-the-autoscaler"),
        pytest.param({"spec": {"taints": [KARPENTER]}}, id="leaving-by-karpenter"),
    ],
)
def test_what_takes_a_node_out_and_back_in(web: Any, change: dict[str, Any]) -> None:
    web.api.patch("Node", "node-1", change)
    eventually(lambda: targets(web) == {"node-2", "node-3"})
    web.api.patch("Node", "node-1", {"metadata": {"labels": {EXCLUDE: None}}, "spec": {"taints": None}})
    eventually(lambda: targets(web) == {"node-1", "node-2", "node-3"})


def test_a_node_whose_deletion_has_begun_takes_no_new_traffic(web: Any) -> None:
    web.api.patch("Node", "node-1", {"metadata": {"finalizers": ["example.com/hold"]}})
    web.api.delete("Node", "node-1")
    eventually(lambda: targets(web) == {"node-2", "node-3"})
    web.api.patch("Node", "node-1", {"metadata": {"finalizers": None}})


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"metadata": {"labels": {EXCLUDE: "false"}}}, id="exclude-says-false"),
        pytest.param({"metadata": {"labels": {"a": "b"}}}, id="any-label"),
        pytest.param({"metadata": {"annotations": {"a": "b"}}}, id="any-annotation"),
        pytest.param({"spec": {"unschedulable": True}}, id="cordoned"),
        pytest.param({"spec": {"taints": [{"key": "a", "effect": "NoExecute"}]}}, id="any-taint"),
    ],
)
def test_what_changes_no_target_costs_no_turn(web: Any, change: dict[str, Any]) -> None:
    quiet(web)
    before = turns(web)
    web.api.patch("Node", "node-1", change)
    quiet(web)
    assert turns(web) - before == 2, "the marker's coming and going"


def test_a_node_that_is_not_ready_stays(web: Any) -> None:
    quiet(web)
    before = turns(web)
    for ready in (False, True, False):
        set_node_ready(web.api, "node-1", ready)
    quiet(web)
    assert "node-1" in targets(web)
    assert turns(web) - before == 2, "the marker's coming and going"


def test_a_burst_is_one_change_per_load_balancer(web: Any) -> None:
    web.api.create(service("api", loadBalancerClass="lbprov.io/memory"))
    web.wait_ready("api")
    web.controller.settle()
    quiet(web)
    before, world_writes, begun_s = turns(web), web.world.writes, time.monotonic()
    for number in range(10, 40):
        web.api.create({"apiVersion": "v1", "kind": "Node", "metadata": {"name": f"node-{number}"}})
    eventually(lambda: len(targets(web)) == len(targets(web, "api")) == 33)
    windows = (time.monotonic() - begun_s) / 0.2 + 1
    web.controller.settle()
    assert web.world.writes - world_writes == 60, "each node once behind each load balancer"
    assert turns(web) - before <= 2 * windows, "by windows, not by nodes"


def test_no_nodes_at_all_is_told_and_is_no_error(web: Any) -> None:
    for number in (1, 2, 3):
        web.api.delete("Node", f"node-{number}")
    eventually(lambda: targets(web) == set())
    eventually(lambda: "UnAvailableLoadBalancer" in web.reasons("web"))
    web.controller.settle()
    before = turns(web)
    assert web.conditions("web")["Nodes"]["reason"] == "UnAvailableLoadBalancer"
    assert "SyncLoadBalancerFailed" not in web.reasons("web")
    assert web.ingress("web") != [], "and the address stays"
    add_node(web.api, "node-1")
    eventually(lambda: targets(web) == {"node-1"})
    eventually(lambda: "Nodes" not in web.conditions("web"))
    assert turns(web) - before == 1


def test_a_cloud_that_refuses_a_node_is_asked_again(web: Any) -> None:
    refusals = iter([True])

    def refuse(operation: str, number: int, when: str) -> None:
        if when == "before" and next(refusals, False):
            raise ProviderError("throttled")

    web.world.on_write = refuse
    add_node(web.api, "node-4")
    eventually(lambda: "UpdateLoadBalancerFailed" in web.reasons("web"))
    eventually(lambda: len(targets(web)) == 4)
    eventually(lambda: "UpdatedLoadBalancer" in web.reasons("web"))
    web.wait_ready("web")


# -- on AWS


@pytest.mark.parametrize(
    ("flags", "to_unseal", "to_seal"),
    [
        pytest.param(("--leader-elect",), {}, {}, id="leader"),
        pytest.param(("--no-leader-elect",), {"RemoveTags": 2}, {"AddTags": 2}, id="without-a-lease"),
    ],
)
def test_on_aws_a_node_costs_register_calls_alone(
    api: Api, aws: AwsWorld, run: Any, flags: Any, to_unseal: dict[str, int], to_seal: dict[str, int]
) -> None:
    """And is as cheap for whoever starts then. Nobody elected: a seal has to go, and another to be made."""
    api.delete("Lease.coordination.k8s.io", "lbprov-controller", "lbprov-system")
    nodes = list(aws.provider_ids)
    for name in nodes:
        add_node(api, name, provider_id=aws.provider_ids[name], zone=aws.node_zones[name])
    controller = run("--node-window", "0.2", *flags, provider="aws").wait_ready()
    for name in ("web", "api"):
        api.create(service(name, loadBalancerClass="lbprov.io/aws", ports={"http": 80, "https": 443}))
    eventually(
        lambda: (
            len(aws.load_balancers()) == 2 and controller.metric("lbprov_load_balancers", state="ready") == 2
        )
    )
    controller.settle()
    new = aws.add_node("node-4")
    aws.server.control(reset=True)
    add_node(api, "node-4", provider_id=new, zone=aws.node_zones["node-4"])
    wanted = tuple(sorted(aws.instance_id(name) for name in aws.provider_ids))
    eventually(lambda: sum(call["operation"] == "RegisterTargets" for call in aws.server.requests()) == 4)
    controller.settle()
    assert aws.server.calls() == {"RegisterTargets": 4, **to_unseal, **to_seal}, "each port's"
    assert {listener.targets for b in aws.load_balancers() for listener in b.listeners} == {wanted}
    aws.server.control(reset=True)
    api.delete("Node", "node-4")
    eventually(lambda: sum(call["operation"] == "DeregisterTargets" for call in aws.server.requests()) == 4)
    controller.settle()
    assert aws.server.calls() == {"DeregisterTargets": 4, **to_unseal, **to_seal}
    controller.stop()
    aws.server.control(reset=True)
    controller.start()
    controller.wait_ready().settle()
    eventually(lambda: controller.metric("lbprov_load_balancers", state="ready") == 2)
    assert aws.server.calls().keys() == {
        "GetResources",
        "DescribeLoadBalancers",
        "DescribeTargetGroups",
        "DescribeSecurityGroups",
    }


def test_on_aws_a_node_that_left_while_nobody_looked_is_nowhere(api: Api, aws: AwsWorld, run: Any) -> None:
    """It joined, the leader was killed before it had said that all was done, and it is gone when the next one
    comes: the nodes are those again that all load balancers were known to serve."""
    lease = ("Lease.coordination.k8s.io", "lbprov-controller", "lbprov-system")
    api.delete(*lease)
    for name in aws.provider_ids:
        add_node(api, name, provider_id=aws.provider_ids[name], zone=aws.node_zones[name])
    controller = run("--node-window", "0.2", "--leader-elect", provider="aws").wait_ready()
    for name in ("web", "api"):
        api.create(service(name, loadBalancerClass="lbprov.io/aws"))
    eventually(lambda: controller.metric("lbprov_load_balancers", state="ready") == 2)
    controller.settle()
    before = tuple(sorted(aws.instance_id(name) for name in aws.provider_ids))

    def memo() -> str:
        found: str = api.get(*lease)["metadata"].get("annotations", {}).get("lbprov.io/memo", "")
        return found

    eventually(lambda: len(memo().split()) == 4)  # of all nodes, and without a doubt
    new = aws.add_node("node-4")
    add_node(api, "node-4", provider_id=new, zone=aws.node_zones["node-4"])
    eventually(lambda: aws.server.calls().get("RegisterTargets", 0) >= 2 + 1)
    controller.kill()
    kind, name, namespace = lease
    api.patch(kind, name, {"spec": {"holderIdentity": ""}}, namespace)  # so that it is not waited out
    api.delete("Node", "node-4")
    assert any(new.endswith(i) for b in aws.load_balancers() for x in b.listeners for i in x.targets)
    controller.start()
    controller.wait_ready().settle()
    assert {listener.targets for b in aws.load_balancers() for listener in b.listeners} == {before}
