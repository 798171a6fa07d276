"""Reads a folder of manifests: every .yaml, .yml and .json file in it and in its sub-folders.

Hidden files and folders (`.git`, `..data` of a mounted ConfigMap, our state file) are not manifests. Links to
files are followed; links to folders are not (they can lead round in circles), and that is told.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from lbprov.cluster.manifests.candidate import Candidate, candidates
from lbprov.cluster.manifests.marked_yaml import documents
from lbprov.cluster.seam import Problem
from lbprov.model import UserError

SUFFIXES = (".yaml", ".yml", ".json")
MAX_FILE_BYTES = 64 * 1024 * 1024

Stamp = tuple[int, int, int, int]
"""(mtime_ns, ctime_ns, size, inode): a file with the same stamp has the same content."""


@dataclass(frozen=True, slots=True)
class FileContent:
    """What one file holds. `broken`: part of it could not be read, so that objects of it that are not
    among the candidates may just be unreadable."""

    candidates: tuple[Candidate, ...] = ()
    broken: bool = False
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class FolderContent:
    """Candidates in the order of their files' paths. `broken`: files (relative paths) not fully read;
    `unlisted`: sub-folders that could not be listed, whose files are all unread."""

    candidates: tuple[Candidate, ...]
    problems: tuple[Problem, ...]
    broken: frozenset[str]
    unlisted: tuple[str, ...]

    def may_hold(self, file: str) -> bool:
        """Could an object last read from `file` still be in the folder, only not readable now?"""
        return file in self.broken or any(not d or file.startswith(f"{d}/") for d in self.unlisted)


@dataclass(slots=True)
class _Listing:
    stamps: dict[str, Stamp] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)
    unlisted: list[str] = field(default_factory=list)


class Folder:
    """A folder of manifests. Parsed files are kept as long as their stamps are the same.

    `not_manifests`: files that are never read, whatever their names (a state file put into the folder)."""

    def __init__(self, directory: Path, not_manifests: tuple[Path, ...] = ()) -> None:
        self.directory = directory
        self._skipped = frozenset(p.absolute() for p in not_manifests)
        self._cache: dict[str, tuple[Stamp, FileContent]] = {}

    def fingerprint(self) -> str:
        """Changes when a file is added, removed or written. Costs one stat per file."""
        listing = self._list()
        return repr((sorted(listing.stamps.items()), sorted(listing.broken), listing.unlisted))

    def read(self) -> FolderContent:
        listing = self._list()
        found: list[Candidate] = []
        problems, broken = list(listing.problems), set(listing.broken)
        cache: dict[str, tuple[Stamp, FileContent]] = {}
        for name, stamp in sorted(listing.stamps.items()):
            kept = self._cache.get(name)
            content = kept[1] if kept and kept[0] == stamp else self._parse(name)
            if not (content.broken and content.problems):  # a file that could not be opened is tried again
                cache[name] = (stamp, content)
            found += content.candidates
            problems += content.problems
            if content.broken:
                broken.add(name)
        self._cache = cache
        return FolderContent(tuple(found), tuple(problems), frozenset(broken), tuple(listing.unlisted))

    def where(self, file: str, line: int = 0) -> str:
        text = printable(str(self.directory / file))
        return f"{text}:{line}" if line else text

    def _list(self) -> _Listing:
        if not self.directory.is_dir():
            what = "is not a folder" if self.directory.exists() else "does not exist"
            raise UserError(f"folder of manifests {printable(str(self.directory))} {what}", field="-f")
        listing = _Listing()
        self._list_into(listing, "")
        return listing

    def _list_into(self, listing: _Listing, folder: str) -> None:
        try:
            entries = sorted(os.scandir(self.directory / folder), key=lambda e: e.name)
        except OSError as err:
            if not folder:
                raise UserError(
                    f"cannot list {printable(str(self.directory))}: {err.strerror}", field="-f"
                ) from err
            listing.unlisted.append(folder)
            listing.problems.append(Problem(self.where(folder), "", "", f"cannot be listed: {err.strerror}"))
            return
        for entry in entries:
            name = f"{folder}/{entry.name}" if folder else entry.name
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                self._list_into(listing, name)
            elif entry.name.endswith(SUFFIXES) and Path(entry.path).absolute() not in self._skipped:
                self._stamp(listing, entry, name)
            elif entry.is_symlink() and _leads_to_folder(entry):
                message = "a link to a folder is not followed"
                listing.problems.append(Problem(self.where(name), "", "", message, fatal=False))

    def _stamp(self, listing: _Listing, entry: os.DirEntry[str], name: str) -> None:
        try:
            found = entry.stat()
        except FileNotFoundError:
            if not entry.is_symlink():
                return  # gone since the folder was listed
            self._unreadable(listing, name, "a link to nothing")
        except OSError as err:
            self._unreadable(listing, name, f"cannot be read: {err.strerror}")
        else:
            if not stat.S_ISREG(found.st_mode):
                self._unreadable(listing, name, "is not a regular file")
            elif found.st_size > MAX_FILE_BYTES:
                self._unreadable(listing, name, f"is larger than {MAX_FILE_BYTES >> 20} MiB: split it")
            else:
                listing.stamps[name] = (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino)

    def _unreadable(self, listing: _Listing, name: str, message: str) -> None:
        listing.broken.add(name)
        listing.problems.append(Problem(self.where(name), "", "", message))

    def _parse(self, name: str) -> FileContent:
        try:
            raw = (self.directory / name).read_bytes()
        except FileNotFoundError:
            return FileContent()
        except OSError as err:
            problem = Problem(self.where(name), "", "", f"cannot be read: {err.strerror}")
            return FileContent(broken=True, problems=(problem,))
        try:
            text = raw.decode("utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
        except UnicodeDecodeError as err:
            line = raw.count(b"\n", 0, err.start) + 1
            problem = Problem(
                self.where(name, line), "", "", f"not {err.encoding.upper()} text: {err.reason}"
            )
            return FileContent(broken=True, problems=(problem,))
        read = tuple(documents(text))
        found = tuple(c for document in read for c in candidates(document, name))
        # A document whose object could not be told may have been any object of this file.
        return FileContent(found, broken=any(not c.kind and not c.foreign for c in found))


def _leads_to_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def printable(text: str) -> str:
    """A text for a message, with nothing in it that a terminal would obey."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
