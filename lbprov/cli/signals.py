"""How a command that runs for long is asked to end."""

from __future__ import annotations

import contextlib
import queue
import signal
import threading
from collections.abc import Iterator

NUMBERS = (signal.SIGTERM, signal.SIGINT)


@contextlib.contextmanager
def stopping() -> Iterator[threading.Event]:
    """An Event, set by the first SIGTERM or SIGINT: what has begun is ended. The second one ends the process.

    A signal handler runs between any two steps of the main thread, which may at that moment hold the Event's
    own lock (it waits for it): to set the Event there would wait for ever. So the handler only puts a word
    into a SimpleQueue, which is made for that (its put is reentrant), and a thread sets the Event.
    """
    stop = threading.Event()
    asked: queue.SimpleQueue[bool] = queue.SimpleQueue()
    before = {number: signal.getsignal(number) or signal.SIG_DFL for number in NUMBERS}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def ask(*_: object) -> None:
        asked.put(True)
        restore()

    def listen() -> None:
        if asked.get():
            stop.set()

    listener = threading.Thread(target=listen, name="signals", daemon=True)
    listener.start()
    for number in NUMBERS:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        restore()
        asked.put(False)
        listener.join()
