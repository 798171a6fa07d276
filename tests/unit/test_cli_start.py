"""The command starts without what it does not need."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("boto3", "botocore", "google", "kubernetes", "moto", "rich", "yaml", "msgspec", "prometheus_client")


@pytest.mark.parametrize(
    ("arguments", "may"),
    [
        pytest.param(["--help"], (), id="help"),
        pytest.param(["--version"], (), id="version"),
        pytest.param(["reconcile", "--help"], (), id="help-of-a-verb"),
        pytest.param(["reconcile"], (), id="wrong-usage"),
        pytest.param(["providers"], (), id="providers-imports-their-specs-and-no-sdk"),
        pytest.param(["status", "-f", "."], ("yaml", "msgspec"), id="status"),
    ],
)
def test_no_sdk_is_imported(arguments: list[str], may: tuple[str, ...], tmp_path: object) -> None:
    program = (
        "import json, sys\n"
        "from lbprov.cli.main import main\n"
        "try:\n"
        "    main()\n"
        "finally:\n"
        "    json.dump(sorted(m.partition('.')[0] for m in sys.modules), sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, cwd=str(tmp_path)
    )
    imported = set(json.loads(done.stderr[done.stderr.index('["') :]))
    assert "click" in imported
    assert imported & set(HEAVY) - set(may) == set()


@pytest.mark.parametrize("arguments", [["--help"], ["providers"], ["providers", "-o", "yaml"]])
def test_a_full_output_is_one_line_and_a_status_of_its_own(arguments: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "lbprov", *arguments]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.stderr == "Error: the output cannot be written: No space left on device\n"
    assert done.returncode == os.EX_IOERR
