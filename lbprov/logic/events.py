"""Every Event that lbprov emits: the reasons, and the words of those that the core itself emits.

The first block is the cloud-provider's, verbatim (k8s.io/cloud-provider/controllers/service): dashboards and
people know them. Reasons are CamelCase without spaces. Providers use those that fit and may add their own.
"""

from __future__ import annotations

from enum import StrEnum

from lbprov.model import Event, Severity


class Reason(StrEnum):
    ENSURING = "EnsuringLoadBalancer"
    ENSURED = "EnsuredLoadBalancer"
    DELETING = "DeletingLoadBalancer"
    DELETED = "DeletedLoadBalancer"
    NO_NODES = "UnAvailableLoadBalancer"
    SYNC_FAILED = "SyncLoadBalancerFailed"
    DELETE_FAILED = "DeleteLoadBalancerFailed"

    WAITING = "WaitingForLoadBalancer"
    MASS_DELETION = "MassDeletionRefused"
    OTHER_PROVIDER = "ServedByOtherProvider"
    UNKNOWN_ANNOTATION = "UnknownAnnotation"

    IP_ASSIGNED = "LoadBalancerIPAssigned"
    IP_NOT_FOUND = "LoadBalancerIPNotFound"
    IP_IN_USE = "LoadBalancerIPInUse"
    IP_INVALID = "LoadBalancerIPInvalid"
    IP_UNSUPPORTED = "LoadBalancerIPUnsupported"
    IP_CHANGE_IGNORED = "LoadBalancerIPChangeIgnored"
    IP_LOOKUP_FAILED = "LoadBalancerIPLookupFailed"


ENSURING = Event(Severity.NORMAL, Reason.ENSURING, "Ensuring load balancer")
ENSURED = Event(Severity.NORMAL, Reason.ENSURED, "Ensured load balancer")
DELETING = Event(Severity.NORMAL, Reason.DELETING, "Deleting load balancer")
DELETED = Event(Severity.NORMAL, Reason.DELETED, "Deleted load balancer")


def failed(why: str, reason: str = Reason.SYNC_FAILED, *, deleting: bool = False) -> Event:
    """A reason of its own speaks for itself; the general ones in the cloud-provider's words."""
    if reason != Reason.SYNC_FAILED:
        return Event(Severity.WARNING, reason, why)
    if deleting:
        return Event(Severity.WARNING, Reason.DELETE_FAILED, f"Error deleting load balancer: {why}")
    return Event(Severity.WARNING, Reason.SYNC_FAILED, f"Error syncing load balancer: {why}")
