"""What chains in a kernel forward, read from the rules themselves. Pure.

For `status`, and for a start that finds the rules of the run before.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from lbprov.model import L4Protocol
from local_dataplane.endpoints import Backend
from local_dataplane.iptables import names
from local_dataplane.iptables.fixed import LOCALHOST_GUARD, Table
from local_dataplane.iptables.ruleset import ChainKey
from local_dataplane.iptables.tree import Rules
from local_dataplane.mode import Forwarded
from local_dataplane.table import Frontend

_LEADS_TO = re.compile(rf"-[jg] ({names.PREFIX}\S+)$")
_ADDRESS = re.compile(r"^-d (\S+)/(32|128) ")
_PORT = re.compile(r"-p (tcp|udp|sctp) .*--dport (\d+) ")
_LABEL = re.compile(r'--comment "([^"]*)"')
_DNAT = re.compile(r"-p (\S+) .*?--to-destination \[?([^\]\s]+?)\]?:(\d+)$")


def has_guard(chains: Mapping[ChainKey, Rules]) -> bool:
    """Whether a run before us has opened localhost."""
    return LOCALHOST_GUARD in chains.get((Table.FILTER, names.FILTER), ())


def forwarded(chains: Mapping[ChainKey, Rules]) -> list[Forwarded]:
    """Every frontend that a packet can reach, sorted."""
    nat = {chain: rules for (table, chain), rules in chains.items() if table is Table.NAT}
    found = []
    todo = [(names.SERVICES, "")]
    while todo:
        chain, address = todo.pop()
        for rule in nat.get(chain, ()):
            target = _LEADS_TO.search(rule)
            if target is None:
                continue
            here = match[1] if (match := _ADDRESS.match(rule)) else address
            label, port = _LABEL.search(rule), _PORT.search(rule)
            if label and port:
                frontend = Frontend(here, L4Protocol(port[1].upper()), int(port[2]))
                found.append(Forwarded(frontend, label[1], tuple(sorted(_backends(nat, target[1])))))
            elif target[1] != names.REFUSE:
                todo.append((target[1], here))
    return sorted(found, key=lambda f: f.frontend)


def unused_backends(chains: Mapping[ChainKey, Rules]) -> frozenset[tuple[L4Protocol, Backend]]:
    """Where chains send to that no packet reaches any more."""
    nat = {chain: rules for (table, chain), rules in chains.items() if table is Table.NAT}
    reached = set(_reachable(nat, names.SERVICES))
    rules = [rule for chain, body in nat.items() if chain not in reached for rule in body]
    return frozenset(
        (L4Protocol(m[1].upper()), Backend(m[2], int(m[3]))) for rule in rules if (m := _DNAT.search(rule))
    )


def _backends(nat: Mapping[str, Rules], chain: str) -> set[Backend]:
    rules = (rule for name in _reachable(nat, chain) for rule in nat.get(name, ()))
    return {Backend(m[2], int(m[3])) for rule in rules if (m := _DNAT.search(rule))}


def _reachable(nat: Mapping[str, Rules], start: str) -> Iterator[str]:
    seen, todo = {start}, [start]
    while todo:
        chain = todo.pop()
        yield chain
        for rule in nat.get(chain, ()):
            match = _LEADS_TO.search(rule)
            if match and match[1] not in seen:
                seen.add(match[1])
                todo.append(match[1])
