"""What lbprov writes into a Service: its finalizer, its load balancer's addresses, its own conditions.

Always strategic merge patches of exactly that, never the whole object: finalizers and conditions are lists
that the API server merges by value and by `type`, so nobody else's entries are touched and no two writers
conflict; `status.loadBalancer.ingress` is atomic and replaced whole.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from lbprov.cluster.apiserver.errors import Conflict, NotFound
from lbprov.cluster.apiserver.transport import STRATEGIC_PATCH, Transport
from lbprov.model import Condition, Ingress, IPMode, ObjectKey, Service

STATUS = "status"
OUR_CONDITIONS = "lbprov.io/"
CONFLICT_TRIES = 4
MAX_CONDITION_MESSAGE = 32768
"""metav1.Condition's own limit."""

Patch = dict[str, Any]


def finalizer_patch(finalizer: str, *, present: bool) -> Patch:
    if present:
        return {"metadata": {"finalizers": [finalizer]}}
    return {"metadata": {"$deleteFromPrimitiveList/finalizers": [finalizer]}}


def status_patch(
    current: Service, ingress: Sequence[Ingress], conditions: Sequence[Condition], now: datetime
) -> Patch | None:
    """The patch of the `status` subresource that leads from `current` there; None if it is there.

    `lastTransitionTime` is told only where a condition's status changes, and so kept where it does not."""
    status: Patch = {}
    wanted = [_told(i) for i in ingress]
    if wanted != [_told(i) for i in current.ingress]:
        status["loadBalancer"] = {"ingress": wanted or None}
    entries = [_entry(c, current.condition(c.type), now) for c in conditions if c not in current.conditions]
    kept = {c.type for c in conditions}
    entries += [
        {"$patch": "delete", "type": c.type}
        for c in current.conditions
        if c.type.startswith(OUR_CONDITIONS) and c.type not in kept
    ]
    if entries:
        status["conditions"] = entries
    return {"status": status} if status else None


def _told(ingress: Ingress) -> Mapping[str, str]:
    """As the API server keeps it: `ipMode` is VIP where an address does not say (KEP-1860)."""
    if ingress.ip:
        return {"ip": ingress.ip, "ipMode": str(ingress.ip_mode or IPMode.VIP)}
    return {"hostname": ingress.hostname}


def _entry(condition: Condition, before: Condition | None, now: datetime) -> Patch:
    entry = {
        "type": condition.type,
        "status": condition.status,
        "reason": condition.reason,
        "message": condition.message[:MAX_CONDITION_MESSAGE],
    }
    if before is None or before.status != condition.status:
        entry["lastTransitionTime"] = rfc3339(now)
    return entry


def rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def path_of(key: ObjectKey, subresource: str = "") -> str:
    path = f"/api/v1/namespaces/{key.namespace}/services/{key.name}"
    return f"{path}/{subresource}" if subresource else path


class ServiceWriter:
    """Carries patches out. A Service that is gone needs nothing any more: that is no error."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def patch(self, key: ObjectKey, patch: Patch, *, subresource: str = "") -> bool:
        """False: there is no such Service. The API server settles what writers race for by itself; if it
        gives up (409), once more after a moment, and then the error."""
        for attempt in range(1, CONFLICT_TRIES + 1):
            try:
                self._transport.request(
                    "PATCH", path_of(key, subresource), body=patch, content_type=STRATEGIC_PATCH
                )
            except NotFound:
                return False
            except Conflict:
                if attempt == CONFLICT_TRIES:
                    raise
                time.sleep(random.uniform(0.05, 0.2) * attempt)  # noqa: S311
            else:
                break
        return True
