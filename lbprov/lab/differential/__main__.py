"""`python -m lbprov.lab.differential`: our node agent beside the real kube-proxy, packet by packet.

Prints what was asked, which of the accepted differences were met, and what else there was: each case that
shows a difference, made as small as it goes. Exit status 1 if there is one.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from lbprov.lab.controlplane import CONTROL_PLANE, ControlPlane, programs
from lbprov.lab.differential import cases, generate
from lbprov.lab.differential.case import Case
from lbprov.lab.differential.compare import Comparer, Comparison, Finding, by_case
from lbprov.lab.differential.differences import DIFFERENCES
from lbprov.lab.differential.session import opened, shrunk
from lbprov.lab.differential.world import OURS, THEIRS, VARIANTS
from lbprov.model import UserError

_AT_ONCE = 100
_MOST_SHOWN = 5
_FINDINGS_SHOWN = 4


def main() -> int:
    arguments = _parser().parse_args()
    try:
        found = programs(arguments.module, (*CONTROL_PLANE, "kube-proxy"), _say)
        names = [*THEIRS, *arguments.modes.split(",")]
        with (
            ControlPlane.open(arguments.module, _say) as plane,
            opened(
                plane, found["kube-proxy"], names, _say, thin=arguments.thin, variant=arguments.variant
            ) as comparer,
        ):
            return _run(comparer, arguments)
    except UserError as error:
        _say(str(error))
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lbprov.lab.differential", description=__doc__)
    parser.add_argument("--cases", type=int, default=200, help="random cases, beside those written by hand")
    parser.add_argument("--seed", type=int, default=1, help="what the random cases depend on")
    parser.add_argument("--only", default="", help="names of cases, separated by commas: only these")
    parser.add_argument("--modes", default=",".join(OURS), help="which of ours (%(default)s)")
    parser.add_argument("--variant", choices=sorted(VARIANTS), default="default", help="of all proxies")
    parser.add_argument("--thin", action="store_true", help="a quarter of the questions")
    parser.add_argument(
        "--module", type=Path, default=Path("tests/cluster/controlplane"), help="the Go module"
    )
    return parser


def _batches(arguments: argparse.Namespace) -> Iterator[list[Case]]:
    every = [cases.numbered(cases.CASES)]
    random = list(generate.cases(arguments.seed, arguments.cases))
    every += [cases.numbered(random[i : i + _AT_ONCE]) for i in range(0, len(random), _AT_ONCE)]
    wanted = set(arguments.only.split(",")) - {""}
    for batch in every:
        chosen = [case for case in batch if not wanted or case.name in wanted]
        if arguments.variant == "no-detector":
            # Outsiders keep their address then, and endpoints of other nodes answer them past the first node:
            # with affinity, which of the two happens is a single throw of dice.
            chosen = [c for c in chosen if not any(state and state.affinity_s for state in c.states)]
        if chosen:
            yield chosen


def _run(comparer: Comparer, arguments: argparse.Namespace) -> int:
    begun_s = time.monotonic()
    whole, count = Comparison(), 0
    for batch in _batches(arguments):
        count += len(batch)
        result = comparer.compare(batch)
        whole.questions += result.questions
        whole.differences += result.differences
        whole.findings += result.findings
    broken = list(by_case(whole.findings))
    for case, findings in broken[:_MOST_SHOWN]:
        _show(case, findings, shrunk(comparer, case))
    _say(f"\n{count} cases, {whole.questions} questions to each world, {time.monotonic() - begun_s:.0f} s")
    for difference in DIFFERENCES:
        _say(f"{whole.differences[difference.name]:6} x accepted: {difference.name}")
    names = ", ".join(case.name for case, _ in broken)
    _say(f"{len(broken)} cases show another difference: {names}" if broken else "no other difference")
    return 1 if broken else 0


def _show(case: Case, findings: list[Finding], smallest: Case) -> None:
    _say(f"\n{case}\n  smallest: {smallest}")
    for finding in findings[:_FINDINGS_SHOWN]:
        _say(f"  {finding}")
    if len(findings) > _FINDINGS_SHOWN:
        _say(f"  and {len(findings) - _FINDINGS_SHOWN} more")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
