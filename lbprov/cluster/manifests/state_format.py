"""The bytes of the state's two files. Pure; what does not read raises msgspec.DecodeError.

`FILE` is one JSON object with everything in it. `FILE.journal` is lines: first the epoch of the file that it
continues, then a batch each. Both carry checksums of what they hold.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import msgspec

VERSION = 1
CHANGED = "the checksum does not match: it was changed by something else"


class Base(msgspec.Struct):
    """The file. `epoch` tells it from the one that it replaced."""

    version: int
    cluster: str
    epoch: str
    revision: int
    crc32: int
    values: msgspec.Raw

    def checked_values(self) -> dict[str, Any]:
        return _checked(self.values, self.crc32)


class _Epoch(msgspec.Struct):
    """`crc32` (hexadecimal) of the epoch: a byte flipped in that would make the journal look done with."""

    epoch: str
    crc32: str = ""


class _Batch(msgspec.Struct):
    revision: int
    crc32: int
    set: msgspec.Raw


def encode_base(cluster: str, epoch: str, revision: int, values: Mapping[str, Any]) -> bytes:
    """A line for each value, so that two states can be compared by `diff`."""
    body = b"{\n" + b",\n".join(_field(k, values[k]) for k in sorted(values)) + b"\n}"
    base = Base(VERSION, cluster, epoch, revision, zlib.crc32(body), msgspec.Raw(body))
    return msgspec.json.encode(base) + b"\n"


def decode_base(raw: bytes) -> Base:
    return msgspec.json.decode(raw, type=Base)


def encode_epoch(epoch: str) -> bytes:
    return msgspec.json.encode(_Epoch(epoch, _crc32_hex(epoch))) + b"\n"


def epoch_of(head: bytes) -> str:
    """'' where the journal's first line is not all there: nothing of it was acknowledged."""
    if not head.endswith(b"\n"):
        return ""
    named = msgspec.json.decode(head, type=_Epoch)
    if named.crc32 not in ("", _crc32_hex(named.epoch)):
        raise msgspec.DecodeError(CHANGED)
    return named.epoch


def encode_batch(changes: Mapping[str, Any], revision: int) -> bytes:
    """`changes`: key to value, None where the key is removed. `revision`: after them."""
    body = b"{" + b",".join(_field(k, changes[k]) for k in sorted(changes)) + b"}"
    return msgspec.json.encode(_Batch(revision, zlib.crc32(body), msgspec.Raw(body))) + b"\n"


def decode_batch(line: bytes) -> tuple[dict[str, Any], int]:
    """(changes, revision)."""
    batch = msgspec.json.decode(line, type=_Batch)
    return _checked(batch.set, batch.crc32), batch.revision


def _field(key: str, value: Any) -> bytes:
    return msgspec.json.encode(key) + b":" + msgspec.json.encode(value)


def _crc32_hex(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"


def _checked(raw: msgspec.Raw, crc32: int) -> dict[str, Any]:
    if zlib.crc32(raw) != crc32:
        raise msgspec.DecodeError(CHANGED)
    return msgspec.json.decode(raw, type=dict[str, Any])
