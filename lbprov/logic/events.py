"""Every Event that lbprov emits: the reasons, and the words of those that the core itself emits.

The first block is the cloud-provider's, verbatim (k8s.io/cloud-provider/controllers/service): dashboards and
people know them. Reasons are CamelCase without spaces. Providers use those that fit and may add their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from lbprov.model import Event, Severity


class Reason(StrEnum):
    ENSURING = "EnsuringLoadBalancer"
    ENSURED = "EnsuredLoadBalancer"
    DELETING = "DeletingLoadBalancer"
    DELETED = "DeletedLoadBalancer"
    UPDATED = "UpdatedLoadBalancer"
    NO_NODES = "UnAvailableLoadBalancer"
    SYNC_FAILED = "SyncLoadBalancerFailed"
    DELETE_FAILED = "DeleteLoadBalancerFailed"
    UPDATE_FAILED = "UpdateLoadBalancerFailed"

    WAITING = "WaitingForLoadBalancer"
    MASS_DELETION = "MassDeletionRefused"
    OTHER_PROVIDER = "ServedByOtherProvider"
    CLASS_NOT_SERVED = "LoadBalancerClassNotServed"
    UNKNOWN_ANNOTATION = "UnknownAnnotation"
    DRIFT_REPAIRED = "DriftRepaired"

    IP_ASSIGNED = "LoadBalancerIPAssigned"
    IP_NOT_FOUND = "LoadBalancerIPNotFound"
    IP_IN_USE = "LoadBalancerIPInUse"
    IP_INVALID = "LoadBalancerIPInvalid"
    IP_UNSUPPORTED = "LoadBalancerIPUnsupported"
    IP_CHANGE_IGNORED = "LoadBalancerIPChangeIgnored"
    IP_LOOKUP_FAILED = "LoadBalancerIPLookupFailed"


EXPLAINED: dict[str, tuple[Severity, str]] = {
    Reason.ENSURING: (Severity.NORMAL, "Something is about to be made or changed in the cloud."),
    Reason.ENSURED: (Severity.NORMAL, "All is in place, and traffic can be expected to pass."),
    Reason.DELETING: (Severity.NORMAL, "The load balancer is being taken away, with all that belongs to it."),
    Reason.DELETED: (Severity.NORMAL, "A fresh look has shown that nothing is left; the Service is let go."),
    Reason.UPDATED: (Severity.NORMAL, "Other Nodes take the traffic now; nothing else has changed."),
    Reason.NO_NODES: (
        Severity.WARNING,
        "No Node takes traffic: there is none, or all are excluded, being deleted or being drained. The load "
        "balancer stays and gets targets as soon as there is a Node.",
    ),
    Reason.SYNC_FAILED: (
        Severity.WARNING,
        "The message says why. If it begins with a field (`spec.…`, `metadata.annotations[…]`), change that: "
        "nothing is tried again before. Otherwise the cloud refused or did not answer: it is tried again.",
    ),
    Reason.DELETE_FAILED: (
        Severity.WARNING,
        "The cloud refuses to delete; the message says what and why. It is tried again, and the Service "
        "stays until it has worked.",
    ),
    Reason.UPDATE_FAILED: (
        Severity.WARNING,
        "The cloud refuses the Nodes that the message names, or did not answer; it is tried again. The load "
        "balancer keeps those that it has.",
    ),
    Reason.WAITING: (
        Severity.NORMAL,
        "The cloud needs time, for what the message says. Nothing is to be done.",
    ),
    Reason.MASS_DELETION: (
        Severity.WARNING,
        "So many load balancers would go at once that it looks like a mistake: none was. If it is meant, run "
        "`lbprov reconcile` with `--force`; for Services that are gone already, `lbprov gc --delete`.",
    ),
    Reason.OTHER_PROVIDER: (
        Severity.WARNING,
        "Another provider of lbprov still has a load balancer for this Service. Let that one clean up, or "
        "give the Service back to it.",
    ),
    Reason.CLASS_NOT_SERVED: (
        Severity.WARNING,
        "The Service has a load balancer of lbprov's, which was started without the flag that serves its "
        "class (`--load-balancer-class`, or `--own-classless`): nothing is changed or deleted. Give the flag "
        "back; or delete the Service, or change its type, to have the load balancer taken away.",
    ),
    Reason.UNKNOWN_ANNOTATION: (
        Severity.WARNING,
        "An annotation begins with `lbprov.io/` and is none that is known, or has a value that means "
        "nothing: most likely a typing error. What is served goes on being served and followed; the message "
        "says what holds until the annotation is put right.",
    ),
    Reason.DRIFT_REPAIRED: (
        Severity.WARNING,
        "Somebody else has changed or deleted a part of the load balancer in the cloud. The message says "
        "what was found; it has been put right. If it comes again and again, two controllers are at odds.",
    ),
    Reason.IP_ASSIGNED: (Severity.NORMAL, "The address that `spec.loadBalancerIP` asks for is used."),
    Reason.IP_NOT_FOUND: (
        Severity.WARNING,
        "The address is not in this account or pool, so an automatic one is used. Allocate it and make the "
        "Service anew, or take the field away.",
    ),
    Reason.IP_IN_USE: (
        Severity.WARNING,
        "The address serves something else, which the message names, so an automatic one is used.",
    ),
    Reason.IP_INVALID: (
        Severity.WARNING,
        "`spec.loadBalancerIP` is no IP address; an automatic one is used, unless `lbprov.io/ip-policy` is "
        "`require`.",
    ),
    Reason.IP_UNSUPPORTED: (
        Severity.WARNING,
        "The address cannot be had in this way (family, scheme, zone): the message says which. An automatic "
        "one is used.",
    ),
    Reason.IP_CHANGE_IGNORED: (
        Severity.WARNING,
        "Another address is asked for than the one that serves traffic, which is not moved under its "
        "clients. Delete the Service and make it anew to have it.",
    ),
    Reason.IP_LOOKUP_FAILED: (
        Severity.WARNING,
        "Whether the address can be had is not ours to see: the message names the missing permission. An "
        "automatic one is used.",
    ),
}
"""Reason -> type, and what it means to whoever reads it: what to do."""

ENSURING = Event(Severity.NORMAL, Reason.ENSURING, "Ensuring load balancer")
ENSURED = Event(Severity.NORMAL, Reason.ENSURED, "Ensured load balancer")
DELETING = Event(Severity.NORMAL, Reason.DELETING, "Deleting load balancer")
DELETED = Event(Severity.NORMAL, Reason.DELETED, "Deleted load balancer")
UPDATED = Event(Severity.NORMAL, Reason.UPDATED, "Updated load balancer with new hosts")

MOST_HOSTS = 20
"""So many Nodes are named, as the cloud-provider does."""


def vanished(gone: int, total: int) -> Event:
    """Of many Services at once, none of which waited for its finalizer."""
    return Event(
        Severity.WARNING,
        Reason.MASS_DELETION,
        f"{gone} of {total} Services vanished at once, without waiting for their finalizers, which looks "
        "like a mistake: their load balancers are kept. If it is meant: `lbprov gc` lists them, and deletes "
        "them with --delete",
    )


def failed(
    why: str, reason: str = Reason.SYNC_FAILED, *, deleting: bool = False, hosts: Sequence[str] | None = None
) -> Event:
    """A reason of its own speaks for itself; the general ones in the cloud-provider's words. `hosts`: the
    names of the Nodes, where they were all that was to be changed."""
    if reason != Reason.SYNC_FAILED:
        return Event(Severity.WARNING, reason, why)
    if hosts is not None:
        named = [*hosts[:MOST_HOSTS], *([f"<{len(hosts) - MOST_HOSTS} more>"] if hosts[MOST_HOSTS:] else [])]
        what = f"[{' '.join(named)}] [node names limited, total number of nodes: {len(hosts)}]"
        message = f"Error updating load balancer with new hosts {what}, error: {why}"
        return Event(Severity.WARNING, Reason.UPDATE_FAILED, message)
    if deleting:
        return Event(Severity.WARNING, Reason.DELETE_FAILED, f"Error deleting load balancer: {why}")
    return Event(Severity.WARNING, Reason.SYNC_FAILED, f"Error syncing load balancer: {why}")
