"""Errors, by what the caller does next. Anything that is none of these is a bug of ours.

SDK and system errors are translated once, at the boundary that talks to the SDK or system.
"""

from __future__ import annotations


class LbprovError(Exception):
    """The root of what is expected to go wrong."""


class UserError(LbprovError):
    """What was asked for cannot be: say so (Warning Event, condition), and do not try again until it is
    changed. The message names the field and the remedy. `reason` is the Event's reason."""

    def __init__(self, message: str, *, field: str = "", reason: str = "SyncLoadBalancerFailed") -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.field = field
        self.reason = reason


class RetryLater(LbprovError):
    """Nothing is wrong, the world needs time: come back after `after_s` seconds. Not logged as an error."""

    def __init__(self, reason: str, after_s: float) -> None:
        super().__init__(reason)
        self.after_s = after_s


class ProviderError(LbprovError):
    """The world refused or did not answer. `retryable` False: the same request will be refused again
    (missing permission, quota), so back off to the slowest pace. The message says the remedy; `reason` is
    the Event's reason."""

    def __init__(
        self, message: str, *, retryable: bool = True, reason: str = "SyncLoadBalancerFailed"
    ) -> None:
        super().__init__(message)
        self.retryable = retryable
        self.reason = reason
