"""The shape of an object: which fields, of which types. Reads a document against it.

`conform` returns the value with nulls and unknown fields left out (the API server treats null as absent),
and tells what does not fit. Code behind it can trust types.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lbprov.cluster.manifests.marked_yaml import YamlList, YamlMap, kind_of, shown

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong at one field; not `fatal`: odd, and left out of account. `line` 0: the field's."""

    path: Path
    message: str
    fatal: bool = True
    line: int = 0


class Findings(list[Finding]):
    def refuse(self, path: Path, message: str) -> None:
        self.append(Finding(path, message))

    def refuse_if(self, path: Path, message: str) -> None:
        """Refuse unless the check that wrote `message` found nothing."""
        if message:
            self.append(Finding(path, message))

    def warn(self, path: Path, message: str) -> None:
        self.append(Finding(path, message, fatal=False))

    @property
    def fatal(self) -> bool:
        return any(f.fatal for f in self)


@dataclass(frozen=True, slots=True)
class Scalar:
    """`types`: Python types allowed; bool is not an int here."""

    name: str
    types: tuple[type, ...]


@dataclass(frozen=True, slots=True)
class ListOf:
    item: Shape


@dataclass(frozen=True, slots=True)
class MapOf:
    item: Shape


@dataclass(frozen=True, slots=True)
class Struct:
    """`strict`: an unknown field refuses the document, as `kubectl` does. Otherwise it is only told: for
    large objects of which lbprov reads little, and newer API servers have more."""

    fields: Mapping[str, Shape]
    strict: bool = True
    required: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Anything:
    """Not read by lbprov: any value is as good as none, and is left out."""


Shape = Scalar | ListOf | MapOf | Struct | Anything

STR = Scalar("a string", (str,))
INT = Scalar("an integer", (int,))
BOOL = Scalar("true or false", (bool,))
INT_OR_STR = Scalar("an integer or a string", (int, str))
ANY = Anything()

_INT32 = 2**31


def path_text(path: Path) -> str:
    """`spec.ports[0].nodePort`; keys that are no plain names in brackets."""
    out = ""
    for part in path:
        if isinstance(part, int):
            out += f"[{part}]"
        elif part.isidentifier() and len(part) < 80:
            out += f".{part}" if out else part
        else:
            out += f"[{shown(part)[1:-1]}]"
    return out


def line_of(document: Any, path: Path, default: int) -> int:
    """The line of the deepest part of `path` that the document has."""
    line, value = default, document
    for part in path:
        if isinstance(value, YamlMap) and part in value.lines:
            line, value = value.lines[str(part)], value[str(part)]
        elif isinstance(value, YamlList) and isinstance(part, int) and part < len(value):
            line, value = value.lines[part], value[part]
        else:
            break
    return line


def conform(value: Any, shape: Shape, path: Path, findings: Findings) -> Any:
    """None where nothing of the value is of use (what was wrong is in `findings`)."""
    if isinstance(shape, Anything):
        return None
    if isinstance(shape, Scalar):
        return _scalar(value, shape, path, findings)
    if isinstance(shape, ListOf):
        if not isinstance(value, list):
            findings.refuse(path, f"{shown(value)} is {kind_of(value)}; a list is allowed")
            return None
        return [conform(item, shape.item, (*path, i), findings) for i, item in enumerate(value)]
    if not isinstance(value, dict):
        findings.refuse(path, f"{shown(value)} is {kind_of(value)}; a mapping is allowed")
        return None
    if isinstance(shape, MapOf):
        # The API server reads a null within a map as the empty value.
        return {
            k: "" if v is None and shape.item is STR else conform(v, shape.item, (*path, k), findings)
            for k, v in value.items()
        }
    return _struct(value, shape, path, findings)


def _scalar(value: Any, shape: Scalar, path: Path, findings: Findings) -> Any:
    if isinstance(value, float) and int in shape.types and value.is_integer():
        value = int(value)  # 80.0 and 8e1 are 80 in the JSON that a server gets
    if not isinstance(value, shape.types) or (isinstance(value, bool) and bool not in shape.types):
        hint = ""
        if isinstance(value, str) and int in shape.types and value.strip("-").isdecimal():
            hint = " (without quotes)"
        elif shape.types == (str,) and isinstance(value, int | float):
            hint = " (put it in quotes)"
        findings.refuse(path, f"{shown(value)} is {kind_of(value)}; {shape.name} is allowed{hint}")
        return None
    if isinstance(value, int) and not -_INT32 <= value < _INT32:
        findings.refuse(path, f"{value} does not fit in 32 bits")
        return None
    return value


def _struct(value: dict[str, Any], shape: Struct, path: Path, findings: Findings) -> dict[str, Any]:
    out = {}
    for key, item in value.items():
        if key not in shape.fields:
            message = f"unknown field{_meant(key, shape.fields)}"
            if shape.strict:
                findings.refuse((*path, key), message)
            else:
                findings.warn((*path, key), f"{message}: ignored")
        elif item is not None:
            kept = conform(item, shape.fields[key], (*path, key), findings)
            if kept is not None:
                out[key] = kept
    for key in shape.required:
        if value.get(key) is None:
            findings.refuse((*path, key), "required")
    return out


def _meant(key: str, known: Mapping[str, Shape]) -> str:
    lowered = {k.lower(): k for k in known}
    close = difflib.get_close_matches(key.lower(), lowered, n=1, cutoff=0.75)
    return f" (did you mean {lowered[close[0]]}?)" if close else ""
