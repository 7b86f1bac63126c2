"""OpenTelemetry spans of requests and batches, where OTEL_EXPORTER_OTLP_ENDPOINT says where to send them.

    infer MODEL (server; child of the caller's span, by its W3C traceparent)
    |- queue      from the arrival to the start of its first batch
    |- execute    from there to the answer; linked to its batch
    `- batch      in the trace of the first request of the batch; linked to all of them
       `- runtime the way to the runtime and back

The callers of this are subclasses and wrappers of the plain classes (`tracing/instrumented`), which do not depend on
it: without an endpoint none of it runs, and OpenTelemetry is not even imported.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from batchwright_worker.engine.pending import PendingRequest
from batchwright_worker.inference.errors import InferenceError
from batchwright_worker.inference.requests import InferRequest, InferResult
from batchwright_worker.otlp.providers import traces_of
from batchwright_worker.scheduler.steps import Batch, Step

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

_MOST_LINKS: Final = 128


@dataclass(slots=True)
class RequestSpans:
    """The spans of one request that is not answered yet. `owned`: the engine has accepted it, and its answer ends them;
    `pending`: the identity of its `PendingRequest`."""

    span: Span
    arrival_ns: int
    owned: bool = False
    began_ns: int = 0
    pending: int = 0
    execute: Span | None = None


_CURRENT: ContextVar[RequestSpans | None] = ContextVar("request_spans", default=None)


@dataclass(slots=True)
class _BatchSpans:
    """The span of one batch that runs; `runs` counts the runs that were matched to it."""

    span: Span
    batch: Batch
    runs: int = 0


@dataclass(slots=True)
class Tracing:
    """The spans that are open. `stop` sends the rest of them; `pending` are the engine's requests by the keys of their
    queue entries, from `follow` on."""

    tracer: Tracer
    stop: Callable[[], None]
    clock: Callable[[], float] = time.monotonic
    pending: Mapping[int, PendingRequest] = field(default_factory=dict)
    _requests: dict[int, RequestSpans] = field(default_factory=dict)
    _batches: dict[int, _BatchSpans] = field(default_factory=dict)

    def follow(self, pending: Mapping[int, PendingRequest]) -> None:
        """The requests of the engine whose scheduler calls `observe`: one that is made after this."""
        self.pending = pending

    def ns(self, clock_s: float | None = None) -> int:
        """Unix nanoseconds of a time of the engine's clock (None: now)."""
        past_s = 0.0 if clock_s is None else self.clock() - clock_s
        return time.time_ns() - int(past_s * 1e9)

    # --- requests ---

    @contextmanager
    def request(self, carrier: Mapping[str, str], protocol: str, model: str) -> Iterator[None]:
        """A request is parsed and submitted inside; its span stays open if the engine accepts it."""
        from opentelemetry.propagate import extract
        from opentelemetry.trace import SpanKind

        span = self.tracer.start_span(
            f"infer {model}",
            context=extract(carrier),
            kind=SpanKind.SERVER,
            attributes={"batchwright.model": model, "rpc.system": protocol},
        )
        spans = RequestSpans(span, time.time_ns())
        token = _CURRENT.set(spans)
        try:
            yield
        except InferenceError as error:
            if not spans.owned:
                self._failed(spans, error)
            raise
        finally:
            _CURRENT.reset(token)
            if not spans.owned:
                span.end()

    @contextmanager
    def call(self, carrier: Mapping[str, str], name: str) -> Iterator[Span]:
        """A call that makes requests to the engine inside: their spans are children of its span."""
        from opentelemetry.propagate import extract
        from opentelemetry.trace import SpanKind

        with self.tracer.start_as_current_span(name, context=extract(carrier), kind=SpanKind.SERVER) as span:
            yield span

    def accepted(self, request: InferRequest) -> RequestSpans:
        """The engine has this request (of the front end that calls, or of a caller of its own)."""
        spans = _CURRENT.get()
        if spans is None or spans.owned:
            spans = RequestSpans(self.tracer.start_span(f"infer {request.model}"), 0)
        spans.owned = True
        spans.arrival_ns = self.ns(request.arrival)
        spans.span.set_attributes({"batchwright.rows": request.rows, "batchwright.request_id": request.request_id})
        return spans

    def queued(self, spans: RequestSpans, pending: PendingRequest) -> None:
        """It is in the queue."""
        spans.pending = id(pending)
        self._requests[spans.pending] = spans

    def answered(self, spans: RequestSpans, outcome: InferResult | InferenceError) -> None:
        """It has its answer."""
        self._requests.pop(spans.pending, None)
        if isinstance(outcome, InferResult):
            spans.span.set_attribute("batchwright.batch_size", outcome.batch_size)
        else:
            self._failed(spans, outcome)
        self._end(spans)

    def cancelled(self, pending: PendingRequest) -> None:
        """Its caller has disconnected."""
        spans = self._requests.pop(id(pending), None)
        if spans is not None:
            spans.span.set_attribute("batchwright.caller_left", True)
            self._end(spans)

    def _end(self, spans: RequestSpans) -> None:
        end = time.time_ns()
        if spans.execute is not None:
            spans.execute.end(end)
        else:
            self._end_queue(spans, end)
        spans.span.end(end)

    def _end_queue(self, spans: RequestSpans, end_ns: int) -> None:
        self._child("queue", spans.span, start_time=spans.arrival_ns).end(end_ns)

    def _failed(self, spans: RequestSpans, error: InferenceError) -> None:
        from opentelemetry.trace import StatusCode

        spans.span.set_status(StatusCode.ERROR, str(error))
        spans.span.set_attribute("error.type", type(error).__name__)

    # --- batches ---

    def observe(self, call: str, arguments: tuple[Any, ...], given: Any) -> None:
        """A call of the scheduler and what it returned (see `dispatch_log/recorder`)."""
        match call:
            case "next" if isinstance(given, Step) and isinstance(given.action, Batch):
                self._begin(given.action)
            case "batch_ended":
                self._ended(arguments[0], {"batchwright.device_seconds": arguments[1]})
            case "batch_failed":
                self._ended(arguments[0], {"batchwright.failed": True})
            case "runtime_lost":
                for open_batch in [one for one in self._batches.values() if one.batch.run.device == arguments[0]]:
                    self._ended(open_batch.batch, {"batchwright.runtime_lost": True})

    def _begin(self, batch: Batch) -> None:
        from opentelemetry.trace import Link

        now = time.time_ns()
        pending = [self.pending[part.key] for part in batch.slices if part.key in self.pending]
        spans = [self._requests[id(one)] for one in pending if id(one) in self._requests]
        traced = [one for one in spans if one.span.is_recording()]
        if not traced:
            return
        run = batch.run
        span = self._child(
            "batch",
            traced[0].span,
            start_time=now,
            links=[Link(one.span.get_span_context()) for one in traced[:_MOST_LINKS]],
            attributes={
                "batchwright.model": run.model,
                "batchwright.device": run.device,
                "batchwright.rows": run.rows,
                "batchwright.requests": len(pending),
                "batchwright.reason": run.reason,
                "batchwright.predicted_seconds": batch.predicted_s,
                "batchwright.batch": batch.serial,
            },
        )
        self._batches[batch.serial] = _BatchSpans(span, batch)
        for one in traced:
            if one.execute is None:
                self._end_queue(one, now)
                links = [Link(span.get_span_context())]
                one.execute = self._child("execute", one.span, start_time=now, links=links)

    def _ended(self, batch: Batch, attributes: dict[str, Any]) -> None:
        found = self._batches.pop(batch.serial, None)
        if found is not None:
            found.span.set_attributes(attributes)
            found.span.end()

    def runs(self, device: str, model: str, rows: int) -> Span | None:
        """A run on a device begins: of the oldest of its batches that has had none (else of the newest: a part of one
        that is tried again). None if that batch is not traced."""
        mine = [one for one in self._batches.values() if (one.batch.run.device, one.batch.run.model) == (device, model)]
        found = next((one for one in mine if not one.runs), mine[-1] if mine else None)
        if found is None:
            return None
        found.runs += 1
        return self._child("runtime", found.span, attributes={"batchwright.rows": rows, "batchwright.device": device})

    def _child(self, name: str, parent: Span, **options: Any) -> Span:
        from opentelemetry.trace import set_span_in_context

        return self.tracer.start_span(name, context=set_span_in_context(parent), **options)


def tracing_of(environment: Mapping[str, str], deployment: str) -> Tracing | None:
    """None unless an endpoint is configured (and the packages of the extra `otlp` are here)."""
    traces = traces_of(environment, deployment)
    return None if traces is None else Tracing(traces.tracer, traces.stop)
