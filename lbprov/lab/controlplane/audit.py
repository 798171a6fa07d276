"""Who asked the API server for what: its audit log as values."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

# Everything but what the control plane and its administrator do themselves.
AUDIT_POLICY = """\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  users: [admin, "system:apiserver", "system:anonymous"]
- level: Metadata
"""


@dataclass(frozen=True, slots=True)
class ApiCall:
    """One answered request. A watch is there twice: when its stream began (`streaming`) and when it ended.

    `resource` is `services` or `services/status`, empty for what is no resource (`path` tells). `name` and
    `namespace` are empty where there are none. `at_s` is Unix time, of the request's arrival."""

    user: str
    verb: str
    group: str
    resource: str
    namespace: str
    name: str
    path: str
    code: int
    streaming: bool
    at_s: float


def parse(log: str) -> Iterator[ApiCall]:
    """Of whole lines; one that is still being written is left for the next time."""
    for line in log.splitlines(keepends=True):
        if not line.endswith("\n"):
            return
        event = json.loads(line)
        of = event.get("objectRef", {})
        parts = (of.get("resource", ""), of.get("subresource", ""))
        yield ApiCall(
            user=event["user"].get("username", ""),
            verb=event["verb"],
            group=of.get("apiGroup", ""),
            resource="/".join(part for part in parts if part),
            namespace=of.get("namespace", ""),
            name=of.get("name", ""),
            path=event["requestURI"],
            code=event.get("responseStatus", {}).get("code", 0),
            streaming=event["stage"] == "ResponseStarted",
            at_s=datetime.fromisoformat(event["requestReceivedTimestamp"]).timestamp(),
        )
