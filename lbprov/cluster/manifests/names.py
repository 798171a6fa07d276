"""What the API server accepts as names, labels, addresses. Each check returns what is wrong, or ''.

Sources: k8s.io/apimachinery/pkg/util/validation; addresses by the strict rules of KEP-4858 (beta and on by
default in Kubernetes 1.36: no leading zeros, no IPv4-mapped IPv6, no host bits in a CIDR).
"""

from __future__ import annotations

import ipaddress
import re

from lbprov.cluster.manifests.marked_yaml import shown

_LABEL = r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?"
_DNS_1123_LABEL = re.compile(_LABEL)
_DNS_1123_SUBDOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_NAME_PART = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?")
_PORT_NAME = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")


def dns_1123_label(text: str) -> str:
    if len(text) > 63 or not _DNS_1123_LABEL.fullmatch(text):
        return f"{shown(text)} is not allowed: at most 63 of a-z, 0-9 and '-', a letter or digit at both ends"
    return ""


def dns_1123_subdomain(text: str) -> str:
    if len(text) > 253 or not _DNS_1123_SUBDOMAIN.fullmatch(text):
        return (
            f"{shown(text)} is not allowed: at most 253 of a-z, 0-9, '-' and '.', "
            "a letter or digit at both ends"
        )
    return ""


def qualified_name(text: str) -> str:
    """A label key, a class: `[prefix.of.dns/]Name`."""
    prefix, slash, name = text.rpartition("/")
    if (slash and dns_1123_subdomain(prefix)) or len(name) > 63 or not _NAME_PART.fullmatch(name):
        return (
            f"{shown(text)} is not allowed: [DNS-NAME/]NAME with NAME at most 63 letters, digits, '-', '_' "
            "and '.', a letter or digit at both ends"
        )
    return ""


def label_value(text: str) -> str:
    if text and (len(text) > 63 or not _NAME_PART.fullmatch(text)):
        return (
            f"{shown(text)} is not allowed as a label's value: at most 63 letters, digits, '-', '_', '.', "
            "a letter or digit at both ends"
        )
    return ""


def port_name(text: str) -> str:
    """IANA_SVC_NAME: what containers may call a port, so what a targetPort can name."""
    if len(text) > 15 or not _PORT_NAME.fullmatch(text) or not any(c.isalpha() for c in text):
        return (
            f"{shown(text)} is not allowed as a port's name: at most 15 of a-z, 0-9 and single '-', "
            "at least one letter"
        )
    return ""


def port_number(number: int) -> str:
    return "" if 1 <= number <= 65535 else f"{number} is outside 1-65535"


def ip(text: str) -> str:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return f"{shown(text)} is not an IP address"
    if isinstance(address, ipaddress.IPv6Address) and (address.ipv4_mapped or address.scope_id):
        return f"{shown(text)} is not allowed: an IPv6 address without a zone, not mapped from IPv4"
    return ""


def cidr(text: str) -> str:
    if "/" not in text:
        return f"{shown(text)} is not a CIDR: write ADDRESS/PREFIX-LENGTH, for one address /32 (IPv6 /128)"
    address, _, prefix = text.partition("/")
    if ip(address) or not re.fullmatch(r"0|[1-9][0-9]{0,2}", prefix):
        return f"{shown(text)} is not a CIDR such as 203.0.113.0/24"
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return f"{shown(text)} is not a CIDR such as 203.0.113.0/24"
    if ipaddress.ip_address(address) != network.network_address:
        return f"{shown(text)} has bits beyond its prefix length: write {network}"
    return ""


def endpoint_ip(text: str) -> str:
    """An address that traffic can be sent to (the API server's ValidateEndpointIP)."""
    if wrong := ip(text):
        return wrong
    address = ipaddress.ip_address(text)
    for is_it, name in (
        (address.is_unspecified, "unspecified"),
        (address.is_loopback, "loopback (127.0.0.0/8, ::1)"),
        (address.is_link_local, "link-local (169.254.0.0/16, fe80::/10)"),
        (_link_local_multicast(address), "link-local multicast (224.0.0.0/24, ff02::/16)"),
    ):
        if is_it:
            return f"{text} is not allowed: it is {name}"
    return ""


def _link_local_multicast(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """With any flags: Go's IsLinkLocalMulticast looks at the scope alone."""
    if address.version == 4:
        return address in ipaddress.ip_network("224.0.0.0/24")
    return address.packed[0] == 0xFF and address.packed[1] & 0x0F == 2


def canonical_ip(text: str) -> str:
    return str(ipaddress.ip_address(text))


def is_ipv6(text: str) -> bool:
    return ":" in text
