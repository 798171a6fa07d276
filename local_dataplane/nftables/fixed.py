"""The chains that do not depend on any Service, and the words that rules are put together from. Pure.

Marks carry a decision from the nat chains, which find the frontend but may not refuse, to where it can be
carried out, as in the iptables mode: the masquerade mark to postrouting, the refusal mark to the filter
chains; both together mean: drop without a word.
"""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass

from lbprov.model import IPFamily
from local_dataplane.config import NodeConfig, PodSide
from local_dataplane.nftables import layout
from local_dataplane.nftables.expressions import (
    ACCEPT,
    DROP,
    AddressType,
    Base,
    Bitwise,
    Branch,
    Compare,
    Conntrack,
    CtKey,
    LoadInterface,
    LoadMark,
    LoadProtocol,
    Lookup,
    Masquerade,
    Payload,
    Reject,
    Rule,
    SetMark,
    goto,
    jump,
)
from local_dataplane.nftables.layout import number
from local_dataplane.nftables.objects import Chain, Hook

_PREROUTING, _INPUT, _FORWARD, _OUTPUT, _POSTROUTING = range(5)
# Before others' chains: Docker's nat and firewalls' filters stand at -100, 0 and 100.
_DSTNAT, _FILTER, _SRCNAT = -105, -5, 95

# Names that are no words of nft: its listing must be readable by it again.
REFUSE, DROPPING = "mark-refuse", "mark-drop"
_REFUSE_NOW, _MASQUERADE, _SECOND_LOOK = "refuse-now", "masquerade-now", "cluster-ips-again"

_RTN_LOCAL = 2
_STATE_INVALID, _STATE_ESTABLISHED, _STATE_RELATED = 1 << 0, 1 << 1, 1 << 2
_STATUS_DNAT = 1 << 5
_LOOPBACK = {IPFamily.IPV4: "127.0.0.0/8", IPFamily.IPV6: "::1/128"}


INPUT = "filter-input"


@dataclass(frozen=True, slots=True)
class Where:
    """What the chains of one node have in common. `pods`: how Pods are recognized there."""

    family: IPFamily
    config: NodeConfig
    pods: PodSide


def internal(endpoints: int) -> str:
    """The chain of clusterIPs with so many endpoints."""
    return f"internal-all-{endpoints}"


def fixed_chains(where: Where) -> dict[str, Chain]:
    """In an order in which none leads to a later one."""
    p, config = Packet(where.family), where.config
    masquerade, refusal = config.masquerade_mark, config.refusal_mark
    both = masquerade | refusal
    refused = (*_marked(refusal), goto(_REFUSE_NOW))
    few = tuple((*p.frontend, Lookup(layout.few(n), 0), goto(internal(n))) for n in layout.FEW)
    guard = (LOCALHOST_GUARD,) if _opens_localhost(where) else ()
    return {
        _REFUSE_NOW: Chain((
            (*_marked(both), DROP),
            # A reset is not subject to the rate limit of ICMP errors, so that nobody waits.
            (LoadProtocol(0), Compare(0, bytes([socket.IPPROTO_TCP])), Reject(with_reset=True)),
            (Reject(with_reset=False),),
        )),
        REFUSE: Chain(((*_set_mark(both, refusal), ACCEPT),)),
        DROPPING: Chain(((*_set_mark(both, both), ACCEPT),)),
        # The mark is cleared: a packet that is encapsulated keeps it and would come by once more.
        _MASQUERADE: Chain(((*_set_mark(masquerade, 0), Masquerade()),)),
        # A packet that is under way while a transaction moves its clusterIP to an earlier set has looked in
        # that one too soon and in the later one too late.
        _SECOND_LOOK: Chain((*few, (goto(REFUSE),))),
        "node-ports": Chain(_node_ports(p, where)),
        "services": Chain((
            # Most packets are for no Service, and are let go after one look.
            (p.destination(0), Lookup(layout.ADDRESSES, 0, absent=True), goto("node-ports")),
            *few,
            (*p.frontend, Branch(layout.FRONTENDS, 0)),
            (*p.frontend, Lookup(layout.REFUSED, 0), goto(REFUSE)),
            # A clusterIP has nothing behind it but what its Service says.
            (p.destination(0), Lookup(layout.CLUSTER_IPS, 0), goto(_SECOND_LOOK)),
            (goto("node-ports"),),
        )),
        "nat-prerouting": Chain(((jump("services"),),), Hook("nat", _PREROUTING, _DSTNAT)),
        "nat-output": Chain(((jump("services"),),), Hook("nat", _OUTPUT, _DSTNAT)),
        "nat-postrouting": Chain((
            (*_marked(masquerade), goto(_MASQUERADE)),
            (
                Conntrack(CtKey.STATUS, 0), *_has_bits(_STATUS_DNAT),
                p.source(0), p.destination(p.registers), Lookup(layout.HAIRPINS, 0), goto(_MASQUERADE),
            ),
        ), Hook("nat", _POSTROUTING, _SRCNAT)),
        INPUT: Chain((refused, *guard), Hook("filter", _INPUT, _FILTER)),
        "filter-forward": Chain((refused, *_drop_invalid(p, where)), Hook("filter", _FORWARD, _FILTER)),
        # What the node sends to itself comes by once more, in input: refused there, a UDP socket is told that
        # nobody listens; refused on its way out, that it may not send.
        "filter-output": Chain((
            (LoadMark(0), *_are(both, refusal), *is_local(of_source=False), ACCEPT), refused, *guard,
        ), Hook("filter", _OUTPUT, _FILTER)),
    }  # fmt: skip


class Packet:
    """Where a family's packets have what. Registers: keys begin at 0."""

    def __init__(self, family: IPFamily) -> None:
        v6 = family is IPFamily.IPV6
        self.family = family
        self.length = 16 if v6 else 4
        self.registers = self.length // 4
        self._source_at, self._destination_at = (8, 24) if v6 else (12, 16)
        self.frontend: Rule = (self.destination(0), *_service(self.registers))
        """A key of `frontends`."""
        self.node_port: Rule = _service(0)
        """A key of `nodeports`."""

    def source(self, to: int) -> Payload:
        return Payload(Base.NETWORK, self._source_at, self.length, to)

    def destination(self, to: int) -> Payload:
        return Payload(Base.NETWORK, self._destination_at, self.length, to)

    def source_in(self, cidr: str, *, inside: bool = True) -> Rule:
        return (self.source(0), *_in_network(cidr, inside=inside))

    def destination_in(self, cidr: str, *, inside: bool = True) -> Rule:
        return (self.destination(0), *_in_network(cidr, inside=inside))

    def of_pods(self, pods: PodSide, *, true: bool = True) -> Rule:
        """`pods` must be true."""
        if pods.cidr:
            return self.source_in(pods.cidr, inside=true)
        return (LoadInterface(0), Compare(0, _interface(pods), true))

    def to_pods(self, pods: PodSide) -> Rule:
        """Of packets that are forwarded; `pods` must be true."""
        if pods.cidr:
            return self.destination_in(pods.cidr)
        return (LoadInterface(0, leaves_by=True), Compare(0, _interface(pods)))


def _interface(pods: PodSide) -> bytes:
    return pods.interface.encode() if pods.is_prefix else pods.interface.encode().ljust(16, b"\0")


def _service(to: int) -> Rule:
    """Protocol and port."""
    return (LoadProtocol(to), Payload(Base.TRANSPORT, 2, 2, to + 1))


def _in_network(cidr: str, *, inside: bool) -> Rule:
    """Of the address at register 0."""
    network = ipaddress.ip_network(cidr)
    mask, base = network.netmask.packed, network.network_address.packed
    return (Bitwise(0, mask, b"\0" * len(mask)), Compare(0, base, inside))


def is_local(*, of_source: bool) -> Rule:
    return (AddressType(of_source, 0), Compare(0, number(_RTN_LOCAL)))


def _has_bits(bits: int) -> Rule:
    """Any of them, in register 0."""
    return (Bitwise(0, number(bits), number(0)), Compare(0, number(0), equal=False))


def _marked(bits: int) -> Rule:
    return (LoadMark(0), *_are(bits, bits))


def _are(bits: int, value: int) -> Rule:
    """These bits of register 0."""
    return (Bitwise(0, number(bits), number(0)), Compare(0, number(value)))


def _set_mark(bits: int, value: int) -> Rule:
    """The bits of the packet's mark to a value, the others as they are."""
    return (LoadMark(0), Bitwise(0, number(~bits & 0xFFFFFFFF), number(value)), SetMark(0))


def mark_masquerade(config: NodeConfig) -> Rule:
    return _set_mark(config.masquerade_mark, config.masquerade_mark)


def mark_clients(where: Where) -> tuple[Rule, ...]:
    """A clusterIP's clients that are no Pods are masqueraded."""
    mark = mark_masquerade(where.config)
    if where.config.masquerade_all:
        return (mark,)
    return ((*Packet(where.family).of_pods(where.pods, true=False), *mark),) if where.pods else ()


def _opens_localhost(where: Where) -> bool:
    return where.config.localhost_nodeports and where.family is IPFamily.IPV4


def _node_ports(p: Packet, where: Where) -> tuple[Rule, ...]:
    """For packets to this node. On loopback only if that is asked for, and only for the node's own programs:
    answering there takes route_localnet, see `LOCALHOST_GUARD`."""
    loopback = _LOOPBACK[where.family]
    local = (*is_local(of_source=False), *p.node_port, Branch(layout.NODEPORTS, 0))
    own = (*p.source_in(loopback), *p.destination_in(loopback), *local)
    rules: list[Rule] = [own] if _opens_localhost(where) else []
    if not where.config.nodeport_addresses:
        return (*rules, (*p.destination_in(loopback, inside=False), *local))
    return (*rules, *((*p.destination_in(c), *local) for c in where.config.nodeport_cidrs(where.family)))


def _drop_invalid(p: Packet, where: Where) -> tuple[Rule, ...]:
    """What a Pod gets to see of a connection that it has with a clusterIP, or a client outside with a node,
    is answered with a reset. Connections of others may come back by another way than this node."""
    if not where.config.drop_invalid:
        return ()
    # The state first: every packet that is forwarded is asked, and hardly any goes on from there.
    invalid = (Conntrack(CtKey.STATE, 0), *_has_bits(_STATE_INVALID))
    whose = (p.of_pods(where.pods), p.to_pods(where.pods)) if where.pods else ((),)
    return tuple((*invalid, *match, DROP) for match in whose)


def _localhost_guard() -> Rule:
    p, loopback = Packet(IPFamily.IPV4), _LOOPBACK[IPFamily.IPV4]
    known = number(_STATE_ESTABLISHED | _STATE_RELATED)
    is_new = (Conntrack(CtKey.STATE, 0), Bitwise(0, known, number(0)), Compare(0, number(0)))
    return (*p.source_in(loopback, inside=False), *p.destination_in(loopback), *is_new, DROP)


LOCALHOST_GUARD = _localhost_guard()
"""Keeps neighbours from what listens on 127.0.0.1 while route_localnet is on (CVE-2020-8558)."""
