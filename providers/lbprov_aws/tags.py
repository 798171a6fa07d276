"""Tags that should change on a resource of ours: our marks and the user's extra tags, nobody else's."""

from __future__ import annotations

from collections.abc import Mapping

from lbprov.api import Action, Change, Owner, Step
from lbprov_aws import names, writes
from lbprov_aws.resources import Record, as_tags

_WHY = "they differ from what the Service asks for"


def tag_steps(owner: Owner, record: Record, wanted: Mapping[str, str]) -> list[Step]:
    """No step if all is well. A tag is taken back only if it is a mark of ours or was put there by us."""
    had = dict(record.tags)
    set_ = {key: value for key, value in wanted.items() if had.get(key) != value}
    mark = had.get(names.EXTRA, "")
    gone = [key for key in had if key not in wanted and (_is_mark(key) or names.marked_extra(mark, key))]
    steps: list[Step] = []
    if set_:
        changes = tuple(Change(key, had.get(key, ""), value) for key, value in sorted(set_.items()))
        body = writes.SetTags(owner, record.key, as_tags(set_))
        steps.append(Step(Action.UPDATE, "tags", record.key, _WHY, record.name, changes, body))
    if gone:
        changes = tuple(Change(key, had[key], "") for key in sorted(gone))
        removal = writes.RemoveTags(owner, record.key, tuple(sorted(gone)))
        steps.append(Step(Action.DELETE, "tags", record.key + ":gone", _WHY, record.name, changes, removal))
    return steps


def _is_mark(key: str) -> bool:
    return key.startswith("lbprov/") and key != names.SEAL
