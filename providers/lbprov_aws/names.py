"""Names and ownership marks (tags) of what we make.

A name says whose it is to a person and is the same for the same input, so that a create repeated after a
crash meets its own work. What decides about ownership is the tags, never the name.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping

from lbprov.api import ObjectKey, Owner

PREFIX = "lbp-"
"""Every name begins so: what a listing of a whole region is sifted by before tags are asked for."""

MAX_NAME = 32
"""Of load balancers and target groups (API_CreateLoadBalancer, API_CreateTargetGroup)."""

CLUSTER = "lbprov/cluster"
SERVICE = "lbprov/service"
UID = "lbprov/service-uid"
RESOURCE = "lbprov/resource"
REQUESTED_IP = "lbprov/requested-ip"
"""The `loadBalancerIP` that the load balancer was made for, honoured or not."""
REFUSED_IP = "lbprov/refused-ip"
"""AWS's error code for that address, where it was refused when the load balancer was made."""
SEAL = "lbprov/sealed"
"""A digest of what was verified last (see `seals`)."""
REQUESTED_ADDRESSES = "lbprov/requested-addresses"
"""The same of addresses that annotations list."""
REQUESTED_SUBNETS = "lbprov/requested-subnets"
MADE_FOR = (REQUESTED_IP, REFUSED_IP, REQUESTED_ADDRESSES, REQUESTED_SUBNETS)
"""Of a load balancer: they stay as they were when it was made."""
ATTRIBUTES = "lbprov/attributes"
"""Which attributes were asked for (see `extra_mark`), so that they can go back to their default."""
LISTENER_ATTRIBUTES = "lbprov/listener-attributes"
"""Of a load balancer: the same of its listeners."""
GROUPS = "lbprov/security-groups"
"""Ids of security groups that the Service named, so that they can be taken off again."""
GENERATION = "lbprov/generation"
"""Of a load balancer made in place of another one, and of its target groups and listeners: which they are."""
RETIRED = "lbprov/retired-at"
"""Of a load balancer that another one has taken the place of: since when, in seconds since 1970. The
Service's status does not name it any more."""
ADOPTED = "lbprov/adopted-from"
"""Of a load balancer that another controller has made: which one."""
ADOPTION = "lbprov/adoption"
"""Of such a one, for as long as what belongs to it is still to be taken over."""
OF_ITS_LIFE = (RETIRED, ADOPTED, ADOPTION)
"""Tags of a load balancer that say how it came and goes, and nothing of what the Service asks for."""
REPLACE_REMEDY = (
    "to have it changed, let it be replaced (annotation lbprov.io/replace: seamless), or delete the Service "
    "and create it again"
)
"""Where a load balancer is not as it is asked for, and AWS cannot change it."""
PROTECTION_REMEDY = (
    "turn its attribute deletion_protection.enabled off (by aws-load-balancer-attributes where the Service "
    "asks for it, or by: aws elbv2 modify-load-balancer-attributes --attributes "
    "Key=deletion_protection.enabled,Value=false --load-balancer-arn {arn})"
)
"""Of a load balancer that AWS does not delete."""
EXTRA = "lbprov/extra-tags"
"""Which further tags we put there (see `extra_mark`), so that they can be taken back."""

_TAG_TEXT = re.compile(r"[\w .:/=+\-@]*")
"""Letters, digits, spaces and these in every AWS service (EC2 user guide, "Tag restrictions")."""


def load_balancer_name(owner: Owner, *, internal: bool, generation: str = "") -> str:
    more = (generation,) if generation else ()
    return _name(owner, "lb", "internal" if internal else "internet-facing", *more)


def with_generation(name: str, generation: str) -> str:
    """A name that was asked for, of another load balancer than the first."""
    return f"{name[: MAX_NAME - 1 - len(generation)].rstrip('-')}-{generation}" if generation else name


def security_group_name(owner: Owner) -> str:
    return _name(owner, "sg")


def target_group_name(owner: Owner, protocol: str, node_port: int, vpc_id: str, generation: str = "") -> str:
    """Everything in it that cannot be changed on a target group; the listener's port is not among it."""
    more = (generation,) if generation else ()
    return _name(owner, "tg", protocol, str(node_port), "instance", vpc_id, *more)


def _name(owner: Owner, *generation: str) -> str:
    text = "\0".join((owner.cluster, owner.uid, *generation))
    digest = base64.b32encode(hashlib.sha256(text.encode()).digest()).decode().lower()[:10]
    parts = (_part(owner.service.namespace), _part(owner.service.name), digest)
    return PREFIX + "-".join(part for part in parts if part)


def _part(text: str) -> str:
    """At most 8 characters of `text` that are allowed in any name; no hyphen at its ends, none doubled."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:8].strip("-")


def marks(owner: Owner, resource: str) -> dict[str, str]:
    """The tags that make a resource the owner's. `resource`: its place in the plan ("lb", "tg:30080-tcp")."""
    return {
        cluster_tag(owner.cluster): "owned",
        CLUSTER: owner.cluster,
        SERVICE: str(owner.service),
        UID: owner.uid,
        RESOURCE: resource,
    }


def cluster_tag(cluster: str) -> str:
    """What other tools of a cluster recognise its resources by."""
    return f"kubernetes.io/cluster/{cluster}"


def generation(*parts: str) -> str:
    """A short name for what cannot be changed on a load balancer."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:8]


def generation_of(tags: Iterable[tuple[str, str]]) -> str:
    """Empty: of the first load balancer of its Service."""
    return dict(tags).get(GENERATION, "")


def retired_at_s(tags: Iterable[tuple[str, str]]) -> int | None:
    """None: it is not retired. What is no number counts as long ago."""
    text = dict(tags).get(RETIRED)
    if text is None:
        return None
    return int(text) if text.isdecimal() else 0


def owner_of(tags: Mapping[str, str]) -> Owner | None:
    """Whose resource has these tags; None: nobody's of ours."""
    namespace, _, name = tags.get(SERVICE, "").partition("/")
    if not (tags.get(CLUSTER) and tags.get(UID) and name):
        return None
    return Owner(tags[CLUSTER], ObjectKey(namespace, name), tags[UID])


def is_marked(tags: Mapping[str, str]) -> bool:
    """Whether it bears any of the marks that say whose it is."""
    return any(key in tags for key in (CLUSTER, SERVICE, UID))


def has_lost_marks(name: str, tags: Mapping[str, str], owner: Owner) -> bool:
    """Whether it is the owner's although somebody took some of its marks off: its name is one of ours (or it
    was taken over), and what is left of the marks says no other owner. The uid has to be left, or cluster and
    Service with a name that nobody else's resource has."""
    expected = {CLUSTER: owner.cluster, SERVICE: str(owner.service), UID: owner.uid}
    if not (name.startswith(PREFIX) or ADOPTED in tags) or owner_of(tags) is not None:
        return False
    if any(tags.get(key, value) != value for key, value in expected.items()):
        return False
    own_names = {security_group_name(owner), *(load_balancer_name(owner, internal=i) for i in (True, False))}
    return UID in tags or (CLUSTER in tags and SERVICE in tags and name in own_names)


def is_ours(key: str) -> bool:
    """Whether a tag key is a mark of ours (or reserved by AWS), which nobody may set as an extra tag."""
    return key.startswith(("lbprov/", "kubernetes.io/cluster/")) or key.lower().startswith("aws:")


def is_tag_text(text: str) -> bool:
    return _TAG_TEXT.fullmatch(text) is not None


def tag_text(text: str) -> str:
    """Any text as a tag's value: what AWS refuses becomes "_", and no more than 256 characters."""
    return re.sub(r"[^\w .:/=+\-@]", "_", text)[:256]


MAX_EXTRA = 28
"""As many extra tags as one mark remembers; with ours they stay below AWS's 50 of a resource."""


def extra_mark(keys: Mapping[str, str]) -> str:
    """The keys of extra tags as the value of one tag: short digests, since keys may be longer than a value
    may hold and contain any separator."""
    return "-".join(sorted(_digest(key) for key in keys))[:256]


def marked_extra(mark: str, key: str) -> bool:
    return _digest(key) in mark.split("-")


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:8]
