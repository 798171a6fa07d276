"""Reasons of Events and conditions that only this provider gives, explained for the reference pages."""

from __future__ import annotations

from lbprov.api import ReasonDoc, Severity

_W, _N = Severity.WARNING, Severity.NORMAL

REASONS = (
    ReasonDoc(
        "PortsNotServed",
        _W,
        "Ports",
        "Some ports cannot be served by a Network Load Balancer (SCTP; TCP and UDP of one number with "
        "different nodePorts); the others are. The message names each port and the remedy.",
    ),
    ReasonDoc(
        "LoadBalancerOwnershipConflict",
        _W,
        "",
        "A name that this Service's resources need belongs to something that does not carry its mark. "
        "Nothing was changed: rename or delete what the message names.",
    ),
    ReasonDoc(
        "PeerLoadBalancerFound",
        _W,
        "",
        "Another controller has made a load balancer for this Service, which the message names. Nothing is "
        "made beside it: the annotation `lbprov.io/adopt` says whether it is taken over, or left alone.",
    ),
    ReasonDoc(
        "LoadBalancerAdopted",
        _N,
        "",
        "A load balancer of another controller is taken over; its name and addresses stay.",
    ),
    ReasonDoc(
        "NothingToAdopt",
        _N,
        "",
        "The Service asks for a load balancer to be taken over, and no other controller has made one for it "
        "in this cluster (is `--cluster-name` what that controller calls it?): a new one is made.",
    ),
    ReasonDoc(
        "WithoutSecurityGroup",
        _W,
        "SecurityGroup",
        "The load balancer was made without a security group (by another controller), and AWS gives it none "
        "any more: source ranges are not enforced by it.",
    ),
    ReasonDoc(
        "DeletionProtected",
        _W,
        "",
        "The load balancer should go, and its attribute `deletion_protection.enabled` is on. The Service "
        "stays until that is turned off: it is looked at every five minutes.",
    ),
    ReasonDoc(
        "ReplacingLoadBalancer",
        _N,
        "Replacement",
        "A load balancer is made in the place of another one, for what AWS cannot change; the message says "
        "how far that is. Nothing is to be done.",
    ),
    ReasonDoc(
        "ReplacementBlocked",
        _W,
        "Replacement",
        "The load balancer should be replaced, and cannot be: the message says what serves now, why, and the "
        "remedy. All else that the Service asks for is done.",
    ),
    ReasonDoc(
        "NodesWithoutInstance",
        _W,
        "Targets",
        "Nodes whose `spec.providerID` names no EC2 instance get no traffic.",
    ),
    ReasonDoc(
        "TargetsRejected",
        _W,
        "RejectedTargets",
        "AWS refuses some instances as targets, for the reason in the message; the others get the traffic.",
    ),
    ReasonDoc(
        "IPv6NotServed",
        _W,
        "IPFamilies",
        "The load balancer has IPv4 addresses only, for the reason in the message.",
    ),
    ReasonDoc(
        "AnnotationsIgnored",
        _W,
        "Annotations",
        "Annotations of other AWS controllers that are not supported, or not valid, and have no effect; "
        "[aws-annotations.md](aws-annotations.md) lists all.",
    ),
    ReasonDoc(
        "AnnotationRefused",
        _W,
        "Refused",
        "AWS refuses what an annotation asks for (a certificate that does not exist, a bucket that cannot be "
        "written to), for the reason in the message. The rest is served; it is tried again after 10 "
        "minutes, or when the annotation changes.",
    ),
    ReasonDoc(
        "SecurityGroupNotFound",
        _W,
        "SecurityGroups",
        "A security group that the Service names does not exist. What is attached stays until it does.",
    ),
    ReasonDoc(
        "SubnetsNotUsed",
        _W,
        "UnusedSubnets",
        "Some of the subnets that the Service names do not exist, or are of one zone; the others are used.",
    ),
    ReasonDoc(
        "NameChangeIgnored",
        _W,
        "Name",
        "A load balancer cannot be renamed. Make the Service anew.",
    ),
    ReasonDoc(
        "SubnetsChangeIgnored",
        _W,
        "Subnets",
        "A load balancer stays in the subnets that it was made in. Make the Service anew.",
    ),
    ReasonDoc(
        "SchemeChangeIgnored",
        _W,
        "Scheme",
        "A load balancer cannot be turned from internal to internet-facing, or back. Make the Service anew.",
    ),
    ReasonDoc(
        "ForeignResourcesIgnored",
        _W,
        "Foreign",
        "Something at this load balancer was made by somebody else; it is left as it is.",
    ),
    ReasonDoc(
        "PermissionMissing",
        _W,
        "Permission",
        "AWS refuses a call for want of a permission. The message names the IAM action, whom it is for and "
        "what forbids it. A change that nothing depends on (attributes, health checks) is left out, and all "
        "else is done; otherwise Ready says so. Tried again every ten minutes, or five.",
    ),
    ReasonDoc(
        "CredentialsRefused",
        _W,
        "",
        "There are no AWS credentials, or AWS does not accept them. The message says where they were looked "
        "for and what is wrong. Tried again every five minutes.",
    ),
    ReasonDoc(
        "QuotaReached",
        _W,
        "Quota",
        "A quota of the AWS account is used up; the message has its name in Service Quotas. Ports, source "
        "ranges and nodes without room are left out and named, the rest is served. Without room for the load "
        "balancer itself Ready says so. Tried again every ten minutes, or five.",
    ),
    ReasonDoc(
        "WrongRegion",
        _W,
        "",
        "lbprov works in another AWS region than the Nodes are in, or in one that does not exist. Nothing "
        "was made.",
    ),
    ReasonDoc(
        "LoadBalancerIPAvailable",
        _N,
        "RequestedIP",
        "The address that was asked for could be had by now. The load balancer keeps the one that its "
        "clients know; make the Service anew to change it.",
    ),
)
