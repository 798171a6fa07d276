"""The one place that talks to AWS, and the only importer of its SDK.

The seam is narrow: `call` and `pages`, by service and operation, with the SDK's plain dictionaries. Every
request is counted here, errors are translated here once, and a read-only provider is stopped here. Retries
of the transport are botocore's own ("standard" mode); nothing above this module repeats a call at once.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import boto3
from botocore import exceptions, xform_name
from botocore.config import Config

from lbprov.api import CallCount, ProviderError
from lbprov_aws.refusals import translate

ELBV2, EC2, TAGGING = "elbv2", "ec2", "resourcegroupstaggingapi"

_READS = ("Describe", "Get", "List")
_PAGE_SIZE = {ELBV2: 400, EC2: 1000, TAGGING: 100}
"""The most that each service gives at once."""
_WORKERS = 32
"""Connections kept per service: as many threads as may call at the same time."""

_NO_CREDENTIALS = (
    exceptions.NoCredentialsError,
    exceptions.PartialCredentialsError,
    exceptions.CredentialRetrievalError,
    exceptions.ProfileNotFound,
    exceptions.TokenRetrievalError,
    exceptions.SSOError,
    exceptions.UnauthorizedSSOTokenError,
)


class Cloud:
    """AWS in one region. Safe for threads. Raises `ProviderError` and `RetryLater` only (see `refusals`)."""

    def __init__(self, region: str = "", *, read_only: bool = False) -> None:
        """An empty region: the environment's or the profile's."""
        self._read_only = read_only
        self._count = CallCount()
        self._lock = threading.Lock()
        with _translated("", "", ""):
            session = boto3.Session(region_name=region or None)
            if session.region_name is None:
                raise exceptions.NoRegionError
            self.region: str = session.region_name
            self._clients = {service: self._client(session, service) for service in _PAGE_SIZE}

    def _client(self, session: boto3.Session, service: str) -> Any:
        config = Config(
            retries={"mode": "standard", "total_max_attempts": 4},
            max_pool_connections=_WORKERS,
            connect_timeout=5,
            read_timeout=30,
            tcp_keepalive=True,
            user_agent_extra="lbprov",
        )
        client = session.client(service, config=config)  # type: ignore[call-overload]
        client.meta.events.register_last("before-send", self._sent)
        client.meta.events.register_last("response-received", self._answered)
        return client

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
        with self._lock:
            answer = (service, operation, code)
            self._count.answers[answer] = self._count.answers.get(answer, 0) + 1

    def calls(self) -> CallCount:
        with self._lock:
            return replace(
                self._count, by_operation=dict(self._count.by_operation), answers=dict(self._count.answers)
            )

    def call(self, service: str, operation: str, **parameters: Any) -> dict[str, Any]:
        """One request and its answer."""
        if self._read_only and not operation.startswith(_READS):
            raise ProviderError(f"{operation} refused: this is a dry run", retryable=False)
        client = self._clients[service]
        with _translated(service, operation, client.meta.endpoint_url):
            answer: dict[str, Any] = getattr(client, xform_name(operation))(**parameters)
        return answer

    def pages(self, service: str, operation: str, key: str, **parameters: Any) -> list[dict[str, Any]]:
        """All that a listing has, page by page: what is under `key` in each answer."""
        client = self._clients[service]
        paginator = client.get_paginator(xform_name(operation))
        size = {"PageSize": _PAGE_SIZE[service]}
        with _translated(service, operation, client.meta.endpoint_url):
            return [
                item for page in paginator.paginate(**parameters, PaginationConfig=size) for item in page[key]
            ]


@contextlib.contextmanager
def _translated(service: str, operation: str, endpoint: str) -> Iterator[None]:
    try:
        yield
    except exceptions.ClientError as error:
        said = error.response.get("Error", {})
        raise translate(
            service, operation, str(said.get("Code", "")), str(said.get("Message", ""))
        ) from error
    except _NO_CREDENTIALS as error:
        raise ProviderError(
            f"no AWS credentials: {error}. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, "
            "or give the machine or the Pod a role",
            retryable=False,
        ) from error
    except exceptions.NoRegionError as error:
        raise ProviderError(
            "no AWS region: use --provider-option region=… or set AWS_REGION", retryable=False
        ) from error
    except (exceptions.EndpointConnectionError, exceptions.ConnectTimeoutError) as error:
        raise ProviderError(
            f"AWS does not answer at {endpoint}: check the network, the region and AWS_ENDPOINT_URL"
        ) from error
    except exceptions.ParamValidationError:
        raise  # a bug of ours
    except ValueError as error:
        if "endpoint" not in str(error):
            raise
        raise ProviderError(f"AWS_ENDPOINT_URL: {error} (http://HOST:PORT)", retryable=False) from error
    except exceptions.BotoCoreError as error:
        raise ProviderError(f"{operation or 'AWS'} at {endpoint or 'no endpoint'}: {error}") from error
