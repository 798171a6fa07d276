"""Which Nodes take traffic for load balancers.

The rules of the cloud-provider's service controller. Whether a Node is Ready does not count: load balancers
check that themselves, and all targets flapping out at once is an outage of its own (KEP-3458).
"""

from __future__ import annotations

from collections.abc import Iterable

from lbprov.model import Node, Target

EXCLUDE_LABEL = "node.kubernetes.io/exclude-from-external-load-balancers"
"""Excluded whatever the value, unless it says false."""

FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})
"""What Go's strconv.ParseBool takes for false, as the cloud-provider does."""

LEAVING_TAINTS = frozenset({"ToBeDeletedByClusterAutoscaler"})
"""With any effect: the autoscaler is about to remove the Node."""

KARPENTER_TAINT = ("karpenter.sh/disrupted", "NoSchedule")
"""Karpenter drains the Node: connections should go elsewhere before it is gone."""


def is_target(node: Node) -> bool:
    if node.deleted_at:
        return False
    if EXCLUDE_LABEL in node.labels and node.labels[EXCLUDE_LABEL] not in FALSE:
        return False
    return not any(t.key in LEAVING_TAINTS or (t.key, t.effect) == KARPENTER_TAINT for t in node.taints)


def targets_of(nodes: Iterable[Node]) -> tuple[Target, ...]:
    """Sorted by name. The same for every Service of a pass."""
    return tuple(
        Target(n.name, n.provider_id, (*n.ips("InternalIP"), *n.ips("ExternalIP")), n.zone, n.labels)
        for n in sorted(nodes, key=lambda n: n.name)
        if is_target(n)
    )
