"""How a target group's targets are checked. Pure."""

from __future__ import annotations

import dataclasses

from lbprov.api import Listener
from lbprov_aws.resources import DEFAULT_CODES, HealthCheck, Protocol
from lbprov_aws.wishes import CheckWish

KUBE_PROXY_HEALTH_PORT = "10256"
"""Where kube-proxy says whether its node should get traffic (`--healthz-bind-address`; KEP-3836)."""


def check_for(
    protocol: Protocol, health_check_node_port: int, wish: CheckWish, listeners: tuple[Listener, ...]
) -> HealthCheck:
    """What the Service is and, field by field, what its annotations say (`wish`, valid)."""
    usual = _usual(protocol, health_check_node_port)
    ports = {x.name: x.node_port for x in listeners if x.name}
    port = str(ports.get(wish.port) or wish.port or usual.port)
    # Who names a port for UDP means a TCP port that answers, as with the peers.
    kind = wish.protocol or ("TCP" if wish.port and not health_check_node_port else usual.protocol)
    interval_s = wish.interval_s or usual.interval_s
    timeout_s = wish.timeout_s or (10 if kind == "TCP" else 6)
    http = kind != "TCP"
    return HealthCheck(
        protocol=kind,
        port=port,
        path=(wish.path or usual.path or "/") if http else "",
        interval_s=interval_s,
        timeout_s=min(timeout_s, interval_s),
        healthy=wish.healthy or usual.healthy,
        unhealthy=wish.unhealthy or usual.unhealthy,
        codes=(wish.codes or DEFAULT_CODES) if http else "",
    )


def kept(check: HealthCheck, has: HealthCheck, unread: frozenset[str]) -> HealthCheck:
    """`check` with the fields of `has` that are `unread`; AWS takes path and codes with HTTP only, and no
    timeout that is longer than the interval."""
    mixed = dataclasses.replace(check, **{name: getattr(has, name) for name in unread})
    if mixed.protocol == "TCP":
        mixed = dataclasses.replace(mixed, path="", codes="")
    elif not mixed.path:
        mixed = dataclasses.replace(mixed, path=check.path or "/", codes=check.codes or DEFAULT_CODES)
    return dataclasses.replace(mixed, timeout_s=min(mixed.timeout_s, mixed.interval_s))


def _usual(protocol: Protocol, health_check_node_port: int) -> HealthCheck:
    """Local: the node says whether it has endpoints. UDP cannot be probed itself; kube-proxy's own health
    stands for it. TCP: whether the nodePort is answered."""
    if health_check_node_port:
        return HealthCheck("HTTP", str(health_check_node_port), "/healthz", healthy=2, unhealthy=2)
    if protocol in (Protocol.TCP, Protocol.TLS):
        return HealthCheck("TCP", "traffic-port")
    return HealthCheck("HTTP", KUBE_PROXY_HEALTH_PORT, "/healthz")


def doubts(check: HealthCheck, protocol: Protocol) -> list[str]:
    """Why such a check cannot pass."""
    if protocol is Protocol.UDP and check.port == "traffic-port":
        return [f"a check by {check.protocol} of its UDP port never passes: name another healthcheck-port"]
    return []


def complaints(wish: CheckWish) -> tuple[str, ...]:
    """What of the wish has no effect."""
    if wish.timeout_s and wish.interval_s and wish.timeout_s > wish.interval_s:
        return (
            f"aws-load-balancer-healthcheck-timeout: {wish.timeout_s} is longer than the interval: "
            f"{wish.interval_s} s",
        )
    return ()
