"""One node agent per network namespace: two would undo each other's rules for ever."""

from __future__ import annotations

import socket

from lbprov.model import UserError

# Names of this kind belong to a network namespace, need no file and go with the process, however it ends.
_NAME = "\0lbprov-node"


def claim() -> socket.socket:
    """Keep the socket for as long as the agent runs. Raises UserError where another one does."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(_NAME)
    except OSError as error:
        sock.close()
        raise UserError("lbprov node is already running here: stop it first (rules stay in place)") from error
    return sock
