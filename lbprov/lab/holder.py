"""The namespaces that hold a lab, and the process whose end is their end.

Pid 1 of a new pid namespace waits for the end of its standard input, a pipe that only this process can
write to. When it ends (`close`, an exit, a crash, kill -9), the kernel kills every process of the pid
namespace, and with the last of them go the mounts, the network namespaces and all that is in them. Nothing
has to be cleaned up by a program that may not get to run.

Programs are brought in by nsenter from outside, so their standard streams, arguments and exit codes are
ordinary ones.

A host's namespaces are kept by a process that sleeps in them. (Keeping a mount namespace by a bind mount
fails at random on Linux 6.18, whose namespace ids are not handed out in order: mount(2) sees a loop.)
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lbprov.lab.requirements import need_programs, search_path, why_no_namespaces
from lbprov.model import UserError

NETNS = "/run/netns"  # where iproute2 looks for namespaces by name

# The pid is read from the old /proc, where it means something to us; then /proc becomes that of the new pid
# namespace. A pid 1 that ignores SIGCHLD leaves no zombies of the orphans it inherits. br_netfilter (often
# loaded for a container runtime) would send what the bridge carries through iptables; a switch does not.
_PID_1 = f"""
set -eu
read -r pid _ < /proc/self/stat
mount -t proc proc /proc
mount -t tmpfs -o mode=755 tmpfs /run
[ /var/run -ef /run ] || mount --bind /run /var/run
mkdir -p {NETNS}
mount --bind {NETNS} {NETNS}
mount --make-private {NETNS}
for f in /proc/sys/net/bridge/bridge-nf-call-*tables; do [ ! -w "$f" ] || echo 0 > "$f"; done
ip link set lo up
echo "$pid"
trap '' CHLD
exec cat > /dev/null
"""

_KEEPER = """{inside}
echo $$
exec sleep infinity > /dev/null 2>&1
"""
_SIGNAL_PATIENCE_S = 1.0


class LabProcess(subprocess.Popen[str]):
    """A program in the lab. The Popen itself is nsenter, which stays outside and has the program as its
    child; signals go to the program, whose end (also by a signal) is then nsenter's end."""

    def program_pid(self) -> int:
        """The program's pid, as we number it; 0 if it has not been started yet or is gone."""
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
            return int(children[0]) if children else 0
        return 0

    def send_signal(self, sig: int) -> None:
        begun = time.monotonic()
        while self.poll() is None:
            if program := self.program_pid():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(program, sig)
                return
            if time.monotonic() - begun > _SIGNAL_PATIENCE_S:
                super().send_signal(sig)  # nsenter hangs before it has started anything
                return
            time.sleep(0.001)

    def collect(self) -> None:
        """Wait for the program, which is known to end, and close its pipes."""
        self.wait()
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):  # unsent text and nobody to read it
                    stream.close()


@dataclass(frozen=True, slots=True)
class Keeper:
    """The process that keeps a host's namespaces. `inner_pid`: as the lab numbers it, `pid`: as we do."""

    process: LabProcess
    inner_pid: int
    pid: int


class Holder:
    """Namespaces that live as long as this object. `open` makes them; `command` says how to get in."""

    def __init__(self, process: subprocess.Popen[str], pid: int, in_user_namespace: bool) -> None:
        self._process = process
        self.pid = pid
        self._in_user_namespace = in_user_namespace

    @classmethod
    def open(cls) -> Holder:
        """Raises UserError, with the remedy, where the machine lacks a program or forbids namespaces."""
        need_programs()
        is_root = os.geteuid() == 0
        complaint = ""
        # Root needs no user namespace, except in a container whose root has few rights.
        for in_user_namespace in (False, True) if is_root else (True,):
            process = _start(in_user_namespace)
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stderr is not None
            try:
                pid = process.stdout.readline().strip()
                if pid:
                    return cls(process, int(pid), in_user_namespace)
            except BaseException:
                _end(process)
                raise
            process.stdin.close()
            complaint = process.stderr.read().strip().rpartition("\n")[2] or "no word of why"
            _end(process)
        raise UserError(why_no_namespaces(complaint, is_root=is_root))

    def command(self, argv: Sequence[str], pid: int = 0) -> list[str]:
        """`argv` wrapped so that it runs inside: in the namespaces of process `pid` (as we number it), or at
        the switch of the lab."""
        user = ["--user", "--preserve-credentials"] if self._in_user_namespace else []
        return [
            *("nsenter", f"--target={pid or self.pid}", *user, "--pid", "--mount", "--uts", "--net"),
            *("--", *argv),
        ]

    def script(self, text: str) -> None:
        """Run shell commands at the switch, as the lab's root. They are ours: one that fails is a bug."""
        done = subprocess.run(
            self.command(["sh", "-eu"]),
            check=False,
            input=text,
            capture_output=True,
            text=True,
            env=environment(),
            start_new_session=True,
        )
        if done.returncode:
            raise RuntimeError(f"lab set-up failed ({done.returncode}): {done.stderr.strip()}\n{text}")

    def keep(self, inside: str) -> Keeper:
        """Make namespaces for a host and run the shell commands `inside` in them, as root."""
        keeper = LabProcess(
            self.command(
                ["unshare", "--net", "--uts", "--mount", "sh", "-euc", _KEEPER.format(inside=inside)]
            ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
            start_new_session=True,
        )
        assert keeper.stdout is not None
        assert keeper.stderr is not None
        inner_pid = keeper.stdout.readline().strip()
        if not inner_pid:
            raise RuntimeError(f"lab set-up failed: {keeper.stderr.read().strip()}\n{inside}")
        pid = keeper.program_pid()
        if not pid:
            raise RuntimeError("this kernel does not tell a process's children (CONFIG_PROC_CHILDREN)")
        return Keeper(keeper, int(inner_pid), pid)

    def close(self) -> None:
        """Ends every process inside and waits until the kernel has done so. May be called twice."""
        _end(self._process)


def environment(env: Mapping[str, str] | None = None) -> dict[str, str]:
    """`env`, or ours, with a PATH on which system programs are found."""
    return {**(os.environ if env is None else env), "PATH": search_path()}


def _start(in_user_namespace: bool) -> subprocess.Popen[str]:
    user = ["--user", "--map-root-user"] if in_user_namespace else []
    return subprocess.Popen(
        [
            "unshare",
            *user,
            "--net",
            "--uts",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "sh",
            "-c",
            _PID_1,
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        start_new_session=True,  # Ctrl-C is for us: we close the lab in our order
    )


def _end(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    with contextlib.suppress(OSError):
        process.stdin.close()
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()
