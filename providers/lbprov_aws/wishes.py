"""What a Service's annotations say about AWS: those of the other controllers, with the meaning that they have
there (see `peer_annotations.TABLE`). Pure.

A value that cannot be followed is told and costs that wish; only where a guess would expose a Service or put
it into the wrong network it costs the Service (`UserError`).
"""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from lbprov.api import LoadBalancer, Notice, Severity, UserError
from lbprov_aws import attributes, names
from lbprov_aws import peer_annotations as annotation
from lbprov_aws.reading import Reader

_OWN_SCHEME = "lbprov.io/scheme"

_NAME = re.compile(r"(?!internal-)[A-Za-z0-9]([A-Za-z0-9-]{0,30}[A-Za-z0-9])?")
"""API_CreateLoadBalancer, Name."""
_CERTIFICATE = re.compile(r"arn:aws[a-z-]*:(acm|iam):[a-z0-9-]*:\d{12}:(certificate|server-certificate)/\S+")
_CODES = re.compile(r"[2-5]\d\d(-[2-5]\d\d)?(,[2-5]\d\d(-[2-5]\d\d)?)*")
_POLICY = re.compile(r"[\w-]{1,128}")
_PATH = re.compile(r"/\S{0,1023}")
_PREFIX_LIST = re.compile(r"pl-[0-9a-f]+")
_ALPN = ("HTTP1Only", "HTTP2Only", "HTTP2Optional", "HTTP2Preferred", "None")


@dataclass(frozen=True, slots=True)
class TlsWish:
    """`ports`: names and numbers; empty: all. No `certificates`: TLS is asked for and cannot be had."""

    certificates: tuple[str, ...]
    ports: frozenset[str] = frozenset()
    policy: str = ""
    alpn: str = ""
    to_targets: bool = False


@dataclass(frozen=True, slots=True)
class CheckWish:
    """What is empty or None is as it is without the annotation. `port`: a number, a name, "traffic-port"."""

    protocol: str = ""
    port: str = ""
    path: str = ""
    codes: str = ""
    interval_s: int | None = None
    timeout_s: int | None = None
    healthy: int | None = None
    unhealthy: int | None = None


@dataclass(frozen=True, slots=True)
class AccessWish:
    """Who may connect. `groups` replace ours, `extra_groups` are beside it: ids or values of the tag Name."""

    groups: tuple[str, ...] = ()
    extra_groups: tuple[str, ...] = ()
    prefix_lists: tuple[str, ...] = ()
    path_mtu: bool = False
    private_link: bool | None = None


POOL = "tags:"
"""Begins a wish for as many Elastic IPs with certain tags as there are subnets."""


@dataclass(frozen=True, slots=True)
class AddressWish:
    """`elastic`: allocation ids, addresses, `tag:key=value`, `tags:key=value,…` for as many as there are
    subnets."""

    elastic: tuple[str, ...] = ()
    private: tuple[str, ...] = ()
    ipv6: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.elastic or self.private or self.ipv6)


@dataclass(frozen=True, slots=True)
class Wishes:
    """`subnets`: ids or values of the tag Name. `dual_stack` None: by the Service's families. `extra_tags`:
    for every resource of the Service. `group_attributes`: of all target groups; `port_attributes` of one
    port's. `complaints`: what could not be read or is not supported."""

    internal: bool
    name: str = ""
    subnets: tuple[str, ...] = ()
    dual_stack: bool | None = None
    extra_tags: tuple[tuple[str, str], ...] = ()
    addresses: AddressWish = AddressWish()
    attributes: Mapping[str, str] = field(default_factory=dict, hash=False)
    group_attributes: Mapping[str, str] = field(default_factory=dict, hash=False)
    port_attributes: Mapping[int, Mapping[str, str]] = field(default_factory=dict, hash=False)
    node_labels: tuple[tuple[str, str], ...] = ()
    tls: TlsWish | None = None
    check: CheckWish = CheckWish()
    access: AccessWish = AccessWish()
    complaints: tuple[str, ...] = ()


def read_wishes(desired: LoadBalancer) -> Wishes:
    """Raises `UserError` where a wrong guess would expose a Service or put it into the wrong network."""
    reader = Reader(desired.annotations)
    common, by_port = _group_attributes(reader, {x.port for x in desired.listeners})
    wishes = Wishes(
        internal=_internal(desired, reader),
        name=reader.valid(
            annotation.NAME,
            _NAME.fullmatch,
            "1 to 32 letters, digits and hyphens, no hyphen at its ends, not beginning with internal-",
        ),
        subnets=reader.items(annotation.SUBNETS),
        dual_stack={"dualstack": True, "ipv4": False}.get(
            reader.choice(annotation.IP_ADDRESS_TYPE, "ipv4", "dualstack")
        ),
        extra_tags=_extra_tags(reader),
        addresses=_addresses(reader),
        attributes=_attributes(reader),
        group_attributes=common,
        port_attributes=by_port,
        node_labels=tuple(sorted(reader.pairs(annotation.NODE_LABELS).items())),
        tls=_tls(reader, {text for x in desired.listeners for text in (x.name, str(x.port))}),
        check=_check(reader, {x.name for x in desired.listeners}),
        access=_access(reader),
    )
    _check_partly_supported(reader)
    reader.check_known()
    # `complaints` last: reading is what fills it.
    return dataclasses.replace(wishes, complaints=tuple(reader.complaints))


def notices(complaints: tuple[str, ...]) -> tuple[Notice, ...]:
    if not complaints:
        return ()
    message = "; ".join(dict.fromkeys(complaints))
    return (Notice(Severity.WARNING, "AnnotationsIgnored", message, "Annotations"),)


def _internal(desired: LoadBalancer, reader: Reader) -> bool:
    """lbprov's own annotation wins, then `scheme`, then `internal`, where anything but "false" means yes. A
    Service of the AWS Load Balancer Controller's (by its `type`) is internal unless it says otherwise, as it
    is there."""
    if _OWN_SCHEME in desired.annotations:
        return desired.internal
    scheme = reader.text(annotation.SCHEME)
    if scheme in ("internal", "internet-facing"):
        return scheme == "internal"
    if scheme:
        raise UserError(
            f"{scheme!r} is not allowed: internal or internet-facing",
            field=annotation.field(annotation.SCHEME),
        )
    internal = reader.text(annotation.INTERNAL)
    if internal:
        return internal.lower() != "false"
    return desired.internal or reader.text(annotation.TYPE).lower() in ("external", "nlb-ip")


def _extra_tags(reader: Reader) -> tuple[tuple[str, str], ...]:
    """A bad tag costs that tag, not the Service. `key` alone is a tag without a value, as with the peers."""
    tags: dict[str, str] = {}
    for part in reader.items(annotation.EXTRA_TAGS):
        key, _, value = part.partition("=")
        key, value = key.strip(), value.strip()
        if not key or len(key) > 128 or len(value) > 256 or not names.is_tag_text(key + value):
            reader.complain(annotation.EXTRA_TAGS, f"{part!r} is not a tag that AWS accepts")
        elif names.is_ours(key):
            reader.complain(annotation.EXTRA_TAGS, f"{key} is reserved")
        else:
            tags[key] = value
    return tuple(sorted(tags.items()))


def _addresses(reader: Reader) -> AddressWish:
    elastic = _valid_items(
        reader, annotation.EIP_ALLOCATIONS, _is_elastic, "eipalloc-…, an IPv4 address, or tag:key=value"
    )
    tags = reader.pairs(annotation.EIP_TAGS)
    if tags and not elastic:
        elastic = (POOL + ",".join(f"{k}={v}" for k, v in sorted(tags.items())),)
    return AddressWish(
        elastic,
        _valid_items(reader, annotation.PRIVATE_IPV4, lambda t: _ip_version(t) == 4, "IPv4 addresses"),
        _valid_items(reader, annotation.IPV6, lambda t: _ip_version(t) == 6, "IPv6 addresses"),
    )


def _valid_items(reader: Reader, name: str, is_valid: object, allowed: str) -> tuple[str, ...]:
    assert callable(is_valid)
    good: list[str] = []
    for item in reader.items(name):
        if is_valid(item):
            good.append(item)
        else:
            reader.complain(name, f"{item!r} is not allowed: {allowed}")
    return tuple(good)


def is_by_tag(wish: str) -> bool:
    """Whether an Elastic IP is asked for by what it is tagged with."""
    return wish.startswith(("tag:", POOL))


def _is_elastic(text: str) -> bool:
    if text.startswith("tag:"):
        return "=" in text and not text.startswith("tag:=")
    return _ip_version(text) == 4 or re.fullmatch(r"eipalloc-[0-9a-f]+", text) is not None


def _ip_version(text: str) -> int:
    try:
        return ipaddress.ip_address(text).version
    except ValueError:
        return 0


def _attributes(reader: Reader) -> dict[str, str]:
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


def _group_attributes(reader: Reader, ports: set[int]) -> tuple[dict[str, str], dict[int, dict[str, str]]]:
    """Of all target groups, and of single ports'. What is said of one port wins, and above all of these proxy
    protocol for all."""
    common = _accepted(reader, annotation.GROUP_ATTRIBUTES, attributes.OF_TARGET_GROUPS)
    by_port: dict[int, dict[str, str]] = {}
    for text, name in reader.family(f"{annotation.GROUP_ATTRIBUTES}.").items():
        if text.isdecimal() and int(text) in ports:
            by_port[int(text)] = _accepted(reader, name, attributes.OF_TARGET_GROUPS)
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


def _port_numbers(reader: Reader, name: str, ports: set[int]) -> set[int]:
    found: set[int] = set()
    for item in reader.items(name):
        if item.isdecimal() and int(item) in ports:
            found.add(int(item))
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


def _tls(reader: Reader, ports: set[str]) -> TlsWish | None:
    asked = reader.text(annotation.CERTIFICATES)
    if not asked:
        for name in (annotation.TLS_PORTS, annotation.TLS_POLICY, annotation.ALPN):
            if reader.text(name):
                reader.complain(name, f"without effect: no certificate is named ({annotation.CERTIFICATES})")
        return None
    certificates = _valid_items(
        reader,
        annotation.CERTIFICATES,
        _CERTIFICATE.fullmatch,
        "arn:…:acm:REGION:ACCOUNT:certificate/ID",
    )
    tls_ports = reader.items(annotation.TLS_PORTS)
    for port in tls_ports:
        if port != "*" and port not in ports:
            reader.complain(annotation.TLS_PORTS, f"the Service has no port {port}")
    to_targets = reader.text(annotation.BACKEND_PROTOCOL).lower() == "ssl"
    alpn = reader.choice(annotation.ALPN, *_ALPN)
    if alpn and not to_targets:
        alpn = ""
        reader.complain(
            annotation.ALPN,
            f"without effect: it needs TLS to the targets ({annotation.BACKEND_PROTOCOL}: ssl)",
        )
    return TlsWish(
        certificates=certificates,
        ports=frozenset() if "*" in tls_ports else frozenset(tls_ports),
        policy=reader.valid(annotation.TLS_POLICY, _POLICY.fullmatch, "ELBSecurityPolicy-…"),
        alpn=alpn,
        to_targets=to_targets,
    )


def _check(reader: Reader, port_names: set[str]) -> CheckWish:
    return CheckWish(
        protocol=reader.choice(annotation.CHECK_PROTOCOL, "TCP", "HTTP", "HTTPS"),
        port=reader.valid(
            annotation.CHECK_PORT,
            lambda text: text == "traffic-port" or text in port_names or _is_port(text),
            "traffic-port, a port number, or the name of one of the Service's ports",
        ),
        path=reader.valid(annotation.CHECK_PATH, _PATH.fullmatch, "a path, beginning with /"),
        codes=reader.valid(
            annotation.CHECK_CODES, _CODES.fullmatch, "codes from 200 to 599: 200,202 or 200-399"
        ),
        interval_s=reader.number(annotation.CHECK_INTERVAL, 5, 300),
        timeout_s=reader.number(annotation.CHECK_TIMEOUT, 2, 120),
        healthy=reader.number(annotation.CHECK_HEALTHY, 2, 10),
        unhealthy=reader.number(annotation.CHECK_UNHEALTHY, 2, 10),
    )


def _is_port(text: str) -> bool:
    return text.isdecimal() and 1 <= int(text) <= 65535


def _access(reader: Reader) -> AccessWish:
    private_link = reader.choice(annotation.PRIVATE_LINK, "on", "off")
    return AccessWish(
        groups=reader.items(annotation.SECURITY_GROUPS),
        extra_groups=reader.items(annotation.EXTRA_SECURITY_GROUPS),
        prefix_lists=_valid_items(
            reader,
            annotation.PREFIX_LISTS,
            _PREFIX_LIST.fullmatch,
            "ids of prefix lists: pl-…",
        ),
        path_mtu=reader.choice(annotation.PATH_MTU, "on", "off") == "on",
        private_link=private_link == "on" if private_link else None,
    )


def _check_partly_supported(reader: Reader) -> None:
    """Values that ask for something else than what every Service gets."""
    for name, fine in (
        (annotation.TYPE, ("nlb", "external")),
        (annotation.TARGET_TYPE, ("instance",)),
        (annotation.BACKEND_PROTOCOL, ("ssl", "tcp")),
        (annotation.BACKEND_RULES, ("false",)),
        (annotation.TCP_UDP, ("true",)),
    ):
        value = reader.text(name)
        known = annotation.find(name)
        if value and value.lower() not in fine and known is not None:
            reader.complain(name, f"{value!r} is not supported: {known.meaning.replace('`', '')}")
