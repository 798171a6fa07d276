"""Run inside a lab's node: `kernel_script.py BACKEND COUNT GENERATION [BAD …]`. Programs COUNT Services, by a
FamilyProgram with real iptables, and says in JSON what came of it. Services whose number is BAD carry a rule
that the kernel (not iptables) refuses. GENERATION changes every Service's endpoint."""

from __future__ import annotations

import json
import sys

from lbprov.model import IPFamily, L4Protocol, ObjectKey
from local_dataplane.config import NodeConfig, NodeFacts
from local_dataplane.endpoints import Backend as Endpoint
from local_dataplane.endpoints import Choice
from local_dataplane.iptables import render
from local_dataplane.iptables.fixed import Table
from local_dataplane.iptables.ruleset import Ruleset
from local_dataplane.kernel.iptables_command import IptablesCommand, find_programs
from local_dataplane.kernel.seam import Backend
from local_dataplane.kernel.watch import RuleWatch
from local_dataplane.program import FamilyProgram
from local_dataplane.table import PortKey, ServiceState

BAD_PORT = 6666
REFUSED_RULE = "-m recent --rcheck --seconds 60 --hitcount 70000 --name x --rsource "


class CountingIptables(IptablesCommand):
    saves = 0

    def save(self, *tables: Table) -> str:
        self.saves += 1
        return super().save(*tables)


def states(count: int, generation: int, bad: set[int]) -> list[ServiceState]:
    found = []
    for n in range(count):
        endpoint = Endpoint(f"10.244.{generation}.{n % 250 + 1}", BAD_PORT if n in bad else 8080)
        key = PortKey(ObjectKey("default", f"svc-{n}"), "", L4Protocol.TCP, IPFamily.IPV4)
        found.append(
            ServiceState(key, 80, f"10.96.{n // 250}.{n % 250}", Choice((endpoint,), (), (endpoint,)))
        )
    return found


def main(backend: str, count: int, generation: int, bad: set[int]) -> None:
    plain = render.dnat
    render.dnat = lambda backend: f"{REFUSED_RULE if backend.port == BAD_PORT else ''}{plain(backend)}"
    iptables = CountingIptables(find_programs(IPFamily.IPV4)[Backend(backend)])
    ruleset = Ruleset(IPFamily.IPV4, NodeConfig(("10.244.0.0/16",)), NodeFacts("node-1"))
    program = FamilyProgram(iptables, ruleset, RuleWatch())
    sys.stderr.write("ready\n")
    sys.stderr.flush()
    written = program.apply({s.key: s for s in states(count, generation, bad)})
    program.sweep()
    changed = program.apply({s.key: s for s in states(min(count, 3), generation + 1, set())})
    saves = iptables.saves
    drift = [program.check() for _ in range(3)]
    answer = {
        "rules": written.rules,
        "restores": written.restores,
        "refused": {key.service.name: message for key, message in written.refused.items()},
        "changed_rules": changed.rules,
        "changed_restores": changed.restores,
        "checks_that_read": iptables.saves - saves,
        "saves": saves,
        "repairs": sum(d is not None for d in drift),
    }
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), {int(n) for n in sys.argv[4:]})
