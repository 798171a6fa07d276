"""What an API server can answer instead of what was asked for, by what the caller does next.

Everything that `transport` meets (HTTP statuses, sockets, TLS) becomes one of these, once.
"""

from __future__ import annotations

import msgspec

from lbprov.model import ProviderError, RetryLater


class ApiError(ProviderError):
    """The API server refused the request. `status` is the HTTP status; 0: there was no answer to trust."""

    def __init__(self, message: str, *, status: int, retryable: bool = False) -> None:
        super().__init__(message, retryable=retryable)
        self.status = status


class NotFound(ApiError):
    """No such object (or, for a list, no such kind)."""


class Conflict(ApiError):
    """The object has changed since it was read, or a precondition (uid, resourceVersion) does not hold,
    or the name to be created exists. Read again."""


class Gone(ApiError):
    """The resourceVersion or the continue token is older than what the server remembers: list anew."""


class Denied(ApiError):
    """401 and 403: who we are, or what we may. The message names verb and resource."""


class Untrusted(ApiError):
    """TLS: the server's certificate is not what the configuration vouches for."""


class Unavailable(RetryLater):
    """The API server does not answer, or answers that it cannot now (429, 5xx). Nothing is wrong with the
    request. `answered`: bytes came back. `timed_out`: it was the waiting that ended. `given_up`: by us, as
    others are answered by now: ask again at once. `asked_s`: the pause that the server asked for
    (Retry-After), 0 if it did not."""

    def __init__(
        self,
        reason: str,
        *,
        asked_s: float = 0.0,
        answered: bool = False,
        timed_out: bool = False,
        given_up: bool = False,
    ) -> None:
        super().__init__(reason, asked_s or 5.0)
        self.asked_s = asked_s
        self.answered = answered
        self.timed_out = timed_out
        self.given_up = given_up


MAX_RETRY_AFTER_S = 30.0
"""A server that names a longer pause is asked again all the same: it may have been a proxy's page."""


class _Status(msgspec.Struct, gc=False):
    """metav1.Status, as far as people read it."""

    message: str = ""
    reason: str = ""
    code: int = 0


def from_answer(what: str, status: int, body: bytes, retry_after: str | None = None) -> Exception:
    """The error that an HTTP answer stands for. `what` is the request in words: `patch services/web`."""
    said = _said(body)
    text = f"{what}: {said.message or f'HTTP {status}'}"
    if status == 429 or status >= 500:
        return Unavailable(f"{text} (HTTP {status})", asked_s=_pause_s(retry_after), answered=True)
    if status == 401:
        remedy = "the API server does not know these credentials: renew the kubeconfig's user or the token"
        return Denied(f"{text}: {remedy}", status=status, retryable=True)
    if status == 403:
        remedy = "grant it with RBAC (see the install manifests' ClusterRole)"
        if "system:anonymous" in text:
            remedy = "no credentials were sent: does the kubeconfig's user have any, does its plugin work?"
        return Denied(f"{text}: {remedy}", status=status)
    kinds: dict[int, type[ApiError]] = {404: NotFound, 409: Conflict, 410: Gone}
    return kinds.get(status, ApiError)(text, status=status, retryable=status in kinds)


def from_watch_error(what: str, raw: bytes) -> Exception:
    """The error that an ERROR event stands for: its object is a Status, its code an HTTP status."""
    said = _said(raw)
    if said.reason in ("Expired", "Gone"):
        return Gone(f"{what}: {said.message or said.reason}", status=410, retryable=True)
    return from_answer(what, said.code or 500, raw)


def _said(body: bytes) -> _Status:
    """The Status in an error's body; of anything else (a proxy's page) the first line."""
    try:
        return msgspec.json.decode(body, type=_Status)
    except (msgspec.DecodeError, UnicodeDecodeError):
        line = body[:200].decode("utf-8", "replace").strip().partition("\n")[0]
        return _Status(message=line if line.isprintable() else "")


def _pause_s(retry_after: str | None) -> float:
    """`Retry-After` in seconds; the API server never sends a date."""
    try:
        return min(max(float(retry_after or ""), 0.0), MAX_RETRY_AFTER_S)
    except ValueError:
        return 0.0
