"""docs/architecture.md and the import contracts say the same; links in the documents lead somewhere."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
DOC = (ROOT / "docs/architecture.md").read_text()
CONTRACTS: list[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"][
    "importlinter"
]["contracts"]


def test_layers_are_the_documented_ones() -> None:
    block = re.search(r"```layers\n(.*?)```", DOC, re.DOTALL)
    assert block is not None
    (layers,) = [c["layers"] for c in CONTRACTS if c["type"] == "layers"]
    assert block.group(1).split("\n")[:-1] == layers


def test_every_other_contract_is_documented_by_name() -> None:
    names = [c["name"] for c in CONTRACTS if c["type"] != "layers"]
    assert names
    prose = " ".join(DOC.replace("`", "").split())
    assert [name for name in names if name not in prose] == []


def test_every_room_is_in_the_table() -> None:
    rooms = {p.name for p in (ROOT / "lbprov").iterdir() if p.is_dir() and (p / "__init__.py").exists()}
    assert {room for room in rooms if f"`lbprov/{room}/`" not in DOC} == set()


@pytest.mark.parametrize(
    "page",
    sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("terraform/*.md")]),
    ids=lambda p: p.name,
)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text())
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (page.parent / link).exists()] == []
