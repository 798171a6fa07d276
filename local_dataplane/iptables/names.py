"""Names of our chains: pure functions of what the chain is for, so that a restart finds its own.

A name is at most 28 characters (XT_EXTENSION_MAXNAMELEN) and begins with `LBP-`; nothing of ours is named
otherwise, nothing of others' is touched.
"""

from __future__ import annotations

import base64
import functools
import hashlib

from lbprov.model import L4Protocol
from local_dataplane.endpoints import Backend
from local_dataplane.table import PortKey

PREFIX = "LBP-"
MAX_LENGTH = 28

# The fixed chains. nat:
SERVICES = "LBP-SERVICES"  # from PREROUTING and OUTPUT: find the frontend
NODEPORTS = "LBP-NODEPORTS"  # destination is this node: find the NodePort
POSTROUTING = "LBP-POSTROUTING"  # from POSTROUTING: masquerade what is marked, and hairpins
HAIRPIN = "LBP-HAIRPIN"  # find out whether a Pod is talking to itself
MASQUERADE = "LBP-MASQUERADE"
MARK_MASQUERADE = "LBP-MARK-MASQ"
REFUSE = "LBP-REFUSE"  # nat: mark it for refusal; filter: refuse it
DROP = "LBP-DROP"  # nat: mark it for dropping
# filter:
FILTER = "LBP-FILTER"  # from INPUT and OUTPUT
FORWARD = "LBP-FORWARD"  # from FORWARD
HEALTH = "LBP-HEALTH"  # from FILTER, where there are any: health checks of Services are let in

FIXED = frozenset({MASQUERADE, MARK_MASQUERADE, REFUSE, DROP})
"""Those that no Service changes and that lead to no chain that one does."""


def _digest(text: str, length: int = 16) -> str:
    enough = hashlib.sha256(text.encode()).digest()[: (length * 5 + 7) // 8]
    return base64.b32encode(enough).decode()[:length]


@functools.lru_cache(maxsize=65536)
def _port_digest(key: PortKey) -> str:
    return _digest(f"{key.service.namespace}/{key.service.name}:{key.port_name}/{key.protocol}")


def cluster_chain(key: PortKey) -> str:
    """Chooses among the endpoints of all nodes."""
    return f"LBP-SVC-{_port_digest(key)}"


def local_chain(key: PortKey) -> str:
    """Chooses among the endpoints of this node."""
    return f"LBP-SVL-{_port_digest(key)}"


def external_chain(key: PortKey) -> str:
    """Takes what comes by NodePort, externalIP or load balancer."""
    return f"LBP-EXT-{_port_digest(key)}"


def firewall_chain(key: PortKey) -> str:
    """Lets the load balancer's source ranges through."""
    return f"LBP-FWL-{_port_digest(key)}"


def affinity_chain(key: PortKey, backend: Backend) -> str:
    """Sends to one endpoint and remembers the client; also the name of the list it is remembered in."""
    return f"LBP-SEP-{_digest(f'{_port_digest(key)} {backend.address} {backend.port}')}"


def group_chain(parent: str, branch: int) -> str:
    """A part of a long choice; its parent is a service chain or another group (three levels at most)."""
    return f"{parent}-{branch}" if parent.count("-") == 2 else f"{parent}{branch}"


def tree_chain(kind: str, prefix: int, length: int, bits: int) -> str:
    """A node of a tree over addresses. `kind` has two letters. 128 bits do not fit and are hashed."""
    text = f"{prefix:0{bits // 4}X}"
    return f"LBP-{kind}-{text if bits <= 32 else _digest(text)}-{length}"


def port_tree_chain(owner: str, protocol: L4Protocol, prefix: int, length: int) -> str:
    """A node of a tree over ports; `owner` is `NP` or a chain made by `address_chain`."""
    return f"{owner}-{protocol[0]}{prefix:04X}-{length}"


def address_chain(address: int, bits: int) -> str:
    """The ports of an address that has many. At most 19 characters: its tree's names are longer."""
    text = f"{address:0{bits // 4}X}"
    return f"LBP-AD-{text if bits <= 32 else _digest(text, 12)}"


NODEPORT_OWNER = "LBP-NP"
