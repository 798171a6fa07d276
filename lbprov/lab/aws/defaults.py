"""The attributes that AWS gives what is made. moto leaves out those of Network Load Balancers.

Sources: LoadBalancerAttribute, ListenerAttribute and TargetGroupAttribute of the ELBv2 API.
"""

from __future__ import annotations

from collections.abc import Mapping

DATAGRAMS = ("UDP", "TCP_UDP")

OF_LISTENER = {"tcp.idle_timeout.seconds": "350"}
"""Of a Network Load Balancer's listener for TCP."""


def of_balancer(scheme: str) -> dict[str, str]:
    """Of a Network Load Balancer."""
    return {
        "access_logs.s3.enabled": "false",
        "access_logs.s3.bucket": "",
        "access_logs.s3.prefix": "",
        "deletion_protection.enabled": "false",
        "dns_record.client_routing_policy": "any_availability_zone",
        "ipv6.deny_all_igw_traffic": "true" if scheme == "internal" else "false",
        "load_balancing.cross_zone.enabled": "false",
        "secondary_ips.auto_assigned.per_subnet": "0",
        "zonal_shift.config.enabled": "false",
    }


def of_group(protocol: str) -> dict[str, str]:
    """Of a Network Load Balancer's target group with instances."""
    streams_only = (
        {}
        if protocol in DATAGRAMS
        else {"target_health_state.unhealthy.connection_termination.enabled": "true"}
    )
    return {
        "deregistration_delay.connection_termination.enabled": str(protocol in DATAGRAMS).lower(),
        "deregistration_delay.timeout_seconds": "300",
        "load_balancing.cross_zone.enabled": "use_load_balancer_configuration",
        "preserve_client_ip.enabled": "true",
        "proxy_protocol_v2.enabled": "false",
        "stickiness.enabled": "false",
        "stickiness.type": "source_ip",
        "target_group_health.dns_failover.minimum_healthy_targets.count": "1",
        "target_group_health.dns_failover.minimum_healthy_targets.percentage": "off",
        "target_group_health.unhealthy_state_routing.minimum_healthy_targets.count": "1",
        "target_group_health.unhealthy_state_routing.minimum_healthy_targets.percentage": "off",
        "target_health_state.unhealthy.draining_interval_seconds": "0",
        **streams_only,
    }


def changed(attributes: Mapping[str, str], defaults: Mapping[str, str]) -> dict[str, str]:
    """What is not as AWS has it, and has an effect."""
    idle = "access_logs." if attributes.get("access_logs.s3.enabled") == "false" else "?"
    return {
        key: value
        for key, value in sorted(attributes.items())
        if defaults.get(key) != value and not key.startswith(idle)
    }
