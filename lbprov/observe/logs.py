"""Logs: stdlib logging to stderr, one line a record: text for a person at a terminal, JSON for machines.

Messages are constant, values go into fields: `log.info("applied", extra={"service": str(key)})`. In JSON a
record is `{"ts", "level", "logger", "msg", <fields>, "error"}`; `error` is the traceback, where there is one.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any, Literal, TextIO

LogFormat = Literal["text", "json"]

LEVELS = ("debug", "info", "warning", "error")

SDK_LOGGERS = ("boto3", "botocore", "urllib3", "kubernetes", "google", "werkzeug")
"""At debug level these write down requests with their credentials: kept at warning, whatever is asked for."""

_OWN_ATTRIBUTES = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


def set_up(level: str = "info", format_: LogFormat | None = None, stream: TextIO | None = None) -> None:
    """Send all logging of this process to `stream` (stderr). `format_` None: text if that is a terminal.

    Calling it again replaces what was set up before."""
    stream = stream if stream is not None else sys.stderr
    format_ = format_ or ("text" if stream.isatty() else "json")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter() if format_ == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in SDK_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)


class JsonFormatter(logging.Formatter):
    """One JSON object a line, whatever the values are."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "ts": _timestamp(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "msg": record.getMessage(),
        }
        line |= {k: v for k, v in fields_of(record).items() if k not in line}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """`12:00:01 INFO  controller: applied service=default/web`; a traceback follows on lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        fields = "".join(f" {k}={_quoted(v)}" for k, v in fields_of(record).items())
        logger = record.name.removeprefix("lbprov.")
        text = f"{clock} {record.levelname:<7} {logger}: {record.getMessage()}{fields}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """What the caller gave as `extra`."""
    return {k: v for k, v in record.__dict__.items() if k not in _OWN_ATTRIBUTES}


def _timestamp(created_s: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(created_s)) + f".{int(created_s * 1000) % 1000:03}Z"


def _quoted(value: object) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if not text or any(c in text for c in ' "=\n\t') else text
