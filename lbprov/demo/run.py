"""The whole demo: set the scene, carry the steps out, take everything away again."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from lbprov.demo.cloud import Cloud, need_moto
from lbprov.demo.cluster import DemoCluster
from lbprov.demo.show import DoesNotHoldError, Show
from lbprov.demo.stage import Stage
from lbprov.demo.steps import STEPS, DemoStep
from lbprov.lab import Lab
from lbprov.lab.requirements import OF_THE_LAB, need_programs

NODES = ("node-1", "node-2", "node-3")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class EndedBySignal(BaseException):
    """A signal asks the demo to end: Ctrl-C, a terminal that is closed, a supervisor."""

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by {signal.Signals(number).name}")
        self.exit_code = 128 + number  # as shells have it


def run(show: Show, steps: Sequence[DemoStep] = STEPS) -> int:
    """Returns the exit code: 0 every step holds, 1 one does not, 128 + n signal n. Raises UserError where the
    demo cannot be. Whatever happens, everything that was made is gone when it ends."""
    need_programs([*OF_THE_LAB, "iptables", "iptables-restore", "ip6tables-restore"])
    need_moto()
    try:
        with _without_settings(), _signals_raise():
            _run(show, steps)
    except DoesNotHoldError:
        show.end()
        return 1
    except EndedBySignal as ended:
        show.end(str(ended))
        return ended.exit_code
    show.end()
    return 0


def _run(show: Show, steps: Sequence[DemoStep]) -> None:
    show.title("lbprov demo: one web server behind every kind of Service, on this machine")
    folder = Path(_temporary_folder(), f"lbprov-demo-{secrets.token_hex(8)}")
    with contextlib.ExitStack() as scene:
        scene.callback(shutil.rmtree, folder, ignore_errors=True)  # before it is there: no gap for a signal
        try:
            folder.mkdir(mode=0o700)
            lab = scene.enter_context(Lab.open())
            with show.step(0, "The scene"), show.waiting("setting it up"):
                stage = _set_up(scene, lab, folder, show)
            for number, step in enumerate(steps, 1):
                with show.step(number, step.title):
                    step.act(stage)
        finally:
            _ignore_signals()  # everything is being taken away: a Ctrl-C changes nothing now


def _temporary_folder() -> str:
    """tempfile tries folders by writing a file into them: not to be ended in the middle of that."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        return tempfile.gettempdir()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _set_up(scene: contextlib.ExitStack, lab: Lab, folder: Path, show: Show) -> Stage:
    cloud = Cloud(NODES)
    scene.callback(cloud.stop)
    cloud.start()
    for name in NODES:
        lab.add_node(name)
    outside = lab.add_client("outside")
    cluster = DemoCluster(lab, folder)
    cluster.agents.start(lab.nodes, cluster.folder)
    cluster.refresh()
    show.say(f"{', '.join(NODES)}, each with a node agent; a client outside of the cluster; an AWS of moto.")
    return Stage(show, cluster, cloud, outside)


@contextlib.contextmanager
def _without_settings() -> Iterator[None]:
    """What the user has set for AWS (a profile) and for lbprov is for the user's own clusters: neither this
    process nor those that it starts see it in the block."""
    hidden = {k: v for k, v in os.environ.items() if k.startswith(("AWS_", "LBPROV_"))}
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)


@contextlib.contextmanager
def _signals_raise() -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP raise EndedBySignal in the block, wherever it is. After the first one all
    stay ignored: the process is about to end, and whoever holds Ctrl-C down gets the same exit code."""

    def end(number: int, _frame: FrameType | None) -> None:
        _ignore_signals()
        raise EndedBySignal(number)

    before = {number: signal.signal(number, end) for number in SIGNALS}
    try:
        yield
    except EndedBySignal:
        raise
    except BaseException:
        _restore(before)
        raise
    else:
        _restore(before)


def _ignore_signals() -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _restore(handlers: Mapping[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
