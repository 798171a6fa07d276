"""Which iptables to use: the one that the node's other programs use, or what the user says."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from lbprov.model import IPFamily, UserError
from local_dataplane.kernel.iptables_command import (
    IptablesCommand,
    default_backend,
    find_programs,
    version_of,
    which,
)
from local_dataplane.kernel.seam import Backend

AUTO = "auto"
OLDEST = (1, 6, 2)
"""iptables-restore takes `-w` since then."""

INSTALL = "install the package iptables (apt-get install iptables)"

# Chains that kubelet makes so that others can tell which backend the node uses.
_HINTS = re.compile(r"^:(KUBE-IPTABLES-HINT|KUBE-KUBELET-CANARY) ", re.MULTILINE)
_OURS = re.compile(r"^:LBP-", re.MULTILINE)
_RULE = re.compile(r"^-A ", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Held:
    """What a backend holds: our chains, kubelet's hint, rules in all."""

    ours: bool
    hint: bool
    rules: int

    @classmethod
    def of(cls, saved: str) -> Held:
        return cls(bool(_OURS.search(saved)), bool(_HINTS.search(saved)), len(_RULE.findall(saved)))


def choose(available: Collection[Backend], held: Mapping[Backend, Held], default: Backend) -> Backend:
    """Pure. Kubelet's hint, then our own rules, then the most rules; else what plain `iptables` is."""
    candidates = [b for b in Backend if b in available]
    for sign in ("hint", "ours"):
        found = [b for b in candidates if getattr(held[b], sign)]
        if len(found) == 1:
            return found[0]
    most = max(candidates, key=lambda b: (held[b].rules, b is default))
    return most if held[most].rules or default not in available else default


def open_iptables(wanted: str = AUTO) -> dict[IPFamily, dict[Backend, IptablesCommand]]:
    """Family -> backend -> iptables, the one to use first; the others may hold rules of an earlier run.

    IPv6 is left out where the kernel or ip6tables lacks it. Raises UserError with the remedy."""
    chosen = _choose_v4(wanted)
    _check_version(find_programs(IPFamily.IPV4)[chosen].restore)
    found: dict[IPFamily, dict[Backend, IptablesCommand]] = {}
    for family in IPFamily:
        if family is IPFamily.IPV6 and not Path("/proc/self/net/if_inet6").exists():
            continue
        programs = find_programs(family)
        if chosen in programs:
            order = [chosen, *(b for b in programs if b is not chosen)]
            found[family] = {b: IptablesCommand(programs[b], ahead=b is chosen) for b in order}
    return found


def _check_version(program: str) -> None:
    version = version_of(program)
    if version and version < OLDEST:
        written, oldest = (".".join(map(str, v)) for v in (version, OLDEST))
        raise UserError(
            f"{program} is version {written}, and cannot wait for the xtables lock: {oldest} or newer is "
            "needed"
        )


def every_iptables() -> list[IptablesCommand]:
    """Both families in both backends, as far as they are installed."""
    return [IptablesCommand(p) for family in IPFamily for p in find_programs(family).values()]


def _choose_v4(wanted: str) -> Backend:
    programs = find_programs(IPFamily.IPV4)
    if not programs:
        raise UserError(f"iptables is not installed: {INSTALL}")
    if wanted != AUTO:
        if wanted not in programs:
            raise UserError(
                f"iptables-{wanted}-restore is not installed: {INSTALL}", field="--iptables-backend"
            )
        return Backend(wanted)
    if len(programs) == 1:
        return next(iter(programs))
    held = {b: Held.of(IptablesCommand(p).save_all()) for b, p in programs.items()}
    plain = which("iptables-restore")
    return choose(programs, held, default_backend(plain) if plain else Backend.NFT)
