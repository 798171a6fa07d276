"""One document to one candidate: the object that it describes, in normal form, or why it is none.

Pure, and looks at nothing but the document: so what it finds can be kept as long as the file is unchanged.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from lbprov.cluster.manifests import defaults, names, validate_other, validate_service
from lbprov.cluster.manifests.marked_yaml import Document, YamlList, YamlMap, kind_of, shown
from lbprov.cluster.manifests.schema import Finding, Findings, conform, line_of
from lbprov.cluster.manifests.shapes import KINDS, WORKLOADS, Kind
from lbprov.model import ObjectKey

MAX_LISTS = 8
NO_KEY = ObjectKey("", "")
TEMPLATE_DIGEST = "lbprov.io/template-digest"
"""Beside a workload's spec: of the whole of its Pods' template, also of what is not read. Another command
makes new Pods."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """What a document asks for.

    - `kind` empty: it could not be told which object is meant. `object` None: refused (see `findings`).
    - `foreign`: of a kind that lbprov does not read; neither refused nor used.
    - `digest` tells two versions of one object apart.
    """

    file: str
    line: int
    kind: str = ""
    key: ObjectKey = NO_KEY
    object: dict[str, Any] | None = None
    digest: str = ""
    findings: tuple[Finding, ...] = ()
    document: Any = None
    foreign: str = ""

    @property
    def label(self) -> str:
        """`Service default/web`, as Problems name it."""
        return label(self.kind, self.key)

    def line_of(self, finding: Finding) -> int:
        return finding.line or line_of(self.document, finding.path, self.line)


def label(kind: str, key: ObjectKey) -> str:
    if not kind:
        return ""
    return f"{kind} {key}" if key.namespace else f"{kind} {key.name}"


def candidates(document: Document, file: str) -> Iterator[Candidate]:
    """A document's candidates: one, or as many as a List has items."""
    faults = tuple((f.line, f.message) for f in document.faults)
    yield from _of_value(document.value, document.line, file, faults, 0)


def _of_value(
    value: Any, line: int, file: str, faults: tuple[tuple[int, str], ...], depth: int
) -> Iterator[Candidate]:
    """Faults of the text refuse every object of the document: which of them was hit is not known."""
    refused = Candidate(file, line)
    if value is None and faults:
        yield replace(refused, findings=_told(faults))
        return
    if not isinstance(value, YamlMap):
        yield replace(refused, findings=(Finding((), f"a manifest is a mapping; this is {kind_of(value)}"),))
        return
    kind, version = value.get("kind"), value.get("apiVersion")
    if not isinstance(kind, str) or not isinstance(version, str) or not kind or not version:
        missing = "kind" if not isinstance(kind, str) or not kind else "apiVersion"
        message = (
            f"required (a string): not a Kubernetes manifest without it, got {shown(value.get(missing))}"
        )
        yield replace(refused, document=value, findings=(Finding((missing,), message),))
        return
    if _is_list(kind, version):
        yield from _of_list(value, line, file, faults, depth)
        return
    yield _of_object(value, kind, version, Candidate(file, line, document=value), faults)


def _is_list(kind: str, version: str) -> bool:
    if kind == "List":
        return version == "v1"
    return kind.endswith("List") and kind[:-4] in KINDS and version == KINDS[kind[:-4]].api_version


def _of_list(
    value: YamlMap, line: int, file: str, faults: tuple[tuple[int, str], ...], depth: int
) -> Iterator[Candidate]:
    items = value.get("items")
    if depth >= MAX_LISTS or not isinstance(items, YamlList | None):
        message = f"nested deeper than {MAX_LISTS} Lists" if depth >= MAX_LISTS else "a list is needed"
        yield Candidate(file, line, findings=(Finding(("items",), message),), document=value)
        return
    for i, item in enumerate(items or ()):
        assert items is not None
        if isinstance(item, YamlMap) and value["kind"] != "List":
            # Items of a ServiceList may leave out what the list says already.
            kind = value["kind"][:-4]
            item.setdefault("kind", kind)
            item.setdefault("apiVersion", KINDS[kind].api_version)
        yield from _of_value(item, items.lines[i], file, faults, depth + 1)


def _of_object(
    value: YamlMap, kind_name: str, version: str, blank: Candidate, faults: tuple[tuple[int, str], ...]
) -> Candidate:
    kind = KINDS.get(kind_name)
    if kind is None or version.rpartition("/")[0] != kind.group:
        return replace(blank, foreign=f"{shown(kind_name)[1:-1]} ({shown(version)[1:-1]})")
    findings = Findings()
    if version != kind.api_version:
        findings.refuse(
            ("apiVersion",), f"{shown(version)} is not known for {kind.name}; {kind.api_version} is"
        )
    key = _key(value.get("metadata"), kind, findings)
    blank = replace(blank, kind=kind.name if key.name else "", key=key)
    obj = conform(value, kind.shape, (), findings)
    if not findings.fatal and not faults:
        obj = _normal(obj, kind, key, findings)
        if kind.name in WORKLOADS:
            obj[TEMPLATE_DIGEST] = _digest(value["spec"]["template"])
    told = (*findings, *_told(faults))
    if any(f.fatal for f in told):
        return replace(blank, findings=told)
    return replace(blank, object=obj, digest=_digest(obj), findings=told)


def _digest(value: Any) -> str:
    """Not by msgspec: what is not read may be an integer of any size."""
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=12).hexdigest()


def _told(faults: tuple[tuple[int, str], ...]) -> tuple[Finding, ...]:
    return tuple(Finding((), message, line=line) for line, message in faults)


def _key(metadata: Any, kind: Kind, findings: Findings) -> ObjectKey:
    """Which object is meant; with an empty name where that cannot be told."""
    if not isinstance(metadata, dict):
        return NO_KEY
    name, namespace = metadata.get("name"), metadata.get("namespace") or "default"
    if not isinstance(name, str) or not isinstance(namespace, str):
        return NO_KEY  # `conform` says what is wrong
    is_label = kind.name in ("Service", "Namespace", "StatefulSet")
    wrong = names.dns_1123_label(name) if is_label else names.dns_1123_subdomain(name)
    findings.refuse_if(("metadata", "name"), wrong)
    if kind.namespaced:
        wrong_namespace = names.dns_1123_label(namespace)
        findings.refuse_if(("metadata", "namespace"), wrong_namespace)
        wrong = wrong or wrong_namespace
    if wrong:
        return NO_KEY
    return ObjectKey(namespace if kind.namespaced else "", name)


_VALIDATORS = {
    "Node": validate_other.validate_node,
    "Pod": validate_other.validate_pod,
    "EndpointSlice": validate_other.validate_endpoint_slice,
    "Endpoints": validate_other.validate_endpoints,
    **dict.fromkeys(WORKLOADS, validate_other.validate_workload),
}


def _normal(obj: dict[str, Any], kind: Kind, key: ObjectKey, findings: Findings) -> dict[str, Any]:
    """Defaulted and validated, with the metadata that authors own."""
    given = obj["metadata"]
    metadata: dict[str, Any] = {"name": key.name}
    if kind.namespaced:
        metadata["namespace"] = key.namespace
    for field in ("labels", "annotations"):
        if given.get(field):
            metadata[field] = dict(sorted(given[field].items()))
    if given.get("deletionTimestamp") and kind.name == "Pod":
        metadata["deletionTimestamp"] = given["deletionTimestamp"]
    validate_service.names_and_values(metadata.get("labels", {}), ("metadata", "labels"), findings)
    for annotation in metadata.get("annotations", {}):
        findings.refuse_if(("metadata", "annotations", annotation), names.qualified_name(annotation.lower()))
    rest = {k: v for k, v in obj.items() if k not in ("apiVersion", "kind", "metadata")}
    out = {"apiVersion": kind.api_version, "kind": kind.name, "metadata": metadata, **rest}
    if kind.name == "Service":
        out["spec"] = spec = defaults.service_spec(rest["spec"])
        validate_service.validate_service_spec(spec, findings)
        validate_service.known_annotations(metadata.get("annotations", {}), spec, findings)
        validate_service.validate_service_status(rest.get("status", {}), findings)
        canonical_addresses(spec)
    elif kind.name in _VALIDATORS:
        _VALIDATORS[kind.name](out, findings)
    return out


def canonical_addresses(spec: dict[str, Any]) -> None:
    """One spelling for each address, so that equal ones compare equal. Leaves what is no address alone."""
    for field in ("clusterIPs", "externalIPs"):
        if field in spec:
            spec[field] = [text if names.ip(text) else names.canonical_ip(text) for text in spec[field]]
    if spec.get("clusterIP") and not names.ip(spec["clusterIP"]):
        spec["clusterIP"] = names.canonical_ip(spec["clusterIP"])
