"""`lbprov node`'s flags; what it does is tested in tests/dataplane, in namespaces."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from lbprov.cli.node import command


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        pytest.param(["-f", ".", "--kubeconfig", "x"], "a cluster of its own", id="two clusters"),
        pytest.param(["-f", "/nowhere"], "does not exist", id="no such folder"),
        pytest.param(["-f", "."], "10.244.0.1/16 has host bits set", id="host bits"),
        pytest.param(["-f", ".", "--masquerade-bit", "15"], "must differ", id="one bit for both"),
        pytest.param(["-f", ".", "--refusal-bit", "40"], "is not a bit", id="no such bit"),
        pytest.param(["-f", ".", "--nodeport-addresses", "web"], "--nodeport-addresses", id="no network"),
        pytest.param(["-f", ".", "--nodeport-addresses", "192.0.2.1"], "(192.0.2.1/32 if", id="an address"),
        pytest.param(
            ["-f", ".", "--pod-bridge-interface", "br0"], "bridge-interface", id="a bridge for nothing"
        ),
        pytest.param(
            ["-f", ".", "--detect-local", "bridge-interface", "--pod-interface-name-prefix", "veth"],
            "--pod-interface-name-prefix: goes with --detect-local interface-name-prefix",
            id="a prefix for a bridge",
        ),
        pytest.param(
            ["cleanup", "--kube-proxy", "--after-kube-proxy"], "give one of them", id="two cleanups"
        ),
        pytest.param(["-f", ".", "--iptables-backend", "pf"], "'pf' is not one of", id="no such backend"),
    ],
)
def test_usage(arguments: list[str], sentence: str) -> None:
    cidr = ["--cluster-cidr", "10.244.0.1/16"] if sentence.startswith("10.") else []
    done = CliRunner().invoke(command, [*arguments, *cidr])
    assert done.exit_code == 2
    assert sentence in done.output


def test_help_names_what_matters() -> None:
    done = CliRunner().invoke(command, ["--help"])
    assert done.exit_code == 0
    for word in (
        "cleanup",
        "status",
        "--cluster-cidr",
        "--once",
        "--iptables-backend",
        "--nodeport-addresses",
    ):
        assert word in done.output


def test_every_flag_has_its_environment_variable() -> None:
    flags = [p for p in command.params if p.opts[-1].startswith("--") and p.name != "help"]
    assert flags
    assert all(p.envvar == "LBPROV_" + p.opts[-1][2:].upper().replace("-", "_") for p in flags)


def test_the_folder_is_not_read_before_the_flags_are_sound(tmp_path: Path) -> None:
    CliRunner().invoke(command, ["-f", str(tmp_path), "--cluster-cidr", "nonsense"])
    assert list(tmp_path.iterdir()) == []
