"""Takes away what a kube-proxy that has ended left in the kernel, in whichever mode it ran."""

from __future__ import annotations

import re
import subprocess
import time
import urllib.request

from lbprov.model import UserError
from local_dataplane.iptables.kube_proxy import leftovers
from local_dataplane.kernel.backends import every_iptables
from local_dataplane.kernel.iptables_command import which
from local_dataplane.kernel.seam import Refused

PAGES = "http://127.0.0.1:10249"
_SERIES = re.compile(
    r'^kubeproxy_sync_proxy_rules_last_(queued_)?timestamp_seconds\{ip_family="(\w+)"\}', re.MULTILINE
)
_MODES = ("iptables", "nftables", "ipvs")
_NFT = "".join(
    f"add table {family} kube-proxy\ndelete table {family} kube-proxy\n" for family in ("ip", "ip6")
)


def running() -> str:
    """The mode of a kube-proxy that runs here; empty: none does (or it tells nobody)."""
    said = _page("/proxyMode").strip()
    return said if said in _MODES else ""


def is_complete(metrics: str) -> bool:
    """Whether a kube-proxy has written all that it has been told of, by its metrics: each family that has
    something to write has been written once."""
    found = _SERIES.findall(metrics)
    queued, written = ({f for q, f in found if bool(q) is is_queued} for is_queued in (True, False))
    return bool(written) and queued <= written


def await_complete(pause_s: float = 1.0) -> None:
    """Returns when a kube-proxy here is complete, and still is a moment later: its families begin one after
    the other."""
    in_a_row = 0
    while in_a_row < 2:
        in_a_row = in_a_row + 1 if is_complete(_page("/metrics")) else 0
        time.sleep(pause_s)


def _page(path: str) -> str:
    """Empty where nobody answers."""
    try:
        with urllib.request.urlopen(PAGES + path, timeout=5) as answer:  # noqa: S310 - http, as written above
            text: str = answer.read().decode(errors="replace")
    except OSError:
        return ""
    return text


def remove() -> dict[str, int]:
    """`IPv4 nft` -> how many restores it took. Twice is harmless. Raises `UserError` while a kube-proxy runs,
    which would write everything again."""
    if mode := running():
        raise UserError(f"kube-proxy is still running here (mode {mode}): stop it first")
    removed = {}
    for iptables in every_iptables():
        where = f"{iptables.family} {iptables.backend}"
        try:
            texts = leftovers(iptables.save_all())
            for text in texts:
                iptables.restore(text)
        except Refused as refused:
            raise UserError(f"cannot remove kube-proxy's rules ({where}): {refused}") from refused
        removed[where] = len(texts)
    nft = which("nft")
    if nft:
        done = subprocess.run([nft, "-f", "-"], input=_NFT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise UserError(f"cannot remove kube-proxy's nftables tables: {done.stderr.strip()}")
    return removed
