"""Rules of the addresses that a load balancer is made with."""

from __future__ import annotations

import ipaddress

from lbprov.lab.aws.call import Call, Refusal
from lbprov.lab.aws.rule import API, ec2, network_only, rule


@rule("addresses are of their subnet", API.format("SubnetMapping"), "CreateLoadBalancer")
@network_only
def _addresses_of_the_subnet(call: Call) -> None:
    subnets = {s.id: s for zone in ec2(call).subnets.values() for s in zone.values()}
    for mapping in call.structs("SubnetMappings.member"):
        subnet = subnets.get(mapping["SubnetId"])
        if subnet is None:
            continue
        if private := mapping.get("PrivateIPv4Address"):
            if ipaddress.ip_address(private) not in ipaddress.ip_network(subnet.cidr_block):
                raise Refusal("InvalidConfigurationRequest", f"{private} is not in subnet '{subnet.id}'")
            held = [i for i in ec2(call).enis.values() if i.subnet.id == subnet.id]
            if any(private == i.private_ip_address for i in held):
                raise Refusal("InvalidConfigurationRequest", f"{private} is already in use")
        if ipv6 := mapping.get("IPv6Address"):
            if call.get("IpAddressType", "ipv4") != "dualstack":
                raise Refusal("InvalidConfigurationRequest", "IPv6 addresses need a dual-stack load balancer")
            ranges = [a["ipv6CidrBlock"] for a in subnet.ipv6_cidr_block_associations.values()]
            if not any(ipaddress.ip_address(ipv6) in ipaddress.ip_network(cidr) for cidr in ranges):
                raise Refusal("InvalidConfigurationRequest", f"{ipv6} is not in subnet '{subnet.id}'")
