"""What a Service's annotations say about AWS: those of the other controllers, as far as we follow them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lbprov.api import LoadBalancer, Notice, Severity, UserError
from lbprov_aws import names

PREFIX = "service.beta.kubernetes.io/aws-load-balancer-"
_OWN_SCHEME = "lbprov.io/scheme"
_INTERNAL = PREFIX + "internal"
_SCHEME = PREFIX + "scheme"
SUBNETS = PREFIX + "subnets"
_TAGS = PREFIX + "additional-resource-tags"

FOLLOWED = (_INTERNAL, _SCHEME, SUBNETS, _TAGS)

_AS_WE_DO = {
    PREFIX + "type": {"nlb", "external"},
    PREFIX + "nlb-target-type": {"instance"},
    PREFIX + "ip-address-type": {"ipv4", "dualstack"},
    PREFIX + "enable-tcp-udp-listener": {"true"},
    PREFIX + "manage-backend-security-group-rules": {"false"},
}
"""Annotations that ask, with these values, for what we do anyway."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """`subnets`: ids or values of the tag Name. `extra_tags`: for every resource of the Service."""

    internal: bool
    subnets: tuple[str, ...] = ()
    extra_tags: tuple[tuple[str, str], ...] = ()
    notices: tuple[Notice, ...] = ()


def read_wishes(desired: LoadBalancer) -> Wishes:
    """Raises `UserError` where a wrong guess would expose a Service or put it into the wrong network."""
    annotations = desired.annotations
    tags, complaints = _extra_tags(annotations.get(_TAGS, ""))
    unknown = sorted(key for key, value in annotations.items() if _is_unsupported(key, value))
    if unknown:
        short = ", ".join(key.removeprefix("service.beta.kubernetes.io/") for key in unknown)
        complaints.append(f"not supported yet and ignored: {short}")
    notices: tuple[Notice, ...] = ()
    if complaints:
        notices = (Notice(Severity.WARNING, "AnnotationsIgnored", "; ".join(complaints), "Annotations"),)
    return Wishes(
        internal=_internal(annotations, desired.internal),
        subnets=tuple(filter(None, (s.strip() for s in annotations.get(SUBNETS, "").split(",")))),
        extra_tags=tags,
        notices=notices,
    )


def _internal(annotations: Mapping[str, str], default: bool) -> bool:
    """lbprov's own annotation wins, then `scheme`, then `internal`, where anything but "false" means yes."""
    if _OWN_SCHEME in annotations:
        return default
    scheme = annotations.get(_SCHEME, "")
    if scheme in ("internal", "internet-facing"):
        return scheme == "internal"
    if scheme:
        raise UserError(
            f"{scheme!r} is not allowed: internal or internet-facing",
            field=f"metadata.annotations[{_SCHEME}]",
        )
    internal = annotations.get(_INTERNAL, "")
    return internal.lower() != "false" if internal else default


def _extra_tags(text: str) -> tuple[tuple[tuple[str, str], ...], list[str]]:
    """The tags of `k=v,k=v`, and what is wrong with the rest. A bad tag costs that tag, not the Service."""
    tags: dict[str, str] = {}
    complaints: list[str] = []
    for part in filter(None, (p.strip() for p in text.split(","))):
        key, _, value = part.partition("=")
        key, value = key.strip(), value.strip()
        if not key or len(key) > 128 or len(value) > 256 or not names.is_tag_text(key + value):
            complaints.append(f"additional-resource-tags: {part!r} is not a tag that AWS accepts")
        elif names.is_ours(key):
            complaints.append(f"additional-resource-tags: {key} is reserved")
        else:
            tags[key] = value
    return tuple(sorted(tags.items())), complaints


def _is_unsupported(key: str, value: str) -> bool:
    if not key.startswith(PREFIX) or key in FOLLOWED:
        return False
    return value not in _AS_WE_DO.get(key, ())
