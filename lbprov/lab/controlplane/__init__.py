"""A real Kubernetes control plane on this machine. Start at `ControlPlane.open`; `Api` talks to it."""

from lbprov.lab.controlplane.api import Api, ApiError, Object, eventually
from lbprov.lab.controlplane.audit import ApiCall
from lbprov.lab.controlplane.binaries import CONTROL_PLANE, programs
from lbprov.lab.controlplane.daemon import Daemon
from lbprov.lab.controlplane.plane import SERVICE_CIDRS, ControlPlane
from lbprov.lab.controlplane.relay import Asked, Fault, Relay

__all__ = [
    "CONTROL_PLANE",
    "SERVICE_CIDRS",
    "Api",
    "ApiCall",
    "ApiError",
    "Asked",
    "ControlPlane",
    "Daemon",
    "Fault",
    "Object",
    "Relay",
    "eventually",
    "programs",
]
