"""The provider's settings: what `--provider-option NAME=VALUE` takes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lbprov.api import ProviderOption
from lbprov_aws import pace


def _region(text: str) -> str:
    if text and not re.fullmatch(r"[a-z]{2,}(-[a-z]+)+-\d+", text):
        raise ValueError("a region looks like eu-west-1")
    return text


def _vpc_id(text: str) -> str:
    if text and not re.fullmatch(r"vpc-[0-9a-f]+", text):
        raise ValueError("a VPC id looks like vpc-0abc1234")
    return text


def _subnet_ids(text: str) -> tuple[str, ...]:
    ids = tuple(filter(None, (part.strip() for part in text.split(","))))
    for subnet_id in ids:
        if not re.fullmatch(r"subnet-[0-9a-f]+", subnet_id):
            raise ValueError(f"{subnet_id!r} is no subnet id: a comma-separated list of subnet-0abc1234")
    return ids


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 86400:
        raise ValueError("a number of seconds from 0 to 86400")
    return seconds


OPTIONS = (
    ProviderOption(
        "region",
        "AWS region; otherwise that of the environment, the profile, the instance metadata or a node.",
        parse=_region,
    ),
    ProviderOption(
        "vpc-id",
        "VPC of the nodes; otherwise that of the instance metadata (on a node), or of a node's instance.",
        parse=_vpc_id,
    ),
    ProviderOption(
        "subnet-ids",
        "Subnets of new load balancers, one per zone, comma-separated; otherwise found in the VPC: those "
        "tagged kubernetes.io/role/elb (internal: internal-elb), or the public ones.",
        parse=_subnet_ids,
    ),
    ProviderOption(
        "replace-drain-seconds",
        "How long a load balancer that was replaced (lbprov.io/replace) goes on serving clients that still "
        "have its name or addresses.",
        default="300",
        parse=_seconds,
    ),
    ProviderOption(
        "replace-patience-seconds",
        "How long a new load balancer's targets may take to become healthy before it takes the old one's "
        "place nevertheless.",
        default="600",
        parse=_seconds,
    ),
    ProviderOption(
        "resync-seconds",
        "How old our picture of AWS may be before it is looked at again; drift is found no later.",
        default="300",
        parse=_seconds,
    ),
    ProviderOption(
        "api-rates",
        "How fast AWS may be called, instead of somewhat below its limits: off, or FAMILY=PER_SECOND:BURST,… "
        f"for some of {', '.join(f'{f}={r}' for f, r in pace.DEFAULTS.items())}. An emulator on this machine "
        "is not held back.",
        parse=pace.parse,
    ),
)


@dataclass(frozen=True, slots=True)
class Config:
    region: str
    vpc_id: str
    subnet_ids: tuple[str, ...]
    resync_s: float
    rates: Mapping[pace.Family, pace.Rate] | None
    """None: AWS's limits decide."""
    drain_s: float
    patience_s: float

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Config:
        return cls(
            region=options["region"],
            vpc_id=options["vpc-id"],
            subnet_ids=options["subnet-ids"],
            resync_s=options["resync-seconds"],
            rates=options["api-rates"],
            drain_s=options["replace-drain-seconds"],
            patience_s=options["replace-patience-seconds"],
        )
