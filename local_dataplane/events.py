"""Every Event that a node agent emits."""

from __future__ import annotations

from enum import StrEnum

from lbprov.model import Severity


class Reason(StrEnum):
    NOT_FORWARDED = "ServiceNotForwarded"
    FORWARDED = "ServiceForwarded"
    CLAIMED_TWICE = "AddressClaimedTwice"
    NO_HEALTH_CHECK = "FailedToStartServiceHealthcheck"  # kube-proxy's
    FORWARDING_FAILED = "ForwardingFailed"


EXPLAINED: dict[str, tuple[Severity, str]] = {
    Reason.NOT_FORWARDED: (
        Severity.WARNING,
        "On the node that the message names, the kernel refuses the rules of one of the Service's ports, in "
        "the words that follow; usually a module is missing. All other ports are forwarded. It is tried "
        "again every minute, and when the Service changes.",
    ),
    Reason.FORWARDED: (Severity.NORMAL, "What that node's kernel had refused is forwarded now."),
    Reason.CLAIMED_TWICE: (
        Severity.WARNING,
        "Another Service has the same address and port, and goes before this one. Give one of them another "
        "`spec.externalIPs`, or another port. Nodes where this Service has an endpoint tell it.",
    ),
    Reason.NO_HEALTH_CHECK: (
        Severity.WARNING,
        "`spec.healthCheckNodePort` cannot be opened on the node that the message names: another program has "
        "it, most likely. Load balancers will take the node for unhealthy. It is tried again all the time.",
    ),
    Reason.FORWARDING_FAILED: (
        Severity.WARNING,
        "On a Node: no rules can be written there, for the reason that the message names. What was forwarded "
        "before still is; changes do not reach it.",
    ),
}
