"""The AWS server as a process: it keeps connections, and goes when whoever started it goes."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from lbprov.lab.aws.server import MotoServer
from lbprov.lab.aws.world import AwsWorld


def test_connection_is_kept(moto_server: MotoServer) -> None:
    connection = http.client.HTTPConnection(moto_server.endpoint_url.removeprefix("http://"))
    sockets = set()
    for _ in range(3):
        connection.request("POST", "/lbprov-control", b"{}")
        answer = connection.getresponse()
        assert answer.status == 200
        answer.read()
        sockets.add(connection.sock.getsockname() if connection.sock else None)
    assert len(sockets) == 1
    assert None not in sockets
    connection.close()


@pytest.mark.parametrize("end", ["return", "os._exit(3)", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_server_ends_with_its_parent(end: str) -> None:
    program = textwrap.dedent(f"""
        import os, signal
        from lbprov.lab.aws.server import MotoServer
        def main():
            with MotoServer() as server:
                print(server._process.pid, flush=True)
                {end}
        main()
    """)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    pid = int(done.stdout)
    for _ in range(100):
        if not _is_alive(pid):
            return
        time.sleep(0.1)
    raise AssertionError(f"server {pid} outlives its parent")


def _is_alive(pid: int) -> bool:
    """A process that nobody has waited for yet is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_failed_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    server = MotoServer()
    with pytest.raises(RuntimeError, match=r"did not start \(is lbprov\[demo\] installed\?\)"):
        server.start()
    server.stop()


def test_the_machines_own_aws_configuration_plays_no_part(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Not even a profile that does not exist, for the server, its world and programs that use it."""
    (tmp_path / "config").write_text(
        "[profile work]\nregion = eu-south-2\nendpoint_url = http://127.0.0.1:1\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    for profile in ("work", "nobody"):
        monkeypatch.setenv("AWS_PROFILE", profile)
        with MotoServer() as server:
            world = AwsWorld.create(server, zones=1, nodes=1)
            program = "import boto3; print(len(boto3.client('ec2').describe_instances()['Reservations']))"
            done = subprocess.run(
                [sys.executable, "-c", program],
                env={**os.environ, **server.environment},
                capture_output=True,
                text=True,
                timeout=100,
            )
            assert (done.stdout.strip(), len(world.provider_ids)) == ("1", 1), done.stderr
