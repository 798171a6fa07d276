"""Rules of quotas and of tags: how much of everything there may be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from lbprov.lab.aws import quotas
from lbprov.lab.aws.call import Call, Refusal
from lbprov.lab.aws.rule import API, EC2_API, GUIDE, ec2, elbv2, network_only, rule

LIMITS = GUIDE.format("load-balancer-limits")
VPC_LIMITS = "https://docs.aws.amazon.com/vpc/latest/userguide/amazon-vpc-limits.html"


@rule("load balancers per region", LIMITS, "CreateLoadBalancer")
@network_only
def _load_balancers(call: Call) -> None:
    there = sum(b.type == "network" for b in elbv2(call).load_balancers.values())
    if there >= quotas.now().load_balancers:
        raise Refusal("TooManyLoadBalancers", "The maximum number of load balancers has been reached")


@rule("target groups per region", LIMITS + "#target-group-quotas", "CreateTargetGroup")
def _target_groups(call: Call) -> None:
    if len(elbv2(call).target_groups) >= quotas.now().target_groups:
        raise Refusal("TooManyTargetGroups", "The maximum number of target groups has been reached")


@rule("listeners per load balancer", LIMITS + "#load-balancer-quotas", "CreateListener")
def _listeners(call: Call) -> None:
    balancer = elbv2(call).load_balancers.get(call.get("LoadBalancerArn"))
    if balancer is not None and len(balancer.listeners) >= quotas.now().listeners:
        raise Refusal("TooManyListeners", "The maximum number of listeners has been reached")


@rule("targets of a group", GUIDE.format("target-group-register-targets"), "RegisterTargets")
def _targets_of_group(call: Call) -> None:
    group = elbv2(call).target_groups.get(call.get("TargetGroupArn"))
    if group is None:
        return
    asked = [target["Id"] for target in call.structs("Targets.member")]
    if len(group.targets.keys() | set(asked)) > quotas.now().targets_per_group:
        raise Refusal("TooManyTargets", "The maximum number of targets in the target group has been reached")
    for balancer in elbv2(call).load_balancers.values():
        if group.arn in _groups_of(balancer):
            new = [target for target in asked if target not in group.targets]
            _check_targets(call, balancer, [*_targets_of(call, _groups_of(balancer)), *new])


@rule("targets of a load balancer", API.format("CreateListener"), "CreateListener", "ModifyListener")
def _targets_of_balancer(call: Call) -> None:
    arn = call.get("LoadBalancerArn") or call.get("ListenerArn").replace(":listener/", ":loadbalancer/")
    group = call.get("DefaultActions.member.1.TargetGroupArn")
    balancer = next((b for b in elbv2(call).load_balancers.values() if arn.startswith(b.arn)), None)
    if balancer is not None and group and group not in _groups_of(balancer):
        _check_targets(call, balancer, _targets_of(call, {*_groups_of(balancer), group}))


def _groups_of(balancer: Any) -> set[str]:
    actions = (a for listener in balancer.listeners.values() for a in listener.default_actions)
    return {str(action.data.get("TargetGroupArn")) for action in actions}


def _targets_of(call: Call, groups: Iterable[str]) -> list[str]:
    """A target counts once per target group."""
    known = elbv2(call).target_groups
    return [target for arn in groups if arn in known for target in known[arn].targets]


def _check_targets(call: Call, balancer: Any, targets: list[str]) -> None:
    if balancer.type != "network":
        return
    most = quotas.now()
    instances = (ec2(call).get_instance_by_id(target) for target in targets)
    zones = Counter(i.placement for i in instances if i is not None)
    cross_zone = balancer.attrs.get("load_balancing.cross_zone.enabled") == "true"
    if cross_zone and len(targets) > most.targets_cross_zone:
        raise Refusal("TooManyTargets", "The maximum number of targets has been reached (cross-zone)")
    if len(targets) > most.targets or max(zones.values(), default=0) > most.targets_per_zone:
        raise Refusal("TooManyTargets", "The maximum number of targets of the load balancer has been reached")


@rule("security groups per region", VPC_LIMITS + "#vpc-limits-security-groups", "CreateSecurityGroup")
def _security_groups(call: Call) -> None:
    if sum(map(len, ec2(call).groups.values())) >= quotas.now().security_groups:
        raise Refusal("SecurityGroupLimitExceeded", "The maximum number of security groups has been reached")


@rule(
    "tags of load balancers and what belongs to them",
    API.format("Tag"),
    "CreateLoadBalancer",
    "CreateTargetGroup",
    "CreateListener",
    "AddTags",
)
def _tags(call: Call) -> None:
    tags = call.structs("Tags.member")
    keys = [tag.get("Key", "") for tag in tags]
    if len(set(keys)) < len(keys):
        raise Refusal("DuplicateTagKeys", "A tag key was specified more than once")
    for tag in tags:
        key, value = tag.get("Key", ""), tag.get("Value", "")
        if not 1 <= len(key) <= 128 or len(value) > 256 or key.lower().startswith("aws:"):
            raise Refusal("ValidationError", f"The tag '{key}' is not valid")
    for arn in call.items("ResourceArns.member") or [""]:
        had = elbv2(call).tagging_service.get_tag_dict_for_resource(arn) if arn else {}
        if len(had.keys() | set(keys)) > quotas.now().tags:
            raise Refusal("TooManyTags", "The maximum number of tags has been reached")


@rule("tags of security groups", EC2_API.format("CreateTags"), "CreateTags", "CreateSecurityGroup")
def _ec2_tags(call: Call) -> None:
    tags = call.structs("Tag") or call.structs("TagSpecification.1.Tag")
    for tag in tags:
        key, value = tag.get("Key", ""), tag.get("Value", "")
        if not 1 <= len(key) <= 127 or len(value) > 255 or key.startswith("aws:"):
            raise Refusal(
                "InvalidParameterValue", f"Tag '{key}' is not valid: aws: is reserved, keys end at 127"
            )
    for resource in call.items("ResourceId") or [""]:
        had = ec2(call).tags.get(resource, {}) if resource else {}
        if len({*had, *(tag.get("Key") for tag in tags)}) > quotas.now().tags:
            raise Refusal("TagLimitExceeded", "You have reached the maximum number of tags of a resource")
