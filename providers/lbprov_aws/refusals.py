"""AWS's ways of saying no, in our words. Pure: error codes in, our error types out.

Sources: "Common Errors" of the ELBv2, EC2 and Resource Groups Tagging API references, and the errors that
each operation lists.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from lbprov.api import LbprovError, ProviderError, RetryLater

IAM_PREFIX = {"elbv2": "elasticloadbalancing", "ec2": "ec2", "resourcegroupstaggingapi": "tag"}

THROTTLED = frozenset(
    {
        "Throttling",
        "ThrottlingException",
        "ThrottledException",
        "RequestLimitExceeded",
        "TooManyRequestsException",
        "RequestThrottled",
        "RequestThrottledException",
        "SlowDown",
    }
)
DENIED = frozenset({"AccessDenied", "AccessDeniedException", "UnauthorizedOperation"})
_RENEW = "they have expired: get new ones, or use a role, whose credentials renew themselves"
_UNKNOWN_KEY = (
    "AWS does not know the access key: it is switched off or deleted, or belongs to another partition "
    "(China, GovCloud)"
)
_MISMATCH = "the secret key is not that of the access key, or this machine's clock is off"
BAD_CREDENTIALS = {
    "AuthFailure": f"{_MISMATCH}, or the region is not enabled for the account",
    "ExpiredToken": _RENEW,
    "ExpiredTokenException": _RENEW,
    "RequestExpired": "this machine's clock is minutes off, or they have expired: set it, or get new ones",
    "InvalidClientTokenId": _UNKNOWN_KEY,
    "UnrecognizedClientException": _UNKNOWN_KEY,
    "SignatureDoesNotMatch": _MISMATCH,
    "IncompleteSignature": _MISMATCH,
    "InvalidSignatureException": _MISMATCH,
    "MissingAuthenticationToken": "they lack the session token (AWS_SESSION_TOKEN)",
    "OptInRequired": "the account is not signed up for the service, or the region is not enabled for it",
}
"""Error code -> what it means. AWS's own message is not passed on: for some of these it repeats the request,
headers with tokens included."""
SERVICE_QUOTAS = {
    "TooManyLoadBalancers": "Network Load Balancers per Region",
    "TooManyTargetGroups": "Target Groups per Region",
    "TooManyListeners": "Listeners per Network Load Balancer",
    "TooManyTargets": "Targets per Network Load Balancer, per Availability Zone of it, or per target group",
    "TooManyRegistrationsForTargetId": "Number of times a target can be registered",
    "TooManyCertificates": "Certificates per Network Load Balancer",
    "TooManyTags": "Tags per resource",
    "TooManyUniqueTargetGroupsPerLoadBalancer": "Target Groups per Network Load Balancer",
    "TargetGroupAssociationLimit": "Load balancers per target group",
    "SecurityGroupLimitExceeded": "VPC security groups per Region",
    "RulesPerSecurityGroupLimitExceeded": "Inbound or outbound rules per security group",
    "SecurityGroupsPerInterfaceLimitExceeded": "Security groups per network interface",
    "SecurityGroupsPerInstanceLimitExceeded": "Security groups per network interface",
    "NetworkInterfaceLimitExceeded": "Network interfaces per Region",
    "AddressLimitExceeded": "EC2-VPC Elastic IPs",
}
"""Error code -> the quota's name in Service Quotas ("Quotas for your Network Load Balancers", "Amazon VPC
quotas")."""
QUOTA = frozenset(SERVICE_QUOTAS)
GONE = frozenset(
    {
        "LoadBalancerNotFound",
        "TargetGroupNotFound",
        "ListenerNotFound",
        "InvalidGroup.NotFound",
        "InvalidGroupId.Malformed",
    }
)
DUPLICATE = frozenset({"DuplicateLoadBalancerName", "DuplicateTargetGroupName", "InvalidGroup.Duplicate"})
ADDRESS_REFUSED = frozenset({"ResourceInUse", "AllocationIdNotFound", "InvalidConfigurationRequest"})
"""Of CreateLoadBalancer: the requested address is not to be had (any more)."""


CREDENTIALS, PERMISSION, QUOTA_REACHED = "CredentialsRefused", "PermissionMissing", "QuotaReached"
"""Reasons of Events."""

_DENIAL = re.compile(
    r"(?:User: (?P<who>\S+) is )?not authorized to perform: (?P<action>[a-z0-9-]+:[A-Za-z0-9]+)"
    r"(?: on resource: (?P<resource>\S+))?(?: (?P<why>(?:because|with) [^.]*?))?(?:\.|$)"
)
"""IAM reference, "Troubleshoot access denied error messages"."""
_MESSAGE_CHARS = 400


class Refused(ProviderError):
    """AWS's answer to one call, with its error code, for whoever knows what to do about it."""

    def __init__(
        self,
        operation: str,
        code: str,
        message: str,
        *,
        retryable: bool = True,
        reason: str = "SyncLoadBalancerFailed",
    ) -> None:
        super().__init__(message, retryable=retryable, reason=reason)
        self.operation = operation
        self.code = code


class Denied(Refused):
    """A permission is missing. The message names it."""


def translate(service: str, operation: str, code: str, message: str) -> LbprovError:
    """The error to raise. `service`: the SDK's name of it."""
    action = f"{IAM_PREFIX.get(service, service)}:{operation}"
    if code in THROTTLED:
        return RetryLater(f"AWS throttles {action}", 10)
    if code in DENIED:
        return Denied(operation, code, denial(action, message), retryable=False, reason=PERMISSION)
    if meaning := BAD_CREDENTIALS.get(code):
        text = f"AWS does not accept the credentials for {action}: {meaning} ({code})"
        return Refused(operation, code, text, retryable=False, reason=CREDENTIALS)
    if quota := SERVICE_QUOTAS.get(code):
        text = (
            f'{action}: the quota "{quota}" is reached ({code}: {presentable(message)}): raise the quota in '
            "Service Quotas, or ask for less"
        )
        return Refused(operation, code, text, retryable=False, reason=QUOTA_REACHED)
    return Refused(operation, code, f"{action}: {presentable(message)} ({code})")


def denial(action: str, message: str) -> str:
    """Who misses which permission, for what, and who can give it. AWS may miss another one than that of the
    call (`iam:CreateServiceLinkedRole` for the first load balancer of an account): its message names it."""
    match = _DENIAL.search(message)
    if match is None:
        told = f" {presentable(message)}" if message else ""
        return f"AWS refuses {action}: allow it to the credentials in use (an IAM policy).{told}"
    missing, why = match["action"], match["why"] or ""
    for_what = f" (asked for by {action})" if missing != action else ""
    on = f" on {match['resource']}" if match["resource"] not in (None, "*") else ""
    who = match["who"] or "the credentials in use"
    if "explicit deny" in why or "service control policy" in why or "permissions boundary" in why:
        return f"AWS refuses {missing}{for_what}{on} to {who}, {why}: whoever made that has to change it"
    return (
        f"AWS refuses {missing}{for_what}{on}: allow it to {who} (an IAM policy; see docs/providers/aws.md)"
    )


_GIVER_IS_AWAY = frozenset(
    {
        "CredentialRetrievalError",
        "ConnectTimeoutError",
        "ConnectionClosedError",
        "EndpointConnectionError",
        "ReadTimeoutError",
        "IDPCommunicationError",
        "InternalFailure",
        "ServiceUnavailable",
    }
)
"""Who gives credentials does not answer, which may pass soon: a node's agent begins later than a Pod."""


def no_credentials(
    environment: Mapping[str, str], told: str, *, code: str, operation: str = ""
) -> ProviderError:
    """Why there are no credentials to ask AWS with: `told` by the SDK, or by AWS in answer to `operation`."""
    what = f"{operation}: {presentable(told)} ({code})" if operation else presentable(told)
    source, remedy = _source(environment, code)
    if code in THROTTLED:
        return ProviderError(f"no AWS credentials yet {source}: {what}")
    message = f"no AWS credentials {source}: {what}. {remedy}"
    return ProviderError(message, retryable=code in _GIVER_IS_AWAY, reason=CREDENTIALS)


def _source(environment: Mapping[str, str], code: str) -> tuple[str, str]:
    """Where the SDK's chain takes credentials from, and what has to be so for that. Its order: variables,
    the profile, a web identity, the files, a container's agent, the instance's role."""
    if environment.get("AWS_ACCESS_KEY_ID") and code != "ProfileNotFound":
        return "from AWS_ACCESS_KEY_ID", "It takes AWS_SECRET_ACCESS_KEY too, and mostly AWS_SESSION_TOKEN"
    if (profile := environment.get("AWS_PROFILE", "default")) != "default":
        return f"from the profile {profile}", "`aws configure list-profiles` has the names for AWS_PROFILE"
    if token_file := environment.get("AWS_WEB_IDENTITY_TOKEN_FILE"):
        role = environment.get("AWS_ROLE_ARN") or "no role (AWS_ROLE_ARN)"
        return (
            f"from the web identity in {token_file} for {role} (IRSA)",
            "The role's trust policy has to name the cluster's OIDC provider and this ServiceAccount",
        )
    names = ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
    if any(environment.get(name) for name in names):
        return (
            "from the container's agent (EKS Pod Identity)",
            "The add-on eks-pod-identity-agent has to run on this node, and an association to name this "
            "ServiceAccount",
        )
    return (
        "here",
        "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give the Pod (IRSA, EKS Pod "
        "Identity) or the machine a role (which a Pod sees with a metadata hop limit of 2 only)",
    )


def presentable(message: str) -> str:
    """AWS's words as far as they are for people: one line, without the encoded part, and not endless."""
    text = " ".join(message.split("Encoded authorization failure message", 1)[0].split())
    return text if len(text) <= _MESSAGE_CHARS else text[: _MESSAGE_CHARS - 1] + "…"
