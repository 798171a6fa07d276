"""Cases written by hand: every row of what a packet can show of a Service.

What is about an endpoint of one's own node is there twice, once with the endpoint on node-1, by way of which
the client comes, once with it on node-2.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import replace

from lbprov.lab.differential.case import HEADLESS, PROXY_NAME, Case, Ep, State

HERE, BESIDE, THERE = Ep("web-1a"), Ep("web-1b"), Ep("web-2a")
BOTH = (HERE, THERE)
LOAD_BALANCER = State(BOTH, type="LoadBalancer", external_ips=1, load_balancer=("VIP",))
LOCAL = replace(LOAD_BALANCER, external="Local")
_LAN = ("192.0.2.0/24", "2001:db8:1::/64")
_ELSEWHERE = ("198.51.100.0/24", "2001:db8:9::/64")
_NODE_1 = ("192.0.2.11/32", "2001:db8:1::11/128")
_PODS = ("10.244.0.0/16", "fd00:10:244::/48")


def draining(endpoint: Ep) -> Ep:
    return replace(endpoint, ready=False, serving=True, terminating=True)


def dead(endpoint: Ep) -> Ep:
    return replace(endpoint, ready=False, serving=False, terminating=True)


def unready(endpoint: Ep) -> Ep:
    return replace(endpoint, ready=False, serving=False, terminating=False)


def near(endpoint: Ep, *zones: str, nodes: tuple[str, ...] = ()) -> Ep:
    return replace(endpoint, zones=zones, nodes=nodes)


def _states() -> Iterable[tuple[str, State]]:
    yield "plain", State(BOTH)
    yield "external-ip-of-clusterip", State(BOTH, external_ips=1)
    yield "load-balancer", LOAD_BALANCER
    yield "node-port", State(BOTH, type="NodePort")
    yield "empty", replace(LOAD_BALANCER, endpoints=())
    yield "one-family", replace(LOAD_BALANCER, families=(4,))
    yield "one-family-6", replace(LOAD_BALANCER, families=(6,))
    yield "with-sctp", replace(LOAD_BALANCER, protocols=("TCP", "UDP", "SCTP"))
    yield "self", replace(LOAD_BALANCER, endpoints=(HERE,))
    yield "self-without-node", replace(LOAD_BALANCER, endpoints=(replace(HERE, node=""),))
    yield "on-host-here", State((Ep("node-1"),), protocols=("TCP",), type="NodePort")
    yield "on-host-there", State((Ep("node-2"),), protocols=("TCP",), type="NodePort")
    for where, endpoint in (("here", HERE), ("there", THERE)):
        yield f"outer-{where}", replace(LOCAL, endpoints=(endpoint,))
        yield f"inner-{where}", replace(LOAD_BALANCER, endpoints=(endpoint,), internal="Local")
        yield f"inner-outer-{where}", replace(LOCAL, endpoints=(endpoint,), internal="Local")
    yield "outer-both", LOCAL
    yield "outer-empty", replace(LOCAL, endpoints=())
    yield "inner-empty", replace(LOAD_BALANCER, endpoints=(), internal="Local")
    # conditions
    yield "draining", replace(LOAD_BALANCER, endpoints=(draining(HERE), draining(THERE)))
    yield "ready-before-draining", replace(LOAD_BALANCER, endpoints=(draining(HERE), THERE))
    yield "outer-drains-here", replace(LOCAL, endpoints=(draining(HERE), THERE))
    yield "outer-drains-beside-ready", replace(LOCAL, endpoints=(draining(HERE), BESIDE, THERE))
    yield "inner-drains-here", replace(LOAD_BALANCER, endpoints=(draining(HERE), THERE), internal="Local")
    yield "unready", replace(LOAD_BALANCER, endpoints=(unready(HERE), unready(THERE)))
    yield "dead", replace(LOAD_BALANCER, endpoints=(dead(HERE), unready(THERE)))
    yield "outer-dead-here", replace(LOCAL, endpoints=(dead(HERE), THERE))
    yield "outer-dead-everywhere", replace(LOCAL, endpoints=(dead(HERE), dead(THERE)))
    yield "no-conditions", State((replace(HERE, ready=None), replace(THERE, ready=None)))
    yield "ready-though-terminating", State((replace(HERE, terminating=True), THERE))
    # topology
    yield "zones", replace(LOAD_BALANCER, endpoints=(near(HERE, "zone-a"), near(THERE, "zone-b")))
    yield "zone-missing", State((near(HERE, "zone-a"), THERE))
    yield "zone-elsewhere", State((near(HERE, "zone-c"), near(THERE, "zone-c")))
    yield "zone-drains", State((near(draining(HERE), "zone-a"), near(draining(THERE), "zone-b")))
    yield "zone-unready-missing", State((near(HERE, "zone-a"), near(THERE, "zone-b"), unready(BESIDE)))
    yield (
        "nodes",
        State(
            (
                near(HERE, nodes=("node-1",)),
                near(BESIDE, "zone-a", nodes=("node-2",)),
                near(THERE, "zone-b", nodes=("node-2",)),
            )
        ),
    )
    yield (
        "node-missing",
        State((near(HERE, "zone-a", nodes=("node-1",)), near(BESIDE, "zone-a"), near(THERE, "zone-b"))),
    )
    yield (
        "node-elsewhere",
        State((near(HERE, "zone-a", nodes=("node-3",)), near(THERE, "zone-b", nodes=("node-3",)))),
    )
    yield "outer-zones", replace(LOCAL, endpoints=(near(HERE, "zone-b"), near(THERE, "zone-a")))
    # source ranges
    yield "ranged", replace(LOAD_BALANCER, ranges=_LAN)
    yield "ranged-elsewhere", replace(LOAD_BALANCER, ranges=_ELSEWHERE)
    yield "ranged-all", replace(LOAD_BALANCER, ranges=("0.0.0.0/0", "::/0"))
    yield "ranged-pods", replace(LOAD_BALANCER, ranges=_PODS)
    yield "ranged-node", replace(LOAD_BALANCER, ranges=_NODE_1)
    yield "ranged-other-family", replace(LOAD_BALANCER, ranges=_ELSEWHERE[1:])
    yield "ranged-empty", replace(LOAD_BALANCER, endpoints=(), ranges=_ELSEWHERE)
    yield "ranged-outer-here", replace(LOCAL, endpoints=(HERE,), ranges=_LAN)
    yield "ranged-outer-there", replace(LOCAL, endpoints=(THERE,), ranges=_LAN)
    # load balancers
    yield "ip-modes", replace(LOAD_BALANCER, load_balancer=("VIP", "Proxy", ""))
    yield "two-outer-addresses", replace(LOAD_BALANCER, external_ips=2, load_balancer=("VIP", "VIP"))
    # affinity
    yield "sticky", replace(LOAD_BALANCER, affinity_s=600)
    yield "sticky-outer", replace(LOCAL, endpoints=(HERE, BESIDE, THERE), affinity_s=600)
    # not ours
    yield "other-proxy", replace(LOAD_BALANCER, labels=(PROXY_NAME,))
    yield "headless-label", State(BOTH, labels=(HEADLESS,))
    yield "headless-slices", replace(LOAD_BALANCER, slice_labels=(HEADLESS,))
    # slices
    yield "two-slices", State((HERE, replace(THERE, in_slice=1)))
    yield "same-endpoint-twice", State((HERE, replace(HERE, in_slice=1), replace(THERE, in_slice=1)))
    yield "odd-slices", State(BOTH, odd=("names", "no-ports", "no-number", "other-port", "copy-terminates"))


def _histories() -> Iterable[tuple[str, tuple[State | None, ...]]]:
    both = LOAD_BALANCER
    yield "endpoint-moves", (replace(both, endpoints=(HERE,)), replace(both, endpoints=(THERE,)))
    yield "one-endpoint-goes", (both, replace(both, endpoints=(THERE,)))
    yield "one-endpoint-comes", (replace(both, endpoints=(THERE,)), both)
    yield "one-drains", (both, replace(both, endpoints=(draining(HERE), THERE)))
    yield "one-unready", (both, replace(both, endpoints=(unready(HERE), THERE)))
    yield "last-endpoint-goes", (both, replace(both, endpoints=()))
    yield "first-endpoint-comes", (replace(both, endpoints=()), both)
    yield "is-deleted", (both, None)
    yield "comes-back", (both, None, both)
    yield "becomes-local", (both, LOCAL)
    yield "becomes-local-nobody-here", (both, replace(LOCAL, endpoints=(THERE,)))
    yield "stops-being-local", (replace(LOCAL, endpoints=(THERE,)), replace(both, endpoints=(THERE,)))
    yield "becomes-inner-local", (both, replace(both, internal="Local", endpoints=(THERE,)))
    yield "loses-node-port", (both, replace(both, type="ClusterIP", load_balancer=()))
    yield "loses-external-ip", (both, replace(both, external_ips=0))
    yield "is-ranged", (both, replace(both, ranges=_ELSEWHERE))
    yield "loses-udp", (both, replace(both, protocols=("TCP",)))
    yield "becomes-another-proxys", (both, replace(both, labels=(PROXY_NAME,)))
    yield "affinity-on-and-off", (both, replace(both, affinity_s=600), both)


def numbered(cases: Iterable[Case], first: int = 0) -> list[Case]:
    """Each with addresses and ports of its own."""
    return [dataclasses.replace(case, number=number) for number, case in enumerate(cases, first)]


CASES = (
    *(Case(name, (state,)) for name, state in _states()),
    *(Case(name, states) for name, states in _histories()),
)
