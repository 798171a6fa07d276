"""What the instance that we run on knows of itself: EC2's instance metadata, version 2.

Asked for the place only; the credentials that are there too are the SDK's business. The variables are the
SDK's: AWS_EC2_METADATA_DISABLED, AWS_EC2_METADATA_SERVICE_ENDPOINT and …_ENDPOINT_MODE (SDKs and Tools
Reference Guide, "IMDS client"). Nobody else is told where we are: no proxy is used.
"""

from __future__ import annotations

import http.client
import json
import os
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass

TIMEOUT_S = 1.0
"""It answers at once or, outside of EC2 and behind too many hops, never."""

_DEFAULT = {"ipv4": "http://169.254.169.254", "ipv6": "http://[fd00:ec2::254]"}
_MAX_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Instance:
    """The one that we run on. `vpc_id` is that of its first network interface."""

    instance_id: str
    region: str
    vpc_id: str


class NoMetadata(Exception):
    """There is none for us. The message says why, as the end of a sentence."""


def look(environment: Mapping[str, str] = os.environ) -> Instance:
    """Four requests, 1 s each at most. Raises `NoMetadata`."""
    if environment.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
        raise NoMetadata("AWS_EC2_METADATA_DISABLED is set")
    mode = environment.get("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", "").lower() or "ipv4"
    endpoint = environment.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", "") or _DEFAULT.get(mode, "")
    url = urllib.parse.urlsplit(endpoint)
    try:
        host, port = url.hostname, url.port
    except ValueError:
        host, port = None, None
    if url.scheme != "http" or not host:
        raise NoMetadata(f"the instance metadata's endpoint {endpoint or mode!r} is no http://HOST[:PORT]")
    connection = http.client.HTTPConnection(host, port or 80, timeout=TIMEOUT_S)
    try:
        return _read(connection, url.path.rstrip("/") + "/latest/")
    finally:
        connection.close()


def _read(connection: http.client.HTTPConnection, root: str) -> Instance:
    try:
        connection.connect()
    except OSError as error:
        raise NoMetadata("there is no instance metadata here: this is no EC2 instance") from error
    try:
        lifetime = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
        token = _ask(connection, "PUT", root + "api/token", lifetime)
    except TimeoutError as error:
        raise NoMetadata(
            "the instance metadata gives no token: from a container it takes one hop more, which "
            "`aws ec2 modify-instance-metadata-options --http-put-response-hop-limit 2` allows"
        ) from error
    except (OSError, http.client.HTTPException) as error:
        raise NoMetadata(f"the instance metadata does not answer ({type(error).__name__})") from error
    with_token = {"X-aws-ec2-metadata-token": token}
    try:
        identity = json.loads(
            _ask(connection, "GET", root + "dynamic/instance-identity/document", with_token)
        )
        mac = _ask(connection, "GET", root + "meta-data/mac", with_token)
        of_mac = f"{root}meta-data/network/interfaces/macs/{urllib.parse.quote(mac)}/vpc-id"
        vpc_id = _ask(connection, "GET", of_mac, with_token)
        return Instance(str(identity["instanceId"]), str(identity["region"]), vpc_id)
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
        raise NoMetadata(f"the instance metadata cannot be read ({type(error).__name__})") from error


def _ask(connection: http.client.HTTPConnection, method: str, path: str, headers: Mapping[str, str]) -> str:
    connection.request(method, path, headers=dict(headers))
    response = connection.getresponse()
    text = response.read(_MAX_BYTES).decode("utf-8", "replace").strip()
    if response.status != http.client.OK:
        what = "it is switched off for this instance" if response.status in (403, 404) else "it failed"
        raise NoMetadata(f"the instance metadata answers {response.status}: {what}")
    return text
