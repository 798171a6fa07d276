"""Attributes of listeners (TCP idle timeout): they come, change, go back; who asks for none pays nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import pytest
from botocore.exceptions import ClientError

from lbprov.api import Listener, LoadBalancer, ProviderError
from lbprov.lab.aws.world import client
from lbprov_aws.peer_annotations import PREFIX
from lbprov_aws.refused import REFUSED_S

if TYPE_CHECKING:
    from tests.aws.conftest import Lab

KEY = "tcp.idle_timeout.seconds"
READ, WRITE = "DescribeListenerAttributes", "ModifyListenerAttributes"


def asking(lab: Lab, *ports: Listener, more: dict[str, str] | None = None, **idle_s: object) -> LoadBalancer:
    """`TCP_80=600`: of the listener TCP-80."""
    says = {f"listener-attributes.{'-'.join(k.rsplit('_', 1))}": f"{KEY}={v}" for k, v in idle_s.items()}
    annotations = {PREFIX + key: value for key, value in {**says, **(more or {})}.items()}
    desired: LoadBalancer = lab.desired("web", *ports, annotations=annotations)
    return desired


def idle_s(lab: Lab) -> dict[int, str]:
    """Port -> its timeout."""
    (balancer,) = lab.world.load_balancers()
    found: dict[int, str] = {}
    for listener in lab.world.elbv2.describe_listeners(LoadBalancerArn=balancer.arn)["Listeners"]:
        answer: Any = lab.world.elbv2.describe_listener_attributes(ListenerArn=listener["ListenerArn"])
        found[listener["Port"]] = {a["Key"]: a["Value"] for a in answer["Attributes"]}[KEY]
    return found


def set_by_hand(lab: Lab, port: int, value: str) -> None:
    (balancer,) = lab.world.load_balancers()
    listeners = lab.world.elbv2.describe_listeners(LoadBalancerArn=balancer.arn)["Listeners"]
    (arn,) = [x["ListenerArn"] for x in listeners if x["Port"] == port]
    lab.world.elbv2.modify_listener_attributes(ListenerArn=arn, Attributes=[{"Key": KEY, "Value": value}])


def assert_settled(lab: Lab, desired: LoadBalancer, *, reads: int) -> None:
    """`reads`: of attributes, by a new process."""
    assert lab.reconcile(desired).calls == {}
    lab.restart()
    again = lab.reconcile(desired)
    assert again.writes == {}
    assert again.calls.get(READ, 0) == reads


def test_they_come_change_and_go_back(lab: Lab, make_port: Callable[..., Listener]) -> None:
    ports = (make_port(80, 30080), make_port(443, 30443), make_port(53, 30053, "UDP"))
    lab.reconcile(lab.desired("other"))
    lab.delete(lab.desired("other").owner)
    plain = lab.reconcile(lab.desired("web", *ports))
    assert not plain.calls.keys() & {READ, WRITE}
    lab.delete(lab.desired().owner)
    asked = asking(lab, *ports, TCP_80=600)
    first = lab.reconcile(asked)
    assert first.notices == {}
    assert {op: n - plain.calls.get(op, 0) for op, n in first.calls.items() if n != plain.calls.get(op)} == {
        WRITE: 1
    }
    assert idle_s(lab) == {53: "350", 80: "600", 443: "350"}
    assert_settled(lab, asked, reads=2)
    other = asking(lab, *ports, TCP_80=60, TCP_443=6000)
    assert lab.reconcile(other).writes == {WRITE: 2}
    assert idle_s(lab) == {53: "350", 80: "60", 443: "6000"}
    one = asking(lab, *ports, TCP_443=6000)
    assert lab.reconcile(one).writes == {WRITE: 1}
    assert idle_s(lab) == {53: "350", 80: "350", 443: "6000"}
    assert_settled(lab, one, reads=2)
    assert lab.reconcile(lab.desired("web", *ports)).writes == {WRITE: 1, "RemoveTags": 1}
    assert set(idle_s(lab).values()) == {"350"}
    assert_settled(lab, lab.desired("web", *ports), reads=0)


def test_on_a_load_balancer_that_is_there(lab: Lab) -> None:
    lab.reconcile(lab.desired())
    asked = asking(lab, TCP_80=600)
    added = lab.reconcile(asked)
    assert added.calls == {"AddTags": 1, WRITE: 1}, "what we made ourselves is known"
    assert idle_s(lab) == {80: "600"}
    assert_settled(lab, asked, reads=1)


def test_a_port_that_moves(lab: Lab, make_port: Callable[..., Listener]) -> None:
    """Its listener does, with its attributes: they go back if they are not asked for under the new number."""
    lab.reconcile(asking(lab, TCP_80=600))
    moved = lab.reconcile(asking(lab, make_port(81, 30080), TCP_81=600))
    rules = {"AuthorizeSecurityGroupIngress": 1, "RevokeSecurityGroupIngress": 1}
    assert moved.writes == {"ModifyListener": 1, **rules}
    assert idle_s(lab) == {81: "600"}
    back = asking(lab, make_port(82, 30080))
    assert lab.reconcile(back).writes == {"ModifyListener": 1, WRITE: 1, "RemoveTags": 1, **rules}
    assert idle_s(lab) == {82: "350"}
    assert_settled(lab, back, reads=0)
    named = asking(lab, make_port(82, 30080), TCP_80=600)
    assert (
        "listener-attributes.TCP-80: there is no such listener"
        in lab.reconcile(named).notices["AnnotationsIgnored"]
    )
    assert idle_s(lab) == {82: "350"}


def test_a_port_that_goes(lab: Lab, make_port: Callable[..., Listener]) -> None:
    ports = (make_port(80, 30080), make_port(443, 30443))
    lab.reconcile(asking(lab, *ports, TCP_443=600))
    plain = lab.desired()
    assert lab.reconcile(plain).writes.keys() == {
        "DeleteListener",
        "RemoveTags",
        "DeleteTargetGroup",
        "RevokeSecurityGroupIngress",
    }
    assert_settled(lab, plain, reads=0)


def test_only_listeners_that_have_it(lab: Lab, make_port: Callable[..., Listener]) -> None:
    certificate = client(lab.server, "acm").request_certificate(DomainName="example.com")["CertificateArn"]
    ports = (
        make_port(443, 30443),
        make_port(53, 30053, "UDP"),
        make_port(5060, 30060),
        make_port(5060, 30060, "UDP"),
    )
    tls = {"ssl-cert": str(certificate), "ssl-ports": "443"}
    asked = asking(lab, *ports, more=tls, TLS_443=600, UDP_53=600, TCP_UDP_5060=600)
    result = lab.reconcile(asked)
    assert idle_s(lab) == {53: "350", 443: "350", 5060: "600"}
    said = result.notices["AnnotationsIgnored"]
    assert f"port 443: {KEY} cannot be had for TLS: it is 350 s, and cannot be changed" in said
    assert f"port 53: {KEY} cannot be had for UDP" in said
    assert_settled(lab, asked, reads=1)


def test_a_listener_that_turns_to_tls_and_back(lab: Lab, make_port: Callable[..., Listener]) -> None:
    certificate = client(lab.server, "acm").request_certificate(DomainName="example.com")["CertificateArn"]
    ports = (make_port(443, 30443),)
    asked = asking(lab, *ports, TCP_443=600)
    lab.reconcile(asked)
    lab.reconcile(asking(lab, *ports, more={"ssl-cert": str(certificate)}, TCP_443=600))
    lab.reconcile(asked)
    assert idle_s(lab) == {443: "600"}
    assert_settled(lab, asked, reads=1)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        pytest.param("TCP-80", f"{KEY}=30", f"{KEY}", id="too short"),
        pytest.param("TCP-80", f"{KEY}=6001", "a number from 60 to 6000", id="too long"),
        pytest.param("TCP-80", f"{KEY}=" + "9" * 5000, "a number from 60 to 6000", id="thousands of digits"),
        pytest.param("TCP-80", "routing.http.x=y", "routing.http.x", id="of another kind"),
        pytest.param("TCP-80", "600", "'600' is not of the form key=value", id="no pair"),
        pytest.param("80", f"{KEY}=600", "PROTOCOL-PORT, such as TCP-80", id="no protocol"),
        pytest.param("TCP-web", f"{KEY}=600", "PROTOCOL-PORT, such as TCP-80", id="no number"),
        pytest.param("TCP-81", f"{KEY}=600", "there is no such listener", id="no such port"),
        pytest.param("UDP-80", f"{KEY}=600", "there is no such listener", id="another protocol"),
    ],
)
def test_what_cannot_be_followed(lab: Lab, name: str, value: str, said: str) -> None:
    desired = asking(lab, more={f"listener-attributes.{name}": value})
    result = lab.reconcile(desired)
    assert said in result.notices["AnnotationsIgnored"]
    assert f"listener-attributes.{name}" in result.notices["AnnotationsIgnored"]
    assert idle_s(lab) == {80: "350"}
    assert_settled(lab, desired, reads=0)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("operation", [WRITE, "RemoveTags", "AddTags"])
@pytest.mark.parametrize("port", [80, 81])
def test_none_is_forgotten(
    lab: Lab, make_port: Callable[..., Listener], when: Literal["before", "after"], operation: str, port: int
) -> None:
    """Broken off around each call of its coming and going, in any process; also where the port moves."""
    plain = lab.desired("web", make_port(port, 30080))
    lab.reconcile(plain)
    before = lab.world.inventory()
    for desired in (asking(lab, TCP_80=600), plain):
        lab.server.fail(operation, "InvalidAction", when=when)
        with contextlib.suppress(ProviderError):
            lab.reconcile(desired)
        lab.restart()
    lab.server.control(reset=True)
    lab.reconcile(plain)
    assert lab.world.inventory() == before
    assert_settled(lab, plain, reads=0)


def test_what_others_set_stays_unless_it_is_asked_for(lab: Lab) -> None:
    lab.reconcile(lab.desired())
    set_by_hand(lab, 80, "900")
    lab.clock.now += 301
    assert lab.reconcile(lab.desired()).writes == {}
    asked = asking(lab, TCP_80=600)
    lab.reconcile(asked)
    set_by_hand(lab, 80, "900")
    lab.clock.now += 301
    assert lab.reconcile(asked).writes == {WRITE: 1}
    assert idle_s(lab) == {80: "600"}


def test_a_listener_that_somebody_made_is_not_touched(lab: Lab) -> None:
    lab.reconcile(asking(lab, TCP_80=600))
    (balancer,) = lab.world.load_balancers()
    (ours,) = lab.world.elbv2.describe_listeners(LoadBalancerArn=balancer.arn)["Listeners"]
    lab.world.elbv2.create_listener(
        LoadBalancerArn=balancer.arn, Port=9000, Protocol="TCP", DefaultActions=ours["DefaultActions"]
    )
    set_by_hand(lab, 9000, "900")
    lab.clock.now += 301
    assert lab.reconcile(asking(lab, TCP_80=600)).writes == {}
    lab.reconcile(lab.desired())
    assert idle_s(lab) == {80: "350", 9000: "900"}
    assert_settled(lab, lab.desired(), reads=0)


def test_what_aws_refuses_costs_the_attribute_alone(lab: Lab) -> None:
    asked = asking(lab, TCP_80=600)
    lab.server.fail(WRITE, "InvalidConfigurationRequest", times=1)
    result = lab.reconcile(asked)
    assert result.writes[WRITE] == 1
    again = lab.reconcile(asked)
    assert again.calls == {}
    assert f"aws-load-balancer-listener-attributes: {KEY}=600 (port 80)" in again.notices["AnnotationRefused"]
    lab.clock.now += REFUSED_S + 1
    assert lab.reconcile(asked).writes == {WRITE: 1}
    assert idle_s(lab) == {80: "600"}


def test_strict_rule(lab: Lab, make_port: Callable[..., Listener]) -> None:
    lab.reconcile(lab.desired("web", make_port(80, 30080), make_port(53, 30053, "UDP")))
    for port, value, code in (
        (80, "59", "ValidationError"),
        (80, "soon", "ValidationError"),
        (80, "6001", "ValidationError"),
        (53, "600", "InvalidConfigurationRequest"),
    ):
        with pytest.raises(ClientError) as caught:
            set_by_hand(lab, port, value)
        assert caught.value.response["Error"]["Code"] == code
    set_by_hand(lab, 80, "6000")
    assert idle_s(lab)[80] == "6000"
