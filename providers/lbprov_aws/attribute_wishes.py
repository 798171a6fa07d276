"""Attributes as annotations ask for them: by free lists, and by names of their own. Pure.

What cannot be read is neither asked for nor "not asked for any more": its keys are told beside what was read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from lbprov_aws import attributes
from lbprov_aws import peer_annotations as annotation
from lbprov_aws.reading import Reader, is_pair, number_of
from lbprov_aws.resources import Protocol

_Key = TypeVar("_Key", int, tuple[str, int])

Unread = frozenset[str]
"""Keys of attributes of which something is said that could not be read. Where it is not told of which (a key
that is not known, no key=value), they are all that the list can have."""


def of_balancer(reader: Reader) -> tuple[dict[str, str], Unread]:
    """Those with an annotation of their own win, as with the peers."""
    found, bad = _accepted(reader, annotation.ATTRIBUTES, attributes.OF_LOAD_BALANCERS)
    unread = set(bad)
    for name, key in (
        (annotation.CROSS_ZONE, attributes.CROSS_ZONE),
        (annotation.ACCESS_LOG_ENABLED, attributes.ACCESS_LOG_ENABLED),
    ):
        if flag := reader.choice(name, "true", "false"):
            found[key] = flag
        elif reader.text(name):
            reader.stays(name)
            unread.add(key)
    for name, key in (
        (annotation.ACCESS_LOG_BUCKET, attributes.ACCESS_LOG_BUCKET),
        (annotation.ACCESS_LOG_PREFIX, attributes.ACCESS_LOG_PREFIX),
    ):
        known = attributes.OF_LOAD_BALANCERS[key]
        if text := reader.valid(name, known.accepts, known.allowed):
            found[key] = text
        elif reader.text(name):
            reader.stays(name)
            unread.add(key)
    if found.get(attributes.ACCESS_LOG_ENABLED) == "true" and attributes.ACCESS_LOG_BUCKET not in found:
        del found[attributes.ACCESS_LOG_ENABLED]
        unread.add(attributes.ACCESS_LOG_ENABLED)
        name, bucket = annotation.ATTRIBUTES, attributes.ACCESS_LOG_BUCKET
        if reader.text(annotation.ACCESS_LOG_ENABLED):
            name, bucket = annotation.ACCESS_LOG_ENABLED, annotation.ACCESS_LOG_BUCKET
        reader.complain(name, f"logs need a bucket ({bucket})")
        reader.stays(name)
    return found, frozenset(unread.difference(found))


def of_groups(
    reader: Reader, ports: set[int]
) -> tuple[dict[str, str], dict[int, dict[str, str]], dict[int, Unread]]:
    """Of all target groups, of single ports', and what is unread of each port's. What is said of one port
    wins, and above all of these proxy protocol for all."""
    common, everywhere = _accepted(reader, annotation.GROUP_ATTRIBUTES, attributes.OF_TARGET_GROUPS)
    by_port: dict[int, dict[str, str]] = {}
    unread: dict[int, Unread] = {}
    names_of: dict[int, str] = {}
    for text, name in reader.family(f"{annotation.GROUP_ATTRIBUTES}.").items():
        values, bad = _accepted(reader, name, attributes.OF_TARGET_GROUPS)
        if (port := number_of(text)) in ports:
            _tell_twin(reader, names_of, port, name)
            by_port[port], unread[port] = values, bad
        else:
            reader.complain(name, f"the Service has no port {text}")
            reader.stays(name)
            everywhere |= bad.union(values)
    if reader.text(annotation.PROXY_PROTOCOL_PORTS):
        proxied, are_all = _port_numbers(reader, annotation.PROXY_PROTOCOL_PORTS, ports)
        if not are_all:
            reader.stays(annotation.PROXY_PROTOCOL_PORTS)
        for port in ports if are_all else proxied:
            by_port.setdefault(port, {})[attributes.PROXY_PROTOCOL] = str(port in proxied).lower()
        everywhere |= frozenset(() if are_all else (attributes.PROXY_PROTOCOL,))
    if reader.valid(annotation.PROXY_PROTOCOL, lambda text: text == "*", "*"):
        common[attributes.PROXY_PROTOCOL] = "true"
        for values in by_port.values():
            values.pop(attributes.PROXY_PROTOCOL, "")
    elif reader.text(annotation.PROXY_PROTOCOL):
        reader.stays(annotation.PROXY_PROTOCOL)
        everywhere |= {attributes.PROXY_PROTOCOL}
    return common, by_port, {port: everywhere | unread.get(port, frozenset()) for port in ports}


def of_listeners(
    reader: Reader, ports: set[int]
) -> tuple[dict[tuple[str, int], dict[str, str]], dict[int, Unread]]:
    """By protocol and port, as the annotation names them; and what is unread of each port's listener."""
    found: dict[tuple[str, int], dict[str, str]] = {}
    unread: dict[int, Unread] = {}
    everywhere: Unread = frozenset()
    names_of: dict[tuple[str, int], str] = {}
    for text, name in reader.family(f"{annotation.LISTENER_ATTRIBUTES}.").items():
        protocol, _, number = text.rpartition("-")
        values, bad = _accepted(reader, name, attributes.OF_LISTENERS)
        if (port := number_of(number)) is None or protocol.upper() not in tuple(Protocol):
            reader.complain(name, f"{text} is no listener: PROTOCOL-PORT, such as TCP-80")
            reader.stays(name)
            everywhere |= bad.union(values)
            continue
        _tell_twin(reader, names_of, (protocol.upper(), port), name)
        found[protocol.upper(), port] = values
        unread[port] = unread.get(port, frozenset()) | bad
        everywhere |= frozenset() if port in ports else bad.union(values)
    return found, {port: everywhere | unread.get(port, frozenset()) for port in ports}


def _tell_twin(reader: Reader, names_of: dict[_Key, str], key: _Key, name: str) -> None:
    """Of two annotations for the same (TCP-80, tcp-80) the last is followed."""
    if key in names_of:
        reader.complain(names_of[key], f"not looked at: aws-load-balancer-{name} is for the same")
    names_of[key] = name


def _port_numbers(reader: Reader, name: str, ports: set[int]) -> tuple[set[int], bool]:
    """And whether these are all that are named."""
    found: set[int] = set()
    are_all = True
    for item in reader.items(name):
        if (port := number_of(item)) in ports:
            found.add(port)
        else:
            are_all = False
            reader.complain(name, f"the Service has no port {item}")
    return found, are_all


def _accepted(
    reader: Reader, name: str, known: Mapping[str, attributes.Attribute]
) -> tuple[dict[str, str], Unread]:
    found: dict[str, str] = {}
    unread = set() if all(map(is_pair, reader.items(name))) else set(known)
    for key, value in reader.pairs(name).items():
        attribute = known.get(key)
        if attribute is None:
            reader.complain(name, f"{key} is no attribute that is known for a Network Load Balancer")
            unread.update(known)
        elif not attribute.accepts(value):
            reader.complain(name, f"{key}={value} is not allowed: {attribute.allowed}")
            unread.add(key)
        else:
            found[key] = value
    if unread:
        reader.stays(name)
    return found, frozenset(unread.difference(found))
