"""From a Service to the load balancer that it asks for, in no provider's words. Pure."""

from __future__ import annotations

from collections.abc import Collection

from lbprov.logic.annotations import read_annotations, unknown_annotations
from lbprov.logic.events import Reason
from lbprov.model import Listener, LoadBalancer, Notice, Owner, Service, Severity, Target, UserError


def desired_for(
    service: Service,
    targets: tuple[Target, ...],
    owner: Owner,
    *,
    needs_node_ports: bool = True,
    keeps_unread: bool = False,
) -> LoadBalancer:
    """`targets`: see `lbprov.logic.nodes`. Raises `UserError` where there is nothing that could be served;
    without `keeps_unread` also where scheme or source ranges mean nothing.

    One port of several without a nodePort is left to the provider, which serves the others."""
    wishes = read_annotations(service)
    if not service.ports:
        raise UserError("a load balancer needs at least one port", field="spec.ports")
    if needs_node_ports and not any(port.node_port for port in service.ports):
        raise UserError(
            "no port has a nodePort, and this provider reaches Pods by NodePorts only: remove "
            "spec.allocateLoadBalancerNodePorts: false, or give the ports nodePorts",
            field="spec.ports[0].nodePort",
        )
    desired = LoadBalancer(
        owner=owner,
        listeners=tuple(Listener(p.port, p.protocol, p.node_port, p.name) for p in service.ports),
        targets=targets,
        source_ranges=wishes.source_ranges,
        requested_ip=service.load_balancer_ip,
        require_ip=wishes.require_ip,
        internal=wishes.internal,
        ip_families=service.ip_families,
        external_traffic_policy=service.external_traffic_policy,
        health_check_node_port=service.health_check_node_port,
        session_affinity=service.session_affinity,
        session_affinity_timeout_s=service.session_affinity_timeout_s,
        created_at=service.created_at,
        replace=wishes.replace,
        adopt=wishes.adopt,
        annotations=service.annotations,
        load_balancer_class=service.load_balancer_class or "",
        unread_scheme=wishes.unread_scheme,
        unread_source_ranges=wishes.unread_source_ranges,
    )
    if not keeps_unread:
        refuse_unread(desired)
    return desired


def refuse_unread(desired: LoadBalancer) -> None:
    """For a load balancer that is about to be made. Raises `UserError` where a guess could expose it."""
    for unread in filter(None, (desired.unread_scheme, desired.unread_source_ranges)):
        field, _, why = unread.partition(": ")
        raise UserError(f"{why}; until then nothing is made", field=field)


def notices_for(
    service: Service, targets: tuple[Target, ...], known_annotations: Collection[str] = ()
) -> tuple[Notice, ...]:
    """What is worth telling whichever the provider."""
    no_nodes = Notice(
        Severity.WARNING, Reason.NO_NODES, "There are no available nodes for LoadBalancer", "Nodes"
    )
    return (*(() if targets else (no_nodes,)), *unknown_annotations(service, known_annotations))
