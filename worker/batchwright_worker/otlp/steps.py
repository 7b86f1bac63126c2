"""Spans of what a process does in steps, for processes that do one thing: plan, shard, commit, benchmark.

As with logging there is one for the process: `traced` around all it does, `step` wherever something is done.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from batchwright_worker.otlp.providers import ROOT_IDS, Traces, traces_of
from batchwright_worker.otlp.trace_ids import TraceIds

if TYPE_CHECKING:
    from opentelemetry.context import Context

_NOTHING: Final[Mapping[str, str]] = {}
_VARIABLES: Final = ("TRACEPARENT", "TRACESTATE")


class _Active:
    """The process's traces; `parent`: of steps that are in no other."""

    traces: Traces | None = None
    parent: Context | None = None


class StepSpan:
    """A step that is being done; without traces it is nobody's."""

    def __init__(self, span: Any | None = None) -> None:
        self._span = span

    def set(self, **attributes: str | int | float) -> None:
        """Attributes, all of them named batchwright.NAME."""
        if self._span is not None:
            self._span.set_attributes({f"batchwright.{name}": value for name, value in attributes.items()})


@contextmanager
def traced(environ: Mapping[str, str], service: str, parent: TraceIds | None = None) -> Iterator[None]:
    """Spans of the steps in the body, where they are wanted. What called this process may say its span (TRACEPARENT);
    else they are children of `parent`."""
    traces = traces_of(environ, service)
    if traces is None:
        yield
        return
    from opentelemetry.propagate import extract

    given = {name.lower(): environ[name] for name in _VARIABLES if environ.get(name)}
    if not given and parent is not None:
        given = {"traceparent": parent.traceparent}
    _Active.traces, _Active.parent = traces, extract(given)
    try:
        yield
    finally:
        traces.stop()
        _Active.traces = _Active.parent = None


@contextmanager
def step(name: str, **attributes: str | int | float) -> Iterator[StepSpan]:
    """A span around the body, in that of the step around it; what is raised is written on it."""
    if _Active.traces is None:
        yield StepSpan()
        return
    from opentelemetry.trace import get_current_span

    around = None if get_current_span().get_span_context().is_valid else _Active.parent
    with _Active.traces.tracer.start_as_current_span(name, context=around) as span:
        found = StepSpan(span)
        found.set(**attributes)
        yield found


def done(name: str, start_ns: int, **attributes: str | int | float) -> None:
    """A step that has ended just now, and began then (Unix nanoseconds)."""
    if _Active.traces is not None:
        span = _Active.traces.tracer.start_span(name, start_time=start_ns)
        StepSpan(span).set(**attributes)
        span.end()


def carrier() -> Mapping[str, str]:
    """Headers that tell whom a request is for: W3C's traceparent."""
    if _Active.traces is None:
        return _NOTHING
    from opentelemetry.propagate import inject

    found: dict[str, str] = {}
    inject(found)
    return found


@contextmanager
def root_ids(ids: TraceIds) -> Iterator[None]:
    """The root span that is started inside has these."""
    token = ROOT_IDS.set((ids.trace, ids.span))
    try:
        yield
    finally:
        ROOT_IDS.reset(token)
