"""Leader election on a real API server: as the shipped ServiceAccount, through ends, freezes, outages."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lbprov.cluster.apiserver import ApiCluster, LeaderElector
from lbprov.cluster.apiserver.memo import LeaseMemo
from lbprov.lab.controlplane import Api, ControlPlane, Fault, Relay, eventually

NAME, NAMESPACE = "lbprov-controller", "lbprov-system"
QUICK = {"duration_s": 8.0, "renew_deadline_s": 6.0, "retry_period_s": 0.5}
LONG = {"duration_s": 300.0, "renew_deadline_s": 200.0, "retry_period_s": 0.5}
"""What is seen long before its end was not waited out."""


class _Replica:
    def __init__(self, kubeconfig: Path, identity: str, timing: dict[str, float] = QUICK) -> None:
        self.cluster = ApiCluster.connect(kubeconfig, None, "test")
        self.elector: LeaderElector = self.cluster.elector("", NAME, identity, **timing)
        self.said: list[str] = []
        self.thread = threading.Thread(
            target=self.elector.run,
            args=(lambda: self.said.append("started"), lambda: self.said.append("stopped")),
            daemon=True,
        )
        self.thread.start()


@pytest.fixture
def replicas() -> Iterator[list[_Replica]]:
    made: list[_Replica] = []
    yield made
    for replica in made:
        replica.elector.release()


@pytest.fixture
def kubeconfig(control_plane: ControlPlane, controller_kubeconfig: Path) -> Path:
    """And no lease of an earlier test."""
    control_plane.admin.delete("Lease.coordination.k8s.io", NAME, NAMESPACE)
    return controller_kubeconfig


def _lease(control_plane: ControlPlane) -> dict[str, object]:
    spec: dict[str, object] = control_plane.admin.get("Lease.coordination.k8s.io", NAME, NAMESPACE)["spec"]
    return spec


def test_two_replicas_switch_over_at_once_on_a_clean_end(
    control_plane: ControlPlane, kubeconfig: Path, replicas: list[_Replica]
) -> None:
    first = _Replica(kubeconfig, "one", LONG)
    replicas.append(first)
    eventually(first.elector.is_leader)
    second = _Replica(kubeconfig, "two", LONG)
    replicas.append(second)
    time.sleep(1.5)
    assert (first.said, second.said) == (["started"], [])
    eventually(lambda: second.elector.holder == "one")
    spec = _lease(control_plane)
    assert (spec["holderIdentity"], spec["leaseDurationSeconds"], spec["leaseTransitions"]) == ("one", 300, 0)
    first.elector.release()
    eventually(second.elector.is_leader)
    assert first.said == ["started", "stopped"]
    spec = _lease(control_plane)
    assert (spec["holderIdentity"], spec["leaseTransitions"]) == ("two", 1)


def test_what_others_put_on_the_lease_stays(
    control_plane: ControlPlane, kubeconfig: Path, replicas: list[_Replica]
) -> None:
    replicas.append(_Replica(kubeconfig, "one"))
    eventually(replicas[0].elector.is_leader)
    label = {"metadata": {"labels": {"team": "net"}}}
    control_plane.admin.patch("Lease.coordination.k8s.io", NAME, label, NAMESPACE)
    renewed = _lease(control_plane)["renewTime"]
    eventually(lambda: _lease(control_plane)["renewTime"] != renewed)
    assert replicas[0].elector.is_leader()
    kept = control_plane.admin.get("Lease.coordination.k8s.io", NAME, NAMESPACE)["metadata"]["labels"]
    assert kept == {"team": "net"}
    assert replicas[0].said == ["started"]


def test_a_memo_goes_from_leader_to_leader(
    control_plane: ControlPlane, kubeconfig: Path, replicas: list[_Replica]
) -> None:
    """Beside what others have put there."""

    def leads_and_says(identity: str, word: str) -> tuple[str, LeaseMemo]:
        replica = _Replica(kubeconfig, identity, LONG)
        replicas.append(replica)
        eventually(replica.elector.is_leader)
        memo = replica.elector.memo()
        found = memo.begin(lambda: word)
        memo.flush()
        return found, memo

    def annotations() -> dict[str, str]:
        found: dict[str, str] = control_plane.admin.get("Lease.coordination.k8s.io", NAME, NAMESPACE)[
            "metadata"
        ].get("annotations", {})
        return found

    found, memo = leads_and_says("one", "first")
    assert (found, annotations()) == ("", {"lbprov.io/memo": "0:first"})
    note = {"metadata": {"annotations": {"team": "net"}}}
    control_plane.admin.patch("Lease.coordination.k8s.io", NAME, note, NAMESPACE)
    memo.flush()
    replicas[0].elector.release()
    found, _ = leads_and_says("two", "second")
    assert (found, annotations()) == ("first", {"lbprov.io/memo": "1:second", "team": "net"})


def test_an_outage_costs_leadership_once_and_gives_it_back(
    control_plane: ControlPlane, installed: str, kubeconfig: Path, relay: Relay, replicas: list[_Replica]
) -> None:
    """Never answering is the worst of it: no request may outlast the deadline."""
    path = control_plane.kubeconfig(installed, "lbprov-controller", relay.server)
    replica = _Replica(path, "one")
    replicas.append(replica)
    eventually(replica.elector.is_leader)
    relay.break_down(Fault("hang"))
    eventually(lambda: replica.said == ["started", "stopped"])
    assert not replica.elector.is_leader()
    relay.recover()
    eventually(lambda: replica.said == ["started", "stopped", "started"])


def test_a_slow_api_server_costs_nothing(
    control_plane: ControlPlane, installed: str, kubeconfig: Path, relay: Relay, replicas: list[_Replica]
) -> None:
    path = control_plane.kubeconfig(installed, "lbprov-controller", relay.server)
    replica = _Replica(path, "one")
    replicas.append(replica)
    eventually(replica.elector.is_leader)
    relay.break_down(Fault("delay", delay_s=0.8))
    time.sleep(6)
    assert replica.said == ["started"]


FROZEN = """
import sys, threading, time
from pathlib import Path
from lbprov.cluster.apiserver import ApiCluster
kubeconfig, log = Path(sys.argv[1]), open(sys.argv[2], "w", buffering=1)
cluster = ApiCluster.connect(kubeconfig, None, "test")
elector = cluster.elector("", sys.argv[3], "frozen", duration_s=8.0, renew_deadline_s=6.0, retry_period_s=0.5)
threading.Thread(target=elector.run, args=(lambda: None, lambda: None), daemon=True).start()
while True:
    # What a worker does: ask, and write at once.
    if elector.is_leader():
        print(time.clock_gettime(time.CLOCK_BOOTTIME), file=log)
    time.sleep(0.005)
"""


def test_a_leader_that_was_frozen_writes_nothing_when_it_thaws(
    kubeconfig: Path, replicas: list[_Replica], tmp_path: Path
) -> None:
    log = tmp_path / "writes"
    frozen = subprocess.Popen([sys.executable, "-c", FROZEN, kubeconfig, log, NAME])
    try:
        eventually(lambda: log.exists() and log.stat().st_size)
        second = _Replica(kubeconfig, "two")
        replicas.append(second)
        time.sleep(1)
        os.kill(frozen.pid, signal.SIGSTOP)
        eventually(second.elector.is_leader)
        led_s = time.clock_gettime(time.CLOCK_BOOTTIME)
        written = log.stat().st_size
        os.kill(frozen.pid, signal.SIGCONT)
        time.sleep(2)
        assert log.stat().st_size == written, "not one write after the thaw"
        assert float(log.read_text().split()[-1]) < led_s
        assert second.said == ["started"]
        second.elector.release()
        eventually(lambda: log.stat().st_size > written)  # it is well, and may lead again
    finally:
        frozen.kill()
        frozen.wait()


def test_a_lease_that_may_not_be_touched_is_told_and_tried_again(
    api: Api, control_plane: ControlPlane, replicas: list[_Replica], caplog: pytest.LogCaptureFixture
) -> None:
    replica = _Replica(control_plane.kubeconfig(api.namespace, "default"), "one")
    replicas.append(replica)
    eventually(lambda: 'cannot get resource "leases"' in caplog.text)
    assert not replica.elector.is_leader()
    assert replica.thread.is_alive()
