"""Annotations of Services that mean the same with every provider. Providers read others' themselves.

A value that cannot be understood is refused where a guess could expose a Service; an unknown name of our own
is told, as it is a typing error most of the time.
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
        replace=Replace(_choice(service, REPLACE)),
        adopt=Adopt(_choice(service, ADOPT)),
    )


def unknown_annotations(service: Service, known: Collection[str] = ()) -> tuple[Notice, ...]:
    """What is told of annotations that begin like ours and are not; `known`: the provider's own."""
    names = sorted(
        a for a in service.annotations if a.startswith(PREFIX) and a not in ALLOWED and a not in known
    )
    if not names:
        return ()
    message = f"not known and ignored: {', '.join(names)} (known: {', '.join(sorted({*ALLOWED, *known}))})"
    return (Notice(Severity.WARNING, Reason.UNKNOWN_ANNOTATION, message, "UnknownAnnotations"),)


def quoted(value: str) -> str:
    """As it was written, or its beginning: the message must have room for the remedy."""
    return repr(value) if len(value) <= MAX_QUOTED else f"{value[:MAX_QUOTED]!r}… ({len(value)} characters)"


def _choice(service: Service, name: str) -> str:
    allowed = ALLOWED[name]
    value = service.annotations.get(name, allowed[0])
    if value not in allowed:
        raise UserError(f"{quoted(value)} is not allowed: {' or '.join(allowed)}", field=_field(name))
    return value


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
