"""Rules of load balancers' attributes, address types and security groups, and of health checks' values."""

from __future__ import annotations

import re
from typing import Any

from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends

from lbprov.lab.aws.call import Call, Refusal
from lbprov.lab.aws.rule import API, GUIDE, ec2, elbv2, rule
from lbprov.lab.aws.rules_tls import check_families

_BOOL = r"true|false"
_BALANCER_VALUES = {
    "access_logs.s3.enabled": _BOOL,
    "access_logs.s3.bucket": r".*",
    "access_logs.s3.prefix": r".*",
    "deletion_protection.enabled": _BOOL,
    "dns_record.client_routing_policy": r"(any|partial)?_?availability_zone(_affinity)?",
    "ipv6.deny_all_igw_traffic": _BOOL,
    "load_balancing.cross_zone.enabled": _BOOL,
    "secondary_ips.auto_assigned.per_subnet": r"[0-7]",
    "zonal_shift.config.enabled": _BOOL,
}


@rule(
    "attributes of Network Load Balancers",
    API.format("LoadBalancerAttribute"),
    "ModifyLoadBalancerAttributes",
)
def _balancer_attributes(call: Call) -> None:
    balancer = elbv2(call).load_balancers.get(call.get("LoadBalancerArn"))
    if balancer is None or balancer.type != "network":
        return
    asked = {a["Key"]: a.get("Value", "") for a in call.structs("Attributes.member")}
    for key, value in asked.items():
        if key not in _BALANCER_VALUES:
            raise Refusal(
                "InvalidConfigurationRequest",
                f"Load balancer attribute key '{key}' is not supported on load balancers with type 'network'",
            )
        if not re.fullmatch(_BALANCER_VALUES[key], value):
            raise Refusal("ValidationError", f"'{key}' cannot be '{value}'")
    after = {**balancer.attrs, **asked}
    bucket = after.get("access_logs.s3.bucket", "")
    if after.get("access_logs.s3.enabled") == "true" and not _bucket_exists(bucket):
        raise Refusal(
            "InvalidConfigurationRequest",
            f"Access Denied for bucket: {bucket}. Please check S3bucket permission",
        )


def _bucket_exists(name: str) -> bool:
    return any(name in backend.buckets for backend in s3_backends[DEFAULT_ACCOUNT_ID].values())


@rule(
    "dual stack needs IPv6 in every subnet", GUIDE.format("load-balancer-ip-address-type"), "SetIpAddressType"
)
def _ip_address_type(call: Call) -> None:
    balancer = elbv2(call).load_balancers.get(call.get("LoadBalancerArn"))
    if balancer is None or call.get("IpAddressType") != "dualstack":
        return
    check_dual_stack(balancer.subnets)
    for listener in balancer.listeners.values():
        check_families("dualstack", listener.protocol)


@rule(
    "a dual-stack load balancer has IPv6 in every subnet",
    API.format("CreateLoadBalancer"),
    "CreateLoadBalancer",
)
def _new_dual_stack(call: Call) -> None:
    if call.get("IpAddressType") != "dualstack":
        return
    ids = [m["SubnetId"] for m in call.structs("SubnetMappings.member")] or call.items("Subnets.member")
    subnets = {s.id: s for zone in ec2(call).subnets.values() for s in zone.values()}
    check_dual_stack([subnets[subnet_id] for subnet_id in ids if subnet_id in subnets])


def check_dual_stack(subnets: list[Any]) -> None:
    for subnet in subnets:
        if not subnet.ipv6_cidr_block_associations:
            raise Refusal("InvalidSubnet", f"Subnet '{subnet.id}' has no IPv6 CIDR block")


@rule(
    "security groups of a Network Load Balancer",
    API.format("SetSecurityGroups"),
    "SetSecurityGroups",
)
def _set_security_groups(call: Call) -> None:
    """What moto forgets is kept on its own object, which it answers from."""
    balancer = elbv2(call).load_balancers.get(call.get("LoadBalancerArn"))
    if balancer is None or balancer.type != "network":
        return
    groups = call.items("SecurityGroups.member")
    if not balancer.security_groups and groups:
        raise Refusal(
            "InvalidConfigurationRequest",
            "You cannot set security groups on a Network Load Balancer that was created without any",
        )
    if not groups:
        raise Refusal("InvalidConfigurationRequest", "At least one security group must be specified")
    if enforced := call.get("EnforceSecurityGroupInboundRulesOnPrivateLinkTraffic"):
        if enforced not in ("on", "off"):
            raise Refusal("ValidationError", f"'{enforced}' must be on or off")
        balancer.enforce_security_group_inbound_rules_on_private_link_traffic = enforced
    found = [ec2(call).get_security_group_from_id(group_id) for group_id in groups]
    if None not in found:
        for interface in balancer.interfaces:
            interface._group_set = found


_LIMITS = {
    "HealthCheckIntervalSeconds": (5, 300),
    "HealthCheckTimeoutSeconds": (2, 120),
    "HealthyThresholdCount": (2, 10),
    "UnhealthyThresholdCount": (2, 10),
}


@rule("values of health checks", API.format("ModifyTargetGroup"), "CreateTargetGroup", "ModifyTargetGroup")
def _health_check_values(call: Call) -> None:
    for field, (low, high) in _LIMITS.items():
        if (text := call.get(field)) and not low <= int(text) <= high:
            raise Refusal("ValidationError", f"{field} must be from {low} to {high}")
    codes = call.get("Matcher.HttpCode")
    if codes and not re.fullmatch(r"[2-5]\d\d(-[2-5]\d\d)?(,[2-5]\d\d(-[2-5]\d\d)?)*", codes):
        raise Refusal("ValidationError", f"HTTP codes '{codes}' are not supported")
    interval, timeout = call.get("HealthCheckIntervalSeconds"), call.get("HealthCheckTimeoutSeconds")
    if interval and timeout and int(timeout) > int(interval):
        raise Refusal(
            "ValidationError",
            f"Health check timeout '{timeout}' must be smaller than or equal to the interval '{interval}'",
        )
    group = elbv2(call).target_groups.get(call.get("TargetGroupArn"))
    if group is not None and codes:
        # moto keeps the codes of Application Load Balancers' groups only.
        group.matcher = {"HttpCode": codes}
