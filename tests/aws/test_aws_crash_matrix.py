"""Killed before and after every call of every change: the next process goes on, and nothing is left over.

`SCENARIOS` is the table: a change from one wish to another, either of them None (nothing). For every call of
a process that starts and makes the change there are four cases: killed before it or after it, and then the
Service is still wanted, or was deleted while nobody looked. Add a line for a new kind of change.

`make test` runs the kills after writes of some; `make crash-matrix` all of them, and prints the table.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal

import pytest

from lbprov.api import L4Protocol, Listener, LoadBalancer, Replace, RetryLater, SessionAffinity, TrafficPolicy
from lbprov.lab.aws.world import client
from lbprov.testing.memo import MemoryMemo
from lbprov_aws.cloud import Cloud

if TYPE_CHECKING:
    from tests.aws.conftest import Lab

Wish = Callable[["Lab"], LoadBalancer | None]
When = Literal["before", "after"]
Kept = Literal["kept", "deleted"]

IP, OTHER_IP = "203.0.113.10", "203.0.113.11"
PEERS = "service.beta.kubernetes.io/aws-load-balancer-"
SUBNETS = PEERS + "subnets"
TAGS = PEERS + "additional-resource-tags"
MAX_ROUNDS = 60
RECHECK_S = 600.0


def port(number: int, node_port: int, protocol: str = "TCP") -> Listener:
    return Listener(number, L4Protocol(protocol), node_port, name=f"p{number}-{protocol.lower()}")


WEB, TLS, DNS = port(80, 30080), port(443, 30443), port(53, 30053, "UDP")


def wish(*ports: Listener, nodes: tuple[str, ...] | None = None, **changes: Any) -> Wish:
    """Of Service default/web, as `Lab.desired`."""
    return lambda lab: lab.desired("web", *ports, nodes=nodes, **changes)


def nothing(lab: Lab) -> None:
    return None


def tls(*domains: str) -> Wish:
    """Port 443 with these certificates, the first by default."""

    def made(lab: Lab) -> LoadBalancer:
        known = client(lab.server, "acm").list_certificates()["CertificateSummaryList"]
        arns = {certificate["DomainName"]: certificate["CertificateArn"] for certificate in known}
        says = {f"{PEERS}ssl-cert": ",".join(arns[domain] for domain in domains), f"{PEERS}ssl-ports": "443"}
        return lab.desired("web", WEB, TLS, annotations=says)

    return made


@dataclasses.dataclass(frozen=True)
class Scenario:
    """`prepare`: once, for what lbprov does not make."""

    name: str
    before: Wish
    after: Wish
    prepare: Callable[[Lab], object] = nothing


def _addresses(lab: Lab) -> None:
    for ip in (IP, OTHER_IP):
        lab.world.allocate_address(ip)


def _in_zone(number: int) -> Wish:
    """At one address that AWS lets one load balancer have, in one zone."""

    def wish_(lab: Lab) -> LoadBalancer:
        subnet = list(lab.world.subnet_ids.values())[number]
        return lab.desired("web", WEB, requested_ip=IP, replace=Replace.OUTAGE, annotations={SUBNETS: subnet})

    return wish_


def _certificates(lab: Lab) -> None:
    for domain in ("one.example", "two.example"):
        client(lab.server, "acm").request_certificate(DomainName=domain)


def _group(lab: Lab) -> None:
    tags: Any = [{"ResourceType": "security-group", "Tags": [{"Key": "Name", "Value": "theirs"}]}]
    lab.world.ec2.create_security_group(
        GroupName="theirs", Description="theirs", VpcId=lab.world.vpc_id, TagSpecifications=tags
    )


THEIRS = {PEERS + "security-groups": "theirs"}
LISTED = {PEERS + "eip-allocations": f"{IP},{OTHER_IP}"}
PROXIED = {PEERS + "proxy-protocol": "*", PEERS + "cross-zone-load-balancing-enabled": "true"}

SCENARIOS = (
    Scenario("create", nothing, wish(WEB)),
    Scenario("create, three ports", nothing, wish(WEB, TLS, DNS)),
    Scenario("create, session affinity", nothing, wish(WEB, session_affinity=SessionAffinity.CLIENT_IP)),
    Scenario("create with loadBalancerIP", nothing, wish(WEB, requested_ip=IP), _addresses),
    Scenario("create, loadBalancerIP unknown", nothing, wish(WEB, requested_ip="203.0.113.99")),
    Scenario("port added", wish(WEB), wish(WEB, TLS)),
    Scenario("port removed", wish(WEB, TLS), wish(WEB)),
    Scenario("port number changed", wish(WEB), wish(port(8080, 30080))),
    Scenario("port numbers swapped", wish(WEB, TLS), wish(port(443, 30080), port(80, 30443))),
    Scenario("nodePort changed", wish(WEB), wish(port(80, 31080))),
    Scenario("protocol changed", wish(DNS), wish(port(53, 30053))),
    Scenario("source ranges", wish(WEB), wish(WEB, source_ranges=("198.51.100.0/24", "192.0.2.0/24"))),
    Scenario("session affinity", wish(WEB), wish(WEB, session_affinity=SessionAffinity.CLIENT_IP)),
    Scenario(
        "health check changed",
        wish(WEB),
        wish(WEB, external_traffic_policy=TrafficPolicy.LOCAL, health_check_node_port=32000),
    ),
    Scenario("tags", wish(WEB), wish(WEB, annotations={TAGS: "team=a"})),
    Scenario("TLS", wish(WEB, TLS), tls("one.example", "two.example"), _certificates),
    Scenario("TLS, other certificates", tls("one.example"), tls("two.example", "one.example"), _certificates),
    Scenario(
        "attributes",
        wish(WEB),
        wish(
            WEB,
            annotations={
                PEERS + "attributes": "load_balancing.cross_zone.enabled=true",
                PEERS + "target-group-attributes": "deregistration_delay.timeout_seconds=30",
            },
        ),
    ),
    Scenario("attributes gone", wish(WEB, annotations=PROXIED), wish(WEB)),
    Scenario("addresses listed", nothing, wish(WEB, annotations=LISTED), _addresses),
    Scenario("security group named", wish(WEB), wish(WEB, annotations=THEIRS), _group),
    Scenario("node joined", wish(WEB, TLS, nodes=("node-1",)), wish(WEB, TLS, nodes=("node-1", "node-2"))),
    Scenario("nodes swapped", wish(WEB, nodes=("node-1", "node-2")), wish(WEB, nodes=("node-3",))),
    Scenario("last node left", wish(WEB), wish(WEB, nodes=())),
    Scenario("delete", wish(WEB), nothing),
    Scenario("scheme replaced", wish(WEB), wish(WEB, internal=True, replace=Replace.SEAMLESS)),
    Scenario(
        "address replaced",
        wish(WEB, requested_ip=IP),
        wish(WEB, requested_ip=OTHER_IP, replace=Replace.SEAMLESS),
        _addresses,
    ),
    Scenario("address moves, with an outage", _in_zone(0), _in_zone(1), _addresses),
    Scenario("delete, three ports", wish(WEB, TLS, DNS), nothing),
    Scenario("delete with loadBalancerIP", wish(WEB, requested_ip=IP), nothing, _addresses),
)


class Killed(BaseException):
    """No `except Exception` survives it."""


@dataclasses.dataclass(frozen=True)
class Case:
    """One kill and what came of it. `too_much`: lines of the inventory that should not be there."""

    call: int
    operation: str
    when: When
    then: Kept
    too_much: tuple[str, ...]
    missing: tuple[str, ...]
    calls: int
    """That the next process made until all was well."""


class Matrix:
    """One scenario in one world, killed again and again."""

    def __init__(self, lab: Lab, scenario: Scenario, patch: pytest.MonkeyPatch) -> None:
        self._lab = lab
        self._scenario = scenario
        self._patch = patch
        lab.recheck_s = RECHECK_S  # as a controller, which leaves seals behind and believes them
        lab.memo = MemoryMemo()
        lab.restart()
        self._owner = lab.desired("web").owner
        scenario.prepare(lab)
        self._nothing = lab.world.inventory()
        self._reach(scenario.before)
        self._reach(scenario.after)
        self._wanted = lab.world.inventory()
        self._reach(nothing)
        assert lab.world.inventory() == self._nothing

    def cases(self, *, whole: bool) -> Iterator[Case]:
        for number in itertools.count(1):
            operation = ""
            for when, then in itertools.product(("before", "after"), ("kept", "deleted")):
                if not whole and (when, then) != ("after", "kept"):
                    continue
                operation, case = self._case(number, when, then, writes_only=not whole)  # type: ignore[arg-type]
                if not operation:
                    return
                yield case

    def _case(self, number: int, when: When, then: Kept, *, writes_only: bool) -> tuple[str, Case]:
        """The operation is empty if there are fewer calls."""
        lab, wanted = self._lab, self._scenario.after
        self._reach(nothing)
        self._reach(self._scenario.before)
        lab.restart()
        operation = self._killed(number, when, writes_only=writes_only)
        lab.restart()
        self._reach(wanted if then == "kept" else nothing)
        calls = lab.provider.calls()
        found, expected = lab.world.inventory(), self._wanted if then == "kept" else self._nothing
        case = Case(
            number,
            operation,
            when,
            then,
            tuple(sorted(found - expected)),
            (*sorted(expected - found), *self._left_to_do(wanted if then == "kept" else nothing)),
            calls.read + calls.write,
        )
        return operation, case

    def _left_to_do(self, wish_: Wish) -> list[str]:
        """By a process that believes no seal, and looks at what the inventory does not show."""
        self._lab.recheck_s = 0.0
        provider = self._lab.start()
        self._lab.recheck_s = RECHECK_S
        desired = wish_(self._lab)
        plan = provider.plan(desired, provider.observe(self._owner, desired))
        return [f"{step.action} {step.kind} {step.name}" for step in plan.steps]

    def _killed(self, number: int, when: When, *, writes_only: bool) -> str:
        """Make the change, killed at its `number`-th call; the operation."""
        counter, hit = itertools.count(1), ""

        def killing(call: Callable[..., Any]) -> Callable[..., Any]:
            def wrapped(cloud: Cloud, service: str, operation: str, *rest: Any, **parameters: Any) -> Any:
                nonlocal hit
                reads = operation.startswith(("Describe", "Get"))
                mine = not (reads and writes_only) and next(counter) == number
                hit = operation if mine else hit
                if mine and when == "before":
                    raise Killed
                answer = call(cloud, service, operation, *rest, **parameters)
                if mine:
                    raise Killed
                return answer

            return wrapped

        with self._patch.context() as patched:
            patched.setattr(Cloud, "call", killing(Cloud.call))
            patched.setattr(Cloud, "pages", killing(Cloud.pages))
            try:
                self._reach(self._scenario.after)
            except Killed:
                assert hit
        return hit

    def _reach(self, wish_: Wish) -> None:
        """As the queue does: again and again, after the pauses that are asked for."""
        lab, provider = self._lab, self._lab.provider
        desired = wish_(lab)
        for _ in range(MAX_ROUNDS):
            try:
                plan = provider.plan(desired, provider.observe(self._owner, desired))
                bindings = dict(plan.bindings)
                for step in plan.steps:
                    provider.apply(step, bindings)
                observed = provider.observe(self._owner, desired, fresh=desired is None)
                if provider.plan(desired, observed).steps:
                    continue
                again_after_s = provider.status(desired, observed).again_after_s if desired else None
                if again_after_s is None:
                    return
                lab.clock.now += again_after_s
            except RetryLater as later:
                lab.clock.now += later.after_s
        raise AssertionError(f"{self._scenario.name}: it does not converge")


@pytest.fixture(scope="session")
def table(request: pytest.FixtureRequest) -> dict[str, list[Case]]:
    """Scenario -> its cases; printed in the end, where whole."""
    rows: dict[str, list[Case]] = {}
    request.config.pluginmanager.register(_Table(rows))
    return rows


class _Table:
    def __init__(self, rows: dict[str, list[Case]]) -> None:
        self._rows = rows

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if not self._rows:
            return
        terminalreporter.section("killed before and after every call")
        line = "{:<32}{:>6}{:>7}{:>8}{:>8}{:>20}"
        terminalreporter.write_line(line.format("", "calls", "kills", "leaked", "twice", "calls to converge"))
        for name, cases in self._rows.items():
            leaked = sum(len(case.too_much) for case in cases if case.then == "deleted")
            twice = sum(len(case.too_much) for case in cases if case.then == "kept")
            calls = [case.calls for case in cases]
            numbers = (cases[-1].call, len(cases), leaked, twice, f"{min(calls)} to {max(calls)}")
            terminalreporter.write_line(line.format(name, *numbers))
        everything = [case for cases in self._rows.values() for case in cases]
        wrong = sum(bool(case.too_much or case.missing) for case in everything)
        terminalreporter.write_line(f"{len(everything)} kills, {wrong} without the right end")


NAMES = [scenario.name for scenario in SCENARIOS]


QUICK = (
    "create with loadBalancerIP",
    "port number changed",
    "nodePort changed",
    "source ranges",
    "session affinity",
    "TLS, other certificates",
    "nodes swapped",
    "scheme replaced",
    "delete",
)
"""One of each kind."""


@pytest.mark.parametrize("name", QUICK)
def test_killed_after_a_write(lab: Lab, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (scenario,) = [scenario for scenario in SCENARIOS if scenario.name == name]
    cases = list(Matrix(lab, scenario, monkeypatch).cases(whole=False))
    assert cases
    assert [case for case in cases if case.too_much or case.missing] == []


@pytest.mark.soak
@pytest.mark.parametrize("scenario", SCENARIOS, ids=NAMES)
def test_killed_at_every_call(
    lab: Lab, scenario: Scenario, monkeypatch: pytest.MonkeyPatch, table: dict[str, list[Case]]
) -> None:
    cases = table.setdefault(scenario.name, [])
    cases.extend(Matrix(lab, scenario, monkeypatch).cases(whole=True))
    assert len(cases) >= 8
    assert [case for case in cases if case.too_much or case.missing] == []
