"""Load balancers as other controllers make them, with their names and tags (measured on the real ones)."""

from __future__ import annotations

from typing import Any

from tests.aws.conftest import CLUSTER, Lab

SERVICE = "default/web"


def _pairs(tags: dict[str, str]) -> Any:
    return [{"Key": key, "Value": value} for key, value in tags.items()]


class Made:
    """An internet-facing NLB with a listener per (port, nodePort), all nodes behind each."""

    def __init__(
        self,
        lab: Lab,
        name: str,
        tags: dict[str, str],
        *,
        groups: tuple[str, ...] = (),
        ports: tuple[tuple[int, int], ...] = ((80, 30080), (443, 30443)),
        target_type: str = "instance",
        resources: bool = False,
    ) -> None:
        self.lab = lab
        elbv2 = lab.world.elbv2
        mappings: Any = [{"SubnetId": subnet} for subnet in lab.world.subnet_ids.values()]
        more: Any = {"SecurityGroups": list(groups)} if groups else {}
        resource = {"service.k8s.aws/resource": "LoadBalancer"} if resources else {}
        made = elbv2.create_load_balancer(
            Name=name,
            Type="network",
            Scheme="internet-facing",
            SubnetMappings=mappings,
            Tags=_pairs({**tags, **resource}),
            **more,
        )["LoadBalancers"][0]
        self.arn, self.dns_name = made["LoadBalancerArn"], made["DNSName"]
        for port, node_port in ports:
            resource = {"service.k8s.aws/resource": f"default/web:{port}"} if resources else {}
            group = elbv2.create_target_group(
                Name=f"k8s-default-web-{node_port}",
                Protocol="TCP",
                Port=node_port,
                VpcId=lab.world.vpc_id,
                TargetType=target_type,  # type: ignore[arg-type]
                HealthCheckProtocol="TCP",
                Tags=_pairs({**tags, **resource}),
            )["TargetGroups"][0]["TargetGroupArn"]
            if target_type == "instance":
                instances: Any = [{"Id": lab.world.instance_id(node)} for node in lab.world.provider_ids]
                elbv2.register_targets(TargetGroupArn=group, Targets=instances)
            action: Any = [{"Type": "forward", "TargetGroupArn": group}]
            listener_tags: Any = {"Tags": _pairs({**tags, **resource})} if resources else {}
            elbv2.create_listener(
                LoadBalancerArn=self.arn, Protocol="TCP", Port=port, DefaultActions=action, **listener_tags
            )


def cloud_provider_aws(lab: Lab, uid: str = "uid-web", **options: Any) -> Made:
    """v1.36: no security group, listeners without tags."""
    tags = {"kubernetes.io/service-name": SERVICE, f"kubernetes.io/cluster/{CLUSTER}": "owned"}
    return Made(lab, ("a" + uid.replace("-", ""))[:32], tags, **options)


def load_balancer_controller(lab: Lab, **options: Any) -> Made:
    """v3.5: a security group for the clients, one that all load balancers of the cluster share; tags."""
    ec2 = lab.world.ec2
    tags = {"elbv2.k8s.aws/cluster": CLUSTER, "service.k8s.aws/stack": SERVICE}
    shared_tags = {"elbv2.k8s.aws/cluster": CLUSTER, "elbv2.k8s.aws/resource": "backend-sg"}
    own_tags = {**tags, "service.k8s.aws/resource": "ManagedLBSecurityGroup"}
    groups = []
    for name, group_tags in (("k8s-default-web-0123456789", own_tags), ("k8s-traffic-lab", shared_tags)):
        specification: Any = [{"ResourceType": "security-group", "Tags": _pairs(group_tags)}]
        made = ec2.create_security_group(
            GroupName=name, Description="[k8s] x", VpcId=lab.world.vpc_id, TagSpecifications=specification
        )
        groups.append(made["GroupId"])
    for port, _ in options.get("ports", ((80, 0), (443, 0))):
        rule: Any = [
            {
                "IpProtocol": "tcp",
                "FromPort": port,
                "ToPort": port,
                "IpRanges": [{"CidrIp": "0.0.0.0/0", "Description": ""}],
            }
        ]
        ec2.authorize_security_group_ingress(GroupId=groups[0], IpPermissions=rule)
    return Made(lab, "k8s-default-web-0a1b2c3d4e", tags, groups=tuple(groups), resources=True, **options)
