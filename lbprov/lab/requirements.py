"""What the lab needs of a machine, and the sentence that says what is missing and what to do about it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from lbprov.model import UserError

PACKAGES = {
    # program -> the Debian and Ubuntu package that holds it
    "cat": "coreutils",
    "hostname": "hostname",
    "ip": "iproute2",
    "ip6tables-restore": "iptables",
    "iptables": "iptables",
    "iptables-restore": "iptables",
    "mount": "mount",
    "nft": "nftables",
    "nsenter": "util-linux",
    "sh": "dash",
    "umount": "mount",
    "unshare": "util-linux",
}
OF_THE_LAB = ("cat", "hostname", "ip", "mount", "nsenter", "sh", "umount", "unshare")


def search_path() -> str:
    """PATH with the folders that hold ip and iptables: an ordinary user's PATH lacks them on Debian."""
    own = [part for part in os.environ.get("PATH", os.defpath).split(os.pathsep) if part]
    return os.pathsep.join([*own, *(d for d in ("/usr/sbin", "/sbin") if d not in own)])


def need_programs(names: Iterable[str] = OF_THE_LAB) -> None:
    """Raises UserError naming every program that is missing and the packages that bring them."""
    path = search_path()
    missing = [name for name in names if shutil.which(name, path=path) is None]
    if missing:
        packages = sorted({PACKAGES.get(name, name) for name in missing})
        raise UserError(
            f"programs not found on PATH: {', '.join(missing)}. "
            f"On Debian and Ubuntu: sudo apt-get install {' '.join(packages)}"
        )


def _setting(root: Path, path: str) -> str:
    try:
        return (root / path).read_text().strip()
    except OSError:
        return ""


def why_no_namespaces(complaint: str, *, is_root: bool, root: Path = Path("/")) -> str:
    """One sentence that says why this machine lets us make no namespaces, and the remedy.

    `complaint` is what unshare or mount said, for the cases that are not recognised. `root` is where /proc
    is looked for. Sources: user_namespaces(7); Debian's kernel patch (unprivileged_userns_clone); Ubuntu
    23.10 and later (apparmor_restrict_unprivileged_userns).
    """
    if _setting(root, "proc/sys/user/max_user_namespaces") == "0":
        return (
            "user namespaces are switched off here (user.max_user_namespaces is 0): "
            "run `sudo sysctl -w user.max_user_namespaces=15000`, or run this as root"
        )
    if not is_root and _setting(root, "proc/sys/kernel/unprivileged_userns_clone") == "0":
        return (
            "this Debian kernel keeps user namespaces from ordinary users: "
            "run `sudo sysctl -w kernel.unprivileged_userns_clone=1`, or run this as root"
        )
    if not is_root and _setting(root, "proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1":
        return (
            "Ubuntu's AppArmor keeps user namespaces from programs it has no profile for: "
            "run `sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`, or run this as root"
        )
    if any((root / mark).exists() for mark in (".dockerenv", "run/.containerenv")):
        return (
            f"this container may not make namespaces ({complaint}): "
            "start it with `docker run --privileged` (podman: the same flag)"
        )
    return f"this machine lets us make no namespaces ({complaint}): run this as root, outside of a sandbox"
