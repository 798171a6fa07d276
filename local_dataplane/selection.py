"""Which mode a node forwards with: what the user says, or the one that suits the machine, with the reason."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from lbprov.model import UserError


class Mode(StrEnum):
    IPTABLES = "iptables"
    NFTABLES = "nftables"
    AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Machine:
    """- `nftables_lacks`: what the kernel is missing for nftables mode; empty: nothing.
    - `drops_forwarded`: somebody's iptables drop by default what is forwarded (as Docker's do); another
      table cannot accept it against them.
    - `has_iptables`: whether the programs are installed.
    """

    nftables_lacks: str = ""
    drops_forwarded: bool = False
    has_iptables: bool = True


def choose(wanted: Mode, machine: Machine) -> tuple[Mode, str]:
    """The mode and why; raises UserError with the remedy where what is wanted cannot be. Pure."""
    if wanted is Mode.NFTABLES and machine.nftables_lacks:
        raise UserError(
            f"the kernel lacks {machine.nftables_lacks}; nftables mode takes Linux 5.13 or later with the "
            "modules nft_nat, nft_masq, nft_fib, nft_numgen, nft_ct and nft_reject: load them, or use "
            "--mode iptables",
            field="--mode",
        )
    if wanted is not Mode.AUTO:
        return wanted, "as asked for"
    if machine.nftables_lacks:
        return Mode.IPTABLES, f"the kernel lacks {machine.nftables_lacks} for nftables"
    if machine.drops_forwarded and machine.has_iptables:
        return Mode.IPTABLES, "the iptables chain FORWARD drops by default, which only iptables can except"
    return Mode.NFTABLES, "the kernel has what it takes"


def warnings_of_drops(by_iptables: bool, chains: Iterable[str]) -> list[str]:
    """For a node in nftables mode: what is forwarded and dropped by others all the same. Pure."""
    sentence = (
        "{} drops by default what is forwarded, which our table cannot except: let the packets of Pods and "
        "Services through there"
    )
    found = [sentence.format(chain) for chain in chains]
    if by_iptables:
        found.append(sentence.format("the iptables chain FORWARD") + ", or use --mode iptables")
    return found
