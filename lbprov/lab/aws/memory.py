"""What AWS remembers and moto forgets: a Network Load Balancer's interfaces, addresses, ARN and DNS name.

`install` replaces three things in moto: the load balancer's class, its ARN and its deletion, and mends how it
tells of subnets' IPv6 ranges. The state lives on moto's own objects, so moto's reset resets it too.

Sources: the ELBv2 API's LoadBalancer and LoadBalancerAddress types; "Network Load Balancers: availability
zones" and "Elastic IP addresses" of the ELB user guide; DescribeNetworkInterfaces for how ELB describes its
interfaces ("ELB net/<name>/<id>").
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from moto.ec2.models import ec2_backends
from moto.ec2.models.subnets import Subnet
from moto.elbv2 import models as elbv2
from moto.elbv2.utils import make_arn_for_load_balancer

from lbprov.lab.aws import defaults
from lbprov.lab.aws.call import Call

_current: list[Call] = []
"""The call that moto is carrying out (one at a time)."""

_lingering: list[StrictLoadBalancer] = []
_linger = False


@contextlib.contextmanager
def during(call: Call) -> Iterator[None]:
    _current.append(call)
    try:
        yield
    finally:
        _current.pop()


@dataclass(frozen=True, slots=True)
class ZoneAddress:
    """LoadBalancerAddress of the ELBv2 API, in moto's spelling of attributes."""

    ip_address: str | None = None
    allocation_id: str | None = None
    private_i_pv4_address: str | None = None
    i_pv6_address: str | None = None


@dataclass(frozen=True, slots=True)
class Zone:
    """AvailabilityZone of the ELBv2 API."""

    subnet_id: str
    zone_name: str
    load_balancer_addresses: list[ZoneAddress]


class StrictLoadBalancer(elbv2.FakeLoadBalancer):
    """moto's load balancer with interfaces in its subnets, as Network Load Balancers have them."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.interfaces: list[Any] = []
        self.mappings: dict[str, dict[str, str]] = {}
        if self.type != "network" or not _current:
            return
        _, _, _, region, account, _ = self.arn.split(":", 5)
        self.ec2 = ec2_backends[account][region]
        self.attrs = defaults.of_balancer(self.scheme)
        short, identity = self.arn.rsplit("/", 2)[1:]
        self.dns_name = f"{self.name}-{identity}.elb.{region}.amazonaws.com"
        self.mappings = {m["SubnetId"]: m for m in _current[-1].structs("SubnetMappings.member")}
        for subnet in self.subnets:
            self._attach(subnet, f"ELB net/{short}/{identity}")

    def _attach(self, subnet: Any, description: str) -> None:
        mapping = self.mappings.get(subnet.id, {})
        interface = self.ec2.create_network_interface(
            subnet,
            mapping.get("PrivateIPv4Address", ""),
            group_ids=list(self.security_groups),
            description=description,
        )
        interface.requester_id = "amazon-elb"
        interface.requester_managed = True
        interface.interface_type = "network_load_balancer"
        interface.status = "in-use"
        self.interfaces.append(interface)
        if allocation_id := mapping.get("AllocationId"):
            self.ec2.associate_address(eni=interface, allocation_id=allocation_id)

    @property
    def availability_zones(self) -> list[Zone]:  # type: ignore[override]
        return [Zone(s.id, s.availability_zone, self._addresses(s)) for s in self.subnets]

    def _addresses(self, subnet: Any) -> list[ZoneAddress]:
        """Only addresses that were asked for are listed."""
        mapping = self.mappings.get(subnet.id, {})
        allocation_id = mapping.get("AllocationId")
        held = [a for a in self.ec2.addresses if a.allocation_id == allocation_id] if allocation_id else []
        address = ZoneAddress(
            held[0].public_ip if held else None,
            allocation_id,
            mapping.get("PrivateIPv4Address"),
            mapping.get("IPv6Address"),
        )
        return [address] if address != ZoneAddress() else []

    def release(self) -> None:
        """The interfaces go, and with them the hold on addresses and security groups."""
        for interface in self.interfaces:
            for address in self.ec2.addresses:
                if address.eni is interface:
                    self.ec2.disassociate_address(association_id=address.association_id)
            self.ec2.delete_network_interface(interface.id)
        self.interfaces = []


def _arn(*, account_id: str, lb_id: str, name: str, region_name: str) -> str:
    arn: str = make_arn_for_load_balancer(
        account_id=account_id, lb_id=lb_id, name=name, region_name=region_name
    )
    network = bool(_current) and _current[-1].get("Type") == "network"
    return arn.replace("loadbalancer/app/", "loadbalancer/net/") if network else arn


_moto_delete = elbv2.ELBv2Backend.delete_load_balancer


def _delete(backend: Any, arn: str) -> None:
    load_balancer = backend.load_balancers.get(arn)
    _moto_delete(backend, arn)
    if isinstance(load_balancer, StrictLoadBalancer) and load_balancer.interfaces:
        if _linger:
            _lingering.append(load_balancer)
        else:
            load_balancer.release()


def _ipv6_ranges(subnet: Any) -> list[dict[str, Any]]:
    """moto puts a whole dictionary where a state's name belongs."""
    return [
        {
            "associationId": association["associationId"],
            "ipv6CidrBlock": association["ipv6CidrBlock"],
            "ipv6CidrBlockState": {"state": association["ipv6CidrBlockState"]["State"]},
        }
        for association in subnet.ipv6_cidr_block_associations.values()
        if association["ipv6CidrBlockState"]["State"] == "associated"
    ]


def install() -> None:
    subnet_class: Any = Subnet
    subnet_class.ipv6_cidr_block_association_set = property(_ipv6_ranges)
    module: Any = elbv2
    module.FakeLoadBalancer = StrictLoadBalancer
    module.make_arn_for_load_balancer = _arn
    module.ELBv2Backend.delete_load_balancer = _delete


def linger(on: bool) -> None:
    """Whether interfaces outlive their load balancer; off releases those that did."""
    global _linger  # noqa: PLW0603 - one server, one world
    _linger = on
    while not on and _lingering:
        _lingering.pop().release()


def reset() -> None:
    global _linger  # noqa: PLW0603
    _linger = False
    _lingering.clear()
