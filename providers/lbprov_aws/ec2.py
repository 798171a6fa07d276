"""EC2, call by call: security groups, addresses, subnets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lbprov_aws import decode
from lbprov_aws.cloud import EC2, Cloud
from lbprov_aws.elbv2 import ignoring_gone
from lbprov_aws.names import CLUSTER, UID
from lbprov_aws.refusals import Denied
from lbprov_aws.resources import IngressRule, SecurityGroupRecord, Subnet, Tags


@dataclass(frozen=True, slots=True)
class ElasticIp:
    """An Elastic IP of this account and region. `interface` and `instance` empty: nobody has it. `purpose`:
    the interface's description, where somebody looked."""

    ip: str
    allocation_id: str
    domain: str = "vpc"
    border_group: str = ""
    associated: bool = False
    interface: str = ""
    instance: str = ""
    purpose: str = ""


def security_groups(cloud: Cloud, cluster: str, uid: str = "") -> list[SecurityGroupRecord]:
    """A cluster's, or one Service's, by their marks."""
    filters = [{"Name": f"tag:{CLUSTER}", "Values": [cluster]}]
    if uid:
        filters.append({"Name": f"tag:{UID}", "Values": [uid]})
    return _security_groups(cloud, filters)


def security_group_named(cloud: Cloud, name: str, vpc_id: str) -> SecurityGroupRecord | None:
    filters = [{"Name": "group-name", "Values": [name]}, {"Name": "vpc-id", "Values": [vpc_id]}]
    return next(iter(_security_groups(cloud, filters)), None)


def security_groups_with_ids(cloud: Cloud, group_ids: Iterable[str]) -> list[SecurityGroupRecord]:
    """Those of them that exist."""
    ids = sorted(group_ids)
    return _security_groups(cloud, [{"Name": "group-id", "Values": ids}]) if ids else []


def security_group(cloud: Cloud, group_id: str) -> SecurityGroupRecord | None:
    return next(iter(_security_groups(cloud, [{"Name": "group-id", "Values": [group_id]}])), None)


def _security_groups(cloud: Cloud, filters: Sequence[Mapping[str, object]]) -> list[SecurityGroupRecord]:
    answers = cloud.pages(EC2, "DescribeSecurityGroups", "SecurityGroups", Filters=list(filters))
    return [decode.security_group(answer) for answer in answers]


def named_groups(cloud: Cloud, wishes: Iterable[str], vpc_id: str) -> dict[str, str]:
    """Ids of the security groups of a VPC, by id and by the value of their tag Name."""
    found: dict[str, str] = {}
    ids = [wish for wish in wishes if wish.startswith("sg-")]
    tagged = [wish for wish in wishes if not wish.startswith("sg-")]
    for name, values in (("group-id", ids), ("tag:Name", tagged)):
        if values:
            filters = [{"Name": name, "Values": values}, {"Name": "vpc-id", "Values": [vpc_id]}]
            answers = cloud.pages(EC2, "DescribeSecurityGroups", "SecurityGroups", Filters=filters)
            for answer in sorted(answers, key=lambda a: str(a["GroupId"])):
                tag = dict(decode.tags(answer.get("Tags", ()))).get("Name", "")
                found.setdefault(answer["GroupId"] if name == "group-id" else tag, answer["GroupId"])
    return found


def create_security_group(
    cloud: Cloud, *, name: str, vpc_id: str, description: str, tags: Tags
) -> SecurityGroupRecord:
    pairs = [{"Key": key, "Value": value} for key, value in tags]
    answer = cloud.call(
        EC2,
        "CreateSecurityGroup",
        GroupName=name,
        Description=description,
        VpcId=vpc_id,
        TagSpecifications=[{"ResourceType": "security-group", "Tags": pairs}],
    )
    return SecurityGroupRecord(answer["GroupId"], name, vpc_id, tags=tags)


def allow_ingress(cloud: Cloud, group_id: str, rules: Iterable[IngressRule], description: str) -> None:
    """All of them or none."""
    permissions = decode.permissions(rules, description)
    cloud.call(EC2, "AuthorizeSecurityGroupIngress", GroupId=group_id, IpPermissions=permissions)


def revoke_ingress(cloud: Cloud, group_id: str, rules: Iterable[IngressRule]) -> None:
    """All of them or none."""
    permissions = decode.permissions(rules)
    cloud.call(EC2, "RevokeSecurityGroupIngress", GroupId=group_id, IpPermissions=permissions)


def describe_rules(cloud: Cloud, group_id: str, rules: Iterable[IngressRule], description: str) -> None:
    """Rules that exist get this description."""
    permissions = decode.permissions(rules, description)
    cloud.call(EC2, "UpdateSecurityGroupRuleDescriptionsIngress", GroupId=group_id, IpPermissions=permissions)


def delete_security_group(cloud: Cloud, group_id: str) -> None:
    """Gone already is fine."""
    with ignoring_gone():
        cloud.call(EC2, "DeleteSecurityGroup", GroupId=group_id)


def set_tags(cloud: Cloud, group_id: str, set_: Tags) -> None:
    pairs = [{"Key": key, "Value": value} for key, value in set_]
    cloud.call(EC2, "CreateTags", Resources=[group_id], Tags=pairs)


def remove_tags(cloud: Cloud, group_id: str, keys: Iterable[str]) -> None:
    cloud.call(EC2, "DeleteTags", Resources=[group_id], Tags=[{"Key": key} for key in keys])


def elastic_ips(cloud: Cloud, filter_: str, values: Sequence[str]) -> tuple[ElasticIp, ...]:
    """Asked for by a filter ("public-ip", "allocation-id", "tag:KEY"): by parameters of their own, one
    unknown address would be an error. Sorted by allocation id."""
    return elastic_ips_of(cloud, [{"Name": filter_, "Values": list(values)}])


def elastic_ips_of(cloud: Cloud, filters: Sequence[Mapping[str, object]]) -> tuple[ElasticIp, ...]:
    answers = cloud.call(EC2, "DescribeAddresses", Filters=list(filters))["Addresses"]
    return tuple(sorted(map(_elastic_ip, answers), key=lambda found: found.allocation_id))


def _elastic_ip(answer: Mapping[str, Any]) -> ElasticIp:
    # Absent and empty mean the same in all of these.
    interface, instance = answer.get("NetworkInterfaceId") or "", answer.get("InstanceId") or ""
    return ElasticIp(
        ip=answer["PublicIp"],
        allocation_id=answer.get("AllocationId") or "",
        domain=answer.get("Domain") or "vpc",
        border_group=answer.get("NetworkBorderGroup") or "",
        associated=bool(answer.get("AssociationId") or interface or instance),
        interface=interface,
        instance=instance,
    )


def interface_description(cloud: Cloud, interface_id: str) -> str:
    """What an interface is for, in its maker's words; empty where we may not see it."""
    filters = [{"Name": "network-interface-id", "Values": [interface_id]}]
    try:
        answers = cloud.call(EC2, "DescribeNetworkInterfaces", Filters=filters)["NetworkInterfaces"]
    except Denied:
        return ""
    return str(answers[0].get("Description", "")) if answers else ""


def vpc_of_instance(cloud: Cloud, instance_id: str) -> str:
    """Empty: there is no such instance."""
    filters = [{"Name": "instance-id", "Values": [instance_id]}]
    found = cloud.call(EC2, "DescribeInstances", Filters=filters)["Reservations"]
    instances = [instance for reservation in found for instance in reservation["Instances"]]
    return str(instances[0].get("VpcId", "")) if instances else ""


def subnets_of_vpc(cloud: Cloud, vpc_id: str) -> tuple[Subnet, ...]:
    """All of them, with what is known of their way out."""
    filters = [{"Name": "vpc-id", "Values": [vpc_id]}]
    answers = cloud.pages(EC2, "DescribeSubnets", "Subnets", Filters=filters)
    tables = cloud.pages(EC2, "DescribeRouteTables", "RouteTables", Filters=filters)
    public = decode.public_subnets(tables, [a["SubnetId"] for a in answers])
    return tuple(decode.subnet(a, public=a["SubnetId"] in public) for a in answers)


def subnets_named(cloud: Cloud, wishes: Iterable[str]) -> tuple[Subnet, ...]:
    """By id or by tag Name, wherever they are. `public` is not looked up: whoever names them knows."""
    ids = [wish for wish in wishes if wish.startswith("subnet-")]
    tagged = [wish for wish in wishes if not wish.startswith("subnet-")]
    found: dict[str, Subnet] = {}
    for name, values in (("subnet-id", ids), ("tag:Name", tagged)):
        if values:
            filters = [{"Name": name, "Values": values}]
            answers = cloud.pages(EC2, "DescribeSubnets", "Subnets", Filters=filters)
            found |= {a["SubnetId"]: decode.subnet(a, public=False) for a in answers}
    return tuple(found.values())
