"""What the server was told to do wrong: fail or delay so many calls of an operation."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

from lbprov.lab.aws.call import Refusal


@dataclass(slots=True)
class Fault:
    """`when` "before": the call is not carried out; "after": it is, and only its answer is replaced."""

    operation: str
    times: int = 1
    code: str = ""
    message: str = "as told to"
    status: int = 400
    seconds: float = 0.0
    when: str = "before"


class Faults:
    """The faults in store, first come first served. Safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[Fault] = []

    def clear(self) -> None:
        with self._lock:
            self._faults.clear()

    def add(self, order: dict[str, Any]) -> None:
        with self._lock:
            self._faults.append(Fault(**order))

    def delay_s(self, operation: str) -> float:
        """How long to hold this call back."""
        with self._lock:
            fault = self._take(lambda f: f.seconds > 0 and f.operation in (operation, "*"))
            return fault.seconds if fault else 0.0

    def refuse(self, operation: str, when: str) -> None:
        """Raises the `Refusal` in store for this call, if any."""
        with self._lock:
            fault = self._take(lambda f: bool(f.code) and f.when == when and f.operation in (operation, "*"))
        if fault is not None:
            raise Refusal(fault.code, fault.message, fault.status)

    def _take(self, matches: Any) -> Fault | None:
        fault = next((f for f in self._faults if matches(f)), None)
        if fault is not None:
            fault.times -= 1
            if fault.times == 0:
                self._faults.remove(fault)
        return fault
