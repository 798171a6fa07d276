"""`lbprov gc` on AWS: everything with our mark that no Service wants, in the order in which it can go."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from lbprov.cli.main import main
from tests.aws.conftest import CLUSTER, Lab, owner, port


@pytest.fixture
def gc(lab: Lab, tmp_path: Path) -> Any:
    """`gc("--delete")` over a folder with the Service default/web, which is served."""
    spec = {"type": "LoadBalancer", "ports": [{"port": 80, "nodePort": 30080}]}
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": spec}
    nodes = [
        {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {"providerID": id_}}
        for name, id_ in lab.world.provider_ids.items()
    ]
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump_all([service, *nodes]))

    def run(verb: str, *arguments: str) -> Result:
        where = ["--provider", "aws", "-f", str(tmp_path), "--cluster-name", CLUSTER]
        return CliRunner().invoke(main, [verb, *where, *arguments])

    served = run("reconcile", "-o", "json")
    assert served.exit_code == 0, served.output

    def gc(*arguments: str, code: int = 0) -> list[dict[str, Any]]:
        done = run("gc", "-o", "json", *arguments)
        assert done.exit_code == code, done.output
        orphans: list[dict[str, Any]] = json.loads(done.stdout)["orphans"]
        return orphans

    return gc


def test_a_whole_load_balancer(lab: Lab, gc: Any) -> None:
    served = lab.world.inventory()
    lab.reconcile(lab.desired("gone", port(80, 31080), port(443, 31443)))
    (orphan,) = gc()
    assert (orphan["name"], orphan["uid"], orphan["fate"]) == ("gone", "uid-gone", "kept")
    kinds = [resource["kind"] for resource in orphan["resources"]]
    assert kinds == ["load balancer", "target group", "target group", "security group"]
    since = [resource.get("since", "") for resource in orphan["resources"]]
    assert since[0].endswith("Z")
    assert since[1:] == ["", "", ""]
    assert lab.world.inventory() != served
    (deleted,) = gc("--delete")
    assert deleted["fate"] == "deleted"
    assert lab.world.inventory() == served
    assert gc() == []


def test_what_a_crash_left_in_part(lab: Lab, gc: Any) -> None:
    """A lone security group, and a lone target group: nothing else tells that there was a Service."""
    served = lab.world.inventory()
    for name, steps in (("group", 1), ("targets", 4)):
        desired = lab.desired(name)
        plan = lab.provider.plan(desired, lab.provider.observe(desired.owner, desired))
        bindings = dict(plan.bindings)
        for step in plan.steps[:steps]:
            lab.provider.apply(step, bindings)
    for balancer in lab.world.load_balancers():
        if "targets" in balancer.name:
            lab.world.elbv2.delete_load_balancer(LoadBalancerArn=balancer.arn)
    found = {orphan["name"]: [r["kind"] for r in orphan["resources"]] for orphan in gc()}
    assert found == {"group": ["security group"], "targets": ["target group", "security group"]}
    assert {orphan["fate"] for orphan in gc("--delete")} == {"deleted"}
    assert lab.world.inventory() == served


def test_others_are_not_even_told(lab: Lab, gc: Any) -> None:
    """Another cluster's, and what bears a name of ours and no mark."""
    elsewhere = lab.start(cluster="another")
    desired = lab.desired("gone")
    theirs = desired.owner._replace(cluster="another")
    mine, lab.provider = lab.provider, elsewhere
    lab.reconcile(_of(desired, theirs))
    lab.provider = mine
    lab.world.ec2.create_security_group(GroupName="lbp-default-gone", Description="x", VpcId=lab.world.vpc_id)
    before = lab.world.inventory()
    assert gc("--delete", "--force") == []
    assert lab.world.inventory() == before


def _of(desired: Any, owner_: Any) -> Any:
    import dataclasses

    return dataclasses.replace(desired, owner=owner_)


def test_protected_against_deletion(lab: Lab, gc: Any) -> None:
    lab.reconcile(lab.desired("gone", port(80, 31080)))
    (arn,) = [b.arn for b in lab.world.load_balancers() if "gone" in b.name]
    on: Any = [{"Key": "deletion_protection.enabled", "Value": "true"}]
    lab.world.elbv2.modify_load_balancer_attributes(LoadBalancerArn=arn, Attributes=on)
    before = lab.world.inventory()
    (orphan,) = gc("--delete", code=1)
    assert orphan["fate"] == "failed"
    assert "deletion_protection.enabled" in orphan["message"]
    assert lab.world.inventory() == before


def test_a_former_service_of_the_same_name(lab: Lab, gc: Any) -> None:
    served = lab.world.inventory()
    lab.reconcile(_of(lab.desired("web", port(80, 31080)), owner("web", "uid-of-a-former-one")))
    (orphan,) = gc("--delete")
    assert orphan["why"].startswith("the Service of this name is a newer one")
    assert lab.world.inventory() == served
