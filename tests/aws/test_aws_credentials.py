"""Every place that credentials come from, each with the real SDK and a stand-in for who gives them."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from lbprov.api import ProviderError
from lbprov.lab.aws.server import MotoServer
from lbprov_aws import metadata
from lbprov_aws.cloud import Cloud
from lbprov_aws.metadata import Instance, NoMetadata
from lbprov_aws.refusals import CREDENTIALS

SECRET = "wJalrXUtnFEMI-not-for-logs"
ROLE = "arn:aws:iam::123456789012:role/lbprov"
KEYS = {
    "Code": "Success",
    "AccessKeyId": "ASIALAB",
    "SecretAccessKey": SECRET,
    "Token": SECRET,
    "Expiration": "2099-01-01T00:00:00Z",
}
IDENTITY = {"instanceId": "i-0123456789abcdef0", "region": "eu-west-1", "accountId": "123456789012"}


class StandIn(ThreadingHTTPServer):
    """Answers by path: a text, or a status. `asked` has (method, path, headers). `mute`: paths that get no
    answer while the test lasts."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: dict[str, str | int] = {}
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self.mute: set[str] = set()
        self.over = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: StandIn

    def _answer(self) -> None:
        self.server.asked.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
        if self.path in self.server.mute:
            self.server.over.wait(60)
        answer = self.server.answers.get(self.path, 404)
        text = answer if isinstance(answer, str) else ""
        self.send_response(200 if isinstance(answer, str) else answer)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    do_GET = do_PUT = _answer  # noqa: N815 - the base class's names

    def log_message(self, *_: Any) -> None:
        """Nobody reads it."""


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    with StandIn() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.over.set()
        server.shutdown()


@pytest.fixture
def instance(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """The metadata of an instance that has a role."""
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "false")
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", stand_in.url)
    stand_in.answers = {
        "/latest/api/token": "a-token",
        "/latest/dynamic/instance-identity/document": json.dumps(IDENTITY),
        "/latest/meta-data/mac": "0a:00:00:00:00:01",
        "/latest/meta-data/network/interfaces/macs/0a%3A00%3A00%3A00%3A00%3A01/vpc-id": "vpc-0123",
        "/latest/meta-data/iam/security-credentials/": "lbprov",
        "/latest/meta-data/iam/security-credentials/lbprov": json.dumps(KEYS),
    }
    return stand_in


@pytest.fixture
def nothing_set(aws_server: MotoServer, monkeypatch: pytest.MonkeyPatch) -> MotoServer:
    """No credentials anywhere; whoever wants some says where."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name)
    return aws_server


@pytest.fixture
def agent(stand_in: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """EKS's Pod Identity Agent, and the variables that its webhook sets."""
    token_file = tmp_path / "eks-pod-identity-token"
    token_file.write_text(SECRET + "-jwt")
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", stand_in.url + "/v1/credentials")
    monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(token_file))
    monkeypatch.setattr("botocore.utils.ContainerMetadataFetcher.SLEEP_TIME", 0)
    stand_in.answers = {"/v1/credentials": json.dumps(KEYS)}
    return stand_in


@pytest.fixture
def web_identity(nothing_set: MotoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The variables that EKS's webhook for IRSA sets; returns the token's file."""
    token_file = tmp_path / "token"
    token_file.write_text("a.web.token")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(token_file))
    monkeypatch.setenv("AWS_ROLE_ARN", ROLE)
    return token_file


def _works(cloud: Cloud) -> bool:
    return "Addresses" in cloud.call("ec2", "DescribeAddresses")


# -- the chain


def test_web_identity(web_identity: Path, nothing_set: MotoServer) -> None:
    cloud = Cloud()
    assert _works(cloud)
    assert cloud.credentials_from == "assume-role-with-web-identity"
    (asked,) = (r for r in nothing_set.requests() if r["operation"] == "AssumeRoleWithWebIdentity")
    assert (asked["params"]["RoleArn"], asked["params"]["WebIdentityToken"]) == (ROLE, "a.web.token")


@pytest.mark.usefixtures("nothing_set")
def test_pod_identity(agent: StandIn) -> None:
    cloud = Cloud()
    assert _works(cloud)
    assert cloud.credentials_from == "container-role"
    assert {headers["authorization"] for _, _, headers in agent.asked} == {SECRET + "-jwt"}


@pytest.mark.usefixtures("nothing_set")
def test_role_of_the_instance(instance: StandIn) -> None:
    cloud = Cloud()
    assert _works(cloud)
    assert cloud.credentials_from == "iam-role"
    assert {h["x-aws-ec2-metadata-token"] for m, _, h in instance.asked if m == "GET"} == {"a-token"}


def test_profile_that_takes_a_role(
    nothing_set: MotoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config"
    config.write_text(
        f"[profile work]\nrole_arn = {ROLE}\nsource_profile = keys\nregion = eu-north-1\n"
        "[profile keys]\naws_access_key_id = lab\naws_secret_access_key = lab\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_PROFILE", "work")
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    cloud = Cloud()
    assert _works(cloud)
    assert (cloud.credentials_from, cloud.region) == ("assume-role", "eu-north-1")
    (asked,) = (r for r in nothing_set.requests() if r["operation"] == "AssumeRole")
    assert asked["params"]["RoleArn"] == ROLE


@pytest.mark.usefixtures("aws_server")
def test_variables() -> None:
    assert Cloud().credentials_from == "env"


def test_where_they_come_from_is_logged_and_nothing_else(
    web_identity: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        _works(Cloud())
    records = [r.__dict__ for r in caplog.records if r.name == "lbprov_aws.cloud"]
    assert [(r["region"], r["credentials"]) for r in records] == [
        ("eu-west-1", "assume-role-with-web-identity")
    ]
    assert "a.web.token" not in caplog.text


# -- what goes wrong with it


def test_no_trust_for_the_web_identity(web_identity: Path, nothing_set: MotoServer) -> None:
    nothing_set.fail(
        "AssumeRoleWithWebIdentity",
        "AccessDenied",
        status=403,
        message="Not authorized to perform sts:AssumeRoleWithWebIdentity",
    )
    with pytest.raises(ProviderError, match=f"{ROLE} \\(IRSA\\): .*AccessDenied.*trust policy") as caught:
        _works(Cloud())
    assert "DescribeAddresses" not in str(caught.value), "the call is not what was refused"
    assert (caught.value.reason, caught.value.retryable) == (CREDENTIALS, False)
    assert _works(Cloud()), "and nothing is remembered of it"


def test_no_file_of_the_web_identity(web_identity: Path) -> None:
    web_identity.unlink()
    with pytest.raises(ProviderError, match=f"no AWS credentials from the web identity in {web_identity}"):
        _works(Cloud())


def test_web_identity_without_a_role(web_identity: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ROLE_ARN")
    with pytest.raises(ProviderError, match=r"for no role \(AWS_ROLE_ARN\)") as caught:
        _works(Cloud())
    assert caught.value.reason == CREDENTIALS


@pytest.mark.usefixtures("nothing_set")
@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(404, id="no association"),
        pytest.param("{" + SECRET, id="babble"),
        pytest.param(json.dumps({"SecretAccessKey": SECRET}), id="half an answer"),
    ],
)
def test_agent_without_credentials(agent: StandIn, answer: str | int) -> None:
    agent.answers["/v1/credentials"] = answer
    with pytest.raises(ProviderError, match=r"EKS Pod Identity\): .*eks-pod-identity-agent") as caught:
        _works(Cloud())
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None, "an SDK's error may hold what it read"
    assert caught.value.reason == CREDENTIALS
    assert caught.value.retryable == (answer == 404 or answer == "{" + SECRET), "it may be there in a moment"
    agent.answers["/v1/credentials"] = json.dumps(KEYS)
    assert _works(Cloud())


@pytest.mark.usefixtures("nothing_set")
def test_credentials_are_renewed_and_their_end_is_told(agent: StandIn) -> None:
    """A process lives longer than they do."""
    soon = (datetime.now(UTC) + timedelta(minutes=5)).isoformat()
    agent.answers["/v1/credentials"] = json.dumps({**KEYS, "Expiration": soon})
    cloud = Cloud()
    assert _works(cloud)
    asked = len(agent.asked)
    assert _works(cloud)
    assert len(agent.asked) > asked, "they would not last"
    agent.answers["/v1/credentials"] = 500
    with pytest.raises(ProviderError, match="EKS Pod Identity") as caught:
        _works(cloud)
    assert (caught.value.reason, caught.value.retryable) == (CREDENTIALS, True)
    agent.answers["/v1/credentials"] = json.dumps(KEYS)
    assert _works(cloud)
    asked = len(agent.asked)
    assert _works(cloud)
    assert len(agent.asked) == asked, "these last"


def test_half_a_pair_of_variables(aws_server: MotoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(ProviderError, match=r"from AWS_ACCESS_KEY_ID: .*AWS_SECRET_ACCESS_KEY"):
        _works(Cloud())


def test_damaged_configuration(nothing_set: MotoServer, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "config").write_text(f"aws_secret_access_key = {SECRET}\n[default\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    with pytest.raises(ProviderError, match=f"no AWS credentials.*{tmp_path}/config") as caught:
        Cloud()
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        pytest.param("ExpiredToken", "expired: get new ones", id="expired"),
        pytest.param("RequestExpired", "clock", id="clock"),
        pytest.param("InvalidClientTokenId", "another partition", id="unknown key"),
        pytest.param("SignatureDoesNotMatch", "not that of the access key", id="wrong secret"),
        pytest.param("AuthFailure", "region is not enabled", id="region off"),
    ],
)
def test_refused_credentials_never_repeat_the_request(aws_server: MotoServer, code: str, said: str) -> None:
    """AWS's message for a wrong signature has the request's headers in it, the session token among them."""
    aws_server.fail("DescribeAddresses", code, status=403, message=f"… x-amz-security-token:{SECRET} …")
    with pytest.raises(ProviderError, match=f"for ec2:DescribeAddresses: .*{said}") as caught:
        _works(Cloud())
    assert SECRET not in str(caught.value)
    assert (caught.value.reason, caught.value.retryable) == (CREDENTIALS, False)


@pytest.mark.usefixtures("impatient_sdk")
def test_throttled_by_sts_is_no_lack_of_credentials(web_identity: Path, nothing_set: MotoServer) -> None:
    nothing_set.fail("AssumeRoleWithWebIdentity", "Throttling", times=20)
    with pytest.raises(ProviderError, match="no AWS credentials yet") as caught:
        _works(Cloud())
    assert caught.value.retryable


# -- where we are, by the instance's metadata


@pytest.mark.usefixtures("instance")
def test_metadata() -> None:
    assert metadata.look() == Instance("i-0123456789abcdef0", "eu-west-1", "vpc-0123")


def test_metadata_says_why_not(instance: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    def why() -> str:
        with pytest.raises(NoMetadata) as caught:
            metadata.look()
        return str(caught.value)

    instance.answers["/latest/dynamic/instance-identity/document"] = "{}"
    assert "cannot be read (KeyError)" in why()
    instance.answers["/latest/api/token"] = 403
    assert "403: it is switched off" in why()
    instance.mute.add("/latest/api/token")
    assert "--http-put-response-hop-limit 2" in why()
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1")
    assert "no EC2 instance" in why()
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "127.0.0.1")
    assert "no http://HOST" in why()
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    assert "AWS_EC2_METADATA_DISABLED" in why()
