"""Which clusterIPs and nodePorts Services get. Pure: the same input gives the same answer in every process.

A range is split as KEP-3070 (addresses) and KEP-3668 (ports) do: the lower band is left to those who ask for
a fixed value, automatic ones come from above it and enter it only when there is nothing else. An automatic
value is found by hashing the Service's name into the range and going on from there to the first free one, so
adding one Service does not move another, and a lost state gives (nearly) the same values again.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lbprov.cluster.manifests.defaults import (
    allocates_node_ports,
    needs_cluster_ip,
    needs_health_check,
    needs_node_port,
)
from lbprov.cluster.manifests.schema import Finding, Path
from lbprov.model import IPFamily, ObjectKey, UserError

Spec = dict[str, Any]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Ranges:
    """`networks`: at most one of each family, the first is the default family. `ports`: inclusive."""

    networks: tuple[Network, ...]
    ports: tuple[int, int]

    @staticmethod
    def parse(cidrs: Sequence[str], ports: tuple[int, int]) -> Ranges:
        """Raises UserError for ranges that cannot serve."""
        try:
            networks = tuple(ipaddress.ip_network(c) for c in cidrs)
        except ValueError as err:
            raise UserError(f"{err}", field="--service-cidr") from err
        if not networks or len({n.version for n in networks}) != len(networks):
            raise UserError("one CIDR, or one of each family, is needed", field="--service-cidr")
        if any(n.num_addresses < 4 for n in networks):
            raise UserError("a range of at least 4 addresses is needed", field="--service-cidr")
        if not 1 <= ports[0] <= ports[1] <= 65535:
            raise UserError(f"{ports[0]}-{ports[1]} is not a range within 1-65535", field="--node-port-range")
        return Ranges(networks, ports)

    @property
    def families(self) -> tuple[str, ...]:
        return tuple(str(family_of(n)) for n in self.networks)


def family_of(value: Network | ipaddress.IPv4Address | ipaddress.IPv6Address) -> IPFamily:
    return IPFamily.IPV4 if value.version == 4 else IPFamily.IPV6


@dataclass(slots=True)
class Pool:
    """Numbers `first`..`last`, each held by at most one holder. Numbers outside can be held (they were given
    out when the range was another), never picked."""

    first: int
    last: int
    reserved: int
    """So many at the beginning are the lower band."""
    holders: dict[int, ObjectKey] = field(default_factory=dict)
    _full: set[tuple[int, int]] = field(default_factory=set)

    def __contains__(self, number: int) -> bool:
        return self.first <= number <= self.last

    def pick(self, seed: str) -> int | None:
        """A free number for `seed`, or None where there is none. Does not take it."""
        middle = self.first + self.reserved
        for begin, end in ((middle, self.last), (self.first, middle - 1)):
            size = end - begin + 1
            if size <= 0 or (begin, end) in self._full:
                continue
            start = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:16]) % size
            # At most len(holders) numbers are taken, so one more try than that finds a free one if any is.
            for step in range(min(size, len(self.holders) + 1)):
                number = begin + (start + step) % size
                if number not in self.holders:
                    return number
            self._full.add((begin, end))
        return None


def address_pool(network: Network) -> Pool:
    """Without the network's own address and, in IPv4, its broadcast address. Band as in KEP-3070:
    min(max(16, size/16), 256) addresses."""
    first = int(network.network_address) + 1
    last = int(network.broadcast_address) - (1 if network.version == 4 else 0)
    size = last - first + 1
    return Pool(first, last, 0 if size < 16 else min(max(16, size // 16), 256))


def port_pool(ports: tuple[int, int]) -> Pool:
    """Band as in KEP-3668: min(max(16, size/32), 128) ports."""
    size = ports[1] - ports[0] + 1
    return Pool(*ports, 0 if size < 16 else min(max(16, size // 32), 128))


HEALTH_CHECK: Path = ("spec", "healthCheckNodePort")

Claim = tuple[str, int, Path]
"""(pool: a family or "port"; number; the field that asks for it)."""


@dataclass(slots=True)
class _Ledger:
    pools: dict[str, Pool]

    @staticmethod
    def empty(ranges: Ranges) -> _Ledger:
        pools = {str(family_of(n)): address_pool(n) for n in ranges.networks}
        return _Ledger({**pools, "port": port_pool(ranges.ports)})

    def pool(self, name: str) -> Pool:
        """One for a family that has no range (any more): can hold, never gives."""
        return self.pools.setdefault(name, Pool(0, -1, 0))

    def hold(self, key: ObjectKey, claims: Sequence[Claim]) -> None:
        for pool, number, _ in claims:
            self.pool(pool).holders.setdefault(number, key)

    def request(self, key: ObjectKey, claims: Sequence[Claim]) -> list[Finding]:
        """Take all of them, or none and say why."""
        wrong = []
        ports = {number for pool, number, path in claims if pool == "port" and path != HEALTH_CHECK}
        for name, number, path in claims:
            pool, text = self.pool(name), _text(name, number)
            holder = pool.holders.get(number)
            if holder is not None and holder != key:
                wrong.append(Finding(path, f"{text} is taken by Service {holder}"))
            elif holder is None and number not in pool:
                wrong.append(Finding(path, f"{text} is outside {_range_text(name, pool)}"))
            elif path == HEALTH_CHECK and number in ports:
                wrong.append(Finding(path, f"{text} is the nodePort of one of spec.ports"))
        if not wrong:
            self.hold(key, claims)
        return wrong

    def take(self, key: ObjectKey, name: str, seed: str) -> int | None:
        number = self.pool(name).pick(seed)
        if number is not None:
            self.pool(name).holders[number] = key
        return number


def _text(pool: str, number: int) -> str:
    if pool == "port":
        return str(number)
    return str(ipaddress.IPv4Address(number) if pool == IPFamily.IPV4 else ipaddress.IPv6Address(number))


def _range_text(pool: str, values: Pool) -> str:
    """First and last value that may be asked for."""
    return f"{_text(pool, values.first)}-{_text(pool, values.last)}"


def claims(spec: Spec) -> list[Claim]:
    """Every value that a spec names, asked for or given before."""
    found: list[Claim] = []
    if needs_cluster_ip(spec):
        for i, text in enumerate(spec.get("clusterIPs", ())):
            ip = ipaddress.ip_address(text)
            path: Path = ("spec", "clusterIP") if i == 0 else ("spec", "clusterIPs", i)
            found.append((str(family_of(ip)), int(ip), path))
    if needs_node_port(spec):
        for i, port in enumerate(spec["ports"]):
            if port.get("nodePort"):
                found.append(("port", port["nodePort"], ("spec", "ports", i, "nodePort")))
    if needs_health_check(spec) and spec.get("healthCheckNodePort"):
        found.append(("port", spec["healthCheckNodePort"], HEALTH_CHECK))
    return found


@dataclass(frozen=True, slots=True)
class Allocation:
    """`specs`: those that were served, every value filled in. `refused`: why the others were not."""

    specs: dict[ObjectKey, Spec]
    refused: dict[ObjectKey, list[Finding]]


def allocate(
    in_force: Mapping[ObjectKey, Spec], changes: Mapping[ObjectKey, Spec], ranges: Ranges
) -> Allocation:
    """Serve the new and changed Services (`changes`) beside those that stay as they are.

    `in_force`: all Services as last accepted, also those of `changes`, which keep what they have if their
    change is refused. Values kept go before values asked for, and those before automatic ones.
    """
    refused: dict[ObjectKey, list[Finding]] = {}
    while True:  # ends: each further turn has at least one more refused
        served = {k: changes[k] for k in sorted(changes) if k not in refused}
        ledger = _Ledger.empty(ranges)
        for key, spec in in_force.items():
            ledger.hold(key, _kept(claims(spec), served.get(key)))
        newly = {k: wrong for k, spec in served.items() if (wrong := ledger.request(k, claims(spec)))}
        filled: dict[ObjectKey, Spec] = {}
        if not newly:
            for key, spec in served.items():
                filled[key], wrong = _fill(ledger, key, spec)
                if wrong:
                    newly[key] = wrong
        if not newly:
            return Allocation(filled, refused)
        refused |= newly


def _kept(held: list[Claim], changed: Spec | None) -> list[Claim]:
    """What a Service goes on holding: all, unless it is about to change; then what the change names too."""
    if changed is None:
        return held
    wanted = {(pool, number) for pool, number, _ in claims(changed)}
    return [c for c in held if (c[0], c[1]) in wanted]


def _fill(ledger: _Ledger, key: ObjectKey, spec: Spec) -> tuple[Spec, list[Finding]]:
    spec, wrong = dict(spec), list[Finding]()
    if needs_cluster_ip(spec):
        ips = list(spec.get("clusterIPs", ()))
        for family in spec["ipFamilies"][len(ips) :]:
            number = ledger.take(key, family, f"{key}/{family}")
            if number is None:
                path: Path = ("spec", "clusterIP")
                wrong.append(Finding(path, f"no {family} address of the service range is free"))
            else:
                ips.append(_text(family, number))
        if ips:
            spec["clusterIPs"], spec["clusterIP"] = ips, ips[0]
    if allocates_node_ports(spec):
        spec["ports"] = _fill_node_ports(ledger, key, spec["ports"], wrong)
    if needs_health_check(spec) and not spec.get("healthCheckNodePort"):
        number = ledger.take(key, "port", f"{key}/healthCheckNodePort")
        if number is None:
            wrong.append(Finding(HEALTH_CHECK, "no port of the nodePort range is free"))
        else:
            spec["healthCheckNodePort"] = number
    return spec, wrong


def _fill_node_ports(
    ledger: _Ledger, key: ObjectKey, ports: Sequence[Spec], wrong: list[Finding]
) -> list[Spec]:
    """Ports of one number and several protocols (DNS: 53/TCP and 53/UDP) share a nodePort, as the API
    server has it."""
    used = {(p["nodePort"], p["protocol"]) for p in ports if p.get("nodePort")}
    by_port: dict[int, int] = {}
    for port in ports:
        if port.get("nodePort"):
            by_port.setdefault(port["port"], port["nodePort"])
    filled = []
    for i, port in enumerate(ports):
        number: int | None = port.get("nodePort") or by_port.get(port["port"])
        if not port.get("nodePort") and (number is None or (number, port["protocol"]) in used):
            number = ledger.take(key, "port", f"{key}/{port['port']}/{port['protocol']}")
        if number is None:
            path: Path = ("spec", "ports", i, "nodePort")
            wrong.append(Finding(path, "no port of the nodePort range is free"))
            continue
        used.add((number, port["protocol"]))
        by_port.setdefault(port["port"], number)
        filled.append({**port, "nodePort": number})
    return filled
