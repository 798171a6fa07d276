"""A short text on the Lease, from whoever leads to whoever leads next.

It is written with renewals of the lease, so only its holder can write it, and costs no request of its own
unless somebody waits for it. It bears the number of the leadership that wrote it (`leaseTransitions`): where
somebody has led since who keeps no memo, it is not what the leader before us left, and counts for nothing.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from lbprov.model import RetryLater

log = logging.getLogger(__name__)

FLUSH_S = 5.0
"""As long as a renewal may take."""


class LeaseMemo:
    """For one term of leadership: an `lbprov.api.Memo`."""

    def __init__(self, keeper: MemoKeeper) -> None:
        self._keeper = keeper

    def begin(self, text: Callable[[], str]) -> str:
        return self._keeper.begin(self, text)

    def flush(self) -> None:
        self._keeper.flush(self)


class MemoKeeper:
    """The elector's side. Safe for threads. `renew`: renew the lease soon; it must only wake."""

    def __init__(self, renew: Callable[[], None]) -> None:
        self._renew = renew
        self._news = threading.Condition()
        self._next: LeaseMemo | None = None
        self._current: LeaseMemo | None = None
        """Of the term that goes on, once it has begun."""
        self._text: Callable[[], str] = str
        self._left = ""
        self._asked = 0
        self._written = 0

    def memo(self) -> LeaseMemo:
        """For the next term, or the one that has just begun. No other is listened to any more."""
        with self._news:
            self._next = LeaseMemo(self)
            return self._next

    def begin(self, memo: LeaseMemo, text: Callable[[], str]) -> str:
        with self._news:
            if memo is not self._next:
                raise RetryLater("this term of leadership is over", 1)
            self._current, self._text = memo, text
            return self._left

    def flush(self, memo: LeaseMemo) -> None:
        """Returns when what the text is after this call is written. Raises `RetryLater` if it is not, or may
        not be."""
        with self._news:
            self._asked += 1
            mine = self._asked
            self._renew()
            self._news.wait_for(lambda: self._written >= mine or self._current is not memo, FLUSH_S)
            if self._written < mine or self._current is not memo:
                raise RetryLater("the lease cannot be written, and nothing is changed before it is", 2)

    # -- for the elector, on its thread

    def take_over(self, stamped: str, transitions: int) -> None:
        """The lease is about to be ours, with this on it, of the leadership numbered `transitions`. Where our
        term goes on (somebody has deleted the lease), its text is true still."""
        number, _, text = stamped.partition(":")
        with self._news:
            if self._current is None:
                self._left = text if number == str(transitions) else ""

    def to_write(self, transitions: int) -> tuple[str, int]:
        """What is to stand on the lease, and what `written` is to be told when it does."""
        with self._news:
            current, asked = self._current, self._asked
        if current is not None:
            told = self._told()
            with self._news:
                if self._current is current:
                    self._left = told
        with self._news:
            return (f"{transitions}:{self._left}" if self._left else ""), asked

    def _told(self) -> str:
        try:
            return self._text()
        except Exception:
            # The lease must not be lost by it. That nothing is said is right at any time.
            log.exception("a bug in lbprov or the provider: there is no memo")
            return ""

    def written(self, asked: int) -> None:
        with self._news:
            self._written = max(self._written, asked)
            self._news.notify_all()

    def end_term(self) -> None:
        """Whoever leads next has another memo, even if it is us."""
        with self._news:
            self._next = self._current = None
            self._news.notify_all()
