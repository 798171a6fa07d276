"""Which subnets a new load balancer stands in: at most one per zone. Pure."""

from __future__ import annotations

import re

from lbprov.api import ProviderError
from lbprov_aws import names
from lbprov_aws.resources import Network, Subnet

PUBLIC_ROLE = "kubernetes.io/role/elb"
INTERNAL_ROLE = "kubernetes.io/role/internal-elb"
MIN_FREE_IPS = 8
"""A load balancer's subnet needs that many ("Network Load Balancers", ELB user guide)."""

_PLAIN_ZONE = re.compile(r"[a-z]{2,}(-[a-z]+)+-\d+[a-z]")
"""eu-west-1a, and not a Local Zone (us-west-2-lax-1a) or a Wavelength Zone (us-east-1-wl1-bos-wlz-1)."""


def discover(vpc_id: str, subnets: tuple[Subnet, ...], cluster: str, *, internal: bool) -> Network:
    """The best subnet of each plain zone of a VPC: with the role's tag, then of this cluster, then (for an
    internal one) private, then the first by id. Without the tag an internet-facing load balancer needs a
    public subnet. Raises `ProviderError` if there is none."""
    role = INTERNAL_ROLE if internal else PUBLIC_ROLE
    usable = [s for s in subnets if _PLAIN_ZONE.fullmatch(s.zone) and not _of_another_cluster(s, cluster)]
    fit = [s for s in usable if _has_role(s, role) or internal or s.public]
    roomy = [s for s in fit if s.free_ips >= MIN_FREE_IPS]
    best: dict[str, Subnet] = {}
    for subnet in sorted(roomy, key=lambda s: _rank(s, role, cluster, internal)):
        best.setdefault(subnet.zone, subnet)
    if best:
        return Network(vpc_id, tuple(best[zone] for zone in sorted(best)))
    kind = "subnet" if internal else "public subnet (one whose route table leads to an internet gateway)"
    why = f"with {MIN_FREE_IPS} free addresses " if fit else ""
    raise ProviderError(
        f"VPC {vpc_id} has no {kind} {why}for a load balancer: tag the subnets to use with {role}=1, "
        "or name them with --provider-option subnet-ids=…",
        retryable=False,
    )


def named(wishes: tuple[str, ...], subnets: tuple[Subnet, ...], complaints: list[str]) -> Network | str:
    """The subnets that were named, by id or by tag Name; or what is wrong with that, for an error. What is
    wrong with some of them alone goes to `complaints`: the others are used."""
    chosen: dict[str, Subnet] = {}
    for wish in wishes:
        subnet = next((s for s in subnets if wish in (s.subnet_id, dict(s.tags).get("Name"))), None)
        if subnet is None:
            complaints.append(f"there is no subnet {wish!r}")
        elif (other := chosen.setdefault(subnet.zone, subnet)) is not subnet:
            complaints.append(
                f"{other.subnet_id} and {subnet.subnet_id} are both in {subnet.zone}: one subnet per zone"
            )
    if not chosen:
        return "; ".join(complaints)
    vpcs = {s.vpc_id for s in chosen.values()}
    if len(vpcs) > 1:
        complaints.append(f"the subnets are in different VPCs: {', '.join(sorted(vpcs))}")
        return complaints[-1]
    return Network(vpcs.pop(), tuple(chosen[zone] for zone in sorted(chosen)))


def _rank(subnet: Subnet, role: str, cluster: str, internal: bool) -> tuple[bool, bool, bool, str]:
    tags = dict(subnet.tags)
    return (
        not _has_role(subnet, role),
        names.cluster_tag(cluster) not in tags,
        internal and subnet.public,
        subnet.subnet_id,
    )


def _has_role(subnet: Subnet, role: str) -> bool:
    return dict(subnet.tags).get(role) in ("", "1")


def _of_another_cluster(subnet: Subnet, cluster: str) -> bool:
    clusters = {key for key, _ in subnet.tags if key.startswith(names.cluster_tag(""))}
    return bool(clusters) and names.cluster_tag(cluster) not in clusters
