"""A comparison put together on one control plane, and findings made small."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
import urllib.parse
from collections.abc import Iterator, Sequence
from pathlib import Path

from lbprov.lab.controlplane import ControlPlane
from lbprov.lab.controlplane.objects import add_node
from lbprov.lab.differential.case import NODES, ZONES, Case
from lbprov.lab.differential.compare import Comparer, Say, by_case
from lbprov.lab.differential.generate import simpler
from lbprov.lab.differential.world import Site, World

NAMESPACE = "differential"
_SHRINK_ROUNDS = 8
_FIRST_SHRUNK = 500  # numbers that no case of a run has


@contextlib.contextmanager
def opened(
    plane: ControlPlane,
    kube_proxy: Path,
    names: Sequence[str],
    say: Say = lambda _: None,
    *,
    thin: bool = False,
    variant: str = "default",
) -> Iterator[Comparer]:
    """`names`: of the worlds, some of `world.OURS` and of `world.THEIRS`. The control plane should have no
    Nodes of the names that ours have."""
    port = urllib.parse.urlsplit(plane.server).port
    assert port is not None
    plane.admin.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lbprov-differential-")))
        site = Site(plane.admin_kubeconfig, port, kube_proxy, folder, variant=variant)
        worlds = [stack.enter_context(World.open(name, site)) for name in names]
        for name in NODES:
            stack.callback(plane.admin.delete, "Node", name)
            add_node(plane.admin, name, ips=worlds[0].lab.hosts[name].ips, zone="not-yet")
        comparer = Comparer(plane.admin.in_namespace(NAMESPACE), worlds, say, thin=thin)
        stack.callback(comparer.close)
        # A kube-proxy that is just starting may miss its Node's zone for good; it does not miss a change.
        comparer.settle()
        for name in NODES:
            labels = {"topology.kubernetes.io/zone": ZONES[name]}
            plane.admin.patch("Node", name, {"metadata": {"labels": labels}})
        yield comparer


def shrunk(comparer: Comparer, case: Case) -> Case:
    """The simplest case found that still shows something; all simpler ones are tried at once."""
    comparer.ask_all()
    for _ in range(_SHRINK_ROUNDS):
        trials = [
            dataclasses.replace(simple, name=f"s-{number}", number=number)
            for number, simple in enumerate(simpler(case), _FIRST_SHRUNK)
        ][:150]
        failing = {found.name for found, _ in by_case(comparer.compare(trials).findings)} if trials else set()
        smaller = next((trial for trial in trials if trial.name in failing), None)
        if smaller is None:
            break
        case = dataclasses.replace(smaller, name=case.name)
    return case
