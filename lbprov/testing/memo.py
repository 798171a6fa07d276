"""A memo in memory, which outlives the providers that are given it: as a controller's lease has it."""

from __future__ import annotations

from collections.abc import Callable


class MemoryMemo:
    """`lbprov.api.Memo`. `text`: what is durable. `flushes`: how often somebody waited for it."""

    def __init__(self) -> None:
        self.text = ""
        self.flushes = 0
        self._source: Callable[[], str] | None = None

    def begin(self, text: Callable[[], str]) -> str:
        self._source = text
        return self.text

    def flush(self) -> None:
        self.flushes += 1
        self.keep()

    def keep(self) -> None:
        """As happens now and then, and at a clean end."""
        if self._source is not None:
            self.text = self._source()

    def end(self) -> None:
        """The process is no more, however it ended."""
        self._source = None
