"""The one place that talks to AWS, and the only importer of its SDK.

The seam is narrow: `call` and `pages`, by service and operation, with the SDK's plain dictionaries. Every
request is counted here and waits here for its turn (`pace`), errors are translated here once, and a read-only
provider is stopped here. Retries of the transport are botocore's own ("standard" mode); nothing above this
module repeats a call at once.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import boto3
from botocore import exceptions, xform_name
from botocore.config import Config

from lbprov.api import CallCount, ProviderError
from lbprov_aws.pace import DEFAULTS, Family, Pace, Rate, family_of
from lbprov_aws.placement import WRONG_REGION
from lbprov_aws.refusals import THROTTLED, no_credentials, translate

ELBV2, EC2, TAGGING = "elbv2", "ec2", "resourcegroupstaggingapi"

_READS = ("Describe", "Get", "List")
_log = logging.getLogger(__name__)

_PAGE_SIZE = {ELBV2: 400, EC2: 1000, TAGGING: 100}
"""The most that each service gives at once."""
_WORKERS = 32
"""Connections kept per service: as many threads as may call at the same time."""


class Cloud:
    """AWS in one region. Safe for threads. Raises `ProviderError` and `RetryLater` only (see `refusals`)."""

    def __init__(
        self,
        region: str = "",
        *,
        read_only: bool = False,
        elsewhere: Callable[[], str] | None = None,
        rates: Mapping[Family, Rate] | None = None,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """An empty region: the environment's or the profile's, and then what `elsewhere` says. If that
        raises `ProviderError`, it is asked anew by every call until it does not. `rates` None: AWS's, if it
        is AWS that is asked, and not something on this machine."""
        self._read_only = read_only
        self._count = CallCount()
        self._lock = threading.Lock()
        self._clients: dict[str, Any] = {}
        self._elsewhere = elsewhere
        self._rates = rates
        self._now_s = now_s
        self._pace = Pace({}, now_s, time.sleep)
        with _credentials():
            self._session = boto3.Session()
            # The SDKs' name for it; this one knows only AWS_DEFAULT_REGION.
            self._region = region or os.environ.get("AWS_REGION", "") or self._session.region_name or ""
        with contextlib.suppress(ProviderError) if elsewhere else contextlib.nullcontext():
            self._find_region()
        if self._region:
            self._connect()

    @property
    def region(self) -> str:
        return self._region or self._find_region()

    def endpoint(self, service: str) -> str:
        """Where it is asked: of the region's partition, as the SDK's data has it."""
        url: str = self._connect()[service].meta.endpoint_url
        return url

    @property
    def credentials_from(self) -> str:
        """The SDK's word for where they come from ("assume-role-with-web-identity"); empty: from nowhere."""
        credentials = self._session.get_credentials()
        return str(credentials.method) if credentials is not None else ""

    def _find_region(self) -> str:
        if not self._region:
            if self._elsewhere is None:
                raise ProviderError(
                    "no AWS region: use --provider-option region=… or set AWS_REGION", retryable=False
                )
            self._region = self._elsewhere()
        return self._region

    def _connect(self) -> dict[str, Any]:
        """The clients, by service; made once, as is the search for credentials."""
        region = self.region
        with self._lock:
            if not self._clients:
                with _credentials():
                    self._session.get_credentials()
                with _translated("", "", ""):
                    self._clients = {s: self._client(self._session, s, region) for s in _PAGE_SIZE}
                self._pace = self._paced()
                _log.info("AWS", extra={"region": region, "credentials": self.credentials_from or "none"})
            return self._clients

    def _paced(self) -> Pace:
        here = all(_is_here(client.meta.endpoint_url) for client in self._clients.values())
        rates = ({} if here else DEFAULTS) if self._rates is None else self._rates
        return Pace(rates, self._now_s, time.sleep)

    def _ready(self, service: str) -> Any:
        """A client with credentials that are valid now."""
        client = self._connect()[service]
        with _credentials():
            credentials = self._session.get_credentials()
            if credentials is None:
                raise exceptions.NoCredentialsError
            credentials.get_frozen_credentials()  # renews them where it is time
        return client

    def _client(self, session: boto3.Session, service: str, region: str) -> Any:
        config = Config(
            retries={"mode": "standard", "total_max_attempts": 4},
            max_pool_connections=_WORKERS,
            connect_timeout=5,
            read_timeout=30,
            tcp_keepalive=True,
            user_agent_extra="lbprov",
        )
        client = session.client(service, region, config=config)  # type: ignore[call-overload]
        client.meta.events.register_first("request-created", self._await_turn)
        client.meta.events.register_last("before-send", self._sent)
        client.meta.events.register_last("response-received", self._answered)
        return client

    def _await_turn(self, event_name: str, **_: object) -> None:
        """Before every request is signed, a repeated one too: a signature does not keep."""
        service, operation = event_name.split(".")[1:]
        self._pace.wait(family_of(service, operation))

    def _sent(self, event_name: str, **_: object) -> None:
        """Every request, repeated ones too: what AWS counts against its limits."""
        operation = event_name.rpartition(".")[2]
        with self._lock:
            if operation.startswith(_READS):
                self._count.read += 1
            else:
                self._count.write += 1
            self._count.by_operation[operation] = self._count.by_operation.get(operation, 0) + 1

    def _answered(
        self,
        event_name: str,
        parsed_response: dict[str, Any] | None = None,
        exception: Exception | None = None,
        **_: object,
    ) -> None:
        """How every request ended, for metrics; one that got no answer by the name of its error."""
        service, operation = event_name.split(".")[1:]
        code = type(exception).__name__ if exception else ""
        if parsed_response:
            code = str(parsed_response.get("Error", {}).get("Code", ""))
        if code in THROTTLED:
            self._pace.refused(family_of(service, operation))
        with self._lock:
            answer = (service, operation, code)
            self._count.answers[answer] = self._count.answers.get(answer, 0) + 1

    def is_idle(self, service: str, operation: str) -> bool:
        """Whether such a call, if it can wait, would be in nobody's way."""
        family = family_of(self._connect()[service].meta.service_model.service_id.hyphenize(), operation)
        return family is None or self._pace.is_idle(family)

    def calls(self) -> CallCount:
        with self._lock:
            return replace(
                self._count,
                by_operation=dict(self._count.by_operation),
                answers=dict(self._count.answers),
                waited_s=self._pace.waited_s(),
            )

    def call(self, service: str, operation: str, **parameters: Any) -> dict[str, Any]:
        """One request and its answer."""
        if self._read_only and not operation.startswith(_READS):
            raise ProviderError(f"{operation} refused: this is a dry run", retryable=False)
        client = self._ready(service)
        with _translated(service, operation, client.meta.endpoint_url):
            answer: dict[str, Any] = getattr(client, xform_name(operation))(**parameters)
        return answer

    def pages(self, service: str, operation: str, key: str, **parameters: Any) -> list[dict[str, Any]]:
        """All that a listing has, page by page: what is under `key` in each answer."""
        client = self._ready(service)
        paginator = client.get_paginator(xform_name(operation))
        size = {"PageSize": _PAGE_SIZE[service]}
        with _translated(service, operation, client.meta.endpoint_url):
            return [
                item for page in paginator.paginate(**parameters, PaginationConfig=size) for item in page[key]
            ]


def _is_here(endpoint: str) -> bool:
    """Whether an endpoint is of this machine: an emulator, which has none of AWS's limits."""
    host = urllib.parse.urlsplit(endpoint).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")


@contextlib.contextmanager
def _credentials() -> Iterator[None]:
    """Whatever goes wrong in the search for credentials is about those, and not about the call that they
    are for: a role that may not be taken, a token's file that is not there, an agent that babbles."""
    try:
        yield
    except exceptions.ClientError as error:
        said = error.response.get("Error", {})
        code, message = str(said.get("Code", "")), str(said.get("Message", ""))
        raise no_credentials(os.environ, message, operation=error.operation_name, code=code) from None
    except (exceptions.BotoCoreError, OSError, ValueError, KeyError, TypeError) as error:
        kind = type(error).__name__
        told = str(error) if isinstance(error, (exceptions.BotoCoreError, OSError)) else f"a {kind}"
        # Not chained: an SDK's error may hold what it read, and a log would show it.
        raise no_credentials(os.environ, told, code=kind) from None


@contextlib.contextmanager
def _translated(service: str, operation: str, endpoint: str) -> Iterator[None]:
    try:
        yield
    except exceptions.ClientError as error:
        said = error.response.get("Error", {})
        raise translate(
            service, operation, str(said.get("Code", "")), str(said.get("Message", ""))
        ) from error
    except (exceptions.EndpointConnectionError, exceptions.ConnectTimeoutError) as error:
        raise ProviderError(
            f"AWS does not answer at {endpoint}: check the network, the region and AWS_ENDPOINT_URL"
        ) from error
    except exceptions.ParamValidationError:
        raise  # a bug of ours
    except exceptions.InvalidRegionError as error:
        raise ProviderError(f"the region: {error}", retryable=False, reason=WRONG_REGION) from error
    except ValueError as error:
        if "endpoint" not in str(error):
            raise
        raise ProviderError(f"AWS_ENDPOINT_URL: {error} (http://HOST:PORT)", retryable=False) from error
    except exceptions.BotoCoreError as error:
        raise ProviderError(f"{operation or 'AWS'} at {endpoint or 'no endpoint'}: {error}") from error
