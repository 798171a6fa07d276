"""Annotations of Services that mean the same with every provider. Providers read others' themselves.

A value that cannot be understood is refused where a guess could expose a Service, and counts as the cautious
one otherwise, which is told. So is an unknown name of our own, a typing error most of the time.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from dataclasses import dataclass

from lbprov.logic.events import Reason
from lbprov.model import Adopt, Notice, Replace, Service, Severity, UserError

PREFIX = "lbprov.io/"
IP_POLICY = "lbprov.io/ip-policy"
SCHEME = "lbprov.io/scheme"
REPLACE = "lbprov.io/replace"
ADOPT = "lbprov.io/adopt"
SOURCE_RANGES = "service.beta.kubernetes.io/load-balancer-source-ranges"

ALLOWED = {
    IP_POLICY: ("prefer", "require"),
    SCHEME: ("internet-facing", "internal"),
    REPLACE: tuple(Replace),
    ADOPT: tuple(Adopt),
}
"""Annotation -> its values, the default first."""

MAX_QUOTED = 80


@dataclass(frozen=True, slots=True)
class Wishes:
    require_ip: bool
    internal: bool
    source_ranges: tuple[str, ...]
    replace: Replace
    adopt: Adopt


def read_annotations(service: Service) -> Wishes:
    """Raises `UserError` naming the annotation and what is allowed."""
    return Wishes(
        require_ip=_choice(service, IP_POLICY) == "require",
        internal=_choice(service, SCHEME) == "internal",
        source_ranges=_source_ranges(service),
        replace=Replace(_choice(service, REPLACE, otherwise=Replace.NEVER)),
        adopt=Adopt(_choice(service, ADOPT)),
    )


def unknown_annotations(service: Service, known: Collection[str] = ()) -> tuple[Notice, ...]:
    """What is told of annotations that begin like ours and are not, and of values that are not followed since
    the cautious one is known; `known`: the provider's own."""
    names = sorted(
        a for a in service.annotations if a.startswith(PREFIX) and a not in ALLOWED and a not in known
    )
    said = [f"{name}: {_refusal(service.annotations[name], name)}" for name in _unread(service)]
    if names:
        known_ones = ", ".join(sorted({*ALLOWED, *known}))
        said.append(f"not known and ignored: {', '.join(names)} (known: {known_ones})")
    if not said:
        return ()
    return (Notice(Severity.WARNING, Reason.UNKNOWN_ANNOTATION, "; ".join(said), "UnknownAnnotations"),)


def _unread(service: Service) -> list[str]:
    """Those whose value means nothing, where the default changes nothing that serves."""
    return [] if service.annotations.get(REPLACE, Replace.NEVER) in ALLOWED[REPLACE] else [REPLACE]


def quoted(value: str) -> str:
    """As it was written, or its beginning: the message must have room for the remedy."""
    return repr(value) if len(value) <= MAX_QUOTED else f"{value[:MAX_QUOTED]!r}… ({len(value)} characters)"


def _choice(service: Service, name: str, *, otherwise: str = "") -> str:
    """`otherwise`: what a value that means nothing counts as; without it such a value is refused."""
    allowed = ALLOWED[name]
    value = service.annotations.get(name, allowed[0])
    if value in allowed:
        return value
    if not otherwise:
        raise UserError(_refusal(value, name), field=_field(name))
    return otherwise


def _refusal(value: str, name: str) -> str:
    return f"{quoted(value)} is not allowed: {' or '.join(ALLOWED[name])}"


def _source_ranges(service: Service) -> tuple[str, ...]:
    """The field, or where it is empty the annotation that is older than the field; each range once."""
    if service.load_balancer_source_ranges:
        return tuple(dict.fromkeys(service.load_balancer_source_ranges))
    found: dict[str, None] = {}
    for text in filter(
        None, (part.strip() for part in service.annotations.get(SOURCE_RANGES, "").split(","))
    ):
        try:
            found[str(ipaddress.ip_network(text, strict=False))] = None
        except ValueError as err:
            raise UserError(
                f"{text!r} is no range: ranges such as 203.0.113.0/24, separated by commas, are allowed",
                field=_field(SOURCE_RANGES),
            ) from err
    return tuple(found)


def _field(annotation: str) -> str:
    return f"metadata.annotations[{annotation}]"
