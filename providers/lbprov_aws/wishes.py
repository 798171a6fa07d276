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

from lbprov.api import LoadBalancer, Notice, Severity, UserError, refuse_unread
from lbprov_aws import attribute_wishes, names
from lbprov_aws import peer_annotations as annotation
from lbprov_aws.attribute_wishes import Unread
from lbprov_aws.reading import Reader, number_of

_OWN_SCHEME = "lbprov.io/scheme"

_NAME = re.compile(r"(?!internal-)[A-Za-z0-9]([A-Za-z0-9-]{0,30}[A-Za-z0-9])?")
"""API_CreateLoadBalancer, Name."""
_CERTIFICATE = re.compile(r"arn:aws[a-z-]*:(acm|iam):[a-z0-9-]*:\d{12}:(certificate|server-certificate)/\S+")
_CODES = re.compile(r"[2-5]\d\d(-[2-5]\d\d)?(,[2-5]\d\d(-[2-5]\d\d)?)*")
_POLICY = re.compile(r"[\w-]{1,128}")
_PATH = re.compile(r"/[!-~]{0,1023}")
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
    """What is empty or None is as it is without the annotation. `port`: a number, a name, "traffic-port".
    `unread`: fields of a `HealthCheck` that stay as they are, as what is said of them cannot be read."""

    protocol: str = ""
    port: str = ""
    path: str = ""
    codes: str = ""
    interval_s: int | None = None
    timeout_s: int | None = None
    healthy: int | None = None
    unhealthy: int | None = None
    unread: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class AccessWish:
    """Who may connect. `groups` replace ours, `extra_groups` are beside it: ids or values of the tag Name.
    `unread_prefix_lists`: what is among them and is none."""

    groups: tuple[str, ...] = ()
    extra_groups: tuple[str, ...] = ()
    prefix_lists: tuple[str, ...] = ()
    unread_prefix_lists: tuple[str, ...] = ()
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
    """`knows_scheme` False: `internal` is a guess. `scheme_field`: which annotation says it; empty: none.
    `subnets`: ids or values of the tag Name. `dual_stack` None: by the Service's families. `extra_tags`: for
    every resource of the Service. `group_attributes`: of all target groups; `port_attributes` of one port's;
    `listener_attributes` of one protocol's and port's listener; `unread_…`: which of them stay as they are
    (of groups and listeners by port). `complaints`: what could not be read or is not supported."""

    internal: bool
    knows_scheme: bool = True
    scheme_field: str = ""
    name: str = ""
    subnets: tuple[str, ...] = ()
    dual_stack: bool | None = None
    extra_tags: tuple[tuple[str, str], ...] = ()
    addresses: AddressWish = AddressWish()
    attributes: Mapping[str, str] = field(default_factory=dict, hash=False)
    group_attributes: Mapping[str, str] = field(default_factory=dict, hash=False)
    port_attributes: Mapping[int, Mapping[str, str]] = field(default_factory=dict, hash=False)
    listener_attributes: Mapping[tuple[str, int], Mapping[str, str]] = field(default_factory=dict, hash=False)
    unread_attributes: Unread = frozenset()
    unread_group_attributes: Mapping[int, Unread] = field(default_factory=dict, hash=False)
    unread_listener_attributes: Mapping[int, Unread] = field(default_factory=dict, hash=False)
    node_labels: tuple[tuple[str, str], ...] = ()
    tls: TlsWish | None = None
    check: CheckWish = CheckWish()
    access: AccessWish = AccessWish()
    complaints: tuple[str, ...] = ()


def read_wishes(desired: LoadBalancer) -> Wishes:
    """Where a wrong guess would expose a Service, `refuse_unread_wishes` has to be asked first."""
    reader = Reader(desired.annotations)
    ports = {x.port for x in desired.listeners}
    of_balancer, unread = attribute_wishes.of_balancer(reader)
    common, by_port, unread_of_groups = attribute_wishes.of_groups(reader, ports)
    of_listeners, unread_of_listeners = attribute_wishes.of_listeners(reader, ports)
    wishes = Wishes(
        internal=_internal(desired, reader),
        knows_scheme=not has_unknown_scheme(desired),
        scheme_field=_scheme_field(desired, reader),
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
        attributes=of_balancer,
        group_attributes=common,
        port_attributes=by_port,
        listener_attributes=of_listeners,
        unread_attributes=unread,
        unread_group_attributes=unread_of_groups,
        unread_listener_attributes=unread_of_listeners,
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


_NO_SCHEME = "is not allowed: internal or internet-facing"


def refuse_unread_wishes(desired: LoadBalancer) -> None:
    """For a load balancer about to be made: one of the wrong scheme, or for the wrong clients, would be
    exposed, or of no use."""
    refuse_unread(desired)
    if has_unknown_scheme(desired):
        scheme = Reader(desired.annotations).text(annotation.SCHEME)
        why = f"{scheme!r} {_NO_SCHEME}; until then nothing is made"
        raise UserError(why, field=annotation.field(annotation.SCHEME))


def has_unknown_scheme(desired: LoadBalancer) -> bool:
    if desired.unread_scheme:
        return True
    scheme = Reader(desired.annotations).text(annotation.SCHEME)
    return _OWN_SCHEME not in desired.annotations and scheme not in ("", "internal", "internet-facing")


def _internal(desired: LoadBalancer, reader: Reader) -> bool:
    """lbprov's own annotation wins, then `scheme`, then `internal`, where anything but "false" means yes. A
    Service of the AWS Load Balancer Controller's (by its `type` or its class) is internal unless it says
    otherwise, as it is there."""
    if _OWN_SCHEME in desired.annotations:
        return desired.internal  # where it is not understood: exposes nothing, and see `refuse_unread_wishes`
    scheme = reader.text(annotation.SCHEME)
    if scheme in ("internal", "internet-facing"):
        return scheme == "internal"
    if scheme:
        reader.complain(annotation.SCHEME, f"{scheme!r} {_NO_SCHEME}; the load balancer stays as it is")
        return True  # exposes nothing; and see `refuse_unread_wishes`
    internal = reader.text(annotation.INTERNAL)
    if internal:
        return internal.lower() != "false"
    of_controller = reader.text(annotation.TYPE).lower() in ("external", "nlb-ip")
    return desired.internal or of_controller or desired.load_balancer_class == annotation.CONTROLLER_CLASS


def _scheme_field(desired: LoadBalancer, reader: Reader) -> str:
    if _OWN_SCHEME in desired.annotations:
        return _OWN_SCHEME
    asking = (name for name in (annotation.SCHEME, annotation.INTERNAL) if reader.text(name))
    return next((f"aws-load-balancer-{name}" for name in asking), "")


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
        elif len(tags) == names.MAX_EXTRA and key not in tags:
            reader.complain(annotation.EXTRA_TAGS, f"{key} is left out: {names.MAX_EXTRA} are followed")
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


def tag_pairs(wish: str) -> frozenset[tuple[str, str]]:
    """Of a wish by tag: the tags, all of which the Elastic IP has."""
    text = wish.partition(":")[2]
    parted = (pair.partition("=") for pair in (text.split(",") if wish.startswith(POOL) else [text]))
    return frozenset((key, value) for key, _, value in parted)


def _is_elastic(text: str) -> bool:
    if text.startswith("tag:"):
        return "=" in text and not text.startswith("tag:=")
    return _ip_version(text) == 4 or re.fullmatch(r"eipalloc-[0-9a-f]+", text) is not None


def _ip_version(text: str) -> int:
    try:
        return ipaddress.ip_address(text).version
    except ValueError:
        return 0


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
    wish = CheckWish(
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
    return dataclasses.replace(wish, unread=_unread_of_check(reader, wish))


_OF_KIND = ("protocol", "path", "codes", "timeout_s")
"""The fields of a check that hang together."""


def _unread_of_check(reader: Reader, wish: CheckWish) -> frozenset[str]:
    unread: set[str] = set()
    for name, value, fields in (
        (annotation.CHECK_PROTOCOL, wish.protocol, _OF_KIND),
        (annotation.CHECK_PORT, wish.port, ("port", *(() if wish.protocol else _OF_KIND))),
        (annotation.CHECK_PATH, wish.path, ("path",)),
        (annotation.CHECK_CODES, wish.codes, ("codes",)),
        (annotation.CHECK_INTERVAL, wish.interval_s, ("interval_s", "timeout_s")),
        (annotation.CHECK_TIMEOUT, wish.timeout_s, ("timeout_s",)),
        (annotation.CHECK_HEALTHY, wish.healthy, ("healthy",)),
        (annotation.CHECK_UNHEALTHY, wish.unhealthy, ("unhealthy",)),
    ):
        if reader.text(name) and not value:
            reader.stays(name)
            unread.update(fields)
    return frozenset(unread)


def _is_port(text: str) -> bool:
    return 1 <= (number_of(text) or 0) <= 65535


def _access(reader: Reader) -> AccessWish:
    private_link = reader.choice(annotation.PRIVATE_LINK, "on", "off")
    lists = reader.items(annotation.PREFIX_LISTS)
    valid_lists = _valid_items(
        reader,
        annotation.PREFIX_LISTS,
        _PREFIX_LIST.fullmatch,
        "ids of prefix lists: pl-…",
    )
    if lists != valid_lists:
        reader.complain(annotation.PREFIX_LISTS, "until then who may connect stays as it is")
    return AccessWish(
        groups=reader.items(annotation.SECURITY_GROUPS),
        extra_groups=reader.items(annotation.EXTRA_SECURITY_GROUPS),
        prefix_lists=valid_lists,
        unread_prefix_lists=tuple(item for item in lists if item not in valid_lists),
        path_mtu=reader.choice(annotation.PATH_MTU, "on", "off") == "on",
        private_link=private_link == "on" if private_link else None,
    )


_NODES = "Pods are not targets here, nodes are (nlb-target-type: instance)"
_PARTLY = (
    (annotation.TYPE, ("nlb", "external"), _NODES),
    (annotation.TARGET_TYPE, ("instance",), _NODES),
    (annotation.BACKEND_PROTOCOL, ("ssl", "tcp"), "it is of Classic Load Balancers; ssl or tcp"),
    (
        annotation.BACKEND_RULES,
        ("false",),
        "admit the nodePorts, from the load balancer's security group, to the nodes yourself",
    ),
    (annotation.TCP_UDP, ("true",), "TCP and UDP of one number and one nodePort always share a listener"),
)
"""What asks, with these values, for what every Service gets; and why nothing else can be had."""


def _check_partly_supported(reader: Reader) -> None:
    for name, fine, why in _PARTLY:
        value = reader.text(name)
        if value and value.lower() not in fine:
            reader.complain(name, f"{value!r} is not supported: {why}")
