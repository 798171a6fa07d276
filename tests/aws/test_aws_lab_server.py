"""The AWS server as a process: it keeps connections, and goes when whoever started it goes."""

from __future__ import annotations

import http.client
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from lbprov.lab.aws.server import MotoServer


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


def test_environment_leaves_nothing_to_the_machines_own_configuration(moto_server: MotoServer) -> None:
    environment = moto_server.environment
    assert environment["AWS_ENDPOINT_URL"] == moto_server.endpoint_url
    assert environment["AWS_CONFIG_FILE"] == environment["AWS_SHARED_CREDENTIALS_FILE"] == "/dev/null"
