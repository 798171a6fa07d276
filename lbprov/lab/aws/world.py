"""A small network in the server's AWS, to put nodes in: a VPC, a public subnet and some instances per zone.

Also the eye of the tests and the demo: what load balancers there are, and what was left behind.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import boto3
import botocore.session
from botocore.config import Config

from lbprov.lab.aws import defaults
from lbprov.lab.aws.server import MotoServer

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_elbv2 import ElasticLoadBalancingv2Client

ZONE_LETTERS = "abcdef"


@dataclass(frozen=True, slots=True)
class ListenerView:
    """`targets`: instance ids registered behind it, sorted."""

    port: int
    protocol: str
    target_port: int
    targets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LoadBalancerView:
    """A load balancer as somebody with the AWS console sees it. `addresses`: the fixed ones only."""

    name: str
    arn: str
    dns_name: str
    scheme: str
    zones: tuple[str, ...]
    addresses: tuple[str, ...]
    listeners: tuple[ListenerView, ...]
    source_ranges: tuple[str, ...]
    tags: Mapping[str, str] = field(default_factory=dict, hash=False)


Inventory = frozenset[str]
"""A line per load balancer, listener, target group, security group and used address."""


class AwsWorld:
    """One VPC with its nodes. Make one with `AwsWorld.create`."""

    def __init__(self, server: MotoServer) -> None:
        self.server = server
        self.ec2: EC2Client = client(server, "ec2")
        self.elbv2: ElasticLoadBalancingv2Client = client(server, "elbv2")
        self.vpc_id = ""
        self.subnet_ids: dict[str, str] = {}
        """Zone -> its public subnet."""
        self.provider_ids: dict[str, str] = {}
        """Node name -> `aws:///eu-west-1a/i-…`."""
        self.node_zones: dict[str, str] = {}
        self.baseline: Inventory = frozenset()

    @classmethod
    def create(cls, server: MotoServer, zones: int = 3, nodes: int | Sequence[str] = 3) -> AwsWorld:
        """A VPC 10.0.0.0/16 with an internet gateway, a public subnet in each of `zones` zones, and an
        instance per node, dealt to the zones in turn (an int makes node-1, node-2, …)."""
        world = cls(server)
        world.vpc_id = world.ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
        gateway = world.ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
        world.ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=world.vpc_id)
        table = world.ec2.create_route_table(VpcId=world.vpc_id)["RouteTable"]["RouteTableId"]
        world.ec2.create_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", GatewayId=gateway)
        for number in range(zones):
            zone = server.region + ZONE_LETTERS[number]
            subnet_id = world.add_subnet(zone, f"10.0.{number}.0/24")
            world.ec2.associate_route_table(RouteTableId=table, SubnetId=subnet_id)
            world.subnet_ids[zone] = subnet_id
        names = [f"node-{n + 1}" for n in range(nodes)] if isinstance(nodes, int) else nodes
        for number, name in enumerate(names):
            world.add_node(name, list(world.subnet_ids)[number % zones])
        world.baseline = world.inventory()
        return world

    def add_subnet(self, zone: str, cidr: str, tags: Mapping[str, str] | None = None) -> str:
        """A subnet without a route out: private until a route table says otherwise."""
        made = self.ec2.create_subnet(VpcId=self.vpc_id, CidrBlock=cidr, AvailabilityZone=zone)
        subnet_id = made["Subnet"]["SubnetId"]
        if tags:
            self.ec2.create_tags(
                Resources=[subnet_id], Tags=[{"Key": k, "Value": v} for k, v in tags.items()]
            )
        return subnet_id

    def add_ipv6(self) -> None:
        """An IPv6 range for the VPC and for each of its public subnets."""
        self.ec2.associate_vpc_cidr_block(VpcId=self.vpc_id, AmazonProvidedIpv6CidrBlock=True)
        (vpc,) = self.ec2.describe_vpcs(VpcIds=[self.vpc_id])["Vpcs"]
        block = vpc["Ipv6CidrBlockAssociationSet"][0]["Ipv6CidrBlock"]
        ranges = ipaddress.IPv6Network(block).subnets(new_prefix=64)
        for subnet_id, cidr in zip(self.subnet_ids.values(), ranges, strict=False):
            self.ec2.associate_subnet_cidr_block(SubnetId=subnet_id, Ipv6CidrBlock=str(cidr))

    def add_node(self, name: str, zone: str = "") -> str:
        """A running instance; returns its provider id."""
        zone = zone or next(iter(self.subnet_ids))
        made = self.ec2.run_instances(
            ImageId="ami-12c6146b",
            MinCount=1,
            MaxCount=1,
            SubnetId=self.subnet_ids[zone],
            TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": name}]}],
        )
        self.provider_ids[name] = f"aws:///{zone}/{made['Instances'][0]['InstanceId']}"
        self.node_zones[name] = zone
        return self.provider_ids[name]

    def instance_id(self, node: str) -> str:
        return self.provider_ids[node].rpartition("/")[2]

    def allocate_address(self, ip: str, tags: Mapping[str, str] | None = None) -> str:
        """An Elastic IP of that very address; returns its allocation id."""
        specification: list[Any] = []
        if tags:
            pairs = [{"Key": k, "Value": v} for k, v in tags.items()]
            specification = [{"ResourceType": "elastic-ip", "Tags": pairs}]
        made = self.ec2.allocate_address(Domain="vpc", Address=ip, TagSpecifications=specification)
        return made["AllocationId"]

    def load_balancers(self) -> tuple[LoadBalancerView, ...]:
        """All of them, sorted by name."""
        pages = self.elbv2.get_paginator("describe_load_balancers").paginate()
        return tuple(sorted((self._view(b) for p in pages for b in p["LoadBalancers"]), key=lambda v: v.name))

    def _view(self, balancer: Any) -> LoadBalancerView:
        arn = balancer["LoadBalancerArn"]
        listeners = self.elbv2.describe_listeners(LoadBalancerArn=arn)["Listeners"]
        return LoadBalancerView(
            name=balancer["LoadBalancerName"],
            arn=arn,
            dns_name=balancer["DNSName"],
            scheme=balancer.get("Scheme", ""),
            zones=_zones(balancer),
            addresses=_addresses(balancer),
            listeners=tuple(
                sorted((self._listener(x) for x in listeners), key=lambda v: (v.port, v.protocol))
            ),
            source_ranges=self._source_ranges(balancer.get("SecurityGroups", [])),
            tags=self._tags(arn),
        )

    def _tags(self, arn: str) -> dict[str, str]:
        tags = self.elbv2.describe_tags(ResourceArns=[arn])["TagDescriptions"][0]["Tags"]
        return {tag["Key"]: tag["Value"] for tag in tags}

    def _listener(self, listener: Any) -> ListenerView:
        group = listener["DefaultActions"][0]["TargetGroupArn"]
        health = self.elbv2.describe_target_health(TargetGroupArn=group)["TargetHealthDescriptions"]
        return ListenerView(
            port=listener["Port"],
            protocol=listener["Protocol"],
            target_port=self.elbv2.describe_target_groups(TargetGroupArns=[group])["TargetGroups"][0]["Port"],
            targets=_registered(health),
        )

    def _source_ranges(self, group_ids: Sequence[str]) -> tuple[str, ...]:
        if not group_ids:
            return ()
        groups = self.ec2.describe_security_groups(GroupIds=list(group_ids))["SecurityGroups"]
        rules = [rule for group in groups for rule in group["IpPermissions"]]
        ranges = {r["CidrIp"] for rule in rules for r in rule["IpRanges"]}
        ranges |= {r["CidrIpv6"] for rule in rules for r in rule["Ipv6Ranges"]}
        return tuple(sorted(ranges))

    def inventory(self) -> Inventory:
        """Everything that a load balancer may consist of, whoever made it, with what it does. Equal for
        equal worlds: without ids, times and addresses of AWS's choice."""
        groups = {g["TargetGroupArn"]: g for g in self._pages("describe_target_groups", "TargetGroups")}
        found: set[str] = set()
        for balancer in self._pages("describe_load_balancers", "LoadBalancers"):
            found |= self._balancer_lines(balancer, groups)
        found |= {self._target_group_line(group) for group in groups.values()}
        for page in self.ec2.get_paginator("describe_security_groups").paginate():
            found |= {_security_group_line(group) for group in page["SecurityGroups"]}
        used = (a for a in self.ec2.describe_addresses()["Addresses"] if a.get("AssociationId"))
        return frozenset(found | {f"used address {a['PublicIp']}" for a in used})

    def _pages(self, operation: Any, key: str) -> list[Any]:
        return [item for page in self.elbv2.get_paginator(operation).paginate() for item in page[key]]

    def _balancer_lines(self, balancer: Any, groups: Mapping[str, Any]) -> set[str]:
        arn, name = balancer["LoadBalancerArn"], balancer["LoadBalancerName"]
        answer = self.elbv2.describe_load_balancer_attributes(LoadBalancerArn=arn)["Attributes"]
        attributes = {a["Key"]: str(a["Value"]) for a in answer}
        cross = attributes.pop("load_balancing.cross_zone.enabled")
        more = _pairs(defaults.changed(attributes, defaults.of_balancer(balancer.get("Scheme", ""))))
        link = balancer.get("EnforceSecurityGroupInboundRulesOnPrivateLinkTraffic", "on")
        lines = {
            f"load balancer {name}: {balancer.get('Scheme', '')} in {' '.join(_zones(balancer))} "
            f"at {' '.join(_addresses(balancer))}, cross-zone {cross}, tags {_pairs(self._tags(arn))}, "
            f"{balancer['IpAddressType']}, {len(balancer.get('SecurityGroups', ()))} security groups, "
            f"PrivateLink {link}, {more}"
        }
        for listener in self.elbv2.describe_listeners(LoadBalancerArn=arn)["Listeners"]:
            group = groups[listener["DefaultActions"][0]["TargetGroupArn"]]["TargetGroupName"]
            spoken = self._spoken(listener) if listener["Protocol"] == "TLS" else self._idle(listener)
            lines.add(f"listener {name} {listener['Port']}/{listener['Protocol']}: to {group}{spoken}")
        return lines

    def _idle(self, listener: Any) -> str:
        answer: Any = self.elbv2.describe_listener_attributes(ListenerArn=listener["ListenerArn"])
        found = defaults.changed({a["Key"]: a["Value"] for a in answer["Attributes"]}, defaults.OF_LISTENER)
        return "".join(f", {key} {value}" for key, value in found.items())

    def _spoken(self, listener: Any) -> str:
        answer = self.elbv2.describe_listener_certificates(ListenerArn=listener["ListenerArn"])[
            "Certificates"
        ]
        default = " ".join(c["CertificateArn"] for c in answer if c["IsDefault"])
        others = " ".join(sorted(c["CertificateArn"] for c in answer if not c["IsDefault"]))
        return f", {listener['SslPolicy']}, {default}, SNI {others}"

    def _target_group_line(self, group: Any) -> str:
        arn = group["TargetGroupArn"]
        health = self.elbv2.describe_target_health(TargetGroupArn=arn)["TargetHealthDescriptions"]
        answer = self.elbv2.describe_target_group_attributes(TargetGroupArn=arn)["Attributes"]
        attributes = {a["Key"]: str(a["Value"]) for a in answer}
        sticky = attributes.pop("stickiness.enabled", "false")
        more = _pairs(defaults.changed(attributes, defaults.of_group(group["Protocol"])))
        # What is left from another protocol says nothing.
        http = group["HealthCheckProtocol"].startswith("HTTP")
        kept = [
            key for key in sorted(group) if key.startswith("Health") and (http or key != "HealthCheckPath")
        ]
        check = " ".join(str(group[key]) for key in kept)
        check += f" {group['Matcher']['HttpCode']}" if http else ""
        targets = " ".join(_registered(health))
        return (
            f"target group {group['TargetGroupName']}: {group['Protocol']} {group['Port']}, checked {check}, "
            f"sticky {sticky}, targets {targets}, {more}"
        )

    def leftovers(self) -> tuple[str, ...]:
        """What there is beyond the baseline (taken at `create`)."""
        return tuple(sorted(self.inventory() - self.baseline))


def _zones(balancer: Any) -> tuple[str, ...]:
    return tuple(sorted(zone["ZoneName"] for zone in balancer["AvailabilityZones"]))


def _addresses(balancer: Any) -> tuple[str, ...]:
    """The fixed ones."""
    found = [a for zone in balancer["AvailabilityZones"] for a in zone.get("LoadBalancerAddresses", [])]
    return tuple(a.get("IpAddress") or a.get("PrivateIPv4Address", "") for a in found)


def _registered(health: Sequence[Any]) -> tuple[str, ...]:
    """Instance ids; those that drain have left."""
    there = (target for target in health if target["TargetHealth"]["State"] != "draining")
    return tuple(sorted(target["Target"]["Id"] for target in there))


def _security_group_line(group: Any) -> str:
    rules = sorted(
        f"{rule['IpProtocol']}/{rule.get('FromPort', '*')} {entry.get('CidrIp') or entry.get('CidrIpv6')}"
        for rule in group["IpPermissions"]
        for entry in (*rule["IpRanges"], *rule["Ipv6Ranges"])
    )
    tags = _pairs({tag["Key"]: tag["Value"] for tag in group.get("Tags", [])})
    return f"security group {group['VpcId']} {group['GroupName']}: {', '.join(rules)}, tags {tags}"


def _pairs(tags: Mapping[str, str]) -> str:
    """Without our notes to ourselves."""
    return " ".join(f"{key}={value}" for key, value in sorted(tags.items()) if key != "lbprov/sealed")


def client(server: MotoServer, service: str) -> Any:
    """A boto3 client of the server, whatever the environment says."""
    environment = server.environment
    # No variable names a profile to this session, so that the user's cannot be one that does not exist.
    nobodys = botocore.session.Session(session_vars={"profile": (None, [], None, None)})
    return boto3.Session(botocore_session=nobodys).client(
        service,  # type: ignore[call-overload, unused-ignore]
        region_name=server.region,
        endpoint_url=server.endpoint_url,
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        config=Config(proxies={}, retries={"total_max_attempts": 1, "mode": "standard"}),
    )
