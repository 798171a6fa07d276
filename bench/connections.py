"""What a new connection costs: how long `connect` takes, and how many a second one client makes.

The client ends each by a reset, so that none lingers; the server's queue holds more than a round has, because
a queue that overflows drops the SYN, and the client comes again after seconds.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lbprov.lab import Host, PodHost
from lbprov.lab.holder import LabProcess

PER_ROUND = 1500
_QUEUE = 4096
_LIMIT_S = 120.0

# Says its name as the lab's pods do, to whom it asks; to who hangs up at once, nothing.
_SERVER = """
import socket, sys
page = f"Hostname   = {socket.gethostname()}\\n".encode()
answer = b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\nConnection: close\\r\\n\\r\\n" % len(page) + page
listener = socket.create_server(("", 80), backlog=int(sys.argv[1]))
print("ready", flush=True)
while True:
    connection, _ = listener.accept()
    try:
        connection.settimeout(5)
        if connection.recv(4096):
            connection.sendall(answer)
    except OSError:
        pass
    connection.close()
"""

_CLIENT = """
import json, socket, struct, sys, time
now = time.perf_counter
times, failed = [], 0
begun = now()
for _ in range(int(sys.argv[2])):
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 5, 0))
    t = now()
    try:
        s.connect((sys.argv[1], 80))
        times.append(now() - t)
    except OSError:
        failed += 1
    s.close()
took = now() - begun
times.sort()
at = lambda share: times[int(len(times) * share)] if times else 0.0
rate = len(times) / took
print(json.dumps({"p10_s": at(.1), "p50_s": at(.5), "p99_s": at(.99), "per_s": rate, "failed": failed}))
"""


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one round of connections. `p10_s` is what a busy machine moves least."""

    p10_s: float
    p50_s: float
    p99_s: float
    per_s: float
    failed: int


def serve(pod: PodHost) -> LabProcess:
    """On port 80, until the pod ends."""
    server = pod.popen([sys.executable, "-I", "-S", "-c", _SERVER, str(_QUEUE)], stdout=subprocess.PIPE)
    pod.await_ready(server)
    return server


def connect(client: Host, ip: str, count: int = PER_ROUND) -> Cost:
    argv = [sys.executable, "-I", "-S", "-c", _CLIENT, ip, str(count)]
    return Cost(**json.loads(client.run(argv, timeout_s=_LIMIT_S).stdout))


Turns = Mapping[str, Callable[[], Cost]]


def in_turns(ways: Turns, rounds: int) -> dict[str, list[Cost]]:
    """One round of each way after the other, again and again: the machine's moods fall on all of them."""
    found: dict[str, list[Cost]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, once in ways.items():
            found[name].append(once())
    return found


def ratio(costs: Sequence[Cost], base: Sequence[Cost], of: Callable[[Cost], float]) -> float:
    """The median of the rounds' ratios; 0 where a round has nothing to say."""
    pairs = [(of(cost), of(other)) for cost, other in zip(costs, base, strict=True)]
    return statistics.median(a / b if b else 0.0 for a, b in pairs)
