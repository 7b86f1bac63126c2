"""The sidecar's pieces with spans: engine, front ends and runtimes that tell `Tracing` what they do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from batchwright_worker.dispatch_log.recorder import RecordedScheduler
from batchwright_worker.engine.engine import Engine
from batchwright_worker.engine.pending import PendingRequest
from batchwright_worker.inference.errors import InferenceError
from batchwright_worker.inference.requests import Array, InferRequest, InferResult
from batchwright_worker.inference.runtime import RunResult, Runtime
from batchwright_worker.protocol.grpc.server import InferenceService
from batchwright_worker.protocol.http.infer import Inference, InferHead
from batchwright_worker.protocol.http.messages import HttpRequest
from batchwright_worker.protocol.http.routes import HttpApp
from batchwright_worker.sidecar.tracing.spans import Asked, Tracing

if TYPE_CHECKING:
    from opentelemetry.trace import Span


class TracedEngine(Engine):
    """An engine whose requests have spans."""

    tracing: Tracing

    def traced(self, tracing: Tracing) -> TracedEngine:
        """With these spans."""
        assert isinstance(self.scheduler, RecordedScheduler), "a traced engine needs a scheduler that tells"
        self.tracing = tracing
        self.scheduler.observe = tracing.observe
        tracing.clock, tracing.pending = self.clock, self.requests.by_key
        return self

    def submit(self, request: InferRequest, done: Callable[[InferResult | InferenceError], None]) -> PendingRequest:
        """See `Engine`."""
        asked = self.tracing.take(request)
        try:
            pending = super().submit(request, partial(self._done, asked, done))
        except InferenceError as error:
            self.tracing.answered(asked, error)
            raise
        self.tracing.waits(asked, pending)
        return pending

    def cancel(self, pending: PendingRequest) -> None:
        """See `Engine`."""
        self.tracing.left(pending)
        super().cancel(pending)

    def _done(
        self,
        asked: Asked,
        done: Callable[[InferResult | InferenceError], None],
        outcome: InferResult | InferenceError,
    ) -> None:
        self.tracing.answered(asked, outcome)
        done(outcome)


def _tracing(engine: Engine) -> Tracing:
    assert isinstance(engine, TracedEngine)
    return engine.tracing


class TracedInference(Inference):
    """HTTP requests to a `TracedEngine`, with their callers' traceparent."""

    def begin(self, request: HttpRequest, head: InferHead) -> None:
        """See `Inference`."""
        names = (b"traceparent", b"tracestate")
        told = request.headers
        carrier = {name.decode(): told[name].decode("latin-1") for name in names if name in told}
        with _tracing(self._engine).request(carrier, "http", head.model):
            super().begin(request, head)


class TracedApp(HttpApp):
    """The inference port of a `TracedEngine`."""

    inference = TracedInference


class TracedService(InferenceService):
    """gRPC calls to a `TracedEngine`, with their callers' traceparent."""

    async def _infer(self, request: Any, context: Any) -> tuple[Any, InferResult]:
        carrier = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        with _tracing(self._engine).request(carrier, "grpc", request.model_name):
            return await super()._infer(request, context)


class TracedRuntime:
    """A runtime whose runs have spans; all else is the runtime's own."""

    def __init__(self, runtime: Runtime, tracing: Tracing) -> None:
        self.plain = runtime
        self._tracing = tracing

    def __getattr__(self, name: str) -> Any:
        return getattr(self.plain, name)

    def run(self, model: str, parts: Sequence[Mapping[str, Array]], rows: int) -> Awaitable[RunResult]:
        """See `Runtime.run`."""
        span = self._tracing.runs(self.plain.device, model, rows)
        running = asyncio.ensure_future(self.plain.run(model, parts, rows))
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
