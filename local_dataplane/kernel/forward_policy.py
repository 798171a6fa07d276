"""Which nf_tables chains of others drop by default what is forwarded: no other table can let that through."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from local_dataplane.kernel import netlink

_GET_CHAIN = 10 << 8 | 4  # NFNL_SUBSYS_NFTABLES, NFT_MSG_GETCHAIN
_TABLE, _NAME, _HOOK, _POLICY = 1, 3, 4, 5  # NFTA_CHAIN_…
_HOOK_NUMBER = 1
_FORWARD = (2).to_bytes(4, "big")
_DROP = (0).to_bytes(4, "big")
_FAMILIES = {1: "inet", 2: "ip", 10: "ip6"}
_OF_IPTABLES = {f"table {family} filter, chain FORWARD" for family in ("ip", "ip6")}


def dropping_chains() -> list[str]:
    """In nft's words, those of iptables-nft left out. Empty where the kernel does not say."""
    request = netlink.message(_GET_CHAIN, netlink.NLM_F_REQUEST | netlink.NLM_F_DUMP, family=0)
    try:
        return sorted(set(decode(netlink.ask(netlink.NETFILTER, request))) - _OF_IPTABLES)
    except OSError:
        return []


def decode(replies: Iterable[netlink.Message]) -> Iterator[str]:
    for reply in replies:
        chain = dict(netlink.attributes(reply.body))
        hook = dict(netlink.attributes(chain.get(_HOOK, b"")))
        if reply.family in _FAMILIES and hook.get(_HOOK_NUMBER) == _FORWARD and chain.get(_POLICY) == _DROP:
            table, name = (
                chain.get(what, b"").rstrip(b"\0").decode(errors="replace") for what in (_TABLE, _NAME)
            )
            yield f"table {_FAMILIES[reply.family]} {table}, chain {name}"
