"""Listings in pages, as AWS gives them, where moto gives all at once: target groups and listeners.

Sources: PageSize and Marker of DescribeTargetGroups and DescribeListeners, 1 to 400 items.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from moto.core.responses import ActionResult
from moto.elbv2.responses import ELBV2Response

MOST = 400


def paged(listing: Callable[[Any], Any], key: str) -> Callable[[Any], Any]:
    """moto's answer, cut: a marker is the ARN of the last item before it."""

    def answer(response: Any) -> Any:
        items = list(listing(response).result[key])
        marker = response._get_param("Marker")
        start = [item.arn for item in items].index(marker) + 1 if marker else 0
        end = start + response._get_int_param("PageSize", MOST)
        more = {"NextMarker": items[end - 1].arn} if end < len(items) else {}
        return ActionResult({key: items[start:end], **more})

    return answer


_moto = {"TargetGroups": ELBV2Response.describe_target_groups, "Listeners": ELBV2Response.describe_listeners}


def install() -> None:
    response: Any = ELBV2Response
    response.describe_target_groups = paged(_moto["TargetGroups"], "TargetGroups")
    response.describe_listeners = paged(_moto["Listeners"], "Listeners")
