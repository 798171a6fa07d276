"""Reading YAML with its lines: what kubectl would read, and nothing that hurts."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbprov.cluster.manifests.candidate import candidates
from lbprov.cluster.manifests.marked_yaml import MAX_DEPTH, Document, documents, resolve, shown
from lbprov.cluster.manifests.schema import line_of


def _one(text: str) -> Document:
    (document,) = documents(text)
    return document


def test_every_field_knows_its_line() -> None:
    document = _one("# a comment\na:\n  b:\n  - c: 1\n  - c:\n      d: 2\n")
    assert document.value == {"a": {"b": [{"c": 1}, {"c": {"d": 2}}]}}
    paths: dict[tuple[str | int, ...], int] = {
        ("a",): 2,
        ("a", "b"): 3,
        ("a", "b", 0, "c"): 4,
        ("a", "b", 1): 5,
        ("a", "b", 1, "c", "d"): 6,
        ("a", "b", 1, "not there"): 5,
    }
    assert {p: line_of(document.value, p, 0) for p in paths} == paths


def test_documents_are_told_apart_and_empty_ones_left_out() -> None:
    text = "%YAML 1.1\n---\na: 1\n---\n# nothing\n---\n\n---\nb: |\n  text\n...\n---  \nc: 3\n"
    found = list(documents(text))
    assert [(d.line, d.value) for d in found] == [(3, {"a": 1}), (9, {"b": "text\n"}), (13, {"c": 3})]


def test_a_document_that_is_no_yaml_leaves_its_neighbours_alone() -> None:
    good, bad, also_good = documents("a: 1\n---\nb: [1,\nc: 2\n---\nd: 4\n")
    assert (good.value, also_good.value) == ({"a": 1}, {"d": 4})
    assert bad.unreadable
    assert bad.faults[0].message.startswith("not YAML: ")
    assert 3 <= bad.faults[0].line <= 5


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        pytest.param("a: 1\nb: 2\na: 3\n", 3, 'key "a" is given twice (first on line 1)', id="duplicate-key"),
        pytest.param("x: 1\n1.5: z\n", 2, "key 1.5 is a number, a string is needed", id="fraction-key"),
        pytest.param("x: 1\n~: z\n", 2, "key null is null, a string is needed", id="null-key"),
        pytest.param("80: 1\n'80': 2\n", 2, 'key "80" is given twice', id="integer-key-twice"),
        pytest.param("{[a]: 1}", 1, "key a list is a list", id="list-key"),
        pytest.param("a: !!python/object:os.system x\n", 1, "tag", id="python-tag"),
        pytest.param("a: *b\n", 1, "alias *b refers to nothing", id="no-anchor"),
        pytest.param("a: &a [*a]\n", 1, "alias *a refers to nothing", id="alias-within-itself"),
        pytest.param("a: 1\n<<: 5\n", 1, "'<<' can merge mappings only", id="merge-scalar"),
        pytest.param("[" * 200, 1, f"nested deeper than {MAX_DEPTH} levels", id="deep"),
        pytest.param("a: 1\nb: \x00\n", 2, "character U+0000 is not allowed", id="nul"),
        pytest.param("a: 1\nb: \x1b[31m\n", 2, "character U+001B is not allowed", id="escape"),
        pytest.param("a:\n\t- b\n", 2, "not YAML: found character that cannot start any token", id="tab"),
        pytest.param('a: "\\ud800"\n', 1, "not YAML: ", id="lone-surrogate"),
    ],
)
def test_faults(text: str, line: int, message: str) -> None:
    (fault, *_) = _one(text).faults
    assert message in fault.message
    assert fault.line == line


def test_a_billion_laughs_are_not_laughed() -> None:
    text = "a0: &a0 [x, x]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
    )
    (fault,) = _one(text).faults
    assert "aliases stand for more than" in fault.message


def test_anchors_and_merges() -> None:
    document = _one("base: &b {x: 1, w: 2}\nm: {<<: *b, w: 3}\nl: {<<: [*b, {z: 4}]}\nq: {'<<': 5}\n")
    assert not document.faults
    assert document.value["m"] == {"x": 1, "w": 3}
    assert document.value["l"] == {"x": 1, "w": 2, "z": 4}
    assert document.value["q"] == {"<<": 5}


def test_keys_are_what_kubectl_makes_of_them() -> None:
    assert _one("{80: a, 0x10: b, y: c, No: d, '5': e}").value == {
        "80": "a",
        "16": "b",
        "true": "c",
        "false": "d",
        "5": "e",
    }


def test_json_with_tabs_is_yaml_enough() -> None:
    text = json.dumps({"a": [1, 2.5, None, True, "x/y"], "b": {}}, indent="\t").replace("/", "\\/")
    assert _one(text).value == {"a": [1, 2.5, None, True, "x/y"], "b": {}}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None), ("~", None), ("null", None), ("yes", True), ("Off", False), ("y", True), ("N", False),
        ("0", 0), ("-7", -7), ("+7", 7),
        ("0x1F", 31), ("0o17", 15), ("017", 15), ("0b11", 3), ("1_000", 1000), ("089", 89.0),
        ("1.5", 1.5), ("1e3", 1000.0), (".inf", float("inf")), ("-.inf", float("-inf")),
        ("190:20:30", "190:20:30"),
        ("2001-12-14", "2001-12-14"), ("10.0.0.1", "10.0.0.1"), ("10.96.0.0/12", "10.96.0.0/12"),
        ("0x_", "0x_"),        ("-", "-"), (".", "."), ("1.10", 1.1), ("9" * 60, float("inf")),
    ],
)  # fmt: skip
def test_plain_scalars(text: str, value: Any) -> None:
    got = resolve(text)
    assert got == value
    assert type(got) is type(value)


@given(st.text())
def test_any_plain_scalar_resolves(text: str) -> None:
    assert isinstance(resolve(text), str | int | float | bool | None)


_FRAGMENTS = st.sampled_from(
    ["a", ":", " ", "\n", "- ", "[", "]", "{", "}", "&x ", "*x", "<<", "---\n", "kind: Service\n",
     '"', "'", "!t ",
     "metadata: ", "name: w\n", "spec: ", "apiVersion: v1\n", "? ", "|\n", "  ", "#", "\t", "0x", "1",
     "\x00", "é"]
)  # fmt: skip


@given(st.lists(_FRAGMENTS, max_size=60).map("".join) | st.text(max_size=60))
def test_no_text_is_a_traceback(text: str) -> None:
    for document in documents(text):
        for candidate in candidates(document, "f.yaml"):
            assert candidate.object is not None or candidate.findings or candidate.foreign


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**31), 2**31)
    | st.text(st.characters(codec="utf-8", exclude_categories=["C"])),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text("ab:- ", min_size=1), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(st.dictionaries(st.text("abc"), _JSON, min_size=1))
def test_what_json_says_is_what_is_read(value: dict[str, Any]) -> None:
    assert _one(json.dumps(value)).value == value


@given(st.dictionaries(st.sampled_from(["metadata", "spec", "status", "items", "kind"]), _JSON), st.data())
def test_no_object_is_a_traceback(body: dict[str, Any], data: st.DataObject) -> None:
    kind, version = data.draw(
        st.sampled_from(
            [("Service", "v1"), ("Pod", "v1"), ("Node", "v1"), ("Deployment", "apps/v1"), ("List", "v1"),
             ("EndpointSlice", "discovery.k8s.io/v1"), ("Endpoints", "v1")]
        )
    )  # fmt: skip
    text = json.dumps({**body, "kind": kind, "apiVersion": version})
    for document in documents(text):
        for candidate in candidates(document, "f.json"):
            assert candidate.object is not None or candidate.findings


def test_shown_hides_what_a_terminal_would_obey() -> None:
    assert shown("a\x1b[31m\nb") == '"a\\x1b[31m\\x0ab"'
    assert len(shown("x" * 1000)) < 90
