"""docs/providers/aws.md says what the code does."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import lbprov_aws
from lbprov.api import Reason, Severity
from lbprov_aws import pace, refusals
from lbprov_aws.config import OPTIONS

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/providers/aws.md"
DOC = PAGE.read_text()
CODE = "\n".join(path.read_text() for path in sorted((ROOT / "providers/lbprov_aws").glob("*.py")))


def test_the_policy_is_that_of_the_terraform_module(request: pytest.FixtureRequest) -> None:
    """Which tests/aws/test_aws_policy.py holds equal to what the code does."""
    source = (ROOT / "terraform/modules/aws-iam/policy.json").read_text()
    policy = source.replace("${partition}", "aws").replace("${cluster_name}", "CLUSTER-NAME")
    before, rest = DOC.split("```json\n", 1)
    documented, after = rest.split("```", 1)
    if request.config.getoption("--update-golden"):
        PAGE.write_text(f"{before}```json\n{policy}```{after}")
        documented = policy
    assert json.loads(documented) == json.loads(policy)


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


def test_every_quota_that_an_error_names_is_explained() -> None:
    section = DOC.split("## Quotas")[1].split("\n## ")[0]
    told = {name for name in refusals.SERVICE_QUOTAS.values() if f"| {name} |" in section}
    # Those left out are met by nobody who makes load balancers this way, or come in several.
    assert set(refusals.SERVICE_QUOTAS.values()) - told == {
        "Targets per Network Load Balancer, per Availability Zone of it, or per target group",
        "Number of times a target can be registered",
        "Target Groups per Network Load Balancer",
        "Load balancers per target group",
        "Security groups per network interface",
        "Network interfaces per Region",
    }


def test_troubleshooting_begins_at_every_warning() -> None:
    section = DOC.split("## Troubleshooting")[1]
    told = set(re.findall(r"`([A-Z][A-Za-z0-9]+)`", section))
    ours = {reason.reason for reason in lbprov_aws.SPEC.reasons if reason.severity is Severity.WARNING}
    assert ours - told == set()
    assert {str(Reason.NO_NODES), str(Reason.SYNC_FAILED), str(Reason.DELETE_FAILED)} <= told
    known = {reason.reason for reason in lbprov_aws.SPEC.reasons} | {str(reason) for reason in Reason}
    said = {word for word in told if re.fullmatch(r"(?:[A-Z][a-z]+){2,}(?:IP)?\w*", word)}
    assert said - known == set(), "no such reason"
