"""Rules of load balancers and of describing things."""

from __future__ import annotations

import re

from moto.core.exceptions import ServiceException

from lbprov.lab.aws.call import Call, Refusal
from lbprov.lab.aws.rule import API, GUIDE, Replay, ec2, elbv2, network_only, rule


@rule("load balancer names", API.format("CreateLoadBalancer"), "CreateLoadBalancer")
def _load_balancer_name(call: Call) -> None:
    name = call.get("Name")
    if len(name) > 32:
        raise Refusal(
            "ValidationError", f"The load balancer name '{name}' cannot be longer than '32' characters"
        )
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?", name):
        raise Refusal(
            "ValidationError",
            f"The load balancer name '{name}' can only contain alphanumeric characters and hyphens(-), "
            "and cannot begin or end with a hyphen",
        )
    if name.startswith("internal-"):
        raise Refusal("ValidationError", f"The load balancer name '{name}' cannot begin with 'internal-'")


@rule(
    "the same load balancer again is the same load balancer",
    API.format("CreateLoadBalancer"),
    "CreateLoadBalancer",
)
@network_only
def _same_load_balancer(call: Call) -> Replay | None:
    existing = next((b for b in elbv2(call).load_balancers.values() if b.name == call.get("Name")), None)
    if existing is None:
        return None
    mappings = {m["SubnetId"]: m.get("AllocationId") for m in call.structs("SubnetMappings.member")}
    asked = (
        call.get("Type", "application"),
        call.get("Scheme", "internet-facing"),
        call.get("IpAddressType", "ipv4"),
        mappings or dict.fromkeys(call.items("Subnets.member")),
        sorted(call.items("SecurityGroups.member")),
    )
    had = (
        existing.type,
        existing.scheme,
        existing.ip_address_type,
        {s.id: existing.mappings.get(s.id, {}).get("AllocationId") for s in existing.subnets},
        sorted(existing.security_groups),
    )
    if asked != had:
        raise Refusal(
            "DuplicateLoadBalancerName",
            f"A load balancer with the same name '{existing.name}' exists, but with different settings",
        )
    return Replay("DescribeLoadBalancers", {"LoadBalancerArns.member.1": existing.arn})


@rule(
    "an Elastic IP belongs to an internet-facing load balancer",
    API.format("SubnetMapping"),
    "CreateLoadBalancer",
)
@network_only
def _allocation_scheme(call: Call) -> None:
    allocations = [m["AllocationId"] for m in call.structs("SubnetMappings.member") if "AllocationId" in m]
    if allocations and call.get("Scheme", "internet-facing") == "internal":
        raise Refusal(
            "InvalidConfigurationRequest",
            "Elastic IP addresses cannot be specified for internal load balancers",
        )
    if len(set(allocations)) < len(allocations):
        raise Refusal("InvalidConfigurationRequest", "The same allocation ID cannot be specified twice")


@rule("an Elastic IP must exist and be free", API.format("CreateLoadBalancer"), "CreateLoadBalancer")
@network_only
def _allocation_usable(call: Call) -> None:
    for mapping in call.structs("SubnetMappings.member"):
        allocation_id = mapping.get("AllocationId")
        if not allocation_id:
            continue
        address = next((a for a in ec2(call).addresses if a.allocation_id == allocation_id), None)
        if address is None:
            raise Refusal("AllocationIdNotFound", f"The allocation ID '{allocation_id}' does not exist")
        if address.association_id:
            raise Refusal("ResourceInUse", "The allocation IDs are not available for use")


@rule(
    "a private address belongs to an internal load balancer",
    API.format("SubnetMapping"),
    "CreateLoadBalancer",
)
@network_only
def _private_address(call: Call) -> None:
    for mapping in call.structs("SubnetMappings.member"):
        if "PrivateIPv4Address" in mapping and call.get("Scheme", "internet-facing") != "internal":
            raise Refusal(
                "InvalidConfigurationRequest",
                "Private IPv4 addresses cannot be specified for internet-facing load balancers",
            )


@rule("one subnet per zone", GUIDE.format("network-load-balancers"), "CreateLoadBalancer")
def _one_subnet_per_zone(call: Call) -> None:
    ids = [m["SubnetId"] for m in call.structs("SubnetMappings.member")] or call.items("Subnets.member")
    subnets = {s.id: s for zone in ec2(call).subnets.values() for s in zone.values()}
    for subnet_id in ids:
        if subnet_id not in subnets:
            raise Refusal("SubnetNotFound", f"The subnet ID '{subnet_id}' does not exist")
    zones = [subnets[subnet_id].availability_zone for subnet_id in ids]
    if len(set(zones)) < len(zones):
        raise Refusal(
            "InvalidConfigurationRequest",
            "A load balancer cannot be attached to multiple subnets in the same Availability Zone",
        )


@rule("security groups exist", API.format("CreateLoadBalancer"), "CreateLoadBalancer", "SetSecurityGroups")
def _security_groups_exist(call: Call) -> None:
    for group_id in call.items("SecurityGroups.member"):
        if ec2(call).get_security_group_from_id(group_id) is None:
            raise Refusal("InvalidSecurityGroup", f"The security group ID '{group_id}' is not valid")


@rule(
    "at most 20 at once",
    API.format("DescribeLoadBalancers"),
    "DescribeLoadBalancers",
    "DescribeTargetGroups",
    "DescribeListeners",
    "DescribeTags",
)
def _at_most_20(call: Call) -> None:
    for field in ("LoadBalancerArns", "TargetGroupArns", "ListenerArns", "Names", "ResourceArns"):
        if len(call.items(f"{field}.member")) > 20:
            raise Refusal("ValidationError", f"'{field}' cannot have more than 20 items")


@rule(
    "pages hold at most 400",
    API.format("DescribeTargetGroups"),
    "DescribeLoadBalancers",
    "DescribeTargetGroups",
    "DescribeListeners",
)
def _page_size(call: Call) -> None:
    if (size := call.get("PageSize")) and not 1 <= int(size) <= 400:
        raise Refusal("ValidationError", f"Page size '{size}' must be from 1 to 400")


@rule("all that is named exists", API.format("DescribeLoadBalancers"), "DescribeLoadBalancers")
def _load_balancers_exist(call: Call) -> None:
    balancers = elbv2(call).load_balancers
    names = {b.name for b in balancers.values()}
    missing = [a for a in call.items("LoadBalancerArns.member") if a not in balancers]
    missing += [n for n in call.items("Names.member") if n not in names]
    if missing:
        raise Refusal("LoadBalancerNotFound", "One or more load balancers not found")


@rule("all that is tagged exists", API.format("DescribeTags"), "DescribeTags")
def _tagged_exist(call: Call) -> None:
    for arn in call.items("ResourceArns.member"):
        try:
            elbv2(call)._get_resource_by_arn(arn)
        except ServiceException as error:
            raise Refusal(error.code, error.message) from error


@rule("deletion protection", API.format("DeleteLoadBalancer"), "DeleteLoadBalancer")
def _deletion_protection(call: Call) -> None:
    balancer = elbv2(call).load_balancers.get(call.get("LoadBalancerArn"))
    if balancer is not None and balancer.attrs.get("deletion_protection.enabled") == "true":
        raise Refusal(
            "OperationNotPermitted",
            f"Load balancer '{balancer.arn}' cannot be deleted because deletion protection is enabled",
        )


@rule(
    "no security groups where there were none at the making",
    GUIDE.format("load-balancer-security-groups"),
    "SetSecurityGroups",
)
def _security_groups_from_the_start(call: Call) -> None:
    balancer = elbv2(call).load_balancers.get(call.get("LoadBalancerArn"))
    if balancer is not None and balancer.type == "network" and not balancer.security_groups:
        raise Refusal(
            "InvalidConfigurationRequest",
            f"Security groups cannot be set on load balancer '{balancer.arn}', which was created without any",
        )
