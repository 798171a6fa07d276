"""Which region we work in, where nobody has said so; and whether it can be the right one.

The order: `--provider-option region=`, the environment and the profile (`cloud`), then the metadata of the
instance that we run on, then the zone of a Node. A VPC is a Node's in any case: the instance that we run on
tells it only where it is a Node itself.
"""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable

from lbprov.api import ProviderError
from lbprov_aws import metadata
from lbprov_aws.metadata import Instance, NoMetadata

PROVIDER_ID = re.compile(r"aws://[^/]*/(?P<zone>[^/]*)/(?P<instance>i-[0-9a-f]{8,17})")
WRONG_REGION = "WrongRegion"

_REGION = re.compile(r"[a-z]{2,}(?:-[a-z]+)+-\d+")
"""What a zone's name begins with: eu-west-1a, us-gov-west-1b, and the Local Zone us-west-2-lax-1a."""


def region_of_zone(zone: str) -> str:
    """Empty for what is no zone of AWS."""
    match = _REGION.match(zone)
    return match[0] if match else ""


def region_of_nodes(provider_ids: Iterable[str]) -> str:
    """The region of most of them (ties: the first by name); empty if none tells."""
    zones = (match["zone"] for text in provider_ids if (match := PROVIDER_ID.fullmatch(text)))
    regions = Counter(filter(None, map(region_of_zone, zones)))
    return min(regions, key=lambda region: (-regions[region], region), default="")


def check_region(region: str, zones: Iterable[str]) -> None:
    """Raises `ProviderError` if every zone is in another region: load balancers made here would have no
    Node in reach."""
    others = {region_of_zone(zone) for zone in zones} - {""}
    if others and region not in others:
        raise ProviderError(
            f"the nodes are in {', '.join(sorted(others))}, and lbprov works in {region}: use "
            f"--provider-option region={min(others)}, or change AWS_REGION or the profile",
            retryable=False,
            reason=WRONG_REGION,
        )


class Placement:
    """What can be found out of where we are. Safe for threads."""

    def __init__(
        self, provider_ids: Callable[[], Iterable[str]], look: Callable[[], Instance] = metadata.look
    ) -> None:
        self._provider_ids = provider_ids
        self._look = look
        self._lock = threading.Lock()
        self._instance: Instance | NoMetadata | None = None

    def region(self) -> str:
        """Of the instance that we run on, or else of the Nodes. Raises `ProviderError` if neither tells it:
        there may be a Node later."""
        instance = self.instance()
        if isinstance(instance, Instance):
            return instance.region
        if region := region_of_nodes(self._provider_ids()):
            return region
        raise ProviderError(
            "no AWS region: use --provider-option region=… or set AWS_REGION "
            f"({instance}, and no node tells one by spec.providerID aws:///ZONE/i-…)"
        )

    def vpc_id(self, instances: Iterable[str]) -> str:
        """Of the instance that we run on, if it is one of these (the Nodes'); empty: it is none of them, so
        that its network says nothing about theirs."""
        here = self.instance()
        return here.vpc_id if isinstance(here, Instance) and here.instance_id in instances else ""

    def instance(self) -> Instance | NoMetadata:
        """Looked for once."""
        with self._lock:
            if self._instance is None:
                try:
                    self._instance = self._look()
                except NoMetadata as why:
                    self._instance = why
            return self._instance
