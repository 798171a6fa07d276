"""AWS's answers as records. Pure: from the SDK's plain dictionaries, no SDK here."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from lbprov_aws.resources import (
    HealthCheck,
    IngressRule,
    ListenerRecord,
    LoadBalancerRecord,
    SecurityGroupRecord,
    Subnet,
    Tags,
    TargetGroupRecord,
    ZoneRecord,
)

RULE_DESCRIPTION = "lbprov"
"""The mark of a rule of ours in a security group: rules have no tags that one listing would show."""

Answer = Mapping[str, Any]


def tags(pairs: Iterable[Answer]) -> Tags:
    """Attributes have the same shape."""
    return tuple(sorted((pair["Key"], pair["Value"]) for pair in pairs))


def load_balancer(answer: Answer, tags_: Tags = ()) -> LoadBalancerRecord:
    zones = [
        ZoneRecord(
            zone=zone["ZoneName"],
            subnet_id=zone.get("SubnetId", ""),
            allocation_id=next((a["AllocationId"] for a in _addresses(zone) if a.get("AllocationId")), ""),
            ips=tuple(
                address[field]
                for address in _addresses(zone)
                for field in ("IpAddress", "PrivateIPv4Address", "IPv6Address")
                if address.get(field)
            ),
        )
        for zone in answer["AvailabilityZones"]
    ]
    return LoadBalancerRecord(
        arn=answer["LoadBalancerArn"],
        name=answer["LoadBalancerName"],
        dns_name=answer["DNSName"],
        internal=answer.get("Scheme") == "internal",
        state=answer.get("State", {}).get("Code", ""),
        ip_address_type=answer.get("IpAddressType", "ipv4"),
        vpc_id=answer["VpcId"],
        zones=tuple(sorted(zones, key=lambda z: z.zone)),
        security_groups=tuple(answer.get("SecurityGroups", ())),
        tags=tags_,
        created_at=_moment(answer.get("CreatedTime")),
        private_link=answer.get("EnforceSecurityGroupInboundRulesOnPrivateLinkTraffic") != "off",
    )


def _moment(time: datetime | None) -> str:
    """RFC 3339, to the millisecond, so that of two the order can be told."""
    return time.astimezone(UTC).isoformat(timespec="milliseconds")[:-6] + "Z" if time else ""


def _addresses(zone: Answer) -> list[Answer]:
    return zone.get("LoadBalancerAddresses") or []


def listener(answer: Answer) -> ListenerRecord:
    """The target group of the one action that a Network Load Balancer's listener has."""
    actions = answer.get("DefaultActions") or [{}]
    plain = ListenerRecord(
        arn=answer["ListenerArn"],
        port=int(answer["Port"]),
        protocol=answer["Protocol"],
        target_group_arn=actions[0].get("TargetGroupArn", ""),
    )
    if plain.protocol != "TLS":
        return plain
    certificates = answer.get("Certificates") or [{}]
    alpn = (answer.get("AlpnPolicy") or [""])[0]
    return dataclasses.replace(
        plain,
        certificate=certificates[0].get("CertificateArn", ""),
        policy=answer.get("SslPolicy", ""),
        alpn="" if alpn == "None" else alpn,
    )


def more_certificates(answers: Iterable[Answer]) -> frozenset[str]:
    """Those for SNI of DescribeListenerCertificates, which lists the default one too."""
    return frozenset(a["CertificateArn"] for a in answers if not a.get("IsDefault"))


def target_group(answer: Answer, tags_: Tags = ()) -> TargetGroupRecord:
    protocol = answer.get("HealthCheckProtocol", "")
    check = HealthCheck(
        protocol=protocol,
        port=str(answer.get("HealthCheckPort", "")),
        path=answer.get("HealthCheckPath") or "" if protocol.startswith("HTTP") else "",
        interval_s=int(answer.get("HealthCheckIntervalSeconds", 0)),
        timeout_s=int(answer.get("HealthCheckTimeoutSeconds", 0)),
        healthy=int(answer.get("HealthyThresholdCount", 0)),
        unhealthy=int(answer.get("UnhealthyThresholdCount", 0)),
        codes=answer.get("Matcher", {}).get("HttpCode", "") if protocol.startswith("HTTP") else "",
    )
    return TargetGroupRecord(
        arn=answer["TargetGroupArn"],
        name=answer["TargetGroupName"],
        protocol=answer.get("Protocol", ""),
        port=int(answer.get("Port", 0)),
        vpc_id=answer.get("VpcId", ""),
        health_check=check,
        tags=tags_,
        target_type=answer.get("TargetType") or "instance",
    )


def targets(answer: Iterable[Answer]) -> frozenset[str]:
    """Instance ids of DescribeTargetHealth. Those that are draining are gone already as far as we care."""
    return frozenset(
        entry["Target"]["Id"] for entry in answer if entry.get("TargetHealth", {}).get("State") != "draining"
    )


def security_group(answer: Answer) -> SecurityGroupRecord:
    ours: set[IngressRule] = set()
    foreign: set[IngressRule] = set()
    others = 0
    for permission in answer.get("IpPermissions", ()):
        others += len(permission.get("UserIdGroupPairs", ()))
        for entry in _sources(permission):
            source = entry.get("CidrIp") or entry.get("CidrIpv6") or entry["PrefixListId"]
            rule = _rule(permission, source)
            if rule is None:
                others += 1
            elif entry.get("Description", "").startswith(RULE_DESCRIPTION):
                ours.add(rule)
            else:
                foreign.add(rule)
    return SecurityGroupRecord(
        group_id=answer["GroupId"],
        name=answer["GroupName"],
        vpc_id=answer.get("VpcId", ""),
        rules=frozenset(ours),
        foreign_rules=frozenset(foreign),
        other_rules=others,
        tags=tags(answer.get("Tags", ())),
    )


_SOURCES = (("IpRanges", "CidrIp"), ("Ipv6Ranges", "CidrIpv6"), ("PrefixListIds", "PrefixListId"))


def _sources(permission: Answer) -> list[Answer]:
    return [entry for field, _ in _SOURCES for entry in permission.get(field, ())]


_ICMP_CODES = {("icmp", 3): 4, ("icmpv6", 2): 0}
"""(Protocol, type) of the messages that path MTU discovery needs, and their code."""


def _rule(permission: Answer, source: str) -> IngressRule | None:
    """None for a rule of a shape that we never make (a range of ports, another protocol)."""
    protocol, first, last = permission["IpProtocol"], permission.get("FromPort"), permission.get("ToPort")
    protocol = {"58": "icmpv6", "1": "icmp"}.get(protocol, protocol)
    if first is None or last is None:
        return None
    if protocol in ("icmp", "icmpv6"):
        known = _ICMP_CODES.get((protocol, int(first))) == int(last)
        return IngressRule(protocol, int(first), source) if known else None
    if protocol not in ("tcp", "udp") or first != last:
        return None
    return IngressRule(protocol, int(first), source)


def permissions(rules: Iterable[IngressRule], description: str = "") -> list[dict[str, Any]]:
    """Rules as EC2's IpPermissions, one per protocol and port. A rule is found without its description."""
    described = {"Description": description} if description else {}
    grouped: dict[tuple[str, int], dict[str, Any]] = {}
    for rule in sorted(rules):
        last = _ICMP_CODES.get((rule.protocol, rule.port), rule.port)
        permission = grouped.setdefault(
            (rule.protocol, rule.port),
            {"IpProtocol": rule.protocol, "FromPort": rule.port, "ToPort": last},
        )
        sources, field = _SOURCES[2 if rule.cidr.startswith("pl-") else ":" in rule.cidr]
        permission.setdefault(sources, []).append({field: rule.cidr, **described})
    return list(grouped.values())


def subnet(answer: Answer, *, public: bool) -> Subnet:
    associations = answer.get("Ipv6CidrBlockAssociationSet", ())
    return Subnet(
        subnet_id=answer["SubnetId"],
        zone=answer["AvailabilityZone"],
        vpc_id=answer["VpcId"],
        cidr=answer["CidrBlock"],
        ipv6_cidrs=tuple(a["Ipv6CidrBlock"] for a in associations if _is_associated(a)),
        public=public,
        free_ips=int(answer.get("AvailableIpAddressCount", 0)),
        tags=tags(answer.get("Tags", ())),
    )


def _is_associated(association: Answer) -> bool:
    state = association.get("Ipv6CidrBlockState", {}).get("State", "associated")
    return bool(state == "associated")


def public_subnets(route_tables: Iterable[Answer], subnet_ids: Iterable[str]) -> frozenset[str]:
    """The subnets of a VPC whose route table has a default route to an internet gateway. A subnet that is
    associated with no table uses the VPC's main one ("Subnet route tables", VPC user guide)."""
    by_subnet: dict[str, bool] = {}
    main = False
    for table in route_tables:
        open_ = any(
            str(route.get("GatewayId", "")).startswith("igw-")
            and route.get("DestinationCidrBlock", route.get("DestinationIpv6CidrBlock"))
            in ("0.0.0.0/0", "::/0")
            for route in table.get("Routes", ())
        )
        for association in table.get("Associations", ()):
            if association.get("Main"):
                main = open_
            elif association.get("SubnetId"):
                by_subnet[association["SubnetId"]] = open_
    return frozenset(subnet_id for subnet_id in subnet_ids if by_subnet.get(subnet_id, main))
