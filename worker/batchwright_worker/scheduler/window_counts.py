"""What is counted: per window for the tuner and the status, since the start for statistics and metrics."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from batchwright_worker.api.messages import LATENCY_BOUNDS_MS

_BUCKETS = len(LATENCY_BOUNDS_MS) + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowFacts:
    """What one observation window saw.

    `requests` that ended, `batches` that ended; `running`: rows wait or run at its end. `latency_s`: p95 from arrival
    to answer, where no request has ended the age of the oldest that waits. `batch_s`: mean time of a batch from its
    start to its answers. `mean_rows`: mean size of those that the tuned size bounds (not the knee of their shape),
    `full_ratio`: the share of these after which rows of the same bucket were left waiting.
    `busy`: share of the window that batches of this model ran (above 1 with several devices).
    `offered`: rows per second that arrived (refused ones too), `served`: rows per second that have got their results,
    whether their request has ended or not.
    """

    seconds: float
    requests: int
    batches: int
    running: bool
    latency_s: float
    batch_s: float
    mean_rows: float
    full_ratio: float
    busy: float
    offered: float
    served: float


@dataclass(slots=True)
class WindowCounts:
    """What happens to one model between two window ends."""

    began: float
    latencies: list[float] = field(default_factory=list)
    rows: int = 0
    offered: int = 0
    batches: int = 0
    batches_s: float = 0.0
    """Time of all of them, each from its start to its answers."""
    sized: int = 0
    """Batches that could have been as large as the tuned size."""
    sized_rows: int = 0
    full: int = 0

    def answered_in_part(self, rows: int) -> None:
        self.rows += rows

    def ran(self, rows: int, batch_s: float, left_waiting: bool, sized: bool) -> None:
        self.batches += 1
        self.batches_s += batch_s
        if sized:
            self.sized += 1
            self.sized_rows += rows
            self.full += left_waiting

    @property
    def quiet(self) -> bool:
        """Did nothing at all happen?"""
        return not (self.offered or self.latencies or self.batches)

    def latency_counts(self) -> list[int]:
        """Answered requests per bucket of messages.LATENCY_BOUNDS_MS."""
        counts = [0] * _BUCKETS
        for latency in self.latencies:
            counts[bucket_of(latency)] += 1
        return counts

    def close(self, now: float, *, oldest: float | None = None, running: bool = False) -> WindowFacts:
        """The window as the tuner sees it. `oldest`: when the oldest request arrived that still waits, None if none
        does; `running`: rows wait or run."""
        seconds = max(now - self.began, 1e-6)
        latency_s = percentile(self.latencies, 0.95)
        if not self.latencies and oldest is not None:
            latency_s = now - oldest
        return WindowFacts(
            seconds=seconds,
            requests=len(self.latencies),
            batches=self.batches,
            running=running,
            latency_s=latency_s,
            batch_s=self.batches_s / max(self.batches, 1),
            mean_rows=self.sized_rows / max(self.sized, 1),
            full_ratio=self.full / max(self.sized, 1),
            busy=self.batches_s / seconds,
            offered=self.offered / seconds,
            served=self.rows / seconds,
        )


def bucket_of(latency_s: float) -> int:
    """Index into a histogram of messages.LATENCY_BOUNDS_MS."""
    return bisect_left(LATENCY_BOUNDS_MS, latency_s * 1e3)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of all do not exceed; 0 of nothing."""
    return float(np.quantile(values, share, method="inverted_cdf")) if values else 0.0
