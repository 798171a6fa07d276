"""The chains that do not depend on any Service. Pure.

Marks carry a decision from the nat table, which finds the frontend but may not refuse, to where it can be
carried out: the masquerade mark to POSTROUTING, the refusal mark to the filter table. Both marks together
mean: drop without a word. So every decision about a Service is a change of the nat table alone, hence atomic.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple

from lbprov.model import IPFamily
from local_dataplane.config import NodeConfig
from local_dataplane.iptables import names
from local_dataplane.iptables.tree import Rules


class Table(StrEnum):
    """In the order in which they are written: refusing what is marked is safe before anything marks."""

    FILTER = "filter"
    NAT = "nat"


class Jump(NamedTuple):
    """A rule of ours in a chain of the kernel's: the first there, exactly once."""

    table: Table
    chain: str
    rule: str


JUMPS = (
    Jump(Table.FILTER, "INPUT", f"-j {names.FILTER}"),
    Jump(Table.FILTER, "FORWARD", f"-j {names.FORWARD}"),
    Jump(Table.FILTER, "OUTPUT", f"-j {names.FILTER}"),
    Jump(Table.NAT, "PREROUTING", f"-j {names.SERVICES}"),
    Jump(Table.NAT, "OUTPUT", f"-j {names.SERVICES}"),
    Jump(Table.NAT, "POSTROUTING", f"-j {names.POSTROUTING}"),
)

_LOOPBACK = {IPFamily.IPV4: "127.0.0.0/8", IPFamily.IPV6: "::1/128"}
_UNREACHABLE = {IPFamily.IPV4: "icmp-port-unreachable", IPFamily.IPV6: "icmp6-port-unreachable"}


LOCALHOST_GUARD = "! -s 127.0.0.0/8 -d 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED -j DROP"
"""Keeps neighbours from what listens on 127.0.0.1 while route_localnet is on (CVE-2020-8558)."""


def guards_localhost(family: IPFamily, config: NodeConfig) -> bool:
    return config.localhost_nodeports and family is IPFamily.IPV4


TO_HEALTH = f"-p tcp -m addrtype --dst-type LOCAL -j {names.HEALTH}"


def health_rules(ports: Iterable[int]) -> Rules:
    """Load balancers' health checks are let in, whatever firewall rules follow."""
    return tuple(f"-p tcp -m tcp --dport {port} -j ACCEPT" for port in sorted(ports))


def fixed_chains(
    family: IPFamily, config: NodeConfig, pods_matches: Rules, *, has_health_ports: bool = False
) -> dict[tuple[Table, str], Rules]:
    """`pods_matches`: what tells packets of Pods, and what those to Pods; empty: nothing does."""
    masquerade, refusal = config.masquerade_mark, config.refusal_mark
    both = masquerade | refusal
    marked_for_refusal = f"-m mark --mark {refusal:#x}/{refusal:#x} -g {names.REFUSE}"
    return {
        (Table.FILTER, names.FILTER): (
            # What the node sends to itself comes by once more, in INPUT: refused there, a UDP socket is told
            # that nobody listens; refused on its way out, that it may not send.
            f"-o lo -m mark --mark {refusal:#x}/{both:#x} -j RETURN",
            marked_for_refusal,
            *((LOCALHOST_GUARD,) if guards_localhost(family, config) else ()),
            *((TO_HEALTH,) if has_health_ports else ()),
        ),
        (Table.FILTER, names.FORWARD): (
            marked_for_refusal,
            # Ours is accepted whatever the FORWARD policy is; not more than ours, firewalls of others count.
            f"-m mark --mark {masquerade:#x}/{masquerade:#x} -j ACCEPT",
            "-m conntrack --ctstate DNAT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
            *_drop_invalid(config, pods_matches),
        ),
        (Table.FILTER, names.REFUSE): (
            f"-m mark --mark {both:#x}/{both:#x} -j DROP",
            # A reset is not subject to the rate limit of ICMP errors, so that nobody waits.
            "-p tcp -j REJECT --reject-with tcp-reset",
            f"-j REJECT --reject-with {_UNREACHABLE[family]}",
        ),
        (Table.NAT, names.MARK_MASQUERADE): (f"-j MARK --set-xmark {masquerade:#x}/{masquerade:#x}",),
        # ACCEPT: what is refused needs no further look in nat.
        (Table.NAT, names.REFUSE): (f"-j MARK --set-xmark {refusal:#x}/{both:#x}", "-j ACCEPT"),
        (Table.NAT, names.DROP): (f"-j MARK --set-xmark {both:#x}/{both:#x}", "-j ACCEPT"),
        (Table.NAT, names.POSTROUTING): (
            f"-m mark --mark {masquerade:#x}/{masquerade:#x} -g {names.MASQUERADE}",
            f"-m conntrack --ctstate DNAT -j {names.HAIRPIN}",
        ),
        # The mark is cleared: a packet that is encapsulated keeps it and would come by once more.
        (Table.NAT, names.MASQUERADE): (
            f"-j MARK --set-xmark 0x0/{masquerade:#x}",
            "-j MASQUERADE --random-fully",
        ),
    }


def _drop_invalid(config: NodeConfig, pods_matches: Rules) -> Rules:
    """What a Pod gets to see of a connection that it has with a clusterIP, or a client outside with a node,
    is answered with a reset. Connections of others may come back by another way than this node."""
    if not config.drop_invalid:
        return ()
    rule = "-m conntrack --ctstate INVALID -j DROP"
    return tuple(f"{match} {rule}" for match in pods_matches) or (rule,)


def nodeport_entrance(family: IPFamily, config: NodeConfig) -> Rules:
    """To the NodePorts, for packets to this node. On loopback only if that is asked for, and only for the
    node's own programs: answering there takes route_localnet, see `LOCALHOST_GUARD`."""
    local = f"-m addrtype --dst-type LOCAL -j {names.NODEPORTS}"
    loopback = _LOOPBACK[family]
    own = (f"-s {loopback} -d {loopback} {local}",) if guards_localhost(family, config) else ()
    if not config.nodeport_addresses:
        return (*own, f"! -d {loopback} {local}")
    return (*own, *(f"-d {cidr} {local}" for cidr in config.nodeport_cidrs(family)))
