"""docs/providers/aws.md says what the code does."""

from __future__ import annotations

import json
import re
from pathlib import Path

import lbprov_aws
from lbprov_aws import pace, wishes
from lbprov_aws.config import OPTIONS

ROOT = Path(__file__).parents[2]
DOC = (ROOT / "docs/providers/aws.md").read_text()
CODE = "\n".join(path.read_text() for path in sorted((ROOT / "providers/lbprov_aws").glob("*.py")))


def test_permissions_are_those_that_the_code_uses() -> None:
    """Every operation is written out in the code, as a string of its own."""
    policy = json.loads(DOC.split("```json\n")[1].split("```")[0])
    documented = {action.split(":")[1] for s in policy["Statement"] for action in s["Action"]}
    verbs = "Describe|Get|Create|Modify|Set|Add|Remove|Register|Deregister|Authorize|Revoke|Delete"
    used = set(re.findall(rf'"((?:{verbs})[A-Z][A-Za-z]+)"', CODE))
    assert documented == used


def test_settings() -> None:
    settings = DOC.split("## Settings")[1].split("##")[0]
    assert re.findall(r"^\| `([a-z-]+)` \|", settings, re.MULTILINE) == [option.name for option in OPTIONS]


def test_rates() -> None:
    section = DOC.split("### Rate limits")[1].split("##")[0]
    rows = re.findall(r"^\| `([a-z0-9-]+)` \| ([0-9.:]+) \|", section, re.MULTILINE)
    assert rows == [(family, str(rate)) for family, rate in pace.DEFAULTS.items()]


def test_reasons_of_addresses() -> None:
    table = DOC.split("## `loadBalancerIP`")[1].split("## Annotations")[0]
    said = set(re.findall(r"`(LoadBalancerIP\w+)`", table))
    core = set(re.findall(r"Reason\.IP_\w+", CODE))
    assert len(said) == len(core) + 1  # LoadBalancerIPAvailable is the provider's own
    assert "LoadBalancerIPAvailable" in {reason.reason for reason in lbprov_aws.SPEC.reasons} & said


def test_annotations() -> None:
    section = DOC.split("## Annotations")[1].split("## Settings")[0]
    names = re.findall(r"^\| `([a-z-]+)` \|", section, re.MULTILINE)
    assert sorted(wishes.PREFIX + name for name in names) == sorted(wishes.FOLLOWED)
