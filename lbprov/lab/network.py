"""The lab's map: a LAN with nodes and clients on it, pods behind the nodes.

::

    the lab's switch: bridge `lan`, 192.0.2.1/24, 2001:db8:1::1/64 (default gateway; leads nowhere)
      |            |            |              |
    node-1       node-2       node-3         client        192.0.2.11, .12, .13 … and 192.0.2.101 …
      | \\           |
    pod pod        pod                                      10.244.N.2 … (and fd00:10:244:N::2 …)

Pods hang on their node by a routed pair of veths, as with the ptp CNI plugin, not on a bridge: whatever
leaves a pod passes the node's IP layer and so its iptables, whether br_netfilter is loaded or not. IPv6
duplicate address detection is off (it costs a second per address).
"""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Iterator

from lbprov.lab.holder import NETNS, Holder
from lbprov.lab.host import Host

LAN = ipaddress.IPv4Network("192.0.2.0/24")
LAN6 = ipaddress.IPv6Network("2001:db8:1::/64")
_FIRST_NODE = 11
_FIRST_CLIENT = 101
_NODES_MAX = _FIRST_CLIENT - _FIRST_NODE
_CLIENTS_MAX = 254 - _FIRST_CLIENT
_PODS_MAX = 253

# Inherited from the machine in part (net.core.devconf_inherit_init_net), so all of them are set.
_SYSCTLS = """
cd /proc/sys/net
for c in all default; do
    echo 0 > ipv4/conf/$c/rp_filter
    echo 0 > ipv4/conf/$c/arp_ignore
    echo 0 > ipv4/conf/$c/send_redirects
    [ ! -d ipv6 ] || { echo 0 > ipv6/conf/$c/disable_ipv6; echo 0 > ipv6/conf/$c/accept_dad; }
    [ ! -d ipv6 ] || echo 0 > ipv6/conf/$c/accept_ra
done
"""
_FORWARDING = """
echo 1 > ipv4/ip_forward
[ ! -d ipv6 ] || echo 1 > ipv6/conf/all/forwarding
"""


class NodeHost(Host):
    """A node: a router with pods behind it. `number` is N of its podCIDRs, 10.244.N.0/24 and
    fd00:10:244:N::/64."""

    def __init__(self, name: str, number: int) -> None:
        super().__init__(name, *_on_lan(_FIRST_NODE + number - 1))
        self.number = number
        self.pod_cidr = ipaddress.IPv4Network(f"10.244.{number}.0/24")
        self.pod_cidr6 = ipaddress.IPv6Network(f"fd00:10:244:{number:x}::/64")
        self._pods = 0

    @property
    def pod_cidrs(self) -> tuple[str, str]:
        return str(self.pod_cidr), str(self.pod_cidr6)

    def next_pod_ips(self) -> tuple[str, str]:
        """The first is .2: .1 is the node's own, the pods' gateway. Addresses are not used a second time."""
        self._pods += 1
        if self._pods > _PODS_MAX:
            raise ValueError(f"a node of the lab has room for {_PODS_MAX} pods")
        return str(self.pod_cidr[1 + self._pods]), str(self.pod_cidr6[1 + self._pods])


class PodHost(Host):
    """A pod: one link, to its node."""

    def __init__(self, name: str, node: NodeHost, ipv4: str, ipv6: str, link: str) -> None:
        super().__init__(name, ipv4, ipv6)
        self.node = node
        self.link = link


class Lab:
    """A network of hosts. Use it as a context manager::

        with Lab.open() as lab:
            node = lab.add_node("node-1")
            web = lab.add_pod("web", node)
            web.serve(http=80)
            assert lab.add_client("client").http_get(web.ipv4, 80) …

    Names are unique and are the hostnames. One thread changes the map at a time.
    """

    def __init__(self, holder: Holder) -> None:
        self._holder = holder
        self._links = 0
        self._clients = 0
        self.hosts: dict[str, Host] = {}

    @classmethod
    @contextlib.contextmanager
    def open(cls) -> Iterator[Lab]:
        """Raises UserError, with the remedy, where the machine lacks a program or forbids namespaces."""
        lab = cls(Holder.open())
        try:
            lab._holder.script(_switch())
            yield lab
        finally:
            lab.close()

    def close(self) -> None:
        for host in self.hosts.values():
            host.end()
        self.hosts.clear()
        self._holder.close()

    @property
    def nodes(self) -> tuple[NodeHost, ...]:
        return tuple(host for host in self.hosts.values() if isinstance(host, NodeHost))

    def add_node(self, name: str) -> NodeHost:
        """A node on the LAN that forwards, with routes to and from the pods of every other node."""
        number = len(self.nodes) + 1
        if number > _NODES_MAX:
            raise ValueError(f"a lab has room for {_NODES_MAX} nodes")
        node = NodeHost(name, number)
        there = _ip(name, "".join(_routes(peer) for peer in self.nodes))
        back = "".join(_ip(peer.name, _routes(node)) for peer in self.nodes)
        self._new(node, _SYSCTLS + _FORWARDING, self._lan_link(node) + there + back)
        return node

    def add_client(self, name: str, *, forwards: bool = False) -> Host:
        """A machine on the LAN that is not of the cluster: it knows no pods and no Services.
        `forwards`: a router (for what stands before the nodes)."""
        self._clients += 1
        if self._clients > _CLIENTS_MAX:
            raise ValueError(f"a lab has room for {_CLIENTS_MAX} clients")
        host = Host(name, *_on_lan(_FIRST_CLIENT + self._clients - 1))
        self._new(host, _SYSCTLS + (_FORWARDING if forwards else ""), self._lan_link(host))
        return host

    def add_pod(self, name: str, node: NodeHost, ipv4: str | None = None, ipv6: str | None = None) -> PodHost:
        """A pod of `node`. An address None: the next free one of the node's podCIDR; empty: none of that
        family. An address from elsewhere is routed to from this node only."""
        free4, free6 = node.next_pod_ips() if None in (ipv4, ipv6) else ("", "")
        ipv4, ipv6 = free4 if ipv4 is None else ipv4, free6 if ipv6 is None else ipv6
        self._links += 1
        pod = PodHost(name, node, ipv4, ipv6, link=f"pod{self._links}")
        self._new(pod, _SYSCTLS, _pod_link(pod))
        return pod

    def remove(self, host: Host) -> None:
        """Kill what the host runs and take it off the network; its addresses lead nowhere from then on."""
        wire = _ip(host.node.name, f"link del {host.link}\n") if isinstance(host, PodHost) else ""
        self._holder.script(f"{wire}umount {NETNS}/{host.name}\nrm {NETNS}/{host.name}\n")
        host.end()
        del self.hosts[host.name]

    def _lan_link(self, host: Host) -> str:
        self._links += 1
        port = f"lan{self._links}"
        return _ip(
            "",
            f"link add {port} type veth peer name eth0 netns {host.name}\nlink set {port} master lan up\n",
        ) + _ip(
            host.name,
            "link set eth0 up\n"
            f"address add {host.ipv4}/{LAN.prefixlen} dev eth0\n"
            f"address add {host.ipv6}/{LAN6.prefixlen} dev eth0 nodad\n"
            f"route add default via {LAN[1]}\n"
            f"route add default via {LAN6[1]}\n",
        )

    def _new(self, host: Host, inside: str, wiring: str) -> None:
        """Make the host's namespaces and wire it up."""
        if host.name in self.hosts:
            raise ValueError(f"the lab has a host named {host.name} already")
        keeper = self._holder.keep(
            f"hostname {host.name}\n"
            "mount -t tmpfs -o mode=755 tmpfs /run\n"  # its own xtables.lock, its own state
            f"ip link set lo up\n{inside}"
        )
        host.attach(self._holder, keeper)
        self.hosts[host.name] = host
        net = f"{NETNS}/{host.name}"
        self._holder.script(f"touch {net}\nmount --bind /proc/{keeper.inner_pid}/ns/net {net}\n{wiring}")


def _on_lan(number: int) -> tuple[str, str]:
    return str(LAN[number]), str(LAN6[int(str(number), 16)])  # 192.0.2.11 and 2001:db8:1::11


def _ip(host: str, commands: str) -> str:
    """Shell text that runs `commands` in one ip(8): at the switch, or in a host's network namespace."""
    where = f"-n {host} " if host else ""
    return f"ip {where}-batch - <<'END'\n{commands}END\n"


def _switch() -> str:
    return _ip(
        "",
        "link add lan type bridge mcast_snooping 0\n"
        f"address add {LAN[1]}/{LAN.prefixlen} dev lan\n"
        f"address add {LAN6[1]}/{LAN6.prefixlen} dev lan nodad\n"
        "link set lan up\n",
    )


def _routes(node: NodeHost) -> str:
    return f"route add {node.pod_cidr} via {node.ipv4}\nroute add {node.pod_cidr6} via {node.ipv6}\n"


def _pod_link(pod: PodHost) -> str:
    """The node's end has the gateway's address, as every such end of the node does (as ptp does it)."""
    node_side = [f"link add {pod.link} type veth peer name eth0 netns {pod.name}"]
    pod_side = ["link set eth0 up"]
    pairs = ((pod.node.pod_cidr[1], pod.ipv4, "/32"), (pod.node.pod_cidr6[1], pod.ipv6, "/128 nodad"))
    for gateway, ip, how in pairs:
        if ip:
            bits, _, flag = how.partition(" ")
            node_side.append(f"address add {gateway}{bits} dev {pod.link} {flag}")
            pod_side.append(f"address add {ip}{bits} dev eth0 {flag}")
            pod_side.append(f"route add {gateway} dev eth0")
            pod_side.append(f"route add default via {gateway} dev eth0")
    node_side.append(f"link set {pod.link} up")
    node_side += [f"route add {ip} dev {pod.link}" for ip in pod.ips]
    return _ip(pod.node.name, _lines(node_side)) + _ip(pod.name, _lines(pod_side))


def _lines(commands: list[str]) -> str:
    return "".join(f"{command}\n" for command in commands)
