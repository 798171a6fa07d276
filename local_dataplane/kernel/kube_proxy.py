"""Takes away what a kube-proxy that has ended left in the kernel, in whichever mode it ran."""

from __future__ import annotations

import subprocess
import urllib.request

from lbprov.model import UserError
from local_dataplane.iptables.kube_proxy import leftovers
from local_dataplane.kernel.backends import every_iptables
from local_dataplane.kernel.iptables_command import which
from local_dataplane.kernel.seam import Refused

MODE_URL = "http://127.0.0.1:10249/proxyMode"
_MODES = ("iptables", "nftables", "ipvs")
_NFT = "".join(
    f"add table {family} kube-proxy\ndelete table {family} kube-proxy\n" for family in ("ip", "ip6")
)


def running() -> str:
    """The mode of a kube-proxy that runs here; empty: none does (or it tells nobody)."""
    try:
        with urllib.request.urlopen(MODE_URL, timeout=2) as answer:
            said = answer.read(100).decode(errors="replace").strip()
    except OSError:
        return ""
    return said if said in _MODES else ""


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
