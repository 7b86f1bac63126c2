"""POST .../infer without a task: parse, submit, and write the answer from the engine's callback."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from batchwright_worker.api.names import HEADER_BATCH_SIZE, HEADER_EXPECTED_WAIT
from batchwright_worker.engine.engine import Engine
from batchwright_worker.inference.errors import InferenceError
from batchwright_worker.inference.requests import InferResult
from batchwright_worker.protocol import json_bodies as bodies
from batchwright_worker.protocol.catalogue import VERSION, Catalogue
from batchwright_worker.protocol.http.heads import CHUNKED, Head
from batchwright_worker.protocol.http.messages import Answer, HttpError, Request, encoded_head, error_answer
from batchwright_worker.protocol.json_bodies import Parsed
from batchwright_worker.protocol.request_templates import JSON_MOST_BYTES, BodyTemplate, BodyTemplates
from batchwright_worker.protocol.tensors import Limits

_EXPECTED_WAIT: Final = HEADER_EXPECTED_WAIT.encode()
_BATCH_SIZE: Final = HEADER_BATCH_SIZE.encode()
_BINARY: Final = (b"content-type", b"application/octet-stream")
_JSON: Final = (b"content-type", b"application/json")
WAIT_FRESH_S: Final = 0.002
_JSON_LENGTH: Final = b"inference-header-content-length"


class InferHead:
    """What a head says of the infer requests that begin with it. `json_bytes` 0: their JSON part is not remembered."""

    __slots__ = ("forms", "json_bytes", "json_length", "model", "version")

    def __init__(self, head: Head, model: str, version: str) -> None:
        """Raises HttpError."""
        if head.headers.get(b"content-encoding", b"identity") != b"identity":
            raise HttpError(415, "a compressed body is not read here; send it without Content-Encoding")
        self.model = model
        self.version = version
        self.json_length = head.headers.get(_JSON_LENGTH)
        told = self.json_length or b""
        size = int(told) if told.isdigit() and len(told) < 8 else 0
        self.json_bytes = (
            size if 0 < size <= min(JSON_MOST_BYTES, head.body_bytes) and head.body_bytes != CHUNKED else 0
        )
        self.forms = BodyTemplates()


class Inference:
    """The infer requests of one port. `finish` and `broken` are the application's, for answers that are no results."""

    def __init__(
        self,
        engine: Engine,
        catalogue: Catalogue,
        limits: Limits,
        finish: Callable[[Request, Answer], Answer],
        broken: Callable[[Request], Answer],
    ) -> None:
        self._engine = engine
        self._catalogue = catalogue
        self._limits = limits
        self._finish = finish
        self._broken = broken
        self._waits: dict[str, tuple[float, bytes]] = {}

    def begin(self, request: Request, head: InferHead) -> None:
        """Raises InferenceError for what is not taken; else the answer comes later."""
        self._catalogue.check(head.model, head.version)
        parsed = self._parsed(request.content, head)
        pending = self._engine.submit(parsed.request, partial(self._answer, request, parsed))
        request.caller.on_gone = partial(self._engine.cancel, pending)

    def _parsed(self, body: memoryview, head: InferHead) -> Parsed:
        arrival = self._engine.clock()
        if not head.json_bytes:
            return bodies.parse(head.model, body, head.json_length, arrival, self._limits)
        json = bytes(body[: head.json_bytes])
        form = head.forms.get(json)
        if form is not None:
            return form.parsed(head.model, body, arrival)
        parsed = bodies.parse(head.model, body, head.json_length, arrival, self._limits)
        head.forms.learn(json, parsed, head.json_bytes, len(body))
        return parsed

    def _answer(self, request: Request, parsed: Parsed, outcome: InferResult | InferenceError) -> None:
        """The engine's callback: never raises."""
        try:
            if isinstance(outcome, InferResult):
                self._send(request, parsed, outcome)
                return
            answer = error_answer(outcome)
        except InferenceError as error:
            answer = error_answer(error)
        except Exception:
            answer = self._broken(request)
        request.caller.answer(self._finish(request, answer))

    def _send(self, request: Request, parsed: Parsed, result: InferResult) -> None:
        """Requests of one form in one batch share all of the answer but the tensors."""
        form, shared, outputs = parsed.request.form, result.shared, result.outputs
        if not isinstance(form, BodyTemplate) or shared is None:
            self._send_own(request, parsed, result)
            return
        known = shared.get(form)
        if known is None:
            json = _json_part(form, parsed, result)
            known = shared[form] = (b"", b"") if json is None else (self._head(parsed, result, json), json)
        head, json = known
        if head:
            request.caller.send(head, json, *[array.tobytes() for array in outputs.values()])
        else:
            self._send_own(request, parsed, result)

    def _send_own(self, request: Request, parsed: Parsed, result: InferResult) -> None:
        body, json_bytes = bodies.answer(parsed, VERSION, result)
        headers = [_JSON] if json_bytes is None else [_BINARY, (_JSON_LENGTH, b"%d" % json_bytes)]
        headers += self._told(parsed, result)
        request.caller.send(encoded_head(200, headers, len(body)), body)

    def _head(self, parsed: Parsed, result: InferResult, json: bytes) -> bytes:
        size = len(json) + sum(array.nbytes for array in result.outputs.values())
        headers = [_BINARY, (_JSON_LENGTH, b"%d" % len(json)), *self._told(parsed, result)]
        return encoded_head(200, headers, size)

    def _told(self, parsed: Parsed, result: InferResult) -> list[tuple[bytes, bytes]]:
        return [(_BATCH_SIZE, b"%d" % result.batch_size), (_EXPECTED_WAIT, self._wait_ms(parsed.request.model))]

    def _wait_ms(self, model: str) -> bytes:
        """The wait that a new row would meet, at most WAIT_FRESH_S old: whole milliseconds change no faster."""
        now = self._engine.clock()
        known = self._waits.get(model)
        if known is None or now - known[0] > WAIT_FRESH_S:
            known = self._waits[model] = (now, b"%d" % self._catalogue.expected_wait_ms(model))
        return known[1]


def _json_part(form: BodyTemplate, parsed: Parsed, result: InferResult) -> bytes | None:
    """The JSON part of the answer; None unless all outputs travel as raw bytes of fixed size."""
    outputs = result.outputs
    key = tuple((name, array.dtype.str, array.dtype.num, array.shape) for name, array in outputs.items())
    known = form.answers.get(key)
    if known is not None:
        return known
    if any(array.dtype.kind in "OSU" or not parsed.is_binary(name) for name, array in outputs.items()) or not outputs:
        return None
    body, json_bytes = bodies.answer(parsed, VERSION, result)
    if json_bytes is None:
        return None
    if len(form.answers) >= 16:
        form.answers.clear()
    json = form.answers[key] = body[:json_bytes]
    return json
