"""Traced subclasses and wrappers: engine, front ends and runtimes that report to `Tracing`."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from batchwright_worker.api.model import Model
from batchwright_worker.dispatch_log.recorder import RecordedScheduler
from batchwright_worker.engine.engine import Engine
from batchwright_worker.engine.pending import PendingRequest
from batchwright_worker.inference.errors import InferenceError
from batchwright_worker.inference.requests import Array, InferRequest, InferResult
from batchwright_worker.inference.runtime import RunResult, Runtime
from batchwright_worker.language.routes import CALLS_WITH_TEXTS
from batchwright_worker.protocol.grpc.bursts import Singly, SubmittedCall
from batchwright_worker.protocol.grpc.server import InferenceService, ReadApart
from batchwright_worker.protocol.http.infer import Inference, InferHead
from batchwright_worker.protocol.http.messages import HttpRequest, HttpResponse
from batchwright_worker.protocol.http.routes import HttpApp
from batchwright_worker.sidecar.tracing.spans import RequestSpans, Tracing

if TYPE_CHECKING:
    from opentelemetry.trace import Span


class TracedEngine(Engine):
    """An engine whose requests have spans. `scheduler` calls `tracing.observe`."""

    def __init__(
        self,
        models: Sequence[Model],
        runtimes: Sequence[Runtime],
        *,
        tracing: Tracing,
        scheduler: RecordedScheduler,
        interleaves: bool,
    ) -> None:
        super().__init__(models, runtimes, scheduler=scheduler, interleaves=interleaves)
        self.tracing = tracing
        tracing.follow(self.requests.by_key)

    def submit(self, request: InferRequest, done: Callable[[InferResult | InferenceError], None]) -> PendingRequest:
        """See `Engine`."""
        spans = self.tracing.accepted(request)
        try:
            pending = super().submit(request, partial(self._done, spans, done))
        except InferenceError as error:
            self.tracing.answered(spans, error)
            raise
        self.tracing.queued(spans, pending)
        return pending

    def cancel(self, pending: PendingRequest) -> None:
        """See `Engine`."""
        self.tracing.cancelled(pending)
        super().cancel(pending)

    def _done(
        self,
        spans: RequestSpans,
        done: Callable[[InferResult | InferenceError], None],
        outcome: InferResult | InferenceError,
    ) -> None:
        self.tracing.answered(spans, outcome)
        done(outcome)


def _tracing(engine: Engine) -> Tracing:
    assert isinstance(engine, TracedEngine)
    return engine.tracing


class TracedInference(Inference):
    """HTTP requests to a `TracedEngine`, with their callers' traceparent."""

    def begin(self, request: HttpRequest, head: InferHead) -> None:
        """See `Inference`."""
        with _tracing(self._engine).request(_carrier(request), "http", head.model):
            super().begin(request, head)


def _carrier(request: HttpRequest) -> dict[str, str]:
    names, headers = (b"traceparent", b"tracestate"), request.headers
    return {name.decode(): headers[name].decode("latin-1") for name in names if name in headers}


class TracedApp(HttpApp):
    """The inference port of a `TracedEngine`."""

    inference = TracedInference

    async def respond_to(self, request: HttpRequest) -> HttpResponse:
        """See `HttpApp`: the requests to the engine that a call with texts makes are its spans' children."""
        if not request.path.startswith(CALLS_WITH_TEXTS):
            return await super().respond_to(request)
        with _tracing(self._engine).call(_carrier(request), f"{request.method} {request.path}") as span:
            response = await super().respond_to(request)
            span.set_attribute("http.response.status_code", response.status)
            return response


class TracedService(InferenceService):
    """gRPC calls to a `TracedEngine`, with their callers' traceparent; a span belongs to the call that submits it."""

    bursts = Singly

    def _submit(self, message: Any, context: Any, apart: ReadApart | None) -> SubmittedCall:
        carrier = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        with _tracing(self._engine).request(carrier, "grpc", message.model_name):
            return super()._submit(message, context, apart)


class TracedRuntime:
    """A runtime whose runs have spans; everything else is the runtime's own."""

    def __init__(self, runtime: Runtime, tracing: Tracing) -> None:
        self.plain = runtime
        self._tracing = tracing

    def __getattr__(self, name: str) -> Any:
        return getattr(self.plain, name)

    def run(
        self, model: str, parts: Sequence[Mapping[str, Array]], rows: int, limit_s: float = math.inf
    ) -> Awaitable[RunResult]:
        """See `Runtime.run`."""
        span = self._tracing.runs(self.plain.device, model, rows)
        running = asyncio.ensure_future(self.plain.run(model, parts, rows, limit_s))
        if span is not None:
            running.add_done_callback(partial(_ran, span))
        return running


def _ran(span: Span, running: asyncio.Future[RunResult]) -> None:
    if running.cancelled():
        span.set_attribute("batchwright.cancelled", True)
    elif error := running.exception():
        span.record_exception(error)
    else:
        result = running.result()
        span.set_attributes(
            {
                "batchwright.device_seconds": result.device_seconds,
                "batchwright.input_seconds": result.input_s,
                "batchwright.output_seconds": result.output_s,
            }
        )
    span.end()
