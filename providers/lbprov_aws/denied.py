"""Changes that nothing else depends on: where a permission for one is missing, all else is done nevertheless.
Pure.

One is remembered (`Refusals`), told, and tried again when that has been forgotten. Without the permission to
make something, or to write down what is ours, nothing goes on: that refusal is the Service's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from lbprov.api import Notice, Severity, Step
from lbprov_aws import writes
from lbprov_aws.refusals import PERMISSION

Alone = (
    writes.SetAttributes
    | writes.SetHealthCheck
    | writes.SetIpAddressType
    | writes.ChangeCertificates
    | writes.SetListenerAttributes
)


def alone(step: Step) -> Alone | None:
    """What it writes, if nothing else depends on that."""
    return step.body if isinstance(step.body, Alone) else None


def key(step: Step) -> str:
    return f"permission for {step.kind} {step.id}"


def without(steps: Iterable[Step], refused: Mapping[str, str], once: frozenset[str]) -> tuple[Step, ...]:
    """Those that may be tried. That one is tried again is nobody's doing."""
    return tuple(
        dataclasses.replace(step, expected=True) if key(step) in once and alone(step) else step
        for step in steps
        if not (alone(step) and key(step) in refused)
    )


def notices(steps: Iterable[Step], refused: Mapping[str, str]) -> tuple[Notice, ...]:
    """`steps`: all that should be done."""
    missing = [s for s in steps if alone(s) and key(s) in refused]
    if not missing:
        return ()
    said = ", ".join(f"{step.kind} {step.name or step.id}" for step in missing)
    why = "; ".join(dict.fromkeys(refused[key(step)] for step in missing))
    return (Notice(Severity.WARNING, PERMISSION, f"not changed: {said}; {why}", "Permission"),)
