"""Which owners of resources in the world no Service stands for. Pure."""

from __future__ import annotations

from lbprov.logic.selection import Claimant, Decision, decide
from lbprov.model import Owner, Service


def why_orphaned(owner: Owner, service: Service | None, claimant: Claimant) -> str:
    """`service`: the one that has the owner's name now. Empty: the owner is that Service, or one whose next
    reconcile takes away what a former Service of its name has left."""
    if service is None:
        return "there is no Service of this name"
    if service.uid != owner.uid and decide(service, claimant) is Decision.LEAVE:
        return f"the Service of this name is another one (uid {service.uid}), and not this provider's"
    return ""


def why_unwanted(owner: Owner, service: Service | None, claimant: Claimant) -> str:
    """As `why_orphaned`, and also of what a reconcile of a Service that has taken the name would take away.
    Empty: the Service itself is there, with its uid, and what becomes of its resources is its reconcile's."""
    why = why_orphaned(owner, service, claimant)
    if not why and service is not None and service.uid != owner.uid:
        return f"the Service of this name is a newer one (uid {service.uid})"
    return why
