"""iptables by its own programs: `iptables-save` and `iptables-restore --noflush`, nft or legacy."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lbprov.model import IPFamily, UserError
from local_dataplane.iptables.fixed import Table
from local_dataplane.kernel import generation
from local_dataplane.kernel.ahead import Ahead
from local_dataplane.kernel.seam import Backend, Busy, Refused

LOCK_WAIT_S = 5
_PATIENCE_S = 180.0
_LINE = re.compile(r"\bline:? (\d+)")
_VERSION = re.compile(r" v(\d+)\.(\d+)\.(\d+)")
_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"
_BUSY = ("xtables lock", "Resource temporarily unavailable", "Generation")


@dataclass(frozen=True, slots=True)
class Programs:
    """Where the two programs of one family and backend are."""

    family: IPFamily
    backend: Backend
    save: str
    restore: str


def find_programs(family: IPFamily) -> dict[Backend, Programs]:
    """What is installed, by backend. A plain `iptables-restore` counts as what it says it is."""
    stem = "ip6tables" if family is IPFamily.IPV6 else "iptables"
    found: dict[Backend, Programs] = {}
    for backend in Backend:
        save, restore = which(f"{stem}-{backend}-save"), which(f"{stem}-{backend}-restore")
        if save and restore:
            found[backend] = Programs(family, backend, save, restore)
    save, restore = which(f"{stem}-save"), which(f"{stem}-restore")
    if save and restore:
        found.setdefault(default_backend(restore), Programs(family, default_backend(restore), save, restore))
    return found


def which(program: str) -> str | None:
    """Also in the sbin folders, which an ordinary user's PATH leaves out."""
    return shutil.which(program) or shutil.which(program, path=_SBIN)


def default_backend(program: str) -> Backend:
    """What a program without a backend in its name is. Before 1.8 there was legacy only."""
    said = subprocess.run([program, "-V"], capture_output=True, text=True, check=False).stdout
    return Backend.NFT if "nf_tables" in said else Backend.LEGACY


def version_of(program: str) -> tuple[int, ...]:
    """Empty where it does not say."""
    try:
        said = subprocess.run([program, "-V"], capture_output=True, text=True, check=False).stdout
    except OSError:
        return ()
    found = _VERSION.search(said)
    return tuple(int(part) for part in found.groups()) if found else ()


class IptablesCommand:
    """See `Iptables` in the seam. One process per call.

    `ahead`: for one who will write again and again; the next write's process is started after each."""

    def __init__(self, programs: Programs, *, ahead: bool = False) -> None:
        self._programs = programs
        self._restore = [programs.restore, "--noflush", "-w", str(LOCK_WAIT_S)]
        self._ahead = Ahead(self._restore) if ahead else None

    @property
    def family(self) -> IPFamily:
        return self._programs.family

    @property
    def backend(self) -> Backend:
        return self._programs.backend

    def save(self, *tables: Table) -> str:
        if self.backend is Backend.LEGACY and not set(tables) & legacy_tables(self.family):
            return ""  # asking would load the modules and make the tables
        return "".join(self._run([self._programs.save, "-t", table]) for table in tables)

    def save_all(self) -> str:
        """Every table, mangle with kubelet's hints included."""
        if self.backend is Backend.LEGACY and not legacy_tables(self.family):
            return ""
        return self._run([self._programs.save])

    def restore(self, text: str) -> None:
        if self._ahead is None:
            self._run(self._restore, text)
        else:
            ahead = self._ahead
            _outcome(self._restore, lambda: ahead.run(text, _PATIENCE_S))

    def generation(self) -> object:
        if self.backend is Backend.NFT:
            return generation.nft()
        return tuple(
            generation.legacy(self.family, t) for t in sorted(legacy_tables(self.family) & set(Table))
        )

    def _run(self, argv: list[str], text: str = "") -> str:
        def work() -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                argv,
                input=text,
                capture_output=True,
                text=True,
                check=False,
                timeout=_PATIENCE_S,
                start_new_session=True,  # Ctrl-C is for us, not for a write that is under way
            )

        return _outcome(argv, work)


def _outcome(argv: Sequence[str], work: Callable[[], subprocess.CompletedProcess[str]]) -> str:
    """What the program prints; raises what its failure means."""
    try:
        done = work()
    except subprocess.TimeoutExpired as error:
        raise Busy(f"{argv[0]} did not end within {_PATIENCE_S:.0f} s") from error
    except OSError as error:
        raise UserError(f"cannot run {argv[0]}: {error.strerror}; install the package iptables") from error
    if done.returncode == 0:
        return done.stdout
    said = " ".join(line.strip() for line in done.stderr.splitlines() if not line.startswith("Try "))
    if done.returncode < 0:
        raise Busy(f"{argv[0]} was killed by signal {-done.returncode}")
    if "xtables.lock" in said:
        raise UserError(f"{said}; a container needs the host's /run/xtables.lock (or all of /run)")
    if "must be root" in said or "Permission denied" in said:
        raise UserError(NOT_PRIVILEGED)
    if any(sign in said for sign in _BUSY):
        raise Busy(said)
    line = _LINE.search(said)
    raise Refused(said, int(line[1]) if line else 0)


NOT_PRIVILEGED = (
    "this takes the right to change packet filter rules (CAP_NET_ADMIN): run it as root, or try it without "
    "root in a namespace of your own: unshare --user --map-root-user --net"
)


def legacy_tables(family: IPFamily) -> set[str]:
    """The legacy tables that exist in this network namespace."""
    name = "ip6_tables_names" if family is IPFamily.IPV6 else "ip_tables_names"
    try:
        return set(Path("/proc/self/net", name).read_text().split())
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise UserError(NOT_PRIVILEGED) from error
