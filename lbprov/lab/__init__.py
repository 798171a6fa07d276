"""A small network on this machine: nodes, pods and clients in namespaces of their own, with or without root.

The demo, the packet tests and the benchmarks all run in it. Nothing of the machine's own network is touched,
and everything is gone when the lab closes or its process dies, however it dies. Start at `Lab.open`.
"""

from lbprov.lab.holder import LabProcess
from lbprov.lab.host import Host
from lbprov.lab.network import LAN, LAN6, Lab, NodeHost, PodHost
from lbprov.lab.probes import Answer, Broken, Probe, Refused, Reply, TimedOut, Unreachable

__all__ = [
    "LAN",
    "LAN6",
    "Answer",
    "Broken",
    "Host",
    "Lab",
    "LabProcess",
    "NodeHost",
    "PodHost",
    "Probe",
    "Refused",
    "Reply",
    "TimedOut",
    "Unreachable",
]
