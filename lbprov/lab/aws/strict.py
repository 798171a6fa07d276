"""A layer over moto, in the server's process: faults on demand, a record of every call, and AWS's own rules.

moto is generous: it accepts names, address allocations and health checks that AWS refuses, and forgets what
AWS remembers. `rules.RULES` is the table of what is refused, `memory` is what is remembered.
"""

from __future__ import annotations

import dataclasses
import io
import json
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from typing import Any

from werkzeug.test import run_wsgi_app

from lbprov.lab.aws import call as calls
from lbprov.lab.aws import memory, pages, quick, quotas, targets
from lbprov.lab.aws.call import Call, Refusal
from lbprov.lab.aws.faults import Faults
from lbprov.lab.aws.lag import Lag
from lbprov.lab.aws.rates import Rates
from lbprov.lab.aws.rules import RULES, Replay
from lbprov.lab.aws.server import CONTROL_PATH

StartResponse = Callable[..., Any]
WsgiApplication = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]


@dataclasses.dataclass(frozen=True, slots=True)
class _Answer:
    status: str
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def failed(self) -> bool:
        return not self.status.startswith("2")


class StrictAws:
    """A WSGI application around moto's. One call at a time reaches moto, which is not made for threads."""

    def __init__(self, moto: WsgiApplication, *, enforce: bool = True) -> None:
        self._moto = moto
        self._enforce = enforce
        self._lock = threading.Lock()
        self._faults = Faults()
        self._rates = Rates()
        self._lag = Lag()
        self._requests: list[dict[str, Any]] = []
        quick.install()
        if enforce:
            memory.install()
            targets.install()
            pages.install()

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        if environ.get("PATH_INFO") == CONTROL_PATH:
            answer = self._control(json.loads(body or b"{}"))
        elif (call := calls.parse(environ, body)) is None:
            with self._lock:
                answer = self._ask_moto(environ, body)
        else:
            answer = self._answer(call, environ, body)
        headers = [(k, v) for k, v in answer.headers if k.lower() != "content-length"]
        start_response(answer.status, [*headers, ("Content-Length", str(len(answer.body)))])
        return [answer.body]

    def _answer(self, call: Call, environ: dict[str, Any], body: bytes) -> _Answer:
        throttled = self._rates.refusal(call, time.monotonic())
        if delay_s := self._faults.delay_s(call.operation):
            time.sleep(delay_s)
        with self._lock:
            answer = _refused(call, throttled) if throttled else self._judged(call, environ, body)
            code = calls.code_in(answer.body) if answer.failed else ""
            self._requests.append({"operation": call.operation, "params": dict(call.params), "code": code})
        return answer

    def _judged(self, call: Call, environ: dict[str, Any], body: bytes) -> _Answer:
        try:
            self._faults.refuse(call.operation, "before")
            answer = self._carry_out(call, environ, body)
            self._faults.refuse(call.operation, "after")
        except Refusal as refusal:
            return _refused(call, refusal)
        except Exception:
            # A bug here or in moto. As a client's error, so that it is seen at once and not tried again.
            return _refused(call, Refusal("LabBug", traceback.format_exc()))
        return answer

    def _carry_out(self, call: Call, environ: dict[str, Any], body: bytes) -> _Answer:
        if not self._enforce:
            return self._ask_moto(environ, body)
        with self._lag.during(call, time.monotonic()), memory.during(call):
            for rule in RULES:
                if call.operation not in rule.operations:
                    continue
                replay = rule.check(call)
                if isinstance(replay, Replay):
                    return self._replay(call, replay, environ)
            return self._ask_moto(environ, body)

    def _replay(self, call: Call, replay: Replay, environ: dict[str, Any]) -> _Answer:
        """The answer to a describing call under the name of the call that was made."""
        other = dataclasses.replace(
            call, operation=replay.operation, params={"Version": call.get("Version"), **replay.params}
        )
        answer = self._ask_moto(environ, calls.encode(other))
        renamed = answer.body.replace(replay.operation.encode(), call.operation.encode())
        return dataclasses.replace(answer, body=renamed)

    def _ask_moto(self, environ: dict[str, Any], body: bytes) -> _Answer:
        inner = {**environ, "wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body))}
        parts, status, headers = run_wsgi_app(self._moto, inner, buffered=True)
        return _Answer(status, list(headers), b"".join(parts))

    def _control(self, orders: dict[str, Any]) -> _Answer:
        handlers: dict[str, Callable[[Any], None]] = {
            "reset": lambda _: self._reset(),
            "fail": self._faults.add,
            "delay": self._faults.add,
            "linger": memory.linger,
            "speed": self._rates.enforce,
            "quotas": quotas.change,
            "settle": targets.settle,
            "lag": self._lag.change,
        }
        with self._lock:
            for order, value in orders.items():
                handlers[order](value)
            text = json.dumps({"requests": self._requests} if not orders else {}).encode()
        return _Answer("200 OK", [("Content-Type", "application/json")], text)

    def _reset(self) -> None:
        self._faults.clear()
        self._requests.clear()
        self._rates.enforce(0)
        self._lag.change({})
        memory.reset()
        targets.reset()
        quotas.reset()


def _refused(call: Call, refusal: Refusal) -> _Answer:
    content_type, text = calls.refusal_body(call.service, refusal)
    return _Answer(f"{refusal.status} Refused", [("Content-Type", content_type)], text)
