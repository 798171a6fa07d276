"""docs/cli.md knows every verb, and every flag of the verbs over a folder; nothing that is not there."""

import importlib
import re
from pathlib import Path

import click
import pytest

from lbprov.cli.main import VERBS
from lbprov.logic.annotations import ALLOWED, SOURCE_RANGES

DOC = (Path(__file__).parents[2] / "docs/cli.md").read_text()
OURS = ("reconcile", "plan", "diff", "gc", "status", "providers")


def _flags(verb: str) -> set[str]:
    command: click.Command = importlib.import_module(VERBS[verb][0]).command
    options = (p for p in command.params if isinstance(p, click.Option))
    return {flag for option in options for flag in (*option.opts, *option.secondary_opts)}


@pytest.mark.parametrize("verb", OURS)
def test_every_flag_is_documented(verb: str) -> None:
    assert {flag for flag in _flags(verb) if f"{flag}" not in DOC} == set()


def test_every_documented_flag_is_there() -> None:
    documented = set(re.findall(r"--[a-z]+(?:-[a-z]+)*", DOC)) - {"--help"}
    assert documented - {flag for verb in OURS for flag in _flags(verb)} == set()


def test_every_verb_is_documented_in_its_place() -> None:
    assert set(re.findall(r"^\| `lbprov ([a-z]+)", DOC, re.MULTILINE)) == set(VERBS)


def test_every_annotation_and_its_values_are_documented() -> None:
    rows = dict(re.findall(r"^\| `([a-z.]+/[a-z-]+)` \| ([^|]*) \|", DOC, re.MULTILINE))
    assert set(rows) >= {*ALLOWED, SOURCE_RANGES}
    for annotation, values in ALLOWED.items():
        assert re.findall(r"`([^`]+)`", rows[annotation]) == list(values)
