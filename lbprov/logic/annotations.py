"""Annotations of Services that mean the same with every provider. Providers read others' themselves.

A value that cannot be understood counts as the cautious one. Where a guess could expose a Service, what
exists stays as it is, and nothing is made. Both are told, and so is an unknown name of our own: most of the
time, all of these are typing errors.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from lbprov.logic.events import Reason
from lbprov.model import Adopt, Notice, Replace, Service, Severity

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


CAUTIOUS = {IP_POLICY: "require", SCHEME: "internal", REPLACE: Replace.NEVER, ADOPT: Adopt.ASK}
"""What a value that means nothing counts as."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """`unread_scheme`, `unread_source_ranges`: see `LoadBalancer`."""

    require_ip: bool
    internal: bool
    source_ranges: tuple[str, ...]
    replace: Replace
    adopt: Adopt
    unread_scheme: str = ""
    unread_source_ranges: str = ""


def read_annotations(service: Service) -> Wishes:
    ranges, no_range = _source_ranges(service)
    unread = dict(_unread(service))
    return Wishes(
        require_ip=_choice(service, IP_POLICY) == "require",
        internal=_choice(service, SCHEME) == "internal",
        source_ranges=() if no_range else ranges,
        replace=Replace(_choice(service, REPLACE)),
        adopt=Adopt(_choice(service, ADOPT)),
        unread_scheme=unread.get(SCHEME, ""),
        unread_source_ranges=unread.get(SOURCE_RANGES, ""),
    )


def unknown_annotations(service: Service, known: Collection[str] = ()) -> tuple[Notice, ...]:
    """What is told of annotations that begin like ours and are not, and of values that mean nothing; `known`:
    the provider's own."""
    names = sorted(
        a for a in service.annotations if a.startswith(PREFIX) and a not in ALLOWED and a not in known
    )
    said = [f"{why}; {_MEANWHILE.get(name, _AS_IT_IS)}" for name, why in _unread(service)]
    if names:
        known_ones = ", ".join(sorted({*ALLOWED, *known}))
        said.append(f"not known and ignored: {', '.join(names)} (known: {known_ones})")
    if not said:
        return ()
    return (Notice(Severity.WARNING, Reason.UNKNOWN_ANNOTATION, "; ".join(said), "UnknownAnnotations"),)


_AS_IT_IS = "the load balancer stays as it is in this"
_MEANWHILE = {
    IP_POLICY: "until then no other address is used than the one that is asked for",
    REPLACE: "until then nothing is replaced",
    ADOPT: "until then nothing is taken over",
}


def _unread(service: Service) -> Iterator[tuple[str, str]]:
    """Annotations whose values mean nothing, with field, value and remedy."""
    for name, allowed in ALLOWED.items():
        value = service.annotations.get(name, allowed[0])
        if value not in allowed:
            yield name, f"{_field(name)}: {quoted(value)} is not allowed: {' or '.join(allowed)}"
    _, no_range = _source_ranges(service)
    if no_range:
        yield (
            SOURCE_RANGES,
            (
                f"{_field(SOURCE_RANGES)}: {quoted(no_range)} is no range: ranges such as 203.0.113.0/24, "
                "separated by commas, are allowed"
            ),
        )


def quoted(value: str) -> str:
    """As it was written, or its beginning: the message must have room for the remedy."""
    return repr(value) if len(value) <= MAX_QUOTED else f"{value[:MAX_QUOTED]!r}… ({len(value)} characters)"


def _choice(service: Service, name: str) -> str:
    allowed = ALLOWED[name]
    value = service.annotations.get(name, allowed[0])
    return value if value in allowed else CAUTIOUS[name]


def _source_ranges(service: Service) -> tuple[tuple[str, ...], str]:
    """The field, or where it is empty the annotation that is older than the field; each range once. And the
    first of its parts that is none."""
    if service.load_balancer_source_ranges:
        return tuple(dict.fromkeys(service.load_balancer_source_ranges)), ""
    found: dict[str, None] = {}
    parts = (part.strip() for part in service.annotations.get(SOURCE_RANGES, "").split(","))
    for text in filter(None, parts):
        try:
            found[str(ipaddress.ip_network(text, strict=False))] = None
        except ValueError:
            return (), text
    return tuple(found), ""


def _field(annotation: str) -> str:
    return f"metadata.annotations[{annotation}]"
