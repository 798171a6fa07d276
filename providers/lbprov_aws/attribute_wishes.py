"""Attributes as annotations ask for them: by free lists, and by names of their own. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from lbprov_aws import attributes
from lbprov_aws import peer_annotations as annotation
from lbprov_aws.reading import Reader, number_of
from lbprov_aws.resources import Protocol


def of_balancer(reader: Reader) -> dict[str, str]:
    """Those with an annotation of their own win, as with the peers."""
    found = _accepted(reader, annotation.ATTRIBUTES, attributes.OF_LOAD_BALANCERS)
    for name, key in (
        (annotation.CROSS_ZONE, attributes.CROSS_ZONE),
        (annotation.ACCESS_LOG_ENABLED, attributes.ACCESS_LOG_ENABLED),
    ):
        if flag := reader.choice(name, "true", "false"):
            found[key] = flag
    for name, key in (
        (annotation.ACCESS_LOG_BUCKET, attributes.ACCESS_LOG_BUCKET),
        (annotation.ACCESS_LOG_PREFIX, attributes.ACCESS_LOG_PREFIX),
    ):
        known = attributes.OF_LOAD_BALANCERS[key]
        if text := reader.valid(name, known.accepts, known.allowed):
            found[key] = text
    if found.get(attributes.ACCESS_LOG_ENABLED) == "true" and attributes.ACCESS_LOG_BUCKET not in found:
        del found[attributes.ACCESS_LOG_ENABLED]
        name, bucket = annotation.ATTRIBUTES, attributes.ACCESS_LOG_BUCKET
        if reader.text(annotation.ACCESS_LOG_ENABLED):
            name, bucket = annotation.ACCESS_LOG_ENABLED, annotation.ACCESS_LOG_BUCKET
        reader.complain(name, f"logs need a bucket ({bucket})")
    return found


def of_groups(reader: Reader, ports: set[int]) -> tuple[dict[str, str], dict[int, dict[str, str]]]:
    """Of all target groups, and of single ports'. What is said of one port wins, and above all of these proxy
    protocol for all."""
    common = _accepted(reader, annotation.GROUP_ATTRIBUTES, attributes.OF_TARGET_GROUPS)
    by_port: dict[int, dict[str, str]] = {}
    for text, name in reader.family(f"{annotation.GROUP_ATTRIBUTES}.").items():
        if (port := number_of(text)) in ports:
            by_port[port] = _accepted(reader, name, attributes.OF_TARGET_GROUPS)
        else:
            reader.complain(name, f"the Service has no port {text}")
    if reader.text(annotation.PROXY_PROTOCOL_PORTS):
        proxied = _port_numbers(reader, annotation.PROXY_PROTOCOL_PORTS, ports)
        for port in ports:
            by_port.setdefault(port, {})[attributes.PROXY_PROTOCOL] = str(port in proxied).lower()
    if reader.valid(annotation.PROXY_PROTOCOL, lambda text: text == "*", "*"):
        common[attributes.PROXY_PROTOCOL] = "true"
        for values in by_port.values():
            values.pop(attributes.PROXY_PROTOCOL, "")
    return common, by_port


def of_listeners(reader: Reader) -> dict[tuple[str, int], dict[str, str]]:
    """By protocol and port, as the annotation names them."""
    found: dict[tuple[str, int], dict[str, str]] = {}
    for text, name in reader.family(f"{annotation.LISTENER_ATTRIBUTES}.").items():
        protocol, _, number = text.rpartition("-")
        if (port := number_of(number)) is None or protocol.upper() not in tuple(Protocol):
            reader.complain(name, f"{text} is no listener: PROTOCOL-PORT, such as TCP-80")
        else:
            found[protocol.upper(), port] = _accepted(reader, name, attributes.OF_LISTENERS)
    return found


def _port_numbers(reader: Reader, name: str, ports: set[int]) -> set[int]:
    found: set[int] = set()
    for item in reader.items(name):
        if (port := number_of(item)) in ports:
            found.add(port)
        else:
            reader.complain(name, f"the Service has no port {item}")
    return found


def _accepted(reader: Reader, name: str, known: Mapping[str, attributes.Attribute]) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in reader.pairs(name).items():
        attribute = known.get(key)
        if attribute is None:
            reader.complain(name, f"{key} is no attribute that is known for a Network Load Balancer")
        elif not attribute.accepts(value):
            reader.complain(name, f"{key}={value} is not allowed: {attribute.allowed}")
        else:
            found[key] = value
    return found
