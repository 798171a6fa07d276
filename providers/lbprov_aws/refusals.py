"""AWS's ways of saying no, in our words. Pure: error codes in, our error types out.

Sources: "Common Errors" of the ELBv2, EC2 and Resource Groups Tagging API references, and the errors that
each operation lists.
"""

from __future__ import annotations

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
BAD_CREDENTIALS = frozenset(
    {
        "AuthFailure",
        "ExpiredToken",
        "ExpiredTokenException",
        "RequestExpired",
        "InvalidClientTokenId",
        "UnrecognizedClientException",
        "SignatureDoesNotMatch",
        "IncompleteSignature",
        "MissingAuthenticationToken",
        "OptInRequired",
    }
)
QUOTA = frozenset(
    {
        "TooManyLoadBalancers",
        "TooManyTargetGroups",
        "TooManyListeners",
        "TooManyTargets",
        "TooManyRegistrationsForTargetId",
        "TooManyTags",
        "SecurityGroupLimitExceeded",
        "RulesPerSecurityGroupLimitExceeded",
        "SecurityGroupsPerInterfaceLimitExceeded",
        "NetworkInterfaceLimitExceeded",
        "TargetGroupAssociationLimit",
    }
)
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


class Refused(ProviderError):
    """AWS's answer to one call, with its error code, for whoever knows what to do about it."""

    def __init__(self, operation: str, code: str, message: str, *, retryable: bool = True) -> None:
        super().__init__(message, retryable=retryable)
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
        text = f"AWS refuses {action}: allow it to the credentials in use (an IAM policy). {message}"
        return Denied(operation, code, text, retryable=False)
    if code in BAD_CREDENTIALS:
        text = f"AWS does not accept the credentials ({code}): {message}"
        return Refused(operation, code, text, retryable=False)
    if code in QUOTA:
        text = f"{action}: {message} ({code}): raise the quota in Service Quotas, or ask for less"
        return Refused(operation, code, text, retryable=False)
    return Refused(operation, code, f"{action}: {message} ({code})")
