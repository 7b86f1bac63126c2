"""Retries of benchmarks that failed: a registry or a neighbour's pods are not broken for ever. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from batchwright_operator.kube.conditions import find
from batchwright_operator.kube.objects import Raw
from batchwright_operator.kube.times import rfc3339, unix
from batchwright_operator.processors.benchmark_outcome import BenchmarkFailure
from batchwright_operator.processors.processor import Processor

LONGEST_S: Final = 6 * 3600.0
PERMANENT_S: Final = 3600.0
LONGEST_PERMANENT_S: Final = 24 * 3600.0
"""What the benchmark itself says to be hopeless (no engine for the kind, no device in the container) is tried again
too, but seldom: a driver is repaired, or an image, without anything that the node shows."""


def failed(known: Processor, failure: BenchmarkFailure, digest: str, now: float, first_s: float) -> Processor:
    """The entry after a failure, with the time of the next try: `first_s` seconds, then twice as long each time."""
    count = known.failures + 1 if known.benchmarked_as == digest else 1
    base_s, longest_s = (PERMANENT_S, LONGEST_PERMANENT_S) if failure.permanent else (first_s, LONGEST_S)
    after_s = min(longest_s, base_s * 2 ** min(count - 1, 20))
    return replace(
        known,
        reason=failure.reason,
        message=failure.message,
        benchmarked_as=digest,
        failures=count,
        retry_time=rfc3339(now + after_s),
    )


def due_in_s(known: Processor, now: float) -> float:
    """Seconds until it is tried again; 0 or less: now."""
    at = unix(known.retry_time)
    return at - now if at is not None else 0.0


def is_of_an_earlier_try(job: Raw, known: Processor) -> bool:
    """Whether the Job failed before the time of the next try, so that its failure is counted already."""
    ended = unix(find((job.get("status") or {}).get("conditions"), "Failed").get("lastTransitionTime"))
    at = unix(known.retry_time)
    return at is not None and (ended is None or ended < at)
