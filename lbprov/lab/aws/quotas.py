"""AWS's quotas, as an account has them that never asked for more.

Sources: "Quotas for your Network Load Balancers" (ELB user guide), "Amazon VPC quotas" (VPC user guide),
"Tag" and "AddTags" of the ELBv2 API. Rules per security group (60 of each family) are moto's own business.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Quotas:
    """`targets_cross_zone`: of a load balancer with cross-zone load balancing, whatever its zones."""

    load_balancers: int = 50
    listeners: int = 50
    target_groups: int = 3000
    targets_per_group: int = 1000
    targets: int = 3000
    targets_per_zone: int = 500
    targets_cross_zone: int = 500
    security_groups: int = 2500
    tags: int = 50


_now = Quotas()


def now() -> Quotas:
    return _now


def change(values: Mapping[str, int]) -> None:
    """As when AWS Support grants more (or a test wants less)."""
    global _now  # noqa: PLW0603 - one server, one account
    _now = dataclasses.replace(_now, **values)


def reset() -> None:
    global _now  # noqa: PLW0603
    _now = Quotas()
