"""Elastic Load Balancing, call by call: load balancers, target groups, listeners, targets, tags."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from lbprov_aws import decode
from lbprov_aws.cloud import ELBV2, TAGGING, Cloud
from lbprov_aws.names import CLUSTER, UID, cluster_tag
from lbprov_aws.peers import CPA_SERVICE, LBC_CLUSTER, LBC_STACK
from lbprov_aws.refusals import GONE, Refused
from lbprov_aws.resources import (
    HealthCheck,
    ListenerRecord,
    LoadBalancerRecord,
    SubnetMapping,
    Tags,
    TargetGroupRecord,
    Tls,
)

PER_CALL = 20
"""ARNs or names that one describing call takes (API_DescribeLoadBalancers, API_DescribeTags)."""

TARGETS_PER_CALL = 200
"""As the AWS Load Balancer Controller does: AWS says no number and takes no whole cluster at once."""

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


def tagged_by_others(cloud: Cloud, cluster: str) -> dict[str, Tags]:
    """ARN -> tags of load balancers that other controllers have made for Services of the cluster (see
    `peers`), as the tagging API knows them."""
    found: dict[str, Tags] = {}
    for filters in (
        [{"Key": CPA_SERVICE}, {"Key": cluster_tag(cluster)}],
        [{"Key": LBC_STACK}, {"Key": LBC_CLUSTER, "Values": [cluster]}],
    ):
        mappings = cloud.pages(
            TAGGING,
            "GetResources",
            "ResourceTagMappingList",
            TagFilters=filters,
            ResourceTypeFilters=["elasticloadbalancing:loadbalancer"],
        )
        found |= {m["ResourceARN"]: decode.tags(m["Tags"]) for m in mappings}
    return found


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
    return dict(balancer_attributes(cloud, balancer_arn)).get("deletion_protection.enabled") == "true"


def more_certificates(cloud: Cloud, listener_arn: str) -> frozenset[str]:
    """Those for SNI of a TLS listener."""
    answers = cloud.pages(ELBV2, "DescribeListenerCertificates", "Certificates", ListenerArn=listener_arn)
    return decode.more_certificates(answers)


def balancer_attributes(cloud: Cloud, balancer_arn: str) -> Tags:
    answer = cloud.call(ELBV2, "DescribeLoadBalancerAttributes", LoadBalancerArn=balancer_arn)
    return decode.tags(answer["Attributes"])


def listener_attributes(cloud: Cloud, listener_arn: str) -> Tags:
    answer = cloud.call(ELBV2, "DescribeListenerAttributes", ListenerArn=listener_arn)
    return decode.tags(answer["Attributes"])


def group_attributes(cloud: Cloud, group_arn: str) -> Tags:
    answer = cloud.call(ELBV2, "DescribeTargetGroupAttributes", TargetGroupArn=group_arn)
    return decode.tags(answer["Attributes"])


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


def set_security_groups(
    cloud: Cloud, balancer_arn: str, group_ids: Iterable[str], *, private_link: bool
) -> None:
    """`private_link`: whether they apply to traffic by PrivateLink."""
    cloud.call(
        ELBV2,
        "SetSecurityGroups",
        LoadBalancerArn=balancer_arn,
        SecurityGroups=list(group_ids),
        EnforceSecurityGroupInboundRulesOnPrivateLinkTraffic="on" if private_link else "off",
    )


def set_ip_address_type(cloud: Cloud, balancer_arn: str, type_: str) -> None:
    cloud.call(ELBV2, "SetIpAddressType", LoadBalancerArn=balancer_arn, IpAddressType=type_)


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
    return dataclasses.replace(group, targets=frozenset())


def set_health_check(cloud: Cloud, group_arn: str, check: HealthCheck) -> None:
    arguments = _check(check)
    del arguments["HealthCheckEnabled"]
    cloud.call(ELBV2, "ModifyTargetGroup", TargetGroupArn=group_arn, **arguments)


def _check(check: HealthCheck) -> dict[str, Any]:
    """All fields, always: AWS's defaults depend on protocol and type."""
    http = {"HealthCheckPath": check.path, "Matcher": {"HttpCode": check.codes}} if check.path else {}
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


def set_balancer_attributes(cloud: Cloud, balancer_arn: str, values: Tags) -> None:
    attributes = _pairs(values)
    cloud.call(ELBV2, "ModifyLoadBalancerAttributes", LoadBalancerArn=balancer_arn, Attributes=attributes)


def set_listener_attributes(cloud: Cloud, listener_arn: str, values: Tags) -> None:
    cloud.call(ELBV2, "ModifyListenerAttributes", ListenerArn=listener_arn, Attributes=_pairs(values))


def set_group_attributes(cloud: Cloud, group_arn: str, values: Tags) -> None:
    attributes = _pairs(values)
    cloud.call(ELBV2, "ModifyTargetGroupAttributes", TargetGroupArn=group_arn, Attributes=attributes)


def create_listener(
    cloud: Cloud, *, balancer_arn: str, group_arn: str, port: int, protocol: str, tls: Tls | None, tags: Tags
) -> ListenerRecord:
    """With the default certificate alone."""
    answer = cloud.call(
        ELBV2,
        "CreateListener",
        LoadBalancerArn=balancer_arn,
        Port=port,
        Protocol=protocol,
        DefaultActions=_forward(group_arn),
        Tags=_pairs(tags),
        **_tls(tls, new=True),
    )
    made = decode.listener(answer["Listeners"][0])
    sni = frozenset[str]() if tls else None
    return dataclasses.replace(made, ours=True, more_certificates=sni, attributes=())


def change_listener(
    cloud: Cloud, arn: str, *, port: int = 0, protocol: str = "", group_arn: str = "", tls: Tls | None = None
) -> ListenerRecord:
    """What is empty stays as it is. The answer knows nothing of certificates for SNI."""
    changes: dict[str, Any] = _tls(tls, new=False)
    if port:
        changes["Port"] = port
    if protocol:
        changes["Protocol"] = protocol
    if group_arn:
        changes["DefaultActions"] = _forward(group_arn)
    answer = cloud.call(ELBV2, "ModifyListener", ListenerArn=arn, **changes)
    return dataclasses.replace(decode.listener(answer["Listeners"][0]), ours=True)


def _tls(tls: Tls | None, *, new: bool) -> dict[str, Any]:
    if tls is None:
        return {}
    alpn = {"AlpnPolicy": [tls.alpn or "None"]} if tls.alpn or not new else {}
    return {"Certificates": [{"CertificateArn": tls.certificate}], "SslPolicy": tls.policy, **alpn}


def change_certificates(cloud: Cloud, operation: str, arn: str, certificates: Iterable[str]) -> None:
    """`operation`: AddListenerCertificates or RemoveListenerCertificates."""
    cloud.call(ELBV2, operation, ListenerArn=arn, Certificates=[{"CertificateArn": c} for c in certificates])


def _forward(group_arn: str) -> list[dict[str, str]]:
    return [{"Type": "forward", "TargetGroupArn": group_arn}]


def change_targets(cloud: Cloud, operation: str, group_arn: str, instances: Iterable[str]) -> None:
    """`operation`: RegisterTargets or DeregisterTargets. Some of them may be done when this raises."""
    for batch in _batches(tuple(instances), TARGETS_PER_CALL):
        cloud.call(ELBV2, operation, TargetGroupArn=group_arn, Targets=[{"Id": i} for i in batch])


def is_idle(cloud: Cloud) -> bool:
    """Whether a write that can wait would be in nobody's way."""
    return cloud.is_idle(ELBV2, "AddTags")


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


def _batches(whole: Sequence[str], size: int = PER_CALL) -> Iterator[Sequence[str]]:
    for start in range(0, len(whole), size):
        yield whole[start : start + size]
