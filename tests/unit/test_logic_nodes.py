"""Which Nodes take traffic."""

from typing import Any

import pytest

from lbprov.logic.nodes import EXCLUDE_LABEL, is_target, targets_of
from lbprov.model import ZONE_LABEL, Node, NodeAddress, Taint, Target


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param({}, True, id="plain"),
        pytest.param({"ready": False}, True, id="not-ready-stays"),
        pytest.param({"unschedulable": True}, True, id="cordoned-stays"),
        pytest.param({"provider_id": ""}, True, id="no-provider-id"),
        pytest.param({"deleted_at": "2026-01-01T00:00:00Z"}, False, id="deleting"),
        pytest.param({"labels": {EXCLUDE_LABEL: ""}}, False, id="excluded-empty"),
        pytest.param({"labels": {EXCLUDE_LABEL: "true"}}, False, id="excluded-true"),
        pytest.param({"labels": {EXCLUDE_LABEL: "no"}}, False, id="excluded-no-is-not-false"),
        pytest.param({"labels": {EXCLUDE_LABEL: "false"}}, True, id="excluded-false"),
        pytest.param({"labels": {EXCLUDE_LABEL: "0"}}, True, id="excluded-0"),
        pytest.param({"labels": {EXCLUDE_LABEL: "fALSE"}}, False, id="excluded-odd-case-is-not-false"),
        pytest.param({"labels": {"node-role.kubernetes.io/control-plane": ""}}, True, id="control-plane"),
        pytest.param({"taints": (Taint("a", "NoSchedule"),)}, True, id="any-taint"),
        pytest.param(
            {"taints": (Taint("ToBeDeletedByClusterAutoscaler", "NoExecute"),)},
            False,
            id="autoscaler-any-effect",
        ),
        pytest.param({"taints": (Taint("karpenter.sh/disrupted", "NoSchedule"),)}, False, id="karpenter"),
        pytest.param(
            {"taints": (Taint("karpenter.sh/disrupted", "NoExecute"),)}, True, id="karpenter-other-effect"
        ),
    ],
)
def test_is_target(fields: dict[str, Any], expected: bool) -> None:
    assert is_target(Node("node-1", **fields)) is expected


def test_targets_are_sorted_and_carry_what_providers_need() -> None:
    nodes = [
        Node("b"),
        Node(
            "a",
            provider_id="aws:///z/i-1",
            addresses=(
                NodeAddress("ExternalIP", "203.0.113.1"),
                NodeAddress("InternalIP", "10.0.0.1"),
                NodeAddress("Hostname", "a"),
            ),
            labels={ZONE_LABEL: "z"},
        ),
        Node("c", deleted_at="2026-01-01T00:00:00Z"),
    ]
    labels = {ZONE_LABEL: "z"}
    first = Target("a", "aws:///z/i-1", ("10.0.0.1", "203.0.113.1"), "z", labels)
    assert targets_of(nodes) == (first, Target("b"))
