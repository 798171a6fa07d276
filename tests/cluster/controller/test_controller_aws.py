"""The controller with the AWS provider: a real API server on one side, AWS as a server on the other."""

from __future__ import annotations

from typing import Any

from lbprov.lab.aws.world import AwsWorld
from lbprov.lab.controlplane import Api, eventually
from lbprov.lab.controlplane.objects import add_node, service

CLASS = "lbprov.io/aws"


def _add_nodes(api: Api, aws: AwsWorld) -> None:
    for name, provider_id in aws.provider_ids.items():
        add_node(api, name, provider_id=provider_id, zone=aws.node_zones[name])


def _ingress(api: Api, name: str) -> list[dict[str, str]]:
    found: list[dict[str, str]] = api.get("Service", name)["status"]["loadBalancer"].get("ingress", [])
    return found


def test_a_service_from_its_creation_to_its_end(api: Api, aws: AwsWorld, run: Any) -> None:
    _add_nodes(api, aws)
    controller = run(provider="aws").wait_ready()
    api.create(service("web", loadBalancerClass=CLASS))
    (ingress,) = eventually(lambda: _ingress(api, "web"))
    (balancer,) = aws.load_balancers()
    assert ingress == {"hostname": balancer.dns_name}
    (listener,) = balancer.listeners
    node_port = api.get("Service", "web")["spec"]["ports"][0]["nodePort"]
    assert (listener.port, listener.target_port) == (80, node_port)
    assert listener.targets == tuple(sorted(aws.instance_id(n) for n in aws.provider_ids))
    api.delete("Service", "web")
    eventually(lambda: api.find("Service", "web") is None)
    assert aws.leftovers() == ()
    assert controller.stop() == 0
