"""What one node is told about itself: flags and facts, checked once."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, replace
from enum import StrEnum

from lbprov.model import IPFamily, Node, UserError


def family_of(address: str) -> IPFamily:
    """The family of an address or CIDR in text; by its looks, without checking it."""
    return IPFamily.IPV6 if ":" in address else IPFamily.IPV4


class Detect(StrEnum):
    """By what Pods are told from everybody else; kube-proxy's `--detect-local-mode`."""

    CLUSTER_CIDR = "cluster-cidr"
    NODE_CIDR = "node-cidr"
    BRIDGE_INTERFACE = "bridge-interface"
    INTERFACE_NAME_PREFIX = "interface-name-prefix"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class PodSide:
    """What the packets of Pods have in common: where they come from (`cidr`), or the interface that they come
    in on (its whole name, or how it begins). False: nobody is taken for a Pod."""

    cidr: str = ""
    interface: str = ""
    is_prefix: bool = False

    def __bool__(self) -> bool:
        return bool(self.cidr or self.interface)


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """How this node forwards, whatever the Services are.

    - `detect_local`: how Pods are told from everybody else. Traffic to a clusterIP from elsewhere is
      masqueraded; where nobody is taken for a Pod, nothing is.
    - `cluster_cidrs`: where Pods' addresses come from, at most one CIDR per family.
    - `pod_interface`: the bridge of this node's Pods, or how the names of their interfaces begin.
    - `nodeport_primary`: serve NodePorts on the node's first address of each family only (`for_node`).
    - `localhost_nodeports`: serve NodePorts on 127.0.0.1 as well, for this node's own programs (IPv4 only).
    - `masquerade_bit`, `refusal_bit`: the two bits of the packet mark that are ours (0 to 31).
    - `nodeport_addresses`: CIDRs whose local addresses serve NodePorts; empty: all but loopback.
    - `drop_invalid`: drop packets of Pods and to Pods that connection tracking calls INVALID (their NAT
      cannot be undone and the client would reset the connection); False where the kernel is told to be
      liberal.
    """

    cluster_cidrs: tuple[str, ...] = ()
    masquerade_all: bool = False
    masquerade_bit: int = 14
    refusal_bit: int = 15
    nodeport_addresses: tuple[str, ...] = ()
    drop_invalid: bool = True
    detect_local: Detect = Detect.CLUSTER_CIDR
    pod_interface: str = ""
    localhost_nodeports: bool = False
    nodeport_primary: bool = False

    def __post_init__(self) -> None:
        _check_interface(self.detect_local, self.pod_interface)
        _check_cidrs(self.cluster_cidrs, "--cluster-cidr")
        _check_cidrs(self.nodeport_addresses, "--nodeport-addresses")
        families = [family_of(cidr) for cidr in self.cluster_cidrs]
        if len(families) != len(set(families)):
            raise UserError("give at most one CIDR per family, e.g. 10.244.0.0/16,fd00:10:244::/56",
                            field="--cluster-cidr")  # fmt: skip
        for flag, bit in (("--masquerade-bit", self.masquerade_bit), ("--refusal-bit", self.refusal_bit)):
            if not 0 <= bit <= 31:
                raise UserError(f"{bit} is not a bit of the packet mark: 0 to 31", field=flag)
        if self.masquerade_bit == self.refusal_bit:
            raise UserError("must differ from --masquerade-bit", field="--refusal-bit")

    @property
    def masquerade_mark(self) -> int:
        return 1 << self.masquerade_bit

    @property
    def refusal_mark(self) -> int:
        return 1 << self.refusal_bit

    def for_node(self, node: NodeFacts) -> NodeConfig:
        """With what only the Node tells: its first addresses, where NodePorts are served on those."""
        if not self.nodeport_primary:
            return self
        first = {family_of(address): address for address in reversed(node.addresses)}
        cidrs = (f"{ip}/{128 if f is IPFamily.IPV6 else 32}" for f, ip in sorted(first.items()))
        return replace(self, nodeport_addresses=tuple(cidrs))

    def pods(self, family: IPFamily, node: NodeFacts) -> PodSide:
        """How Pods of a family are recognized on this node."""
        match self.detect_local:
            case Detect.CLUSTER_CIDR:
                return PodSide(self.cluster_cidr(family))
            case Detect.NODE_CIDR:
                return PodSide(next((c for c in node.pod_cidrs if family_of(c) is family), ""))
            case Detect.BRIDGE_INTERFACE | Detect.INTERFACE_NAME_PREFIX:
                is_prefix = self.detect_local is Detect.INTERFACE_NAME_PREFIX
                return PodSide(interface=self.pod_interface, is_prefix=is_prefix)
        return PodSide()

    def cluster_cidr(self, family: IPFamily) -> str:
        """Empty where none was given for the family."""
        return next((cidr for cidr in self.cluster_cidrs if family_of(cidr) is family), "")

    def nodeport_cidrs(self, family: IPFamily) -> tuple[str, ...]:
        return tuple(cidr for cidr in self.nodeport_addresses if family_of(cidr) is family)


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """The node that the table is made for, as far as endpoints are chosen by it. `addresses`: its
    InternalIPs and ExternalIPs. `pod_cidrs`: where its Pods' addresses come from."""

    name: str
    zone: str = ""
    addresses: tuple[str, ...] = ()
    pod_cidrs: tuple[str, ...] = ()

    @classmethod
    def of(cls, node: Node) -> NodeFacts:
        return cls(node.name, node.zone, node.ips("InternalIP") + node.ips("ExternalIP"), node.pod_cidrs)


def canonical_cidrs(text: str, flag: str) -> tuple[str, ...]:
    """A flag's comma-separated CIDRs in `ipaddress`' form. Host bits set or no length are an error: what was
    meant is unclear."""
    cidrs = []
    for part in filter(None, (p.strip() for p in text.split(","))):
        try:
            network = str(ipaddress.ip_network(part))
        except ValueError as error:
            raise UserError(f"{error}; write CIDRs such as 10.244.0.0/16", field=flag) from error
        if "/" not in part:
            raise UserError(f"{part} is an address, no network ({network} if it alone is meant)", field=flag)
        cidrs.append(network)
    return tuple(cidrs)


_MAX_INTERFACE = 15  # IFNAMSIZ
_INTERFACE_FLAGS = {
    Detect.BRIDGE_INTERFACE: "--pod-bridge-interface",
    Detect.INTERFACE_NAME_PREFIX: "--pod-interface-name-prefix",
}


def _check_interface(detect: Detect, name: str) -> None:
    flag = _INTERFACE_FLAGS.get(detect)
    if flag is None:
        return
    if not name:
        raise UserError(f"--detect-local {detect} takes a name", field=flag)
    if not re.fullmatch(rf"[^\s/!+\"'\\]{{1,{_MAX_INTERFACE}}}", name):
        raise UserError(f"{name!r} is not the name of an interface: at most {_MAX_INTERFACE} characters, no "
                        "blanks, '/', '+' or quotes", field=flag)  # fmt: skip


def _check_cidrs(cidrs: tuple[str, ...], flag: str) -> None:
    for cidr in cidrs:
        if canonical_cidrs(cidr, flag) != (cidr,):
            raise UserError(f"{cidr!r} is not in canonical form", field=flag)
        if cidr.endswith("/0"):
            raise UserError(f"{cidr} is every address: leave the flag out instead", field=flag)
