"""Write deploy/install*.yaml anew from their folders. `--check`: write nothing, exit 1 if one would change.

Kustomize comes with kubectl, which is found on this machine or built (lbprov.lab.controlplane).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import yaml

from lbprov.lab.controlplane import programs

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
HEADERS = {
    ("base", "install.yaml"): """\
# lbprov, the in-cluster controller. Made from deploy/base by scripts/render_install.py: change it there.
#
# Before `kubectl apply --server-side -f install.yaml` set, in the Deployment at the end,
#   LBPROV_PROVIDER      where the load balancers are made: aws
#   LBPROV_CLUSTER_NAME  the mark of everything that is made; one name for one cluster, for ever
#   image                where your nodes pull lbprov from (build it with deploy/Containerfile)
""",
    ("node", "install-node.yaml"): """\
# lbprov, the agent on every node. Made from deploy/node by scripts/render_install.py: change it there.
#
# Before `kubectl apply --server-side -f install-node.yaml` set, in the DaemonSet at the end,
#   KUBERNETES_SERVICE_HOST  the API server's real address (and KUBERNETES_SERVICE_PORT), as kube-proxy has it
#   LBPROV_CLUSTER_CIDR      where Pods' addresses come from: kube-proxy's --cluster-cidr
#   image                    where nodes pull lbprov-node from (deploy/image/Containerfile: --target node)
# and read docs/replace-kube-proxy.md: an agent and kube-proxy on one node get in each other's way.
""",
}
"""Folder of deploy/ and file made from it -> what the file begins with."""


def complain(line: str) -> None:
    sys.stderr.write(line + "\n")


def rendered(folder: str, header: str) -> str:
    kubectl = programs(ROOT / "tests/cluster/controlplane", ["kubectl"], complain)["kubectl"]
    arguments = [str(kubectl), "kustomize", str(DEPLOY / folder)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return header + done.stdout


def objects(text: str) -> list[object]:
    """What is compared: versions of kustomize differ in how they quote and wrap."""
    return list(yaml.safe_load_all(text))


def main() -> int:
    stale = False
    for (folder, name), header in HEADERS.items():
        text, path = rendered(folder, header), DEPLOY / name
        if "--check" not in sys.argv[1:]:
            path.write_text(text)
        elif not path.exists() or objects(path.read_text()) != objects(text):
            complain(f"deploy/{name} is not what deploy/{folder} says: run scripts/render_install.py")
            stale = True
    return int(stale)


if __name__ == "__main__":
    sys.exit(main())
