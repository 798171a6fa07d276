"""Terraform for real, with a provider that is nothing but a schema.

Terraform takes the schema that it validates against, and that a mock is made from, from the provider's
real plugin, which is half a gigabyte and not to be had everywhere. `ProviderStub` answers
`GetProviderSchema` of plugin protocol 6 (docs/plugin-protocol in Terraform's repository) over a Unix
socket, and everything else with an empty message, which means: nothing to complain about. What only an
account can show is in terraform/README.md.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc
import pytest

ROOT = Path(__file__).parents[2]
ADDRESS = "hashicorp/aws"
OLDEST = (1, 9)

_FLAGS = {"r": 4, "o": 5, "c": 6}
"""Field numbers of Schema.Attribute: required, optional, computed."""


class ProviderStub:
    """A context manager. `environment`: what `terraform` needs to use it."""

    def __init__(self, schema: Mapping[str, Any], socket: Path) -> None:
        self._socket = socket
        self._server = grpc.server(ThreadPoolExecutor(8))
        self._server.add_generic_rpc_handlers((_Answers(_provider_schema(schema)),))
        self._server.add_insecure_port(f"unix:{socket}")

    def __enter__(self) -> ProviderStub:
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.stop(grace=None).wait()

    @property
    def environment(self) -> dict[str, str]:
        how = {
            "Protocol": "grpc",
            "ProtocolVersion": 6,
            "Pid": os.getpid(),
            "Test": True,  # not Terraform's to end
            "Addr": {"Network": "unix", "String": str(self._socket)},
        }
        return {"TF_REATTACH_PROVIDERS": json.dumps({ADDRESS: how})}


class _Answers(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(self, schema: bytes) -> None:
        self._schema = schema

    def service(self, details: Any) -> Any:
        _, service, method = details.method.split("/")
        if service != "tfplugin6.Provider":
            return None
        answer = self._schema if method == "GetProviderSchema" else b""
        return grpc.unary_unary_rpc_method_handler(lambda request, context: answer)


def _provider_schema(schema: Mapping[str, Any]) -> bytes:
    """GetProviderSchema.Response."""
    parts = [_field(1, _schema(schema["provider"]))]
    for number, kind in ((2, "resources"), (3, "data")):
        for name, attributes in schema[kind].items():
            parts.append(_field(number, _field(1, name.encode()) + _field(2, _schema(attributes))))
    return b"".join(parts)


def _schema(attributes: Mapping[str, tuple[object, str]]) -> bytes:
    block = b"".join(_field(2, _attribute(name, *how)) for name, how in attributes.items())
    return _field(2, block)


def _attribute(name: str, type_: object, flags: str) -> bytes:
    said = b"".join(_varint(_FLAGS[flag] << 3) + _varint(1) for flag in flags)
    return _field(1, name.encode()) + _field(2, json.dumps(type_).encode()) + said


def _field(number: int, content: bytes) -> bytes:
    """A length-delimited field of a protocol buffer."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


class Terraform:
    """The program, in a copy of `terraform/`."""

    def __init__(self, program: str, folder: Path, environment: Mapping[str, str]) -> None:
        self._program = program
        self.folder = folder
        self._environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("TF_", "AWS_"))},
            "TF_CLI_CONFIG_FILE": os.devnull,
            "CHECKPOINT_DISABLE": "1",
            **environment,
        }

    def run(self, where: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self._program, *arguments],
            cwd=self.folder / where,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=100,
        )

    def init(self, where: str) -> None:
        done = self.run(where, "init", "-backend=false", "-input=false", "-no-color")
        assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def terraform_program() -> str:
    """A missing one fails: these modules are given to users, untested they are not."""
    found = shutil.which("terraform")
    if found is None:
        pytest.fail(
            "terraform is not on PATH. These tests need 1.9 or newer; Debian does not have it: take it from "
            "https://developer.hashicorp.com/terraform/install (one file, no plugins)"
        )
    done = subprocess.run([found, "version", "-json"], capture_output=True, text=True, timeout=100)
    version = json.loads(done.stdout)["terraform_version"]
    assert tuple(map(int, version.split(".")[:2])) >= OLDEST, f"terraform {version}: 1.9 or newer is needed"
    return found


@pytest.fixture
def terraform(terraform_program: str, tmp_path: Path) -> Iterator[Terraform]:
    shutil.copytree(
        ROOT / "terraform", tmp_path / "terraform", ignore=shutil.ignore_patterns(".terraform*", "*.tfstate*")
    )
    schema = json.loads(Path(__file__).with_name("aws_schema.json").read_text())
    with ProviderStub(schema, tmp_path / "provider.sock") as stub:
        yield Terraform(terraform_program, tmp_path / "terraform", stub.environment)
