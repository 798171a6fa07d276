"""A signal at any moment is heard: also in the middle of a wait for it."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from lbprov.cli import signals
from lbprov.cli.signals import NUMBERS, stopping


def test_whenever_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The handler runs in this thread, which does nothing but take and give back the Event's lock. The
    kernel's timer, unlike a thread that sends a signal, is not in step with it."""
    monkeypatch.setattr(signals, "NUMBERS", (signal.SIGALRM,))
    for number in range(400):
        with stopping() as stop:
            signal.setitimer(signal.ITIMER_REAL, 50e-6 * (1 + number % 17))
            while not stop.wait(0):
                pass


@pytest.mark.parametrize("number", NUMBERS)
def test_the_second_one_has_its_usual_effect(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stopping() as stop:
        assert signal.getsignal(number) != before
        os.kill(os.getpid(), number)
        assert stop.wait(30)
        assert signal.getsignal(number) == before


def test_without_a_signal_nothing_is_left() -> None:
    threads = threading.active_count()
    before = [signal.getsignal(number) for number in NUMBERS]
    with stopping() as stop:
        assert threading.active_count() == threads + 1
    assert not stop.is_set()
    assert threading.active_count() == threads
    assert [signal.getsignal(number) for number in NUMBERS] == before
