"""Reads that are behind: what was made is not shown yet, what was deleted still is, and so are old tags.

Each of the three APIs can be told to answer as things were so many seconds ago (inf: as they are now, until
told otherwise). Existence and tags are behind; what is shown of a thing is as it is now.

Sources: "Eventual consistency in the Amazon EC2 API" (EC2 developer guide); GetResources of the tagging API
shows changes some time after they were made. For ELBv2 AWS promises nothing either way, and Terraform's
provider waits for what it has made to be shown.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lbprov.lab.aws.call import EC2, ELBV2, TAGGING, Call
from lbprov.lab.aws.rule import ec2, elbv2


@dataclass(frozen=True, slots=True)
class _Picture:
    """Shallow copies of moto's shelves."""

    at_s: float
    balancers: dict[str, Any]
    target_groups: dict[str, Any]
    tags: dict[str, dict[str, str]]
    security_groups: dict[str, dict[str, Any]]
    ec2_tags: dict[str, dict[str, str]]


class Lag:
    """Not safe for threads: under the lock of whoever asks."""

    def __init__(self) -> None:
        self._seconds: Mapping[str, float] = {}
        self._pictures: dict[str, list[_Picture]] = {}

    def change(self, seconds: Mapping[str, float]) -> None:
        """Service as in `Call.service` -> how far behind its reads are from now on."""
        self._seconds = {service: s for service, s in seconds.items() if s > 0}
        self._pictures.clear()

    @contextlib.contextmanager
    def during(self, call: Call, now_s: float) -> Iterator[None]:
        """A call: a read sees the past, after a write there is something new to be seen later."""
        if not self._seconds:
            yield
            return
        pictures = self._pictures.setdefault(call.region, [])
        if not pictures:
            pictures.append(_picture(call, now_s))
        if not call.operation.startswith(("Describe", "Get")):
            yield
            pictures.append(_picture(call, now_s))
        elif lag_s := self._seconds.get(call.service, 0.0):
            old = [p for p in pictures if p.at_s <= now_s - lag_s] or pictures[:1]
            with _seeing(call, old[-1]):
                yield
        else:
            yield


def _picture(call: Call, now_s: float) -> _Picture:
    balancing, network = elbv2(call), ec2(call)
    return _Picture(
        now_s,
        dict(balancing.load_balancers),
        dict(balancing.target_groups),
        {arn: dict(tags) for arn, tags in balancing.tagging_service.tags.items()},
        {vpc: dict(groups) for vpc, groups in network.groups.items()},
        {key: dict(tags) for key, tags in network.tags.items()},
    )


@contextlib.contextmanager
def _seeing(call: Call, picture: _Picture) -> Iterator[None]:
    """moto's shelves are those of the picture meanwhile."""
    shelves: list[tuple[Any, str, Any]] = []
    if call.service in (ELBV2, TAGGING):
        balancing = elbv2(call)
        shelves = [
            (balancing, "load_balancers", picture.balancers),
            (balancing, "target_groups", picture.target_groups),
            (balancing.tagging_service, "tags", picture.tags),
        ]
    elif call.service == EC2:
        network = ec2(call)
        shelves = [(network, "groups", picture.security_groups), (network, "tags", picture.ec2_tags)]
    now = [getattr(owner, name) for owner, name, _ in shelves]
    for owner, name, old in shelves:
        setattr(owner, name, old)
    try:
        yield
    finally:
        for (owner, name, _), new in zip(shelves, now, strict=True):
            setattr(owner, name, new)
