"""Rules of target groups and their targets."""

from __future__ import annotations

from lbprov.lab.aws.call import Call, Refusal
from lbprov.lab.aws.rule import API, Replay, ec2, elbv2, rule


@rule("health checks", API.format("CreateTargetGroup"), "CreateTargetGroup", "ModifyTargetGroup")
def _health_check(call: Call) -> None:
    protocol = call.get("HealthCheckProtocol")
    if protocol in ("UDP", "TCP_UDP", "TLS", "GENEVE"):
        raise Refusal("InvalidConfigurationRequest", f"Health check protocol '{protocol}' is not supported")


@rule(
    "the same target group again is the same target group",
    API.format("CreateTargetGroup"),
    "CreateTargetGroup",
)
def _same_target_group(call: Call) -> Replay | None:
    group = next((g for g in elbv2(call).target_groups.values() if g.name == call.get("Name")), None)
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


@rule("targets are instances of the network", API.format("RegisterTargets"), "RegisterTargets")
def _targets_valid(call: Call) -> None:
    group = elbv2(call).target_groups.get(call.get("TargetGroupArn"))
    if group is None or group.target_type != "instance":
        return
    for target in call.structs("Targets.member"):
        instance = ec2(call).get_instance_by_id(target["Id"])
        if instance is None:
            raise Refusal("InvalidTarget", f"The following targets are not valid instances: '{target['Id']}'")
        if instance.vpc_id != group.vpc_id:
            raise Refusal(
                "InvalidTarget", f"The following targets are not in the target group VPC: '{target['Id']}'"
            )


@rule("a target that is not registered is deregistered", API.format("DeregisterTargets"), "DeregisterTargets")
def _deregister_unknown(call: Call) -> Replay | None:
    """AWS: success for targets that are not registered. The others go here, moto is not asked."""
    group = elbv2(call).target_groups.get(call.get("TargetGroupArn"))
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


@rule("target group attributes", API.format("TargetGroupAttribute"), "ModifyTargetGroupAttributes")
def _group_attributes(call: Call) -> None:
    group = elbv2(call).target_groups.get(call.get("TargetGroupArn"))
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
