"""From a packet's destination to the chain of the Service port that it is for. Pure.

Addresses are found in one tree, the NodePorts in another; an address with many ports has a tree of its own.
"""

from __future__ import annotations

import ipaddress
from typing import NamedTuple

from lbprov.model import IPFamily, L4Protocol
from local_dataplane.iptables import names
from local_dataplane.iptables.render import address_number, host_bits
from local_dataplane.iptables.tree import Entry, PrefixTree, Rules, Shape
from local_dataplane.table import Frontend

MANY_PORTS = 12
"""An address with more frontends has a chain and a tree of its own, so that leaves stay short."""


class Target(NamedTuple):
    """Where a frontend leads. `label` is for people who read the rules. `refuses_rest`: all other ports of
    the address are refused; a clusterIP has nothing behind it but what its Service says."""

    chain: str
    label: str
    refuses_rest: bool = False

    @property
    def rule(self) -> str:
        return f'-m comment --comment "{self.label}" -g {self.chain}'


class Dispatch:
    """`set` frontends, then `take_changes`."""

    def __init__(self, family: IPFamily) -> None:
        self._bits = host_bits(family)
        self._targets: dict[str, dict[Frontend, Target]] = {}  # address -> its frontends
        self._stale: set[str] = set()  # addresses to look at again
        self._addresses = PrefixTree(address_shape(family, "IP", "-d"))
        self._nodeports = _PortTrees(names.NODEPORT_OWNER)
        self._many: dict[str, _PortTrees] = {}  # address with many ports -> their trees
        self._changes: dict[str, Rules | None] = {}

    def set(self, frontend: Frontend, target: Target | None) -> None:
        targets = self._targets.setdefault(frontend.address, {})
        if target == targets.get(frontend):
            return
        if target:
            targets[frontend] = target
        else:
            del targets[frontend]
        self._stale.add(frontend.address)
        trees = self._nodeports if not frontend.address else self._many.get(frontend.address)
        if trees:
            trees.set(frontend, target)

    @property
    def has_nodeports(self) -> bool:
        return bool(self._targets.get(""))

    def root_rules(self) -> Rules:
        """For the chain that all new connections meet."""
        return self._addresses.root_rules()

    def take_changes(self) -> dict[str, Rules | None]:
        """Chain -> its rules, None where it is gone, since the last call."""
        for address in self._stale:
            if address:
                self._place(address)
            else:
                self._changes[names.NODEPORTS] = self._nodeports.root_rules()
        self._stale.clear()
        changes = self._changes | self._nodeports.take_changes() | self._addresses.take_changes()
        self._changes = {}
        return changes

    def _place(self, address: str) -> None:
        targets = self._targets[address]
        number = address_number(address)
        chain = names.address_chain(number, self._bits)
        if len(targets) > MANY_PORTS:
            if address not in self._many:
                trees = self._many[address] = _PortTrees(chain)
                for frontend, target in targets.items():
                    trees.set(frontend, target)
            heads: Rules = (f"-d {address}/{self._bits} -j {chain}",)
            self._changes[chain] = self._many[address].root_rules()
            self._changes |= self._many[address].take_changes()
        else:
            heads = tuple(
                f"-d {address}/{self._bits} {_port_match(f)}{target.rule}"
                for f, target in sorted(targets.items())
            )
            self._dismantle(address, chain)
        refuses = any(target.refuses_rest for target in targets.values())
        tails = (f"-d {address}/{self._bits} -g {names.REFUSE}",) if refuses else ()
        self._addresses.set(number, Entry(heads, tails))
        if not targets:
            del self._targets[address]

    def _dismantle(self, address: str, chain: str) -> None:
        trees = self._many.pop(address, None)
        if trees:
            trees.clear()
            self._changes |= {chain: None} | trees.take_changes()


class _PortTrees:
    """A tree of ports per protocol. `owner` begins the names of their chains."""

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._trees: dict[L4Protocol, PrefixTree] = {}
        self._ports: set[tuple[L4Protocol, int]] = set()

    def set(self, frontend: Frontend, target: Target | None) -> None:
        protocol, port = frontend.protocol, frontend.port
        if protocol not in self._trees:
            self._trees[protocol] = PrefixTree(_port_shape(self._owner, protocol))
        entry = Entry((f"{_port_match(frontend)}{target.rule}",)) if target else None
        self._trees[protocol].set(port, entry)
        (self._ports.add if target else self._ports.discard)((protocol, port))

    def clear(self) -> None:
        for protocol, port in self._ports:
            self._trees[protocol].set(port, None)
        self._ports.clear()

    def root_rules(self) -> Rules:
        return tuple(rule for _, tree in sorted(self._trees.items()) for rule in tree.root_rules())

    def take_changes(self) -> dict[str, Rules | None]:
        changes: dict[str, Rules | None] = {}
        for tree in self._trees.values():
            changes |= tree.take_changes()
        return changes


def _port_match(frontend: Frontend) -> str:
    name = frontend.protocol.lower()
    return f"-p {name} -m {name} --dport {frontend.port} "


def _port_shape(owner: str, protocol: L4Protocol) -> Shape:
    name = protocol.lower()

    def match(prefix: int, length: int) -> str:
        last = prefix | (1 << 16 - length) - 1
        return f"-p {name} -m {name} --dport {prefix}:{last} "

    return Shape(16, match, lambda prefix, length: names.port_tree_chain(owner, protocol, prefix, length))


def address_shape(family: IPFamily, kind: str, flag: str) -> Shape:
    """`flag`: `-d` or `-s`, what is compared with the prefix. `kind`: two letters in the chains' names."""
    bits = host_bits(family)
    make = ipaddress.IPv6Address if bits == 128 else ipaddress.IPv4Address

    def match(prefix: int, length: int) -> str:
        return f"{flag} {make(prefix)}/{length} " if length else ""

    return Shape(bits, match, lambda prefix, length: names.tree_chain(kind, prefix, length, bits))
