"""The annotations of the other AWS controllers: what each means, and what is said of those that do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lbprov.api import IPFamily, L4Protocol, Listener, LoadBalancer, ObjectKey, Owner, SessionAffinity, Target
from lbprov_aws import peer_annotations as table
from lbprov_aws.desired import Wanted, want
from lbprov_aws.names import EXTRA, MAX_EXTRA, marked_extra
from lbprov_aws.peer_annotations import PREFIX, Support
from lbprov_aws.resources import IngressRule

ROOT = Path(__file__).parents[2]
CERT = "arn:aws:acm:eu-west-1:123456789012:certificate/one"
OTHER = "arn:aws:acm:eu-west-1:123456789012:certificate/two"
SOURCE_RANGES = "service.beta.kubernetes.io/load-balancer-source-ranges"

WEB, TLS, DNS = (
    Listener(80, L4Protocol.TCP, 30080, "web"),
    Listener(443, L4Protocol.TCP, 30443, "https"),
    Listener(53, L4Protocol.UDP, 30053, "dns"),
)


def wanted(*listeners: Listener, says: dict[str, str] | None = None, **changes: Any) -> Wanted:
    targets = tuple(
        Target(f"node-{n}", f"aws:///eu-west-1a/i-0000000{n}", labels={"pool": pool})
        for n, pool in enumerate(("blue", "blue", "green"))
    )
    annotations = {PREFIX + name: value for name, value in (says or {}).items()}
    owner = Owner("lab", ObjectKey("default", "web"), "uid-web")
    return want(LoadBalancer(owner, listeners or (WEB,), targets, annotations=annotations, **changes))


def complaints(found: Wanted) -> list[str]:
    return [n.message for n in found.notices if n.topic == "Annotations"]


# The table


def test_names_are_unique() -> None:
    names = [annotation.name for annotation in table.TABLE]
    assert len(set(names)) == len(names)


def test_every_followed_annotation_is_read_somewhere() -> None:
    """By its constant, outside the table."""
    code = "\n".join(
        path.read_text()
        for path in (ROOT / "providers/lbprov_aws").glob("*.py")
        if path.name != "peer_annotations.py"
    )
    constants = {
        value: name for name, value in vars(table).items() if name.isupper() and isinstance(value, str)
    }
    followed = {a.name.removesuffix(".") for a in table.TABLE if a.support is not Support.NO}
    assert followed <= set(constants)
    assert [name for name in followed if f".{constants[name]}" not in code] == []


@pytest.mark.parametrize(
    "annotation", [a for a in table.TABLE if a.support is Support.NO], ids=lambda a: a.name
)
def test_what_is_not_supported_is_named_with_the_reason(annotation: table.Annotation) -> None:
    name = annotation.name + ("TCP-80" if annotation.name.endswith(".") else "")
    found = wanted(says={name: "x"})
    assert complaints(found) == [f"aws-load-balancer-{name}: {annotation.meaning}"]


def test_what_is_not_known_is_named() -> None:
    (said,) = complaints(wanted(says={"shceme": "internal", "proxy-protocol": "*"}))
    assert said == "aws-load-balancer-shceme: not known: a typing error?"


def test_annotations_of_others_are_nobodys_business() -> None:
    annotations = {"example.com/aws-load-balancer-type": "x", SOURCE_RANGES: "10.0.0.0/8"}
    owner = Owner("lab", ObjectKey("default", "web"), "uid-web")
    assert want(LoadBalancer(owner, (WEB,), (), annotations=annotations)).notices == ()


FINE = {
    "type": ("nlb", "external"),
    "nlb-target-type": ("instance",),
    "scheme": ("internal", "internet-facing"),
    "internal": ("true", "false"),
    "name": ("a", "My-Name-1"),
    "subnets": ("subnet-1, my subnet",),
    "ip-address-type": ("ipv4", "dualstack"),
    "additional-resource-tags": ("team=shop,empty=,alone",),
    "eip-allocations": ("eipalloc-0a, 203.0.113.10, tag:pool=public",),
    "eip-allocations-discovery-tags": ("pool=public",),
    "private-ipv4-addresses": ("10.0.0.9, 10.0.1.9",),
    "ipv6-addresses": ("2001:db8::1",),
    "attributes": ("load_balancing.cross_zone.enabled=true,deletion_protection.enabled=true",),
    "cross-zone-load-balancing-enabled": ("true", "false", "True"),
    "access-log-enabled": ("false",),
    "access-log-s3-bucket-name": ("logs",),
    "access-log-s3-bucket-prefix": ("my/app",),
    "target-group-attributes": (
        "deregistration_delay.timeout_seconds=3600,preserve_client_ip.enabled=false",
    ),
    "target-group-attributes.80": ("proxy_protocol_v2.enabled=true",),
    "proxy-protocol": ("*",),
    "proxy-protocol-per-target-group": ("80",),
    "target-node-labels": ("pool=blue",),
    "ssl-cert": (f"{CERT},{OTHER}",),
    "backend-protocol": ("tcp", "ssl"),
    "healthcheck-protocol": ("tcp", "HTTP", "https"),
    "healthcheck-port": ("traffic-port", "8080", "web"),
    "healthcheck-path": ("/ready?full=1",),
    "healthcheck-interval": ("5", "300"),
    "healthcheck-timeout": ("2", "120"),
    "healthcheck-healthy-threshold": ("2", "10"),
    "healthcheck-unhealthy-threshold": ("2", "10"),
    "healthcheck-success-codes": ("200", "200-399", "200,204,300-302"),
    "security-groups": ("sg-1, my group",),
    "extra-security-groups": ("sg-1",),
    "security-group-prefix-lists": ("pl-0a, pl-1b",),
    "enable-icmp-for-path-mtu-discovery": ("on", "off"),
    "inbound-sg-rules-on-private-link-traffic": ("on", "off"),
    "manage-backend-security-group-rules": ("false",),
    "enable-tcp-udp-listener": ("true",),
}
"""Values with which nothing is wrong."""


def test_every_followed_annotation_has_fine_values_here() -> None:
    with_certificate = {"ssl-ports", "ssl-negotiation-policy", "alpn-policy"}
    followed = {a.name for a in table.TABLE if a.support is not Support.NO and not a.name.endswith(".")}
    assert followed - with_certificate == {name for name in FINE if "." not in name}


@pytest.mark.parametrize(("name", "value"), [(name, v) for name, values in FINE.items() for v in values])
def test_fine_values(name: str, value: str) -> None:
    assert complaints(wanted(says={name: value})) == []


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("type", "nlb-ip", "'nlb-ip' is not supported"),
        ("nlb-target-type", "ip", "'ip' is not supported: Pods are not targets here, nodes are"),
        ("name", "-x", "'-x' is not allowed: 1 to 32 letters"),
        ("name", "internal-x", "not beginning with internal-"),
        ("ip-address-type", "ipv6", "'ipv6' is not allowed: ipv4 or dualstack"),
        ("additional-resource-tags", "aws:x=1", "aws:x is reserved"),
        (
            "eip-allocations",
            "eipalloc_1",
            "'eipalloc_1' is not allowed: eipalloc-…, an IPv4 address, or tag:",
        ),
        ("private-ipv4-addresses", "::1", "'::1' is not allowed: IPv4 addresses"),
        ("ipv6-addresses", "10.0.0.1", "'10.0.0.1' is not allowed: IPv6 addresses"),
        ("attributes", "cross_zone", "'cross_zone' is not of the form key=value"),
        ("attributes", "idle_timeout.timeout_seconds=60", "is no attribute that is known for a Network Load"),
        ("attributes", "deletion_protection.enabled=yes", "=yes is not allowed: true or false"),
        ("cross-zone-load-balancing-enabled", "yes", "'yes' is not allowed: true or false"),
        ("access-log-enabled", "true", "logs need a bucket (access-log-s3-bucket-name)"),
        ("attributes", "access_logs.s3.enabled=true", "logs need a bucket (access_logs.s3.bucket)"),
        ("access-log-s3-bucket-name", "A_", "'A_' is not allowed: the name of an S3 bucket"),
        ("target-group-attributes", "deregistration_delay.timeout_seconds=3601", "a number from 0 to 3600"),
        ("target-group-attributes", "stickiness.type=lb_cookie", "=lb_cookie is not allowed: source_ip"),
        ("target-group-attributes.81", "proxy_protocol_v2.enabled=true", "the Service has no port 81"),
        ("proxy-protocol", "true", "'true' is not allowed: *"),
        ("proxy-protocol-per-target-group", "80,81", "the Service has no port 81"),
        ("target-node-labels", "pool=red", "no node has pool=red: there are no targets"),
        ("ssl-cert", "my-cert", "'my-cert' is not allowed: arn:"),
        ("ssl-ports", "443", "without effect: no certificate is named (ssl-cert)"),
        ("backend-protocol", "http", "'http' is not supported: it is of Classic Load Balancers; ssl or tcp"),
        ("healthcheck-protocol", "udp", "'udp' is not allowed: TCP or HTTP or HTTPS"),
        ("healthcheck-port", "70000", "'70000' is not allowed: traffic-port"),
        ("healthcheck-path", "ready", "'ready' is not allowed: a path, beginning with /"),
        ("healthcheck-interval", "4", "'4' is not allowed: a number from 5 to 300"),
        ("healthcheck-timeout", "2s", "'2s' is not allowed: a number from 2 to 120"),
        pytest.param(
            "healthcheck-timeout", "9" * 5000, "9… is not allowed: a number from 2 to 120", id="5000 digits"
        ),
        pytest.param("healthcheck-port", "9" * 5000, "9… is not allowed: traffic-port", id="port of digits"),
        pytest.param("healthcheck-interval", "٣٠", "a number from 5 to 300", id="digits of another script"),
        pytest.param(
            "proxy-protocol-per-target-group", "9" * 5000, "the Service has no port 99", id="no such port"
        ),
        ("healthcheck-success-codes", "ok", "'ok' is not allowed: codes from 200 to 599"),
        ("security-group-prefix-lists", "10.0.0.0/8", "'10.0.0.0/8' is not allowed: ids of prefix lists"),
        ("manage-backend-security-group-rules", "true", "'true' is not supported"),
    ],
)
def test_what_is_wrong_is_named_and_the_rest_is_served(name: str, value: str, said: str) -> None:
    found = wanted(says={name: value})
    (complaint,) = complaints(found)
    assert f"aws-load-balancer-{name}: " in complaint
    assert said in complaint
    assert [str(port) for port in found.ports if port.tls is None or name == "ssl-cert"] != []


def test_more_tags_than_can_be_followed() -> None:
    found = wanted(says={"additional-resource-tags": ",".join(f"k{n:02}=v" for n in range(MAX_EXTRA + 2))})
    assert len(found.extra_tags) == MAX_EXTRA
    (complaint,) = complaints(found)
    assert [f"k{n} is left out" in complaint for n in range(26, 30)] == [False, False, True, True]
    mark = found.tags("lb")[EXTRA]
    assert all(marked_extra(mark, key) for key, _ in found.extra_tags), "so that each can be taken away again"
    assert len(mark) <= 256


# What they mean


@pytest.mark.parametrize(
    ("says", "internal"),
    [
        pytest.param({"type": "nlb"}, False, id="cloud-provider-aws: internet-facing"),
        pytest.param({"type": "external"}, True, id="AWS Load Balancer Controller: internal"),
        pytest.param({"type": "nlb-ip"}, True, id="the same, the older value"),
        pytest.param({"type": "external", "scheme": "internet-facing"}, False, id="scheme wins"),
        pytest.param({"type": "external", "internal": "false"}, False, id="internal wins"),
    ],
)
def test_scheme_is_that_of_the_controller_that_it_was_written_for(
    says: dict[str, str], internal: bool
) -> None:
    assert wanted(says=says).internal is internal


@pytest.mark.parametrize(
    ("says", "attributes"),
    [
        pytest.param({"attributes": "load_balancing.cross_zone.enabled=true"}, {"cross": "true"}, id="free"),
        pytest.param({"cross-zone-load-balancing-enabled": "true"}, {"cross": "true"}, id="its own"),
        pytest.param(
            {
                "cross-zone-load-balancing-enabled": "false",
                "attributes": "load_balancing.cross_zone.enabled=true",
            },
            {"cross": "false"},
            id="its own wins",
        ),
    ],
)
def test_spellings_of_cross_zone(says: dict[str, str], attributes: dict[str, str]) -> None:
    found = {key: value for key, value in wanted(says=says).attributes if "cross_zone" in key}
    assert list(found.values()) == list(attributes.values())


def test_access_logs_of_both_spellings() -> None:
    by_itself = wanted(
        says={
            "access-log-enabled": "true",
            "access-log-s3-bucket-name": "logs",
            "access-log-s3-bucket-prefix": "web",
        }
    )
    free = "access_logs.s3.enabled=true,access_logs.s3.bucket=logs,access_logs.s3.prefix=web"
    assert by_itself.attributes == wanted(says={"attributes": free}).attributes
    assert len(by_itself.attributes) == 3


@pytest.mark.parametrize(
    ("says", "proxied"),
    [
        pytest.param({"proxy-protocol": "*"}, {80: "true", 443: "true"}, id="all"),
        pytest.param({"proxy-protocol-per-target-group": "443"}, {80: "false", 443: "true"}, id="one"),
        pytest.param(
            {"proxy-protocol-per-target-group": "443", "proxy-protocol": "*"},
            {80: "true", 443: "true"},
            id="all wins over one",
        ),
        pytest.param(
            {"target-group-attributes": "proxy_protocol_v2.enabled=true"},
            {80: "true", 443: "true"},
            id="attribute",
        ),
        pytest.param(
            {
                "target-group-attributes": "proxy_protocol_v2.enabled=true",
                "target-group-attributes.80": "proxy_protocol_v2.enabled=false",
            },
            {80: "false", 443: "true"},
            id="of one port wins",
        ),
    ],
)
def test_proxy_protocol(says: dict[str, str], proxied: dict[int, str]) -> None:
    found = wanted(WEB, TLS, says=says)
    assert {p.port: dict(p.attributes)["proxy_protocol_v2.enabled"] for p in found.ports} == proxied


def test_client_address_of_datagrams_is_always_kept() -> None:
    found = wanted(WEB, DNS, says={"target-group-attributes": "preserve_client_ip.enabled=false"})
    assert {str(p): dict(p.attributes) for p in found.ports} == {
        "80/TCP": {"preserve_client_ip.enabled": "false"},
        "53/UDP": {},
    }
    assert complaints(found) == ["port 53: preserve_client_ip.enabled=false cannot be had for UDP"]


def test_node_labels() -> None:
    assert wanted(says={"target-node-labels": "pool=blue"}).targets == {"i-00000000", "i-00000001"}


@pytest.mark.parametrize(
    ("ports", "says", "listeners"),
    [
        pytest.param((WEB, TLS), {}, ["80/TLS>TCP", "443/TLS>TCP"], id="all ports"),
        pytest.param((WEB, TLS), {"ssl-ports": "443"}, ["80/TCP>TCP", "443/TLS>TCP"], id="by number"),
        pytest.param((WEB, TLS), {"ssl-ports": "https"}, ["80/TCP>TCP", "443/TLS>TCP"], id="by name"),
        pytest.param((WEB, TLS), {"ssl-ports": "*"}, ["80/TLS>TCP", "443/TLS>TCP"], id="star"),
        pytest.param(
            (WEB, TLS),
            {"ssl-ports": "443", "backend-protocol": "ssl"},
            ["80/TCP>TCP", "443/TLS>TLS"],
            id="to the targets too",
        ),
        pytest.param((DNS, TLS), {}, ["53/UDP>UDP", "443/TLS>TCP"], id="not UDP"),
    ],
)
def test_tls_ports(ports: tuple[Listener, ...], says: dict[str, str], listeners: list[str]) -> None:
    found = wanted(*ports, says={"ssl-cert": CERT, **says})
    assert [f"{p}>{p.group_protocol}" for p in found.ports] == listeners


def test_how_tls_is_spoken() -> None:
    says = {
        "ssl-cert": f"{CERT},{OTHER}",
        "ssl-negotiation-policy": "ELBSecurityPolicy-TLS13-1-2-2021-06",
        "backend-protocol": "ssl",
        "alpn-policy": "HTTP2Preferred",
    }
    (port,) = wanted(TLS, says=says).ports
    assert port.tls is not None
    assert port.tls.certificate == CERT
    assert port.tls.more_certificates == {OTHER}
    assert (port.tls.policy, port.tls.alpn) == ("ELBSecurityPolicy-TLS13-1-2-2021-06", "HTTP2Preferred")


def test_no_certificate_that_can_be_read_is_no_plain_text() -> None:
    (port,) = wanted(TLS, says={"ssl-cert": "typo"}).ports
    assert port.protocol == "TLS"
    assert port.tls is not None
    assert port.tls.certificate == ""


def test_tls_and_udp_on_one_number() -> None:
    quic = Listener(443, L4Protocol.UDP, 30443, "quic")
    found = wanted(TLS, quic, says={"ssl-cert": CERT})
    assert [str(port) for port in found.ports] == ["443/TLS"]
    (said,) = [n.message for n in found.notices if n.topic == "Ports"]
    assert "spec.ports[1]: 443/UDP is not served" in said
    assert "use another port number" in said


def test_affinity_and_tls() -> None:
    found = wanted(
        WEB, TLS, says={"ssl-cert": CERT, "ssl-ports": "443"}, session_affinity=SessionAffinity.CLIENT_IP
    )
    assert {p.port: "stickiness.enabled" in dict(p.attributes) for p in found.ports} == {80: True, 443: False}
    assert complaints(found) == ["port 443: stickiness (sessionAffinity: ClientIP) cannot be had with TLS"]


@pytest.mark.parametrize(
    ("port", "says", "local", "check"),
    [
        pytest.param(
            WEB, {"healthcheck-protocol": "http"}, 0, "HTTP traffic-port/ every 10 s, 3/3", id="http"
        ),
        pytest.param(
            WEB,
            {"healthcheck-protocol": "https", "healthcheck-path": "/ok", "healthcheck-success-codes": "204"},
            0,
            "HTTPS traffic-port/ok (204) every 10 s, 3/3",
            id="https, path, codes",
        ),
        pytest.param(WEB, {"healthcheck-port": "8080"}, 0, "TCP 8080 every 10 s, 3/3", id="port"),
        pytest.param(WEB, {"healthcheck-port": "web"}, 0, "TCP 30080 every 10 s, 3/3", id="port by name"),
        pytest.param(
            WEB,
            {"healthcheck-interval": "30", "healthcheck-timeout": "5", "healthcheck-healthy-threshold": "5"},
            0,
            "TCP traffic-port every 30 s (timeout 5 s), 5/3",
            id="times",
        ),
        pytest.param(
            WEB,
            {"healthcheck-interval": "5"},
            0,
            "TCP traffic-port every 5 s (timeout 5 s), 3/3",
            id="the usual timeout fits into the interval",
        ),
        pytest.param(
            WEB, {"healthcheck-path": "/ok"}, 32000, "HTTP 32000/ok every 10 s, 2/2", id="local, path"
        ),
        pytest.param(
            WEB, {"healthcheck-protocol": "tcp"}, 32000, "TCP 32000 every 10 s, 2/2", id="local, tcp"
        ),
        pytest.param(
            DNS, {"healthcheck-port": "8080"}, 0, "TCP 8080 every 10 s, 3/3", id="udp by a TCP port"
        ),
        pytest.param(
            DNS,
            {"healthcheck-unhealthy-threshold": "2"},
            0,
            "HTTP 10256/healthz every 10 s, 3/2",
            id="udp by kube-proxy",
        ),
    ],
)
def test_health_checks_as_asked_for(port: Listener, says: dict[str, str], local: int, check: str) -> None:
    (found,) = wanted(port, says=says, health_check_node_port=local).ports
    assert str(found.check) == check


def test_check_that_cannot_pass_is_told() -> None:
    found = wanted(WEB, DNS, says={"healthcheck-port": "traffic-port"})
    assert complaints(found) == [
        "port 53: a check by TCP of its UDP port never passes: name another healthcheck-port"
    ]


def test_timeout_beyond_the_interval() -> None:
    found = wanted(says={"healthcheck-interval": "10", "healthcheck-timeout": "20"})
    assert found.ports[0].check.timeout_s == 10
    assert complaints(found) == [
        "aws-load-balancer-healthcheck-timeout: 20 is longer than the interval: 10 s"
    ]


@pytest.mark.parametrize(
    ("says", "ranges", "sources"),
    [
        pytest.param({"security-group-prefix-lists": "pl-1"}, (), {"pl-1"}, id="lists alone"),
        pytest.param(
            {"security-group-prefix-lists": "pl-1"},
            ("10.0.0.0/8",),
            {"pl-1", "10.0.0.0/8"},
            id="lists and ranges",
        ),
        pytest.param({"security-groups": "sg-1"}, ("10.0.0.0/8",), set(), id="groups of the user's"),
    ],
)
def test_sources(says: dict[str, str], ranges: tuple[str, ...], sources: set[str]) -> None:
    assert {rule.cidr for rule in wanted(says=says, source_ranges=ranges).rules} == sources


def test_path_mtu_discovery() -> None:
    found = wanted(
        says={"enable-icmp-for-path-mtu-discovery": "on"}, source_ranges=("10.0.0.0/8", "2001:db8::/32")
    )
    icmp = {rule for rule in found.rules if rule.protocol.startswith("icmp")}
    assert icmp == {IngressRule("icmp", 3, "10.0.0.0/8"), IngressRule("icmpv6", 2, "2001:db8::/32")}


@pytest.mark.parametrize(
    ("says", "families", "ports", "dual"),
    [
        pytest.param({"ip-address-type": "dualstack"}, (IPFamily.IPV4,), (WEB,), True, id="annotation"),
        pytest.param(
            {"ip-address-type": "ipv4"}, (IPFamily.IPV4, IPFamily.IPV6), (WEB,), False, id="it wins"
        ),
        pytest.param({}, (IPFamily.IPV4, IPFamily.IPV6), (WEB,), True, id="families"),
        pytest.param({"ip-address-type": "dualstack"}, (IPFamily.IPV4,), (DNS,), False, id="not with UDP"),
    ],
)
def test_dual_stack(
    says: dict[str, str], families: tuple[IPFamily, ...], ports: tuple[Listener, ...], dual: bool
) -> None:
    assert wanted(*ports, says=says, ip_families=families).dual_stack is dual
