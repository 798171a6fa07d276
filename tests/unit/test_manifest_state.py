"""The state file: durable, whole, shared, and never silently begun anew."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbprov.cluster.manifests import ManifestCluster
from lbprov.cluster.manifests import state as state_module
from lbprov.cluster.manifests.state import StateFile
from lbprov.model import ObjectKey, RetryLater, UserError


def _open(path: Path, **options: Any) -> StateFile:
    state = StateFile(path, **options)
    state.cluster = state.cluster or "here"
    state.refresh()
    return state


def _set(state: StateFile, **changes: Any) -> None:
    with state.transaction():
        state.commit(changes)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.json"


def test_what_was_set_is_there_for_the_next(path: Path) -> None:
    state = _open(path)
    _set(state, a={"x": 1}, b=2)
    _set(state, b=None, c=[3])
    again = _open(path)
    assert again.values == state.values == {"a": {"x": 1}, "c": [3]}
    assert (again.cluster, again.revision) == ("here", 2)
    assert json.loads(path.read_bytes())["version"] == 1


def test_two_views_follow_each_other(path: Path) -> None:
    one, two = _open(path), _open(path)
    _set(one, a=1)
    _set(two, b=2)
    _set(one, c=3)
    one.refresh()
    two.refresh()
    assert one.values == two.values == {"a": 1, "b": 2, "c": 3}


def test_nothing_is_written_where_nothing_changes(path: Path) -> None:
    state = _open(path)
    _set(state, a=1)
    _set(state, b=2)
    files = [(p.read_bytes(), p.stat().st_mtime_ns) for p in (state.path, state.journal_path)]
    _set(state, a=1, b=2, c=None)
    assert [(p.read_bytes(), p.stat().st_mtime_ns) for p in (state.path, state.journal_path)] == files


def test_events_are_no_new_revision(path: Path) -> None:
    state = _open(path)
    _set(state, a=1)
    _set(state, **{"events/default/web": [1]})
    assert (state.revision, _open(path).revision) == (1, 1)


def test_the_journal_is_folded_in(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_module, "MIN_JOURNAL_BYTES", 500)
    one, two = _open(path), _open(path)
    for number in range(60):
        _set(one if number % 2 else two, **{f"k{number % 7}": number})
        assert one.journal_path.stat().st_size < 1500
    assert _open(path).values == {f"k{n % 7}": n for n in range(60)}


@settings(max_examples=60)
@given(
    st.lists(
        st.dictionaries(st.sampled_from("abcd"), st.integers() | st.none(), min_size=1),
        min_size=1,
        max_size=8,
    ),
    st.data(),
)
def test_a_torn_write_loses_itself_only(
    tmp_path_factory: pytest.TempPathFactory, batches: list[dict[str, int | None]], data: st.DataObject
) -> None:
    """Cut the journal anywhere: what is left is the state after some whole number of batches."""
    path = tmp_path_factory.mktemp("state") / "s"
    state = _open(path)
    _set(state, first=0)
    after = [dict(state.values)]
    for batch in batches:
        _set(state, **batch)
        after.append(dict(state.values))
    size = state.journal_path.stat().st_size
    cut = data.draw(st.integers(0, size))
    os.truncate(state.journal_path, cut)
    survivor = _open(path)
    assert survivor.values in after
    if cut == size:
        assert survivor.values == after[-1]
    _set(survivor, last=1)
    assert _open(path).values == {**survivor.values, "last": 1}


def test_a_crash_while_folding_leaves_the_old_or_the_new(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = _open(path)
    _set(state, a=1)
    _set(state, b=2)
    journal = state.journal_path.read_bytes()
    monkeypatch.setattr(state_module, "MIN_JOURNAL_BYTES", 0)
    monkeypatch.setattr(
        Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    state._offset = 10**9  # as if the journal had outgrown the file
    with pytest.raises(UserError, match=r"cannot write .*state.json: No space left on device"):
        _set(state, c=3)
    monkeypatch.undo()
    assert _open(path).values == {"a": 1, "b": 2}
    assert not list(path.parent.glob("*.tmp*"))
    # And the other side: the file is new, the journal still the old one.
    state = _open(path)
    state._replace_base({"a": 9}, 7)
    state.journal_path.write_bytes(journal)
    assert _open(path).values == {"a": 9}


@pytest.mark.parametrize("name", ["state.json", "state.json.journal"])
@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda raw: raw[: len(raw) // 2] + b"\n", id="half"),
        pytest.param(lambda raw: raw.replace(b"eleven", b"twelve"), id="edited"),
        pytest.param(lambda raw: b"\xff\xfe" + raw[2:-1] + b"\n", id="not-text"),
    ],
)
def test_damage_is_told_with_the_remedy(path: Path, name: str, damage: Any) -> None:
    state = _open(path)
    _set(state, a="eleven")
    _set(state, b="eleven")
    victim = path.with_name(name)
    head, _, tail = (
        victim.read_bytes().partition(b"\n") if name.endswith("journal") else (b"", b"", victim.read_bytes())
    )
    victim.write_bytes((head + b"\n" if head else b"") + damage(tail))
    with pytest.raises(UserError, match=r"state\.json.* is damaged .*remove .*state\.json to start over"):
        _open(path)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda raw: b"garbage\n", id="something-else"),
        pytest.param(lambda raw: b"\n" + raw, id="an-empty-line-before"),
        pytest.param(lambda raw: b"garbage\n" + raw, id="a-line-before"),
        pytest.param(lambda raw: raw.partition(b"\n")[2], id="without-its-first"),
        pytest.param(lambda raw: raw.replace(b'"epoch"', b'"epohc"'), id="a-flipped-byte"),
        pytest.param(lambda raw: raw[:10] + bytes([raw[10] ^ 1]) + raw[11:], id="another-epoch"),
        pytest.param(lambda raw: b"\0" * len(raw) + b"\n", id="zeros"),
    ],
)
@pytest.mark.parametrize("read_only", [False, True])
def test_a_journal_s_first_line_is_not_passed_over(path: Path, damage: Any, read_only: bool) -> None:
    state = _open(path)
    _set(state, a=1)
    _set(state, b=2)
    state.journal_path.write_bytes(damage(state.journal_path.read_bytes()))
    damaged = state.journal_path.read_bytes()
    with pytest.raises(
        UserError,
        match=r"state\.json\.journal \(first line\) is damaged .*remove .*state\.json to start over",
    ):
        _open(path, read_only=read_only)
    assert state.journal_path.read_bytes() == damaged
    path.unlink()  # the remedy
    again = _open(path)
    _set(again, c=3)
    _set(again, d=4)
    assert _open(path).values == {"c": 3, "d": 4}


def test_an_empty_journal_is_none(path: Path) -> None:
    state = _open(path)
    _set(state, a=1)
    state.journal_path.write_bytes(b"")
    again = _open(path)
    _set(again, b=2)
    assert _open(path).values == {"a": 1, "b": 2}


def test_an_empty_file_is_damage_not_a_fresh_start(path: Path) -> None:
    path.write_bytes(b"")
    with pytest.raises(UserError, match="is damaged"):
        _open(path)


def test_a_newer_version_is_refused(path: Path) -> None:
    _set(_open(path), a=1)
    path.write_bytes(path.read_bytes().replace(b'"version":1', b'"version":2'))
    with pytest.raises(UserError, match="newer lbprov"):
        _open(path)


def test_read_only_writes_nothing_and_sees_its_own(path: Path) -> None:
    state = _open(path, read_only=True)
    _set(state, a=1)
    state.refresh()
    assert state.values == {"a": 1}
    assert not list(path.parent.iterdir())
    _set(_open(path), b=2)
    state.refresh()
    assert state.values == {"b": 2}


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot write .*--state FILE"):
        _set(_open(tmp_path / "missing" / "state.json"), a=1)


@pytest.mark.parametrize(
    ("code", "field"),
    [
        pytest.param(errno.EACCES, "", id="permissions"),
        pytest.param(errno.EROFS, "", id="read-only"),
        pytest.param(errno.EIO, "", id="broken-disk"),
        pytest.param(errno.ENOENT, "--state", id="no-such-folder"),
        pytest.param(errno.ENOTDIR, "--state", id="below-a-file"),
    ],
)
def test_a_wrong_path_names_the_flag_a_file_that_fails_does_not(
    path: Path, monkeypatch: pytest.MonkeyPatch, code: int, field: str
) -> None:
    state = _open(path)
    _set(state, a=1)

    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", fail)
        with pytest.raises(UserError, match=r"cannot write .*state\.json.*--state FILE") as written:
            _set(state, a=2)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", fail)
        with pytest.raises(UserError, match=r"cannot read .*state\.json.*--state FILE") as read:
            _open(path)
    assert (written.value.field, read.value.field) == (field, field)


def test_a_lock_that_is_held_is_waited_for_not_for_ever(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_module, "LOCK_TIMEOUT_S", 0.1)
    one, two = _open(path), _open(path)
    with one.transaction(), pytest.raises(RetryLater, match="another process has held"):
        _set(two, a=1)


def test_a_removed_lock_file_does_not_split_the_lock(path: Path) -> None:
    one = _open(path)
    _set(one, a=1)
    one.journal_path.unlink()
    _set(one, b=2)
    assert _open(path).values == {"a": 1, "b": 2}


SERVICES = "---\n".join(
    f"apiVersion: v1\nkind: Service\nmetadata: {{name: s{n}}}\n"
    "spec: {type: NodePort, ports: [{port: 80}]}\n"
    for n in range(40)
)


def _worker(folder: Path, number: int, answers: Any) -> None:
    cluster = ManifestCluster.open(folder)
    seen = [cluster.snapshot() for _ in range(3)][-1]
    for service in seen.services:
        cluster.add_finalizer(service.key, f"lbprov.io/worker-{number}")
    (folder / f"extra-{number}.yaml").write_text(
        f"apiVersion: v1\nkind: Service\nmetadata: {{name: x{number}}}\n"
        "spec: {type: NodePort, ports: [{port: 1}]}\n"
    )
    cluster.snapshot()
    answers.put(
        [(s.uid, s.cluster_ips, s.ports[0].node_port) for s in seen.services if s.key.name.startswith("s")]
    )


def test_four_processes_share_one_folder(tmp_path: Path) -> None:
    (tmp_path / "services.yaml").write_text(SERVICES)
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    workers = [context.Process(target=_worker, args=(tmp_path, n, answers)) for n in range(4)]
    for worker in workers:
        worker.start()
    seen = [answers.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert all(answer == seen[0] for answer in seen)
    services = ManifestCluster.open(tmp_path).snapshot().services
    assert len(services) == 44
    assert len({s.ports[0].node_port for s in services}) == len({s.cluster_ips for s in services}) == 44
    finalizers = {f"lbprov.io/worker-{n}" for n in range(4)}
    assert all(set(s.finalizers) == finalizers for s in services if s.key.name.startswith("s"))


def _writer(folder: Path) -> None:
    cluster = ManifestCluster.open(folder)
    key = ObjectKey("default", "s1")
    while True:
        cluster.add_finalizer(key, "a")
        cluster.remove_finalizer(key, "a")


def test_a_killed_process_leaves_a_state_that_reads(tmp_path: Path) -> None:
    (tmp_path / "services.yaml").write_text(SERVICES)
    before = ManifestCluster.open(tmp_path).snapshot().services
    context = multiprocessing.get_context("spawn")
    for _ in range(3):
        writer = context.Process(target=_writer, args=(tmp_path,))
        writer.start()
        size = 0
        journal = tmp_path / ".lbprov-state.json.journal"
        while journal.stat().st_size < size + 2000:
            assert writer.is_alive()
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGKILL)
        writer.join(60)
        after = ManifestCluster.open(tmp_path).snapshot().services
        assert [(s.uid, s.cluster_ips, s.ports) for s in after] == [
            (s.uid, s.cluster_ips, s.ports) for s in before
        ]


def test_a_state_of_another_folder_can_be_moved_along(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "services.yaml").write_text(SERVICES)
    first = ManifestCluster.open(tmp_path / "a")
    before = first.snapshot()
    shutil.move(tmp_path / "a", tmp_path / "b")
    second = ManifestCluster.open(tmp_path / "b")
    assert second.name == first.name
    assert second.snapshot().services == before.services
