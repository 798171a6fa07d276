"""A lab leaves nothing behind, however its process ends, and touches nothing of the machine's."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import lbprov
from lbprov.lab import Lab

# A lab with everything that could outlive it: servers, probers, a program that ignores polite signals.
OWNER = """
import sys, time
from lbprov.lab import Lab, Reply
with Lab.open() as lab:
    node = lab.add_node("node-1")
    pod = lab.add_pod("pod-1", node)
    pod.serve(http=80)
    assert isinstance(node.http_get(pod.ipv4, 80), Reply)
    node.popen(["sh", "-c", "trap '' TERM HUP INT PIPE; sleep 1000; sleep 1000"])
    print(lab._holder.pid, flush=True)
    time.sleep(float(sys.argv[1]))
"""


def _in_namespace(inode: str) -> list[str]:
    """What runs in a pid namespace, or waits outside for something that does."""
    found = []
    for proc in Path("/proc").iterdir():
        if proc.name.isdigit():
            try:
                if str((proc / "ns/pid").readlink()) == inode or inode in str(
                    (proc / "ns/pid_for_children").readlink()
                ):
                    found.append((proc / "cmdline").read_text().replace("\0", " "))
            except OSError:
                continue
    return found


def _wait_until_gone(inode: str) -> None:
    deadline = time.monotonic() + 10
    while left := _in_namespace(inode):
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.02)


def _start_owner(seconds: float) -> tuple[subprocess.Popen[str], str]:
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(seconds)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    holder_pid = owner.stdout.readline().strip()
    assert holder_pid, "the owner did not get its lab up"
    return owner, str(Path(f"/proc/{holder_pid}/ns/pid").readlink())


@pytest.mark.parametrize(
    ("sig", "exit_code"),
    [
        pytest.param(signal.SIGKILL, -signal.SIGKILL, id="kill-9"),
        pytest.param(signal.SIGTERM, -signal.SIGTERM, id="sigterm-unhandled"),
        pytest.param(signal.SIGINT, -signal.SIGINT, id="ctrl-c"),
    ],
)
def test_everything_is_gone_when_the_owner_is_killed(sig: signal.Signals, exit_code: int) -> None:
    owner, inode = _start_owner(60)
    with owner:
        assert len(_in_namespace(inode)) >= 6
        owner.send_signal(sig)
        assert owner.wait(timeout=60) == exit_code
    _wait_until_gone(inode)


def test_everything_is_gone_when_the_lab_closes() -> None:
    owner, inode = _start_owner(0)
    with owner:
        assert owner.wait(timeout=60) == 0
    assert _in_namespace(inode) == []


def test_an_error_in_the_block_closes_the_lab_too() -> None:
    with pytest.raises(ZeroDivisionError), Lab.open() as lab:  # noqa: PT012
        inode = str(Path(f"/proc/{lab._holder.pid}/ns/pid").readlink())
        lab.add_node("node-1").popen(["sleep", "1000"])
        1 / 0  # noqa: B018
    assert _in_namespace(inode) == []


def _network_of_the_machine() -> str:
    commands = ("ip -o link", "ip -o address", "ip route show table all", "ip netns", "ip rule")
    told = [subprocess.run(c.split(), capture_output=True, text=True, check=True).stdout for c in commands]
    sysctls = ("ipv4/ip_forward", "ipv4/conf/all/rp_filter", "ipv6/conf/all/accept_dad")
    told += [Path("/proc/sys/net", name).read_text() for name in sysctls]
    told.append(Path("/proc/self/mountinfo").read_text())
    return "\n".join(told)


def test_the_network_of_the_machine_is_not_touched() -> None:
    before = _network_of_the_machine()
    with Lab.open() as lab:
        lab.add_pod("pod-1", lab.add_node("node-1"))
        lab.add_client("client")
        assert _network_of_the_machine() == before
    assert _network_of_the_machine() == before


@pytest.fixture
def readable_copy() -> Iterator[Path]:
    """The lab's code where an ordinary user can read it, whoever owns the checkout."""
    folder = Path(tempfile.mkdtemp(prefix="lbprov-test-"))
    package = Path(lbprov.__file__).parent
    for name in ("__init__.py", "lab", "model"):
        source, target = package / name, folder / "lbprov" / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "aws"))
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    subprocess.run(["chmod", "-R", "a+rX", str(folder)], check=True)
    yield folder
    shutil.rmtree(folder)


def test_an_ordinary_user_needs_no_root(readable_copy: Path) -> None:
    """As root: become nobody, with a Python that nobody may run. An ordinary user: just ourselves."""
    python, prefix = sys.executable, []
    if os.geteuid() == 0:
        prefix = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all"]
        usable = [*prefix, "env", python, "-c", ""]  # env runs after the rights are gone
        if subprocess.run(usable, capture_output=True).returncode:
            python = "/usr/bin/python3"
    owner = [*prefix, "env", "-C", "/", f"PYTHONPATH={readable_copy}", "PATH=/usr/bin:/bin", python, "-c"]
    done = subprocess.run([*owner, OWNER, "0"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
