"""The reference pages are what the code says; what the AWS provider tells is explained there."""

import ast
import subprocess
import sys
from pathlib import Path

from lbprov.logic.events import Reason
from lbprov_aws import SPEC

ROOT = Path(__file__).parents[2]


def test_pages_are_what_the_code_says() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/reference.py", "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_every_reason_that_the_aws_provider_writes_out_is_explained() -> None:
    """Second argument of every `Notice(severity, "Reason", …)` in its sources, and `reason="…"` anywhere."""
    explained = {doc.reason for doc in SPEC.reasons} | {str(reason) for reason in Reason}
    found = set()
    for path in (ROOT / "providers/lbprov_aws").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "id", "")
            arguments = [k.value for k in node.keywords if k.arg == "reason"] if name == "UserError" else []
            arguments += node.args[1:2] if name == "Notice" else []
            found |= {a.value for a in arguments if isinstance(a, ast.Constant) and isinstance(a.value, str)}
    assert found
    assert found - explained == set()
