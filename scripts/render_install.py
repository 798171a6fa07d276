"""Write deploy/install.yaml anew from deploy/base. `--check`: write nothing, exit 1 if it would change.

Kustomize comes with kubectl, which is found on this machine or built (lbprov.lab.controlplane).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import yaml

from lbprov.lab.controlplane import programs

ROOT = Path(__file__).resolve().parents[1]
INSTALL = ROOT / "deploy/install.yaml"
HEADER = """\
# lbprov, the in-cluster controller. Made from deploy/base by scripts/render_install.py: change it there.
#
# Before `kubectl apply --server-side -f install.yaml` set, in the Deployment at the end,
#   LBPROV_PROVIDER      where the load balancers are made: aws
#   LBPROV_CLUSTER_NAME  the mark of everything that is made; one name for one cluster, for ever
#   image                where your nodes pull lbprov from (build it with deploy/Containerfile)
"""


def complain(line: str) -> None:
    sys.stderr.write(line + "\n")


def rendered() -> str:
    kubectl = programs(ROOT / "tests/cluster/controlplane", ["kubectl"], complain)["kubectl"]
    arguments = [str(kubectl), "kustomize", str(ROOT / "deploy/base")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return HEADER + done.stdout


def objects(text: str) -> list[object]:
    """What is compared: versions of kustomize differ in how they quote and wrap."""
    return list(yaml.safe_load_all(text))


def main() -> int:
    text = rendered()
    if "--check" not in sys.argv[1:]:
        INSTALL.write_text(text)
    elif not INSTALL.exists() or objects(INSTALL.read_text()) != objects(text):
        complain("deploy/install.yaml is not what deploy/base says: run scripts/render_install.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
