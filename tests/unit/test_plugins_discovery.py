"""Finding, choosing and refusing provider plugins."""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib.metadata import Distribution, EntryPoint
from pathlib import Path
from typing import Any

import pytest

from lbprov import plugins
from lbprov.api import ENTRY_POINT_GROUP, ProviderContext, ProviderOption, ProviderSpec, UserError

CONTEXT = ProviderContext("test", {}, lambda: 0.0)


def _zone(text: str) -> str:
    if text not in ("a", "b"):
        raise ValueError("a or b is allowed")
    return text


SPEC = ProviderSpec(
    "tiny",
    "example.com/tiny",
    "a test's",
    build=lambda context: (_ for _ in ()).throw(AssertionError("not built")),
    options=(ProviderOption("zone", "where", "a", _zone), ProviderOption("size", "how big", "1", int)),
    extra="tiny[sdk]",
)


class _Distribution(Distribution):
    def __init__(self, name: str) -> None:
        self._name = name

    def read_text(self, filename: str) -> str | None:
        return f"Name: {self._name}\nVersion: 1.0\n" if filename == "METADATA" else None

    def locate_file(self, path: Any) -> Any:
        return Path(path)


@pytest.fixture
def entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`entry(name, spec, distribution)`: an entry point whose module holds that spec."""
    monkeypatch.syspath_prepend(tmp_path)
    made: list[str] = []

    def make(name: str, spec: object = SPEC, distribution: str = "tiny-dist", source: str = "") -> EntryPoint:
        module = f"plugin_of_a_test_{len(made)}"
        made.append(module)
        if source:
            (tmp_path / f"{module}.py").write_text(source)
        else:
            fake = type(sys)(module)
            fake.SPEC = spec  # type: ignore[attr-defined]
            monkeypatch.setitem(sys.modules, module, fake)
        point = EntryPoint(name, f"{module}:SPEC", ENTRY_POINT_GROUP)
        return point._for(_Distribution(distribution))  # type: ignore[attr-defined, no-any-return]

    return make


def test_ours_is_found_without_importing_it() -> None:
    (aws,) = [p for p in plugins.discover() if p.name == "aws"]
    assert aws.origin.startswith("lbprov ")
    assert aws.entry_point.value == "lbprov_aws:SPEC"
    assert plugins.load("aws").extra == "lbprov[aws]"


def test_the_one_that_is_asked_for_is_loaded(entry: Any) -> None:
    found = plugins.discover([entry("other", source="raise SystemExit('imported')"), entry("tiny")])
    assert [p.name for p in found] == ["other", "tiny"]
    assert plugins.load("tiny", found) is SPEC


def test_one_distribution_seen_twice_is_one(entry: Any) -> None:
    point = entry("tiny")
    assert len(plugins.discover([point, point])) == 1


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        pytest.param(replace(SPEC, api_version=2), "upgrade lbprov", id="newer-contract"),
        pytest.param(replace(SPEC, api_version=0), "upgrade tiny-dist 1.0", id="older-contract"),
        pytest.param(replace(SPEC, name="large"), "calls itself 'large'", id="another-name"),
        pytest.param("a text", "is str, not a ProviderSpec", id="no-spec"),
    ],
)
def test_what_does_not_fit_is_refused(entry: Any, spec: object, said: str) -> None:
    with pytest.raises(UserError, match=said):
        plugins.load("tiny", plugins.discover([entry("tiny", spec)]))


def test_a_name_that_fits_no_condition_is_refused(entry: Any) -> None:
    with pytest.raises(UserError, match="one word"):
        plugins.load("ti-ny", plugins.discover([entry("ti-ny", replace(SPEC, name="ti-ny"))]))


def test_two_distributions_with_one_name_are_refused_naming_both(entry: Any) -> None:
    found = plugins.discover([entry("tiny"), entry("tiny", distribution="twin"), entry("fine")])
    with pytest.raises(UserError, match=r"tiny-dist 1\.0 .* and twin 1\.0 .* both"):
        plugins.load("tiny", found)
    with pytest.raises(UserError, match="calls itself"):
        plugins.load("fine", found)


def test_an_unknown_name_lists_what_there_is(entry: Any) -> None:
    with pytest.raises(UserError, match=r"no provider 'large'; installed: other, tiny"):
        plugins.load("large", plugins.discover([entry("tiny"), entry("other")]))


@pytest.mark.parametrize(
    ("source", "said"),
    [
        pytest.param("import no_such_sdk", "needs the module no_such_sdk", id="module-missing"),
        pytest.param("1 / 0", "ZeroDivisionError", id="breaks"),
        pytest.param("X = 1", "SPEC", id="no-such-attribute"),
    ],
)
def test_a_plugin_that_cannot_be_imported_is_a_clear_refusal(entry: Any, source: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        plugins.load("tiny", plugins.discover([entry("tiny", source=source)]))


def test_a_missing_sdk_names_what_to_install() -> None:
    def build(context: ProviderContext) -> Any:
        import no_such_sdk  # type: ignore[import-not-found]  # noqa: F401

    with pytest.raises(UserError, match=r"no_such_sdk.*pip install 'tiny\[sdk\]'"):
        plugins.build(replace(SPEC, build=build), CONTEXT)


def test_options_are_parsed_defaults_included() -> None:
    assert plugins.parse_options(SPEC, []) == {"zone": "a", "size": 1}
    assert plugins.parse_options(SPEC, ["size=2", "zone=b", "size=3"]) == {"zone": "b", "size": 3}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        pytest.param("zone", "no NAME=VALUE", id="no-value"),
        pytest.param("colour=red", "no option 'colour'; it has: zone, size", id="unknown"),
        pytest.param("zone=c", "zone=c: a or b is allowed", id="not-allowed"),
        pytest.param("size=big", "size=big: invalid literal", id="not-a-number"),
    ],
)
def test_bad_options_say_what_is_allowed(given: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as refusal:
        plugins.parse_options(SPEC, [given])
    assert refusal.value.field == "--provider-option"
