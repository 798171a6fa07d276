"""The image: what its Containerfile installs is locked, complete, of the versions that are tested, no more.

There is no container engine here: what the image's build does is done in a clean environment.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import requires
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
IMAGE = ROOT / "deploy/image"
CONTAINERFILE = (IMAGE / "Containerfile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKS = ["requirements.txt", "build-requirements.txt"]


def locked(path: Path) -> dict[str, tuple[str, frozenset[str]]]:
    """name -> (version and marker, hashes)"""
    text = path.read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line[:1].isalnum()]
    pins = [re.fullmatch(r"([\w.-]+)==(.+?)\s+(--hash=.*)", line) for line in lines]
    assert pins
    assert all(pins)
    return {p[1]: (p[2].strip(), frozenset(p[3].split())) for p in pins if p}


def needed(requirement: Requirement, found: set[str]) -> set[str]:
    """The names of everything that it draws in, as far as it applies here; added to `found`."""
    name = canonicalize_name(requirement.name)
    if name != "lbprov":
        found.add(name)
    for line in requires(requirement.name) or ():
        inner = Requirement(line)
        extras = requirement.extras or {""}
        wanted = inner.marker is None or any(inner.marker.evaluate({"extra": e}) for e in extras)
        if wanted and (canonicalize_name(inner.name) not in found or inner.extras):
            needed(inner, found)
    return found


@pytest.mark.parametrize("name", LOCKS)
def test_the_locks_hold_what_is_tested(name: str) -> None:
    everything = locked(ROOT / "requirements.txt")
    for package, pin in locked(IMAGE / name).items():
        assert pin == everything[package]


def test_the_image_holds_what_lbprov_needs_and_no_tools() -> None:
    names = set(locked(IMAGE / "requirements.txt"))
    assert needed(Requirement("lbprov[aws]"), set()) <= names
    assert not names & {"moto", "pytest", "mypy", "hatchling", "uv", "ruff"}
    assert needed(Requirement(PROJECT["build-system"]["requires"][0]), set()) <= set(
        locked(IMAGE / "build-requirements.txt")
    )


def test_the_image_is_what_the_manifest_expects() -> None:
    (deployment,) = [
        obj
        for obj in yaml.safe_load_all((ROOT / "deploy/install.yaml").read_text())
        if obj["kind"] == "Deployment"
    ]
    rights = deployment["spec"]["template"]["spec"]["securityContext"]
    assert re.findall(r"^USER (.*)$", CONTAINERFILE, re.MULTILINE) == [
        f"{rights['runAsUser']}:{rights['runAsGroup']}"
    ]
    assert json.loads(re.findall(r"^ENTRYPOINT (.*)$", CONTAINERFILE, re.MULTILINE)[0]) == ["lbprov"]
    assert set(PROJECT["project"]["scripts"]) == {"lbprov"}


def copied() -> list[str]:
    """What the build takes from the checkout."""
    instructions = re.findall(r"^COPY (?!--from)(.*) \S+$", CONTAINERFILE, re.MULTILINE)
    return [source for sources in instructions for source in sources.split()]


def test_the_build_is_given_all_packages_and_pinned_by_hashes() -> None:
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert {package.split("/")[0] for package in wheel} <= set(copied())
    assert all((ROOT / source).exists() for source in copied())
    installs = re.findall(r"pip (?:--python \S+ )?install ([^&\n]*(?:\\\n[^&\n]*)*)", CONTAINERFILE)
    assert len(installs) == 3
    assert all("--require-hashes" in install or "--no-index" in install for install in installs)


@pytest.mark.timeout(300)
def test_what_is_copied_and_locked_is_enough(tmp_path: Path) -> None:
    source, venv = tmp_path / "src", tmp_path / "venv"
    source.mkdir()
    for name in copied():
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source)

    def run(*argv: str | Path) -> str:
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
        done = subprocess.run(argv, cwd=source, env=environment, capture_output=True, text=True, timeout=250)
        assert done.returncode == 0, f"{argv}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    uv = (sys.executable, "-m", "uv")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, source)
    run(*uv, "venv", "--quiet", "--python", sys.executable, venv)
    install = (*uv, "pip", "install", "--quiet", "--python", venv / "bin/python")
    run(*install, "--require-hashes", "--only-binary", ":all:", "-r", "requirements.txt")
    (wheel,) = tmp_path.glob("*.whl")
    run(*install, "--no-deps", "--no-index", wheel)
    assert "aws" in run(venv / "bin/lbprov", "providers")
    assert "--leader-elect" in run(venv / "bin/lbprov", "controller", "--help")
    run(
        venv / "bin/python", "-c", "import lbprov_aws.cloud, lbprov.cluster.apiserver.credentials, kubernetes"
    )
