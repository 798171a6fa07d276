"""Our node agent beside the real kube-proxy of both modes, on one API server: `make differential`, in small.

Every case written by hand and a few random ones, with a quarter of the questions each. All are asked before
the first case looks at what was found.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lbprov.lab.controlplane import ControlPlane
from lbprov.lab.differential import cases, generate
from lbprov.lab.differential.case import Case
from lbprov.lab.differential.compare import Comparison
from lbprov.lab.differential.differences import DIFFERENCES
from lbprov.lab.differential.session import opened
from lbprov.lab.differential.world import OURS, THEIRS

CASES = cases.numbered([*cases.CASES, *generate.cases(seed=20, count=8)])
pytestmark = pytest.mark.timeout(600)  # the first test waits for all


@pytest.fixture(scope="module")
def _plane(untouched_plane: ControlPlane) -> ControlPlane:
    return untouched_plane


@pytest.fixture(scope="module")
def comparison(_plane: ControlPlane, kube_proxy: Path) -> Iterator[Comparison]:
    _plane.wait_ready()
    with opened(_plane, kube_proxy, [*THEIRS, *OURS], thin=True) as comparer:
        yield comparer.compare(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_does_what_kube_proxy_does(case: Case, comparison: Comparison) -> None:
    found = [str(finding) for finding in comparison.findings if finding.ask.case == case]
    assert not found, f"{case}\n" + "\n".join(found)


@pytest.mark.parametrize("name", [difference.name for difference in DIFFERENCES])
def test_no_difference_is_accepted_that_is_none(name: str, comparison: Comparison) -> None:
    """What is not met any more is to be taken off the list."""
    assert comparison.differences[name] > 0
