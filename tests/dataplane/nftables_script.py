"""Run inside a lab's node: `nftables_script.py FAMILY COUNT GENERATION MOST_BYTES [BAD …]`. Programs COUNT
Services, by an NftablesProgram with the real kernel, and says in JSON what came of it. Services whose number
is BAD have an element that the kernel refuses. GENERATION changes every Service's endpoint.

`nftables_script.py scenes`: every scene of the golden tests, one after the other, in both families.

`nftables_script.py killed`: programs a Service by UDP, sends to it, takes it away and is gone before it has
ended its flows; says how many there are, as does `nftables_script.py flows`."""

from __future__ import annotations

import importlib.util
import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from lbprov.model import IPFamily, L4Protocol, ObjectKey
from local_dataplane.config import NodeConfig, NodeFacts
from local_dataplane.endpoints import Backend, Choice
from local_dataplane.kernel.conntrack import KernelConntrack
from local_dataplane.kernel.nft_socket import KernelNftables
from local_dataplane.kernel.nft_watch import NftWatch
from local_dataplane.nftables import layout
from local_dataplane.nftables.objects import Contents
from local_dataplane.nftables.program import NftablesProgram
from local_dataplane.nftables.ruleset import Ruleset
from local_dataplane.table import PortKey, ServiceState

BAD_PORT = 6666
GOLDEN_TEST = Path(__file__).parent.parent / "unit/test_dataplane_golden.py"


class CountingKernel(KernelNftables):
    reads = 0

    def read(self) -> Contents | None:
        self.reads += 1
        return super().read()


def _states(family: IPFamily, count: int, generation: int, bad: set[int]) -> list[ServiceState]:
    v6 = family is IPFamily.IPV6
    found = []
    for n in range(count):
        pod = f"fd00:10:244::{generation:x}:{n:x}" if v6 else f"10.244.{generation}.{n % 250 + 1}"
        vip = f"fd00:10:96::{n + 1:x}" if v6 else f"10.96.{n // 250}.{n % 250}"
        endpoint = Backend(pod, BAD_PORT if n in bad else 8080)
        key = PortKey(ObjectKey("default", f"svc-{n}"), "", L4Protocol.TCP, family)
        found.append(ServiceState(key, 80, vip, Choice((endpoint,), (), (endpoint,))))
    return found


def _refusable(plain: Any) -> Any:
    """Bad backends are told to the kernel with four bytes too many."""
    return lambda backend: plain(backend) + (b"\0" * 4 if backend.port == BAD_PORT else b"")


def main(family: IPFamily, count: int, generation: int, most_bytes: int, bad: set[int]) -> dict[str, object]:
    layout.backend_data = _refusable(layout.backend_data)
    config, kernel = NodeConfig(("10.244.0.0/16", "fd00:10:244::/48")), CountingKernel(family, most_bytes)
    program = NftablesProgram(kernel, Ruleset(family, config, NodeFacts("node-1")), NftWatch())
    sys.stderr.write("ready\n")
    sys.stderr.flush()
    written = program.apply({s.key: s for s in _states(family, count, generation, bad)})
    program.sweep()
    changed = program.apply({s.key: s for s in _states(family, min(count, 3), generation + 1, set())})
    reads = kernel.reads
    drift = [program.check() for _ in range(3)]
    _nft("add table ip elsewhere; add chain ip elsewhere c; add rule ip elsewhere c accept")
    drift.append(program.check())
    return {
        "rules": written.rules,
        "transactions": written.restores,
        "refused": {key.service.name: message for key, message in written.refused.items()},
        "changed_rules": changed.rules,
        "changed_transactions": changed.restores,
        "checks_that_read": kernel.reads - reads,
        "reads": reads,
        "repairs": sum(d is not None for d in drift),
        "true": program.check(thoroughly=True) is None,
        "backends": sorted({b.address for f in program.forwarded() for b in f.backends}),
        "labels": sorted(f.label for f in program.forwarded()),
    }


def _nft(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(["nft", *arguments], input=text, capture_output=True, text=True, check=False)


def scenes() -> dict[str, object]:
    """Scene -> what nft, another pair of eyes, says of the table: how many elements, whether it can read what
    it lists again, and what we read back differently from what we wrote."""
    spec = importlib.util.spec_from_file_location("golden_scenes", GOLDEN_TEST)
    assert spec
    assert spec.loader
    golden = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(golden)
    found: dict[str, object] = {}
    for family in IPFamily:
        for scene, (make, config) in golden.SCENES.items():
            ruleset = Ruleset(family, config, golden.NODE)
            program = NftablesProgram(KernelNftables(family), ruleset, NftWatch())
            program.apply({s.key: s for s in make(family)} | dict.fromkeys(program.table.states))
            program.sweep()
            objects = json.loads(_nft("-j", "list", "ruleset").stdout)["nftables"]
            again = _nft("-f", "-", text="flush ruleset\n" + _nft("list", "ruleset").stdout)
            held = [o[kind] for o in objects for kind in ("set", "map") if kind in o]
            own = "ip6" if family is IPFamily.IPV6 else "ip"
            found[f"{scene} {family}"] = {
                "elements": {s["name"]: len(s["elem"]) for s in held if s["family"] == own and s.get("elem")},
                "wanted": {name: len(part) for name, part in ruleset.elements.items() if part},
                "rules": sum("rule" in o and o["rule"]["family"] == own for o in objects),
                "wanted_rules": sum(len(chain.rules) for chain in ruleset.chains.values()),
                "again": again.stderr,
                "true": program.check(thoroughly=True) is None,
            }
    return found


GONE = Backend("10.244.7.7", 53)


def killed() -> dict[str, object]:
    family = IPFamily.IPV4
    program = NftablesProgram(
        KernelNftables(family), Ruleset(family, NodeConfig(), NodeFacts("n")), NftWatch()
    )
    key = PortKey(ObjectKey("default", "dns"), "", L4Protocol.UDP, family)
    program.apply({key: ServiceState(key, 53, "10.96.7.7", Choice((GONE,), (), (GONE,)))})
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(b"?", ("10.96.7.7", 53))
    program.apply({key: None})
    return flows()


def flows() -> dict[str, object]:
    there = KernelConntrack().udp_flows(IPFamily.IPV4)
    return {"flows": sum(flow.answerer == socket.inet_aton(GONE.address) for flow in there)}


if __name__ == "__main__":
    if sys.argv[1] in ("scenes", "killed", "flows"):
        answer = {"scenes": scenes, "killed": killed, "flows": flows}[sys.argv[1]]()
    else:
        count, generation, most_bytes, *bad = map(int, sys.argv[2:])
        answer = main(IPFamily(sys.argv[1]), count, generation, most_bytes, set(bad))
    sys.stdout.write(json.dumps(answer) + "\n")
