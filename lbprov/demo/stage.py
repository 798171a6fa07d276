"""What the steps act on, and how they say what they do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from lbprov.demo import kubectl
from lbprov.demo.cloud import RECONCILE, Cloud, CloudPath, ReconcileReport
from lbprov.demo.cluster import MANIFESTS, DemoCluster
from lbprov.demo.show import Show
from lbprov.lab import Answer, Host, NodeHost, Reply
from lbprov.model import ObjectKey, Service

PORT = 8888
"""The port of the walkthrough's Services."""

PATIENCE_S = 5.0
"""How long a request may take: far longer than it does, for the sake of machines that are busy otherwise."""


@dataclass(slots=True)
class Stage:
    """What the steps act on."""

    show: Show
    cluster: DemoCluster
    cloud: Cloud
    outside: Host
    path: CloudPath | None = None

    @property
    def nodes(self) -> tuple[NodeHost, ...]:
        return self.cluster.lab.nodes

    @property
    def client(self) -> Host:
        """The client Pod."""
        return self.cluster.kubelet.host(ObjectKey("default", "client"))

    def apply(self, *names: str, variants: Mapping[str, str] | None = None) -> None:
        """As `DemoCluster.apply`."""
        for name in (*names, *(variants or ())):
            self.show.command(f"kubectl apply -f {name}")
        with self.show.waiting("the nodes take it over"):
            self.cluster.apply(*names, variants=variants)

    def service(self, name: str) -> Service:
        service = self.cluster.service(name)
        self.show.must(f"Service {name} is accepted", service is not None, self._problems())
        assert service is not None
        return service

    def _problems(self) -> str:
        return "; ".join(str(p) for p in self.cluster.snapshot.problems) or "nothing of that name"

    def get_services(self, *names: str) -> None:
        self.show.command(" ".join(("kubectl get service", *names)))
        services = [s for s in self.cluster.snapshot.services if s.key.name in names or not names]
        self.show.table(kubectl.HEAD, kubectl.get_services(services))

    def get_pods(self) -> None:
        self.show.command("kubectl get pods -o wide")
        self.show.table(kubectl.PODS_HEAD, kubectl.get_pods(self.cluster.snapshot.pods))

    def curl(self, at: Host, host: str, port: int) -> Answer:
        """One request, shown as a person would make it."""
        answer = ask(at, host, port)
        self.show.command(f"curl {host}:{port}", at=at.name)
        self.show.output(kubectl.curl(host, port, answer))
        return answer

    def prove_served(self, claim: str, service: str, answers: Iterable[Answer]) -> None:
        """Every one of `answers` is the page of one of the Service's Pods, reached on its own address."""
        pods = {pod.key.name: pod.ips for pod in self.cluster.pods_of(service)}
        wrong = [a for a in answers if not _is_page_of(a, pods)]
        seen = f"{wrong[0]} (its Pods: {', '.join(pods) or 'none'})" if wrong else ""
        self.show.prove(claim, not wrong, seen)

    def reconcile(self) -> ReconcileReport:
        """Let lbprov make the load balancers; the stand-in follows what AWS then says."""
        self.show.command(f"lbprov {' '.join(RECONCILE)} -f manifests")
        with self.show.waiting("lbprov talks to AWS"):
            report = self.cloud.reconcile(self.cluster.folder)
            self.cluster.refresh()
            if self.path is None:
                instances = {self.cloud.world.instance_id(node.name): node for node in self.nodes}
                self.path = CloudPath(self.cluster.lab, instances, self.outside)
            self.path.follow(self.cloud.world.load_balancers())
        for service in report.services:
            if service["result"] != "unchanged":
                self.show.output(f"{service['namespace']}/{service['name']} {service['result']}")
        self.show.output(f"calls: {report.reads} reading, {report.writes} writing")
        return report


def ask(at: Host, ip: str, port: int) -> Answer:
    return at.http_get(ip, port, PATIENCE_S)


def _is_page_of(answer: Answer, pods: dict[str, tuple[str, ...]]) -> bool:
    return (
        isinstance(answer, Reply)
        and answer.status == 200
        and answer.server_ip in pods.get(answer.hostname, ())
    )


def variant(manifest: str, name: str, change: Callable[[dict[str, Any]], object]) -> dict[str, str]:
    """A manifest of the walkthrough under another name, with its spec changed: file -> text."""
    document = yaml.safe_load((MANIFESTS / manifest).read_text())
    document["metadata"]["name"] = name
    change(document["spec"])
    return {f"{name}.yaml": yaml.safe_dump(document, sort_keys=False)}
