"""Annotations whose values mean nothing: what is served goes on being served and followed, and is told."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lbprov.api import Adopt, LoadBalancer, Owner
from lbprov.controller.reconcile import Reconciler
from lbprov.model import Node, Result, ServicePort
from lbprov.testing.memory import MemoryProvider, spec_for
from lbprov.testing.memory_plan import Observed
from tests.unit.test_controller_reconcile import ALL, KEY, SERVICE, Bench

RANGES = "service.beta.kubernetes.io/load-balancer-source-ranges"
MEANINGLESS = [
    pytest.param({"lbprov.io/scheme": "internl"}, "internet-facing or internal", id="scheme"),
    pytest.param({"lbprov.io/ip-policy": "always"}, "prefer or require", id="ip-policy"),
    pytest.param({"lbprov.io/adopt": "yes"}, "ask or take-over or ignore", id="adopt"),
    pytest.param({"lbprov.io/replace": "now"}, "never or seamless or outage", id="replace"),
    pytest.param({RANGES: "192.0.2.0/24,203.0.113.0/33"}, "such as 203.0.113.0/24", id="source ranges"),
]


@pytest.mark.parametrize("internal", [False, True], ids=["internet-facing", "internal"])
@pytest.mark.parametrize(("annotations", "remedy"), MEANINGLESS)
def test_a_typing_error_does_not_stop_a_service_that_is_served(
    annotations: dict[str, str], remedy: str, internal: bool
) -> None:
    """Ports and nodes are followed; the scheme, and who may connect, stay what they are; all in one round."""
    bench = Bench()
    good = {"lbprov.io/scheme": "internal" if internal else "internet-facing", RANGES: "203.0.113.0/24"}
    bench.cluster.put(replace(SERVICE, annotations=good))
    before = bench.outcome().ingress
    bench.restart()
    ports = (*SERVICE.ports, ServicePort(443, node_port=30443))
    bench.cluster.put(replace(SERVICE, annotations={**good, **annotations}, ports=ports))
    bench.cluster.nodes = (Node("node-2"), Node("node-3"))
    outcome = bench.outcome()
    assert (outcome.result, outcome.ingress, outcome.retry_after_s) == (Result.UPDATED, before, None)
    assert bench.kinds == sorted([*ALL, "listener"])
    (frontend,) = [r for r in bench.world.resources.values() if r.name.kind == "frontend"]
    assert (frontend.internal, frontend.source_ranges) == (internal, ("203.0.113.0/24",))
    ready = bench.cluster.get(KEY).condition("lbprov.io/Ready")
    told = bench.cluster.get(KEY).condition("lbprov.io/UnknownAnnotations")
    assert ready is not None
    assert told is not None
    ((name, _),) = annotations.items()
    assert (ready.status, told.status) == ("True", "False")
    for said in (ready.message, told.message):
        assert f"metadata.annotations[{name}]: '" in said
        assert remedy in said
    assert bench.reasons().count("UnknownAnnotation") == 1
    again = bench.outcome()
    assert (again.result, again.events) == (Result.UNCHANGED, ())
    bench.cluster.put(replace(SERVICE, annotations=good, ports=ports))
    bench.outcome()
    ready = bench.cluster.get(KEY).condition("lbprov.io/Ready")
    assert ready is not None
    assert ready.message == "the load balancer is in place"
    assert bench.cluster.get(KEY).condition("lbprov.io/UnknownAnnotations") is None


@pytest.mark.parametrize(
    "annotations",
    [
        pytest.param({"lbprov.io/scheme": "internl"}, id="scheme"),
        pytest.param({RANGES: "everywhere"}, id="source ranges"),
    ],
)
def test_nothing_is_made_where_a_guess_would_expose_it(annotations: dict[str, str]) -> None:
    bench = Bench()
    bench.cluster.put(replace(SERVICE, annotations=annotations))
    refused = bench.outcome()
    assert (refused.result, refused.retry_after_s, bench.kinds) == (Result.FAILED, None, [])
    assert bench.condition("Ready") == ("False", "SyncLoadBalancerFailed")
    assert refused.message.endswith("until then nothing is made")
    bench.outcome()
    assert bench.reasons() == ["SyncLoadBalancerFailed"], "told once"
    bench.cluster.put(SERVICE)
    assert bench.outcome().result is Result.CREATED


def test_of_a_provider_that_keeps_nothing_as_it_is_such_a_service_is_refused() -> None:
    """It would take what it is not told for "everybody"."""
    bench = Bench()
    bench.cluster.put(replace(SERVICE, annotations={RANGES: "203.0.113.0/24"}))
    bench.outcome()
    plain = replace(spec_for(bench.world), keeps_unread=False)
    bench.engine = Reconciler(bench.cluster, bench.provider, plain)
    bench.cluster.put(replace(SERVICE, annotations={RANGES: "203.0.113.0/24;192.0.2.0/24"}))
    assert bench.outcome().result is Result.FAILED
    assert bench.kinds == ALL
    (frontend,) = [r for r in bench.world.resources.values() if r.name.kind == "frontend"]
    assert frontend.source_ranges == ("203.0.113.0/24",)


@pytest.mark.parametrize(
    ("said", "adopted"),
    [
        pytest.param(None, Adopt.TAKE_OVER, id="nothing"),
        pytest.param("ask", Adopt.ASK, id="ask"),
        pytest.param("ignore", Adopt.IGNORE, id="ignore"),
        pytest.param("no", Adopt.ASK, id="what means nothing"),
    ],
)
def test_what_a_service_says_of_adoption_counts_more_than_the_flag(said: str | None, adopted: Adopt) -> None:
    seen: list[Adopt] = []

    class Noting(MemoryProvider):
        def observe(self, owner: Owner, desired: LoadBalancer | None, *, fresh: bool = False) -> Observed:
            if desired is not None:
                seen.append(desired.adopt)
            return super().observe(owner, desired, fresh=fresh)

    bench = Bench(Noting)
    bench.restart(adopt=True)
    bench.cluster.put(replace(SERVICE, annotations={} if said is None else {"lbprov.io/adopt": said}))
    bench.outcome()
    assert set(seen) == {adopted}
