"""The programs of a Kubernetes control plane: found on this machine, else built, once per machine.

Where a program comes from, the first that has it:
1. the folder KUBEBUILDER_ASSETS, any version: that is how to run against another Kubernetes;
2. PATH, unless it is older than what lbprov supports;
3. `lbprov/control-plane/<version>/` in XDG_CACHE_HOME or ~/.cache, built by Go from the modules that a
   go.mod pins.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lbprov.lab.controlplane.toolchain import Go, go_for
from lbprov.lab.requirements import search_path
from lbprov.model import UserError

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class _Source:
    """`package`: of the Go module. `version_flags`: what makes the program print its version. `oldest`: an
    older one found on PATH by chance is not used."""

    package: str
    version_flags: tuple[str, ...]
    oldest: tuple[int, int]


# Service conditions, ipMode (GA in 1.32) and strict field validation are relied on.
_KUBERNETES = "k8s.io/kubernetes"
_SOURCES = {
    "etcd": _Source("go.etcd.io/etcd/server/v3", ("--version",), (3, 4)),
    "kube-apiserver": _Source(f"{_KUBERNETES}/cmd/kube-apiserver", ("--version",), (1, 32)),
    "kube-controller-manager": _Source(f"{_KUBERNETES}/cmd/kube-controller-manager", ("--version",), (1, 32)),
    "kube-proxy": _Source(f"{_KUBERNETES}/cmd/kube-proxy", ("--version",), (1, 32)),
    "kubectl": _Source(f"{_KUBERNETES}/cmd/kubectl", ("version", "--client"), (1, 30)),
}
CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager")


def programs(
    module: Path, names: Iterable[str] = CONTROL_PLANE, say: Say = lambda _: None
) -> Mapping[str, Path]:
    """The path of each program in `names`, built if need be (minutes; `say` is told about it).

    `module` is the folder of the Go module that pins the sources. Safe to call from several processes at
    once: one builds, the others wait. Raises UserError with the remedy when it cannot be done."""
    version = _pinned_version(module)
    folder = cache_folder() / version
    found: dict[str, Path] = {}
    missing = []
    for name in names:
        path = _on_this_machine(name) or _executable(folder / name)
        if path:
            found[name] = path
        else:
            missing.append(name)
    if missing:
        with _locked(folder):
            # Another process may have built some of them while we waited.
            to_build = [name for name in missing if not _executable(folder / name)]
            if to_build:
                go = go_for(module, cache_folder())
                for name in to_build:
                    _build(go, module, name, folder / name, version, say)
        found |= {name: folder / name for name in missing}
    return found


def cache_folder() -> Path:
    own = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(own) if own else Path.home() / ".cache") / "lbprov/control-plane"


def _on_this_machine(name: str) -> Path | None:
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    if assets and (path := _executable(Path(assets, name))):
        return path
    on_path = shutil.which(name, path=search_path())
    if on_path and _version(Path(on_path), name) >= _SOURCES[name].oldest:
        return Path(on_path)
    return None


def _executable(path: Path) -> Path | None:
    return path if path.is_file() and os.access(path, os.X_OK) else None


def _version(path: Path, name: str) -> tuple[int, int]:
    """(0, 0) for a program that does not say."""
    try:
        done = subprocess.run(
            [path, *_SOURCES[name].version_flags], check=False, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return (0, 0)
    match = re.search(r"(\d+)\.(\d+)\.\d+", done.stdout)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _pinned_version(module: Path) -> str:
    """v1.36.3"""
    try:
        text = (module / "go.mod").read_text()
    except OSError as error:
        raise UserError(f"{module} is no Go module that pins a control plane: {error.strerror}") from error
    match = re.search(rf"^\s*(?:require )?{re.escape(_KUBERNETES)} (v\S+)$", text, re.MULTILINE)
    if match is None:
        raise UserError(f"{module / 'go.mod'} requires no version of {_KUBERNETES}")
    return match[1]


def _build(go: Go, module: Path, name: str, target: Path, version: str, say: Say) -> None:
    """Atomic: `target` is complete or not there."""
    say(f"building {name} of Kubernetes {version} (once on this machine; minutes for the first)")
    started_s = time.monotonic()
    major, minor = version.removeprefix("v").split(".")[:2]
    # Without these the server calls itself v0.0.0-master, and clients that look at versions lose their way.
    stamps = {"gitVersion": version, "gitMajor": major, "gitMinor": minor}
    flags = " ".join(f"-X k8s.io/component-base/version.{key}={value}" for key, value in stamps.items())
    unfinished = target.with_name(f".{name}.{os.getpid()}")
    arguments = ["build", "-trimpath", "-ldflags", f"-s -w {flags}", "-o", str(unfinished)]
    try:
        go.run([*arguments, _SOURCES[name].package], module)
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)
    say(f"built {target} in {time.monotonic() - started_s:.0f} s")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time; released by the kernel if it dies."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise UserError(
            f"cannot write {folder} ({error.strerror}): set XDG_CACHE_HOME to a folder of yours"
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
