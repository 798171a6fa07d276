"""Annotation values, read one by one. What is wrong with one is noted, named and without effect. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from lbprov_aws import peer_annotations as names
from lbprov_aws.peer_annotations import PREFIX, Support

_SHOWN = 120
_LONG = re.compile(rf"\S{{{_SHOWN + 1},}}")


def number_of(text: str) -> int | None:
    """A port number, seconds, a count. None: it is none of these, such as thousands of digits, or digits that
    AWS does not read."""
    return int(text) if text.isdecimal() and text.isascii() and len(text) <= 9 else None


def is_pair(item: str) -> bool:
    key, sign, _ = item.partition("=")
    return bool(key.strip() and sign)


class Reader:
    """Of one Service. `complaints`: what its author should read, each naming its annotation."""

    def __init__(self, annotations: Mapping[str, str]) -> None:
        self._values = {
            key.removeprefix(PREFIX): value.strip()
            for key, value in annotations.items()
            if key.startswith(PREFIX)
        }
        self.complaints: list[str] = []

    def complain(self, name: str, why: str) -> None:
        """A value of any length leaves room for the rest of the message."""
        why = _LONG.sub(lambda found: f"{found[0][:_SHOWN]}…", why)
        self.complaints.append(f"aws-load-balancer-{name}: {why}")

    def text(self, name: str) -> str:
        return self._values.get(name, "")

    def family(self, name: str) -> dict[str, str]:
        """Of `target-group-attributes.`: what follows the dot -> the whole name."""
        return {key.removeprefix(name): key for key in sorted(self._values) if key.startswith(name)}

    def items(self, name: str) -> tuple[str, ...]:
        """Of `a, b`: each once."""
        parts = (part.strip() for part in self.text(name).split(","))
        return tuple(dict.fromkeys(filter(None, parts)))

    def pairs(self, name: str) -> dict[str, str]:
        """Of `key=value, key=value`."""
        found: dict[str, str] = {}
        for item in self.items(name):
            if is_pair(item):
                key, _, value = item.partition("=")
                found[key.strip()] = value.strip()
            else:
                self.complain(name, f"{item!r} is not of the form key=value")
        return found

    def stays(self, name: str) -> None:
        """Of what could not be read: nothing is changed on its account."""
        self.complain(name, "what cannot be read stays as it is on the load balancer")

    def choice(self, name: str, *allowed: str) -> str:
        """One of `allowed` whatever its case; empty if nothing (valid) is said."""
        value = self.text(name)
        for choice in allowed:
            if value.lower() == choice.lower():
                return choice
        if value:
            self.complain(name, f"{value!r} is not allowed: {' or '.join(allowed)}")
        return ""

    def number(self, name: str, low: int, high: int) -> int | None:
        value = self.text(name)
        if not value:
            return None
        number = number_of(value)
        if number is not None and low <= number <= high:
            return number
        self.complain(name, f"{value!r} is not allowed: a number from {low} to {high}")
        return None

    def valid(self, name: str, is_valid: Callable[[str], object], allowed: str) -> str:
        """The text, if it is valid; `allowed` says what would be."""
        value = self.text(name)
        if not value or is_valid(value):
            return value
        self.complain(name, f"{value!r} is not allowed: {allowed}")
        return ""

    def check_known(self) -> None:
        """Note what is known and not supported, and what is not known at all."""
        for name in sorted(self._values):
            known = names.find(name)
            if known is None:
                self.complain(name, "not known: a typing error?")
            elif known.support is Support.NO:
                self.complain(name, known.meaning)
