"""Spans of the operator's passes, and of InferenceJobs as a whole, where an endpoint for traces is configured.

reconcile placement (or another reconciler; a pass that has acted, or failed)
|- observe   the facts, from the cache
|- decide    purely; placement decides pod by pod
`- act       one action until the API server has answered: which object, and of a placed pod which node

InferenceJob NAME, from its creation to its end; its pods' spans (plan, shards, commit) are in it
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from batchwright_operator.kube.conditions import find
from batchwright_operator.kube.objects import INFERENCE_JOB
from batchwright_operator.kube.times import unix
from batchwright_operator.reconcile.decisions import Action, Key, Patch, StatusWrite
from batchwright_operator.reconcile.passes import Pass, current, name_of
from batchwright_worker.otlp.steps import root_ids
from batchwright_worker.otlp.trace_ids import ids_of

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Tracer

MOST_STEPS: Final = 2_000
"""Of one pass; of a burst of pods further ones are counted alone."""
_Attributes = dict[str, str | int]


@dataclass(slots=True)
class _Told:
    """One step: its times in Unix nanoseconds, and why it failed."""

    name: str
    start_ns: int
    end_ns: int
    attributes: _Attributes
    error: BaseException | None = None


@dataclass(slots=True)
class TracedPass:
    """A `reconcile.passes.Pass` that is remembered until it is over: most act on nothing, and are not told."""

    tracer: Tracer
    steps: list[_Told] = field(default_factory=list)
    left_out: int = 0

    @contextmanager
    def step(self, name: str, action: Action | None = None) -> Iterator[None]:
        """See `Pass`."""
        told = _Told(name, time.time_ns(), 0, {} if action is None else _of_action(action))
        try:
            yield
        except BaseException as error:
            told.error = error
            raise
        finally:
            told.end_ns = time.time_ns()
            if len(self.steps) < MOST_STEPS:
                self.steps.append(told)
            else:
                self.left_out += 1

    def wrote(self, write: StatusWrite) -> None:
        """See `Pass`."""
        if write.resource == INFERENCE_JOB and (ended := _end_of(write)) is not None:
            self._tell_job(write, ended)

    def _tell_job(self, write: StatusWrite, ended: str) -> None:
        metadata = write.regarding["metadata"]
        began = unix(metadata.get("creationTimestamp")) or time.time()
        with root_ids(ids_of(metadata["uid"])):
            span = self.tracer.start_span(
                f"InferenceJob {metadata['name']}",
                context=_no_parent(),
                start_time=int(began * 1e9),
                attributes={"k8s.namespace.name": metadata.get("namespace", ""), "batchwright.result": ended},
            )
        if ended == "Failed":
            _fail(span, str(find(write.status.get("conditions"), "Failed").get("message", "")))
        span.end()


@dataclass(frozen=True, slots=True)
class TracedPasses:
    """The `reconcile.passes.Passes` of an operator whose traces are wanted."""

    tracer: Tracer

    @contextmanager
    def passing(self, key: Key) -> Iterator[Pass]:
        """See `Passes`."""
        begun, told = time.time_ns(), TracedPass(self.tracer)
        token = current.set(told)
        failure: BaseException | None = None
        try:
            yield told
        except BaseException as error:
            failure = error
            raise
        finally:
            current.reset(token)
            if failure is not None or any(each.name == "act" for each in told.steps):
                self._tell(key, told, begun, failure)

    def _tell(self, key: Key, told: TracedPass, begun: int, failure: BaseException | None) -> None:
        from opentelemetry.trace import set_span_in_context

        attributes = {"batchwright.key": "/".join(part for part in (key.namespace, key.name) if part)}
        span = self.tracer.start_span(
            f"reconcile {key.reconciler}", context=_no_parent(), start_time=begun, attributes=attributes
        )
        around = set_span_in_context(span)
        for each in told.steps:
            child = self.tracer.start_span(
                each.name, context=around, start_time=each.start_ns, attributes=each.attributes
            )
            if each.error is not None:
                _fail(child, str(each.error))
            child.end(each.end_ns)
        if told.left_out:
            span.set_attribute("batchwright.steps_left_out", told.left_out)
        if failure is not None:
            _fail(span, str(failure))
        span.end()


def _of_action(action: Action) -> _Attributes:
    kind, namespace, name = name_of(action)
    found: _Attributes = {"batchwright.verb": type(action).__name__, "k8s.object.kind": kind, "k8s.object.name": name}
    if namespace:
        found["k8s.namespace.name"] = namespace
    if isinstance(action, Patch) and action.nominated_node:
        found["k8s.node.name"] = action.nominated_node
    return found


def _end_of(write: StatusWrite) -> str | None:
    """Complete or Failed, where this very status says so for the first time."""
    for name in ("Complete", "Failed"):
        before = find((write.regarding.get("status") or {}).get("conditions"), name).get("status")
        if before != "True" and find(write.status.get("conditions"), name).get("status") == "True":
            return name
    return None


def _no_parent() -> Context:
    from opentelemetry.context import Context

    return Context()


def _fail(span: object, message: str) -> None:
    from opentelemetry.trace import Span, StatusCode

    assert isinstance(span, Span)
    span.set_status(StatusCode.ERROR, message)
