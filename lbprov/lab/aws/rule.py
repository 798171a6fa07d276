"""What a rule of AWS's is, and how modules of rules declare theirs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.ec2.models import ec2_backends
from moto.elbv2.models import elbv2_backends

from lbprov.lab.aws.call import Call

API = "https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/API_{}.html"
EC2_API = "https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_{}.html"
GUIDE = "https://docs.aws.amazon.com/elasticloadbalancing/latest/network/{}.html"


@dataclass(frozen=True, slots=True)
class Replay:
    """Answer with what `operation` says of `params`, under the name of the call that was made."""

    operation: str
    params: Mapping[str, str]


Check = Callable[[Call], Replay | None]
"""Raises `Refusal`, or gives a `Replay` for a call that AWS answers without doing anything (idempotent
creates), or None: none of its business."""


@dataclass(frozen=True, slots=True)
class Rule:
    """`source`: where AWS says so."""

    name: str
    source: str
    operations: tuple[str, ...]
    check: Check


DECLARED: list[Rule] = []
"""In the order in which they are asked."""


def rule(name: str, source: str, *operations: str) -> Callable[[Check], Check]:
    """Declare the decorated check a rule of these operations."""

    def declare(check: Check) -> Check:
        DECLARED.append(Rule(name, source, operations, check))
        return check

    return declare


def network_only(check: Check) -> Check:
    """Of Network Load Balancers alone."""

    @functools.wraps(check)
    def checked(call: Call) -> Replay | None:
        return check(call) if call.get("Type") == "network" else None

    return checked


def elbv2(call: Call) -> Any:
    """moto's world of load balancers in the call's region."""
    return elbv2_backends[DEFAULT_ACCOUNT_ID][call.region]


def ec2(call: Call) -> Any:
    return ec2_backends[DEFAULT_ACCOUNT_ID][call.region]
