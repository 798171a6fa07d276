"""A machine of the lab: run programs in it, ask from it, serve in it."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from lbprov.lab.holder import Holder, Keeper, LabProcess, environment
from lbprov.lab.probes import Answer, AskingLoop, Probe, from_line, to_line

_HERE = Path(__file__).parent


class Host:
    """One machine. `ipv4` and `ipv6` are its addresses, empty where it has none of the family.

    All methods may be called from several threads. Everything started here ends with the lab."""

    def __init__(self, name: str, ipv4: str, ipv6: str) -> None:
        self.name = name
        self.ipv4 = ipv4
        self.ipv6 = ipv6
        self._holder: Holder | None = None
        self._keeper: Keeper | None = None
        self._started: list[LabProcess] = []
        self._prober: LabProcess | None = None
        self._asking = threading.Lock()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} {self.ipv4} {self.ipv6}>"

    @property
    def ips(self) -> tuple[str, ...]:
        return tuple(ip for ip in (self.ipv4, self.ipv6) if ip)

    def attach(self, holder: Holder, keeper: Keeper) -> None:
        """For the lab: the host's namespaces exist from now on."""
        self._holder, self._keeper = holder, keeper

    # Programs

    def run(
        self,
        argv: Sequence[str],
        *,
        input: str = "",  # noqa: A002, as subprocess.run calls it
        timeout_s: float = 30.0,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program to its end. `check`: another exit code than 0 is a CalledProcessError, with what the
        program said on stderr in its text."""
        pipe = subprocess.PIPE
        with self.popen(argv, stdin=pipe, stdout=pipe, stderr=pipe) as process:
            try:
                out, err = process.communicate(input, timeout=timeout_s)
            except BaseException:
                process.kill()
                raise
        self._started.remove(process)
        if check and process.returncode:
            error = subprocess.CalledProcessError(process.returncode, list(argv), out, err)
            error.add_note(f"{self.name}: {err.strip()}")
            raise error
        return subprocess.CompletedProcess(list(argv), process.returncode, out, err)

    def popen(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        stdin: int | IO[Any] | None = subprocess.DEVNULL,
        stdout: int | IO[Any] | None = None,
        stderr: int | IO[Any] | None = None,
    ) -> LabProcess:
        """Start a program; it is killed with the host. Its working directory is `/`, its environment `env` or
        ours, with the folders of system programs on PATH."""
        if self._holder is None or self._keeper is None:
            raise RuntimeError(f"{self.name} is not (or no longer) part of a lab")
        process = LabProcess(
            self._holder.command(argv, self._keeper.pid),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            text=True,
            env=environment(env),
            start_new_session=True,
        )
        self._started.append(process)
        return process

    def script(self, text: str) -> str:
        """Run shell commands, stopping at the first that fails (CalledProcessError); returns their output."""
        return self.run(["sh", "-eu"], input=text).stdout

    # The network

    def route(self, destination: str, via: Host) -> None:
        """Send what is for `destination` (an address or prefix) to `via`; set again, it is replaced."""
        is_v6 = ":" in destination
        family, gateway = ("-6", via.ipv6) if is_v6 else ("-4", via.ipv4)
        self.run(["ip", family, "route", "replace", destination, "via", gateway])

    def add_address(self, ip: str) -> None:
        """One more address of this host's own, on its only link. Harmless if it has it already."""
        prefix, flags = (f"{ip}/128", ["nodad"]) if ":" in ip else (f"{ip}/32", [])
        self.run(["ip", "address", "replace", prefix, "dev", "eth0", *flags])

    def add_name(self, name: str, ip: str) -> None:
        """Let programs here find `name`: a line in an /etc/hosts that only this host has."""
        self.script(
            "[ -e /run/hosts ] || { cp /etc/hosts /run/hosts; mount --bind /run/hosts /etc/hosts; }\n"
            f"echo '{ip} {name}' >> /run/hosts\n"
        )

    # Asking

    def ask(self, probes: Sequence[Probe]) -> list[list[Answer]]:
        """Make every probe, several at the same time; per probe the answers in the order made."""
        with self._asking:
            if self._prober is None or self._prober.poll() is not None:
                self._prober = self._script("prober.py")
            assert self._prober.stdin is not None
            assert self._prober.stdout is not None
            self._prober.stdin.write(to_line(probes))
            self._prober.stdin.flush()
            line = self._prober.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name}: the prober ended ({self._prober.wait()})")
        return from_line(line)

    def http_get(self, ip: str, port: int, timeout_s: float = 2.0) -> Answer:
        return self.ask([Probe(ip, port, "http", timeout_s)])[0][0]

    def http_gets(self, ip: str, port: int, times: int, timeout_s: float = 2.0) -> list[Answer]:
        return self.ask([Probe(ip, port, "http", timeout_s, times)])[0]

    def udp_ask(self, ip: str, port: int, timeout_s: float = 2.0) -> Answer:
        return self.ask([Probe(ip, port, "udp", timeout_s)])[0][0]

    def udp_asks(self, ip: str, port: int, times: int, timeout_s: float = 2.0) -> list[Answer]:
        return self.ask([Probe(ip, port, "udp", timeout_s, times)])[0]

    def keep_asking(self, probes: Sequence[Probe]) -> AskingLoop:
        """Requests in the background until `.stop()`, each probe in a thread of its own."""
        process = self._script("prober.py", "--loop")
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(to_line(probes))
        process.stdin.flush()
        return AskingLoop(process.stdin, process.stdout)

    def send_stray(self, source: str, source_port: int, destination: str, port: int) -> None:
        """From this host, by one of its addresses: TCP segments that their connection does not expect. See
        `stray.py`. Takes root in the host's namespaces, as everything in the lab has."""
        argv = [sys.executable, "-I", "-S", str(_HERE / "stray.py")]
        self.run([*argv, source, destination, str(source_port), str(port)])

    def resets_sent(self) -> int:
        """TCP resets that this host has answered with so far, both families."""
        rows = [line.split() for line in self.script("cat /proc/net/snmp").splitlines() if line[:4] == "Tcp:"]
        return int(dict(zip(*rows, strict=True))["OutRsts"])

    # Serving

    def serve(self, *, http: int = 0, udp: int = 0) -> LabProcess:
        """Start the pod server; returns when its ports are open. See `servers.py` for what it answers."""
        process = self.begin_serving(http=http, udp=udp)
        self.await_ready(process)
        return process

    def begin_serving(self, *, http: int = 0, udp: int = 0) -> LabProcess:
        """As `serve`, without the waiting: for starting many and then awaiting each with `await_ready`."""
        ports = [*(("--http", str(http)) if http else ()), *(("--udp", str(udp)) if udp else ())]
        return self._script("servers.py", *ports)

    def await_ready(self, server: LabProcess) -> None:
        assert server.stdout is not None
        if server.stdout.readline() != "ready\n":
            raise RuntimeError(f"{self.name}: the server did not start ({server.wait()})")

    def _script(self, name: str, *arguments: str) -> LabProcess:
        argv = [sys.executable, "-I", "-S", str(_HERE / name), *arguments]
        return self.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    # The end

    def end(self) -> None:
        """For the lab: kill everything that was started here, and give the namespaces up."""
        processes = [*self._started, *([self._keeper.process] if self._keeper else [])]
        for process in processes:
            process.kill()
        for process in processes:
            process.collect()
        self._started.clear()
        self._prober = self._keeper = None
