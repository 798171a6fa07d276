"""Services that ask for one Elastic IP: the oldest gets it, whichever has its turn first and however many
have theirs at once; also when a process starts, and nobody has been looked at yet."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from click.testing import CliRunner

import lbprov_aws
from lbprov.api import LoadBalancer, ObjectKey, Provider, ProviderContext, UserError
from lbprov.cli.main import main
from lbprov.controller.app import App
from lbprov.controller.asked import Asked
from lbprov.controller.reconcile import Reconciler
from lbprov.controller.term import Settings
from lbprov.logic.conditions import is_refused
from lbprov.logic.nodes import targets_of
from lbprov.logic.selection import Claimant
from lbprov.model import Node, Service, ServicePort, ServiceType
from lbprov.observe.metrics import Metrics
from lbprov.testing.cluster import MemoryCluster
from lbprov.testing.live import LiveMemoryCluster
from lbprov_aws.address_book import SHARED_S
from lbprov_aws.peer_annotations import PREFIX
from lbprov_aws.resources import Observed

if TYPE_CHECKING:
    from lbprov.lab.aws.world import AwsWorld
    from tests.aws.conftest import Lab, Pass

IP, OTHER = "203.0.113.10", "203.0.113.11"
EIPS = PREFIX + "eip-allocations"
POOL = PREFIX + "eip-allocations-discovery-tags"
LIMIT_S = 90.0
"""Bounds a hang; nothing takes that long."""


def told(result: Pass) -> str:
    (notice,) = [n for n in result.plan.notices if n.topic == "RequestedIP"]
    return f"{notice.reason}: {notice.message}"


def holders(world: AwsWorld) -> dict[str, tuple[str, ...]]:
    """Service -> the fixed addresses of its load balancer."""
    return {b.tags["lbprov/service"].partition("/")[2]: b.addresses for b in world.load_balancers()}


def two(lab: Lab, older: dict[str, Any], younger: dict[str, Any]) -> dict[str, LoadBalancer]:
    """Known to the cluster, and not looked at yet. The younger one's name is the first."""
    found: dict[str, LoadBalancer] = {
        "z-older": lab.desired("z-older", created_at="2026-01-01T00:00:00Z", **older),
        "a-younger": lab.desired("a-younger", created_at="2026-01-02T00:00:00Z", **younger),
    }
    lab.asked = tuple(replace(desired, targets=()) for desired in found.values())
    return found


def by_ip() -> dict[str, Any]:
    return {"requested_ip": IP}


def listed(wish: str) -> dict[str, Any]:
    return {"annotations": {EIPS: wish}}


WAYS = [
    pytest.param(by_ip(), by_ip(), id="the field"),
    pytest.param(listed("eipalloc-…"), by_ip(), id="its id and the field"),
    pytest.param(by_ip(), listed(IP), id="the field and a list"),
    pytest.param(listed("tag:pool=a"), listed("tag:pool=a"), id="by one tag"),
    pytest.param(by_ip(), listed("tag:pool=a"), id="the field and by tag"),
    pytest.param({"annotations": {POOL: "pool=a"}}, listed("tag:pool=a"), id="all of a pool and one of it"),
]


@pytest.mark.parametrize("first", ["z-older", "a-younger"])
@pytest.mark.parametrize(("older", "younger"), WAYS)
def test_the_older_gets_it(lab: Lab, older: dict[str, Any], younger: dict[str, Any], first: str) -> None:
    allocation = lab.world.allocate_address(IP, {"pool": "a"})
    if older == listed("eipalloc-…"):
        older = listed(allocation)
    wanted = two(lab, older, younger)
    results = {name: lab.reconcile(wanted[name]) for name in sorted(wanted, key=lambda name: name != first)}
    assert holders(lab.world) == {"z-older": (IP,), "a-younger": ()}
    assert told(results["a-younger"]).startswith("LoadBalancerIPInUse: ")
    assert "Service default/z-older" in told(results["a-younger"])
    assert lab.reconcile(wanted["a-younger"]).plan.is_empty


def test_a_restart_in_between(lab: Lab) -> None:
    """Killed when the older one had no more than a security group; the younger one comes first then."""
    lab.world.allocate_address(IP)
    wanted = two(lab, by_ip(), by_ip())
    lab.server.fail("CreateLoadBalancer", "ServiceUnavailable", times=10)
    with pytest.raises(Exception, match="ServiceUnavailable"):
        lab.reconcile(wanted["z-older"])
    lab.server.control(reset=True)
    lab.restart()
    lab.reconcile(wanted["a-younger"])
    lab.restart()
    lab.reconcile(wanted["z-older"])
    assert holders(lab.world) == {"z-older": (IP,), "a-younger": ()}


def test_two_of_a_pool_of_two(lab: Lab) -> None:
    """What the older one will get is left to it, and no more than that."""
    for ip in (IP, OTHER):
        lab.world.allocate_address(ip, {"pool": "a"})
    wanted = two(lab, listed("tag:pool=a"), listed("tag:pool=a"))
    lab.reconcile(wanted["a-younger"])
    lab.reconcile(wanted["z-older"])
    assert sorted(holders(lab.world).values()) == [(IP,), (OTHER,)]


def test_by_tag_leaves_what_another_names(lab: Lab) -> None:
    """The older one does not mind which; the younger one does."""
    for ip in (IP, OTHER):
        lab.world.allocate_address(ip, {"pool": "a"})
    named = min(
        (IP, OTHER),
        key=lambda ip: lab.world.ec2.describe_addresses(PublicIps=[ip])["Addresses"][0]["AllocationId"],
    )
    (spare,) = {IP, OTHER} - {named}
    wanted = two(lab, listed("tag:pool=a"), {"requested_ip": named})
    for name in ("z-older", "a-younger"):
        lab.reconcile(wanted[name])
    assert holders(lab.world) == {"z-older": (spare,), "a-younger": (named,)}


@pytest.mark.parametrize(
    "older",
    [
        pytest.param({**by_ip(), "internal": True}, id="internal"),
        pytest.param(
            {**by_ip(), "annotations": {PREFIX + "scheme": "interal"}}, id="nothing is made for it: no scheme"
        ),
        pytest.param({**by_ip(), "annotations": {EIPS: OTHER}}, id="its list wins"),
        pytest.param({"requested_ip": OTHER}, id="another address"),
    ],
)
def test_who_does_not_get_it_anyway_is_no_rival(lab: Lab, older: dict[str, Any]) -> None:
    for ip in (IP, OTHER):
        lab.world.allocate_address(ip)
    lab.reconcile(two(lab, older, by_ip())["a-younger"])
    assert holders(lab.world) == {"a-younger": (IP,)}


def test_who_has_a_load_balancer_is_no_rival(lab: Lab) -> None:
    """Its address is not changed any more: it asks for another one in vain."""
    lab.world.allocate_address(IP)
    wanted = two(lab, {}, by_ip())
    lab.reconcile(wanted["z-older"])
    lab.asked = (replace(lab.asked[0], requested_ip=IP), lab.asked[1])
    lab.reconcile(wanted["a-younger"])
    assert holders(lab.world) == {"z-older": (), "a-younger": (IP,)}


def test_requires_it_and_is_younger(lab: Lab) -> None:
    lab.world.allocate_address(IP)
    wanted = two(lab, by_ip(), {**by_ip(), "require_ip": True})
    with pytest.raises(UserError, match="Service default/z-older, which is older"):
        lab.reconcile(wanted["a-younger"])


# Many Services, each with an address of its own


def crowd(lab: Lab, count: int) -> list[LoadBalancer]:
    ips = [f"203.0.113.{n}" for n in range(20, 20 + count)]
    found: list[LoadBalancer] = [lab.desired(f"web-{n}", requested_ip=ip) for n, ip in enumerate(ips)]
    lab.asked = tuple(replace(desired, targets=()) for desired in found)
    return found


def looks(lab: Lab) -> int:
    return lab.provider.calls().by_operation.get("DescribeAddresses", 0)


def test_one_look_for_all_that_wait(lab: Lab) -> None:
    wanted = crowd(lab, 12)
    for desired in wanted:
        lab.world.allocate_address(desired.requested_ip)
    for desired in wanted:
        assert told(lab.reconcile(desired)).startswith("LoadBalancerIPAssigned: ")
    assert looks(lab) == 1
    assert holders(lab.world) == {d.owner.service.name: (d.requested_ip,) for d in wanted}


def test_what_was_found_for_others_is_soon_looked_at_again(lab: Lab) -> None:
    first, second, third = crowd(lab, 3)
    for desired in (first, second, third):
        lab.world.allocate_address(desired.requested_ip)
    lab.reconcile(first)
    lab.clock.now += SHARED_S + 1
    lab.reconcile(second)
    assert looks(lab) == 2
    lab.reconcile(third)
    assert looks(lab) == 2


def test_only_what_is_free_is_taken_from_another_ones_look(lab: Lab) -> None:
    """Not there yet when the first one looked, and there at its own turn."""
    first, second = crowd(lab, 2)
    lab.world.allocate_address(first.requested_ip)
    lab.reconcile(first)
    lab.world.allocate_address(second.requested_ip)
    assert told(lab.reconcile(second)).startswith("LoadBalancerIPAssigned: ")


def test_taken_after_another_ones_look(lab: Lab) -> None:
    first, second = crowd(lab, 2)
    for desired in (first, second):
        lab.world.allocate_address(desired.requested_ip)
    lab.reconcile(first)
    subnet = next(iter(lab.world.subnet_ids.values()))
    interface = lab.world.ec2.create_network_interface(SubnetId=subnet)["NetworkInterface"]
    (address,) = lab.world.ec2.describe_addresses(PublicIps=[second.requested_ip])["Addresses"]
    lab.world.ec2.associate_address(
        AllocationId=address["AllocationId"], NetworkInterfaceId=interface["NetworkInterfaceId"]
    )
    lab.reconcile(second)
    again = told(lab.reconcile(second))
    assert again.startswith("LoadBalancerIPInUse: ")
    assert interface["NetworkInterfaceId"] in again
    assert holders(lab.world)["web-1"] == ()


# The whole controller, and one pass


def eventually(check: Any) -> None:
    deadline_s = time.monotonic() + LIMIT_S
    while not check():
        assert time.monotonic() < deadline_s, "it never came to that"
        time.sleep(0.02)


def run(cluster: LiveMemoryCluster, settled: Any) -> None:
    """A controller's process with as many workers as there are Services, until `settled`."""
    claimant = Claimant("aws", "lbprov.io/aws", own_classless=False)

    def build() -> Provider[Observed]:
        asked = Asked("lab", lbprov_aws.SPEC, claimant)
        asked.follow(cluster.services.values)
        values = {option.name: option.parse(option.default) for option in lbprov_aws.SPEC.options}
        return lbprov_aws.SPEC.build(ProviderContext("lab", values, time.monotonic, asked=asked))

    app = App(cluster, lbprov_aws.SPEC, build, Settings(workers=6, drift_period_s=0.0), Metrics("aws"))
    stop = threading.Event()
    thread = threading.Thread(target=app.run, args=(stop,), daemon=True)
    thread.start()
    try:
        eventually(settled)
    finally:
        stop.set()
        thread.join(LIMIT_S)
    assert not thread.is_alive()


@pytest.mark.parametrize("oldest", ["web-0", "web-5"])
def test_a_start_with_many_workers(world: AwsWorld, oldest: str) -> None:
    """And another start, with Services that came while nobody was there."""
    for ip in (IP, OTHER):
        world.allocate_address(ip)
    nodes = [Node(name, uid=name, provider_id=id_) for name, id_ in world.provider_ids.items()]
    cluster = LiveMemoryCluster("lab", nodes)

    def put(*names: str, ip: str) -> None:
        for name in names:
            cluster.put(
                Service(
                    ObjectKey("default", name),
                    uid="",
                    type=ServiceType.LOAD_BALANCER,
                    load_balancer_class="lbprov.io/aws",
                    load_balancer_ip=ip,
                    ports=(ServicePort(80, node_port=30080),),
                )
            )

    def served(count: int) -> bool:
        found = [s.condition("lbprov.io/Ready") for s in cluster.services.values()]
        return sum(c is not None and c.status == "True" for c in found) == count

    names = [f"web-{n}" for n in range(6)]
    put(*sorted(names, key=lambda name: name != oldest), ip=IP)
    run(cluster, lambda: served(6))
    assert {name for name, ips in holders(world).items() if ips == (IP,)} == {oldest}
    put(
        *sorted((f"late-{n}" for n in range(6)), key=lambda name: name != oldest.replace("web", "late")),
        ip=OTHER,
    )
    run(cluster, lambda: served(12))
    assert {name for name, ips in holders(world).items() if ips} == {oldest, oldest.replace("web", "late")}


@pytest.mark.parametrize("verb", ["plan", "reconcile"])
def test_one_pass_over_a_folder(world: AwsWorld, tmp_path: Path, verb: str) -> None:
    """Of one age: by name."""
    world.allocate_address(IP)
    spec = {"type": "LoadBalancer", "loadBalancerIP": IP, "ports": [{"port": 80}]}
    services = [
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": f"web-{n}"}, "spec": spec}
        for n in range(8)
    ]
    nodes = [
        {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {"providerID": id_}}
        for name, id_ in world.provider_ids.items()
    ]
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump_all([*reversed(services), *nodes]))
    done = CliRunner().invoke(main, [verb, "--provider", "aws", "-f", str(tmp_path), "--cluster-name", "lab"])
    assert done.exit_code == 0, done.output
    if verb == "plan":
        assert done.output.count("LoadBalancerIPAssigned") == 1
        assert done.output.count("Service default/web-0, which is older") == 7
    else:
        assert {name for name, ips in holders(world).items() if ips} == {"web-0"}


# One that can never be made


@pytest.mark.parametrize("cause", ["subnets", "security-groups"])
@pytest.mark.parametrize("anew", [False, True], ids=["in one process", "after a restart"])
def test_who_can_never_be_made_keeps_no_address(lab: Lab, cause: str, *, anew: bool) -> None:
    """While it had no turn yet it does, which is told as what it is; once its author has been told, the next
    one gets the address."""
    lab.world.allocate_address(IP)
    nodes = [Node(name, provider_id=id_) for name, id_ in lab.world.provider_ids.items()]
    cluster = MemoryCluster("lab", nodes)
    keys = [ObjectKey("default", name) for name in ("z-older", "a-younger", "b-younger")]
    for day, key in enumerate(keys, start=1):
        says = {PREFIX + cause: "missing"} if key == keys[0] else {}
        cluster.put(
            Service(
                key,
                f"uid-{key.name}",
                type=ServiceType.LOAD_BALANCER,
                ports=(ServicePort(80, node_port=30080 + day),),
                load_balancer_ip=IP,
                created_at=f"2026-01-0{day}T00:00:00Z",
                annotations=says,
            )
        )
    asked = Asked("lab", lbprov_aws.SPEC, Claimant("aws", "lbprov.io/aws", own_classless=True))
    asked.follow(lambda: [cluster.get(key) for key in keys])

    def turn(key: ObjectKey) -> Service:
        lab.asked = asked()
        engine = Reconciler(cluster, lab.provider, lbprov_aws.SPEC, own_classless=True)
        engine.reconcile(cluster.get(key), targets_of(nodes))
        return cluster.get(key)

    too_early = turn(keys[2]).condition("lbprov.io/RequestedIP")
    assert too_early is not None
    assert f"{IP} is kept for Service default/z-older, which is older" in too_early.message
    assert "in use" not in too_early.message
    assert is_refused(turn(keys[0]))
    if anew:
        lab.restart()
    given = turn(keys[1]).condition("lbprov.io/RequestedIP")
    assert given is not None
    assert (given.status, given.reason) == ("True", "LoadBalancerIPAssigned")
    cluster.put(replace(cluster.get(keys[0]), annotations={}))
    late = turn(keys[0]).condition("lbprov.io/RequestedIP")
    assert late is not None
    assert f"{IP} is in use in eu-west-1 by the load balancer of Service default/a-younger" in late.message
