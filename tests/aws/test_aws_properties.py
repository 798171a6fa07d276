"""From any load balancer to any other: the same end as from nothing, a second plan that is empty, no rest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from lbprov.api import L4Protocol, Listener, SessionAffinity

if TYPE_CHECKING:
    from tests.aws.conftest import Lab

pytestmark = pytest.mark.timeout(600)

PREFIX = "service.beta.kubernetes.io/aws-load-balancer-"
TAGS = PREFIX + "additional-resource-tags"


@st.composite
def listeners(draw: st.DrawFn) -> tuple[Listener, ...]:
    """Some ports, each TCP, UDP or both, with one nodePort per port or (for both) sometimes two; a nodePort
    is used once per protocol, as the API server sees to it."""
    numbers = draw(st.lists(st.sampled_from([53, 80, 443]), unique=True, min_size=1))
    node_ports = draw(st.permutations([30001, 30002, 30003, 30004, 30005, 30006]))
    found: list[Listener] = []
    for index, number in enumerate(numbers):
        protocols = draw(st.sampled_from([["TCP"], ["UDP"], ["TCP", "UDP"], ["UDP", "TCP"]]))
        apart = draw(st.booleans())
        for protocol in protocols:
            node_port = node_ports[2 * index + (1 if apart and protocol == "UDP" else 0)]
            found.append(Listener(number, L4Protocol(protocol), node_port))
    return tuple(draw(st.permutations(found)))


shapes = st.fixed_dictionaries(
    {
        "listeners": listeners(),
        "nodes": st.lists(st.sampled_from(["node-1", "node-2", "node-3"]), unique=True, min_size=1),
        "source_ranges": st.sampled_from([(), ("203.0.113.0/24",), ("198.51.100.0/24", "2001:db8::/32")]),
        "health_check_node_port": st.sampled_from([0, 0, 32000]),
        "session_affinity": st.sampled_from(list(SessionAffinity)),
        "annotations": st.sampled_from(
            [
                {},
                {TAGS: "team=shop"},
                {TAGS: "team=web,env=prod", PREFIX + "proxy-protocol": "*"},
                {
                    PREFIX + "cross-zone-load-balancing-enabled": "true",
                    PREFIX + "target-group-attributes": "deregistration_delay.timeout_seconds=30",
                    PREFIX + "healthcheck-protocol": "http",
                },
                {
                    PREFIX + "attributes": "zonal_shift.config.enabled=true",
                    PREFIX + "target-group-attributes": "preserve_client_ip.enabled=false",
                    PREFIX + "enable-icmp-for-path-mtu-discovery": "on",
                },
            ]
        ),
    }
)


@given(before=shapes, after=shapes, restart=st.booleans())
@settings(
    max_examples=10,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    phases=[Phase.reuse, Phase.generate],  # shrinking would take minutes
    print_blob=True,
)
def test_from_any_to_any(lab: Lab, before: dict[str, Any], after: dict[str, Any], restart: bool) -> None:
    def desired(shape: dict[str, Any]) -> Any:
        others = {key: value for key, value in shape.items() if key not in ("listeners", "nodes")}
        return lab.desired("web", *shape["listeners"], nodes=sorted(shape["nodes"]), **others)

    owner = desired(after).owner
    try:
        lab.reconcile(desired(before))  # asserts that the second plan is empty
        if restart:
            lab.restart()
        lab.reconcile(desired(after))
        changed = lab.world.inventory()
        lab.restart()
        assert lab.reconcile(desired(after)).writes == {}
        lab.delete(owner)
        assert lab.world.leftovers() == ()
        lab.reconcile(desired(after))
        assert lab.world.inventory() == changed
    finally:
        lab.restart()
        lab.delete(owner)
