"""The provider `memory` as a plugin, so that a controller in a process of its own can be given it.

Found by its entry point when this folder is on PYTHONPATH. `LBPROV_TEST_WORLD` is the socket of a world that
the test keeps; without it the world is in the process and dies with it. `LBPROV_TEST_NO_NODE_PORTS` lets it
serve Services without nodePorts, of which there are but 2768 in a cluster.
"""

import os
import time
from dataclasses import replace
from typing import Any

from lbprov.testing.memory import spec_for
from lbprov.testing.memory_remote import RemoteWorld
from lbprov.testing.memory_world import MemoryWorld

_socket = os.environ.get("LBPROV_TEST_WORLD", "")
_world: Any = RemoteWorld(_socket) if _socket else MemoryWorld(time.monotonic)

SPEC = replace(spec_for(_world), needs_node_ports="LBPROV_TEST_NO_NODE_PORTS" not in os.environ)
