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


@dataclass(slots=True)
class ModelCounters:
    """Counters of one model since the start; requests unless another unit is named."""

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

    def answered(self, rows: int, queue_s: float, run_s: float, ran: RunResult | None = None) -> None:
        """A request was answered with a result, which its last batch, `ran`, completed."""
        input_s, output_s = (0.0, 0.0) if ran is None else (ran.input_s, ran.output_s)
        self.success.add(queue_s + run_s)
        self.queue.add(queue_s)
        self.compute_input.add(input_s)
        self.compute.add(max(0.0, run_s - input_s - output_s))
        self.compute_output.add(output_s)
        self.rows += rows
        self.latency_counts[bucket_of(queue_s + run_s)] += 1

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
