"""Our table in memory: takes the same transactions, refuses what the kernel refuses, can be killed at any."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from lbprov.model import IPFamily
from local_dataplane.kernel.nft_seam import Rejected, Unit
from local_dataplane.nftables import objects as ob
from local_dataplane.nftables.expressions import Branch, Lookup, Remember
from local_dataplane.nftables.objects import Chain, Change, Contents, Element, SetShape
from local_dataplane.nftables.plan import carry_out


class Killed(BaseException):
    """What a test sees where the process would have been killed."""


class FakeNftables:
    """- `refuse`: a change whose text contains any of these is refused.
    - `kill_before`: so many transactions are done, the next one raises `Killed` instead; -1: never.
    - `fail_with`: raised by the next transactions, instead of doing them.
    - `units_per_transaction`: as if the kernel limited a message's length so.
    - `transactions`: what was asked for, one after the other.
    """

    def __init__(self, family: IPFamily = IPFamily.IPV4) -> None:
        self._family = family
        self.contents: Contents | None = None
        self.chains: dict[str, Chain] = {}
        self.shapes: dict[str, SetShape] = {}
        self.refuse: set[str] = set()
        self.kill_before = -1
        self.fail_with: list[Exception] = []
        self.units_per_transaction = 1 << 30
        self.transactions: list[list[Unit]] = []
        self.reads = 0
        self._generation = 1
        self._touched = False

    @property
    def family(self) -> IPFamily:
        return self._family

    def generation(self) -> int:
        return self._generation

    def touched(self) -> bool:
        touched, self._touched = self._touched, False
        return touched

    def read(self) -> Contents | None:
        self.reads += 1
        return copy.deepcopy(self.contents)

    def commit(self, units: Sequence[Unit]) -> int:
        count = 0
        for first in range(0, len(units), self.units_per_transaction):
            if self.kill_before == 0:
                raise Killed
            self.kill_before -= 1
            if self.fail_with:
                raise self.fail_with.pop(0)
            part = list(units[first : first + self.units_per_transaction])
            self.contents = self._tried(part, first)
            self._remember_rules(part)
            self.transactions.append(part)
            self._generation += 1
            count += 1
        return count

    def check(self, unit: Unit) -> None:
        self._tried([unit], 0)

    def foreign(self, contents: Contents | None) -> None:
        """Somebody else changes our table, or (None) deletes it."""
        self.contents = contents
        self._generation += 1
        self._touched = True

    def elsewhere(self) -> None:
        """Somebody changes another table."""
        self._generation += 1

    def _tried(self, units: Sequence[Unit], first: int) -> Contents | None:
        """What it would hold; all that is refused is told, as the kernel does."""
        now = copy.deepcopy(self.contents)
        refused: dict[int, str] = {}
        for index, unit in enumerate(units, first):
            for change in unit:
                said = self._objection(change, now)
                if said:
                    refused.setdefault(index, said)
                else:
                    now = carry_out([change], now)
        if refused:
            raise Rejected(refused)
        return now

    def _objection(self, change: Change, now: Contents | None) -> str:
        if any(text in _text(change) for text in self.refuse):
            return "Invalid argument"
        if isinstance(change, ob.AddTable):
            return ""
        if now is None:
            return "No such file or directory"
        missing, busy, there = "No such file or directory", "Device or resource busy", "File exists"
        match change:
            case ob.AddSet(shape) if now.sets.get(shape.name, shape.signature) != shape.signature:
                return there
            case ob.AddChain(name, hook) if name in now.chains and now.chains[name].hook != hook:
                return busy
            case ob.FlushChain(name) | ob.DeleteChain(name) | ob.AddRule(name, _) if name not in now.chains:
                return missing
            case ob.DeleteChain(name) if now.chains[name].rules or self._is_led_to(name, now):
                return busy
            case ob.DeleteSet(name) if name not in now.sets:
                return missing
            case ob.AddRule(_, rule):
                return "" if self._is_whole(Chain((rule,)), now) else missing
            case ob.AddElements(name, elements) | ob.DeleteElements(name, elements):
                if name not in now.elements:
                    return missing
                is_new = isinstance(change, ob.AddElements)
                return next((s for e in elements if (s := _about(e, now.elements[name], now, is_new))), "")
        return ""

    @staticmethod
    def _is_whole(chain: Chain, now: Contents) -> bool:
        looks = (e for rule in chain.rules for e in rule if isinstance(e, Lookup | Branch | Remember))
        sets = {e.set for e in looks}
        return chain.targets <= now.chains.keys() and sets <= now.sets.keys()

    def _is_led_to(self, name: str, now: Contents) -> bool:
        by_element = any(e.chain == name for part in now.elements.values() for e in part.values())
        known = (c for n, c in self.chains.items() if n in now.chains and now.chains[n] == c.marks())
        return by_element or any(name in chain.targets for chain in known)

    def _remember_rules(self, units: Sequence[Unit]) -> None:
        """So that a walker can go through what the table holds."""
        for change in (change for unit in units for change in unit):
            match change:
                case ob.AddSet(shape):
                    self.shapes[shape.name] = shape
                case ob.AddChain(name, hook):
                    self.chains.setdefault(name, Chain((), hook))
                case ob.FlushChain(name):
                    self.chains[name] = Chain((), self.chains[name].hook if name in self.chains else None)
                case ob.AddRule(name, rule):
                    self.chains[name] = Chain((*self.chains[name].rules, rule), self.chains[name].hook)


def _about(element: Element, held: dict[bytes, Element], now: Contents, is_new: bool) -> str:
    known = held.get(element.place)
    if not is_new:
        return "" if known else "No such file or directory"
    if element.chain and element.chain not in now.chains:
        return "No such file or directory"
    return "Device or resource busy" if known and known != element else ""


def _text(change: Change) -> str:
    if isinstance(change, ob.AddElements | ob.DeleteElements):
        return f"{change.set} " + " ".join(f"{e.label} {e.chain}" for e in change.elements)
    if isinstance(change, ob.AddRule):
        return f"{change.chain} {'; '.join(map(str, change.rule))}"
    return str(change)
