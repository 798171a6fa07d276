"""Services that nobody in his right mind would make, but that the API server stores: each ends in a load
balancer or in words that name what is wrong, and a healthy Service beside them does not wait for them.

A hundred with every `make test`, ten thousand with `make soak`.
"""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from lbprov.lab.aws.world import AwsWorld
from lbprov.lab.controlplane import Api, ApiError, ControlPlane, Object, eventually
from lbprov.lab.controlplane.objects import add_node, service
from lbprov.testing.memory_world import MemoryWorld

BATCH = 250
"""Made, judged and deleted together: there are but 2768 nodePorts."""

TEXTS = [
    "",
    " ",
    "true",
    "False",
    "-1",
    "0",
    "null",
    "{}",
    "[]",
    "\u202e",
    "é" * 200,
    "a,b,,c",
    "=",
    "k=v,k=w",
    "%s",
    "\t\n",
    "x" * 5000,
    "y" * 50_000,
    "198.51.100.1",
    "::1",
    "999.1.1.1",
    "10.0.0.0/33",
]
ANNOTATIONS = [
    "lbprov.io/ip-policy",
    "lbprov.io/scheme",
    "lbprov.io/no-such-thing",
    "service.beta.kubernetes.io/aws-load-balancer-type",
    "service.beta.kubernetes.io/aws-load-balancer-scheme",
    "service.beta.kubernetes.io/aws-load-balancer-internal",
    "service.beta.kubernetes.io/aws-load-balancer-subnets",
    "service.beta.kubernetes.io/aws-load-balancer-additional-resource-tags",
    "service.beta.kubernetes.io/aws-load-balancer-eip-allocations",
    "example.com/anything",
]


def hostile(rng: random.Random, name: str, class_: str) -> Object:
    made = service(name, loadBalancerClass=class_)
    spec: Object = made["spec"]
    chance = rng.random
    made["metadata"]["annotations"] = {
        key: rng.choice(TEXTS) for key in rng.sample(ANNOTATIONS, rng.randint(0, 4))
    }
    made["metadata"]["labels"] = {f"l{n}": "v" * rng.choice((0, 63)) for n in range(rng.randint(0, 3))}
    protocols = ["TCP", "UDP", "SCTP"]
    pairs = [(port, protocol) for port in (1, 53, 80, 443, 65535) for protocol in protocols]
    pairs += [(port, "TCP") for port in range(1000, 1040)]
    chosen = rng.sample(pairs, rng.choice((1, 1, 2, 3, 5, 30)) if chance() < 0.2 else rng.randint(1, 3))
    spec["ports"] = [
        {
            "name": f"p{n}",
            "port": port,
            "protocol": protocol,
            "targetPort": rng.choice([port, "named", 65535]),
            **(
                {"appProtocol": rng.choice(("http", "kubernetes.io/h2c", "example.com/own"))}
                if chance() < 0.2
                else {}
            ),
        }
        for n, (port, protocol) in enumerate(chosen)
    ]
    optional: dict[str, Any] = {
        "allocateLoadBalancerNodePorts": chance() < 0.3,
        "loadBalancerIP": rng.choice(TEXTS),
        "loadBalancerSourceRanges": rng.choice(
            (["0.0.0.0/0"], ["10.0.0.0/8", "10.0.0.0/8"], ["::/0"], [" 10.0.0.0/8 "], ["203.0.113.7/32"] * 40)
        ),
        "externalTrafficPolicy": rng.choice(("Local", "Cluster")),
        "internalTrafficPolicy": rng.choice(("Local", "Cluster")),
        "sessionAffinity": "ClientIP",
        "externalIPs": rng.choice((["192.0.2.200"], ["192.0.2.200", "2001:db8::1"])),
        "ipFamilyPolicy": rng.choice(("SingleStack", "PreferDualStack", "RequireDualStack")),
        "ipFamilies": rng.choice((["IPv6"], ["IPv4"])),
        "publishNotReadyAddresses": True,
        "selector": None,
    }
    spec |= {key: optional[key] for key in rng.sample(sorted(optional), rng.randint(0, 6))}
    if chance() < 0.2:
        made["metadata"]["finalizers"] = ["example.com/theirs"]
    return made


ENDS = {"EnsuredLoadBalancer", "SyncLoadBalancerFailed", "LoadBalancerIPInvalid"}
"""The last where the address is required (`lbprov.io/ip-policy`) and means nothing."""


def told(found: Object) -> str:
    """The reason of the condition Ready; empty while there is none."""
    conditions = {c["type"]: c for c in found["status"].get("conditions", [])}
    ready = conditions.get("lbprov.io/Ready", {})
    if ready.get("reason") in ("EnsuringLoadBalancer", "WaitingForLoadBalancer"):
        return ""
    if ready.get("status") == "True":
        assert found["status"]["loadBalancer"].get("ingress"), found
    elif ready:
        assert ready["message"], found
        assert "bug" not in ready["message"], found
    return str(ready.get("reason", ""))


def create_many(api: Api, rng: random.Random, class_: str, first: int, count: int) -> tuple[list[str], int]:
    """(names of those that were stored, how many the API server refused)."""

    def create(obj: Object) -> str:
        try:
            api.create(obj)
        except ApiError as error:
            assert error.status == 422, error  # noqa: PT017 - and no other refusal
            return ""
        return str(obj["metadata"]["name"])

    objects = [hostile(rng, f"hostile-{first + n}", class_) for n in range(count)]
    with ThreadPoolExecutor(4) as pool:
        names = list(pool.map(create, objects))
    return [name for name in names if name], names.count("")


class Bystander(threading.Thread):
    """Makes a healthy Service now and then, in another namespace; `waits_s`: until each had its address."""

    def __init__(self, api: Api, class_: str) -> None:
        super().__init__(daemon=True)
        self._api, self._class = api, class_
        self.over = threading.Event()
        self.waits_s: list[float] = []
        self.failed = ""

    def run(self) -> None:
        number = 0
        while not self.over.wait(0.5):
            number += 1
            name = f"healthy-{number}"
            self._api.create(service(name, loadBalancerClass=self._class))
            began_s = time.monotonic()
            try:
                eventually(lambda: self._has_address(name), 30)  # noqa: B023 - called at once
            except TimeoutError as error:
                self.failed = str(error)
                return
            self.waits_s.append(time.monotonic() - began_s)
            self._api.delete("Service", name)

    def _has_address(self, name: str) -> bool:
        return bool(self._api.get("Service", name)["status"]["loadBalancer"].get("ingress"))


def besiege(
    api: Api, beside: Api, controller: Any, class_: str, count: int, seed: int
) -> tuple[str, dict[str, int]]:
    """What the figures are, and how the Services ended: reason -> how many."""
    rng = random.Random(seed)
    ends: dict[str, int] = {}
    refused = 0
    bystander = Bystander(beside, class_)
    bystander.start()
    for first in range(0, count, BATCH):
        names, failed = create_many(api, rng, class_, first, min(BATCH, count - first))
        refused += failed
        found: list[Object] = []

        def all_told() -> bool:
            found[:] = api.list("Service")  # noqa: B023
            return all(told(one) for one in found)  # noqa: B023

        eventually(all_told, 240, every_s=0.3)
        for one in found:
            ends[told(one)] = ends.get(told(one), 0) + 1
        for name in names:
            api.delete("Service", name)

        def only_theirs_left() -> bool:
            """Finalizers of others are for others to take off: here, for us."""
            left = api.list("Service")
            for one in left:
                if one["metadata"]["finalizers"] == ["example.com/theirs"]:
                    api.patch("Service", one["metadata"]["name"], {"metadata": {"finalizers": None}})
            return not left

        eventually(only_theirs_left, 240, every_s=0.3)
    bystander.over.set()
    bystander.join(60)
    assert bystander.failed == ""
    eventually(lambda: not beside.list("Service"), 60)
    assert controller.metric("lbprov_reconcile_errors_total", reason="bug") == 0, controller.said()[-4000:]
    waits = sorted(bystander.waits_s)
    median_s, most_s = waits[len(waits) // 2], waits[-1]
    figure = (
        f"{count} hostile Services ({refused} not storable): {ends}; a healthy one beside them had its "
        f"address after {median_s:.2f} s in the median, {most_s:.2f} s at most, of {len(waits)}"
    )
    return figure, ends


@pytest.fixture
def beside(control_plane: ControlPlane) -> Any:
    """Another namespace."""
    name = f"beside-{time.monotonic_ns()}"
    control_plane.admin.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    yield control_plane.admin.in_namespace(name)
    control_plane.admin.delete("Namespace", name)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "count",
    [pytest.param(120, id="a-hundred"), pytest.param(8000, id="thousands", marks=pytest.mark.soak)],
)
def test_in_memory(api: Api, beside: Api, world: MemoryWorld, run: Any, figures: Any, count: int) -> None:
    add_node(api, "node-1")
    controller = run().wait_ready()
    figure, ends = besiege(api, beside, controller, "lbprov.io/memory", count, seed=count)
    figures(f"memory: {figure}")
    assert {"EnsuredLoadBalancer"} < set(ends) <= ENDS
    eventually(lambda: world.list_all() == ())


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "count",
    [pytest.param(40, id="dozens"), pytest.param(2000, id="thousands", marks=pytest.mark.soak)],
)
def test_on_aws(api: Api, beside: Api, aws: AwsWorld, run: Any, figures: Any, count: int) -> None:
    for name, provider_id in aws.provider_ids.items():
        add_node(api, name, provider_id=provider_id, zone=aws.node_zones[name])
    aws.server.quotas(load_balancers=2 * BATCH)
    controller = run("--provider-option", "api-rates=off", provider="aws").wait_ready()
    figure, ends = besiege(api, beside, controller, "lbprov.io/aws", count, seed=count)
    figures(f"aws: {figure}")
    assert {"EnsuredLoadBalancer"} < set(ends) <= ENDS
    eventually(lambda: aws.leftovers() == (), 60)
