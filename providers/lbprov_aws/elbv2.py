"""Elastic Load Balancing, call by call: load balancers, target groups, listeners, targets, tags."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from lbprov_aws import decode
from lbprov_aws.cloud import ELBV2, TAGGING, Cloud
from lbprov_aws.names import CLUSTER, UID
from lbprov_aws.refusals import GONE, Refused
from lbprov_aws.resources import (
    HealthCheck,
    ListenerRecord,
    LoadBalancerRecord,
    SubnetMapping,
    Tags,
    TargetGroupRecord,
)

PER_CALL = 20
"""ARNs or names that one describing call takes (API_DescribeLoadBalancers, API_DescribeTags)."""

_CROSS_ZONE = "load_balancing.cross_zone.enabled"
_STICKY, _STICKY_TYPE = "stickiness.enabled", "stickiness.type"

T = TypeVar("T")


def all_load_balancers(cloud: Cloud) -> list[LoadBalancerRecord]:
    """The region's Network Load Balancers, whoever's; without tags."""
    answers = cloud.pages(ELBV2, "DescribeLoadBalancers", "LoadBalancers")
    return [decode.load_balancer(answer) for answer in answers if answer.get("Type") == "network"]


def all_target_groups(cloud: Cloud) -> list[TargetGroupRecord]:
    """The region's, whoever's; without tags."""
    return [
        decode.target_group(answer) for answer in cloud.pages(ELBV2, "DescribeTargetGroups", "TargetGroups")
    ]


def load_balancers(cloud: Cloud, arns: Iterable[str]) -> list[LoadBalancerRecord]:
    """Those of them that exist; without tags."""

    def ask(batch: Sequence[str]) -> list[LoadBalancerRecord]:
        answer = cloud.call(ELBV2, "DescribeLoadBalancers", LoadBalancerArns=list(batch))
        return [decode.load_balancer(a) for a in answer["LoadBalancers"]]

    return _tolerant(ask, sorted(arns))


def target_groups(cloud: Cloud, arns: Iterable[str]) -> list[TargetGroupRecord]:
    """Those of them that exist; without tags."""

    def ask(batch: Sequence[str]) -> list[TargetGroupRecord]:
        answer = cloud.call(ELBV2, "DescribeTargetGroups", TargetGroupArns=list(batch))
        return [decode.target_group(a) for a in answer["TargetGroups"]]

    return _tolerant(ask, sorted(arns))


def load_balancer_named(cloud: Cloud, name: str) -> LoadBalancerRecord | None:
    try:
        answer = cloud.call(ELBV2, "DescribeLoadBalancers", Names=[name])["LoadBalancers"]
    except Refused as refusal:
        if refusal.code not in GONE:
            raise
        return None
    return decode.load_balancer(answer[0]) if answer else None


def target_group_named(cloud: Cloud, name: str) -> TargetGroupRecord | None:
    try:
        answer = cloud.call(ELBV2, "DescribeTargetGroups", Names=[name])["TargetGroups"]
    except Refused as refusal:
        if refusal.code not in GONE:
            raise
        return None
    return decode.target_group(answer[0]) if answer else None


def tags(cloud: Cloud, arns: Iterable[str]) -> dict[str, Tags]:
    """The tags of those of them that exist."""

    def ask(batch: Sequence[str]) -> list[tuple[str, Tags]]:
        answer = cloud.call(ELBV2, "DescribeTags", ResourceArns=list(batch))
        return [(d["ResourceArn"], decode.tags(d["Tags"])) for d in answer["TagDescriptions"]]

    return dict(_tolerant(ask, sorted(arns)))


def tagged(cloud: Cloud, cluster: str, uid: str = "") -> dict[str, Tags]:
    """ARN -> tags of a cluster's (or one Service's) load balancers and target groups, as the tagging API
    knows them: it may be some time behind, both for what is new and for what is gone."""
    filters = [{"Key": CLUSTER, "Values": [cluster]}]
    if uid:
        filters.append({"Key": UID, "Values": [uid]})
    found = cloud.pages(
        TAGGING,
        "GetResources",
        "ResourceTagMappingList",
        TagFilters=filters,
        ResourceTypeFilters=["elasticloadbalancing:loadbalancer", "elasticloadbalancing:targetgroup"],
    )
    return {mapping["ResourceARN"]: decode.tags(mapping["Tags"]) for mapping in found}


def listeners(cloud: Cloud, balancer_arn: str) -> tuple[ListenerRecord, ...]:
    answers = cloud.pages(ELBV2, "DescribeListeners", "Listeners", LoadBalancerArn=balancer_arn)
    return tuple(sorted((decode.listener(a) for a in answers), key=lambda x: x.port))


def targets(cloud: Cloud, group_arn: str) -> frozenset[str]:
    answer = cloud.call(ELBV2, "DescribeTargetHealth", TargetGroupArn=group_arn)
    return decode.targets(answer["TargetHealthDescriptions"])


def has_healthy(cloud: Cloud, group_arn: str) -> bool:
    answer = cloud.call(ELBV2, "DescribeTargetHealth", TargetGroupArn=group_arn)
    return any(t["TargetHealth"]["State"] == "healthy" for t in answer["TargetHealthDescriptions"])


def is_protected(cloud: Cloud, balancer_arn: str) -> bool:
    """Against deletion."""
    answer = cloud.call(ELBV2, "DescribeLoadBalancerAttributes", LoadBalancerArn=balancer_arn)
    return _attribute(answer, "deletion_protection.enabled") == "true"


def cross_zone(cloud: Cloud, balancer_arn: str) -> bool:
    answer = cloud.call(ELBV2, "DescribeLoadBalancerAttributes", LoadBalancerArn=balancer_arn)
    return _attribute(answer, _CROSS_ZONE) == "true"


def sticky(cloud: Cloud, group_arn: str) -> bool:
    answer = cloud.call(ELBV2, "DescribeTargetGroupAttributes", TargetGroupArn=group_arn)
    return _attribute(answer, _STICKY) == "true"


def create_load_balancer(
    cloud: Cloud,
    *,
    name: str,
    internal: bool,
    ip_address_type: str,
    mappings: Iterable[SubnetMapping],
    security_groups: Iterable[str],
    tags: Tags,
) -> LoadBalancerRecord:
    answer = cloud.call(
        ELBV2,
        "CreateLoadBalancer",
        Name=name,
        Type="network",
        Scheme="internal" if internal else "internet-facing",
        IpAddressType=ip_address_type,
        SubnetMappings=[_mapping(m) for m in mappings],
        SecurityGroups=list(security_groups),
        Tags=_pairs(tags),
    )
    return dataclasses.replace(decode.load_balancer(answer["LoadBalancers"][0], tags), listeners=())


def _mapping(mapping: SubnetMapping) -> dict[str, str]:
    fields = {
        "SubnetId": mapping.subnet_id,
        "AllocationId": mapping.allocation_id,
        "PrivateIPv4Address": mapping.private_ip,
        "IPv6Address": mapping.ipv6,
    }
    return {field: value for field, value in fields.items() if value}


def set_security_groups(cloud: Cloud, balancer_arn: str, group_ids: Iterable[str]) -> None:
    cloud.call(ELBV2, "SetSecurityGroups", LoadBalancerArn=balancer_arn, SecurityGroups=list(group_ids))


def create_target_group(
    cloud: Cloud, *, name: str, vpc_id: str, protocol: str, port: int, check: HealthCheck, tags: Tags
) -> TargetGroupRecord:
    answer = cloud.call(
        ELBV2,
        "CreateTargetGroup",
        Name=name,
        Protocol=protocol,
        Port=port,
        VpcId=vpc_id,
        TargetType="instance",
        Tags=_pairs(tags),
        **_check(check),
    )
    group = decode.target_group(answer["TargetGroups"][0], tags)
    return dataclasses.replace(group, targets=frozenset(), sticky=False)


def set_health_check(cloud: Cloud, group_arn: str, check: HealthCheck) -> None:
    arguments = _check(check)
    del arguments["HealthCheckEnabled"]
    cloud.call(ELBV2, "ModifyTargetGroup", TargetGroupArn=group_arn, **arguments)


def _check(check: HealthCheck) -> dict[str, Any]:
    """All fields, always: AWS's defaults depend on protocol and type."""
    http = {"HealthCheckPath": check.path, "Matcher": {"HttpCode": "200-399"}} if check.path else {}
    return {
        "HealthCheckEnabled": True,
        "HealthCheckProtocol": check.protocol,
        "HealthCheckPort": check.port,
        "HealthCheckIntervalSeconds": check.interval_s,
        "HealthCheckTimeoutSeconds": check.timeout_s,
        "HealthyThresholdCount": check.healthy,
        "UnhealthyThresholdCount": check.unhealthy,
        **http,
    }


def set_cross_zone(cloud: Cloud, balancer_arn: str) -> None:
    attributes = [{"Key": _CROSS_ZONE, "Value": "true"}]
    cloud.call(ELBV2, "ModifyLoadBalancerAttributes", LoadBalancerArn=balancer_arn, Attributes=attributes)


def set_sticky(cloud: Cloud, group_arn: str, *, on: bool) -> None:
    attributes = [{"Key": _STICKY, "Value": "true" if on else "false"}]
    if on:
        attributes.append({"Key": _STICKY_TYPE, "Value": "source_ip"})
    cloud.call(ELBV2, "ModifyTargetGroupAttributes", TargetGroupArn=group_arn, Attributes=attributes)


def create_listener(
    cloud: Cloud, *, balancer_arn: str, group_arn: str, port: int, protocol: str, tags: Tags
) -> ListenerRecord:
    answer = cloud.call(
        ELBV2,
        "CreateListener",
        LoadBalancerArn=balancer_arn,
        Port=port,
        Protocol=protocol,
        DefaultActions=_forward(group_arn),
        Tags=_pairs(tags),
    )
    return dataclasses.replace(decode.listener(answer["Listeners"][0]), ours=True)


def change_listener(
    cloud: Cloud, arn: str, *, port: int = 0, protocol: str = "", group_arn: str = ""
) -> ListenerRecord:
    """What is empty stays as it is."""
    changes: dict[str, Any] = {}
    if port:
        changes["Port"] = port
    if protocol:
        changes["Protocol"] = protocol
    if group_arn:
        changes["DefaultActions"] = _forward(group_arn)
    answer = cloud.call(ELBV2, "ModifyListener", ListenerArn=arn, **changes)
    return dataclasses.replace(decode.listener(answer["Listeners"][0]), ours=True)


def _forward(group_arn: str) -> list[dict[str, str]]:
    return [{"Type": "forward", "TargetGroupArn": group_arn}]


def change_targets(cloud: Cloud, operation: str, group_arn: str, instances: Iterable[str]) -> None:
    """`operation`: RegisterTargets or DeregisterTargets."""
    cloud.call(ELBV2, operation, TargetGroupArn=group_arn, Targets=[{"Id": i} for i in instances])


def set_tags(cloud: Cloud, arn: str, set_: Tags) -> None:
    cloud.call(ELBV2, "AddTags", ResourceArns=[arn], Tags=_pairs(set_))


def remove_tags(cloud: Cloud, arn: str, keys: Iterable[str]) -> None:
    cloud.call(ELBV2, "RemoveTags", ResourceArns=[arn], TagKeys=list(keys))


def delete(cloud: Cloud, operation: str, **arguments: str) -> None:
    """`operation`: DeleteLoadBalancer, DeleteTargetGroup or DeleteListener. Gone already is fine."""
    with ignoring_gone():
        cloud.call(ELBV2, operation, **arguments)


class ignoring_gone:  # noqa: N801 - reads as a statement
    """What should go is gone already."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        return isinstance(error, Refused) and error.code in GONE


def _attribute(answer: Mapping[str, Any], key: str) -> str:
    """An attribute that is not listed has its default; for all that we use that is false."""
    return next((str(a["Value"]) for a in answer["Attributes"] if a["Key"] == key), "false")


def _pairs(tags_: Tags) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in tags_]


def _tolerant(ask: Callable[[Sequence[str]], list[T]], arns: Sequence[str]) -> list[T]:
    """Ask in batches. One ARN that is gone makes AWS refuse its whole batch: then by halves."""
    return [found for batch in _batches(arns) for found in _halving(ask, batch)]


def _halving(ask: Callable[[Sequence[str]], list[T]], batch: Sequence[str]) -> list[T]:
    try:
        return ask(batch)
    except Refused as refusal:
        if refusal.code not in GONE:
            raise
    if len(batch) == 1:
        return []
    middle = len(batch) // 2
    return [*_halving(ask, batch[:middle]), *_halving(ask, batch[middle:])]


def _batches(arns: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(arns), PER_CALL):
        yield arns[start : start + PER_CALL]
