"""The controller with the AWS provider: a real API server on one side, AWS as a server on the other.

What the provider makes of a load balancer has its own tests (tests/aws); here is what only both sides
together show: the API server's defaults and allocations arrive, and status comes back as it keeps it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from lbprov.lab.aws.world import AwsWorld, LoadBalancerView
from lbprov.lab.controlplane import Api, eventually
from lbprov.lab.controlplane.objects import add_node, service


@dataclass
class Scene:
    """Three nodes, a controller, and what a person with kubectl and the AWS console sees."""

    api: Api
    aws: AwsWorld
    controller: Any

    def make(self, name: str = "web", **spec: Any) -> None:
        self.api.create(service(name, loadBalancerClass="lbprov.io/aws", **spec))

    def status(self, name: str = "web") -> list[dict[str, str]]:
        found: list[dict[str, str]] = self.api.get("Service", name)["status"]["loadBalancer"].get(
            "ingress", []
        )
        return found

    def conditions(self, name: str = "web") -> dict[str, dict[str, str]]:
        status = self.api.get("Service", name)["status"]
        return {c["type"].removeprefix("lbprov.io/"): c for c in status.get("conditions", [])}

    def balancer(self, name: str = "web") -> LoadBalancerView:
        """As soon as the Service is ready."""
        eventually(lambda: self.conditions(name).get("Ready", {}).get("status") == "True")
        key = f"{self.api.namespace}/{name}"
        (found,) = [b for b in self.aws.load_balancers() if key in b.tags.values()]
        return found

    def health_checks(self) -> set[tuple[str, str, str]]:
        groups = self.aws.elbv2.describe_target_groups()["TargetGroups"]
        return {
            (g["HealthCheckProtocol"], g["HealthCheckPort"], g.get("HealthCheckPath", "")) for g in groups
        }

    def node_ports(self, name: str = "web") -> list[int]:
        return [port["nodePort"] for port in self.api.get("Service", name)["spec"]["ports"]]

    def reasons(self, name: str = "web") -> list[str]:
        ours = f"involvedObject.name={name},source=lbprov"
        return [e["reason"] for e in self.api.list("Event", fieldSelector=ours)]


@pytest.fixture
def scene(api: Api, aws: AwsWorld, run: Any) -> Scene:
    for name, provider_id in aws.provider_ids.items():
        add_node(api, name, provider_id=provider_id, zone=aws.node_zones[name])
    return Scene(api, aws, run(provider="aws").wait_ready())


def test_a_service_from_its_creation_to_its_end(scene: Scene) -> None:
    scene.make()
    balancer = scene.balancer()
    assert scene.status() == [{"hostname": balancer.dns_name}], "no ipMode: that is for addresses"
    (listener,) = balancer.listeners
    assert (listener.port, [listener.target_port]) == (80, scene.node_ports())
    assert listener.targets == tuple(sorted(scene.aws.instance_id(n) for n in scene.aws.provider_ids))
    scene.api.delete("Service", "web")
    eventually(lambda: scene.api.find("Service", "web") is None)
    assert scene.aws.leftovers() == ()
    assert scene.controller.stop() == 0


def test_unchanged_services_cost_nothing_and_a_restart_reads_only(scene: Scene, run: Any, api: Api) -> None:
    for name in ("web", "api"):
        scene.make(name)
        scene.balancer(name)
    scene.controller.settle()
    scene.aws.server.control(reset=True)
    api.patch("Service", "web", {"metadata": {"annotations": {"example.com/note": "1"}}})
    eventually(lambda: scene.controller.metric("lbprov_reconcile_results_total", result="unchanged") >= 1)
    scene.controller.settle()
    assert scene.aws.server.calls() == {}
    assert scene.controller.stop() == 0
    second = run(provider="aws").wait_ready()
    eventually(lambda: second.metric("lbprov_reconcile_results_total", result="unchanged") == 2)
    second.settle()
    operations = set(scene.aws.server.calls())
    assert operations
    assert all(operation.startswith(("Describe", "Get")) for operation in operations)


def test_an_address_of_ours_is_the_address(scene: Scene) -> None:
    scene.aws.allocate_address("203.0.113.10")
    scene.make(loadBalancerIP="203.0.113.10")
    balancer = scene.balancer()
    assert balancer.addresses == ("203.0.113.10",)
    assert scene.status() == [{"ip": "203.0.113.10", "ipMode": "Proxy"}]
    scene.make("late", loadBalancerIP="203.0.113.99")
    name = scene.balancer("late").dns_name
    assert scene.status("late") == [{"hostname": name}]
    assert scene.conditions("late")["RequestedIP"]["reason"] == "LoadBalancerIPNotFound"
    eventually(lambda: "LoadBalancerIPNotFound" in scene.reasons("late"))


def test_local_traffic_policy_asks_the_nodes_health_check_port(scene: Scene) -> None:
    scene.make(externalTrafficPolicy="Local")
    scene.balancer()
    port = scene.api.get("Service", "web")["spec"]["healthCheckNodePort"]
    assert scene.health_checks() == {("HTTP", str(port), "/healthz")}


def test_source_ranges_by_field_and_their_change(scene: Scene) -> None:
    scene.make(loadBalancerSourceRanges=["198.51.100.0/24", "203.0.113.0/24"])
    assert scene.balancer().source_ranges == ("198.51.100.0/24", "203.0.113.0/24")
    scene.api.patch("Service", "web", {"spec": {"loadBalancerSourceRanges": ["203.0.113.0/24"]}})
    eventually(lambda: scene.balancer().source_ranges == ("203.0.113.0/24",))


def test_mixed_protocols(scene: Scene) -> None:
    ports = [
        {"name": "http", "port": 80, "protocol": "TCP"},
        {"name": "dns", "port": 53, "protocol": "UDP"},
        {"name": "dns-tcp", "port": 53, "protocol": "TCP", "nodePort": 30053},
    ]
    ports[1]["nodePort"] = 30053
    web = service("web", loadBalancerClass="lbprov.io/aws")
    web["spec"]["ports"] = ports
    scene.api.create(web)
    listeners = {(v.port, v.protocol) for v in scene.balancer().listeners}
    assert listeners == {(80, "TCP"), (53, "TCP_UDP")}


def test_a_port_that_cannot_be_served_is_told_and_the_others_are(scene: Scene) -> None:
    web = service("web", loadBalancerClass="lbprov.io/aws")
    web["spec"]["ports"] = [
        {"name": "http", "port": 80, "protocol": "TCP"},
        {"name": "sctp", "port": 38412, "protocol": "SCTP"},
    ]
    scene.api.create(web)
    assert [v.port for v in scene.balancer().listeners] == [80]
    assert "spec.ports[1]" in scene.conditions()["Ports"]["message"]


def test_dual_stack(scene: Scene) -> None:
    """The lab's network has no IPv6: the load balancer must come up all the same, and say what is missing."""
    scene.make(ipFamilyPolicy="RequireDualStack")
    assert scene.api.get("Service", "web")["spec"]["ipFamilies"] == ["IPv4", "IPv6"]
    balancer = scene.balancer()
    assert [v.port for v in balancer.listeners] == [80]


def test_ipv6_only_is_refused_with_the_remedy(scene: Scene) -> None:
    scene.make(ipFamilyPolicy="SingleStack", ipFamilies=["IPv6"])
    eventually(lambda: "Ready" in scene.conditions())
    message = scene.conditions()["Ready"]["message"]
    assert message.startswith("spec.ipFamilies: ")
    assert "IPv4" in message
    assert scene.aws.leftovers() == ()


def test_without_node_ports_an_event_says_what_to_do(scene: Scene) -> None:
    scene.make(allocateLoadBalancerNodePorts=False)
    eventually(lambda: scene.reasons() == ["SyncLoadBalancerFailed"])
    assert "allocateLoadBalancerNodePorts" in scene.conditions()["Ready"]["message"]
    assert scene.aws.leftovers() == ()


def test_aws_that_refuses_is_told_with_its_words_and_asked_again(scene: Scene) -> None:
    scene.aws.server.fail("CreateLoadBalancer", "AccessDenied", times=1, message="not allowed to")
    scene.make()
    eventually(lambda: scene.conditions().get("Ready", {}).get("reason") == "PermissionMissing")
    assert "CreateLoadBalancer" in scene.conditions()["Ready"]["message"]
    scene.api.patch("Service", "web", {"metadata": {"annotations": {"example.com/try": "again"}}})
    scene.balancer()
    codes = {
        labels["code"]: count
        for labels, count in scene.controller.samples("lbprov_cloud_api_requests_total")
        if (labels["service"], labels["operation"]) == ("elastic-load-balancing-v2", "CreateLoadBalancer")
    }
    assert codes == {"AccessDenied": 1, "": 1}


def test_what_somebody_changed_in_aws_is_mended_without_any_event(api: Api, aws: AwsWorld, run: Any) -> None:
    for name, provider_id in aws.provider_ids.items():
        add_node(api, name, provider_id=provider_id, zone=aws.node_zones[name])
    scene = Scene(api, aws, run("--drift-period", "2", provider="aws").wait_ready())
    scene.make()
    before = scene.balancer()
    arn = before.arn
    (listener,) = aws.elbv2.describe_listeners(LoadBalancerArn=arn)["Listeners"]
    aws.elbv2.delete_listener(ListenerArn=listener["ListenerArn"])
    eventually(lambda: scene.balancer().listeners == before.listeners)
    eventually(lambda: "DriftRepaired" in scene.reasons())
    (group,) = aws.elbv2.describe_target_groups(LoadBalancerArn=arn)["TargetGroups"]
    gone = aws.instance_id("node-1")
    aws.elbv2.deregister_targets(TargetGroupArn=group["TargetGroupArn"], Targets=[{"Id": gone}])
    eventually(lambda: scene.balancer().listeners == before.listeners)


def test_a_load_balancer_is_replaced_while_the_service_is_served(api: Api, aws: AwsWorld, run: Any) -> None:
    for name, provider_id in aws.provider_ids.items():
        add_node(api, name, provider_id=provider_id, zone=aws.node_zones[name])
    drain = ("--provider-option", "replace-drain-seconds=3")
    scene = Scene(api, aws, run(*drain, provider="aws").wait_ready())
    scene.make()
    old = scene.balancer()
    wishes = {"lbprov.io/scheme": "internal", "lbprov.io/replace": "seamless"}
    api.patch("Service", "web", {"metadata": {"annotations": wishes}})
    eventually(lambda: scene.status() not in ([], [{"hostname": old.dns_name}]))

    def schemes() -> list[str]:
        return [b["Scheme"] for b in aws.elbv2.describe_load_balancers()["LoadBalancers"]]

    eventually(lambda: schemes() == ["internal"])
    (new,) = aws.load_balancers()
    eventually(lambda: scene.status() == [{"hostname": new.dns_name.lower()}])
    eventually(lambda: "Replacement" not in scene.conditions())
    assert scene.conditions()["Ready"]["status"] == "True"
    assert "ReplacingLoadBalancer" in scene.reasons()
    api.delete("Service", "web")
    eventually(lambda: api.find("Service", "web") is None)
    assert aws.leftovers() == ()


def test_another_clusters_load_balancers_are_not_ours(scene: Scene, run: Any, api: Api) -> None:
    """Two clusters share the account: what one has made, the other does not see as its own."""
    scene.make()
    before = scene.balancer()
    assert scene.controller.stop() == 0
    other = run("--cluster-name", "other", provider="aws").wait_ready()
    other.settle()
    eventually(lambda: len(scene.aws.load_balancers()) == 2)
    other.settle()
    assert before in scene.aws.load_balancers()
    assert other.metric("lbprov_orphaned_owners") == 0


def test_a_region_that_only_the_nodes_tell(api: Api, aws: AwsWorld, run: Any) -> None:
    """They come after the controller has begun to look."""
    nobody = dict.fromkeys(("AWS_REGION", "AWS_DEFAULT_REGION"))
    scene = Scene(api, aws, run(provider="aws", env=nobody).wait_ready())
    scene.make()
    eventually(lambda: "no AWS region" in scene.conditions().get("Ready", {}).get("message", ""))
    for name, provider_id in aws.provider_ids.items():
        add_node(api, name, provider_id=provider_id, zone=aws.node_zones[name])
    assert scene.balancer().zones


def test_a_permission_that_is_missing_has_a_name(scene: Scene) -> None:
    scene.aws.server.fail("CreateTargetGroup", "AccessDenied", status=403)
    scene.make()
    eventually(lambda: scene.conditions().get("Ready", {}).get("reason") == "PermissionMissing")
    assert "elasticloadbalancing:CreateTargetGroup" in scene.conditions()["Ready"]["message"]
    eventually(lambda: "PermissionMissing" in scene.reasons())
    scene.controller.settle()
    assert scene.aws.server.calls()["CreateTargetGroup"] == 1, "and nothing is tried again at once"
