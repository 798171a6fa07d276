"""An API client in plain dicts, small enough to be read: what tests do as the cluster's user.

It is not what lbprov itself uses. Kinds are named as kubectl names them: `Service`, `Deployment.apps`,
`Event.events.k8s.io`.
"""

from __future__ import annotations

import http.client
import json
import ssl
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, TypeVar

Object = dict[str, Any]
T = TypeVar("T")

MERGE_PATCH = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"
_TIMEOUT_S = 30.0


class ApiError(Exception):
    """The API server refused. `reason` is the Status object's (NotFound, Invalid, Forbidden ...)."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message


class Api:
    """One user's view of one API server. `namespace` is used where none is given. Threads may share it."""

    def __init__(
        self,
        server: str,
        ca_pem: str,
        token: str,
        namespace: str = "default",
        *,
        timeout_s: float = _TIMEOUT_S,
    ) -> None:
        url = urllib.parse.urlsplit(server)
        assert url.hostname is not None
        self._address = (url.hostname, url.port or 443)
        self._server, self._ca_pem, self._token = server, ca_pem, token
        self.namespace = namespace
        self._timeout_s = timeout_s
        self._tls = ssl.create_default_context(cadata=ca_pem)
        self._local = threading.local()
        self._resources: dict[
            tuple[str, str], tuple[str, bool]
        ] = {}  # (group/version, kind) -> plural, namespaced
        self._groups: dict[str, str] = {}  # group -> preferred group/version

    def in_namespace(self, namespace: str) -> Api:
        """The same user elsewhere."""
        return Api(self._server, self._ca_pem, self._token, namespace, timeout_s=self._timeout_s)

    def with_token(self, token: str) -> Api:
        """Somebody else."""
        return Api(self._server, self._ca_pem, token, self.namespace, timeout_s=self._timeout_s)

    # Objects

    def create(self, obj: Object, *, dry_run: bool = False) -> Object:
        """Unknown and duplicate fields are refused."""
        path = self._path_of(obj, named=False)
        return self.request("POST", path, obj, query=_strict(dry_run))

    def apply(self, obj: Object, *, manager: str = "lbprov-lab", dry_run: bool = False) -> Object:
        """Server-side apply: create or change, as the owner of the fields that `obj` has."""
        query = {"fieldManager": manager, "force": "true", **_strict(dry_run)}
        path = self._path_of(obj, named=True)
        return self.request("PATCH", path, obj, content_type=APPLY_PATCH, query=query)

    def get(self, kind: str, name: str, namespace: str | None = None) -> Object:
        return self.request("GET", self.path(kind, name, namespace))

    def find(self, kind: str, name: str, namespace: str | None = None) -> Object | None:
        """`get`, with None for what does not exist."""
        try:
            return self.get(kind, name, namespace)
        except ApiError as error:
            if error.status == http.HTTPStatus.NOT_FOUND:
                return None
            raise

    def list(self, kind: str, namespace: str | None = None, **query: str) -> list[Object]:
        """`namespace` "": of all namespaces. `query`: labelSelector, fieldSelector."""
        items: list[Object] = self.request("GET", self.path(kind, "", namespace), query=query).get(
            "items", []
        )
        return items

    def patch(
        self,
        kind: str,
        name: str,
        change: object,
        namespace: str | None = None,
        *,
        subresource: Literal["", "status", "scale"] = "",
        content_type: str = MERGE_PATCH,
    ) -> Object:
        path = self.path(kind, name, namespace, subresource)
        return self.request("PATCH", path, change, content_type=content_type, query=_strict(False))

    def delete(self, kind: str, name: str, namespace: str | None = None) -> None:
        """Begins the deletion: finalizers may hold the object on. What is not there is deleted already."""
        try:
            self.request("DELETE", self.path(kind, name, namespace), {"propagationPolicy": "Background"})
        except ApiError as error:
            if error.status != http.HTTPStatus.NOT_FOUND:
                raise

    def watch(
        self, kind: str, namespace: str | None = None, *, resource_version: str = "", timeout_s: float = 10.0
    ) -> Iterator[tuple[str, Object]]:
        """(type, object) until the server ends the stream after `timeout_s`."""
        query = {"watch": "true", "timeoutSeconds": str(max(1, round(timeout_s)))}
        if resource_version:
            query["resourceVersion"] = resource_version
        connection = self._connect(timeout_s + self._timeout_s)
        try:
            target = self.path(kind, "", namespace) + "?" + urllib.parse.urlencode(query)
            connection.request("GET", target, headers=self._headers())
            with connection.getresponse() as response:
                if response.status != http.HTTPStatus.OK:
                    raise _error(response.status, response.read())
                for line in response:
                    event = json.loads(line)
                    yield event["type"], event["object"]
        finally:
            connection.close()

    # Anything else

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        content_type: str = "application/json",
        query: Mapping[str, str] | None = None,
    ) -> Object:
        """Raises ApiError for an answer that is no success, OSError when there is none."""
        target = f"{path}?{urllib.parse.urlencode(query)}" if query else path
        payload = None if body is None else json.dumps(body).encode()
        status, answer = self._exchange(method, target, payload, self._headers(content_type))
        if status >= http.HTTPStatus.BAD_REQUEST:
            raise _error(status, answer)
        decoded: Object = json.loads(answer)
        return decoded

    def text(self, path: str) -> str:
        """For what is not JSON: /readyz, /metrics."""
        status, answer = self._exchange("GET", path, None, self._headers())
        if status >= http.HTTPStatus.BAD_REQUEST:
            raise _error(status, answer)
        return answer.decode()

    def path(self, kind: str, name: str = "", namespace: str | None = None, subresource: str = "") -> str:
        """Of an object, or with no name of all of a kind."""
        kind, _, group = kind.partition(".")
        return self._path(self._version_of(group), kind, name, namespace, subresource)

    # Within

    def _path_of(self, obj: Object, *, named: bool) -> str:
        metadata = obj["metadata"]
        name = metadata["name"] if named else ""
        return self._path(obj["apiVersion"], obj["kind"], name, metadata.get("namespace"))

    def _path(
        self, api_version: str, kind: str, name: str, namespace: str | None, subresource: str = ""
    ) -> str:
        plural, namespaced = self._resource(api_version, kind)
        parts = [_root(api_version)]
        inside = self.namespace if namespace is None else namespace
        if namespaced and inside:
            parts.append(f"namespaces/{inside}")
        parts += [part for part in (plural, name, subresource) if part]
        return "/".join(parts)

    def _version_of(self, group: str) -> str:
        if not group:
            return "v1"
        if group not in self._groups:
            groups = self.request("GET", "/apis")["groups"]
            self._groups = {g["name"]: g["preferredVersion"]["groupVersion"] for g in groups}
        return self._groups[group]

    def _resource(self, api_version: str, kind: str) -> tuple[str, bool]:
        if (api_version, kind) not in self._resources:
            for found in self.request("GET", _root(api_version))["resources"]:
                if "/" not in found["name"]:  # not a subresource
                    self._resources[api_version, found["kind"]] = found["name"], found["namespaced"]
        try:
            return self._resources[api_version, kind]
        except KeyError:
            raise ApiError(404, "NotFound", f"the server knows no {kind} in {api_version}") from None

    def _headers(self, content_type: str = "application/json") -> dict[str, str]:
        return {
            "Authorization": f"Bearer {self._token}",
            "Accept": "application/json, */*",
            "Content-Type": content_type,
        }

    def _connect(self, timeout_s: float) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(*self._address, timeout=timeout_s, context=self._tls)

    def _exchange(
        self, method: str, target: str, payload: bytes | None, headers: Mapping[str, str]
    ) -> tuple[int, bytes]:
        """On this thread's connection. One that went stale in the meantime (the server was restarted) is
        replaced once; a new one that fails is the caller's to know."""
        kept: http.client.HTTPSConnection | None = getattr(self._local, "connection", None)
        fresh = self._connect(self._timeout_s)
        for connection in (kept, fresh) if kept else (fresh,):
            try:
                connection.request(method, target, payload, dict(headers))
                response = connection.getresponse()
                answer = response.read()
            except BaseException as error:
                connection.close()
                self._local.connection = None
                if connection is kept and isinstance(error, (ConnectionError, ssl.SSLError)):
                    continue
                raise
            self._local.connection = connection
            return response.status, answer
        raise AssertionError("the new connection answers or raises")


def eventually(check: Callable[[], T], timeout_s: float = 60.0, every_s: float = 0.05) -> T:
    """Ask until the answer is true, and return it. Raises TimeoutError with the last answer."""
    deadline_s = time.monotonic() + timeout_s
    while not (answer := check()):
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"after {timeout_s} s still {answer!r}: {check}")
        time.sleep(every_s)
    return answer


def _root(api_version: str) -> str:
    return f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"


def _strict(dry_run: bool) -> dict[str, str]:
    return {"fieldValidation": "Strict", **({"dryRun": "All"} if dry_run else {})}


def _error(status: int, answer: bytes) -> ApiError:
    try:
        told = json.loads(answer)
        return ApiError(status, told.get("reason", ""), told.get("message", ""))
    except (ValueError, AttributeError):
        return ApiError(status, http.client.responses.get(status, ""), answer.decode(errors="replace")[:500])
