"""What a request looks like from the side that makes it: a Probe in, an Answer out.

The requests are made by `prober.py`, a script that runs inside the asking host. One prober per host is
kept, so that a probe costs its round trip and not the start of a program.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Any

_FACT = re.compile(r"^(IP address|Hostname|Client|Headers) += +(.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Probe:
    """One request, made `times` times one after another, each by a connection (socket) of its own.

    - `protocol` is http or udp. `source_ip` and `source_port` empty and 0: as the kernel chooses.
    - `held` (http): the number of a connection that stays open for the next probe of this host with the same
      address, port and number; `times` 0 hangs up. Broken: it was there, and does not answer any more.
    - `pause_s`: between two times.
    """

    ip: str
    port: int
    protocol: str = "http"
    timeout_s: float = 2.0
    times: int = 1
    source_ip: str = ""
    source_port: int = 0
    held: int = 0
    pause_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of a pod server (`servers.py`), in its own words.

    `hostname` is the pod's name, `server_ip` the address it was reached on, `client` the address that it saw
    the request come from (without the port), `headers` the names of the HTTP headers that it came with. All
    are empty if somebody else answered."""

    status: int
    body: str
    elapsed_ms: float = 0.0

    def _fact(self, name: str) -> str:
        facts: dict[str, str] = dict(_FACT.findall(self.body))
        return facts.get(name, "")

    @property
    def hostname(self) -> str:
        return self._fact("Hostname")

    @property
    def server_ip(self) -> str:
        return self._fact("IP address")

    @property
    def client(self) -> str:
        return self._fact("Client")

    @property
    def headers(self) -> tuple[str, ...]:
        return tuple(name for name in self._fact("Headers").split(", ") if name)

    def __str__(self) -> str:
        return f"answered by {self.hostname or 'a stranger'} ({self.server_ip})"


@dataclass(frozen=True, slots=True)
class Refused:
    """A TCP reset or an ICMP port unreachable: nobody listens, said at once."""

    elapsed_ms: float = 0.0

    def __str__(self) -> str:
        return f"refused after {self.elapsed_ms:.0f} ms"


@dataclass(frozen=True, slots=True)
class TimedOut:
    """No word within the time allowed: dropped somewhere, or nobody there."""

    elapsed_ms: float = 0.0

    def __str__(self) -> str:
        return f"no answer in {self.elapsed_ms:.0f} ms"


@dataclass(frozen=True, slots=True)
class Unreachable:
    """No way there (no route, an ICMP other than port unreachable); `error` is the kernel's word."""

    error: str
    elapsed_ms: float = 0.0

    def __str__(self) -> str:
        return f"unreachable ({self.error})"


@dataclass(frozen=True, slots=True)
class Broken:
    """A connection that was made and then failed before a whole answer had come."""

    error: str
    elapsed_ms: float = 0.0

    def __str__(self) -> str:
        return f"broken off ({self.error})"


Answer = Reply | Refused | TimedOut | Unreachable | Broken


def to_line(probes: Sequence[Probe]) -> str:
    return json.dumps([{name: getattr(p, name) for name in Probe.__slots__} for p in probes]) + "\n"


def from_line(line: str) -> list[list[Answer]]:
    """The answers to the probes of one request: per probe, in the order made."""
    return [[_decode(raw) for raw in answers] for answers in json.loads(line)]


def _decode(raw: dict[str, Any]) -> Answer:
    elapsed_ms = float(raw["ms"])
    match raw["kind"]:
        case "reply":
            return Reply(int(raw["status"]), str(raw["body"]), elapsed_ms)
        case "refused":
            return Refused(elapsed_ms)
        case "timeout":
            return TimedOut(elapsed_ms)
        case "unreachable":
            return Unreachable(str(raw["error"]), elapsed_ms)
        case _:
            return Broken(str(raw["error"]), elapsed_ms)


class AskingLoop:
    """Requests made over and over in the background, each probe in a thread of its own, until `stop`.

    What the prober does not keep: the text of every good answer. `stop` returns what was counted."""

    def __init__(self, stdin: IO[str], stdout: IO[str]) -> None:
        self._stdin = stdin
        self._stdout = stdout

    def stop(self) -> AskedFor:
        """Ends the loop after the requests under way and counts. Call it once."""
        self._stdin.write("stop\n")
        self._stdin.flush()
        raw = json.loads(self._stdout.readline())
        return AskedFor(
            made=int(raw["made"]),
            by_hostname={str(k): int(v) for k, v in raw["by_hostname"].items()},
            failures=tuple(str(f) for f in raw["failures"]),
        )


@dataclass(frozen=True, slots=True)
class AskedFor:
    """`made`: requests in all; `by_hostname`: pod name -> answers; `failures`: one text per failed request
    (target and what happened)."""

    made: int
    by_hostname: dict[str, int]
    failures: tuple[str, ...]
