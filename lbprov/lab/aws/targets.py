"""What AWS remembers of targets and moto forgets: they drain when they leave, and are tried before they serve.

| state | when | source |
|---|---|---|
| `unused` | its target group is on no listener | TargetHealth of the ELBv2 API (Target.NotInUse) |
| `initial` | registered less than `settle_s` ago (0 unless told otherwise) | Elb.RegistrationInProgress |
| `draining` | deregistered less than the group's deregistration delay ago (300 s) | Target.DeregistrationInProgress; "Deregistration delay" in the ELB user guide |
"""  # noqa: E501 - a table

from __future__ import annotations

import time
from typing import Any

from moto.elbv2 import models as elbv2

from lbprov.lab.aws import defaults

_settle_s = 0.0


class StrictTargetGroup(elbv2.FakeTargetGroup):
    """moto's target group with a memory of when its targets came and went."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        if self.protocol in ("TCP", "TLS", *defaults.DATAGRAMS):
            attributes: Any = defaults.of_group(self.protocol)
            self.attributes = attributes
        self.came_s: dict[str, float] = {}
        self.left: dict[str, tuple[dict[str, Any], float]] = {}

    def register(self, targets: list[dict[str, Any]]) -> None:
        super().register(targets)
        now_s = time.monotonic()
        for target in targets:
            self.came_s.setdefault(target["Id"], now_s)
            self.left.pop(target["Id"], None)

    def deregister(self, targets: list[dict[str, Any]]) -> None:
        had = {target["Id"]: self.targets.get(target["Id"]) for target in targets}
        super().deregister(targets)
        now_s = time.monotonic()
        for identity, target in had.items():
            self.came_s.pop(identity, None)
            if target is not None:
                self.left[identity] = (target, now_s)

    def draining(self) -> list[dict[str, Any]]:
        delay_s = float(str(self.attributes["deregistration_delay.timeout_seconds"]))
        now_s = time.monotonic()
        self.left = {k: v for k, v in self.left.items() if now_s - v[1] < delay_s}
        return [target for target, _ in self.left.values()]


_moto_describe = elbv2.ELBv2Backend.describe_target_health


def _describe(backend: Any, target_group_arn: str, targets: list[dict[str, Any]]) -> list[Any]:
    found = _moto_describe(backend, target_group_arn, targets)
    group = backend.target_groups[target_group_arn]
    if not isinstance(group, StrictTargetGroup):
        return found
    used = backend._any_listener_using(target_group_arn)
    asked = {target["Id"] for target in targets}
    gone = {t["Id"]: t for t in group.draining() if not asked or t["Id"] in asked}
    kept = [status for status in found if status.instance_id not in gone]
    for status in kept:
        if status.status == "healthy":
            _judge(group, status, used=used)
    return kept + [_status(group, t, "draining", "Target.DeregistrationInProgress") for t in gone.values()]


def _judge(group: StrictTargetGroup, status: Any, *, used: bool) -> None:
    if not used:
        status.status, status.reason = "unused", "Target.NotInUse"
        status.description = "Target group is not configured to receive traffic from the load balancer"
    elif time.monotonic() - group.came_s.get(status.instance_id, 0.0) < _settle_s:
        status.status, status.reason = "initial", "Elb.RegistrationInProgress"
        status.description = "Target registration is in progress"


def _status(group: StrictTargetGroup, target: dict[str, Any], state: str, reason: str) -> Any:
    text = "Target deregistration is in progress"
    return elbv2.FakeHealthStatus(target["Id"], target["Port"], group.health_check_port, state, reason, text)


def _add_tags(backend: Any, resource_arns: list[str], tags: list[dict[str, str]]) -> None:
    """Without moto's limit of 10 tags: AWS's is a rule."""
    for arn in resource_arns:
        backend._get_resource_by_arn(arn)
        backend.tagging_service.tag_resource(arn, tags)


def install() -> None:
    module: Any = elbv2
    module.FakeTargetGroup = StrictTargetGroup
    module.ELBv2Backend.describe_target_health = _describe
    module.ELBv2Backend.add_tags = _add_tags


def settle(seconds: float) -> None:
    """Targets registered from now on, and those of the last so many seconds, are `initial` for so long."""
    global _settle_s  # noqa: PLW0603 - one server, one world
    _settle_s = seconds


def reset() -> None:
    settle(0.0)
