"""Every `lbprov …` in a code block of the documents is a command that there is, with flags that it has."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import click
import pytest

from lbprov.cli.main import VERBS

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("terraform/*.md")])


def _commands(page: Path) -> list[list[str]]:
    """Also those behind a `$` or `#` prompt."""
    blocks = re.findall(r"^```(?:sh|console)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    found = (re.match(r"(?:[$#] )?(?:sudo )?lbprov (?P<rest>[a-z].*)", line) for line in lines)
    return [shlex.split(match["rest"], comments=True) for match in found if match]


def _flags(words: list[str]) -> tuple[set[str], set[str]]:
    """The long flags of a command line, and those that its verb (and the verb's verb) have."""
    command: click.Command = importlib.import_module(VERBS[words[0]][0]).command
    commands = [command]
    if isinstance(command, click.Group) and len(words) > 1 and words[1] in command.commands:
        commands.append(command.commands[words[1]])
    options = [p for c in commands for p in c.params if isinstance(p, click.Option)]
    there = {flag for option in options for flag in (*option.opts, *option.secondary_opts)} | {"--help"}
    return {word.split("=")[0] for word in words if word.startswith("--")}, there


def test_there_are_some() -> None:
    assert sum(len(_commands(page)) for page in PAGES) > 5


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_are_there(page: Path) -> None:
    for words in _commands(page):
        assert words[0] in VERBS, words
        given, there = _flags(words)
        assert given - there == set(), words
