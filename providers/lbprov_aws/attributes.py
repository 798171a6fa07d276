"""Attributes of load balancers, listeners and target groups: which there are, what they may be, what AWS has
them at. Pure.

Sources: LoadBalancerAttribute, ListenerAttribute and TargetGroupAttribute of the ELBv2 API.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from lbprov_aws import names
from lbprov_aws.resources import Protocol, Tags, as_tags

CROSS_ZONE = "load_balancing.cross_zone.enabled"
ACCESS_LOG_ENABLED = "access_logs.s3.enabled"
ACCESS_LOG_BUCKET = "access_logs.s3.bucket"
ACCESS_LOG_PREFIX = "access_logs.s3.prefix"
STICKY = "stickiness.enabled"
STICKY_TYPE = "stickiness.type"
PRESERVE_CLIENT_IP = "preserve_client_ip.enabled"
PROXY_PROTOCOL = "proxy_protocol_v2.enabled"
IDLE_TIMEOUT = "tcp.idle_timeout.seconds"
TERMINATE_UNHEALTHY = "target_health_state.unhealthy.connection_termination.enabled"
TERMINATE_DEREGISTERED = "deregistration_delay.connection_termination.enabled"

_BOOL = "true|false"
_PERCENT = r"off|100|[1-9]\d?"
_COUNT = r"[1-9]\d{0,3}"


@dataclass(frozen=True, slots=True)
class Attribute:
    """`values`: a pattern. `default` None: AWS has none that one could go back to, so it stays as it is when
    it is not asked for any more."""

    key: str
    values: str
    allowed: str
    default: str | None

    def accepts(self, value: str) -> bool:
        return re.fullmatch(self.values, value) is not None


def _bool(key: str, default: str | None) -> Attribute:
    return Attribute(key, _BOOL, "true or false", default)


def _by_key(*attributes: Attribute) -> dict[str, Attribute]:
    return {attribute.key: attribute for attribute in attributes}


OF_LOAD_BALANCERS = _by_key(
    _bool(ACCESS_LOG_ENABLED, "false"),
    Attribute(ACCESS_LOG_BUCKET, r"[a-z0-9][a-z0-9.\-]{1,61}[a-z0-9]", "the name of an S3 bucket", None),
    Attribute(ACCESS_LOG_PREFIX, r"(?!.*AWSLogs)[!-~]{0,512}", "a path without AWSLogs in it", ""),
    _bool("deletion_protection.enabled", "false"),
    Attribute(
        "dns_record.client_routing_policy",
        "any_availability_zone|availability_zone_affinity|partial_availability_zone_affinity",
        "any_availability_zone, availability_zone_affinity or partial_availability_zone_affinity",
        "any_availability_zone",
    ),
    # Its default depends on the scheme, and going back would open or close a way in.
    _bool("ipv6.deny_all_igw_traffic", None),
    _bool(CROSS_ZONE, "false"),
    # It cannot be made less.
    Attribute("secondary_ips.auto_assigned.per_subnet", "[0-7]", "a number from 0 to 7", None),
    _bool("zonal_shift.config.enabled", "false"),
)

OF_LISTENERS = _by_key(
    Attribute(IDLE_TIMEOUT, r"6000|[1-5]\d{3}|[1-9]\d\d|[6-9]\d", "a number from 60 to 6000", "350")
)

OF_TARGET_GROUPS = _by_key(
    _bool(TERMINATE_DEREGISTERED, "false"),
    Attribute(
        "deregistration_delay.timeout_seconds",
        r"3600|3[0-5]\d\d|[12]\d{3}|\d{1,3}",
        "a number from 0 to 3600",
        "300",
    ),
    Attribute(
        CROSS_ZONE,
        f"{_BOOL}|use_load_balancer_configuration",
        "true, false or use_load_balancer_configuration",
        "use_load_balancer_configuration",
    ),
    _bool(PRESERVE_CLIENT_IP, "true"),
    _bool(PROXY_PROTOCOL, "false"),
    _bool(STICKY, "false"),
    # Without effect while stickiness is off.
    Attribute(STICKY_TYPE, "source_ip", "source_ip", None),
    Attribute(
        "target_group_health.dns_failover.minimum_healthy_targets.count",
        f"off|{_COUNT}",
        "off or a number from 1",
        "1",
    ),
    Attribute(
        "target_group_health.dns_failover.minimum_healthy_targets.percentage",
        _PERCENT,
        "off or a number from 1 to 100",
        "off",
    ),
    Attribute(
        "target_group_health.unhealthy_state_routing.minimum_healthy_targets.count",
        _COUNT,
        "a number from 1",
        "1",
    ),
    Attribute(
        "target_group_health.unhealthy_state_routing.minimum_healthy_targets.percentage",
        _PERCENT,
        "off or a number from 1 to 100",
        "off",
    ),
    _bool(TERMINATE_UNHEALTHY, "true"),
    Attribute(
        "target_health_state.unhealthy.draining_interval_seconds",
        r"360000|3[0-5]\d{4}|[12]\d{5}|\d{1,5}",
        "a number from 0 to 360000",
        "0",
    ),
)


def of_group(wanted: Mapping[str, str], protocol: Protocol, *, tls: bool) -> tuple[Tags, list[str]]:
    """What of that a target group of `protocol` can have (`tls`: behind a TLS listener), and what is wrong
    with the rest ("Edit target group attributes", NLB user guide)."""
    datagrams = protocol in (Protocol.UDP, Protocol.TCP_UDP)
    complaints: list[str] = []
    fit = dict(wanted)
    if tls and fit.pop(STICKY, "false") == "true":
        fit.pop(STICKY_TYPE, "")
        complaints.append("stickiness (sessionAffinity: ClientIP) cannot be had with TLS")
    if datagrams and fit.get(PRESERVE_CLIENT_IP) == "false":
        del fit[PRESERVE_CLIENT_IP]
        complaints.append(f"{PRESERVE_CLIENT_IP}=false cannot be had for {protocol}")
    if datagrams and fit.pop(TERMINATE_UNHEALTHY, "true") == "false":
        complaints.append(f"{TERMINATE_UNHEALTHY}=false cannot be had for {protocol}")
    return as_tags(fit), complaints


WITH_IDLE_TIMEOUT = (Protocol.TCP, Protocol.TCP_UDP)


def of_listener(wanted: Mapping[str, str], protocol: Protocol) -> tuple[Tags, list[str]]:
    """What of that a listener of `protocol` can have, and what is wrong with the rest ("Update the TCP idle
    timeout for your Network Load Balancer listener", NLB user guide)."""
    if protocol in WITH_IDLE_TIMEOUT or not wanted:
        return as_tags(wanted), []
    why = ": it is 350 s, and cannot be changed" if protocol is Protocol.TLS else ""
    return (), [f"{IDLE_TIMEOUT} cannot be had for {protocol}{why}"]


def default(attribute: Attribute, protocol: str = "") -> str | None:
    """AWS's, of a load balancer or of a target group of `protocol`."""
    if attribute.key == TERMINATE_DEREGISTERED and protocol in ("UDP", "TCP_UDP"):
        return "true"
    return attribute.default


@dataclass(frozen=True, slots=True)
class Difference:
    """`set_`: what is asked for and is not so. `reset`: what was asked for once, and its default."""

    set_: Tags = ()
    reset: Tags = ()


def difference(
    wanted: Tags,
    had: Tags | None,
    mark: str,
    known: Mapping[str, Attribute],
    protocol: str = "",
    left: frozenset[str] = frozenset(),
) -> Difference:
    """`had` None: not read, since nothing was ever asked for; then all is at its default. `mark`: which were
    asked for before (see `names.extra_mark`). `left`: which stay as they are (see `left_alone`)."""
    now = dict(had or ())
    asked = dict(wanted)
    defaults = {key: default(attribute, protocol) for key, attribute in known.items()}
    set_ = {k: v for k, v in asked.items() if k not in left and now.get(k, defaults.get(k)) != v}
    reset = {
        key: value
        for key, value in defaults.items()
        if value is not None
        and key not in asked
        and key not in left
        and names.marked_extra(mark, key)
        and now.get(key, value) != value
    }
    return Difference(as_tags(set_), as_tags(reset))


def left_alone(unread: frozenset[str], mark: str) -> frozenset[str]:
    """Which were asked for once, and are now in a way that nobody can read: they stay as they are, and go on
    being known as asked for, so that they go back to their default when nothing is said of them any more."""
    return frozenset(key for key in unread if names.marked_extra(mark, key))


def together(values: Tags) -> tuple[Tags, ...]:
    """Groups of those that AWS looks at together (a log's switch and its bucket)."""
    groups: dict[str, dict[str, str]] = {}
    for key, value in values:
        groups.setdefault(key.partition(".")[0], {})[key] = value
    return tuple(as_tags(groups[name]) for name in sorted(groups))
