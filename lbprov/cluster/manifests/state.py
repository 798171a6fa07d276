"""The state file: what etcd is to an API server, for a folder of manifests.

A map of text keys to JSON values in two files, so that writing one Service's status costs the same in a
folder of five and of five thousand:

- `FILE` holds everything at one moment. It is only ever replaced as a whole (temporary file, fsync, rename).
- `FILE.journal` holds what was set since, one batch a line, appended and fsynced; it is folded into `FILE`
  when it has outgrown it. Its flock is the lock under which all processes read, decide and write.

A crash leaves the last complete batch: half a line at the end was never acknowledged and is cut off. The
journal names the `epoch` of the file that it continues, so one left behind by a crash while folding is
recognised as done with. Everything else that does not read is damage, and is told instead of repaired.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from lbprov.cluster.manifests.folder import printable
from lbprov.cluster.manifests.state_format import (
    VERSION,
    decode_base,
    decode_batch,
    encode_base,
    encode_batch,
    encode_epoch,
    epoch_of,
)
from lbprov.model import RetryLater, UserError

MIN_JOURNAL_BYTES = 256 * 1024
LOCK_TIMEOUT_S = 30.0
_LOCK_POLL_S = 0.01
_NO_SUCH_PLACE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG)
EVENTS = "events/"
"""Keys that do not count for `revision`: an Event about a Service is no reason to look at it again."""


Stamp = tuple[int, int, int]


class StateFile:
    """One process's view of the state. A value is never changed in place, only replaced by `commit`; the map
    of them is (`values` is to be gone through within a transaction only).

    Threads may share it. `read_only`: `commit` changes the view of this process alone.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        self.journal_path = path.with_name(path.name + ".journal")
        self.read_only = read_only
        self.values: dict[str, Any] = {}
        self.cluster = ""
        self.revision = 0
        self._epoch = ""
        self._stamp: Stamp | None = None
        self._offset = 0
        self._lock = threading.RLock()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Alone with the state, and with its newest content, until the block ends. Not to be nested."""
        with self._lock:
            if self.read_only:
                self.refresh()
                yield
                return
            fd = self._open_locked()
            try:
                self.refresh()
                yield
            finally:
                os.close(fd)  # and with it the lock

    def refresh(self) -> None:
        """Read what other processes have written. Cheap where nothing was."""
        with self._lock:
            for _ in range(20):
                if self._read_once():
                    return
            raise RetryLater(f"{self._name} is being rewritten all the time", 1.0)

    def commit(self, changes: Mapping[str, Any]) -> None:
        """Set (None: remove) several keys at once, durably when it returns. Within a transaction.

        Nothing is written where nothing changes.
        """
        changes = {k: v for k, v in changes.items() if self.values.get(k) != v}
        if not changes:
            return
        revision = self.revision + any(not k.startswith(EVENTS) for k in changes)
        if not self.read_only:
            try:
                self._write(changes, revision)
            except OSError as err:
                self._stamp = None  # what is on disk is not known: read it again
                raise _inaccessible("write", self.path, err) from err
        _apply(self.values, changes)
        self.revision = revision

    # -- reading

    def _read_once(self) -> bool:
        """False: somebody replaced the file between two reads; try again."""
        stamp = _stamp(self.path)
        if stamp is None:
            if not self.read_only or self._stamp is not None:
                self.values, self.revision, self._epoch, self._offset = {}, 0, "", 0
            self._stamp = None
            return True
        if stamp != self._stamp:
            self._stamp = None
            self._load_base()
            self._offset = 0
            self._stamp = stamp
        try:
            self._follow_journal()
        except UserError:
            if _stamp(self.path) == stamp:
                raise
        return _stamp(self.path) == stamp

    def _load_base(self) -> None:
        try:
            raw = self.path.read_bytes()
            base = decode_base(raw)
            if base.version > VERSION:
                raise UserError(
                    f"{self._name} was written by a newer lbprov (version {base.version}): use that one, "
                    "or another --state FILE"
                )
            values = base.checked_values()
        except OSError as err:
            raise _inaccessible("read", self.path, err) from err
        except msgspec.DecodeError as err:
            raise self._damaged(self._name, str(err)) from err
        if self.cluster and base.cluster != self.cluster:
            raise UserError(
                f"the state in {self._name} belongs to cluster {base.cluster!r}, not {self.cluster!r}. Load "
                "balancers are marked with the cluster's name: leave --cluster-name out, or "
                "use another --state",
                field="--cluster-name",
            )
        self.cluster, self._epoch, self.revision, self.values = (
            base.cluster,
            base.epoch,
            base.revision,
            values,
        )

    def _follow_journal(self) -> None:
        try:
            with self.journal_path.open("rb") as journal:
                head = journal.readline() if self._offset == 0 else b""
                if self._offset == 0 and self._epoch_named(head) != self._epoch:
                    return
                start = self._offset or len(head)
                journal.seek(start)
                tail = journal.read()
        except FileNotFoundError:
            return
        except OSError as err:
            raise _inaccessible("read", self.journal_path, err) from err
        whole = tail[: tail.rfind(b"\n") + 1]
        changes: dict[str, Any] = {}
        revision = self.revision
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                batch, revision = decode_batch(line)
            except msgspec.DecodeError as err:
                raise self._damaged(f"{self._name}.journal (batch {number})", str(err)) from err
            changes |= batch
        _apply(self.values, changes)
        self.revision, self._offset = revision, start + len(whole)

    def _epoch_named(self, head: bytes) -> str:
        try:
            return epoch_of(head)
        except msgspec.DecodeError as err:
            raise self._damaged(f"{self._name}.journal (first line)", str(err)) from err

    # -- writing

    def _write(self, changes: Mapping[str, Any], revision: int) -> None:
        size = self._stamp[1] if self._stamp else 0
        if self._stamp is None or self._offset > max(MIN_JOURNAL_BYTES, size):
            values = dict(self.values)
            _apply(values, changes)
            self._replace_base(values, revision)
        else:
            self._append(changes, revision)

    def _replace_base(self, values: dict[str, Any], revision: int) -> None:
        epoch = secrets.token_hex(8)
        temporary = self.path.with_name(f"{self.path.name}.tmp.{os.getpid()}")
        try:
            with temporary.open("wb") as file:
                file.write(encode_base(self.cluster, epoch, revision, values))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(self.path.parent)
        with contextlib.suppress(FileNotFoundError):
            os.truncate(self.journal_path, 0)  # folded in, or damaged and left when the file was removed
        self._epoch, self._stamp, self._offset = epoch, _stamp(self.path), 0

    def _append(self, changes: Mapping[str, Any], revision: int) -> None:
        line = encode_batch(changes, revision)
        with self.journal_path.open("r+b") as journal:
            if self._offset == 0:
                line = encode_epoch(self._epoch) + line
            journal.truncate(self._offset)  # half a batch of a process that was killed
            journal.seek(self._offset)
            journal.write(line)
            journal.flush()
            os.fsync(journal.fileno())
        self._offset += len(line)

    def _open_locked(self) -> int:
        deadline = time.monotonic() + LOCK_TIMEOUT_S
        while True:
            try:
                fd = os.open(self.journal_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            except OSError as err:
                raise _inaccessible("write", self.path, err) from err
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _same_file(fd, self.journal_path):
                    return fd
            except BlockingIOError:
                pass
            os.close(fd)
            if time.monotonic() > deadline:
                raise RetryLater(
                    f"another process has held {self._name}.journal for {LOCK_TIMEOUT_S:.0f} s", 5.0
                )
            time.sleep(_LOCK_POLL_S)

    # -- errors

    @property
    def _name(self) -> str:
        return printable(str(self.path))

    def _damaged(self, name: str, why: str) -> UserError:
        return UserError(
            f"--state file {name} is damaged ({why}). Put a copy back, or remove {self._name} to start over: "
            "load balancers are found again by name, but automatic clusterIPs and nodePorts may change"
        )


def _inaccessible(verb: str, path: Path, err: OSError) -> UserError:
    """The field is named where the path is wrong, as a flag's value; not where the file or the disk is."""
    return UserError(
        f"cannot {verb} {printable(str(path))}: {err.strerror}. --state FILE puts the state elsewhere",
        field="--state" if err.errno in _NO_SUCH_PLACE else "",
    )


def _apply(values: dict[str, Any], changes: Mapping[str, Any]) -> None:
    for key, value in changes.items():
        if value is None:
            values.pop(key, None)
        else:
            values[key] = value


def _stamp(path: Path) -> Stamp | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    except OSError as err:
        raise _inaccessible("read", path, err) from err
    return (found.st_mtime_ns, found.st_size, found.st_ino)


def _same_file(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
