"""The walkthrough, step by step: what is applied, what a person would see, and the requests that prove it."""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lbprov.demo import kubectl
from lbprov.demo.cloud_steps import REQUESTED_IP, load_balancer, requested_address
from lbprov.demo.stage import PATIENCE_S, PORT, Stage, ask, variant
from lbprov.lab import Probe, Refused, Reply

NODE_PORT = 32001
NODE_PORTS = range(30000, 32768)
EXTERNAL_IP = "101.101.101.1"
AT_ONCE_MS = 900.0
"""Less than TCP waits before it sends a lost SYN again."""
SPREAD = 60
"""Requests that reach all of three Pods by chance alone, but for one time in 10^10."""


def no_endpoints(stage: Stage) -> None:
    stage.apply("service-web-clusterip.yaml")
    stage.get_services()
    service = stage.service("service-web-clusterip")
    ip = service.cluster_ips[0]
    stage.show.prove(
        f"it has the clusterIP {ip}, of the service range 10.96.0.0/12", _in_service_range(ip), ip
    )
    stage.show.prove("it has no endpoints", not stage.cluster.pods_of(service.key.name), "endpoints")
    answers = [stage.curl(stage.nodes[0], ip, PORT), *(ask(n, ip, PORT) for n in stage.nodes)]
    bad = [a for a in answers if not isinstance(a, Refused) or a.elapsed_ms > AT_ONCE_MS]
    slowest = max(a.elapsed_ms for a in answers)
    stage.show.prove(
        f"every node refuses at once ({slowest:.1f} ms), none lets it time out", not bad, *bad[:1]
    )


def one_backend(stage: Stage) -> None:
    stage.apply("deployment-web.yaml", "pod-client.yaml")
    stage.get_pods()
    service = stage.service("service-web-clusterip")
    [ip] = service.cluster_ips
    pods = stage.cluster.pods_of(service.key.name)
    answer = stage.curl(stage.client, ip, PORT)
    stage.show.prove(
        "the Service has one endpoint, the Deployment's Pod", len(pods) == 1, kubectl.names(pods)
    )
    [pod] = pods
    stage.prove_served(
        f"{ip}:{PORT} reaches port 80 of {pod.key.name} at {pod.ips[0]} from the client Pod",
        service.key.name,
        [answer],
    )
    stage.prove_served("and from every node", service.key.name, (ask(node, ip, PORT) for node in stage.nodes))


def requested_cluster_ip(stage: Stage) -> None:
    name = "service-web-clusterip-static"
    stage.apply(f"{name}.yaml")
    stage.get_services(name)
    service = stage.service(name)
    stage.show.prove(
        "it has the clusterIP that it asks for", service.cluster_ips == ("10.101.150.150",), service
    )
    answer = stage.curl(stage.client, "10.101.150.150", PORT)
    stage.prove_served(f"10.101.150.150:{PORT} reaches the Pod", name, [answer])
    stage.show.say("And the same with clusterIP 192.168.150.150:")
    bad = variant(f"{name}.yaml", f"{name}-bad", lambda spec: spec.update(clusterIP="192.168.150.150"))
    stage.apply(variants=bad)
    problems = [str(p) for p in stage.cluster.snapshot.problems if f"{name}-bad" in p.object]
    stage.show.output("\n".join(problems).replace(f"{stage.cluster.folder}/", ""))
    clear = any("spec.clusterIP" in p and "192.168.150.150" in p and "10.96.0.1" in p for p in problems)
    refused = stage.cluster.service(f"{name}-bad") is None
    stage.show.prove(
        "one outside the range is refused, naming the field and the range", refused and clear, problems
    )
    stage.prove_served("and does not disturb the others", name, [ask(stage.client, "10.101.150.150", PORT)])
    stage.cluster.delete(f"{name}-bad.yaml")


def node_port(stage: Stage) -> None:
    name = "service-web-nodeport"
    stage.apply(f"{name}.yaml")
    stage.get_services(name)
    stage.service(name)
    with_pod = {pod.node_name for pod in stage.cluster.pods_of(name)}
    without = [node.name for node in stage.nodes if node.name not in with_pod]
    answers = [stage.curl(stage.outside, stage.nodes[0].ipv4, NODE_PORT)]
    answers += [ask(stage.outside, node.ipv4, NODE_PORT) for node in stage.nodes]
    stage.prove_served(
        f"port {NODE_PORT} of every node reaches the Pod from outside, also of {' and '.join(without)} "
        "where none runs",
        name,
        answers,
    )
    near = ask(stage.outside, stage.nodes[0].ipv4, NODE_PORT + 1)
    stage.show.prove(
        f"port {NODE_PORT + 1}, which no Service has, is refused", isinstance(near, Refused), near
    )
    auto = f"{name}-auto"
    stage.show.say("And the same without nodePort:")
    stage.apply(variants=variant(f"{name}.yaml", auto, lambda spec: spec["ports"][0].pop("nodePort")))
    stage.get_services(auto)
    port = stage.service(auto).ports[0].node_port
    stage.show.prove(
        f"without nodePort in the manifest, {port} of 30000-32767 is given", port in NODE_PORTS, port
    )
    stage.prove_served(
        f"port {port} of every node reaches the Pod",
        auto,
        [ask(stage.outside, node.ipv4, port) for node in stage.nodes],
    )


def external_ips(stage: Stage) -> None:
    name = "service-web-externalips"
    stage.apply(f"{name}.yaml")
    stage.get_services(name)
    stage.service(name)
    answers = []
    for node in stage.nodes:
        stage.outside.route(EXTERNAL_IP, via=node)
        answers.append(ask(stage.outside, EXTERNAL_IP, PORT))
    answers.append(stage.curl(stage.outside, EXTERNAL_IP, PORT))
    stage.prove_served(f"{EXTERNAL_IP}:{PORT} reaches the Pod whichever node it arrives at", name, answers)
    typed = f"{name}-nodeport"

    def as_node_port(spec: dict[str, Any]) -> None:
        spec.update(type="NodePort", ports=[{"port": PORT + 1, "targetPort": 80}])

    stage.show.say(f"And the same as a NodePort Service, on port {PORT + 1}:")
    stage.apply(variants=variant(f"{name}.yaml", typed, as_node_port))
    stage.get_services(typed)
    stage.prove_served(
        f"whatever the Service's type: {EXTERNAL_IP}:{PORT + 1} reaches it too",
        typed,
        [ask(stage.outside, EXTERNAL_IP, PORT + 1)],
    )


def traffic_follows(stage: Stage) -> None:
    cluster_ip = stage.service("service-web-clusterip").cluster_ips[0]
    stage.show.say(
        "From now on requests go, without a pause, to the ClusterIP, to the NodePort of every node,"
    )
    stage.show.say("to the load balancer and to the external IP.")
    inside = stage.client.keep_asking([_patient(cluster_ip, PORT)])
    node_ports = [_patient(node.ipv4, NODE_PORT) for node in stage.nodes]
    outside = stage.outside.keep_asking(
        [*node_ports, _patient(REQUESTED_IP, PORT), _patient(EXTERNAL_IP, PORT)]
    )
    seen: set[str] = set()
    for said, change, follows in _CHANGES:
        stage.show.command(said)
        with stage.show.waiting("the nodes take it over"):
            stage.cluster.edit("deployment-web.yaml", change=change)
        stage.get_pods()
        pods = stage.cluster.pods_of("service-web-clusterip")
        seen |= kubectl.names(pods)
        places = sorted(pod.node_name for pod in pods)
        stage.show.must(f"then the Pods are on {', '.join(follows)}", places == follows, places)
        _prove_spread(stage, cluster_ip, kubectl.names(pods))
    loops = [inside.stop(), outside.stop()]
    made = sum(loop.made for loop in loops)
    failures = list(itertools.chain(*(loop.failures for loop in loops)))
    stage.show.prove(f"of {made} requests made meanwhile, none failed", made > 0 and not failures, failures)
    missed = [name for name in seen if not all(loop.by_hostname.get(name) for loop in loops)]
    stage.show.prove(
        f"all {len(seen)} Pods that there were answered some, inside and outside", not missed, f"not {missed}"
    )


def _patient(ip: str, port: int) -> Probe:
    return Probe(ip, port, timeout_s=PATIENCE_S)


def _set_replicas(count: int) -> Callable[[str, dict[str, Any]], None]:
    return lambda _, manifest: manifest["spec"].update(replicas=count)


def _move(_: str, manifest: dict[str, Any]) -> None:
    manifest["spec"]["template"]["spec"]["nodeSelector"] = {"kubernetes.io/hostname": "node-3"}


# What is typed, what it does to the Deployment, on which nodes the Pods are afterwards.
_CHANGES: Sequence[tuple[str, Callable[[str, dict[str, Any]], None], list[str]]] = (
    (
        "kubectl scale deployment webserver --replicas=3",
        _set_replicas(3),
        ["node-1", "node-2", "node-3"],
    ),
    (
        "kubectl patch deployment webserver -p "
        """'{"spec": {"template": {"spec": {"nodeSelector": {"kubernetes.io/hostname": "node-3"}}}}}'""",
        _move,
        ["node-3", "node-3", "node-3"],
    ),
    ("kubectl scale deployment webserver --replicas=2", _set_replicas(2), ["node-3", "node-3"]),
)


def _prove_spread(stage: Stage, cluster_ip: str, names: set[str]) -> None:
    """Every Pod that there is gets requests, inside and outside, and no other answers."""
    asked = [
        ("the ClusterIP", stage.client.http_gets(cluster_ip, PORT, SPREAD, PATIENCE_S)),
        ("a NodePort", stage.outside.http_gets(stage.nodes[0].ipv4, NODE_PORT, SPREAD, PATIENCE_S)),
    ]
    for what, answers in asked:
        heard = {a.hostname if isinstance(a, Reply) else str(a) for a in answers}
        claim = f"{SPREAD} requests to {what} are spread over exactly these {len(names)} Pods"
        stage.show.prove(claim, heard == names, f"{sorted(heard)}, Pods {sorted(names)}")


def _in_service_range(ip: str) -> bool:
    return ipaddress.ip_address(ip) in ipaddress.ip_network("10.96.0.0/12")


@dataclass(frozen=True, slots=True)
class DemoStep:
    title: str
    act: Callable[[Stage], None]


STEPS = (
    DemoStep("A ClusterIP Service without endpoints", no_endpoints),
    DemoStep("One backend, asked from another Pod", one_backend),
    DemoStep("A clusterIP of one's own choice", requested_cluster_ip),
    DemoStep("NodePort: a port of every node", node_port),
    DemoStep("LoadBalancer: an address outside, in front of the NodePorts", load_balancer),
    DemoStep("LoadBalancer with a requested address", requested_address),
    DemoStep("externalIPs: addresses of the administrator's", external_ips),
    DemoStep("Scale, move and delete Pods under load", traffic_follows),
)
