"""What users install works without this checkout: a wheel in a clean environment, `pip install -e '.[all]'`.

Dependencies come from the package registry, at the locked versions.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("lbprov", "providers", "local_dataplane")
pytestmark = pytest.mark.timeout(600)


def run(argv: list[str | Path], cwd: Path, env: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(
        [str(a) for a in argv], cwd=cwd, env=env, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, f"{argv}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is built from, so that no build leaves anything in the checkout."""
    copy = tmp_path_factory.mktemp("source")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    return copy


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, source], cwd=source)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture
def clean_env(tmp_path: Path) -> Path:
    venv = tmp_path / "venv"
    run([sys.executable, "-m", "uv", "venv", "--quiet", "--python", sys.executable, venv], cwd=tmp_path)
    return venv


def outside() -> dict[str, str]:
    """The environment without what would lead an import back to the checkout."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}


@pytest.fixture(scope="module")
def constraints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The locked versions without their hashes: what is built here has none to be checked against."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pins = [line.removesuffix(" \\") for line in lines if line[:1].isalnum()]
    assert len(pins) > 20
    path = tmp_path_factory.mktemp("constraints") / "constraints.txt"
    path.write_text("\n".join(pins) + "\n")
    return path


def uv_install(venv: Path, wanted: str, constraints: Path, cwd: Path) -> None:
    python = venv / "bin/python"
    run(
        [
            sys.executable,
            "-m",
            "uv",
            "pip",
            "install",
            "--quiet",
            "--python",
            python,
            "-c",
            constraints,
            wanted,
        ],
        cwd,
    )


def test_wheel_holds_the_packages_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    roots = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert roots == {"lbprov", "lbprov_aws", "local_dataplane"}
    for root in roots:
        assert f"{root}/py.typed" in names
    assert [n for n in names if n.startswith("lbprov/demo/manifests/") and n.endswith(".yaml")]


def test_wheel_works_in_a_clean_environment(
    wheel: Path, clean_env: Path, constraints: Path, tmp_path: Path
) -> None:
    uv_install(clean_env, f"lbprov[all] @ {wheel.as_uri()}", constraints, tmp_path)
    lbprov = clean_env / "bin/lbprov"
    assert "reconcile" in run([lbprov, "--help"], tmp_path, outside())
    providers = json.loads(run([lbprov, "providers", "-o", "json"], tmp_path, outside()))
    assert "aws" in json.dumps(providers)
    where = run(
        [clean_env / "bin/python", "-c", "import lbprov; print(lbprov.__file__)"], tmp_path, outside()
    )
    assert str(clean_env) in where


def test_without_the_extra_the_error_says_what_to_install(
    wheel: Path, clean_env: Path, constraints: Path, tmp_path: Path
) -> None:
    uv_install(clean_env, str(wheel), constraints, tmp_path)
    (tmp_path / "cluster").mkdir()
    (tmp_path / "cluster/ns.yaml").write_text("apiVersion: v1\nkind: Namespace\nmetadata: {name: default}\n")
    done = subprocess.run(
        [clean_env / "bin/lbprov", "reconcile", "--provider", "aws", "-f", "cluster"],
        cwd=tmp_path, env=outside(), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode != 0
    assert "lbprov[aws]" in done.stderr
    assert "Traceback" not in done.stderr


def test_pip_install_editable(source: Path, constraints: Path, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    run([sys.executable, "-m", "venv", venv], tmp_path)
    pip: list[str | Path] = [
        venv / "bin/python",
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
    ]
    run([*pip, "-c", constraints, "-e", ".[all]"], source, outside())
    assert "aws" in run([venv / "bin/lbprov", "providers"], tmp_path, outside())
    where = run(
        [venv / "bin/python", "-c", "import lbprov_aws; print(lbprov_aws.__file__)"], tmp_path, outside()
    )
    assert str(source) in where
