"""Rules of listeners."""

from __future__ import annotations

from moto.elbv2.models import FakeAction

from lbprov.lab.aws.call import Call, Refusal
from lbprov.lab.aws.defaults import OF_LISTENER
from lbprov.lab.aws.rule import API, GUIDE, Replay, elbv2, rule
from lbprov.lab.aws.rules_tls import check_families, check_tls, speak


@rule("one listener per port", API.format("CreateListener"), "CreateListener")
def _listener_port(call: Call) -> Replay | None:
    balancer = elbv2(call).load_balancers.get(call.get("LoadBalancerArn"))
    if balancer is None:
        return None
    same = next((x for x in balancer.listeners.values() if str(x.port) == call.get("Port")), None)
    if same is None:
        return None
    target_group = call.get("DefaultActions.member.1.TargetGroupArn")
    if (
        same.protocol == call.get("Protocol")
        and same.default_actions[0].data.get("TargetGroupArn") == target_group
    ):
        return Replay("DescribeListeners", {"ListenerArns.member.1": same.arn})
    raise Refusal("DuplicateListener", "A listener already exists on this port for this load balancer")


_FITTING = {
    "TCP": {"TCP", "TCP_UDP"},
    "TLS": {"TCP", "TLS"},
    "UDP": {"UDP", "TCP_UDP"},
    "TCP_UDP": {"TCP_UDP"},
}


@rule("listener protocols", GUIDE.format("load-balancer-listeners"), "CreateListener")
def _listener_protocol(call: Call) -> None:
    group = elbv2(call).target_groups.get(call.get("DefaultActions.member.1.TargetGroupArn"))
    protocol = call.get("Protocol")
    if group is not None and protocol in _FITTING and group.protocol not in _FITTING[protocol]:
        raise Refusal(
            "IncompatibleProtocols",
            f"A listener for {protocol} cannot use a target group for {group.protocol}",
        )


@rule(
    "a target group serves one Network Load Balancer",
    GUIDE.format("load-balancer-target-groups"),
    "CreateListener",
    "ModifyListener",
)
def _one_balancer_per_group(call: Call) -> None:
    arn = call.get("DefaultActions.member.1.TargetGroupArn")
    mine = call.get("LoadBalancerArn") or call.get("ListenerArn").replace(":listener/", ":loadbalancer/")
    for balancer in elbv2(call).load_balancers.values():
        if balancer.type != "network" or mine.startswith(balancer.arn):
            continue
        for listener in balancer.listeners.values():
            if any(action.data.get("TargetGroupArn") == arn for action in listener.default_actions):
                raise Refusal(
                    "TargetGroupAssociationLimit",
                    "The target group is already associated with another load balancer",
                )


_WITH_IDLE_TIMEOUT = ("TCP", "TCP_UDP")
"""TLS listeners have 350 s for ever ("Update the TCP idle timeout for your Network Load Balancer listener").
Of TCP_UDP the guide says nothing; that AWS takes it: hashicorp/terraform-provider-aws#50100."""


@rule("attributes of listeners", GUIDE.format("update-idle-timeout"), "ModifyListenerAttributes")
def _listener_attributes(call: Call) -> None:
    balancers = elbv2(call).load_balancers.values()
    arn = call.get("ListenerArn")
    listener = next((b.listeners[arn] for b in balancers if arn in b.listeners), None)
    if listener is None:
        raise Refusal("ListenerNotFound", "One or more listeners not found")
    for attribute in call.structs("Attributes.member"):
        key, value = attribute["Key"], attribute.get("Value", "")
        if key not in OF_LISTENER or listener.protocol not in _WITH_IDLE_TIMEOUT:
            raise Refusal(
                "InvalidConfigurationRequest",
                f"Listener attribute key '{key}' is not supported on {listener.protocol} listeners",
            )
        if not value.isdecimal() or not 60 <= int(value) <= 6000:
            raise Refusal("ValidationError", f"'{key}' must be from 60 to 6000, and not '{value}'")


@rule("listeners change", API.format("ModifyListener"), "ModifyListener")
def _modify_listener(call: Call) -> Replay | None:
    """moto knows no Network Load Balancer's protocol here, and keeps the port unchecked."""
    backend = elbv2(call)
    arn = call.get("ListenerArn")
    balancer = next((b for b in backend.load_balancers.values() if arn in b.listeners), None)
    if balancer is None:
        raise Refusal("ListenerNotFound", "One or more listeners not found")
    listener = balancer.listeners[arn]
    becomes = call.get("Protocol") or listener.protocol
    check_tls(call, becomes, changed_to=becomes != listener.protocol)
    check_families(balancer.ip_address_type, becomes)
    if port := call.get("Port"):
        if any(str(x.port) == port for x in balancer.listeners.values() if x is not listener):
            raise Refusal(
                "DuplicateListener", "A listener already exists on this port for this load balancer"
            )
        listener.port = port
    if protocol := call.get("Protocol"):
        listener.protocol = protocol
    speak(listener, call)
    if group := call.get("DefaultActions.member.1.TargetGroupArn"):
        if group not in backend.target_groups:
            raise Refusal("TargetGroupNotFound", "One or more target groups not found")
        listener.default_actions = [FakeAction({"Type": "forward", "TargetGroupArn": group})]
        listener._default_rule[0].actions = listener.default_actions
    return Replay("DescribeListeners", {"ListenerArns.member.1": arn})
