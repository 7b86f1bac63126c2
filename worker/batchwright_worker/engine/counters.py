"""The counters of a model since the sidecar began: requests, batches, latencies."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from batchwright_worker.inference.runtime import RunResult
from batchwright_worker.scheduler.window_counts import _BUCKETS, bucket_of


@dataclass(slots=True)
class Tally:
    """A count and the nanoseconds that go with it (Triton's statistics are made of these)."""

    count: int = 0
    ns: int = 0

    def add(self, seconds: float, count: int = 1) -> None:
        self.count += count
        self.ns += int(seconds * 1e9)


@dataclass(slots=True)
class BatchTally:
    """Batches of one size: what went before and after the run, and the device time between."""

    compute_input: Tally = field(default_factory=Tally)
    compute: Tally = field(default_factory=Tally)
    compute_output: Tally = field(default_factory=Tally)


class Answers:
    """Requests that one batch has completed, summed up: their rows, seconds of waiting, from the start of their first
    batch on, and of that without their inputs' and outputs' way (`around_s`)."""

    __slots__ = ("_around_s", "_latency_counts", "compute_s", "count", "queue_s", "rows", "run_s")

    def __init__(self, around_s: float, latency_counts: list[int]) -> None:
        self._around_s = around_s
        self._latency_counts = latency_counts
        self.count = self.rows = 0
        self.queue_s = self.run_s = self.compute_s = 0.0

    def add(self, rows: int, queue_s: float, run_s: float) -> None:
        """One more; its latency counts at once."""
        self.count += 1
        self.rows += rows
        self.queue_s += queue_s
        self.run_s += run_s
        if run_s > self._around_s:
            self.compute_s += run_s - self._around_s
        self._latency_counts[bucket_of(queue_s + run_s)] += 1


@dataclass(slots=True)
class ModelCounters:
    """Counters of one model since the start; requests unless another unit is named."""

    version: str = "1"
    success: Tally = field(default_factory=Tally)
    """Answered with a result; time from arrival to answer."""
    fail: Tally = field(default_factory=Tally)
    """Answered with an error, refusals included."""
    queue: Tally = field(default_factory=Tally)
    """Time that answered requests spent waiting."""
    compute_input: Tally = field(default_factory=Tally)
    """Time that the inputs of answered requests' batches took to the model."""
    compute: Tally = field(default_factory=Tally)
    """Time that answered requests spent in batches outside of their inputs' and outputs' way."""
    compute_output: Tally = field(default_factory=Tally)
    """Time that the outputs of answered requests' batches took from the model."""
    executions: Tally = field(default_factory=Tally)
    """Batches, and their device time."""
    rows: int = 0
    """Rows answered with a result (Triton's inference_count)."""
    failed: int = 0
    """Requests on which the model raised (the rest of `fail` was refused or bad)."""
    failed_rows: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    """Requests refused, by reason: LatencyTarget, QueueFull, LateAtDispatch, Deadline, Stopping, Unavailable,
    Unloaded."""
    dispatched: Counter[str] = field(default_factory=Counter)
    """Batches and loads by dispatch reason."""
    decided: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Decisions on the batch size by rule and reason."""
    batches: dict[int, BatchTally] = field(default_factory=dict)
    """Batches and their times by size."""
    predicted_ns: int = 0
    """Sum of the predicted device times of the batches that `executions` counts."""
    pending: int = 0
    """Requests that wait or run now (Triton's pending request count)."""
    cancelled: int = 0
    retried: int = 0
    """Batches run again after their runtime was lost."""
    overdue: int = 0
    """Batches, loads and unloads that had taken half of their limit."""
    hung: int = 0
    """Those that had taken all of it: their runtime was ended."""
    loads: Tally = field(default_factory=Tally)
    unloads: int = 0
    latency_counts: list[int] = field(default_factory=lambda: [0] * _BUCKETS)
    """Answered requests per bucket of contract.LATENCY_BOUNDS_MS, overflow last."""
    last_inference: float = 0.0
    """Unix seconds of the last batch's end, 0 before the first."""

    @property
    def refused_total(self) -> int:
        return sum(self.refused.values())

    def answered(self, answers: Answers, ran: RunResult) -> None:
        """Requests were answered with results, which the batch `ran` has completed."""
        count = answers.count
        self.success.add(answers.queue_s + answers.run_s, count)
        self.queue.add(answers.queue_s, count)
        self.compute_input.add(count * ran.input_s, count)
        self.compute.add(answers.compute_s, count)
        self.compute_output.add(count * ran.output_s, count)
        self.rows += answers.rows

    def ran(self, rows: int, result: RunResult, predicted_s: float) -> None:
        """A batch has run."""
        self.executions.add(result.device_seconds)
        tally = self.batches.get(rows)
        if tally is None:
            tally = self.batches[rows] = BatchTally()
        tally.compute_input.add(result.input_s)
        tally.compute.add(result.device_seconds)
        tally.compute_output.add(result.output_s)
        self.predicted_ns += int(predicted_s * 1e9)
