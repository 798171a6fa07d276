"""What other controllers have made for a Service, looked up. The IO half of `plan_adoption`."""

from __future__ import annotations

import dataclasses

from lbprov.api import Adopt, LoadBalancer, Owner
from lbprov_aws import ec2, elbv2, names, peers
from lbprov_aws.cloud import Cloud
from lbprov_aws.inventory import Inventory
from lbprov_aws.peers import Found, Maker, Takeover
from lbprov_aws.resources import LoadBalancerRecord, SecurityGroupRecord

ASKED_AGE_S = 15.0
"""How old the answer may be where a Service asks for a load balancer to be taken over: to make a new one
would be wrong."""


class Adoptions:
    """Safe for threads."""

    def __init__(self, cloud: Cloud, inventory: Inventory) -> None:
        self._cloud = cloud
        self._inventory = inventory

    def found(self, desired: LoadBalancer) -> Found | None:
        """For a Service that has no load balancer of ours: one that another controller has made for it (and
        not for a former Service of its name, unless that is asked for). Raises `Denied` where it is asked for
        and we may not look."""
        if desired.adopt is Adopt.IGNORE:
            return None
        asked = desired.adopt is Adopt.TAKE_OVER
        max_age_s = min(ASKED_AGE_S, self._inventory.max_age_s) if asked else self._inventory.max_age_s
        found = self._inventory.made_by_others(desired.owner.service, max_age_s, required=asked)
        if found is None or (peers.is_of_another_uid(found, desired.owner) and not asked):
            return None
        return found

    def begun(self, balancer: LoadBalancerRecord, owner: Owner) -> Takeover | None:
        """The rest of a takeover whose load balancer is ours already."""
        tags = dict(balancer.tags)
        if names.ADOPTION not in tags:
            return None
        made_by = tags.get(names.ADOPTED, "")
        maker = next((m for m in Maker if names.tag_text(m) == made_by), Maker.CPA)
        return self.read(maker, balancer, owner)

    def read(self, maker: Maker, balancer: LoadBalancerRecord, owner: Owner) -> Takeover:
        """All of it, as it is at this moment."""
        arn = balancer.arn
        found = elbv2.listeners(self._cloud, arn)
        group_arns = sorted({x.target_group_arn for x in found if x.target_group_arn})
        tags = elbv2.tags(self._cloud, [arn, *(x.arn for x in found), *group_arns])
        groups = [
            dataclasses.replace(g, tags=tags.get(g.arn, ()))
            for g in elbv2.target_groups(self._cloud, group_arns)
        ]
        theirs = [g for g in groups if peers.is_of(g.tags, owner) or names.owner_of(dict(g.tags)) == owner]
        return Takeover(
            maker,
            dataclasses.replace(balancer, tags=tags.get(arn, ())),
            tuple((x, tags.get(x.arn, ())) for x in found),
            tuple(theirs),
            self._security_group(balancer, owner),
        )

    def _security_group(self, balancer: LoadBalancerRecord, owner: Owner) -> SecurityGroupRecord | None:
        for group in ec2.security_groups_with_ids(self._cloud, balancer.security_groups):
            was_theirs = peers.is_managed_group(group, owner, balancer.name)
            if was_theirs and names.owner_of(dict(group.tags)) in (None, owner):
                return group
        return None
