"""Whether this kernel has what the nftables mode takes, and what it lacks otherwise."""

from __future__ import annotations

import platform

from lbprov.model import IPFamily, L4Protocol, ObjectKey
from local_dataplane.config import NodeConfig, NodeFacts
from local_dataplane.endpoints import Backend
from local_dataplane.kernel.nft_seam import Nftables, Rejected
from local_dataplane.nftables import chains, layout
from local_dataplane.nftables import objects as ob
from local_dataplane.nftables.chains import External, Firewall, Pick, Recipe, Sticky, StickyEndpoint
from local_dataplane.nftables.expressions import Rule
from local_dataplane.nftables.fixed import Where
from local_dataplane.nftables.layout import Scope
from local_dataplane.nftables.objects import Chain, Change
from local_dataplane.table import PortKey

_MODULES = {
    "AddressType": "nft_fib",
    "Conntrack": "nft_ct",
    "Dnat": "nft_nat",
    "Masquerade": "nft_masq",
    "Random": "nft_numgen",
    "Reject": "nft_reject",
    "Remember": "sets that packets add to",
}


def lacking(kernel: Nftables, config: NodeConfig) -> str:
    """Empty, or what is missing. Tries it out and leaves nothing behind. Raises UserError without the right
    to change rules."""
    where = Where(kernel.family, config, config.pods(kernel.family, NodeFacts("")))
    wanted = _every_kind(where)
    shapes = (*layout.shapes(kernel.family), layout.clients_shape(_sample(where).clients, kernel.family))
    before: list[Change] = [ob.AddTable(), ob.DeleteTable(), ob.AddTable()]
    steps: list[tuple[str, list[Change]]] = [
        ("nf_tables", []),
        ("sets and maps in nf_tables", [ob.AddSet(shape) for shape in shapes]),
        ("nft_chain_nat", [ob.AddChain(name, chain.hook) for name, chain in wanted.items()]),
    ]
    rules: list[Change] = [ob.AddRule(name, rule) for name, chain in wanted.items() for rule in chain.rules]
    all_at_once = [*before, *(change for _, changes in steps for change in changes), *rules]
    if not _refusal(kernel, all_at_once):
        return ""
    for what, changes in steps:
        before += changes
        if said := _refusal(kernel, before):
            return _told(what, said)
    for name, chain in wanted.items():
        for rule in chain.rules:
            if said := _refusal(kernel, [*before, ob.AddRule(name, rule)]):
                return _told(_culprit(kernel, before, name, rule), said)
    return _told("a part of nf_tables", _refusal(kernel, all_at_once))


def _told(what: str, said: str) -> str:
    return f"{what} ({said}; Linux {platform.release()})"


def _refusal(kernel: Nftables, changes: list[Change]) -> str:
    try:
        kernel.check(changes)
    except Rejected as rejected:
        return str(rejected)
    return ""


def _culprit(kernel: Nftables, before: list[Change], chain: str, rule: Rule) -> str:
    """The first expression that makes the rule be refused."""
    for length in range(1, len(rule) + 1):
        if _refusal(kernel, [*before, ob.AddRule(chain, rule[:length])]):
            kind = type(rule[length - 1]).__name__
            return _MODULES.get(kind, f"the expression {rule[length - 1]}")
    return f"the rule {'; '.join(map(str, rule))}"


def _sample(where: Where) -> StickyEndpoint:
    key = PortKey(ObjectKey("lbprov", "probe"), "", L4Protocol.TCP, where.family)
    address = "fd00::1" if where.family is IPFamily.IPV6 else "10.0.0.1"
    return StickyEndpoint(key, Backend(address, 1), 60)


def _every_kind(where: Where) -> dict[str, Chain]:
    """The standing chains, and one of each other kind that is made of something that these are not."""
    recipes: list[Recipe] = [
        _sample(where),
        Sticky(Scope.ALL, (_sample(where),)),
        Pick(Scope.OWN, 1, of_node_port=True),
        External(Pick(Scope.ALL, 1, of_node_port=False)),
        Firewall(External(Pick(Scope.ALL, 1, of_node_port=False))),
    ]
    return chains.standing_chains(where) | {recipe.name: recipe.chain(where) for recipe in recipes}
