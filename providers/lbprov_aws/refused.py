"""Wishes that AWS refused: remembered for a while, told, and not tried again with every event.

A wish is remembered by its value: one that is changed is tried at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping

from lbprov.api import Notice, Owner, Severity
from lbprov_aws import writes
from lbprov_aws.attributes import OF_LISTENERS, OF_LOAD_BALANCERS, OF_TARGET_GROUPS, Attribute, default
from lbprov_aws.desired import Port, Wanted
from lbprov_aws.resources import Tags

REFUSED_S = 600.0

CODES = frozenset(
    {
        "ALPNPolicyNotSupported",
        "CertificateNotFound",
        "IncompatibleProtocols",
        "InvalidConfigurationRequest",
        "InvalidParameterValue",
        "OperationNotPermitted",
        "SSLPolicyNotFound",
        "TooManyCertificates",
        "UnsupportedCertificate",
        "UnsupportedProtocol",
        "ValidationError",
    }
)
"""That a value is at fault, and will be as long as it (or the thing that it names) is as it is."""


class Refusals:
    """Safe for threads."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._lock = threading.Lock()
        self._by_owner: dict[Owner, dict[str, tuple[str, float]]] = {}
        self._once: dict[Owner, set[str]] = {}

    def add(self, owner: Owner, key: str, message: str) -> None:
        with self._lock:
            self._by_owner.setdefault(owner, {})[key] = (message, self._now_s() + REFUSED_S)
            self._once.setdefault(owner, set()).add(key)

    def of(self, owner: Owner) -> tuple[tuple[str, str], ...]:
        """Key and what AWS said, sorted; none that is too old."""
        now_s = self._now_s()
        with self._lock:
            there = {k: v for k, v in self._by_owner.get(owner, {}).items() if v[1] > now_s}
            self._by_owner[owner] = there
            if not there:
                del self._by_owner[owner]
        return tuple(sorted((key, message) for key, (message, _) in there.items()))

    def once(self, owner: Owner) -> frozenset[str]:
        """Keys of all that was ever refused: that it is tried again is nobody's doing."""
        with self._lock:
            return frozenset(self._once.get(owner, ()))

    def withdraw(self, owner: Owner, prefix: str) -> None:
        """What begins so may be tried again now."""
        with self._lock:
            there = self._by_owner.get(owner, {})
            self._by_owner[owner] = {k: v for k, v in there.items() if not k.startswith(prefix)}

    def forget(self, owner: Owner) -> None:
        with self._lock:
            self._by_owner.pop(owner, None)
            self._once.pop(owner, None)


def attribute_key(ref: str, key: str, value: str) -> str:
    """Of an attribute of the load balancer ("lb"), a listener or a target group (its step id)."""
    return f"{ref} {key}={value}"


def tls_key(port: Port) -> str:
    """Of a TLS listener as it is wished for, certificates for SNI apart."""
    assert port.tls is not None
    return f"{port.listener_id} {port.tls.certificate} {port.tls.policy} {port.tls.alpn}".rstrip()


def certificate_key(number: int, certificate: str) -> str:
    """Of a certificate for SNI of the listener on a port."""
    return f"listener:{number} SNI {certificate}"


def is_retry(body: object, once: frozenset[str]) -> bool:
    """Whether a write only tries again what was refused before."""
    keys = set(_keys_of(body))
    return bool(keys) and keys <= once


def _keys_of(body: object) -> Iterator[str]:
    if isinstance(body, writes.SetAttributes):
        yield from (attribute_key(body.subject, key, value) for key, value in body.attributes)
    elif isinstance(body, writes.SetListenerAttributes):
        yield from (attribute_key(body.listener_ref, key, value) for key, value in body.attributes)
    elif isinstance(body, writes.ChangeCertificates):
        yield from (certificate_key(body.number, c) for c in (*body.add, *body.remove))
    elif isinstance(body, writes.CreateListener | writes.ChangeListener) and body.refusal_key:
        yield body.refusal_key


def notices(wanted: Wanted, refused: tuple[tuple[str, str], ...]) -> tuple[Notice, ...]:
    """What is to be said of refusals that still matter."""
    current = set(_keys(wanted)) if refused else set()
    said = [f"{_shown(key)}: {message}" for key, message in refused if key in current]
    if not said:
        return ()
    message = "; ".join(said) + f"; it is tried again in {REFUSED_S / 60:.0f} minutes, or when it is changed"
    return (Notice(Severity.WARNING, "AnnotationRefused", message, "Refused"),)


def _shown(key: str) -> str:
    """As people know it: by the annotation that asks for it."""
    ref, _, value = key.partition(" ")
    kind, _, rest = ref.partition(":")
    if kind == "lb":
        return f"aws-load-balancer-attributes: {value}"
    if kind == "tg":
        return f"aws-load-balancer-target-group-attributes: {value} (nodePort {rest.partition('-')[0]})"
    if "=" in value:
        return f"aws-load-balancer-listener-attributes: {value} (port {rest})"
    return f"aws-load-balancer-ssl-cert: {value} (port {rest})"


def _keys(wanted: Wanted) -> Iterator[str]:
    yield from _attribute_keys(wanted.attributes, "lb", OF_LOAD_BALANCERS)
    for port in wanted.ports:
        yield from _attribute_keys(port.attributes, port.group_id, OF_TARGET_GROUPS, port.group_protocol)
        yield from _attribute_keys(port.listener_attributes, port.listener_id, OF_LISTENERS)
        if port.tls is not None:
            yield tls_key(port)
            yield from (certificate_key(port.port, c) for c in port.tls.more_certificates)


def _attribute_keys(
    wanted: Tags, ref: str, known: Mapping[str, Attribute], protocol: str = ""
) -> Iterator[str]:
    """As asked for, and back at their defaults."""
    asked = dict(wanted)
    for key, attribute in known.items():
        value = asked.get(key, default(attribute, protocol))
        if value is not None:
            yield attribute_key(ref, key, value)
