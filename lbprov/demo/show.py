"""What the demo says, and how: for a person at a terminal, plainly into a pipe, or as one JSON document."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.text import Text

from lbprov.model import LbprovError

MARGIN = "   "


class DoesNotHoldError(Exception):
    """A step of the walkthrough that is not as it must be. `claim` is what should hold."""

    def __init__(self, claim: str, seen: str) -> None:
        super().__init__(f"{claim}; instead: {seen}")
        self.claim = claim
        self.seen = seen


@dataclass(slots=True)
class StepReport:
    number: int
    title: str
    begun_s: float
    seconds: float = 0.0
    proofs: list[str] = field(default_factory=list)
    failure: DoesNotHoldError | None = None

    def to_json(self) -> dict[str, Any]:
        failed = self.failure
        return {
            "number": self.number,
            "title": self.title,
            "seconds": round(self.seconds, 2),
            "holds": failed is None,
            "proofs": self.proofs,
            **({"failed": {"expected": failed.claim, "seen": failed.seen}} if failed else {}),
        }


class Show:
    """The demo's voice. Colour and a spinner only on a terminal, and no colour where NO_COLOR is set."""

    def __init__(self, *, as_json: bool = False) -> None:
        self._console = Console(
            file=io.StringIO() if as_json else None, highlight=False, soft_wrap=True, emoji=False
        )
        self._as_json = as_json
        self._begun_s = time.monotonic()
        self.steps: list[StepReport] = []

    def _line(self, text: str, style: str = "", mark: str = "", mark_style: str = "") -> None:
        line = Text(MARGIN)
        if mark:
            line.append(f"{mark} ", mark_style)
        line.append(text, style)
        self._console.print(line)

    def title(self, text: str) -> None:
        self._console.print(Text(text, "bold"))

    def say(self, text: str) -> None:
        """A sentence of ours, in between."""
        for line in text.splitlines():
            self._line(line)

    def command(self, line: str, at: str = "") -> None:
        """A line as it would be typed; `at`: the machine that it is typed on."""
        text = Text(MARGIN)
        text.append(f"{at} $ " if at else "$ ", "dim")
        text.append(line, "bold cyan")
        self._console.print(text)

    def output(self, text: str) -> None:
        """What a program printed."""
        for line in text.rstrip("\n").splitlines():
            self._line(line, "dim" if not line.strip() else "")

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """As kubectl prints tables."""
        widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
        for row in (head, *rows):
            self._line(
                "   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            )

    @contextlib.contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """A spinner for as long as the block takes, on a terminal."""
        with self._console.status(f"{what} …", spinner="dots"):
            yield

    @contextlib.contextmanager
    def step(self, number: int, title: str) -> Iterator[None]:
        """Everything said and proved in the block belongs to this step. What keeps it from being carried out
        (a program that fails, an agent that does not follow) is a step that does not hold, too."""
        report = StepReport(number, title, time.monotonic())
        self.steps.append(report)
        self._console.print()
        self._console.print(Text.assemble((f"{number}  ", "bold magenta"), (title, "bold")))
        try:
            yield
        except DoesNotHoldError as failure:
            report.failure = failure
            raise
        except (LbprovError, RuntimeError, TimeoutError, subprocess.SubprocessError) as error:
            report.failure = DoesNotHoldError("the step can be carried out", str(error))
            raise report.failure from error
        finally:
            report.seconds = time.monotonic() - report.begun_s

    def must(self, claim: str, holds: bool, seen: object = "it does not") -> None:
        """What goes without saying when it holds; otherwise the demo ends here, saying what was `seen`."""
        if not holds:
            raise DoesNotHoldError(claim, str(seen))

    def prove(self, claim: str, holds: bool, seen: object = "it does not") -> None:
        """As `must`, and said with a tick."""
        self.must(claim, holds, seen)
        if self.steps:
            self.steps[-1].proofs.append(claim)
        self._line(claim, mark="✓", mark_style="bold green")

    def end(self, error: str = "") -> None:
        """The last words. `error`: what ended the demo before its time, if it was no step."""
        seconds = time.monotonic() - self._begun_s
        failed = next((s for s in self.steps if s.failure), None)
        if self._as_json:
            document = {
                "holds": not failed and not error,
                "seconds": round(seconds, 2),
                "steps": [step.to_json() for step in self.steps],
                **({"error": error} if error else {}),
            }
            Console(soft_wrap=True, highlight=False).out(json.dumps(document, indent=2))
        elif failed and failed.failure:
            self._line(failed.failure.claim, mark="✗", mark_style="bold red")
            self._line(f"seen instead: {failed.failure.seen}")
            self._console.print(Text(f"\nStep {failed.number} does not hold: {failed.title}", "bold red"))
        elif not error:
            proofs = sum(len(step.proofs) for step in self.steps)
            count = f"{sum(1 for step in self.steps if step.number)} steps, {proofs} proofs, {seconds:.1f} s"
            self._console.print(Text(f"\nThe whole walkthrough holds: {count}.", "bold green"))
