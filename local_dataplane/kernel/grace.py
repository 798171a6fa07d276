"""Waits until packets that are under way have left rules that were just changed."""

from __future__ import annotations

import ctypes
import platform
import time

_MEMBARRIER = {"x86_64": 324, "aarch64": 283}
_CMD_GLOBAL = 1
_LONG_S = 0.1
"""Far more than a packet takes, even on a machine that is stopped for a moment."""


def packets_have_left() -> bool:
    """Returns when every packet has gone on that was in a chain at the time of the call. Packets are handled
    in RCU read-side critical sections, and a membarrier of all threads waits for the end of those that have
    begun (membarrier(2), `MEMBARRIER_CMD_GLOBAL`). False where the kernel has none: a moment has passed."""
    time.sleep(_LONG_S)
    number = _MEMBARRIER.get(platform.machine())
    return number is not None and ctypes.CDLL(None).syscall(number, _CMD_GLOBAL, 0, 0) == 0
