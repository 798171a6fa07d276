"""The AWS API as a process of its own: `MotoServer` starts one, `python -m lbprov.lab.aws.server` is one.

The process listens on a free port of 127.0.0.1, prints the port and ends when its standard input closes, so
it never outlives the program that started it, however that program ends.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal

REGION = "eu-west-1"
PROFILES = Path(__file__).with_name("profiles.ini")
"""An AWS configuration with nothing in it but the profile `default`."""
CONTROL_PATH = "/lbprov-control"


class MotoServer:
    """A handle on the server process; a context manager. `environment` is what a program needs to talk to it.

    Nothing of the machine's own AWS configuration (profile, credentials) is used by a program run with it.
    """

    def __init__(self, region: str = REGION, *, strict: bool = True) -> None:
        self.region = region
        self.strict = strict
        self._process: subprocess.Popen[str] | None = None
        self._log: IO[str] | None = None
        self._port = 0

    def __enter__(self) -> MotoServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": "lab",
            "AWS_SECRET_ACCESS_KEY": "lab",
            "AWS_SESSION_TOKEN": "lab",
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_EC2_METADATA_DISABLED": "true",
            # A variable can be overridden but not taken away: a profile of the user's has to become one that
            # says nothing.
            "AWS_PROFILE": "default",
            "AWS_CONFIG_FILE": str(PROFILES),
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "NO_PROXY": "127.0.0.1",
        }

    def start(self) -> None:
        """Returns when the server answers. Raises RuntimeError with the server's own words if it dies."""
        # Its own session: a Ctrl-C at the terminal must not take the server from under whoever cleans up.
        # The pipe, not the signal, ends it.
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by stop()
        arguments = [sys.executable, "-P", "-m", __name__, *([] if self.strict else ["--lenient"])]
        self._process = subprocess.Popen(
            arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            start_new_session=True,
            env={**os.environ, "AWS_PROFILE": "default", "AWS_CONFIG_FILE": str(PROFILES)},
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.strip().isdigit():
            self._process.wait()
            self._log.seek(0)
            said = self._log.read().strip()
            self.stop()
            raise RuntimeError(f"The AWS server did not start (is lbprov[demo] installed?): {said[-2000:]}")
        self._port = int(line)

    def stop(self) -> None:
        """Idempotent."""
        if self._process is not None:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.close()
            try:
                self._process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process.stdout.close()
            self._process = None
        if self._log is not None:
            self._log.close()
            self._log = None

    def reset(self) -> None:
        """Empty the world, forget faults and calls."""
        self._request("/moto-api/reset", {})
        self.control(reset=True)

    def fail(
        self,
        operation: str,
        code: str,
        *,
        times: int = 1,
        status: int = 400,
        message: str = "as told to",
        when: Literal["before", "after"] = "before",
    ) -> None:
        """The next `times` calls of `operation` are answered with an error; `after`: carried out first, as
        when only the answer is lost."""
        self.control(
            fail={
                "operation": operation,
                "code": code,
                "times": times,
                "status": status,
                "message": message,
                "when": when,
            }
        )

    def delay(self, operation: str, seconds: float, *, times: int = 1) -> None:
        """The next `times` calls of `operation` ("*": of any) take so much longer."""
        self.control(delay={"operation": operation, "seconds": seconds, "times": times})

    def linger(self, on: bool) -> None:
        """While on, a deleted load balancer's network interfaces (and so its addresses and its security
        group) stay in use, as they do for minutes on AWS. Turning it off releases them."""
        self.control(linger=on)

    def limit_rates(self, speed: float = 1.0) -> None:
        """From now on calls are throttled as AWS throttles them, as if time went `speed` times as fast (0:
        no more)."""
        self.control(speed=speed)

    def quotas(self, **values: int) -> None:
        """Other quotas than an account has from the start: the fields of `quotas.Quotas`."""
        self.control(quotas=values)

    def settle_targets(self, seconds: float) -> None:
        """Targets are `initial` for so long after they were registered."""
        self.control(settle=seconds)

    def lag(self, *, tagging: float = 0.0, elbv2: float = 0.0, ec2: float = 0.0) -> None:
        """From now on these APIs show things as they were so many seconds ago (inf: as they are now)."""
        self.control(lag={"tagging": tagging, "elasticloadbalancing": elbv2, "ec2": ec2})

    def requests(self) -> list[dict[str, Any]]:
        """Every call since the last reset, oldest first: `operation`, `params` (flat, as sent), `code`
        (empty: success)."""
        recorded: list[dict[str, Any]] = self.control()["requests"]
        return recorded

    def calls(self) -> dict[str, int]:
        """Calls since the last reset by operation."""
        counts: dict[str, int] = {}
        for request in self.requests():
            counts[request["operation"]] = counts.get(request["operation"], 0) + 1
        return counts

    def control(self, **orders: Any) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self._request(CONTROL_PATH, orders))
        return answer

    def _request(self, path: str, body: Mapping[str, Any]) -> bytes:
        request = urllib.request.Request(  # noqa: S310 - always http to 127.0.0.1
            self.endpoint_url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=60) as response:
            answer: bytes = response.read()
        return answer


def serve(*, strict: bool) -> None:
    """Serve until standard input closes. Prints the port when ready."""

    def end_with_parent() -> None:
        sys.stdin.read()
        # No shutdown(): it would wait for connections that clients keep open.
        os._exit(0)

    # Before anything else: what follows takes seconds, or minutes on a busy machine.
    threading.Thread(target=end_with_parent, daemon=True).start()
    # moto reads thousands of machine images from disk otherwise, at the first EC2 call.
    os.environ.setdefault("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

    from lbprov.lab.aws.http11 import make_server
    from lbprov.lab.aws.strict import StrictAws

    server = make_server(StrictAws(DomainDispatcherApplication(create_backend_app), enforce=strict))
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    serve(strict="--lenient" not in sys.argv[1:])
