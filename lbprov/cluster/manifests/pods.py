"""The Pods of a folder: bare ones and workloads' replicas, on nodes and with addresses. Pure.

What a scheduler and a network plugin decide is decided here by rule and kept in the state: a Pod stays on its
node, with its address, as long as the node is there and its template is the same.

State keys: `binding/NAMESPACE/NAME` -> {"template", "node", "ips"}; `cidrs/NODE` -> [CIDR, …].
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from lbprov.cluster import decode
from lbprov.cluster.manifests.admit import Values, entries
from lbprov.cluster.manifests.allocate import Network
from lbprov.cluster.manifests.candidate import TEMPLATE_DIGEST
from lbprov.cluster.manifests.shapes import WORKLOADS
from lbprov.cluster.seam import Problem
from lbprov.model import Node, Pod, Taint

NODE_PREFIX_BITS = {4: 24, 6: 64}
"""The share of a pod range that one node gets."""


@dataclass(frozen=True, slots=True)
class PodSpec:
    """A Pod before it is placed. `template` tells two versions of its spec apart; `per_node`: the node that
    a DaemonSet made it for."""

    pod: Pod
    template: str
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Mapping[str, str], ...] = ()
    subdomain: str = ""
    finished: bool = False


@dataclass(slots=True)
class Placement:
    """`pods` sorted by key; `subdomains`: the Pods whose hostnames a headless Service publishes."""

    pods: list[Pod] = field(default_factory=list)
    subdomains: dict[Any, str] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    changes: dict[str, Any] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def place(values: Values, pod_networks: Sequence[Network], where: str) -> Placement:
    """Every Pod of the accepted objects, placed. `where`: the folder, for problems that no file has."""
    out = Placement()
    nodes = [decode.node(entry["object"]) for _, entry in entries(values, "Node")]
    out.nodes = _with_cidrs(nodes, values, pod_networks, out, where)
    by_name = {n.name: n for n in out.nodes}
    specs = {s.pod.key: s for s in (*_replicas(values, out.nodes), *_bare(values)) if not s.finished}
    kept = {key: _kept(spec, values, by_name) for key, spec in specs.items()}
    load = Counter(node for node, _ in kept.values() if node)
    used: set[str] = {ip for key, spec in specs.items() for ip in (*spec.pod.ips, *kept[key][1])}
    bindings: dict[str, Any] = {}
    for key in sorted(specs):
        spec, (node_name, ips) = specs[key], kept[key]
        if not node_name:
            node_name = _schedule(spec, out.nodes, load)
            load[node_name] += 1
        node = by_name.get(node_name)
        pod = replace(spec.pod, node_name=node_name)
        if not pod.ips:
            if node and pod.host_network:
                pod = replace(pod, ips=_one_of_each_family(node.ips()))
            elif node:
                ips = ips or _addresses(f"{key}", node, used)
                pod = replace(pod, ips=tuple(ips))
        if (node and node.name != spec.pod.node_name) or ips:
            bindings[f"binding/{key.namespace}/{key.name}"] = {
                "template": spec.template,
                "node": node_name,
                "ips": list(ips),
            }
        out.pods.append(pod)
        if spec.subdomain:
            out.subdomains[key] = spec.subdomain
    old = {k for k in values if k.startswith("binding/")}
    out.changes |= dict.fromkeys(old - bindings.keys()) | bindings
    return out


def _bare(values: Values) -> Iterator[PodSpec]:
    for _, entry in entries(values, "Pod"):
        yield _pod_spec(entry["object"], _digest(entry["object"]["spec"]))


def _replicas(values: Values, nodes: Iterable[Node]) -> Iterator[PodSpec]:
    for kind in WORKLOADS:
        for key, entry in entries(values, kind):
            spec = entry["object"]["spec"]
            template = entry["object"][TEMPLATE_DIGEST]
            for name, node in _names(kind, key.name, template, spec.get("replicas", 1), nodes):
                metadata = {
                    **spec["template"]["metadata"],
                    "name": name,
                    "namespace": key.namespace,
                    "ownerReferences": [{"kind": kind, "name": key.name}],
                }
                pod_spec = dict(spec["template"]["spec"])
                if node:
                    pod_spec["nodeName"] = node
                elif kind == "StatefulSet":
                    pod_spec.setdefault("hostname", name)
                yield _pod_spec({"metadata": metadata, "spec": pod_spec}, template)


def _names(
    kind: str, owner: str, template: str, replicas: int, nodes: Iterable[Node]
) -> Iterator[tuple[str, str]]:
    """(Pod name, node it is bound to or ''). Names stay below 63 letters so that they can be hostnames."""
    if kind == "DaemonSet":
        yield from ((f"{owner[:50]}-{_suffix(owner, node.name)}", node.name) for node in nodes)
    elif kind == "StatefulSet":
        yield from ((f"{owner}-{i}", "") for i in range(replicas))
    else:
        middle = f"-{template[:10]}" if kind == "Deployment" else ""
        base = f"{owner[:45]}{middle}"
        taken: set[str] = set()
        for i in range(replicas):
            suffix = _suffix(owner, template, str(i))
            while suffix in taken:
                suffix = _suffix(suffix, template, str(i))
            taken.add(suffix)
            yield f"{base}-{suffix}", ""


def _digest(spec: Mapping[str, Any]) -> str:
    return hashlib.sha256(msgspec.json.encode(spec)).hexdigest()[:16]


_SUFFIX_LETTERS = "bcdfghjklmnpqrstvwxz2456789"


def _suffix(*parts: str) -> str:
    """Five letters that make no words, as Kubernetes' own names end; the same for the same parts."""
    digest = hashlib.sha256("/".join(parts).encode()).digest()
    return "".join(_SUFFIX_LETTERS[b % len(_SUFFIX_LETTERS)] for b in digest[:5])


def _pod_spec(obj: Mapping[str, Any], template: str) -> PodSpec:
    spec = obj["spec"]
    return PodSpec(
        pod=decode.pod(obj),
        template=template,
        node_selector=spec.get("nodeSelector", {}),
        tolerations=tuple(spec.get("tolerations", ())),
        subdomain=spec.get("subdomain", ""),
        finished=obj.get("status", {}).get("phase") in ("Succeeded", "Failed"),
    )


def _kept(spec: PodSpec, values: Values, nodes: Mapping[str, Node]) -> tuple[str, list[str]]:
    """(node, addresses) that a Pod has or is bound to already; ('', []) where it is yet to be placed."""
    key, bound = spec.pod.key, spec.pod.node_name
    binding = values.get(f"binding/{key.namespace}/{key.name}")
    if binding is None or binding["template"] != spec.template or binding["node"] not in nodes:
        return bound, []
    if bound and bound != binding["node"]:
        return bound, []
    node = nodes[binding["node"]]
    if not all(any(_within(ip, cidr) for cidr in node.pod_cidrs) for ip in binding["ips"]):
        return binding["node"], []
    return binding["node"], binding["ips"]


def _within(ip: str, cidr: str) -> bool:
    return ipaddress.ip_address(ip) in ipaddress.ip_network(cidr)


def _schedule(spec: PodSpec, nodes: Iterable[Node], load: Mapping[str, int]) -> str:
    """The least loaded node that takes the Pod, by name among equals; '' where none does."""
    fitting = [n for n in nodes if _fits(spec, n)]
    return min(fitting, key=lambda n: (load.get(n.name, 0), n.name)).name if fitting else ""


def _fits(spec: PodSpec, node: Node) -> bool:
    return (
        not node.unschedulable
        and node.ready
        and all(node.labels.get(k) == v for k, v in spec.node_selector.items())
        and all(
            taint.effect == "PreferNoSchedule" or any(_tolerates(t, taint) for t in spec.tolerations)
            for taint in node.taints
        )
    )


def _tolerates(toleration: Mapping[str, str], taint: Taint) -> bool:
    if toleration.get("effect") and toleration["effect"] != taint.effect:
        return False
    if toleration.get("operator", "Equal") == "Exists":
        return toleration.get("key", "") in ("", taint.key)
    return toleration.get("key") == taint.key and toleration.get("value", "") == taint.value


def _one_of_each_family(ips: Iterable[str]) -> tuple[str, ...]:
    found: dict[bool, str] = {}
    for ip in ips:
        found.setdefault(":" in ip, ip)
    return tuple(found.values())


def _addresses(seed: str, node: Node, used: set[str]) -> list[str]:
    """One free address of each of the node's pod ranges, found by hashing: an address just given up is not
    the next one given out. The first two addresses of a range are the network's and its gateway's."""
    ips = []
    for cidr in node.pod_cidrs:
        network = ipaddress.ip_network(cidr)
        first = int(network.network_address) + 2
        size = int(network.broadcast_address) - (network.version == 4) - first + 1
        if size <= 0:
            continue
        start = int.from_bytes(hashlib.sha256(f"{seed}/{cidr}".encode()).digest()[:16]) % size
        for step in range(min(size, len(used) + 1)):
            ip = str(type(network.network_address)(first + (start + step) % size))
            if ip not in used:
                used.add(ip)
                ips.append(ip)
                break
    return ips


def _with_cidrs(
    nodes: list[Node], values: Values, networks: Sequence[Network], out: Placement, where: str
) -> list[Node]:
    """Nodes that name no pod ranges get the next free share of each of the cluster's, and keep it."""
    taken = [ipaddress.ip_network(c) for n in nodes for c in n.pod_cidrs]
    lacking = [n for n in nodes if not n.pod_cidrs]
    kept = {n.name: values.get(f"cidrs/{n.name}") for n in lacking}
    taken += [ipaddress.ip_network(c) for cidrs in kept.values() for c in cidrs or ()]
    given: dict[str, list[str]] = {}
    for node in lacking:
        cidrs = kept[node.name]
        if cidrs is None:
            shares = [_next_share(network, taken) for network in networks]
            cidrs = [str(share) for share in shares if share]
            if len(cidrs) < len(networks):
                message = f"Node {node.name}: no share of the pod range is left for it"
                out.problems.append(Problem(where, f"Node {node.name}", "spec.podCIDRs", message))
        given[node.name] = cidrs
    old = {k for k in values if k.startswith("cidrs/")}
    fresh = {f"cidrs/{name}": cidrs for name, cidrs in given.items() if cidrs}
    out.changes |= dict.fromkeys(old - fresh.keys()) | fresh
    return [replace(n, pod_cidrs=tuple(given.get(n.name, n.pod_cidrs))) for n in nodes]


def _next_share(network: Network, taken: list[Network]) -> Network | None:
    bits = max(NODE_PREFIX_BITS[network.version], network.prefixlen)
    for share in network.subnets(new_prefix=bits):
        if not any(share.version == t.version and share.overlaps(t) for t in taken):
            taken.append(share)
            return share
    return None
