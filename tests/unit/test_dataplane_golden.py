"""Representative Services as the text that iptables-restore gets, and as the table of nftables mode.
tests/dataplane feeds both to the kernel."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from lbprov.model import IPFamily, L4Protocol, ObjectKey, TrafficPolicy
from local_dataplane.config import NodeConfig, NodeFacts
from local_dataplane.endpoints import Backend, Choice
from local_dataplane.iptables.restore import jump_commands, parse_save, restores
from local_dataplane.iptables.ruleset import Ruleset
from local_dataplane.nftables.objects import Element
from local_dataplane.nftables.ruleset import Ruleset as NftablesRuleset
from local_dataplane.table import PortKey, ServiceState

CONFIG = NodeConfig(("10.244.0.0/16", "fd00:10:244::/48"))
NODE = NodeFacts("node-1", addresses=("192.0.2.11", "2001:db8:1::11"))
V4 = IPFamily.IPV4


def _address(family: IPFamily, number: int, kind: str) -> str:
    v4, v6 = {
        "service": (f"10.96.0.{number}", f"fd00:10:96::{number:x}"),
        "pod": (f"10.244.1.{number}", f"fd00:10:244:1::{number:x}"),
        "external": (f"203.0.113.{number}", f"2001:db8:113::{number:x}"),
    }[kind]
    return v4 if family is V4 else v6


def _state(family: IPFamily, name: str, number: int, endpoints: int = 2, **facts: object) -> ServiceState:
    """The first endpoint is on this node."""
    protocol = facts.pop("protocol", L4Protocol.TCP)
    assert isinstance(protocol, L4Protocol)
    backends = tuple(Backend(_address(family, n + 2, "pod"), 8080) for n in range(endpoints))
    choice = Choice(backends, backends[:1], backends, tuple(b.address for b in backends[:1]))
    key = PortKey(ObjectKey("default", name), "http", protocol, family)
    base = ServiceState(key, 80, _address(family, number, "service"), choice)
    return dataclasses.replace(base, **facts)  # type: ignore[arg-type]


def _external(family: IPFamily, *numbers: int) -> tuple[str, ...]:
    return tuple(_address(family, n, "external") for n in numbers)


LOCAL = TrafficPolicy.LOCAL

Scene = Callable[[IPFamily], list[ServiceState]]
SCENES: dict[str, tuple[Scene, NodeConfig]] = {
    "nothing": (lambda f: [], CONFIG),
    "cluster-ip": (
        lambda f: [
            _state(f, "web", 1),
            _state(f, "one", 2, 1),
            _state(f, "three", 3, 3, protocol=L4Protocol.UDP),
            _state(f, "sctp", 4, protocol=L4Protocol.SCTP),
            _state(f, "nobody", 5, 0),
        ],
        CONFIG,
    ),
    "external": (
        lambda f: [
            _state(
                f,
                "web",
                1,
                node_port=30080,
                external_ips=_external(f, 1, 2),
                load_balancer_ips=_external(f, 9),
            ),
            _state(f, "nobody", 2, 0, node_port=30081, external_ips=_external(f, 3)),
        ],
        CONFIG,
    ),
    "policies": (
        lambda f: [
            _state(f, "local", 1, node_port=30080, internal_policy=LOCAL, external_policy=LOCAL),
            dataclasses.replace(
                far := _state(f, "far", 2, node_port=30081, internal_policy=LOCAL, external_policy=LOCAL),
                choice=Choice(far.choice.cluster, (), far.choice.serving),
            ),
        ],
        CONFIG,
    ),
    "source-ranges": (
        lambda f: [
            _state(
                f,
                "web",
                1,
                load_balancer_ips=_external(f, 9),
                source_ranges=("192.0.2.0/24", "198.51.100.7/32")
                if f is V4
                else ("2001:db8:1::/64", "2001:db8:9::7/128"),
            )
        ],
        CONFIG,
    ),
    "affinity": (lambda f: [_state(f, "sticky", 1, affinity_s=10800, node_port=30080)], CONFIG),
    "many-endpoints": (lambda f: [_state(f, "large", 1, 40)], CONFIG),
    "many-services": (
        lambda f: [_state(f, f"svc-{n}", n, 1, node_port=30000 + n) for n in range(1, 41)],
        CONFIG,
    ),
    "many-ports": (
        lambda f: [
            _state(f, f"svc-{n}", n, 1, port=8000 + n, external_ips=_external(f, 1)) for n in range(1, 15)
        ],
        CONFIG,
    ),
    "other-settings": (
        lambda f: [_state(f, "web", 1, node_port=30080)],
        NodeConfig(
            masquerade_all=True,
            masquerade_bit=5,
            refusal_bit=31,
            nodeport_addresses=("192.0.2.0/24", "198.51.100.9/32", "2001:db8:1::/64"),
            drop_invalid=False,
        ),
    ),
}


@pytest.mark.parametrize("family", list(IPFamily))
@pytest.mark.parametrize("scene", SCENES)
def test_rendered(scene: str, family: IPFamily, golden: Callable[[str, str], None]) -> None:
    states, config = SCENES[scene]
    rules = Ruleset(family, config, NODE)
    rules.replace([(s.key, s) for s in states(family)])
    jumps = jump_commands(parse_save(""), insist_first=True)
    (restore,) = restores(rules.chains, {}, rules.dirty, jumps, chunked=False)
    golden(f"dataplane/{scene}-{family}.txt", restore.text())


@pytest.mark.parametrize("family", list(IPFamily))
@pytest.mark.parametrize("scene", SCENES)
def test_rendered_as_a_table(scene: str, family: IPFamily, golden: Callable[[str, str], None]) -> None:
    """Chains that every table has are shown once for each setting: in `nothing` and `other-settings`."""
    states, config = SCENES[scene]
    rules = NftablesRuleset(family, config, NODE)
    shows_all = scene == "nothing" or config is not CONFIG
    standing = set() if shows_all else set(rules.chains)
    rules.replace([(s.key, s) for s in states(family)])
    lines = []
    for name, shape in rules.sets.items():
        if rules.elements.get(name) or shape.size or shows_all:
            lines += [f"set {name}: {shape.signature}", *map(_shown, _sorted(rules.elements.get(name, {})))]
    for name in sorted(rules.chains.keys() - standing):
        chain = rules.chains[name]
        lines += [f"chain {name}{f': {chain.hook}' if chain.hook else ''}"]
        lines += [f"    {'; '.join(map(str, rule))}" for rule in chain.rules]
    golden(f"nftables/{scene}-{family}.txt", "".join(f"{line}\n" for line in lines))


def _sorted(elements: dict[bytes, Element]) -> list[Element]:
    return [elements[place] for place in sorted(elements)]


def _shown(element: Element) -> str:
    rest = f" : {element.data.hex()}" if element.data else f" : goto {element.chain}" if element.chain else ""
    end = f"-{element.end.hex()}" if element.end else ""
    return f"    {element.key.hex()}{end}{rest}{f'  # {element.label}' if element.label else ''}"
