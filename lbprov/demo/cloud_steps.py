"""The steps of the walkthrough that need a cloud: load balancers in front of the nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lbprov.demo.cloud import ReconcileReport
from lbprov.demo.stage import PORT, Stage, ask, variant
from lbprov.lab import Reply
from lbprov.model import ZONE_LABEL

if TYPE_CHECKING:
    from lbprov.lab.aws.world import LoadBalancerView

REQUESTED_IP = "203.0.113.10"
ABSENT_IP = "203.0.113.99"


def load_balancer(stage: Stage) -> None:
    name = "service-web-lb"
    with stage.show.waiting("AWS gets its instances"):
        _name_instances(stage)
    stage.show.say("The nodes are instances of an AWS whose API is moto, served on this machine.")
    stage.apply(f"{name}.yaml")
    report = stage.reconcile()
    stage.get_services(name)
    balancer = _show_balancer(stage, name)
    service = stage.service(name)
    hostname = report.address(name)
    stage.show.prove(
        "AWS has a network load balancer for it, whose name is the Service's external address",
        hostname == balancer.dns_name and str(service.ingress[0]) == hostname,
        f"status {service.ingress}, AWS {balancer.dns_name}",
    )
    [listener] = balancer.listeners
    instances = sorted(stage.cloud.world.instance_id(node.name) for node in stage.nodes)
    stage.show.prove(
        "it stands in front of the NodePort of every node",
        (listener.port, listener.target_port, list(listener.targets))
        == (PORT, service.ports[0].node_port, instances),
        listener,
    )
    assert stage.path is not None
    stage.show.say(
        f"moto has no data path: the machine {stage.path.host.name} stands in for it. It holds\n"
        f"{stage.path.address(balancer)} and forwards at the transport layer as the API's answers above say."
    )
    answer = stage.curl(stage.outside, hostname, PORT)
    stage.prove_served(f"{hostname}:{PORT} reaches the Pod from outside", name, [answer])
    stage.show.prove(
        "only the transport layer was touched: the request came with the headers that it was sent with",
        isinstance(answer, Reply) and answer.headers == ("Host", "Connection"),
        answer,
    )
    inside = [ask(stage.client, service.cluster_ips[0], PORT)]
    inside += [ask(stage.outside, node.ipv4, service.ports[0].node_port) for node in stage.nodes]
    stage.prove_served("it is a NodePort and a ClusterIP Service too", name, inside)
    again = stage.reconcile()
    stage.show.prove("a second run writes nothing", again.writes == 0, f"{again.writes} writes")


def requested_address(stage: Stage) -> None:
    name = "service-web-lb-ip"
    absent = f"{name}-absent"
    stage.cloud.world.allocate_address(REQUESTED_IP)
    stage.show.say(
        f"The account has the Elastic IP {REQUESTED_IP}, but no {ABSENT_IP}, which a second one wants."
    )
    stage.apply(
        f"{name}.yaml",
        variants=variant(f"{name}.yaml", absent, lambda spec: spec.update(loadBalancerIP=ABSENT_IP)),
    )
    report = stage.reconcile()
    stage.get_services(name, absent)
    balancer = _show_balancer(stage, name)
    status = [str(ingress) for ingress in stage.service(name).ingress]
    stage.show.prove(
        f"the requested address is used: status and AWS both say {REQUESTED_IP}",
        status == [REQUESTED_IP] and balancer.addresses == (REQUESTED_IP,),
        f"status {status}, AWS {balancer.addresses}",
    )
    answer = stage.curl(stage.outside, REQUESTED_IP, PORT)
    stage.prove_served(f"{REQUESTED_IP}:{PORT} reaches the Pod from outside", name, [answer])
    _fallen_back(stage, absent, report)


def _fallen_back(stage: Stage, name: str, report: ReconcileReport) -> None:
    """The address that cannot be: another one, in the same run, and a word that says why."""
    balancer = _show_balancer(stage, name)
    stage.show.command(f"kubectl describe service {name}")
    events = report.events(name)
    stage.show.table(("Type", "Reason", "Message"), [(e["type"], e["reason"], e["message"]) for e in events])
    why = [e["message"] for e in events if e["type"] == "Warning" and ABSENT_IP in e["message"]]
    stage.show.prove(
        f"the one that wants {ABSENT_IP} gets an ephemeral address in the same run, and a Warning says why",
        bool(why) and report.address(name) == balancer.dns_name and not balancer.addresses,
        f"address {report.address(name) or 'none'}, events {events}",
    )
    answer = stage.curl(stage.outside, balancer.dns_name, PORT)
    stage.prove_served("which reaches the Pod from outside", name, [answer])
    before = stage.cloud.world.inventory()
    stage.show.command(f"kubectl delete -f {name}.yaml")
    stage.cluster.delete(f"{name}.yaml")
    stage.reconcile()
    gone = sorted(before - stage.cloud.world.inventory())
    parts = ("listener", "load balancer", "security group", "target group")
    stage.show.prove(
        f"deleted, it takes along everything that was made for it: {', '.join(parts)}",
        stage.cluster.service(name) is None
        and len(gone) == len(parts)
        and all(line.startswith(part) for line, part in zip(gone, parts, strict=True)),
        f"gone: {gone}",
    )


def _show_balancer(stage: Stage, service: str) -> LoadBalancerView:
    """The load balancer that AWS has for the Service, found by its mark."""
    mark = f"default/{service}"
    found = [b for b in stage.cloud.world.load_balancers() if mark in b.tags.values()]
    stage.show.must(f"AWS has one load balancer for {service}", len(found) == 1, found)
    [balancer] = found
    show, names = stage.show, {stage.cloud.world.instance_id(n.name): n.name for n in stage.nodes}
    show.say("AWS has, by its API:")
    rows = [
        ("load balancer", f"{balancer.name} ({balancer.scheme}, {', '.join(balancer.zones)})"),
        ("DNS name", balancer.dns_name),
        ("address", ", ".join(balancer.addresses) or "ephemeral"),
    ]
    for listener in balancer.listeners:
        targets = ", ".join(f"{names[i]} {i}" for i in listener.targets)
        rows.append(
            (f"listener {listener.port}/{listener.protocol}", f"port {listener.target_port} of {targets}")
        )
    for what, value in rows:
        show.output(f"  {what:<18} {value}")
    return balancer


def _name_instances(stage: Stage) -> None:
    """What a cloud's node controller does: tell every Node which instance it is, and in which zone."""
    world = stage.cloud.world

    def name(file: str, manifest: dict[str, Any]) -> None:
        node = file.removesuffix(".yaml")
        manifest["spec"]["providerID"] = world.provider_ids[node]
        manifest["metadata"]["labels"][ZONE_LABEL] = world.node_zones[node]

    stage.cluster.edit(*(f"{node.name}.yaml" for node in stage.nodes), change=name)
