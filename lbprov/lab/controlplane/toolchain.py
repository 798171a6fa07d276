"""A Go that can build a module, starting from whatever Go this machine has.

Go 1.21 and later fetch a newer toolchain themselves (GOTOOLCHAIN=auto, https://go.dev/doc/toolchain). Older
ones, such as Debian 12's 1.19, do not; but toolchains are ordinary modules that any Go can download and check
against the checksum database, and what is left to do is to unpack one.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lbprov.lab.requirements import search_path
from lbprov.model import UserError

_FETCHES_ITSELF = (1, 21)
USUAL_PLACE = "/usr/local/go/bin"  # where go.dev says to unpack it


@dataclass(frozen=True, slots=True)
class Go:
    """A go command and the environment that it wants on top of ours."""

    program: Path
    environment: Mapping[str, str]

    def run(self, arguments: Sequence[str], cwd: Path) -> str:
        """What it printed. Raises UserError, with what it complained about, when it fails."""
        done = subprocess.run(
            [str(self.program), *arguments],
            cwd=cwd,
            env={**os.environ, **self.environment},
            check=False,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise UserError(f"go {' '.join(arguments)} failed in {cwd}: {done.stderr.strip()[-2000:]}")
        return done.stdout


# Flags in the user's environment must not change what is built; a machine without a C compiler can build it.
_ENVIRONMENT = {"GOFLAGS": "-buildvcs=false", "GOWORK": "off", "CGO_ENABLED": "0", "GOTOOLCHAIN": "auto"}


def go_for(module: Path, cache: Path) -> Go:
    """A Go new enough for the go.mod in `module`. A toolchain that has to be unpacked is kept in `cache`.

    Raises UserError, naming the remedy, when this machine has no Go at all."""
    found = shutil.which("go", path=os.pathsep.join((search_path(), USUAL_PLACE)))
    if found is None:
        raise UserError(
            "no Go on this machine to build the control plane with. On Debian and Ubuntu: "
            "sudo apt-get install golang-go (any version will do, a newer one is fetched as a module). "
            "Or set KUBEBUILDER_ASSETS to a folder that holds the programs"
        )
    go = Go(Path(found), _ENVIRONMENT)
    with tempfile.TemporaryDirectory() as outside:  # no go.mod here that would make it fetch anything
        local = Go(go.program, {**_ENVIRONMENT, "GOTOOLCHAIN": "local"})
        answer = json.loads(local.run(["env", "-json", "GOVERSION", "GOOS", "GOARCH"], Path(outside)))
        if _numbers(answer["GOVERSION"]) >= _FETCHES_ITSELF:
            return go
        wanted = _wanted(module)
        root = cache / f"go{wanted}"
        if not root.exists():
            version = f"v0.0.1-go{wanted}.{answer['GOOS']}-{answer['GOARCH']}"
            _unpack(local, version, root, Path(outside))
    return Go(root / "bin/go", {**_ENVIRONMENT, "GOTOOLCHAIN": "local", "GOROOT": str(root)})


def _wanted(module: Path) -> str:
    match = re.search(r"^go (\d+\.\d+\.\d+)$", (module / "go.mod").read_text(), re.MULTILINE)
    if match is None:
        raise UserError(f"{module / 'go.mod'}: no line `go 1.x.y` that names the release of Go")
    return match[1]


def _numbers(version: str) -> tuple[int, ...]:
    """go1.19.8 -> (1, 19); a development version counts as new."""
    match = re.match(r"go(\d+)\.(\d+)", version)
    return (int(match[1]), int(match[2])) if match else (1, 99)


def _unpack(go: Go, version: str, root: Path, outside: Path) -> None:
    """What newer Gos do after the download: a module's files are not executable, and it may hold no go.mod
    but its own, so those of the library are called _go.mod (cmd/go/internal/toolchain)."""
    told = json.loads(go.run(["mod", "download", "-json", f"golang.org/toolchain@{version}"], outside))
    root.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=root.parent, prefix=".go-"))
    try:
        # copyfile, not copy: the module cache is read-only.
        shutil.copytree(told["Dir"], fresh / "go", copy_function=shutil.copyfile)
        for folder, _, files in os.walk(fresh / "go"):
            Path(folder).chmod(0o755)
            for name in files:
                path = Path(folder, name)
                if name == "_go.mod":
                    path.rename(path.with_name("go.mod"))
                elif path.is_relative_to(fresh / "go/bin") or path.is_relative_to(fresh / "go/pkg/tool"):
                    path.chmod(0o755)
        (fresh / "go").replace(root)
    finally:
        shutil.rmtree(fresh)
