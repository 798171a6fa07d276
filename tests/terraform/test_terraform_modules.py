"""The Terraform modules: formatted, valid, documented, and doing what their own tests say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.terraform.conftest import Terraform

ROOT = Path(__file__).parents[2]
MODULES = sorted(p.name for p in (ROOT / "terraform/modules").iterdir())
EXAMPLES = sorted(p.name for p in (ROOT / "terraform/examples").iterdir())


def test_all_are_there() -> None:
    assert MODULES == ["aws-addresses", "aws-iam"]
    assert EXAMPLES == ["eks-pod-identity", "irsa"]


def test_format(terraform: Terraform) -> None:
    done = terraform.run(".", "fmt", "-check", "-recursive", "-diff")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "where", [*(f"modules/{name}" for name in MODULES), *(f"examples/{name}" for name in EXAMPLES)]
)
def test_valid(terraform: Terraform, where: str) -> None:
    terraform.init(where)
    done = terraform.run(where, "validate", "-no-color")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("module", MODULES)
def test_its_own_tests(terraform: Terraform, module: str) -> None:
    where = f"modules/{module}"
    terraform.init(where)
    done = terraform.run(where, "test", "-no-color")
    assert done.returncode == 0, done.stdout + done.stderr
    runs = re.search(r"Success! (\d+) passed, 0 failed", done.stdout)
    assert runs is not None, done.stdout
    written = (path.read_text() for path in (ROOT / "terraform" / where / "tests").glob("*.tftest.hcl"))
    assert int(runs[1]) == sum(text.count("\nrun ") for text in written) > 0


@pytest.mark.parametrize(
    ("verb", "file", "before", "after", "said"),
    [
        pytest.param(
            "validate", "main.tf", "description = ", "descripton = ", "descripton", id="an argument's name"
        ),
        pytest.param("validate", "outputs.tf", "this.arn", "this.arm", "arm", id="an attribute's name"),
        pytest.param("test", "main.tf", "${var.namespace}:", "*:", "one issuer", id="a trust too wide"),
    ],
)
def test_these_tests_can_fail(
    terraform: Terraform, verb: str, file: str, before: str, after: str, said: str
) -> None:
    path = terraform.folder / "modules/aws-iam" / file
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))
    terraform.init("modules/aws-iam")
    done = terraform.run("modules/aws-iam", verb, "-no-color")
    assert said in done.stdout + done.stderr
    assert done.returncode != 0


@pytest.mark.parametrize("module", MODULES)
def test_every_variable_and_output_is_typed_and_documented(module: str) -> None:
    """And named in the README."""
    readme = (ROOT / "terraform/README.md").read_text()
    section = readme.split(f"## {module}")[1].split("\n## ")[0]
    for kind, needs in (("variable", ("description", "type")), ("output", ("description", "value"))):
        text = (ROOT / f"terraform/modules/{module}/{kind}s.tf").read_text()
        blocks = re.findall(rf'^{kind} "(\w+)" {{\n(.*?)^}}', text, re.DOTALL | re.MULTILINE)
        assert len(blocks) == text.count(f'{kind} "') > 0
        for name, block in blocks:
            assert all(re.search(rf"^  {need} += ", block, re.MULTILINE) for need in needs), name
            assert f"`{name}`" in section, f"{module}: {name} is not in terraform/README.md"


def test_providers_are_bounded_alike() -> None:
    bounds = {
        str(path.relative_to(ROOT)): re.findall(
            r'(?:required_version|version) += "([^"]+)"', path.read_text()
        )
        for path in [*ROOT.glob("terraform/*/*/versions.tf"), *ROOT.glob("terraform/examples/*/main.tf")]
    }
    assert set(map(tuple, bounds.values())) == {(">= 1.9", ">= 5.40")}, bounds
