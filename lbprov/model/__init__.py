"""Frozen values in Kubernetes' own terms. Imports nothing of ours, does no IO."""

from lbprov.model.endpoints import Endpoint, EndpointPort, EndpointSlice, Pod
from lbprov.model.errors import LbprovError, ProviderError, RetryLater, UserError
from lbprov.model.loadbalancer import Adopt, Listener, LoadBalancer, Owner, Replace, Target
from lbprov.model.node import ZONE_LABEL, Node, NodeAddress, Taint
from lbprov.model.outcome import Event, Outcome, Result
from lbprov.model.plan import Action, Bindings, Change, Notice, Plan, Severity, Step
from lbprov.model.service import (
    Condition,
    Ingress,
    IPFamily,
    IPMode,
    L4Protocol,
    ObjectKey,
    Service,
    ServicePort,
    ServiceType,
    SessionAffinity,
    TrafficPolicy,
)

__all__ = [
    "ZONE_LABEL",
    "Action",
    "Adopt",
    "Bindings",
    "Change",
    "Condition",
    "Endpoint",
    "EndpointPort",
    "EndpointSlice",
    "Event",
    "IPFamily",
    "IPMode",
    "Ingress",
    "L4Protocol",
    "LbprovError",
    "Listener",
    "LoadBalancer",
    "Node",
    "NodeAddress",
    "Notice",
    "ObjectKey",
    "Outcome",
    "Owner",
    "Plan",
    "Pod",
    "ProviderError",
    "Replace",
    "Result",
    "RetryLater",
    "Service",
    "ServicePort",
    "ServiceType",
    "SessionAffinity",
    "Severity",
    "Step",
    "Taint",
    "Target",
    "TrafficPolicy",
    "UserError",
]
