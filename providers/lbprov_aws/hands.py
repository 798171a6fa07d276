"""What every write needs: AWS, what we know of it, and the check whose a resource is."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TypeVar

from lbprov.api import Owner, RetryLater
from lbprov_aws import ec2, elbv2, names
from lbprov_aws.address_book import AddressBook
from lbprov_aws.cloud import Cloud
from lbprov_aws.inventory import Inventory, conflict
from lbprov_aws.refused import Refusals
from lbprov_aws.rejected import RejectedTargets
from lbprov_aws.resources import (
    LoadBalancerRecord,
    SecurityGroupRecord,
    TargetGroupRecord,
    as_tags,
    owner_of,
)

R = TypeVar("R", LoadBalancerRecord, TargetGroupRecord, SecurityGroupRecord)


@dataclasses.dataclass(frozen=True, slots=True)
class Hands:
    cloud: Cloud
    inventory: Inventory
    addresses: AddressBook
    rejected: RejectedTargets
    refusals: Refusals
    bindings: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Of the plan under way: step id -> ARN or group id."""

    def own(self, key: str, owner: Owner, kind: type[R]) -> R:
        """A resource that may be changed: it bears the owner's mark. Raises otherwise (`require_own`)."""
        record = self.inventory.require_own(key, owner)
        assert isinstance(record, kind), f"{key} is no {kind.__name__}"
        return record

    def adopt(self, owner: Owner, name: str, found: R | None) -> R:
        """What was in the way of a create: our own, from a create whose answer was lost, or somebody else's.
        Raises `UserError` if it is somebody else's."""
        if found is None:
            raise RetryLater(f"{name} exists and cannot be seen yet: looking again", 2)
        if not isinstance(found, SecurityGroupRecord):
            tags = elbv2.tags(self.cloud, [found.arn]).get(found.arn, ())
            found = dataclasses.replace(found, tags=tags)
        if owner_of(found) != owner and isinstance(found, SecurityGroupRecord):
            found = self._marked_again(owner, found)
        if owner_of(found) != owner:
            raise conflict(name, found.tags)
        self.inventory.put_found(found)
        return found

    def _marked_again(self, owner: Owner, group: SecurityGroupRecord) -> SecurityGroupRecord:
        """Groups are listed by a mark, so that one which lost that is met by its name only."""
        if not names.has_lost_marks(group.name, dict(group.tags), owner):
            return group
        marks = as_tags(names.marks(owner, "sg"))
        ec2.set_tags(self.cloud, group.group_id, marks)
        return dataclasses.replace(group, tags=as_tags({**dict(group.tags), **dict(marks)}))
