"""The demo's AWS: moto answers the API, and a stand-in carries the packets.

moto has no data path: a load balancer made there is a record. `CloudPath` is a machine on the LAN that holds
the load balancers' addresses and passes their traffic on, at the transport layer alone, exactly as the
listeners, target groups and targets read back from the API say. What was not made there is not forwarded.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lbprov.lab import Host, Lab
from lbprov.model import UserError

if TYPE_CHECKING:
    from lbprov.lab.aws.world import AwsWorld, ListenerView, LoadBalancerView

EPHEMERAL = "198.51.100.{}"
"""Where the stand-in takes addresses from for load balancers that have no fixed one (TEST-NET-2)."""

START_PATIENCE_S = 60
STOP_PATIENCE_S = 10
RECONCILE_PATIENCE_S = 60
RECONCILE = ("reconcile", "--provider", "aws")


def need_moto() -> None:
    missing = [name for name in ("boto3", "moto", "flask") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"the demo's AWS needs {', '.join(missing)}: install lbprov[demo] (pip install 'lbprov[demo]')"
        )


@dataclass(frozen=True, slots=True)
class ReconcileReport:
    """What `lbprov reconcile -o json` printed."""

    services: tuple[Mapping[str, Any], ...]
    reads: int
    writes: int

    def service(self, name: str) -> Mapping[str, Any]:
        """Empty if the report does not mention it."""
        return next((s for s in self.services if s["name"] == name), {})

    def events(self, name: str) -> tuple[Mapping[str, str], ...]:
        return tuple(self.service(name).get("events", ()))

    def address(self, name: str) -> str:
        """The external address or hostname that the Service was given; empty for none."""
        ingress = self.service(name).get("ingress", ())
        return str(ingress[0].get("ip") or ingress[0].get("hostname")) if ingress else ""


class Cloud:
    """An AWS account with the lab's nodes in it. It starts in the background; `world` waits for it."""

    def __init__(self, node_names: Sequence[str]) -> None:
        from lbprov.lab.aws.server import MotoServer

        self.server = MotoServer()
        self._answers = threading.Event()  # or never will
        self._is_ending = False
        self._world: Future[AwsWorld] = Future()
        self._start = threading.Thread(target=self._furnish, args=(tuple(node_names),), daemon=True)

    def start(self) -> None:
        self._start.start()

    def _furnish(self, node_names: tuple[str, ...]) -> None:
        try:
            try:
                from lbprov.lab.aws.world import AwsWorld

                self.server.start()
            finally:
                self._answers.set()
            if not self._is_ending:
                self._world.set_result(AwsWorld.create(self.server, nodes=node_names))
        except BaseException as error:
            self._world.set_exception(error)

    @property
    def world(self) -> AwsWorld:
        return self._world.result(timeout=START_PATIENCE_S)

    def stop(self) -> None:
        """At any time. A server that is being furnished is stopped under the hands of who does it: a Ctrl-C
        is not to wait for that."""
        self._is_ending = True
        if self._start.ident is not None:
            self._answers.wait(STOP_PATIENCE_S)
            self.server.stop()
            self._start.join(STOP_PATIENCE_S)

    def reconcile(self, folder: Path) -> ReconcileReport:
        """Run `lbprov reconcile` as a user would. A failure of it is a RuntimeError with its own words."""
        done = subprocess.run(
            [sys.executable, "-P", "-m", "lbprov", *RECONCILE, "-f", str(folder), "-o", "json"],
            check=False,
            env=os.environ | self.server.environment,
            capture_output=True,
            text=True,
            timeout=RECONCILE_PATIENCE_S,
            start_new_session=True,
        )
        if done.returncode:
            said = f"{done.stdout.strip()}\n{done.stderr.strip()}".strip()
            raise RuntimeError(f"lbprov reconcile ended with exit code {done.returncode}: {said[-2000:]}")
        report = json.loads(done.stdout)
        calls = report["calls"]
        return ReconcileReport(tuple(report["services"]), int(calls["read"]), int(calls["write"]))


class CloudPath:
    """The stand-in for the cloud's data path: the machine `cloud-lb` on the LAN."""

    def __init__(self, lab: Lab, instances: Mapping[str, Host], outside: Host) -> None:
        """`instances`: instance id -> the node that it is; `outside`: the one that clients are on."""
        self.host = lab.add_client("cloud-lb", forwards=True)
        self._outside = outside
        self._instances = instances
        self._addresses: dict[str, str] = {}  # load balancer's ARN -> the address that clients reach it on

    def follow(self, balancers: Sequence[LoadBalancerView]) -> None:
        """Forward as these load balancers say, and nothing else."""
        rules: list[str] = []
        for balancer in balancers:
            ip = self._address(balancer)
            for listener in balancer.listeners:
                rules += self._forward(ip, listener)
        # In a namespace of our own making: there are no foreign rules to keep.
        self.host.run(
            ["iptables-restore"],
            input="*nat\n:PREROUTING ACCEPT\n:POSTROUTING ACCEPT\n"
            + "".join(f"-A PREROUTING {rule}\n" for rule in rules)
            + "-A POSTROUTING -m conntrack --ctstate DNAT -j MASQUERADE\nCOMMIT\n",
        )

    def _address(self, balancer: LoadBalancerView) -> str:
        """The fixed address, or the next ephemeral one; the outside's DNS and routes are told of it."""
        if balancer.arn not in self._addresses:
            ip = next(iter(balancer.addresses), EPHEMERAL.format(len(self._addresses) + 1))
            self._addresses[balancer.arn] = ip
            self.host.add_address(ip)
            self._outside.route(ip, via=self.host)
            self._outside.add_name(balancer.dns_name, ip)
        return self._addresses[balancer.arn]

    def address(self, balancer: LoadBalancerView) -> str:
        return self._addresses[balancer.arn]

    def _forward(self, ip: str, listener: ListenerView) -> list[str]:
        """One rule per target and transport, each taking its share of what those before it left."""
        rules = []
        for protocol in listener.protocol.lower().split("_"):  # TCP_UDP is both
            for left, instance in zip(range(len(listener.targets), 0, -1), listener.targets, strict=True):
                share = f"-m statistic --mode random --probability {1 / left:.6f} " if left > 1 else ""
                to = f"{self._instances[instance].ipv4}:{listener.target_port}"
                match = f"-d {ip}/32 -p {protocol} --dport {listener.port}"
                rules.append(f"{match} {share}-j DNAT --to-destination {to}")
        return rules
