"""Where the lab cannot be, it says why in one sentence, and what to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lbprov.lab.requirements import need_programs, why_no_namespaces
from lbprov.model import UserError

TRY = """
from lbprov.lab import Lab
from lbprov.model import UserError
try:
    with Lab.open():
        print("open")
except UserError as error:
    print(error)
"""


def test_a_machine_that_allows_no_user_namespaces() -> None:
    """A real refusal by the kernel, in a user namespace whose own limit is 0 and whose root has no rights."""
    without_rights = "setpriv --bounding-set=-all --inh-caps=-all"
    done = subprocess.run(
        [
            *("unshare", "--user", "--map-root-user", "sh", "-euc"),
            f'echo 0 > /proc/sys/user/max_user_namespaces; exec {without_rights} "$0" "$@"',
            *(sys.executable, "-c", TRY),
        ],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.stderr == ""
    assert done.stdout == (
        "user namespaces are switched off here (user.max_user_namespaces is 0): "
        "run `sudo sysctl -w user.max_user_namespaces=15000`, or run this as root\n"
    )


@pytest.mark.parametrize(
    ("files", "is_root", "remedy"),
    [
        pytest.param(
            {"proc/sys/kernel/unprivileged_userns_clone": "0\n"},
            False,
            "sudo sysctl -w kernel.unprivileged_userns_clone=1",
            id="debian",
        ),
        pytest.param(
            {"proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1\n"},
            False,
            "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
            id="ubuntu",
        ),
        pytest.param({".dockerenv": ""}, True, "docker run --privileged", id="container-root"),
        pytest.param(
            {".dockerenv": "", "proc/sys/kernel/unprivileged_userns_clone": "0"},
            True,
            "docker run --privileged",
            id="roots-are-not-told-of-what-binds-users",
        ),
        pytest.param({}, False, "(unshare: no) ", id="unknown-says-what-the-kernel-said"),
        pytest.param(
            {"proc/sys/user/max_user_namespaces": "96365", "proc/sys/kernel/unprivileged_userns_clone": "1"},
            False,
            "run this as root",
            id="all-allowed-by-settings",
        ),
    ],
)
def test_the_remedy_fits_the_distribution(
    tmp_path: Path, files: dict[str, str], is_root: bool, remedy: str
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    message = why_no_namespaces("unshare: no", is_root=is_root, root=tmp_path)
    assert remedy.strip() in message
    assert "\n" not in message


def test_missing_programs_are_named_with_their_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lbprov.lab.requirements.search_path", lambda: str(tmp_path))
    with pytest.raises(UserError) as raised:
        need_programs(["ip", "iptables", "nsenter", "unshare"])
    assert str(raised.value) == (
        "programs not found on PATH: ip, iptables, nsenter, unshare. "
        "On Debian and Ubuntu: sudo apt-get install iproute2 iptables util-linux"
    )


def test_the_programs_of_the_lab_are_found_without_sbin_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    need_programs(["ip", "iptables"])
