"""Candidates against what was accepted before: the one place that decides what is in force.

Like an API server's answer to create, update and delete, for a whole folder at once. Pure: the result is a
set of changes to the state, and what to tell.

State keys: `KIND/NAMESPACE/NAME` -> `Entry` (a dict, as JSON); `incarnation/NAMESPACE/NAME` -> how often a
Service of that name has been made, kept for those that are gone.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypedDict

from lbprov.cluster.manifests.allocate import Ranges, allocate
from lbprov.cluster.manifests.candidate import Candidate
from lbprov.cluster.manifests.event_log import events_key
from lbprov.cluster.manifests.folder import Folder, FolderContent, printable
from lbprov.cluster.manifests.schema import Finding, Findings, path_text
from lbprov.cluster.manifests.shapes import KINDS
from lbprov.cluster.manifests.update import next_spec
from lbprov.cluster.seam import Problem
from lbprov.logic.brakes import mass_deletion
from lbprov.model import ObjectKey

UID_NAMESPACE = uuid.UUID("6ff54ba1-2f4a-5d3c-9d3e-0f3d5c0c8f6e")

MAX_MESSAGE = 500
"""Letters of what is told of one field: a value given may be a megabyte."""

Values = Mapping[str, Any]


class Entry(TypedDict):
    """One accepted object. `object` is in the API's form; its status is the manifest's until a provider has
    `recorded` one. `digest`: of the candidate that was accepted. `source`: its file."""

    source: str
    digest: str
    incarnation: int
    recorded: bool
    object: dict[str, Any]


@dataclass(slots=True)
class Admission:
    """`changes`: state keys to set, or to remove (None)."""

    changes: dict[str, Any] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Terms:
    """What an admission depends on beside the folder and the state. `now`: RFC 3339."""

    cluster: str
    ranges: Ranges
    now: str
    force: bool = False


def state_key(kind: str, key: ObjectKey) -> str:
    return f"{kind}/{key.namespace}/{key.name}"


def entries(values: Values, kind: str) -> Iterator[tuple[ObjectKey, Entry]]:
    """The accepted objects of a kind, in the order of their keys."""
    prefix = f"{kind}/"
    for key in sorted(k for k in values if k.startswith(prefix)):
        _, namespace, name = key.split("/")
        yield ObjectKey(namespace, name), values[key]


def uid(cluster: str, kind: str, key: ObjectKey, incarnation: int) -> str:
    """The same object has the same uid even if the state was lost, so what it owns is found again."""
    return str(uuid.uuid5(UID_NAMESPACE, f"{cluster}/{kind}/{key.namespace}/{key.name}#{incarnation}"))


def is_deleting(entry: Entry) -> bool:
    return bool(entry["object"]["metadata"].get("deletionTimestamp"))


def admit(content: FolderContent, values: Values, folder: Folder, terms: Terms) -> Admission:
    admission = Admission(problems=list(content.problems))
    chosen = _choose(content, values, folder, admission)
    _remove_gone(chosen, content, values, folder, terms, admission)
    services: dict[ObjectKey, Candidate] = {}
    for (kind, key), candidate in chosen.items():
        if candidate is None:
            continue
        entry: Entry | None = values.get(state_key(kind, key))
        _tell(candidate, candidate.findings, folder, admission, kept=entry is not None)
        if candidate.object is None or kind == "Namespace":
            continue
        if entry is not None and _unchanged(candidate, entry, admission):
            continue
        if kind == "Service":
            services[key] = candidate
        else:
            admission.changes[state_key(kind, key)] = _entry(candidate, entry, candidate.object, 1, terms)
    _admit_services(services, values, folder, terms, admission)
    return admission


Chosen = dict[tuple[str, ObjectKey], Candidate | None]
"""The document that speaks for each object; None: which one does cannot be told, so nothing changes."""


def _choose(content: FolderContent, values: Values, folder: Folder, admission: Admission) -> Chosen:
    rivals: dict[tuple[str, ObjectKey], list[Candidate]] = {}
    foreign: set[str] = set()
    for candidate in content.candidates:
        if candidate.foreign:
            if candidate.foreign not in foreign:
                foreign.add(candidate.foreign)
                message = f"kind {candidate.foreign} is not used by lbprov: ignored"
                where = folder.where(candidate.file, candidate.line)
                admission.problems.append(Problem(where, "", "", message, fatal=False))
        elif not candidate.kind:
            _tell(candidate, candidate.findings, folder, admission)
        else:
            rivals.setdefault((candidate.kind, candidate.key), []).append(candidate)
    chosen: Chosen = {}
    for (kind, key), those in rivals.items():
        entry: Entry | None = values.get(state_key(kind, key))
        used = chosen[kind, key] = _spokesman(those, entry, content)
        for other in those:
            if other is not used:
                message = _given_twice(other, used, those, entry, folder)
                _tell(other, (Finding(("metadata", "name"), message),), folder, admission, kept=used is None)
    return chosen


def _spokesman(those: list[Candidate], entry: Entry | None, content: FolderContent) -> Candidate | None:
    """Which of the documents of one object is used: that which is in force, wherever the others sort; the
    first only where none is. A newcomer that took over could cost a live load balancer."""
    if entry is None or is_deleting(entry):
        return those[0]
    same = next((c for c in those if c.digest == entry["digest"]), None)
    own = [c for c in those if c.file == entry["source"]]
    if own:
        return own[0] if len(own) == 1 else next((c for c in own if c.digest == entry["digest"]), None)
    return None if content.may_hold(entry["source"]) else same or those[0]


def _given_twice(
    other: Candidate, used: Candidate | None, those: list[Candidate], entry: Entry | None, folder: Folder
) -> str:
    if used is not None:
        return f"is given twice: {folder.where(used.file, used.line)} is the one used; remove one of them"
    assert entry is not None
    if all(c.file != entry["source"] for c in those):
        source = folder.where(entry["source"])
        return f"is in force from {source}, which cannot be read now: mend that, or remove it"
    places = ", ".join(folder.where(c.file, c.line) for c in those if c is not other)
    return f"is given twice (also in {places}), and which of them is in force cannot be told: leave only one"


def _tell(
    candidate: Candidate,
    findings: tuple[Finding, ...] | list[Finding],
    folder: Folder,
    admission: Admission,
    *,
    kept: bool = False,
) -> None:
    for finding in findings:
        where = folder.where(candidate.file, candidate.line_of(finding))
        message = printable(finding.message[:MAX_MESSAGE])
        if kept and finding.fatal:
            message += " (it stays in force as last accepted)"
        admission.problems.append(
            Problem(where, candidate.label, path_text(finding.path), message, finding.fatal)
        )


def _remove_gone(
    chosen: Chosen,
    content: FolderContent,
    values: Values,
    folder: Folder,
    terms: Terms,
    admission: Admission,
) -> None:
    gone = [
        (kind, key, entry)
        for kind in KINDS
        for key, entry in entries(values, kind)
        if (kind, key) not in chosen and not content.may_hold(entry["source"]) and not is_deleting(entry)
    ]
    refusals = () if terms.force else _refusals([kind for kind, _, _ in gone], content, values)
    if refusals:
        # What else a folder half copied lacks is no more gone than its Services or its Nodes.
        admission.problems += [Problem(folder.where(""), "", "", refusal) for refusal in refusals]
        return
    for kind, key, entry in gone:
        admission.changes |= removal(kind, key, entry, terms.now)


def _refusals(gone: list[str], content: FolderContent, values: Values) -> tuple[str, ...]:
    """Why the objects of the kinds `gone` are not deleted. Without its Nodes, every load balancer would lose
    all of its targets; where there is no Service, there is nothing to lose."""
    services = sum(not is_deleting(entry) for _, entry in entries(values, "Service"))
    if not services:
        return ()
    nodes = sum(1 for _ in entries(values, "Node"))
    said = {c.kind for c in content.candidates if c.object is not None}
    found = (
        mass_deletion(gone.count("Service"), services, sound=bool(said)),
        mass_deletion(gone.count("Node"), nodes, sound="Node" in said, what="Nodes"),
    )
    return tuple(refusal for refusal in found if refusal)


def removal(kind: str, key: ObjectKey, entry: Entry, now: str) -> dict[str, Any]:
    """The changes that delete an object: begun while somebody's finalizer is on it, done otherwise."""
    metadata = entry["object"]["metadata"]
    name = state_key(kind, key)
    if metadata.get("finalizers"):
        obj = {**entry["object"], "metadata": {**metadata, "deletionTimestamp": now}}
        return {name: {**entry, "object": obj}}
    if kind != "Service":
        return {name: None}
    return {
        name: None,
        f"incarnation/{key.namespace}/{key.name}": entry["incarnation"],
        events_key(key): None,
    }


def _unchanged(candidate: Candidate, entry: Entry, admission: Admission) -> bool:
    if candidate.digest != entry["digest"] or is_deleting(entry):
        return False
    if candidate.file != entry["source"]:
        moved: Entry = {**entry, "source": candidate.file}
        admission.changes[state_key(candidate.kind, candidate.key)] = moved
    return True


def _entry(
    candidate: Candidate, old: Entry | None, obj: dict[str, Any], incarnation: int, terms: Terms
) -> Entry:
    """An object's next entry: the author's fields of `obj`, the cluster's own from `old` or made now."""
    held = old["object"]["metadata"] if old else {}
    kind, key = candidate.kind, candidate.key
    changed = old is not None and old["object"].get("spec") != obj.get("spec")
    metadata = {
        **obj["metadata"],
        "uid": held.get("uid") or uid(terms.cluster, kind, key, incarnation),
        "creationTimestamp": held.get("creationTimestamp", terms.now),
        "generation": held.get("generation", 1) + changed,
    }
    if held.get("finalizers"):
        metadata["finalizers"] = held["finalizers"]
    made = {**obj, "metadata": metadata}
    recorded = bool(old and old["recorded"])
    if old and recorded:
        made["status"] = old["object"]["status"]
    return Entry(
        source=candidate.file,
        digest=candidate.digest,
        incarnation=incarnation,
        recorded=recorded,
        object=made,
    )


def _admit_services(
    services: Mapping[ObjectKey, Candidate],
    values: Values,
    folder: Folder,
    terms: Terms,
    admission: Admission,
) -> None:
    """`services`: candidates that are new or changed."""
    wanted: dict[ObjectKey, dict[str, Any]] = {}
    olds: dict[ObjectKey, Entry | None] = {}
    for key, candidate in services.items():
        assert candidate.object is not None
        old = olds[key] = values.get(state_key("Service", key))
        if old is not None and is_deleting(old):
            message = (
                "an older Service of this name is still being deleted; this one is made when it has gone"
            )
            _tell(candidate, (Finding((), message, fatal=False),), folder, admission)
            continue
        findings = Findings()
        old_spec = old["object"]["spec"] if old else None
        spec = next_spec(candidate.object["spec"], old_spec, terms.ranges.families, findings)
        _tell(candidate, findings, folder, admission, kept=old is not None)
        if not findings.fatal:
            wanted[key] = spec
    if not wanted:
        return
    in_force = {
        key: entry["object"]["spec"]
        for key, entry in entries(values, "Service")
        if admission.changes.get(state_key("Service", key), entry) is not None
    }
    result = allocate(in_force, wanted, terms.ranges)
    for key, wrong in result.refused.items():
        _tell(services[key], wrong, folder, admission, kept=olds[key] is not None)
    for key, spec in result.specs.items():
        candidate, old = services[key], olds[key]
        assert candidate.object is not None
        counter = f"incarnation/{key.namespace}/{key.name}"
        incarnation = old["incarnation"] if old else values.get(counter, 0) + 1
        obj = {**candidate.object, "spec": spec}
        admission.changes[state_key("Service", key)] = _entry(candidate, old, obj, incarnation, terms)
        if counter in values:
            admission.changes[counter] = None
