"""Write docs/reference/ anew from the code. `--check`: write nothing, exit 1 if a page would change."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import click

from lbprov import plugins
from lbprov.api import Severity
from lbprov.cli.main import VERBS
from lbprov.logic.events import EXPLAINED, Reason
from lbprov.observe.metrics import DECLARED, Declared
from lbprov.observe.node_metrics import NODE_DECLARED, SHARED
from lbprov_aws import attributes, peer_annotations
from local_dataplane import events as node_events

FOLDER = Path(__file__).resolve().parents[1] / "docs/reference"
OURS = ("aws",)
"""Providers of this repository; others that are installed here have pages of their own."""

CONDITIONS = (
    ("Ready", "Traffic can be expected to pass. Else reason and message say what is awaited or wrong."),
    (
        "Provider",
        "Which provider the Service is served by (the reason). There from before the first write to the "
        "cloud until nothing of it is left.",
    ),
    ("RequestedIP", "What has become of the address in `spec.loadBalancerIP`."),
    ("Nodes", "There only as long as no Node takes traffic."),
    ("UnknownAnnotations", "There only as long as an annotation `lbprov.io/…`, or its value, is not known."),
)


def pages() -> dict[str, str]:
    return {
        "metrics.md": metrics(),
        "events.md": events(),
        "flags.md": flags(),
        "aws-annotations.md": aws_annotations(),
    }


def metrics() -> str:
    shared = ", ".join(f"`{declared.name}`" for declared in SHARED)
    return "\n".join(
        [
            *head(
                "Metrics",
                "In Prometheus' text format or OpenMetrics. Beside these there are the process's own "
                "(`process_…`: memory, CPU time, open files).",
            ),
            *("## The controller", "", "At `/metrics` of `--health-address`.", "", *_declared(DECLARED), ""),
            *("## The node agent", "", "At `/metrics` of `--metrics-address`.", ""),
            *(*_declared(NODE_DECLARED), ""),
            f"And these of the controller's, about Services, EndpointSlices and its own Node: {shared}.",
            "",
        ]
    )


def _declared(metrics: Iterable[Declared]) -> list[str]:
    rows = []
    for declared in metrics:
        labels = "<br>".join(f"`{name}`: {what}" for name, what in declared.labels)
        rows.append((f"`{declared.name}`", declared.kind, declared.help, labels))
    return table(("name", "type", "what it says", "labels"), rows)


def events() -> str:
    lines = [
        *head(
            "Events and conditions",
            "What `kubectl describe service` shows. An Event is emitted when "
            "something has changed, and not again as long as it stays; a condition stays as long as what it "
            "says.",
        )
    ]
    lines += ["## Events of every provider", ""]
    rows = [(f"`{reason}`", severity.value, text) for reason, (severity, text) in EXPLAINED.items()]
    lines += table(("reason", "type", "what it means"), rows)
    for name in OURS:
        spec = plugins.load(name)
        lines += ["", f"## Events of provider `{name}`", ""]
        own = [(f"`{d.reason}`", d.severity.value, d.meaning) for d in spec.reasons]
        lines += table(("reason", "type", "what it means"), own)
    lines += ["", "## Events of the node agent", ""]
    rows = [
        (f"`{reason}`", severity.value, text) for reason, (severity, text) in node_events.EXPLAINED.items()
    ]
    lines += table(("reason", "type", "what it means"), rows)
    lines += ["", "## Conditions", "", "The reason of a condition is one of the Events' above."]
    conditions = [(f"`lbprov.io/{topic}`", meaning) for topic, meaning in CONDITIONS]
    known = {topic for topic, _ in CONDITIONS}
    for name in OURS:
        for doc in plugins.load(name).reasons:
            if doc.topic and doc.topic not in known:
                conditions.append((f"`lbprov.io/{doc.topic}`", f"`{name}`: {doc.meaning}"))
    return "\n".join([*lines, "", *table(("type", "what it says"), conditions), ""])


def aws_annotations() -> str:
    lines = [
        *head(
            "Annotations of AWS load balancers",
            "What becomes of every annotation `service.beta.kubernetes.io/aws-load-balancer-…` that "
            "cloud-provider-aws or the AWS Load Balancer Controller read for a Service. One that cannot be "
            "followed, is malformed or unknown gives the Warning `AnnotationsIgnored`, which names it and "
            "says what to do; the rest of the Service is served.",
        )
    ]
    rows = [
        (f"`{a.name}{'…' if a.name.endswith('.') else ''}`", a.support.value, a.peer.value, a.meaning)
        for a in peer_annotations.TABLE
    ]
    lines += table(("`…aws-load-balancer-`", "followed", "read by", "what it does"), rows)
    for title, known, name in (
        ("load balancer", attributes.OF_LOAD_BALANCERS, "attributes"),
        ("listener", attributes.OF_LISTENERS, "listener-attributes.PROTOCOL-PORT"),
        ("target group", attributes.OF_TARGET_GROUPS, "target-group-attributes"),
    ):
        lines += ["", f"## Attributes of a {title} (`{name}`)", ""]
        values = [
            (
                f"`{a.key}`",
                a.allowed,
                "stays" if a.default is None else f"`{a.default}`" if a.default else "empty",
            )
            for _, a in sorted(known.items())
        ]
        lines += table(("attribute", "values", "when it is not asked for any more"), values)
    return "\n".join([*lines, ""])


def flags() -> str:
    lines = [*head("Flags", "Every flag can be given by the environment too; a flag wins over it.")]
    for verb, (module, _) in sorted(VERBS.items()):
        command: click.Command = importlib.import_module(module).command
        for name, part in commands(f"lbprov {verb}", command):
            lines += [f"## `{name}`", "", (part.help or "").partition("\n\n")[0].replace("\n", " "), ""]
            rows = [flag_row(p) for p in part.params if isinstance(p, click.Option)]
            lines += [*table(("flag", "environment", "default", "what it does"), rows), ""] if rows else []
    return "\n".join(lines)


def commands(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    yield name, command
    if isinstance(command, click.Group):
        for part, below in sorted(command.commands.items()):
            yield from commands(f"{name} {part}", below)


def flag_row(option: click.Option) -> tuple[str, ...]:
    context = click.Context(click.Command("x"))
    written = ", ".join(f"`{flag}`" for flag in (*option.opts, *option.secondary_opts))
    metavar = "" if option.is_flag else f" `{option.make_metavar(context)}`".replace("|", "\\|")
    default = "required" if option.required else shown_default(option)
    environment = f"`{option.envvar}`" if isinstance(option.envvar, str) else ""
    return (written + metavar, environment, default, (option.help or "").replace("|", "\\|"))


def shown_default(option: click.Option) -> str:
    if option.default in (None, "", (), False) or callable(option.default) or option.multiple:
        return ""
    if option.default is True:
        return f"`{option.opts[0]}`"
    return f"`{option.default}`" if isinstance(option.default, str | int | float) else ""


def head(title: str, text: str) -> Sequence[str]:
    return (
        f"# {title}",
        "",
        "<!-- Made from the code by scripts/reference.py: change it there. -->",
        "",
        text,
        "",
    )


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [columns, ["---"] * len(columns), *rows]
    return ["| " + " | ".join(cells) + " |" for cells in lines]


def main() -> None:
    assert set(EXPLAINED) == set(Reason), "every reason is explained"
    assert set(node_events.EXPLAINED) == set(node_events.Reason), "every reason of an agent is explained"
    assert {severity for severity, _ in EXPLAINED.values()} <= set(Severity)
    stale = [name for name, text in pages().items() if text != (FOLDER / name).read_text()] if check() else []
    if stale:
        sys.stderr.write(f"docs/reference/: stale: {', '.join(stale)}: run scripts/reference.py\n")
        raise SystemExit(1)
    if not check():
        FOLDER.mkdir(exist_ok=True)
        for name, text in pages().items():
            (FOLDER / name).write_text(text)


def check() -> bool:
    return sys.argv[1:] == ["--check"]


if __name__ == "__main__":
    main()
