"""One Service port as chains of the nat table. Pure; every string is what `iptables-save` would print."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from lbprov.model import IPFamily, TrafficPolicy
from local_dataplane.config import NodeConfig, NodeFacts, PodSide
from local_dataplane.endpoints import Backend
from local_dataplane.iptables import names
from local_dataplane.iptables.choice import choice_chains
from local_dataplane.iptables.tree import Rules
from local_dataplane.table import Purpose, ServiceState, Verdict

MARK_MASQUERADE = f"-j {names.MARK_MASQUERADE}"


@dataclass(frozen=True, slots=True)
class Fragment:
    """The chains of one Service port, and the chain that each kind of frontend goes to."""

    chains: tuple[tuple[str, Rules], ...]
    internal: str
    external: str
    load_balancer: str

    def target(self, purpose: Purpose) -> str:
        if purpose is Purpose.CLUSTER_IP:
            return self.internal
        return self.load_balancer if purpose is Purpose.LOAD_BALANCER else self.external


def host_bits(family: IPFamily) -> int:
    return 128 if family is IPFamily.IPV6 else 32


def address_number(address: str) -> int:
    if ":" in address:
        return int(ipaddress.IPv6Address(address))
    return int.from_bytes(map(int, address.split(".")), "big")


def fragment(state: ServiceState, config: NodeConfig, node: NodeFacts) -> Fragment:
    """Only the chains that some frontend of the state leads to."""
    chains: dict[str, Rules] = {}
    internal = _internal(state, chains)
    external = ""
    if state.node_port or state.external_ips or state.load_balancer_ips:
        external = _external(state, config, config.pods(state.key.family, node), chains)
    load_balancer = external
    if state.load_balancer_ips and _restricts(state.source_ranges):
        load_balancer = _firewall(state, external, node, chains)
    return Fragment(tuple(chains.items()), internal, external, load_balancer)


def _internal(state: ServiceState, chains: dict[str, Rules]) -> str:
    """Clients of the clusterIP."""
    verdict = state.verdict(state.internal_policy)
    if verdict is not Verdict.FORWARD:
        return names.REFUSE if verdict is Verdict.REFUSE else names.DROP
    if state.internal_policy is TrafficPolicy.LOCAL:
        return _local(state, chains)
    return _cluster(state, chains)


def _external(state: ServiceState, config: NodeConfig, pods: PodSide, chains: dict[str, Rules]) -> str:
    """Clients of NodePort, externalIP and load balancer."""
    if not state.has_endpoints:
        return names.REFUSE
    name = names.external_chain(state.key)
    if state.external_policy is TrafficPolicy.CLUSTER:
        # The answer must come back through this node, which alone knows the connection.
        chains[name] = (MARK_MASQUERADE, f"-g {_cluster(state, chains)}")
        return name
    rules = list(unmark_clients(config, pods))
    if state.choice.cluster:
        anywhere = _cluster(state, chains)
        if pods:
            rules.append(f"{from_pods(pods)} -g {anywhere}")
        rules.append(f"-m addrtype --src-type LOCAL {MARK_MASQUERADE}")
        rules.append(f"-m addrtype --src-type LOCAL -g {anywhere}")
    rules.append(f"-g {_local(state, chains) if state.choice.local else names.DROP}")
    chains[name] = tuple(rules)
    return name


def _cluster(state: ServiceState, chains: dict[str, Rules]) -> str:
    return _choose(names.cluster_chain(state.key), state, state.choice.cluster, chains)


def _local(state: ServiceState, chains: dict[str, Rules]) -> str:
    return _choose(names.local_chain(state.key), state, state.choice.local, chains)


def _choose(name: str, state: ServiceState, backends: tuple[Backend, ...], chains: dict[str, Rules]) -> str:
    """A chain that ends in one of the backends; its name."""
    match = f"-p {state.key.protocol.lower()} "
    if name in chains:
        return name
    if not state.affinity_s:
        chains.update(choice_chains(name, backends, dnat, match))
        return name
    made = choice_chains(name, backends, lambda b: f"-g {names.affinity_chain(state.key, b)}", "")
    known: Rules = ()
    for backend in backends:
        chain = names.affinity_chain(state.key, backend)
        known += (_recent(f"--rcheck --seconds {state.affinity_s} --reap", chain, state) + f"-g {chain}",)
        chains[chain] = (f"{match}{_recent('--set', chain, state)}{dnat(backend)}",)
    chains.update(made | {name: known + made[name]})
    return name


def from_pods(pods: PodSide) -> str:
    """The match for packets of Pods; `pods` must be true."""
    if pods.cidr:
        return f"-s {pods.cidr}"
    return f"-i {pods.interface}{'+' if pods.is_prefix else ''}"


def to_pods(pods: PodSide) -> str:
    """The match for packets that are forwarded to Pods; `pods` must be true."""
    if pods.cidr:
        return f"-d {pods.cidr}"
    return f"-o {pods.interface}{'+' if pods.is_prefix else ''}"


def mark_clients(config: NodeConfig, pods: PodSide) -> Rules:
    """Before the frontends are looked at: clients that are no Pods are masqueraded. That is what a
    clusterIP's clients need; other frontends decide anew."""
    if config.masquerade_all:
        return (MARK_MASQUERADE,)
    return (f"! {from_pods(pods)} {MARK_MASQUERADE}",) if pods else ()


def unmark_clients(config: NodeConfig, pods: PodSide) -> Rules:
    """Takes back what `mark_clients` did."""
    return (f"-j MARK --set-xmark 0x0/{config.masquerade_mark:#x}",) if mark_clients(config, pods) else ()


def _recent(action: str, list_name: str, state: ServiceState) -> str:
    mask = "ffff:" * 7 + "ffff" if state.key.family is IPFamily.IPV6 else "255.255.255.255"
    return f"-m recent {action} --name {list_name} --mask {mask} --rsource "


def dnat(backend: Backend) -> str:
    address = f"[{backend.address}]" if ":" in backend.address else backend.address
    return f"-j DNAT --to-destination {address}:{backend.port}"


def _firewall(state: ServiceState, external: str, node: NodeFacts, chains: dict[str, Rules]) -> str:
    """Source ranges are for the load balancer's addresses only. Who is not in one waits in vain.

    A load balancer's address may be this node's own as well; the node's connections to it then come from
    that very address, so it is let in where the node is (as kube-proxy does)."""
    name = names.firewall_chain(state.key)
    rules = [f"-s {cidr} -g {external}" for cidr in state.source_ranges]
    if _admits_node(state.source_ranges, node):
        rules += [f"-s {ip}/{host_bits(state.key.family)} -g {external}" for ip in state.load_balancer_ips]
    chains[name] = (*rules, f"-g {names.DROP}")
    return name


def _restricts(ranges: tuple[str, ...]) -> bool:
    return bool(ranges) and not any(cidr.endswith("/0") for cidr in ranges)


def _admits_node(ranges: tuple[str, ...], node: NodeFacts) -> bool:
    networks = [ipaddress.ip_network(cidr, strict=False) for cidr in ranges]
    return any(ipaddress.ip_address(a) in network for a in node.addresses for network in networks)
