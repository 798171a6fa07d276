"""The text of AWS plans, as `lbprov plan` shows it. Pure: nothing is asked, nothing is made."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from lbprov.api import IPFamily, L4Protocol, Listener, LoadBalancer, ObjectKey, Owner, SessionAffinity, Target
from lbprov_aws import names
from lbprov_aws.desired import want
from lbprov_aws.plan import plan
from lbprov_aws.resources import (
    Address,
    AddressUse,
    IngressRule,
    ListenerRecord,
    LoadBalancerRecord,
    Network,
    Observed,
    SecurityGroupRecord,
    Subnet,
    TargetGroupRecord,
    ZoneRecord,
    as_tags,
)

OWNER = Owner("lab", ObjectKey("default", "web"), "0f3c8f0e-6a0e-4c0c-9d63-6a1f5c1d2b3a")
VPC = "vpc-1"
ZONES = ("eu-west-1a", "eu-west-1b", "eu-west-1c")
NODES = tuple(
    Target(f"node-{n}", f"aws:///{zone}/i-000000000000000{n}", zone=zone)
    for n, zone in enumerate((*ZONES, *ZONES[:1]), start=1)
)
NETWORK = Network(
    VPC, tuple(Subnet(f"subnet-{n}", zone, VPC, f"10.0.{n}.0/24") for n, zone in enumerate(ZONES))
)
NOTHING = Observed(OWNER, "eu-west-1", network=NETWORK)


def port(number: int, node_port: int, protocol: str = "TCP") -> Listener:
    return Listener(number, L4Protocol(protocol), node_port)


def service(*listeners: Listener, **changes: Any) -> LoadBalancer:
    values: dict[str, Any] = {"targets": NODES[:3], **changes}
    return LoadBalancer(OWNER, listeners or (port(80, 30080), port(53, 30053, "UDP")), **values)


def live(desired: LoadBalancer, **changes: Any) -> Observed:
    """The world in which `desired` is in place; `changes` are fields of the load balancer's record."""
    wanted = want(desired)
    groups = tuple(
        TargetGroupRecord(
            arn=f"arn:aws:elasticloadbalancing:eu-west-1:1:targetgroup/{name}/{p.node_port}",
            name=name,
            protocol=p.group_protocol,
            port=p.node_port,
            vpc_id=VPC,
            health_check=p.check,
            tags=as_tags(wanted.tags(p.group_id)),
            targets=wanted.targets,
            attributes=p.attributes,
        )
        for p in wanted.ports
        for name in (names.target_group_name(OWNER, p.group_protocol, p.node_port, VPC),)
    )
    arns = {g.port: g.arn for g in groups}
    security_group = SecurityGroupRecord(
        "sg-1", names.security_group_name(OWNER), VPC, wanted.rules, tags=as_tags(wanted.tags("sg"))
    )
    name = names.load_balancer_name(OWNER, internal=wanted.internal)
    balancer = LoadBalancerRecord(
        arn=f"arn:aws:elasticloadbalancing:eu-west-1:1:loadbalancer/net/{name}/1",
        name=name,
        dns_name=f"{name}-1.elb.eu-west-1.amazonaws.com",
        internal=wanted.internal,
        state="active",
        ip_address_type="ipv4",
        vpc_id=VPC,
        zones=tuple(ZoneRecord(s.zone, s.subnet_id) for s in NETWORK.subnets),
        security_groups=("sg-1",),
        tags=as_tags(wanted.tags("lb")),
        listeners=tuple(
            ListenerRecord(
                arn=f"arn:listener/{p.port}",
                port=p.port,
                protocol=p.protocol,
                target_group_arn=arns[p.node_port],
                ours=True,
                certificate=p.tls.certificate if p.tls else "",
                policy=p.tls.policy if p.tls else "",
                alpn=p.tls.alpn if p.tls else "",
                more_certificates=p.tls.more_certificates if p.tls else None,
            )
            for p in wanted.ports
        ),
        attributes=wanted.attributes,
    )
    balancer = dataclasses.replace(balancer, **changes)
    return Observed(OWNER, "eu-west-1", (balancer,), groups, (security_group,))


def without_listener() -> Observed:
    """Somebody deleted a listener and a rule."""
    observed = live(service())
    balancer, group = observed.load_balancer, observed.security_group
    assert balancer is not None
    assert group is not None
    assert balancer.listeners is not None
    kept = dataclasses.replace(balancer, listeners=balancer.listeners[:1])
    fewer = dataclasses.replace(group, rules=group.rules - {IngressRule("tcp", 80, "0.0.0.0/0")})
    return dataclasses.replace(observed, load_balancers=(kept,), security_groups=(fewer,))


def with_foreign() -> Observed:
    """Somebody added a listener and a rule, and took a port."""
    observed = live(service())
    balancer, group = observed.load_balancer, observed.security_group
    assert balancer is not None
    assert group is not None
    foreign = (
        ListenerRecord("arn:listener/9", 443, "TCP", "arn:aws:x:targetgroup/theirs/1", ours=False),
        ListenerRecord("arn:listener/8", 80, "TCP", "arn:aws:x:targetgroup/theirs/1", ours=False),
    )
    more = dataclasses.replace(balancer, listeners=(*(balancer.listeners or ())[:1], *foreign))
    ruled = dataclasses.replace(group, foreign_rules=frozenset({IngressRule("tcp", 443, "10.0.0.0/8")}))
    return dataclasses.replace(observed, load_balancers=(more,), security_groups=(ruled,))


def found(use: AddressUse, **more: Any) -> Observed:
    return dataclasses.replace(NOTHING, address=Address("203.0.113.10", use, **more))


BOTH = (port(53, 30053), port(53, 30053, "UDP"))
TAGS = {"service.beta.kubernetes.io/aws-load-balancer-additional-resource-tags": "team=shop"}
PARTLY = (port(80, 30080), port(53, 30053), port(53, 30054, "UDP"), port(3868, 30068, "SCTP"))

PREFIX = "service.beta.kubernetes.io/aws-load-balancer-"
CERTIFICATE = "arn:aws:acm:eu-west-1:123456789012:certificate/"
SECURE = {
    PREFIX + "ssl-cert": f"{CERTIFICATE}one,{CERTIFICATE}two",
    PREFIX + "ssl-ports": "443",
    PREFIX + "proxy-protocol": "*",
    PREFIX + "attributes": "load_balancing.cross_zone.enabled=true",
}
LISTED = {PREFIX + "eip-allocations": "eipalloc-1, 203.0.113.11, tag:shop=x"}
WEB, TLS = port(80, 30080), port(443, 30443)


def listed() -> Observed:
    addresses = (
        Address("203.0.113.10", AddressUse.FREE, "eipalloc-1", wish="eipalloc-1"),
        Address("203.0.113.11", AddressUse.IN_USE, "eipalloc-2", "instance i-1", wish="203.0.113.11"),
        Address("203.0.113.12", AddressUse.FREE, "eipalloc-3", wish="tag:shop=x"),
    )
    return dataclasses.replace(NOTHING, addresses=addresses)


def refusing(desired: LoadBalancer) -> Observed:
    """AWS does not know the certificate that is asked for now."""
    key = f"listener:443 {CERTIFICATE}gone ELBSecurityPolicy-2016-08"
    return dataclasses.replace(live(desired), refused=((key, "CertificateNotFound"),))


CASES = [
    pytest.param("create-secure", service(WEB, TLS, annotations=SECURE), NOTHING, id="create-secure"),
    pytest.param(
        "update-secure", service(WEB, TLS, annotations=SECURE), live(service(WEB, TLS)), id="update-secure"
    ),
    pytest.param(
        "update-secure-gone",
        service(WEB, TLS),
        live(service(WEB, TLS, annotations=SECURE)),
        id="update-secure-gone",
    ),
    pytest.param(
        "refused-certificate",
        service(WEB, TLS, annotations={**SECURE, PREFIX + "ssl-cert": CERTIFICATE + "gone"}),
        refusing(service(WEB, TLS, annotations=SECURE)),
        id="refused-certificate",
    ),
    pytest.param("create-listed", service(WEB, annotations=LISTED), listed(), id="create-listed"),
    pytest.param(
        "unknown-annotations",
        service(
            WEB, annotations={PREFIX + "nlb-target-type": "ip", PREFIX + "schem": "x", PREFIX + "name": "-"}
        ),
        live(service(WEB)),
        id="unknown-annotations",
    ),
    pytest.param("create", service(), NOTHING, id="create"),
    pytest.param("create-internal", service(internal=True), NOTHING, id="create-internal"),
    pytest.param(
        "create-local-sticky",
        service(health_check_node_port=32000, session_affinity=SessionAffinity.CLIENT_IP),
        NOTHING,
        id="create-local-sticky",
    ),
    pytest.param(
        "create-partly", service(*PARTLY, targets=(*NODES[:2], Target("fargate"))), NOTHING, id="partly"
    ),
    pytest.param(
        "create-ipv4-only",
        service(port(80, 30080), ip_families=(IPFamily.IPV4, IPFamily.IPV6)),
        NOTHING,
        id="create-ipv4-only",
    ),
    pytest.param(
        "create-address",
        service(requested_ip="203.0.113.10"),
        found(AddressUse.FREE, allocation_id="eipalloc-1"),
        id="create-address",
    ),
    pytest.param(
        "fallback-not-found",
        service(requested_ip="203.0.113.10"),
        found(AddressUse.ABSENT),
        id="fallback-not-found",
    ),
    pytest.param(
        "fallback-in-use",
        service(requested_ip="203.0.113.10"),
        found(AddressUse.IN_USE, holder="the load balancer of Service default/other"),
        id="fallback-in-use",
    ),
    pytest.param("update-none", service(), live(service()), id="update-none"),
    pytest.param(
        "update-port-number",
        service(port(8080, 30080), port(53, 30053, "UDP")),
        live(service()),
        id="update-port-number",
    ),
    pytest.param(
        "update-node-port",
        service(port(80, 31080), port(53, 30053, "UDP")),
        live(service()),
        id="update-node-port",
    ),
    pytest.param("update-tcp-to-both", service(*BOTH), live(service(BOTH[0])), id="update-tcp-to-both"),
    pytest.param("update-nodes", service(targets=NODES[1:]), live(service()), id="update-nodes"),
    pytest.param(
        "update-source-ranges",
        service(source_ranges=("198.51.100.0/24", "203.0.113.0/24")),
        live(service()),
        id="update-source-ranges",
    ),
    pytest.param(
        "update-health-check",
        service(port(80, 30080), health_check_node_port=32000),
        live(service(port(80, 30080))),
        id="update-health-check",
    ),
    pytest.param("update-tags", service(annotations=TAGS), live(service()), id="update-tags"),
    pytest.param("update-tags-gone", service(), live(service(annotations=TAGS)), id="update-tags-gone"),
    pytest.param(
        "update-scheme-refused", service(internal=True), live(service()), id="update-scheme-refused"
    ),
    pytest.param("drift", service(), without_listener(), id="drift"),
    pytest.param("foreign", service(), with_foreign(), id="foreign"),
    pytest.param("delete", None, live(service()), id="delete"),
    pytest.param(
        "delete-rest", None, dataclasses.replace(live(service()), load_balancers=()), id="delete-rest"
    ),
]


@pytest.mark.parametrize(("name", "desired", "observed"), CASES)
def test_text(
    golden: Callable[[str, str], None], name: str, desired: LoadBalancer | None, observed: Observed
) -> None:
    golden(f"aws/{name}.txt", plan(desired, observed).to_text() + "\n")


@pytest.mark.parametrize(("name", "desired", "observed"), CASES)
def test_plans_are_values(name: str, desired: LoadBalancer | None, observed: Observed) -> None:
    one, two = plan(desired, observed), plan(desired, observed)
    assert one == two
    hash(one)
    ids = [(step.action, step.kind, step.id) for step in one.steps]
    assert len(set(ids)) == len(ids)


def test_rules_that_do_not_fit_together_are_revoked_first() -> None:
    """60 rules are in the group and 60 others are to be: nothing can be added before something goes."""
    before = tuple(f"198.51.{n}.0/24" for n in range(60))
    after = tuple(f"203.0.{n}.0/24" for n in range(60))
    web = port(80, 30080)
    steps = plan(service(web, source_ranges=after), live(service(web, source_ranges=before))).steps
    assert [step.id for step in steps] == ["sg:revoke", "sg:allow"]
    few = plan(service(web, source_ranges=after[:30]), live(service(web, source_ranges=before[:30]))).steps
    assert [step.id for step in few] == ["sg:allow", "sg:revoke"]


def test_second_of_what_there_should_be_one_goes_last() -> None:
    observed = live(service())
    (balancer,) = observed.load_balancers
    second = dataclasses.replace(balancer, arn=balancer.arn + "2", name="lbp-old")
    steps = plan(service(), dataclasses.replace(observed, load_balancers=(balancer, second))).steps
    assert [(s.action, s.kind, s.name) for s in steps] == [("delete", "load balancer", "lbp-old")]


def test_many_nodes_are_registered_in_several_calls() -> None:
    nodes = tuple(Target(f"n{i}", f"aws:///eu-west-1a/i-{i:017x}") for i in range(450))
    steps = plan(service(port(80, 30080), targets=nodes), NOTHING).steps
    sizes = [len(getattr(s.body, "instances", ())) for s in steps if s.kind == "targets"]
    assert sizes == [200, 200, 50]
