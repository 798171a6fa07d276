"""The real kube-proxy on a node of the lab: what our dataplane is measured against."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lbprov.lab.holder import LabProcess
from lbprov.lab.network import NodeHost

MODES = ("iptables", "nftables")
_TAIL_BYTES = 3000


@dataclass(frozen=True, slots=True)
class KubeProxySetting:
    """- `min_sync_period` "": kube-proxy's default, a second. Shorter ones make its answers come sooner and
      are the same otherwise.
    - `more`: fields of its configuration, over ours."""

    mode: str
    cluster_cidrs: str
    min_sync_period: str = ""
    more: Mapping[str, Any] | None = None

    def configuration(self, node_name: str, kubeconfig: Path) -> dict[str, Any]:
        """KubeProxyConfiguration, kubeproxy.config.k8s.io/v1alpha1. The machine's connection tracking is left
        as it is."""
        pace = {"minSyncPeriod": self.min_sync_period} if self.min_sync_period else {}
        return {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": self.mode,
            "hostnameOverride": node_name,
            "clusterCIDR": self.cluster_cidrs,
            "clientConnection": {"kubeconfig": str(kubeconfig)},
            "conntrack": {
                "maxPerCore": 0,
                "min": 0,
                "tcpEstablishedTimeout": "0s",
                "tcpCloseWaitTimeout": "0s",
            },
            "iptables": pace,
            "nftables": pace,
            **(self.more or {}),
        }


class KubeProxy:
    """One kube-proxy, running. It waits, without a word, for ever until its Node has an InternalIP. Its rules
    stay when it ends."""

    def __init__(
        self, node: NodeHost, program: Path, kubeconfig: Path, setting: KubeProxySetting, folder: Path
    ) -> None:
        """`folder`: where its configuration and its log are put. The kubeconfig's server must be reachable
        from the node: see `Doorway`."""
        self.node = node
        self.mode = setting.mode
        name = f"{node.name}-kube-proxy-{setting.mode}"
        configuration = folder / f"{name}.json"
        configuration.write_text(json.dumps(setting.configuration(node.name, kubeconfig)))
        self._log = folder / f"{name}.log"
        with self._log.open("ab") as log:
            self.process: LabProcess = node.popen(
                [str(program), f"--config={configuration}"], stdout=log, stderr=subprocess.STDOUT
            )

    def last_words(self) -> str:
        return self._log.read_bytes()[-_TAIL_BYTES:].decode(errors="replace")

    def end(self) -> None:
        """As kubelet would."""
        self.process.terminate()
        self.process.wait(timeout=30)
