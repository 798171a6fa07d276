"""What must be known of nf_tables chains of others, asked one by one: their tables are not listed, for they
may be large, and hold what only their own programs understand."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from lbprov.model import IPFamily
from local_dataplane.kernel import netlink

_SUBSYSTEM = 10 << 8  # NFNL_SUBSYS_NFTABLES
_GET_TABLE, _GET_CHAIN = _SUBSYSTEM | 1, _SUBSYSTEM | 4
_TABLE, _NAME, _HOOK, _POLICY = 1, 3, 4, 5  # NFTA_CHAIN_…; NFTA_TABLE_NAME is 1, too
_HOOK_NUMBER = 1
_FORWARD = (2).to_bytes(4, "big")
_DROP = (0).to_bytes(4, "big")
_FAMILIES = {1: "inet", 2: "ip", 10: "ip6"}
_NUMBERS = {IPFamily.IPV4: 2, IPFamily.IPV6: 10}
_IPTABLES = (2, "filter"), (10, "filter")
_USUAL_NAMES = ("forward", "FORWARD", "filter_FORWARD", "filter-forward")
"""Of chains for what is forwarded, in nft's own examples, in iptables' translations, in firewalld."""


def has_chain(family: IPFamily, table: str, name: str) -> bool:
    return _chain(_NUMBERS[family], table, name) is not None


def iptables_drops() -> bool:
    """Whether iptables-nft's FORWARD drops by default, in either family."""
    return any(_drops_forwarded(family, table, "FORWARD") for family, table in _IPTABLES)


def dropping_chains() -> list[str]:
    """Others that drop by default what is forwarded, in nft's words, those of iptables-nft left out: no other
    table can let that through. Only chains of usual names."""
    others = sorted(set(_tables()) - set(_IPTABLES))
    return [
        f"table {_FAMILIES[family]} {table}, chain {name}"
        for (family, table), name in itertools.product(others, _USUAL_NAMES)
        if _drops_forwarded(family, table, name)
    ]


def _drops_forwarded(family: int, table: str, name: str) -> bool:
    chain = _chain(family, table, name) or {}
    hook = dict(netlink.attributes(chain.get(_HOOK, b"")))
    return hook.get(_HOOK_NUMBER) == _FORWARD and chain.get(_POLICY) == _DROP


def _tables() -> Iterator[tuple[int, str]]:
    """Family and name of every table. Nothing where the kernel does not say."""
    request = netlink.message(_GET_TABLE, netlink.NLM_F_REQUEST | netlink.NLM_F_DUMP, family=0)
    try:
        replies = list(netlink.ask(netlink.NETFILTER, request))
    except OSError:
        return
    for reply in replies:
        name = dict(netlink.attributes(reply.body)).get(_TABLE, b"")
        if reply.family in _FAMILIES:
            yield reply.family, name.rstrip(b"\0").decode(errors="replace")


def _chain(family: int, table: str, name: str) -> dict[int, bytes] | None:
    """Its attributes; None where there is none, or the kernel does not say."""
    body = netlink.attribute(_TABLE, _text(table)) + netlink.attribute(_NAME, _text(name))
    try:
        (reply,) = netlink.ask(
            netlink.NETFILTER, netlink.message(_GET_CHAIN, netlink.NLM_F_REQUEST, family, body)
        )
    except OSError:
        return None
    return dict(netlink.attributes(reply.body))


def _text(name: str) -> bytes:
    return name.encode() + b"\0"
