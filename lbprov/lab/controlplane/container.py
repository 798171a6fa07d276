"""One container of a Pod as a process of this machine, under what its spec says about rights and files.

There is no image: the machine's own files are the root filesystem, so the Pod must want a read-only one. A
user namespace gives the process the uid that it should have, without any capability; a mount namespace takes
the right to write from it, and holds the ServiceAccount's token where a Pod looks for it. The network is the
machine's.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lbprov.lab.holder import environment
from lbprov.lab.requirements import need_programs

TOKEN_FOLDER = "/run/secrets/kubernetes.io/serviceaccount"  # noqa: S105 - a path; /var/run leads there
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# $1: a folder with the token's files; then the command. Kernel interfaces stay as they are.
_SETUP = f"""
set -eu
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p {TOKEN_FOLDER}
cp "$1"/* {TOKEN_FOLDER}
[ -e /var/run/secrets ] || mount --bind /run /var/run
while read -r _ target _; do
    target=$(printf %b "$target")
    case "$target" in /proc*|/sys*|/dev*) continue ;; esac
    [ -e "$target" ] || continue # hidden by what is mounted over it
    mount -o remount,bind,ro "$target"
done < /proc/self/mounts
shift
exec "$@"
"""


@dataclass(frozen=True, slots=True)
class Container:
    """What is to run. `argv` whole, `environment` whole: nothing of ours is inherited."""

    argv: Sequence[str]
    environment: Mapping[str, str]
    uid: int
    gid: int

    @classmethod
    def of_pod(cls, pod: Mapping[str, Any], entrypoint: Sequence[str], extra: Mapping[str, str]) -> Container:
        """The first container of a Pod object. `extra` is what the cluster adds to its environment. Raises
        ValueError for a spec that asks for what this cannot give: nothing may pass unnoticed."""
        spec = pod["spec"]
        (container,) = spec["containers"]
        rights = {**spec.get("securityContext", {}), **container.get("securityContext", {})}
        bare = rights.get("readOnlyRootFilesystem") and rights.get("capabilities") == {"drop": ["ALL"]}
        if not bare or spec.get("initContainers"):
            raise ValueError(f"cannot run this Pod truthfully: {json.dumps(rights)}")
        for volume in spec.get("volumes", ()):
            if "projected" not in volume:
                raise ValueError(f"cannot provide the volume {volume}")
        env = {"PATH": _PATH, "HOME": "/", "HOSTNAME": pod["metadata"]["name"], **extra}
        env |= {entry["name"]: entry.get("value", "") for entry in container.get("env", ())}
        return cls(
            argv=[*(container.get("command") or entrypoint), *container.get("args", ())],
            environment=env,
            uid=rights["runAsUser"],
            gid=rights["runAsGroup"],
        )

    def start(self, token_files: Path, log: Path, group: int) -> subprocess.Popen[bytes]:
        """In process group `group`. The process that is returned becomes the container's."""
        need_programs(("env", "mount", "setpriv", "sh", "unshare"))
        as_user = [f"--map-user={self.uid}", f"--map-group={self.gid}"]
        variables = [f"{name}={value}" for name, value in self.environment.items()]
        inside = [
            *("unshare", "--user", *as_user),
            *("setpriv", "--no-new-privs"),  # a uid other than 0 has lost its capabilities by now
            *("env", "--ignore-environment", "--chdir=/", *variables, *self.argv),
        ]
        with log.open("ab") as output:
            return subprocess.Popen(
                [
                    *("unshare", "--user", "--map-root-user", "--mount"),
                    *("sh", "-c", _SETUP, "sh", str(token_files), *inside),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment(),
                process_group=group,
            )
