"""moto without a look-up that walks the tags of everything for the tags of one resource.

A listing of security groups by tag asks for the tags of each: with a thousand load balancers that is millions
of regular expressions, minutes of them when all are deleted.
"""

from __future__ import annotations

from typing import Any

from moto.ec2.models.core import TaggedEC2Resource
from moto.ec2.utils import EC2_PREFIX_TO_RESOURCE, get_prefix


def tags_of(resource: Any) -> list[dict[str, str]]:
    """What moto's own `TaggedEC2Resource.get_tags` answers."""
    if not resource.id:
        return []
    kind = EC2_PREFIX_TO_RESOURCE.get(get_prefix(resource.id), "")
    tags = resource.ec2_backend.tags.get(resource.id, {})
    return [
        {"resource_id": resource.id, "key": key, "value": value, "resource_type": kind}
        for key, value in tags.items()
    ]


def install() -> None:
    moto_class: Any = TaggedEC2Resource
    moto_class.get_tags = tags_of
