"""A random choice among endpoints, every one as likely as the others, as chains of rules."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence

from local_dataplane.endpoints import Backend
from local_dataplane.iptables.names import group_chain
from local_dataplane.iptables.tree import Rules

FLAT = 32
"""So many endpoints are chosen from in one chain: 16 rules on average. More are split into groups."""

_GROUP_BITS = 3
_MAX_DEPTH = 3
_SCALE = 1 << 31  # the kernel compares 31 random bits (xt_statistic)


@functools.lru_cache(maxsize=4096)
def probability(part: int, whole: int) -> str:
    """part/whole as the kernel can hold it and `iptables-save` prints it."""
    return f"{round(_SCALE * part / whole) / _SCALE:.11f}"


def choice_chains(
    chain: str, backends: Sequence[Backend], verdict: Callable[[Backend], str], protocol_match: str
) -> dict[str, Rules]:
    """Chain -> rules: `chain` itself and its groups. `verdict` is the end of the rule that takes one
    backend (`-j DNAT …`, `-g CHAIN`); `protocol_match` stands before it (`-p tcp `).

    Groups are made by a hash of the backend, so that a change of one endpoint touches one group; a group is
    as likely as it is large.
    """
    return dict(_chains(chain, tuple(backends), verdict, protocol_match, 0))


def _chains(
    chain: str, backends: tuple[Backend, ...], verdict: Callable[[Backend], str], match: str, depth: int
) -> list[tuple[str, Rules]]:
    if len(backends) <= FLAT or depth == _MAX_DEPTH:
        parts = [(1, match, verdict(backend)) for backend in backends]
        return [(chain, _weighted(parts))]
    groups: dict[int, list[Backend]] = {}
    for backend in backends:
        groups.setdefault(_digit(backend, depth), []).append(backend)
    parts, below = [], []
    for digit, members in sorted(groups.items()):
        name = group_chain(chain, digit)
        parts.append((len(members), "", f"-g {name}"))
        below += _chains(name, tuple(members), verdict, match, depth + 1)
    return [(chain, _weighted(parts)), *below]


def _weighted(parts: list[tuple[int, str, str]]) -> Rules:
    """Rules of which each takes its part of what the ones before it have left over; the last takes all."""
    left = sum(size for size, _, _ in parts)
    rules = []
    for size, match, verdict in parts:
        chance = f"-m statistic --mode random --probability {probability(size, left)} " if size < left else ""
        rules.append(f"{match}{chance}{verdict}")
        left -= size
    return tuple(rules)


@functools.lru_cache(maxsize=65536)
def _hash(backend: Backend) -> int:
    return int.from_bytes(hashlib.sha256(f"{backend.address} {backend.port}".encode()).digest()[:4], "big")


def _digit(backend: Backend, depth: int) -> int:
    return _hash(backend) >> (_GROUP_BITS * depth) & ((1 << _GROUP_BITS) - 1)
