"""`lbprov demo` as a user runs it: it holds, it says so when it does not, and it leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lbprov.demo.run import run
from lbprov.demo.show import Show
from lbprov.demo.stage import Stage
from lbprov.demo.steps import STEPS, DemoStep

LBPROV = [sys.executable, "-m", "lbprov"]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """TMPDIR is empty, so that whatever is left in it was left by the demo. What a user has set for AWS and
    for lbprov must not matter."""
    return {
        **os.environ,
        "TMPDIR": str(tmp_path),
        "AWS_PROFILE": "somebody-elses",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        "LBPROV_CLUSTER_NAME": "somebody-elses",
    }


def _started_in(folder: Path) -> list[str]:
    """Every process of ours, wherever its parents have gone: TMPDIR is in the environment of all."""
    mark = f"TMPDIR={folder}\0".encode()
    found = []
    for proc in Path("/proc").iterdir():
        if proc.name.isdigit():
            try:
                if mark in (proc / "environ").read_bytes() + b"\0":
                    found.append((proc / "cmdline").read_text().replace("\0", " "))
            except OSError:
                continue
    return found


def _assert_nothing_left(folder: Path) -> None:
    deadline = time.monotonic() + 60
    while left := _started_in(folder):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)
    assert list(folder.iterdir()) == []


def test_the_whole_walkthrough_holds(environment: dict[str, str], tmp_path: Path) -> None:
    done = subprocess.run([*LBPROV, "demo"], env=environment, capture_output=True, text=True, timeout=110)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    _assert_nothing_left(tmp_path)
    assert "\x1b" not in done.stdout
    steps = re.split(r"\n\n(?=[1-9]  )", done.stdout)[1:]
    proofs = {
        1: ["every node refuses at once", "Connection refused"],
        2: ["reaches port 80 of webserver-"],
        3: [
            "10.101.150.150:8888 reaches the Pod",
            "is outside 10.96.0.1-",
            "one outside the range is refused",
        ],
        4: ["port 32001 of every node reaches the Pod", "where none runs", "of 30000-32767 is given"],
        5: [".elb.eu-west-1.amazonaws.com:8888 reaches the Pod from outside", "a second run writes nothing"],
        6: [
            "status and AWS both say 203.0.113.10",
            "Warning",
            "203.0.113.99",
            "it takes along everything that was made for it",
        ],
        7: ["101.101.101.1:8888 reaches the Pod whichever node it arrives at"],
        8: ["none failed", "spread over exactly these 3 Pods", "spread over exactly these 2 Pods"],
    }
    assert [step[0] for step in steps] == [str(number) for number in proofs]
    for number, texts in proofs.items():
        assert [text for text in texts if text not in steps[number - 1]] == []
        assert "   ✓ " in steps[number - 1]
    assert "The whole walkthrough holds: 8 steps, " in done.stdout


@pytest.mark.parametrize(
    ("sig", "code"),
    [pytest.param(signal.SIGINT, 130, id="ctrl-c"), pytest.param(signal.SIGTERM, 143, id="term")],
)
def test_a_signal_ends_it_and_takes_everything_away(
    environment: dict[str, str], tmp_path: Path, sig: signal.Signals, code: int
) -> None:
    with subprocess.Popen(
        [*LBPROV, "demo"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as demo:
        assert demo.stdout is not None
        assert demo.stderr is not None
        for line in demo.stdout:
            if line.startswith("3  "):
                break
        assert len(_started_in(tmp_path)) > 10
        demo.send_signal(sig)
        said = demo.stdout.read()
        assert (demo.wait(timeout=60), demo.stderr.read()) == (code, ""), said
    _assert_nothing_left(tmp_path)


def test_a_second_ctrl_c_does_not_keep_it_from_clearing_up(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """Also before the first step, while everything is only being set up."""
    with subprocess.Popen([*LBPROV, "demo"], env=environment, stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        assert demo.stdout.readline().startswith("lbprov demo")
        for _ in range(20):
            demo.send_signal(signal.SIGINT)
            time.sleep(0.01)
        assert demo.wait(timeout=60) == 130
    _assert_nothing_left(tmp_path)


def test_kill_9_leaves_no_process(environment: dict[str, str], tmp_path: Path) -> None:
    with subprocess.Popen([*LBPROV, "demo"], env=environment, stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if line.startswith("2  "):
                break
        demo.kill()
    deadline = time.monotonic() + 60
    while left := _started_in(tmp_path):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


@pytest.fixture
def quiet_temp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    yield tmp_path
    assert list(tmp_path.iterdir()) == []


def test_a_step_that_does_not_hold_is_named(quiet_temp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A node that is cut off breaks `every node`, and only that."""

    def sabotaged(stage: Stage) -> None:
        stage.nodes[2].run(["ip", "link", "set", "eth0", "down"])
        STEPS[3].act(stage)

    code = run(Show(), [STEPS[0], STEPS[1], DemoStep(STEPS[3].title, sabotaged)])
    out = capsys.readouterr().out
    assert code == 1, out
    assert "✗ port 32001 of every node reaches the Pod from outside" in out
    assert "seen instead: " in out
    assert out.endswith("Step 3 does not hold: NodePort: a port of every node\n")


def test_a_step_that_cannot_be_carried_out_is_named_in_json(
    quiet_temp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An agent that dies is seen at once, with its last words, and not waited for."""

    def sabotaged(stage: Stage) -> None:
        stage.nodes[2].run(["sh", "-c", "kill -9 $(pgrep -f '[n]ode-name node-3')"])
        STEPS[0].act(stage)

    assert run(Show(as_json=True), [DemoStep("Sabotage", sabotaged)]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["holds"] is False
    step = document["steps"][-1]
    assert step["title"] == "Sabotage"
    assert step["failed"]["expected"] == "the step can be carried out"
    assert "the agent of node-3 has ended" in step["failed"]["seen"]


def test_without_moto_it_says_what_to_install(environment: dict[str, str], tmp_path: Path) -> None:
    """As in an installation without the extra: moto is not to be found."""
    hide = (
        "import importlib.util as u, sys; real = u.find_spec;"
        "u.find_spec = lambda n, *a: None if n == 'moto' else real(n, *a);"
        "from lbprov.cli.main import main; main(['demo'])"
    )
    done = subprocess.run([sys.executable, "-c", hide], env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == (
        "Error: the demo's AWS needs moto: install lbprov[demo] (pip install 'lbprov[demo]')\n"
    )
    _assert_nothing_left(tmp_path)


def test_where_namespaces_are_forbidden_it_says_so(environment: dict[str, str], tmp_path: Path) -> None:
    forbidden = (
        "echo 0 > /proc/sys/user/max_user_namespaces; "
        'exec setpriv --bounding-set=-all --inh-caps=-all "$0" "$@"'
    )
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "sh", "-euc", forbidden, *LBPROV, "demo"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Error: user namespaces are switched off here")
    assert done.stderr.count("\n") == 1
    _assert_nothing_left(tmp_path)
