"""Outcome of a benchmark, read from its Job and the Job's pods. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from batchwright_operator.kube.conditions import find, holds
from batchwright_operator.kube.objects import Raw
from batchwright_operator.kube.times import rfc3339
from batchwright_operator.pods.lifecycle import container_state
from batchwright_operator.pods.problems import IMAGE_PULL_FAILED, Problem, container_problem, scheduling_problem
from batchwright_operator.processors.benchmark_jobs import CONTAINER
from batchwright_operator.processors.processor import FAILED, NO_IMAGE, OUT_OF_MEMORY, TIMED_OUT
from batchwright_worker.api.messages import BenchmarkResult

IMAGE_FIELDS: Final = "the image in the operator's runtimeTable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A benchmark that is not over; `problem` is what keeps it from starting, if anything."""

    problem: str = ""
    has_node: bool = False
    started: bool = False
    """Its container has run."""
    no_image: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkFailure:
    """A benchmark that is over without a result; `reason` is CamelCase."""

    reason: str
    message: str
    permanent: bool = False
    """The benchmark itself says so: nothing that passes by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """A benchmark that is over and left no result that can be found: to be repeated."""


Outcome = Running | BenchmarkFailure | Lost | BenchmarkResult


def outcome(job: Raw, pods: Sequence[Raw]) -> Outcome:
    """The outcome by a benchmark Job and its pods."""
    conditions = (job.get("status") or {}).get("conditions")
    results = [found for pod in _newest_first(pods) if (found := _result(pod)) is not None]
    # The pods come first: one of them may have a result before its Job is Complete, or though its Job has failed.
    worked = next((result for result in results if not result.error and result.load_table), None)
    if worked is not None:
        return worked
    if holds(conditions, "Complete"):
        return Lost()
    if not holds(conditions, "Failed"):
        return _running(pods)
    failed = find(conditions, "Failed")
    return _failure(str(failed.get("reason", "")), str(failed.get("message", "")), pods, results)


def _running(pods: Sequence[Raw]) -> Running:
    problem = _problem(pods)
    states = [container_state(pod, CONTAINER) for pod in pods]
    return Running(
        problem=_message(problem),
        has_node=any((pod.get("spec") or {}).get("nodeName") for pod in pods),
        started=any("running" in state or "terminated" in state for state in states),
        no_image=problem is not None and problem.reason == IMAGE_PULL_FAILED,
    )


def is_finished(job: Raw) -> bool:
    """Whether a Job has succeeded or failed."""
    conditions = (job.get("status") or {}).get("conditions")
    return holds(conditions, "Complete") or holds(conditions, "Failed")


def ended_at(job: Raw, pods: Iterable[Raw], now: float) -> str:
    """RFC 3339: when the measurement was over."""
    finished = [state["finishedAt"] for pod in pods if (state := _terminated(pod)) and state.get("finishedAt")]
    return str(max(finished, default=None) or (job.get("status") or {}).get("completionTime") or rfc3339(now))


def _failure(reason: str, message: str, pods: Sequence[Raw], results: Sequence[BenchmarkResult]) -> BenchmarkFailure:
    # From the benchmark's own message, which says most, to the Job's, which says least.
    if error := next((result.error for result in results if result.error), ""):
        return BenchmarkFailure(reason=FAILED, message=error, permanent=True)
    states = [state for pod in _newest_first(pods) if (state := _terminated(pod))]
    if any(state.get("reason") == "OOMKilled" for state in states):
        return BenchmarkFailure(
            reason=OUT_OF_MEMORY,
            message="the benchmark was killed for memory; free some on the node, or give benchmarkResources a limit",
        )
    problem = _problem(pods)
    if problem is not None and problem.reason == IMAGE_PULL_FAILED:
        return BenchmarkFailure(reason=NO_IMAGE, message=_message(problem))
    if reason == "DeadlineExceeded":
        text = f"the benchmark did not end in time{f': {_message(problem)}' if problem else ''}"
        return BenchmarkFailure(reason=TIMED_OUT, message=text)
    code = f"exit status {states[0].get('exitCode')}: {str(states[0].get('message', ''))[-300:]}" if states else message
    return BenchmarkFailure(reason=FAILED, message=code or "the benchmark failed without a message")


def _result(pod: Raw) -> BenchmarkResult | None:
    message = (_terminated(pod) or {}).get("message")
    try:
        return msgspec.json.decode(message, type=BenchmarkResult) if message else None
    except msgspec.DecodeError:
        return None


def _terminated(pod: Raw) -> Raw | None:
    return container_state(pod, CONTAINER).get("terminated")


def _problem(pods: Iterable[Raw]) -> Problem | None:
    """Why a pod does not run."""
    found = (container_problem(pod, image_fields=IMAGE_FIELDS) or scheduling_problem(pod) for pod in pods)
    return next(filter(None, found), None)


def _message(problem: Problem | None) -> str:
    """With the kubelet's own message: the status outlives the Job and its pods (KEEP_S)."""
    if problem is None:
        return ""
    return f"{problem.message} ({problem.detail})" if problem.detail else problem.message


def _newest_first(pods: Sequence[Raw]) -> list[Raw]:
    return sorted(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")), reverse=True)
