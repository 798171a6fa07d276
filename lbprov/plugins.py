"""Provider plugins: finds them by entry point, and imports only the one that is asked for.

A plugin is an entry point of the group `lbprov.providers`, of whatever distribution:
docs/writing-a-provider.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from lbprov.api import API_VERSION, ENTRY_POINT_GROUP, Provider, ProviderContext, ProviderSpec, UserError

NAME = re.compile(r"[a-z][a-z0-9]*")
"""It is the reason of a condition, which has no room for more."""


@dataclass(frozen=True, slots=True)
class Plugin:
    """An entry point, not imported. `origin`: the distribution and its version."""

    name: str
    origin: str
    entry_point: EntryPoint


def discover(found: Iterable[EntryPoint] | None = None) -> tuple[Plugin, ...]:
    """All there are, sorted; those that two distributions give one name to included."""
    found = entry_points(group=ENTRY_POINT_GROUP) if found is None else found
    plugins = {(p.name, p.origin, p.entry_point.value): p for p in map(_plugin, found)}
    return tuple(plugins[key] for key in sorted(plugins))


def load(name: str, plugins: Sequence[Plugin] | None = None) -> ProviderSpec:
    """Import one plugin's spec. Raises `UserError` that says what to do about it."""
    plugins = discover() if plugins is None else plugins
    named = [p for p in plugins if p.name == name]
    if not named:
        there = ", ".join(sorted({p.name for p in plugins})) or "none"
        raise _refusal(f"there is no provider {name!r}; installed: {there}")
    if len(named) > 1:
        origins = " and ".join(f"{p.origin} ({p.entry_point.value})" for p in named)
        raise _refusal(f"{origins} both call a provider {name!r}: uninstall one of them")
    return _checked(named[0])


def build(spec: ProviderSpec, context: ProviderContext) -> Provider[Any]:
    """The provider itself; this is what imports its SDK."""
    try:
        return spec.build(context)
    except ModuleNotFoundError as err:
        raise _missing(spec.name, err, spec.extra) from err


def parse_options(spec: ProviderSpec, given: Iterable[str]) -> Mapping[str, object]:
    """`NAME=VALUE` texts to values: every option of the provider, by default or as given (the last wins)."""
    known = {option.name: option for option in spec.options}
    texts = {option.name: option.default for option in spec.options}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise _bad_option(f"{text!r} is no NAME=VALUE")
        if name not in known:
            there = ", ".join(known) or "none"
            raise _bad_option(f"provider {spec.name} has no option {name!r}; it has: {there}")
        texts[name] = value
    values: dict[str, object] = {}
    for name, text in texts.items():
        try:
            values[name] = known[name].parse(text)
        except ValueError as err:
            raise _bad_option(f"{name}={text}: {err}") from err
    return values


def _plugin(entry_point: EntryPoint) -> Plugin:
    distribution = entry_point.dist
    origin = f"{distribution.name} {distribution.version}" if distribution else "(no distribution)"
    return Plugin(entry_point.name, origin, entry_point)


def _checked(plugin: Plugin) -> ProviderSpec:
    where = f"provider {plugin.name!r} of {plugin.origin}"
    try:
        spec = plugin.entry_point.load()
    except ModuleNotFoundError as err:
        raise _missing(plugin.name, err, "") from err
    except Exception as err:
        raise _refusal(f"{where} cannot be imported ({type(err).__name__}: {err})") from err
    if not isinstance(spec, ProviderSpec):
        raise _refusal(f"{where}: {plugin.entry_point.value} is {type(spec).__name__}, not a ProviderSpec")
    if spec.api_version != API_VERSION:
        older = "lbprov" if spec.api_version > API_VERSION else plugin.origin
        raise _refusal(
            f"{where} is written for version {spec.api_version} of lbprov.api, this is {API_VERSION}: "
            f"upgrade {older}"
        )
    if spec.name != plugin.name or not NAME.fullmatch(spec.name):
        raise _refusal(f"{where} calls itself {spec.name!r}: both names must be one word of a-z and 0-9")
    return spec


def _missing(name: str, err: ModuleNotFoundError, extra: str) -> UserError:
    remedy = f": pip install '{extra}'" if extra else ""
    return _refusal(f"provider {name} needs the module {err.name}, which is not installed{remedy}")


def _refusal(message: str) -> UserError:
    return UserError(message, field="--provider")


def _bad_option(message: str) -> UserError:
    return UserError(message, field="--provider-option")
