"""Which seals hold, as the memo from process to process tells it (see `seals`).

A seal is of one Service and says nothing of the nodes, which are the same for all. That targets are as
wanted stands in the memo, once: the nodes that all sealed Services serve, and those Services of which it does
not hold. So a node that comes or goes costs no seals. A memo is durable before a write makes untrue what it
says, and becomes better again when it may.
"""

from __future__ import annotations

import hashlib
import threading
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from lbprov.api import Memo

MANY = 500
"""Doubts about more Services are a doubt about all: a Lease is no place for many kilobytes."""

_FORMAT = "aws-2"


@dataclass(frozen=True, slots=True)
class Word:
    """What a memo says. `world`: where its writer was at work (cluster and account): elsewhere it says
    nothing. `book`: of seals that it speaks for, which bear this name. `targets`: a digest of the nodes that
    they serve (see `seals.targets_digest`); empty: no seal holds. `doubted`: keys of Services
    (see `key`) whose seals do not."""

    world: str
    book: str
    targets: str
    doubted: frozenset[str] = frozenset()

    def vouches(self, uid: str) -> bool:
        return bool(self.targets) and key(uid) not in self.doubted

    def __str__(self) -> str:
        return " ".join((_FORMAT, self.world, self.book, self.targets or "-", *sorted(self.doubted)))


def parse(text: str) -> Word | None:
    """None: nothing that we understand."""
    match text.split():
        case [format_, world, book, targets, *doubted] if format_ == _FORMAT:
            return Word(world, book, "" if targets == "-" else targets, frozenset(doubted))
        case _:
            return None


def key(uid: str) -> str:
    """Short. Two Services with the same key are doubted together."""
    return hashlib.sha256(uid.encode()).hexdigest()[:8]


class Doubts:
    """Safe for threads, for one Service never at once. `inherited`: uids of the Services whose load balancers
    this process has not made. Any of them may bear a seal, known or not: listings lag. `world`: see
    `Word`."""

    def __init__(self, memo: Memo, inherited: Callable[[], Iterable[str]], world: Callable[[], str]) -> None:
        self._memo = memo
        self._inherited = inherited
        self._world = world
        self._lock = threading.Lock()
        self._found: Word | None = None
        self._is_new = False
        """The book was begun by this process: no seal is of it but ours."""
        self._last: Word | None = None
        """What was told last; None: that is not true any more."""
        self._targets = ""
        """What is wanted now."""
        self._serves: dict[str, str] = {}
        """Uid -> the targets for which its seal holds; empty: it does not hold."""
        self._told: list[tuple[int, Word]] = []
        """What may be durable by now and vouches for anybody, numbered."""
        self._number = 0
        """Of what was told last."""

    def begin(self) -> str:
        """The book's name. To be called before anything else, when it is known what there is."""
        with self._lock:
            if self._found is None:
                found = parse(self._memo.begin(self._text))
                if found is not None and found.world == self._world():
                    self._serves = {u: found.targets if found.vouches(u) else "" for u in self._inherited()}
                else:
                    found, self._is_new = Word("", uuid.uuid4().hex[:8], ""), True
                self._found = found
                if found.targets:
                    self._told.append((0, found))
            return self._found.book

    def wants(self, targets: str) -> None:
        """The nodes that are to be served now."""
        with self._lock:
            if targets != self._targets:
                self._targets, self._last = targets, None

    def holds(self, uid: str, targets: str) -> bool:
        """Whether the Service's seal holds, and it serves these. `targets` empty: whatever it serves."""
        with self._lock:
            serves = self._serves.get(uid, "")
            return bool(serves) and serves == (targets or serves)

    def settle(self, uid: str, targets: str) -> None:
        """The Service's seal holds, and it serves these."""
        with self._lock:
            if self._serves.get(uid) != targets:
                self._serves[uid], self._last = targets, None

    def doubt(self, uid: str) -> None:
        """The Service's seal does not hold any more: known to whoever comes after us when this returns.
        Raises `RetryLater`."""
        with self._lock:
            if self._is_new and uid not in self._serves:
                return
            if self._serves.get(uid) != "":
                self._serves[uid], self._last = "", None
            if not any(word.vouches(uid) for _, word in self._told):
                return
            first = self._number + (self._last is None)  # that may be what is durable then
        self._memo.flush()
        with self._lock:
            self._told = [(number, word) for number, word in self._told if number >= first]

    def expect_seal(self, uid: str, targets: str, *, any_nodes: bool) -> None:
        """The Service serves these, and may have a seal of that from now on. Unless the seal holds for any
        nodes, nobody who comes after us may hear that it serves others. Raises `RetryLater`."""
        with self._lock:
            if self._serves.get(uid) not in ("", targets):
                self._serves[uid], self._last = targets, None
            told = [word for _, word in self._told if word.vouches(uid)]
        if not any_nodes and any(word.targets != targets for word in told):
            self.doubt(uid)

    def forget(self, uid: str) -> None:
        """The Service has no load balancer any more."""
        with self._lock:
            if self._found is not None:
                self._found = replace(self._found, doubted=self._found.doubted - {key(uid)})
            if self._serves.pop(uid, None) is not None:
                self._last = None

    def _text(self) -> str:
        with self._lock:
            assert self._found is not None, "it begins with the lock held"
            if self._last is None:
                self._last = self._word(self._found)
                self._number += 1
                if self._last.targets:
                    self._tell(self._last)
            return str(self._last)

    def _word(self, found: Word) -> Word:
        """Doubts about Services that we know nothing of go on: they may show yet."""
        targets, world = self._targets or found.targets, self._world()
        uids = {*(() if self._is_new else self._inherited()), *self._serves}
        doubted = frozenset(key(uid) for uid in uids if self._serves.get(uid) != targets)
        doubted |= found.doubted - {key(uid) for uid in self._serves}
        return (
            Word(world, found.book, targets, doubted) if len(doubted) <= MANY else Word(world, found.book, "")
        )

    def _tell(self, word: Word) -> None:
        """In place of the one before, where that vouches for nothing more."""
        if self._told:
            _, before = self._told[-1]
            if before.targets == word.targets and word.doubted <= before.doubted:
                self._told.pop()
        self._told.append((self._number, word))
