"""YAML text to plain values that remember the line of each of their fields.

Reads events rather than letting PyYAML build objects: so every value has its line, duplicate keys are seen,
aliases cost no more than they should, and plain scalars mean what they mean to `kubectl` (no sexagesimal
numbers, no dates). Documents are split at `---` first, as kubectl does: one that cannot be parsed does not
take its neighbours along.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

MAX_DEPTH = 64
MAX_ALIASED_NODES = 100_000
"""How many nodes aliases may stand for in one document ("billion laughs" would be 10^9)."""


class YamlMap(dict[str, Any]):
    """A mapping; `lines` has the line of each key, `line` where it begins. Lines count from 1."""

    __slots__ = ("line", "lines")

    def __init__(self, line: int) -> None:
        super().__init__()
        self.line = line
        self.lines: dict[str, int] = {}


class YamlList(list[Any]):
    __slots__ = ("line", "lines")

    def __init__(self, line: int) -> None:
        super().__init__()
        self.line = line
        self.lines: list[int] = []


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with the text itself. `line` counts from 1 in the file."""

    line: int
    message: str


@dataclass(frozen=True, slots=True)
class Document:
    """One YAML document. `faults` not empty: its value is the rest that could be read, good for telling
    which object it was meant to be, not for use. `unreadable`: not even that."""

    line: int
    value: Any
    faults: tuple[Fault, ...] = ()
    unreadable: bool = False


def documents(text: str) -> Iterator[Document]:
    """The documents of a file that are not empty."""
    for first_line, chunk in _chunks(text):
        try:
            parser = yaml.parse(_whole_characters(chunk), Loader=yaml.CSafeLoader)
            yield from list(_build(parser, first_line))
        except yaml.YAMLError as err:
            line, message = _explain(err, chunk, first_line)
            yield Document(line, None, (Fault(line, message),), unreadable=True)


_SEPARATOR = re.compile(r"^---(?=\s|$)", re.MULTILINE)
_NO_CONTENT = re.compile(r"(?:[ \t]*(?:#.*|%.*|\.\.\.)?(?:\r?\n|$))*")


def _chunks(text: str) -> Iterator[tuple[int, str]]:
    """(line of its first character, text) of each document; a document begins with its `---`."""
    starts = [0, *(m.start() for m in _SEPARATOR.finditer(text) if m.start() > 0), len(text)]
    line = 1
    for begin, end in itertools.pairwise(starts):
        chunk = text[begin:end]
        body = chunk[3:] if _SEPARATOR.match(chunk) else chunk
        if not _NO_CONTENT.fullmatch(body):
            yield line, chunk
        line += chunk.count("\n")


_SURROGATES = re.compile(r"(?<!\\)((?:\\\\)*)\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})")


def _whole_characters(chunk: str) -> str:
    """JSON escapes characters beyond U+FFFF in two halves, which YAML does not know."""
    if "\\ud" not in chunk and "\\uD" not in chunk:
        return chunk
    return _SURROGATES.sub(
        lambda m: f"{m[1]}\\U{0x10000 + (int(m[2], 16) - 0xD800) * 0x400 + int(m[3], 16) - 0xDC00:08x}", chunk
    )


def _explain(err: yaml.YAMLError, chunk: str, first_line: int) -> tuple[int, str]:
    mark = getattr(err, "problem_mark", None) or getattr(err, "context_mark", None)
    if mark is not None:
        text = f"not YAML: {getattr(err, 'problem', None) or 'cannot be parsed'}, column {mark.column + 1}"
        last_line = chunk.rstrip().count("\n")  # the end of a text is marked behind it
        return first_line + min(mark.line, last_line), text
    bad = next((i for i, c in enumerate(chunk) if not _printable(c)), 0)
    what = (
        f"character U+{ord(chunk[bad]):04X} is not allowed" if chunk and not _printable(chunk[bad]) else "?"
    )
    return first_line + chunk.count("\n", 0, bad), f"not YAML: {what}"


def _printable(char: str) -> bool:
    """YAML 1.1's `c-printable`."""
    o = ord(char)
    return char in "\t\n\r\x85" or 0x20 <= o <= 0x7E or 0xA0 <= o <= 0xD7FF or (o >= 0xE000 and o != 0xFEFF)


_Container = YamlMap | YamlList
_MERGE = object()


@dataclass(slots=True)
class _Frame:
    node: _Container
    anchor: str | None
    nodes_before: int
    key: Any = None
    key_line: int = 0
    has_key: bool = False
    merges: list[Any] = field(default_factory=list)


class _TooMuchError(yaml.YAMLError):
    def __init__(self, line: int, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.problem_mark = yaml.Mark("", 0, line, 0, None, 0)


class _Builder:
    """Turns the events of one document into its value, without recursion."""

    def __init__(self, first_line: int) -> None:
        self.first_line = first_line
        self.stack: list[_Frame] = []
        self.anchors: dict[str, tuple[Any, int]] = {}
        self.faults: list[Fault] = []
        self.nodes = 0
        self.aliased = 0
        self.root: Any = None
        self.root_line = first_line

    def put(self, value: Any, line: int, *, is_plain: bool = False) -> None:
        self.nodes += 1
        if not self.stack:
            self.root, self.root_line = value, line
            return
        top = self.stack[-1]
        node = top.node
        if isinstance(node, YamlList):
            node.append(value)
            node.lines.append(line)
        elif not top.has_key:
            top.key, top.key_line, top.has_key = self._key(value, line, is_plain), line, True
        else:
            top.has_key = False
            if top.key is _MERGE:
                top.merges.append(value)
            elif top.key in node:
                first = node.lines[top.key]
                self.faults.append(
                    Fault(top.key_line, f"key {shown(top.key)} is given twice (first on line {first})")
                )
            else:
                node[top.key] = value
                node.lines[top.key] = top.key_line

    def _key(self, value: Any, line: int, is_plain: bool) -> Any:
        if isinstance(value, str):
            return _MERGE if is_plain and value == "<<" else value
        if isinstance(value, int):  # as kubectl turns YAML into JSON
            return str(value).lower() if isinstance(value, bool) else str(value)
        self.faults.append(
            Fault(line, f"key {shown(value)} is {kind_of(value)}, a string is needed: quote it")
        )
        return str(value)[:80]

    def open(self, node: _Container, anchor: str | None) -> None:
        if len(self.stack) >= MAX_DEPTH:
            raise _TooMuchError(node.line - self.first_line, f"nested deeper than {MAX_DEPTH} levels")
        self.stack.append(_Frame(node, anchor, self.nodes))

    def close(self) -> None:
        frame = self.stack.pop()
        for merged in frame.merges:
            self._merge(frame.node, merged)
        if frame.anchor:
            self.anchors[frame.anchor] = (frame.node, self.nodes - frame.nodes_before + 1)
        self.put(frame.node, frame.node.line)

    def _merge(self, node: _Container, merged: Any) -> None:
        sources = merged if isinstance(merged, YamlList) else [merged]
        for source in sources:
            if not isinstance(source, YamlMap):
                self.faults.append(Fault(node.line, "'<<' can merge mappings only"))
                continue
            assert isinstance(node, YamlMap)
            for key, value in source.items():
                if key not in node:
                    node[key], node.lines[key] = value, source.lines[key]

    def alias(self, name: str, line: int) -> None:
        if name not in self.anchors:
            raise _TooMuchError(line - self.first_line, f"alias *{name} refers to nothing before it")
        value, nodes = self.anchors[name]
        self.nodes += nodes
        self.aliased += nodes
        if self.aliased > MAX_ALIASED_NODES:
            raise _TooMuchError(
                line - self.first_line, f"aliases stand for more than {MAX_ALIASED_NODES} values"
            )
        self.put(value, line)

    def scalar(self, event: yaml.ScalarEvent, line: int) -> None:
        value: Any = event.value
        plain = bool(event.implicit[0])
        if plain:
            value = resolve(value)
        elif event.tag not in (None, "!", "tag:yaml.org,2002:str"):
            self.faults.append(Fault(line, f"tag {shown(event.tag)} is not allowed"))
        if event.anchor:
            self.anchors[event.anchor] = (value, 1)
        self.put(value, line, is_plain=plain)


def _build(events: Iterator[yaml.Event], first_line: int) -> Iterator[Document]:
    builder = _Builder(first_line)
    for event in events:
        assert event.start_mark is not None
        line = event.start_mark.line + first_line
        if type(event) is yaml.ScalarEvent:
            builder.scalar(event, line)
        elif type(event) is yaml.MappingStartEvent:
            builder.open(YamlMap(line), event.anchor)
        elif type(event) is yaml.SequenceStartEvent:
            builder.open(YamlList(line), event.anchor)
        elif isinstance(event, yaml.CollectionEndEvent):
            builder.close()
        elif type(event) is yaml.AliasEvent:
            builder.alias(event.anchor or "", line)
        elif type(event) is yaml.DocumentEndEvent:
            if builder.root is not None or builder.faults:
                yield Document(builder.root_line, builder.root, tuple(builder.faults))
            builder = _Builder(first_line)


_CONSTANTS: dict[str, Any] = {"": None, "~": None, "null": None, "Null": None, "NULL": None}
for _words, _value in ((("true", "yes", "on", "y"), True), (("false", "no", "off", "n"), False)):
    for _word in _words:
        _CONSTANTS |= {_word: _value, _word.title(): _value, _word.upper(): _value}
_INT = re.compile(r"[-+]?(?:0b[01_]+|0o?[0-7_]+|0x[0-9a-fA-F_]+|[1-9][0-9_]*|0)")
_FLOAT = re.compile(r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*|[0-9]+)(?:[eE][-+]?[0-9]+)?")
_SPECIAL = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_MAX_DIGITS = 40


def resolve(text: str) -> Any:
    """What a plain scalar means (as to go-yaml, which kubectl reads manifests with)."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if text[0] not in "-+.0123456789":
        return text
    if _INT.fullmatch(text):
        try:
            return _integer(text)
        except ValueError:  # "0x_": digits in name only
            return text
    if _FLOAT.fullmatch(text):
        return float(text.replace("_", ""))
    if _SPECIAL.fullmatch(text):
        return float(text.replace(".", "", 1))
    return text


def _integer(text: str) -> int | float:
    sign, digits = (-1, text[1:]) if text[0] == "-" else (1, text.lstrip("+"))
    digits = digits.replace("_", "")
    if len(digits) > _MAX_DIGITS:
        return sign * float("inf")  # no field of ours is that large: refused by its type, cheaply
    if len(digits) > 1 and digits[0] == "0" and digits[1].isdigit():
        return sign * int(digits, 8)
    return sign * int(digits, 0)


def kind_of(value: object) -> str:
    """A value's type in a manifest author's words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    for type_, name in ((str, "a string"), (int, "an integer"), (float, "a number"), (list, "a list")):
        if isinstance(value, type_):
            return name
    return "a mapping"


def shown(value: object) -> str:
    """A given value for a message: short, on one line, nothing in it that a terminal would obey."""
    if isinstance(value, str):
        body = value if len(value) <= 80 else value[:77] + "..."
        return '"' + "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in body) + '"'
    if isinstance(value, dict | list):
        return kind_of(value)
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return str(value)
