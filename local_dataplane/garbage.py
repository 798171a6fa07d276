"""Python's collector of cycles, in a process that loads hundreds of thousands of values that stay.

By default it would look through all of them again and again while they are being made (a sixth of a start's
CPU), and for some 50 ms at a time later, when a change is to be written at once.
"""

from __future__ import annotations

import gc

_AT_START, _LATER = (100_000, 20, 100), (10_000, 10, 10)
"""How many new values, how many collections of these, and so on: gc.set_threshold."""


def expect_much() -> None:
    """Before the first load."""
    gc.set_threshold(*_AT_START)


def settle() -> None:
    """After it: what is there stays, and is not looked at again. What goes is freed at once nevertheless, as
    long as it is in no cycle."""
    gc.collect(0)
    gc.freeze()
    gc.set_threshold(*_LATER)
