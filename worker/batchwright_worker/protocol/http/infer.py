"""POST .../infer without a task: parse, submit, and write the response from the engine's callback."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, TypeVar

from batchwright_worker.api.names import HEADER_BATCH_SIZE, HEADER_EXPECTED_WAIT
from batchwright_worker.engine.engine import Engine
from batchwright_worker.inference.errors import InferenceError
from batchwright_worker.inference.requests import Array, InferResult
from batchwright_worker.oip.http_tensors import HEADER_LENGTH
from batchwright_worker.protocol import json_bodies
from batchwright_worker.protocol.catalogue import Catalogue
from batchwright_worker.protocol.classification import classes_of, to_classify, with_classes
from batchwright_worker.protocol.http.compression import codings_of
from batchwright_worker.protocol.http.messages import (
    JSON,
    Header,
    HttpRequest,
    HttpResponse,
    RequestHead,
    ResponseHead,
    error_response,
    internal_error,
)
from batchwright_worker.protocol.json_bodies import ParsedRequest
from batchwright_worker.protocol.large_bodies import (
    LARGE_BYTES,
    LARGE_ELEMENTS,
    LargeBodies,
    WasRead,
    WriteHttp,
    request_of,
)
from batchwright_worker.protocol.limits import Limits
from batchwright_worker.protocol.parameters import REGION
from batchwright_worker.protocol.raw_requests import RAW, parse_raw
from batchwright_worker.protocol.request_memory import HeldBytes, RequestMemory
from batchwright_worker.protocol.request_templates import JSON_KEPT_BYTES, BodyTemplate, BodyTemplates
from batchwright_worker.protocol.shared_memory import Regions

EXPECTED_WAIT: Final = HEADER_EXPECTED_WAIT.encode()
_BATCH_SIZE: Final = HEADER_BATCH_SIZE.encode()
_REGION: Final = REGION.encode()
_BINARY: Final = (b"content-type", b"application/octet-stream")
WAIT_FRESH_S: Final = 0.002
HEADS_KEPT: Final = 256
_JSON_LENGTH: Final = HEADER_LENGTH.lower().encode()
T = TypeVar("T")


class InferHead:
    """What a head says of the infer requests that begin with it. `json_bytes` is the length of their JSON part, 0 where
    it is not kept as a template, `codings` is None where neither body is compressed; `is_served`: the model and its
    version were found once, and stay."""

    __slots__ = ("codings", "is_served", "json_bytes", "json_length", "model", "templates", "version")

    def __init__(self, head: RequestHead, model: str, version: str) -> None:
        """Raises HttpError."""
        self.codings = codings_of(head.headers)
        self.model = model
        self.version = version
        self.is_served = False
        self.json_length = head.headers.get(_JSON_LENGTH)
        digits = self.json_length or b""
        size = int(digits) if digits.isdigit() and len(digits) < 8 else 0
        # The length of a chunked body is negative: such bodies have no fixed places for their tensors.
        is_plain = self.codings is None or not self.codings.body
        self.json_bytes = size if is_plain and 0 < size <= min(JSON_KEPT_BYTES, head.body_bytes) else 0
        self.templates = BodyTemplates()


class Inference:
    """The infer requests of one port. `with_common_headers` is the application's, for responses that are no results."""

    def __init__(  # noqa: PLR0913 - the parts of the process that it answers for
        self,
        engine: Engine,
        catalogue: Catalogue,
        limits: Limits,
        memory: RequestMemory,
        large: LargeBodies,
        with_common_headers: Callable[[HttpRequest, HttpResponse], HttpResponse],
        *,
        regions: Regions | None = None,
    ) -> None:
        self._regions = regions
        self._memory = memory
        self._large = large
        self._engine = engine
        self._catalogue = catalogue
        self._limits = limits
        self._with_common_headers = with_common_headers
        self._waits: dict[str, tuple[float, bytes]] = {}
        self._heads: dict[tuple[int, int, int, bytes], ResponseHead] = {}
        """Heads of responses by all that differs between them: lengths of JSON part and body, batch size, wait."""

    def begin(self, request: HttpRequest, head: InferHead) -> None:
        """Submit a request, whose response comes later. Raises InferenceError for what is not taken."""
        if not head.is_served:
            self._catalogue.check(head.model, head.version)
            head.is_served = True
        self._memory.check()
        if len(request.content) > LARGE_BYTES and self._is_read_apart(request.content, head):
            reading = self._large.read_http(head.model, request.content, head.json_length, self._limits)
            reading.add_done_callback(partial(self._was_read, request, self._engine.clock()))
            request.caller.on_disconnect = reading.cancel
            return
        self._submit(request, self._parsed(request.content, head))

    def _is_read_apart(self, body: memoryview, head: InferHead) -> bool:
        """Not where it may name a region: these are this process's."""
        return _takes_long(body, head) and not (self._regions is not None and _REGION in _json_of(body, head))

    def _submit(self, request: HttpRequest, parsed: ParsedRequest) -> None:
        if parsed.shared is not None:
            self._submit_shared(request, parsed, HeldBytes(self._memory, parsed.shared.input_bytes))
            return
        pending = self._engine.submit(parsed.request, partial(self._respond, request, parsed))
        request.caller.on_disconnect = partial(self._engine.cancel, pending)

    def _submit_shared(self, request: HttpRequest, parsed: ParsedRequest, held: HeldBytes) -> None:
        """The same for a request whose tensors are beside its body: they are `held` until the answer."""

        def done(outcome: InferResult | InferenceError) -> None:
            held.release()
            self._respond(request, parsed, outcome)

        def left() -> None:
            held.release()
            self._engine.cancel(pending)

        try:
            pending = self._engine.submit(parsed.request, done)
        except BaseException:
            held.release()
            raise
        request.caller.on_disconnect = left

    def _was_read(
        self, request: HttpRequest, arrival: float, reading: asyncio.Future[tuple[WasRead, dict[str, Array]]]
    ) -> None:
        """A body was read apart."""
        if reading.cancelled() or request.caller.disconnected:
            reading.cancelled() or reading.exception()
            return

        def submit(read: tuple[WasRead, dict[str, Array]]) -> None:
            was_read, inputs = read
            parsed = ParsedRequest(
                request=request_of(was_read, inputs, arrival),
                binary=was_read.binary,
                binary_default=was_read.binary_default,
                classes=was_read.classes,
            )
            self._submit(request, parsed)

        self._was_made(request, submit, reading)

    def _parsed(self, body: memoryview, head: InferHead) -> ParsedRequest:
        arrival = self._engine.clock()
        if head.json_length == RAW:
            specs = self._engine.model_metadata(head.model).inputs
            return parse_raw(head.model, specs, body, arrival, self._limits)
        if not head.json_bytes:
            return json_bodies.parse(head.model, body, head.json_length, arrival, self._limits, self._regions)
        json = bytes(body[: head.json_bytes])
        template = head.templates.get(json)
        if template is not None:
            return template.parsed(head.model, body, arrival)
        parsed = json_bodies.parse(head.model, body, head.json_length, arrival, self._limits, self._regions)
        if parsed.shared is None and not parsed.classes:
            head.templates.learn(json, parsed, head.json_bytes, len(body))
        return parsed

    def _respond(self, request: HttpRequest, parsed: ParsedRequest, outcome: InferResult | InferenceError) -> None:
        """The engine's callback. Never raises: the engine has other callers of the same batch to call back."""
        try:
            if isinstance(outcome, InferResult):
                if parsed.classes:
                    self._send_classes(request, parsed, parsed.classes, outcome)
                else:
                    self._send(request, parsed, outcome)
                return
            response = error_response(outcome)
        except InferenceError as error:
            response = error_response(error)
        except Exception:
            response = internal_error(request)
        request.caller.respond(self._with_common_headers(request, response))

    def _send_classes(
        self, request: HttpRequest, parsed: ParsedRequest, of: Mapping[str, int], result: InferResult
    ) -> None:
        wanted = self._catalogue.wanted_classes(parsed.request.model, of)
        scores = to_classify(result.outputs, wanted)
        if sum(array.size for array in scores.values()) <= LARGE_ELEMENTS:
            self._send(request, parsed, with_classes(result, classes_of(scores, wanted)))
            return

        def send(classes: dict[str, Array]) -> None:
            self._send(request, parsed, with_classes(result, classes))

        self._large.classify(scores, wanted).add_done_callback(partial(self._was_made, request, send))

    def _was_made(self, request: HttpRequest, send: Callable[[T], None], made: asyncio.Future[T]) -> None:
        """Something was made apart that the response needs; `send` goes on with it."""
        if made.cancelled():
            return
        try:
            send(made.result())
        except InferenceError as error:
            request.caller.respond(self._with_common_headers(request, error_response(error)))
        except Exception:
            request.caller.respond(self._with_common_headers(request, internal_error(request)))

    def _send(self, request: HttpRequest, parsed: ParsedRequest, result: InferResult) -> None:
        """Requests of one template in one batch share all of the response but the tensors."""
        template, shared, outputs = parsed.request.template, result.shared, result.outputs
        if not isinstance(template, BodyTemplate) or shared is None:
            self._send_own(request, parsed, result)
            return
        known = shared.get(template)
        if known is None:
            json = _json_part(template, parsed, result, self._catalogue.version(parsed.request.model))
            known = shared[template] = (None, b"") if json is None else (self._head(parsed, result, json), json)
        head, json = known
        if head is not None:
            request.caller.send(head, json, *[array.tobytes() for array in outputs.values()])
        else:
            self._send_own(request, parsed, result)

    def _send_own(self, request: HttpRequest, parsed: ParsedRequest, result: InferResult) -> None:
        version = self._catalogue.version(parsed.request.model)
        # Of elements, and of the bytes of long strings.
        texts = sum(
            array.size + (array.nbytes >> 6) for name, array in result.outputs.items() if not parsed.is_binary(name)
        )
        if texts > LARGE_ELEMENTS and parsed.shared is None:
            model, request_id = parsed.request.model, parsed.request.request_id
            job = WriteHttp(model, version, request_id, parsed.binary, parsed.binary_default, [])

            def send(written: tuple[bytes, int | None]) -> None:
                self._send_body(request, parsed, result, *written)

            self._large.write_http(job, result.outputs).add_done_callback(partial(self._was_made, request, send))
            return
        self._send_body(request, parsed, result, *json_bodies.response(parsed, version, result, self._regions))

    def _send_body(
        self, request: HttpRequest, parsed: ParsedRequest, result: InferResult, body: bytes, json_bytes: int | None
    ) -> None:
        headers = [JSON] if json_bytes is None else [_BINARY, (_JSON_LENGTH, b"%d" % json_bytes)]
        headers += self._batch_headers(parsed, result)
        request.caller.send(ResponseHead(200, headers, len(body)), body)

    def _head(self, parsed: ParsedRequest, result: InferResult, json: bytes) -> ResponseHead:
        size = len(json)
        for array in result.outputs.values():
            size += array.nbytes
        key = (len(json), size, result.batch_size, self._wait_ms(parsed.request.model))
        head = self._heads.get(key)
        if head is None:
            if len(self._heads) >= HEADS_KEPT:
                self._heads.clear()
            headers = [_BINARY, (_JSON_LENGTH, b"%d" % len(json)), *self._batch_headers(parsed, result)]
            head = self._heads[key] = ResponseHead(200, headers, size)
        return head

    def _batch_headers(self, parsed: ParsedRequest, result: InferResult) -> list[Header]:
        return [(_BATCH_SIZE, b"%d" % result.batch_size), (EXPECTED_WAIT, self._wait_ms(parsed.request.model))]

    def _wait_ms(self, model: str) -> bytes:
        """The wait that a new row would meet, at most WAIT_FRESH_S old: whole milliseconds change no faster."""
        now = self._engine.clock()
        known = self._waits.get(model)
        if known is None or now - known[0] > WAIT_FRESH_S:
            known = self._waits[model] = (now, b"%d" % self._catalogue.expected_wait_ms(model))
        return known[1]


def _takes_long(body: memoryview, head: InferHead) -> bool:
    """Are there many JSON values or strings in this large body? Raw numbers are views of it, however many."""
    json = _json_of(body, head)
    return len(json) > LARGE_BYTES or b"BYTES" in json


def _json_of(body: memoryview, head: InferHead) -> bytes:
    """The JSON part, as far as the head says how long it is; else all of it."""
    digits = head.json_length
    return bytes(body if digits is None or not digits.isdigit() or len(digits) > 18 else body[: int(digits)])


def _json_part(template: BodyTemplate, parsed: ParsedRequest, result: InferResult, version: str) -> bytes | None:
    """The JSON part of the response; None unless all outputs travel as raw bytes of fixed size."""
    outputs = result.outputs
    key = tuple((name, array.dtype.str, array.dtype.num, array.shape) for name, array in outputs.items())
    known = template.responses.get(key)
    if known is not None:
        return known
    if any(array.dtype.kind in "OSU" or not parsed.is_binary(name) for name, array in outputs.items()) or not outputs:
        return None
    body, json_bytes = json_bodies.response(parsed, version, result)
    if json_bytes is None:
        return None
    if len(template.responses) >= 16:
        template.responses.clear()
    json = template.responses[key] = body[:json_bytes]
    return json
