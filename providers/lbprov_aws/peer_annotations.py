"""Every annotation `service.beta.kubernetes.io/aws-load-balancer-…` that the other AWS controllers read for a
Service, and what becomes of it here. The reference page is made from this table.

Sources: cloud-provider-aws, `pkg/providers/v1/aws.go`; the AWS Load Balancer Controller,
`docs/guide/service/annotations.md` and `pkg/annotations/constants.go`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

PREFIX = "service.beta.kubernetes.io/aws-load-balancer-"

CONTROLLER_CLASS = "service.k8s.aws/nlb"
"""The `spec.loadBalancerClass` of the AWS Load Balancer Controller."""

INTERNAL = "internal"
SCHEME = "scheme"
TYPE = "type"
TARGET_TYPE = "nlb-target-type"
NAME = "name"
SUBNETS = "subnets"
IP_ADDRESS_TYPE = "ip-address-type"
EIP_ALLOCATIONS = "eip-allocations"
EIP_TAGS = "eip-allocations-discovery-tags"
PRIVATE_IPV4 = "private-ipv4-addresses"
IPV6 = "ipv6-addresses"
ATTRIBUTES = "attributes"
CROSS_ZONE = "cross-zone-load-balancing-enabled"
ACCESS_LOG_ENABLED = "access-log-enabled"
ACCESS_LOG_BUCKET = "access-log-s3-bucket-name"
ACCESS_LOG_PREFIX = "access-log-s3-bucket-prefix"
GROUP_ATTRIBUTES = "target-group-attributes"
LISTENER_ATTRIBUTES = "listener-attributes"
PROXY_PROTOCOL = "proxy-protocol"
PROXY_PROTOCOL_PORTS = "proxy-protocol-per-target-group"
NODE_LABELS = "target-node-labels"
CERTIFICATES = "ssl-cert"
TLS_PORTS = "ssl-ports"
TLS_POLICY = "ssl-negotiation-policy"
BACKEND_PROTOCOL = "backend-protocol"
ALPN = "alpn-policy"
CHECK_PROTOCOL = "healthcheck-protocol"
CHECK_PORT = "healthcheck-port"
CHECK_PATH = "healthcheck-path"
CHECK_INTERVAL = "healthcheck-interval"
CHECK_TIMEOUT = "healthcheck-timeout"
CHECK_HEALTHY = "healthcheck-healthy-threshold"
CHECK_UNHEALTHY = "healthcheck-unhealthy-threshold"
CHECK_CODES = "healthcheck-success-codes"
EXTRA_TAGS = "additional-resource-tags"
SECURITY_GROUPS = "security-groups"
EXTRA_SECURITY_GROUPS = "extra-security-groups"
PREFIX_LISTS = "security-group-prefix-lists"
PATH_MTU = "enable-icmp-for-path-mtu-discovery"
PRIVATE_LINK = "inbound-sg-rules-on-private-link-traffic"
BACKEND_RULES = "manage-backend-security-group-rules"
TCP_UDP = "enable-tcp-udp-listener"


class Support(StrEnum):
    YES = "yes"
    PARTLY = "partly"
    """Some values are what we do, the others get a Warning."""
    NO = "no"


class Peer(StrEnum):
    """Who reads it."""

    CLOUD_PROVIDER = "cloud-provider-aws"
    CONTROLLER = "AWS Load Balancer Controller"
    BOTH = "both"


@dataclass(frozen=True, slots=True)
class Annotation:
    """`name` without the prefix; one that ends in "." begins a family (`target-group-attributes.80`).
    `meaning`: what it does here, or after `NO` why not and what to do instead, as part of a Warning."""

    name: str
    peer: Peer
    support: Support
    meaning: str


def _yes(name: str, meaning: str, peer: Peer = Peer.BOTH) -> Annotation:
    return Annotation(name, peer, Support.YES, meaning)


def _partly(name: str, meaning: str, peer: Peer = Peer.CONTROLLER) -> Annotation:
    return Annotation(name, peer, Support.PARTLY, meaning)


def _no(name: str, meaning: str, peer: Peer = Peer.CONTROLLER) -> Annotation:
    return Annotation(name, peer, Support.NO, meaning)


_ALBC, _CPA = Peer.CONTROLLER, Peer.CLOUD_PROVIDER

TABLE = (
    # The load balancer
    _partly(
        TYPE,
        "`nlb` and `external` are what every Service gets: a Network Load Balancer with instances as "
        "targets. `nlb-ip` asks for Pods as targets: see `nlb-target-type`.",
        Peer.BOTH,
    ),
    _partly(TARGET_TYPE, "`instance`. `ip`, Pods as targets, is not supported: nodes are targets instead."),
    _yes(
        SCHEME,
        "`internal` or `internet-facing`, when the load balancer is made. Default: internet-facing, and "
        "internal with `type: external` or `nlb-ip`, or the class `service.k8s.aws/nlb`, as it is with the "
        "AWS Load Balancer Controller.",
        _ALBC,
    ),
    _yes(INTERNAL, "Any value but `false`: internal. `lbprov.io/scheme` and `scheme` win over it."),
    _yes(
        NAME,
        "The load balancer's name, when it is made: 1 to 32 letters, digits and hyphens. One that replaces "
        "another one gets a suffix, as a name has one holder.",
        _ALBC,
    ),
    _yes(SUBNETS, "Ids or values of the tag `Name`, one per zone, when the load balancer is made."),
    _yes(
        IP_ADDRESS_TYPE,
        "`ipv4` or `dualstack`; otherwise by `spec.ipFamilies`. Followed later too. Dual stack needs an IPv6 "
        "range in every subnet, and no UDP port.",
        _ALBC,
    ),
    _yes(
        EXTRA_TAGS,
        "`key=value,…` on everything that is made. Followed later too: a tag that is not listed any more is "
        "taken away, and nobody else's is.",
    ),
    # Addresses
    _yes(
        EIP_ALLOCATIONS,
        "Elastic IPs of an internet-facing load balancer, one per zone, when it is made: allocation ids, and "
        "also addresses (`203.0.113.10`) or `tag:key=value`. Fewer than subnets: it stands in that many "
        "zones.",
    ),
    _yes(
        EIP_TAGS,
        "`key=value,…`: as many Elastic IPs with all of these tags as there are subnets. `eip-allocations` "
        "wins.",
        _ALBC,
    ),
    _yes(PRIVATE_IPV4, "Addresses of an internal load balancer, each of another subnet, when it is made."),
    _yes(
        IPV6, "IPv6 addresses of a dual-stack load balancer, each of another subnet, when it is made.", _ALBC
    ),
    # Attributes
    _yes(
        ATTRIBUTES,
        "`key=value,…`: attributes of the load balancer. Followed later too; one that is not listed any more "
        "goes back to AWS's default.",
        _ALBC,
    ),
    _yes(CROSS_ZONE, "The attribute `load_balancing.cross_zone.enabled`; wins over `attributes`."),
    _yes(ACCESS_LOG_ENABLED, "The attribute `access_logs.s3.enabled`; wins over `attributes`."),
    _yes(ACCESS_LOG_BUCKET, "The attribute `access_logs.s3.bucket`; wins over `attributes`."),
    _yes(ACCESS_LOG_PREFIX, "The attribute `access_logs.s3.prefix`; wins over `attributes`."),
    _yes(
        GROUP_ATTRIBUTES,
        "`key=value,…`: attributes of all target groups. Followed later too; one that is not listed any more "
        "goes back to AWS's default.",
    ),
    _yes(
        f"{GROUP_ATTRIBUTES}.",
        "`….PORT`: attributes of that port's target group; they win over those of all.",
        _ALBC,
    ),
    _yes(PROXY_PROTOCOL, "`*`: proxy protocol v2 to all targets; wins over `target-group-attributes`."),
    _yes(
        PROXY_PROTOCOL_PORTS,
        "Port numbers: proxy protocol v2 to the targets of these ports, and not to the others.",
        _ALBC,
    ),
    # Targets
    _yes(
        NODE_LABELS,
        "`label=value,…`: only nodes that have all of these labels are targets. Followed later too.",
    ),
    # TLS
    _yes(
        CERTIFICATES,
        "ARNs of ACM (or IAM) certificates, comma-separated: TCP ports become TLS ports. The first is the "
        "default, the others are chosen by SNI.",
    ),
    _yes(TLS_PORTS, "Names or numbers of the ports that speak TLS; `*` or nothing: all TCP ports."),
    _yes(
        TLS_POLICY, "The security policy of TLS ports. Default: `ELBSecurityPolicy-2016-08`, as AWS has it."
    ),
    _partly(
        BACKEND_PROTOCOL,
        "`ssl`: TLS to the targets of TLS ports; `tcp`: not. `http` and `https` are of Classic Load "
        "Balancers.",
        Peer.BOTH,
    ),
    _yes(
        ALPN, "`HTTP1Only`, `HTTP2Only`, `HTTP2Optional`, `HTTP2Preferred` or `None`, for TLS ports.", _ALBC
    ),
    # Health checks
    _yes(CHECK_PROTOCOL, "`tcp`, `http` or `https`."),
    _yes(CHECK_PORT, "`traffic-port`, a number, or the name of one of the Service's ports (its nodePort)."),
    _yes(
        CHECK_PATH,
        "The path of HTTP and HTTPS checks. Default: `/`, and `/healthz` where kube-proxy answers.",
    ),
    _yes(CHECK_INTERVAL, "5 to 300 seconds."),
    _yes(CHECK_TIMEOUT, "2 to 120 seconds."),
    _yes(CHECK_HEALTHY, "2 to 10."),
    _yes(CHECK_UNHEALTHY, "2 to 10."),
    _yes(
        CHECK_CODES, "HTTP codes of a healthy target, of 200 to 599: `200,202` or `200-399` (default).", _ALBC
    ),
    # Who may connect
    _yes(
        SECURITY_GROUPS,
        "Ids or values of the tag `Name`: these groups instead of one of our own; source ranges and prefix "
        "lists then have no effect. Followed later too.",
    ),
    _yes(EXTRA_SECURITY_GROUPS, "Ids or values of the tag `Name`: these groups beside ours.", _CPA),
    _yes(
        PREFIX_LISTS,
        "Ids of managed prefix lists that may connect, beside source ranges; without source ranges they "
        "alone.",
        _ALBC,
    ),
    _yes(
        PATH_MTU,
        "`on`: ICMP messages for path MTU discovery are admitted from the same sources. Default: `off`.",
        _ALBC,
    ),
    _yes(
        PRIVATE_LINK,
        "`on` (default) or `off`: whether the security group applies to traffic by PrivateLink.",
        _ALBC,
    ),
    _partly(
        BACKEND_RULES,
        "`false` is how it is: the nodes' security groups are not managed. `true` has no effect: admit the "
        "nodePorts from the load balancer's security group yourself.",
    ),
    # Ports
    _partly(
        TCP_UDP,
        "`true` is how it is: TCP and UDP ports of one number and one nodePort share a TCP_UDP listener. "
        "`false` has no effect.",
    ),
    _yes(
        f"{LISTENER_ATTRIBUTES}.",
        "`….PROTOCOL-PORT` (`….TCP-80`): `key=value`, attributes of that listener, of TCP and TCP_UDP. "
        "Followed later too; one that is not listed any more goes back to AWS's default. While any is asked "
        "for, it is at its default on the Service's other listeners.",
        _ALBC,
    ),
    # Not supported
    _no(
        "minimum-load-balancer-capacity",
        "capacity units cannot be reserved: reserve them with AWS's own tools",
    ),
    _no(
        "multi-cluster-target-group", "target groups of several clusters are not supported: one cluster each"
    ),
    _no(
        "enable-prefix-for-ipv6-source-nat",
        "IPv6 source NAT is not supported: UDP ports are served by IPv4 load balancers",
    ),
    _no("source-nat-ipv6-prefixes", "IPv6 source NAT is not supported: UDP ports are served by IPv4"),
    _no(
        "disable-nlb-sg",
        "every load balancer has a security group: without one AWS could never attach one later",
    ),
    _no("quic-enabled-ports", "QUIC listeners are not supported: a UDP port carries QUIC as it is"),
    _no("quic-enabled-containers", "QUIC listeners are not supported: a UDP port carries QUIC as it is"),
    _no("actions.", "weights between target groups are not supported: one target group per port"),
    _no(
        "access-log-emit-interval",
        "it is of Classic Load Balancers: a Network Load Balancer writes logs every 5 minutes",
        _CPA,
    ),
    _no(
        "connection-draining-enabled",
        "it is of Classic Load Balancers: use target-group-attributes: "
        "deregistration_delay.timeout_seconds=…",
        _CPA,
    ),
    _no(
        "connection-draining-timeout",
        "it is of Classic Load Balancers: use target-group-attributes: "
        "deregistration_delay.timeout_seconds=…",
        _CPA,
    ),
    _no(
        "connection-idle-timeout",
        "it is of Classic Load Balancers: use listener-attributes.TCP-PORT: tcp.idle_timeout.seconds=…",
        _CPA,
    ),
)


def find(name: str) -> Annotation | None:
    """`name` without the prefix."""
    for annotation in TABLE:
        if annotation.name == name or (annotation.name.endswith(".") and name.startswith(annotation.name)):
            return annotation
    return None


def field(name: str) -> str:
    """Where it stands, for errors."""
    return f"metadata.annotations[{PREFIX}{name}]"
