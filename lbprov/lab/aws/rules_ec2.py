"""Rules of security groups and addresses."""

from __future__ import annotations

import re

from lbprov.lab.aws.call import Call, Refusal
from lbprov.lab.aws.rule import EC2_API, ec2, rule


@rule("a security group in use stays", EC2_API.format("DeleteSecurityGroup"), "DeleteSecurityGroup")
def _security_group_unused(call: Call) -> None:
    backend, group_id = ec2(call), call.get("GroupId")
    for interface in backend.enis.values():
        if any(group.id == group_id for group in interface._group_set):
            raise Refusal("DependencyViolation", f"resource {group_id} has a dependent object")
    for group in (g for groups in backend.groups.values() for g in groups.values()):
        rules = [*group.ingress_rules, *group.egress_rules]
        if group.id != group_id and any(r.source_group.get("GroupId") == group_id for r in rules):
            raise Refusal("DependencyViolation", f"resource {group_id} has a dependent object")


@rule("security group names", EC2_API.format("CreateSecurityGroup"), "CreateSecurityGroup")
def _security_group_text(call: Call) -> None:
    name, description = call.get("GroupName"), call.get("GroupDescription")
    if name.startswith("sg-"):
        raise Refusal("InvalidParameterValue", f"Group names may not be in the format sg-*: {name}")
    for text in (name, description):
        if not re.fullmatch(r"[A-Za-z0-9 ._\-:/()#,@\[\]+=&;{}!$*]{1,255}", text):
            raise Refusal("InvalidParameterValue", f"Character sets beyond ASCII are not supported: '{text}'")


@rule("an address in use is not released", EC2_API.format("ReleaseAddress"), "ReleaseAddress")
def _address_unused(call: Call) -> None:
    for address in ec2(call).addresses:
        if address.allocation_id == call.get("AllocationId") and address.association_id:
            raise Refusal("InvalidIPAddress.InUse", f"Address {address.public_ip} is in use.")
