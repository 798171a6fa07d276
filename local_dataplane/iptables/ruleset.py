"""All chains of one family that the forwarding table calls for, kept up to date piece by piece. Pure.

A packet's way through them is drawn in docs/dataplane.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from lbprov.model import IPFamily
from local_dataplane.config import NodeConfig, NodeFacts
from local_dataplane.iptables import names
from local_dataplane.iptables.dispatch import Dispatch, Target, address_shape
from local_dataplane.iptables.fixed import Table, fixed_chains, health_rules, nodeport_entrance
from local_dataplane.iptables.render import (
    Fragment,
    address_number,
    fragment,
    from_pods,
    host_bits,
    mark_clients,
    to_pods,
    unmark_clients,
)
from local_dataplane.iptables.tree import Entry, PrefixTree, Rules
from local_dataplane.table import ForwardingTable, Frontend, PortKey, Purpose, ServiceState

ChainKey = tuple[Table, str]


class Ruleset:
    """`chains` is what should be in the kernel; `dirty` gathers the chains that changed, for the caller to
    clear. The chains depend on the states alone, not on the order in which they came."""

    def __init__(self, family: IPFamily, config: NodeConfig, node: NodeFacts) -> None:
        self.family = family
        self.chains: dict[ChainKey, Rules] = {}
        self.dirty: set[ChainKey] = set()
        self.table = ForwardingTable()
        self._config = config.for_node(node)
        self._node = node
        self._fragments: dict[PortKey, Fragment] = {}
        self._owners: dict[str, PortKey] = {}  # chain of a fragment -> its Service port
        self._dispatch = Dispatch(family)
        self._sources = PrefixTree(address_shape(family, "HP", "-s"))
        self._hairpins: Counter[str] = Counter()  # address -> Service ports that may send it to itself
        self._pods = config.pods(family, node)
        self._health_ports: frozenset[int] = frozenset()
        self._put(Table.NAT, names.NODEPORTS, ())
        self._render_fixed()
        self._render_trees()

    def replace(self, states: Iterable[tuple[PortKey, ServiceState | None]]) -> None:
        """Take over new states of this family (None: that port is gone)."""
        touched: set[Frontend] = set()
        for key, state in states:
            self._count_hairpins(key, state)
            self._replace_fragment(key, state)
            touched |= self.table.replace(key, state)
        for frontend in touched:
            self._dispatch.set(frontend, self._target(frontend))
        self._render_trees()

    def set_node(self, node: NodeFacts) -> None:
        """The node's addresses decide who a load balancer's source ranges let in; its podCIDRs, perhaps, who
        is a Pod."""
        if node != self._node:
            self._node = node
            self._config = self._config.for_node(node)
            self._pods = self._config.pods(self.family, node)
            self._render_fixed()
            self.replace(list(self.table.states.items()))

    def set_health_ports(self, ports: frozenset[int]) -> None:
        if ports != self._health_ports:
            self._health_ports = ports
            self._put(Table.FILTER, names.HEALTH, health_rules(ports) if ports else None)
            self._render_fixed()

    def owner(self, chain: str, rule: str = "") -> PortKey | None:
        """Whose rule it is: by the chain it stands in, else by the one it leads to."""
        return self._owners.get(chain) or self._owners.get(rule.rpartition(" ")[2])

    def _target(self, frontend: Frontend) -> Target | None:
        claim = self.table.holder(frontend)
        if claim is None:
            return None
        chain = self._fragments[claim.key].target(claim.purpose)
        return Target(chain, str(claim.key), claim.purpose is Purpose.CLUSTER_IP)

    def _replace_fragment(self, key: PortKey, state: ServiceState | None) -> None:
        old = self._fragments.pop(key, None)
        if state is not None:
            self._fragments[key] = fragment(state, self._config, self._node)
        new = dict(self._fragments[key].chains) if state else {}
        for chain in (dict(old.chains) if old else {}).keys() - new.keys():
            self._put(Table.NAT, chain, None)
            del self._owners[chain]
        for chain, rules in new.items():
            self._put(Table.NAT, chain, rules)
            self._owners[chain] = key

    def _count_hairpins(self, key: PortKey, state: ServiceState | None) -> None:
        old = self.table.states.get(key)
        before = set(old.choice.hairpin) if old else set()
        after = set(state.choice.hairpin) if state else set()
        self._hairpins.update(after - before)
        self._hairpins.subtract(before - after)
        for address in before ^ after:
            entry = None
            if self._hairpins[address] > 0:
                host = f"{address}/{host_bits(self.family)}"
                entry = Entry((f"-s {host} -d {host} -g {names.MASQUERADE}",))
            else:
                del self._hairpins[address]
            self._sources.set(address_number(address), entry)

    def _render_fixed(self) -> None:
        pods = (from_pods(self._pods), to_pods(self._pods)) if self._pods else ()
        has_ports = bool(self._health_ports)
        chains = fixed_chains(self.family, self._config, pods, has_health_ports=has_ports)
        for (table, chain), rules in chains.items():
            self._put(table, chain, rules)

    def _render_trees(self) -> None:
        for chain, rules in (self._dispatch.take_changes() | self._sources.take_changes()).items():
            self._put(Table.NAT, chain, rules)
        frontends = self._dispatch.root_rules()
        if frontends:
            marked = mark_clients(self._config, self._pods)
            frontends = (*marked, *frontends, *unmark_clients(self._config, self._pods))
        entrance = nodeport_entrance(self.family, self._config) if self._dispatch.has_nodeports else ()
        self._put(Table.NAT, names.SERVICES, frontends + entrance)
        self._put(Table.NAT, names.HAIRPIN, self._sources.root_rules())

    def _put(self, table: Table, chain: str, rules: Rules | None) -> None:
        key = (table, chain)
        if self.chains.get(key) == rules:
            return
        if rules is None:
            del self.chains[key]
        else:
            self.chains[key] = rules
        self.dirty.add(key)
