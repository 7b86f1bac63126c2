"""What the batch size controller is told, remembers and decides: values of methods A6 to A8. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from batchwright_worker.mann_kendall import FLAT, Trend
from batchwright_worker.scheduler.window_counts import WindowFacts

Controller = Literal["Auto", "MannKendall", "Fitted", "Literal"]
Reason = Literal[
    "Initial",
    "LatencyBelowTarget",
    "LatencyAboveTarget",
    "ThroughputBelowTarget",
    "RowsWaiting",
    "BatchTooSlow",
    "TargetMet",
    "TargetMissedOnce",
    "TrendDisagrees",
    "LoadChanged",
    "SpeedChanged",
    "AtMaximum",
    "AtMinimum",
    "NoFasterBeyond",
    "Overloaded",
    "NothingEnded",
    "NoRequests",
]
Rule = Literal["FirstSize", "Step", "FittedStep", "TrendGuard", "StopRule", "Idle"]
"""Which part of the methods made a decision: Step (A6), FittedStep (A6 with a variable step, to the size that the fit
predicts), TrendGuard (A7 holds the size), StopRule (A8 holds it, or sees that it must be looked for again)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningConfig:
    """What the user set: bounds and targets (None: no such target), step, trend length, controller."""

    min_size: int = 1
    max_size: int = 32
    step: int = 1
    trend_length: int = 8
    latency_s: float | None = None
    throughput: float | None = None
    controller: Controller = "Auto"

    @property
    def jumps(self) -> bool:
        """May the size go to where the fit says, by more than a step?"""
        return self.controller in ("Auto", "Fitted")

    def bounded(self, size: int) -> int:
        """The nearest size that the user allows."""
        return max(self.min_size, min(self.max_size, size))


@dataclass(frozen=True, slots=True, kw_only=True)
class TunerState:
    """The tuner's memory. `proposals`: the sizes that the last windows wanted; `settled_*`: what was true when the
    search stopped."""

    size: int
    proposals: tuple[int, ...] = ()
    searching: bool = True
    opening: bool = True
    """No window has closed over rows yet: the first batches still find the first size."""
    missed: int = 0
    """Windows in a row in which a settled size missed its target."""
    settled_offered: float = 0.0
    settled_batch_s: float = 0.0
    """What a batch of the settled size took as fitted then, the way to the runtime and back included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """The size that one window wants, for which reason, and the facts in words."""

    size: int
    reason: Reason
    because: str
    settles: bool = False
    """Nothing more to look for: the search ends here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningDecision:
    """One window's decision: `tuner` is the memory to keep; the size changed iff `size != previous`.

    `target_met` is None where nothing was asked for or nothing is known; `window`: what it was decided from.
    """

    tuner: TunerState
    previous: int
    proposed: int
    reason: Reason
    rule: Rule
    message: str
    window: WindowFacts
    trend: Trend = FLAT
    target_met: bool | None = None

    @property
    def size(self) -> int:
        return self.tuner.size

    @property
    def changed(self) -> bool:
        return self.size != self.previous

    @property
    def published_throughput(self) -> float:
        """A8's throughput = batch size / latency, rows per second; 0 where no latency is known."""
        return published_throughput(self.previous, self.window)


def published_throughput(size: int, window: WindowFacts) -> float:
    """A8: batch size / latency (p95 of the window, as the caller sees it)."""
    return size / window.latency_s if window.latency_s > 0 else 0.0
