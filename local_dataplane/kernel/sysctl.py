"""Kernel settings without which packets do not get where rules send them."""

from __future__ import annotations

import typing
from pathlib import Path

from lbprov.model import IPFamily

BE_LIBERAL = "net/netfilter/nf_conntrack_tcp_be_liberal"
ROUTE_LOCALNET = "net/ipv4/conf/all/route_localnet"


class Sysctls(typing.Protocol):
    """Names are paths below /proc/sys: `net/ipv4/ip_forward`."""

    def read(self, name: str) -> str | None:
        """None where there is no such setting."""

    def write(self, name: str, value: str) -> None:
        """Raises OSError where that is not allowed."""

    def interfaces(self) -> list[str]:
        """Names below net/ipv6/conf, `all` and `default` included."""


def prepare(sysctls: Sysctls, family: IPFamily) -> list[str]:
    """Set what forwarding of one family takes. Returns a sentence with the remedy for what could not be."""
    v6 = family is IPFamily.IPV6
    forwarding = "net/ipv6/conf/all/forwarding" if v6 else "net/ipv4/ip_forward"
    bridge = f"net/bridge/bridge-nf-call-ip{'6' if v6 else ''}tables"
    wanted: dict[str, tuple[str, str]] = {}  # name -> value, what happens otherwise
    if v6 and sysctls.read(forwarding) == "0":
        # A router ignores router advertisements (RFC 4861) unless told otherwise: a node that has its
        # address or default route from them would lose both.
        names = (f"net/ipv6/conf/{interface}/accept_ra" for interface in sysctls.interfaces())
        wanted |= {
            name: ("2", "router advertisements are ignored") for name in names if sysctls.read(name) == "1"
        }
    wanted[forwarding] = ("1", "packets for Pods are not forwarded")
    # Pods on one bridge answer each other past iptables, and the client never hears of it.
    wanted[bridge] = ("1", "answers between Pods on one bridge bypass the rules")
    complaints = []
    for name, (value, otherwise) in wanted.items():
        now = sysctls.read(name)
        if now is None or now == value:
            continue
        try:
            sysctls.write(name, value)
        except OSError as error:
            dotted = name.replace("/", ".")
            complaints.append(
                f"{dotted} is {now} and cannot be set ({error.strerror}), so {otherwise}: "
                f"run `sysctl -w {dotted}={value}` on the node"
            )
    return complaints


def route_localhost(sysctls: Sysctls, *, on: bool) -> str:
    """Let packets to 127.0.0.1 leave the machine after their NAT, or no longer. Returns a sentence with the
    remedy where that cannot be set, else nothing. On only while `iptables.fixed.LOCALHOST_GUARD` stands."""
    value = "1" if on else "0"
    if sysctls.read(ROUTE_LOCALNET) in (None, value):
        return ""
    try:
        sysctls.write(ROUTE_LOCALNET, value)
    except OSError as error:
        dotted = ROUTE_LOCALNET.replace("/", ".")
        otherwise = "NodePorts are not served on 127.0.0.1" if on else "it stays on without its guard"
        return f"{dotted} cannot be set ({error.strerror}), so {otherwise}: run `sysctl -w {dotted}={value}`"
    return ""


class KernelSysctls:
    """See `Sysctls`."""

    _ROOT = Path("/proc/sys")

    def read(self, name: str) -> str | None:
        try:
            return (self._ROOT / name).read_text().strip()
        except OSError:
            return None

    def write(self, name: str, value: str) -> None:
        (self._ROOT / name).write_text(value)

    def interfaces(self) -> list[str]:
        folder = self._ROOT / "net/ipv6/conf"
        return sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []


class FakeSysctls:
    """- `values`: name -> value. `read_only`: names that cannot be written."""

    def __init__(self, values: dict[str, str], read_only: frozenset[str] = frozenset()) -> None:
        self.values = dict(values)
        self.read_only = read_only

    def read(self, name: str) -> str | None:
        return self.values.get(name)

    def write(self, name: str, value: str) -> None:
        if name in self.read_only:
            raise OSError(30, "Read-only file system")
        self.values[name] = value

    def interfaces(self) -> list[str]:
        conf = [name.split("/") for name in self.values if name.startswith("net/ipv6/conf/")]
        return sorted({parts[3] for parts in conf})
