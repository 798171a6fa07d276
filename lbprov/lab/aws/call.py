"""One call of an AWS API as it travels: the operation, its parameters, and how a refusal is spelled."""

from __future__ import annotations

import json
import re
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from xml.sax.saxutils import escape

ELBV2 = "elasticloadbalancing"
EC2 = "ec2"
TAGGING = "tagging"
STS = "sts"

_UNSIGNED = {"AssumeRoleWithWebIdentity": STS}
"""Who has no credentials yet cannot sign."""


class Refusal(Exception):
    """AWS says no. `code` is what SDKs show as the error code."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status


@dataclass(frozen=True, slots=True)
class Call:
    """`params` as sent: flat (`SubnetMappings.member.1.SubnetId`) for ELBv2 and EC2, JSON values for the
    tagging API. `service` is the name that the request was signed for."""

    service: str
    operation: str
    region: str
    params: Mapping[str, Any] = field(default_factory=dict)

    def get(self, name: str, default: str = "") -> str:
        return str(self.params.get(name, default))

    def items(self, name: str) -> list[str]:
        """A list of plain values: `items("Names.member")`, `items("SecurityGroups.member")`."""
        return [str(value) for _, value in self._numbered(rf"{re.escape(name)}\.(\d+)$")]

    def structs(self, name: str) -> list[dict[str, str]]:
        """A list of structures, with dotted names inside: `structs("SubnetMappings.member")`."""
        found: dict[int, dict[str, str]] = {}
        pattern = re.compile(rf"{re.escape(name)}\.(\d+)\.(.+)$")
        for key, value in self.params.items():
            if match := pattern.match(key):
                found.setdefault(int(match[1]), {})[match[2]] = str(value)
        return [found[number] for number in sorted(found)]

    def _numbered(self, pattern: str) -> list[tuple[int, Any]]:
        matches = ((re.match(pattern, key), value) for key, value in self.params.items())
        return sorted((int(match[1]), value) for match, value in matches if match)


def parse(environ: Mapping[str, Any], body: bytes) -> Call | None:
    """None for what is no call of the three APIs (moto's own pages)."""
    scope = re.search(r"Credential=[^/]+/\d+/([^/]+)/([^/]+)/", environ.get("HTTP_AUTHORIZATION", ""))
    if scope is None:
        params = dict(urllib.parse.parse_qsl(body.decode(errors="replace"), keep_blank_values=True))
        operation = params.get("Action", "")
        return Call(_UNSIGNED[operation], operation, "", params) if operation in _UNSIGNED else None
    region, service = scope[1], scope[2]
    if target := environ.get("HTTP_X_AMZ_TARGET"):
        return Call(service, target.rpartition(".")[2], region, json.loads(body or b"{}"))
    params = dict(urllib.parse.parse_qsl(body.decode(), keep_blank_values=True))
    if "Action" not in params:
        return None
    return Call(service, params["Action"], region, params)


def encode(call: Call) -> bytes:
    """The body of a call of a query API."""
    return urllib.parse.urlencode({**call.params, "Action": call.operation}).encode()


def refusal_body(service: str, refusal: Refusal) -> tuple[str, bytes]:
    """Content type and body of an error answer in the words of `service`'s protocol."""
    if service not in (ELBV2, EC2, STS):
        return "application/x-amz-json-1.1", json.dumps(
            {"__type": refusal.code, "message": refusal.message}
        ).encode()
    error = f"<Code>{escape(refusal.code)}</Code><Message>{escape(refusal.message)}</Message>"
    if service == EC2:
        text = f"<Response><Errors><Error>{error}</Error></Errors><RequestID>lab</RequestID></Response>"
    else:
        text = (
            '<ErrorResponse xmlns="http://elasticloadbalancing.amazonaws.com/doc/2015-12-01/">'
            f"<Error><Type>Sender</Type>{error}</Error><RequestId>lab</RequestId></ErrorResponse>"
        )
    return "text/xml", text.encode()


def code_in(answer: bytes) -> str:
    """The error code in an error answer."""
    match = re.search(rb"<Code>([^<]+)</Code>|\"__type\":\s*\"([^\"]+)\"", answer)
    return (match[1] or match[2]).decode() if match else "Unknown"
