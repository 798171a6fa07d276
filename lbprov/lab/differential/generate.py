"""Random cases, the same for the same seed; and the simpler ones beside a case, to shrink it."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from lbprov.lab.differential.case import FAMILIES, HEADLESS, NODES, ODD, PROXY_NAME, SERVING, Case, Ep, State

_TYPES = ("ClusterIP", "NodePort", "LoadBalancer", "LoadBalancer")
_POLICIES = ("Cluster", "Cluster", "Local")
_RANGES = (
    ("192.0.2.0/24", "2001:db8:1::/64"),
    ("198.51.100.0/24", "2001:db8:9::/64"),
    ("0.0.0.0/0", "::/0"),
    ("0.0.0.0/0",),
    ("10.244.0.0/16", "fd00:10:244::/48"),
    ("10.244.1.0/24", "192.0.2.12/32"),
    ("192.0.2.11/32", "2001:db8:1::11/128"),
    ("2001:db8:9::/64",),
    ("198.51.100.0/24", "192.0.2.101/32", "2001:db8:1::101/128"),
)
_MODES = ("VIP", "VIP", "Proxy", "")


def cases(seed: int, count: int) -> Iterator[Case]:
    """Case `r-SEED-N` depends on the seed and its own number alone."""
    for number in range(count):
        rng = random.Random(f"{seed}/{number}")  # noqa: S311 - to be repeated, not to be secret
        yield Case(f"r-{seed}-{number}", tuple(_history(rng)), number)


def _history(rng: random.Random) -> Iterator[State | None]:
    state = _state(rng)
    yield state
    for _ in range(rng.choice((0, 0, 1, 1, 2))):
        # Half of all changes are of endpoints: that is what changes in a cluster.
        kind = rng.choice(("endpoints", "endpoints", "endpoints", "spec", "all", "gone"))
        before, fresh = state, _state(rng)
        endpoints = tuple(_endpoints(rng, state.protocols))
        if kind == "gone":
            yield None
        elif kind == "endpoints":
            state = replace(state, endpoints=endpoints, odd=fresh.odd)
            yield state
        else:
            state = replace(fresh, families=state.families)  # they are not to be changed in place
            if kind == "spec":
                state = replace(state, endpoints=_endpoints_for(state.protocols, before.endpoints))
            yield state


def _endpoints_for(protocols: tuple[str, ...], endpoints: tuple[Ep, ...]) -> tuple[Ep, ...]:
    return tuple(e for e in endpoints if protocols == ("TCP",) or e.host not in NODES)


def _state(rng: random.Random) -> State:
    protocols = rng.choice((("TCP",), ("UDP",), ("TCP", "UDP")))
    kind = rng.choice(_TYPES)
    is_load_balancer = kind == "LoadBalancer"
    return State(
        endpoints=tuple(_endpoints(rng, protocols)),
        type=kind,
        protocols=protocols,
        families=rng.choice(((4,), (6,), FAMILIES)),
        internal=rng.choice(_POLICIES),
        external="Cluster" if kind == "ClusterIP" else rng.choice(_POLICIES),
        affinity_s=rng.choice((0, 0, 0, 0, 0, 300)),
        external_ips=rng.choice((0, 0, 1)),
        load_balancer=tuple(rng.choice(_MODES) for _ in range(rng.randint(1, 2))) if is_load_balancer else (),
        ranges=rng.choice(((), (), *_RANGES)) if is_load_balancer else (),
        labels=_rarely(rng, (PROXY_NAME,)) or _rarely(rng, (HEADLESS,)),
        slice_labels=_rarely(rng, (HEADLESS,)),
        odd=_rarely(rng, (rng.choice(ODD),)) or _rarely(rng, (rng.choice(ODD),)),
    )


def _rarely(rng: random.Random, value: tuple[str, ...]) -> tuple[str, ...]:
    return value if rng.random() < 0.04 else ()


def _endpoints(rng: random.Random, protocols: tuple[str, ...]) -> Iterator[Ep]:
    hints = rng.choice(("", "", "zones", "nodes", "both", "mixed"))
    health = rng.choice(("ready", "ready", "mixed", "mixed", "draining"))
    hosts = rng.sample(SERVING, rng.randint(0, len(SERVING)))
    # A UDP server on a host with several addresses answers from the one that faces the client, whichever it
    # was asked on: not a matter of any proxy.
    if protocols == ("TCP",) and rng.random() < 0.3:
        hosts.append(rng.choice(NODES))
    found = []
    for host in hosts:
        wanted = rng.choice(("zones", "nodes", "")) if hints == "mixed" else hints
        found.append(
            Ep(
                host,
                **_conditions(rng, health),
                node="" if rng.random() < 0.05 else None,
                zones=_some(rng, ("zone-a", "zone-b", "zone-c")) if wanted in ("zones", "both") else (),
                nodes=_some(rng, ("node-1", "node-2", "node-3")) if wanted in ("nodes", "both") else (),
                in_slice=rng.randint(0, 1),
            )
        )
    yield from found
    if found and rng.random() < 0.1:  # on its way from slice to slice; what contradicts itself is undefined
        yield replace(rng.choice(found), in_slice=2)


def _some(rng: random.Random, names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted(rng.sample(names, rng.choice((1, 1, 1, 2)))))


def _conditions(rng: random.Random, health: str) -> dict[str, Any]:
    ready: dict[str, Any] = {"ready": rng.choice((True, True, None))}
    draining: dict[str, Any] = {"ready": False, "serving": True, "terminating": True}
    choices: dict[str, list[dict[str, Any]]] = {
        "ready": [ready],
        "draining": [draining],
        "mixed": [
            ready,
            draining,
            {"ready": False},
            {"ready": False, "serving": False, "terminating": True},
            {"ready": False, "serving": False, "terminating": False},
            {"ready": False, "serving": True, "terminating": False},
        ],
    }
    return rng.choice(choices[health])


def simpler(case: Case) -> Iterator[Case]:
    """Cases with one thing less: a state, an endpoint, a feature of all states. Not numbered."""
    for index in range(len(case.states)) if len(case.states) > 1 else ():
        states = case.states[:index] + case.states[index + 1 :]
        if states[0] is not None:
            yield replace(case, states=states)
    for index, state in enumerate(case.states):
        for simple in _simpler_states(state) if state else ():
            yield replace(case, states=(*case.states[:index], simple, *case.states[index + 1 :]))
    plain = State()
    for field in dataclasses.fields(State):
        default = getattr(plain, field.name)
        if field.name == "endpoints" or all(
            s is None or getattr(s, field.name) == default for s in case.states
        ):
            continue
        states = tuple(s and replace(s, **{field.name: default}) for s in case.states)
        yield replace(case, states=tuple(s and _valid(s) for s in states))


def _simpler_states(state: State) -> Iterator[State]:
    for index, endpoint in enumerate(state.endpoints):
        rest = state.endpoints[:index], state.endpoints[index + 1 :]
        yield replace(state, endpoints=rest[0] + rest[1])
        plain = Ep(endpoint.host, in_slice=endpoint.in_slice)
        for field in ("ready", "serving", "terminating", "node", "zones", "nodes"):
            if getattr(endpoint, field) != getattr(plain, field):
                simple = replace(endpoint, **{field: getattr(plain, field)})
                yield replace(state, endpoints=(*rest[0], simple, *rest[1]))


def _valid(state: State) -> State:
    """What the API server would refuse, taken out."""
    if state.type == "ClusterIP":
        state = replace(state, external="Cluster")
    if state.type != "LoadBalancer":
        state = replace(state, load_balancer=(), ranges=())
    return state
