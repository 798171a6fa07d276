"""Makes requests from inside a host. Run as a script, `python -I -S prober.py`, standard library only: it
must start in milliseconds. Protocol: a JSON list of probes per line in, a JSON list of lists of answers out.

`prober.py --loop`: one line of probes in, then requests without end, each probe in its own thread, until
another line or the end of the input; then one line with the counts. See `probes.py` for the fields.
"""

from __future__ import annotations

import errno
import json
import socket
import sys
import threading
import time
from typing import Any

_AT_ONCE = 32
_UNREACHABLE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EPERM)
_LOOP_PAUSE_S = 0.002
_FAILURES_KEPT = 50


def _socket(probe: dict[str, Any]) -> socket.socket:
    family = socket.AF_INET6 if ":" in probe["ip"] else socket.AF_INET
    kind = socket.SOCK_DGRAM if probe["protocol"] == "udp" else socket.SOCK_STREAM
    sock = socket.socket(family, kind)
    sock.settimeout(probe["timeout_s"])
    if probe["source_ip"] or probe["source_port"]:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((probe["source_ip"], probe["source_port"]))
    return sock


def _http(sock: socket.socket, ip: str, after: str = "close") -> dict[str, Any]:
    host = f"[{ip}]" if ":" in ip else ip
    sock.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: {after}\r\n\r\n".encode())
    got = b""
    while not (after != "close" and _is_whole(got)) and (chunk := sock.recv(65536)):
        got += chunk
    head, _, body = got.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/"):
        return {"kind": "broken", "error": "closed without an answer" if not got else "not HTTP"}
    return {"kind": "reply", "status": int(head.split()[1]), "body": body.decode(errors="replace")}


def _is_whole(got: bytes) -> bool:
    head, end, body = got.partition(b"\r\n\r\n")
    length = head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]
    return bool(end and length) and len(body) >= int(length)


def _udp(sock: socket.socket) -> dict[str, Any]:
    sock.send(b"who are you?\n")
    return {"kind": "reply", "status": 200, "body": sock.recv(65536).decode(errors="replace")}


_kept: dict[tuple[str, int, int], socket.socket] = {}
"""Connections that are held between probes, by address, port and number."""


def _ask_on_kept(probe: dict[str, Any]) -> dict[str, Any]:
    """Goes on with the connection of that number; one that was not there is made."""
    name = (probe["ip"], probe["port"], probe["held"])
    sock = _kept.pop(name, None)
    is_new = sock is None
    sock = sock or _socket(probe)
    try:
        sock.settimeout(probe["timeout_s"])
        if is_new:
            sock.connect((probe["ip"], probe["port"]))
        answer = _http(sock, probe["ip"], "keep-alive")
    except OSError as error:
        sock.close()
        if is_new:
            raise
        return {"kind": "broken", "error": error.strerror or str(error)}
    if answer["kind"] == "reply":
        _kept[name] = sock
    else:
        sock.close()
    return answer


def hang_up(probe: dict[str, Any]) -> None:
    if sock := _kept.pop((probe["ip"], probe["port"], probe["held"]), None):
        sock.close()


def ask(probe: dict[str, Any]) -> dict[str, Any]:
    """One request, one answer with `ms`, the time until it was known. A UDP refusal (ICMP) arrives on the
    connected socket as ECONNREFUSED, like a TCP reset during connect."""
    begun = time.monotonic()
    connected = False
    try:
        if probe["held"]:
            answer = _ask_on_kept(probe)
        else:
            with _socket(probe) as sock:
                sock.connect((probe["ip"], probe["port"]))
                connected = probe["protocol"] != "udp"
                answer = _udp(sock) if probe["protocol"] == "udp" else _http(sock, probe["ip"])
    except TimeoutError:
        answer = {"kind": "timeout"}
    except ConnectionRefusedError:
        answer = {"kind": "refused"}
    except OSError as error:
        kind = "unreachable" if error.errno in _UNREACHABLE and not connected else "broken"
        answer = {"kind": kind, "error": error.strerror or str(error)}
    answer["ms"] = round((time.monotonic() - begun) * 1000, 2)
    return answer


def ask_all(probes: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Every probe, up to _AT_ONCE at the same time, so that time-outs are waited for once."""
    answers: list[list[dict[str, Any]]] = [[] for _ in probes]
    left = list(reversed(range(len(probes))))

    def work() -> None:
        while left:
            try:
                index = left.pop()
            except IndexError:
                return
            answers[index] = _ask_times(probes[index])

    if len(probes) == 1:
        work()
        return answers
    threads = [threading.Thread(target=work) for _ in range(min(_AT_ONCE, len(probes)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def _ask_times(probe: dict[str, Any]) -> list[dict[str, Any]]:
    if not probe["times"]:
        hang_up(probe)
    answers = []
    for number in range(probe["times"]):
        time.sleep(probe["pause_s"] if number else 0)
        answers.append(ask(probe))
    return answers


def _hostname(body: str) -> str:
    for line in body.splitlines():
        name, _, value = line.partition("=")
        if name.strip() == "Hostname":
            return value.strip()
    return "?"


def loop(probes: list[dict[str, Any]], stop: threading.Event) -> dict[str, Any]:
    counted = threading.Lock()
    made = 0
    by_hostname: dict[str, int] = {}
    failures: list[str] = []

    def work(probe: dict[str, Any]) -> None:
        nonlocal made
        while not stop.is_set():
            answer = ask(probe)
            with counted:
                made += 1
                if answer["kind"] == "reply" and answer["status"] == 200:
                    name = _hostname(answer["body"])
                    by_hostname[name] = by_hostname.get(name, 0) + 1
                elif len(failures) < _FAILURES_KEPT:
                    at = time.strftime("%H:%M:%S") + f"{time.time() % 1:.3f}"[1:]
                    failures.append(
                        f"{probe['ip']}:{probe['port']} {answer['kind']} {answer.get('error', '')} at {at}"
                    )
            time.sleep(_LOOP_PAUSE_S)

    threads = [threading.Thread(target=work, args=(probe,)) for probe in probes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"made": made, "by_hostname": by_hostname, "failures": failures}


def main() -> None:
    if "--loop" not in sys.argv:
        for line in sys.stdin:
            sys.stdout.write(json.dumps(ask_all(json.loads(line))) + "\n")
            sys.stdout.flush()
        return
    probes = json.loads(sys.stdin.readline())
    stop = threading.Event()
    result: list[dict[str, Any]] = []
    asking = threading.Thread(target=lambda: result.append(loop(probes, stop)))
    asking.start()
    sys.stdin.readline()
    stop.set()
    asking.join()
    sys.stdout.write(json.dumps(result[0]) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
