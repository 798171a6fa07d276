"""Shared flags: the environment variable beside each, and logs as a person or a machine reads them."""

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from lbprov.cli import options
from lbprov.observe import logs


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


@click.command()
@options.folder
@options.state
@options.cluster_name
@options.force
@options.output
@options.logs
def _verb(folder: Path, state: Path | None, cluster_name: str | None, force: bool, output: str) -> None:
    click.echo(json.dumps([str(folder), state and str(state), cluster_name, force, output]))


def test_flags_and_their_environment_variables_say_the_same(tmp_path: Path) -> None:
    flags = ["-f", str(tmp_path), "--state", "s.json", "--cluster-name", "c", "--force", "-o", "json"]
    by_flag = CliRunner().invoke(_verb, flags)
    environment = {
        "LBPROV_FILENAME": str(tmp_path),
        "LBPROV_STATE": "s.json",
        "LBPROV_CLUSTER_NAME": "c",
        "LBPROV_FORCE": "1",
        "LBPROV_OUTPUT": "json",
    }
    by_environment = CliRunner().invoke(_verb, [], env=environment)
    assert json.loads(by_flag.stdout) == [str(tmp_path), "s.json", "c", True, "json"]
    assert by_environment.stdout == by_flag.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param([], "'-f' / '--filename'", id="no-folder"),
        pytest.param(["-f", "/does/not/exist"], "/does/not/exist", id="folder-not-there"),
        pytest.param(["-f", "/", "-o", "xml"], "table", id="bad-output-names-what-is-allowed"),
        pytest.param(["-f", "/", "--log-level", "loud"], "warning", id="bad-level-names-what-is-allowed"),
    ],
)
def test_bad_usage_is_exit_2_and_says_what_is_allowed(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(_verb, arguments)
    assert result.exit_code == 2
    assert said in result.stderr


def _logged(format_: logs.LogFormat | None, level: str = "info") -> str:
    stream = io.StringIO()
    logs.set_up(level, format_, stream)
    log = logging.getLogger("lbprov.controller")
    log.info("applied", extra={"service": "default/web", "steps": 2})
    try:
        int("broken")
    except ValueError:
        log.exception("bug", extra={"what": Path("/a b")})
    return stream.getvalue()


def test_json_lines_carry_fields_and_tracebacks() -> None:
    first, second = (json.loads(line) for line in _logged("json").splitlines())
    assert first.pop("ts").endswith("Z")
    assert first == {
        "level": "info",
        "logger": "lbprov.controller",
        "msg": "applied",
        "service": "default/web",
        "steps": 2,
    }
    assert second["what"] == "/a b"
    assert "invalid literal for int()" in second["error"]


def test_text_is_for_people() -> None:
    first, second, *rest = _logged("text").splitlines()
    assert first.endswith("INFO    controller: applied service=default/web steps=2")
    assert second.endswith('ERROR   controller: bug what="/a b"')
    assert "invalid literal for int()" in rest[-1]


def test_where_no_terminal_is_logs_are_json() -> None:
    assert json.loads(_logged(None).splitlines()[0])["msg"] == "applied"


def test_level_is_kept_and_sdks_never_speak_of_requests() -> None:
    assert _logged("text", "error").count("controller:") == 1
    logs.set_up("debug", "text", io.StringIO())
    assert not logging.getLogger("botocore.auth").isEnabledFor(logging.DEBUG)
    assert logging.getLogger("lbprov.controller").isEnabledFor(logging.DEBUG)
