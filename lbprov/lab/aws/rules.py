"""What AWS refuses and moto does not: a table of small rules, each with its source.

A rule raises `Refusal`, or gives a `Replay` for a call that AWS answers without doing anything (idempotent
creates), or None: none of its business.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from moto.core.exceptions import ServiceException
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.ec2.models import ec2_backends
from moto.elbv2.models import FakeAction, elbv2_backends

from lbprov.lab.aws.call import Call, Refusal

_API = "https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/API_{}.html"
_EC2_API = "https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_{}.html"
_GUIDE = "https://docs.aws.amazon.com/elasticloadbalancing/latest/network/{}.html"


@dataclass(frozen=True, slots=True)
class Replay:
    """Answer with what `operation` says of `params`, under the name of the call that was made."""

    operation: str
    params: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Rule:
    name: str
    operations: tuple[str, ...]
    source: str
    check: Callable[[Call], Replay | None]


def _elbv2(call: Call) -> Any:
    return elbv2_backends[DEFAULT_ACCOUNT_ID][call.region]


def _ec2(call: Call) -> Any:
    return ec2_backends[DEFAULT_ACCOUNT_ID][call.region]


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


def _same_load_balancer(call: Call) -> Replay | None:
    existing = next((b for b in _elbv2(call).load_balancers.values() if b.name == call.get("Name")), None)
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


def _allocation_scheme(call: Call) -> None:
    allocations = [m["AllocationId"] for m in call.structs("SubnetMappings.member") if "AllocationId" in m]
    if allocations and call.get("Scheme", "internet-facing") == "internal":
        raise Refusal(
            "InvalidConfigurationRequest",
            "Elastic IP addresses cannot be specified for internal load balancers",
        )
    if len(set(allocations)) < len(allocations):
        raise Refusal("InvalidConfigurationRequest", "The same allocation ID cannot be specified twice")


def _allocation_usable(call: Call) -> None:
    for mapping in call.structs("SubnetMappings.member"):
        allocation_id = mapping.get("AllocationId")
        if not allocation_id:
            continue
        address = next((a for a in _ec2(call).addresses if a.allocation_id == allocation_id), None)
        if address is None:
            raise Refusal("AllocationIdNotFound", f"The allocation ID '{allocation_id}' does not exist")
        if address.association_id:
            raise Refusal("ResourceInUse", "The allocation IDs are not available for use")


def _private_address(call: Call) -> None:
    for mapping in call.structs("SubnetMappings.member"):
        if "PrivateIPv4Address" in mapping and call.get("Scheme", "internet-facing") != "internal":
            raise Refusal(
                "InvalidConfigurationRequest",
                "Private IPv4 addresses cannot be specified for internet-facing load balancers",
            )


def _one_subnet_per_zone(call: Call) -> None:
    ids = [m["SubnetId"] for m in call.structs("SubnetMappings.member")] or call.items("Subnets.member")
    subnets = {s.id: s for zone in _ec2(call).subnets.values() for s in zone.values()}
    for subnet_id in ids:
        if subnet_id not in subnets:
            raise Refusal("SubnetNotFound", f"The subnet ID '{subnet_id}' does not exist")
    zones = [subnets[subnet_id].availability_zone for subnet_id in ids]
    if len(set(zones)) < len(zones):
        raise Refusal(
            "InvalidConfigurationRequest",
            "A load balancer cannot be attached to multiple subnets in the same Availability Zone",
        )


def _security_groups_exist(call: Call) -> None:
    for group_id in call.items("SecurityGroups.member"):
        if _ec2(call).get_security_group_from_id(group_id) is None:
            raise Refusal("InvalidSecurityGroup", f"The security group ID '{group_id}' is not valid")


def _at_most_20(call: Call) -> None:
    for field in ("LoadBalancerArns", "TargetGroupArns", "ListenerArns", "Names", "ResourceArns"):
        if len(call.items(f"{field}.member")) > 20:
            raise Refusal("ValidationError", f"'{field}' cannot have more than 20 items")


def _load_balancers_exist(call: Call) -> None:
    balancers = _elbv2(call).load_balancers
    names = {b.name for b in balancers.values()}
    missing = [a for a in call.items("LoadBalancerArns.member") if a not in balancers]
    missing += [n for n in call.items("Names.member") if n not in names]
    if missing:
        raise Refusal("LoadBalancerNotFound", "One or more load balancers not found")


def _tagged_exist(call: Call) -> None:
    for arn in call.items("ResourceArns.member"):
        try:
            _elbv2(call)._get_resource_by_arn(arn)
        except ServiceException as error:
            raise Refusal(error.code, error.message) from error


def _deletion_protection(call: Call) -> None:
    balancer = _elbv2(call).load_balancers.get(call.get("LoadBalancerArn"))
    if balancer is not None and balancer.attrs.get("deletion_protection.enabled") == "true":
        raise Refusal(
            "OperationNotPermitted",
            f"Load balancer '{balancer.arn}' cannot be deleted because deletion protection is enabled",
        )


def _listener_port(call: Call) -> Replay | None:
    balancer = _elbv2(call).load_balancers.get(call.get("LoadBalancerArn"))
    if balancer is None:
        return None
    same = next((x for x in balancer.listeners.values() if str(x.port) == call.get("Port")), None)
    if same is None:
        return None
    target_group = call.get("DefaultActions.member.1.TargetGroupArn")
    if (
        same.protocol == call.get("Protocol")
        and same.default_actions[0].data.get("TargetGroupArn") == target_group
    ):
        return Replay("DescribeListeners", {"ListenerArns.member.1": same.arn})
    raise Refusal("DuplicateListener", "A listener already exists on this port for this load balancer")


_FITTING = {
    "TCP": {"TCP", "TCP_UDP"},
    "TLS": {"TCP", "TLS"},
    "UDP": {"UDP", "TCP_UDP"},
    "TCP_UDP": {"TCP_UDP"},
}


def _listener_protocol(call: Call) -> None:
    group = _elbv2(call).target_groups.get(call.get("DefaultActions.member.1.TargetGroupArn"))
    protocol = call.get("Protocol")
    if group is not None and protocol in _FITTING and group.protocol not in _FITTING[protocol]:
        raise Refusal(
            "IncompatibleProtocols",
            f"A listener for {protocol} cannot use a target group for {group.protocol}",
        )


def _one_balancer_per_group(call: Call) -> None:
    arn = call.get("DefaultActions.member.1.TargetGroupArn")
    mine = call.get("LoadBalancerArn") or call.get("ListenerArn").replace(":listener/", ":loadbalancer/")
    for balancer in _elbv2(call).load_balancers.values():
        if balancer.type != "network" or mine.startswith(balancer.arn):
            continue
        for listener in balancer.listeners.values():
            if any(action.data.get("TargetGroupArn") == arn for action in listener.default_actions):
                raise Refusal(
                    "TargetGroupAssociationLimit",
                    "The target group is already associated with another load balancer",
                )


def _modify_listener(call: Call) -> Replay | None:
    """moto knows no Network Load Balancer's protocol here, and keeps the port unchecked."""
    backend = _elbv2(call)
    arn = call.get("ListenerArn")
    balancer = next((b for b in backend.load_balancers.values() if arn in b.listeners), None)
    if balancer is None:
        raise Refusal("ListenerNotFound", "One or more listeners not found")
    listener = balancer.listeners[arn]
    if port := call.get("Port"):
        if any(str(x.port) == port for x in balancer.listeners.values() if x is not listener):
            raise Refusal(
                "DuplicateListener", "A listener already exists on this port for this load balancer"
            )
        listener.port = port
    if protocol := call.get("Protocol"):
        listener.protocol = protocol
    if group := call.get("DefaultActions.member.1.TargetGroupArn"):
        if group not in backend.target_groups:
            raise Refusal("TargetGroupNotFound", "One or more target groups not found")
        listener.default_actions = [FakeAction({"Type": "forward", "TargetGroupArn": group})]
    return Replay("DescribeListeners", {"ListenerArns.member.1": arn})


def _health_check(call: Call) -> None:
    protocol = call.get("HealthCheckProtocol")
    if protocol in ("UDP", "TCP_UDP", "TLS", "GENEVE"):
        raise Refusal("InvalidConfigurationRequest", f"Health check protocol '{protocol}' is not supported")


def _same_target_group(call: Call) -> Replay | None:
    group = next((g for g in _elbv2(call).target_groups.values() if g.name == call.get("Name")), None)
    if group is None:
        return None
    fields = {
        "Protocol": group.protocol,
        "Port": group.port,
        "VpcId": group.vpc_id,
        "HealthCheckProtocol": group.health_check_protocol,
        "HealthCheckPort": group.health_check_port,
        "HealthCheckIntervalSeconds": group.health_check_interval_seconds,
    }
    if any(name in call.params and call.get(name) != str(value) for name, value in fields.items()):
        raise Refusal(
            "DuplicateTargetGroupName",
            f"A target group with the same name '{group.name}' exists, but with different settings",
        )
    return Replay("DescribeTargetGroups", {"TargetGroupArns.member.1": group.arn})


def _targets_valid(call: Call) -> None:
    group = _elbv2(call).target_groups.get(call.get("TargetGroupArn"))
    if group is None or group.target_type != "instance":
        return
    for target in call.structs("Targets.member"):
        instance = _ec2(call).get_instance_by_id(target["Id"])
        if instance is None:
            raise Refusal("InvalidTarget", f"The following targets are not valid instances: '{target['Id']}'")
        if instance.vpc_id != group.vpc_id:
            raise Refusal(
                "InvalidTarget", f"The following targets are not in the target group VPC: '{target['Id']}'"
            )


def _deregister_unknown(call: Call) -> Replay | None:
    """AWS: success for targets that are not registered. The others go here, moto is not asked."""
    group = _elbv2(call).target_groups.get(call.get("TargetGroupArn"))
    if group is None:
        return None
    group.deregister([t for t in call.structs("Targets.member") if t["Id"] in group.targets])
    return Replay("DeregisterTargets", {"TargetGroupArn": group.arn})


_GROUP_ATTRIBUTES = frozenset(
    {
        "deregistration_delay.timeout_seconds",
        "deregistration_delay.connection_termination.enabled",
        "stickiness.enabled",
        "stickiness.type",
        "load_balancing.cross_zone.enabled",
        "target_group_health.dns_failover.minimum_healthy_targets.count",
        "target_group_health.dns_failover.minimum_healthy_targets.percentage",
        "target_group_health.unhealthy_state_routing.minimum_healthy_targets.count",
        "target_group_health.unhealthy_state_routing.minimum_healthy_targets.percentage",
        "preserve_client_ip.enabled",
        "proxy_protocol_v2.enabled",
        "target_health_state.unhealthy.connection_termination.enabled",
        "target_health_state.unhealthy.draining_interval_seconds",
    }
)


def _group_attributes(call: Call) -> None:
    group = _elbv2(call).target_groups.get(call.get("TargetGroupArn"))
    for attribute in call.structs("Attributes.member"):
        if attribute["Key"] not in _GROUP_ATTRIBUTES:
            raise Refusal(
                "ValidationError", f"Target group attribute key '{attribute['Key']}' is not recognized"
            )
        datagrams = group is not None and group.protocol in ("UDP", "TCP_UDP")
        if attribute["Key"] == "preserve_client_ip.enabled" and attribute["Value"] == "false" and datagrams:
            raise Refusal(
                "InvalidConfigurationRequest",
                f"Client IP preservation cannot be disabled for {group.protocol} target groups",
            )


def _security_group_unused(call: Call) -> None:
    backend, group_id = _ec2(call), call.get("GroupId")
    for interface in backend.enis.values():
        if any(group.id == group_id for group in interface._group_set):
            raise Refusal("DependencyViolation", f"resource {group_id} has a dependent object")
    for group in (g for groups in backend.groups.values() for g in groups.values()):
        rules = [*group.ingress_rules, *group.egress_rules]
        if group.id != group_id and any(r.source_group.get("GroupId") == group_id for r in rules):
            raise Refusal("DependencyViolation", f"resource {group_id} has a dependent object")


def _security_group_text(call: Call) -> None:
    name, description = call.get("GroupName"), call.get("GroupDescription")
    if name.startswith("sg-"):
        raise Refusal("InvalidParameterValue", f"Group names may not be in the format sg-*: {name}")
    for text in (name, description):
        if not re.fullmatch(r"[A-Za-z0-9 ._\-:/()#,@\[\]+=&;{}!$*]{1,255}", text):
            raise Refusal("InvalidParameterValue", f"Character sets beyond ASCII are not supported: '{text}'")


def _address_unused(call: Call) -> None:
    for address in _ec2(call).addresses:
        if address.allocation_id == call.get("AllocationId") and address.association_id:
            raise Refusal("InvalidIPAddress.InUse", f"Address {address.public_ip} is in use.")


def _network_only(check: Callable[[Call], Replay | None]) -> Callable[[Call], Replay | None]:
    return lambda call: check(call) if call.get("Type") == "network" else None


RULES: tuple[Rule, ...] = (
    Rule(
        "load balancer names", ("CreateLoadBalancer",), _API.format("CreateLoadBalancer"), _load_balancer_name
    ),
    Rule(
        "one subnet per zone",
        ("CreateLoadBalancer",),
        _GUIDE.format("network-load-balancers"),
        _one_subnet_per_zone,
    ),
    Rule(
        "security groups exist",
        ("CreateLoadBalancer", "SetSecurityGroups"),
        _API.format("CreateLoadBalancer"),
        _security_groups_exist,
    ),
    Rule(
        "an Elastic IP belongs to an internet-facing load balancer",
        ("CreateLoadBalancer",),
        _API.format("SubnetMapping"),
        _network_only(_allocation_scheme),
    ),
    Rule(
        "a private address belongs to an internal load balancer",
        ("CreateLoadBalancer",),
        _API.format("SubnetMapping"),
        _network_only(_private_address),
    ),
    Rule(
        "the same load balancer again is the same load balancer",
        ("CreateLoadBalancer",),
        _API.format("CreateLoadBalancer"),
        _network_only(_same_load_balancer),
    ),
    Rule(
        "an Elastic IP must exist and be free",
        ("CreateLoadBalancer",),
        _API.format("CreateLoadBalancer"),
        _network_only(_allocation_usable),
    ),
    Rule(
        "at most 20 at once",
        ("DescribeLoadBalancers", "DescribeTargetGroups", "DescribeListeners", "DescribeTags"),
        _API.format("DescribeLoadBalancers"),
        _at_most_20,
    ),
    Rule(
        "all that is named exists",
        ("DescribeLoadBalancers",),
        _API.format("DescribeLoadBalancers"),
        _load_balancers_exist,
    ),
    Rule("all that is tagged exists", ("DescribeTags",), _API.format("DescribeTags"), _tagged_exist),
    Rule(
        "deletion protection",
        ("DeleteLoadBalancer",),
        _API.format("DeleteLoadBalancer"),
        _deletion_protection,
    ),
    Rule(
        "listener protocols",
        ("CreateListener",),
        _GUIDE.format("load-balancer-listeners"),
        _listener_protocol,
    ),
    Rule(
        "a target group serves one Network Load Balancer",
        ("CreateListener", "ModifyListener"),
        _GUIDE.format("load-balancer-target-groups"),
        _one_balancer_per_group,
    ),
    Rule("one listener per port", ("CreateListener",), _API.format("CreateListener"), _listener_port),
    Rule("listeners change", ("ModifyListener",), _API.format("ModifyListener"), _modify_listener),
    Rule(
        "health checks",
        ("CreateTargetGroup", "ModifyTargetGroup"),
        _API.format("CreateTargetGroup"),
        _health_check,
    ),
    Rule(
        "the same target group again is the same target group",
        ("CreateTargetGroup",),
        _API.format("CreateTargetGroup"),
        _same_target_group,
    ),
    Rule(
        "targets are instances of the network",
        ("RegisterTargets",),
        _API.format("RegisterTargets"),
        _targets_valid,
    ),
    Rule(
        "target group attributes",
        ("ModifyTargetGroupAttributes",),
        _API.format("TargetGroupAttribute"),
        _group_attributes,
    ),
    Rule(
        "a target that is not registered is deregistered",
        ("DeregisterTargets",),
        _API.format("DeregisterTargets"),
        _deregister_unknown,
    ),
    Rule(
        "a security group in use stays",
        ("DeleteSecurityGroup",),
        _EC2_API.format("DeleteSecurityGroup"),
        _security_group_unused,
    ),
    Rule(
        "security group names",
        ("CreateSecurityGroup",),
        _EC2_API.format("CreateSecurityGroup"),
        _security_group_text,
    ),
    Rule(
        "an address in use is not released",
        ("ReleaseAddress",),
        _EC2_API.format("ReleaseAddress"),
        _address_unused,
    ),
)
