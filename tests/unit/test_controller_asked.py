"""What all Services of ours ask for: known before any of them has had a turn."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from lbprov.api import ProviderSpec
from lbprov.controller.asked import Asked
from lbprov.logic.selection import Claimant, claim
from lbprov.model import ObjectKey, Service, ServicePort, ServiceType


def _never(_: Any) -> Any:
    raise AssertionError


SPEC = ProviderSpec("memory", "lbprov.io/memory", "", _never)
CLAIMANT = Claimant("memory", "lbprov.io/memory", own_classless=True)
WEB = Service(
    ObjectKey("default", "web"),
    "uid-web",
    type=ServiceType.LOAD_BALANCER,
    ports=(ServicePort(80, node_port=30080),),
    load_balancer_ip="203.0.113.10",
    created_at="2026-01-01T00:00:00Z",
)


def asked_of(*services: Service) -> Asked:
    asked = Asked("test", SPEC, CLAIMANT)
    asked.follow(lambda: services)
    return asked


def test_what_a_service_asks_for() -> None:
    (desired,) = asked_of(WEB)()
    assert desired.owner == ("test", WEB.key, "uid-web")
    assert (desired.requested_ip, desired.created_at) == ("203.0.113.10", "2026-01-01T00:00:00Z")


def test_nothing_is_known_before_there_is_anything_to_follow() -> None:
    assert Asked("test", SPEC, CLAIMANT)() == ()


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"type": ServiceType.NODE_PORT}, id="no load balancer"),
        pytest.param({"load_balancer_class": "example.com/other"}, id="another's class"),
        pytest.param({"deleted_at": "2026-01-02T00:00:00Z"}, id="being deleted"),
        pytest.param({"conditions": (claim(Claimant("other", "other.io/x")),)}, id="another's still"),
        pytest.param({"ports": (ServicePort(80),)}, id="cannot be served: no nodePort"),
    ],
)
def test_not_of_services_that_get_none_of_us(changes: dict[str, Any]) -> None:
    assert asked_of(replace(WEB, **changes))() == ()


def test_only_what_has_changed_is_read_anew() -> None:
    other = replace(WEB, key=ObjectKey("default", "other"), uid="uid-other")
    services = [WEB, other]
    asked = Asked("test", SPEC, CLAIMANT)
    asked.follow(lambda: services)
    before = {d.owner.uid: d for d in asked()}
    services[0] = replace(WEB, load_balancer_ip="203.0.113.11")
    after = {d.owner.uid: d for d in asked()}
    assert after["uid-other"] is before["uid-other"]
    assert after["uid-web"].requested_ip == "203.0.113.11"
    services.pop(0)
    assert [d.owner.uid for d in asked()] == ["uid-other"]
