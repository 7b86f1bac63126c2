"""The values of the tuner: what the user set, what a window saw, what is remembered, what was decided. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from batchwright_worker.scheduler.batch_size.mann_kendall import FLAT, Trend

Controller = Literal["Auto", "MannKendall", "Fitted"]
Reason = Literal[
    "Initial",
    "LatencyBelowTarget",
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
    "NoRequests",
]


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
    literal: bool = False
    """A6 to the letter: above the target always smaller, whatever the cause (only to show what that leads to)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowFacts:
    """What one observation window saw.

    `latency_s`: p95 from arrival to answer. `device_s`: mean device time of a batch. `mean_rows`: mean size of those
    that the tuned size bounds (not the knee of their shape), `full_ratio`: the share of these after which rows of the
    same bucket were left waiting.
    `busy`: share of the window that the device worked for this model (above 1 with several devices).
    `offered`: rows per second that arrived (refused ones too), `served`: rows per second answered.
    """

    seconds: float
    requests: int
    latency_s: float
    device_s: float
    mean_rows: float
    full_ratio: float
    busy: float
    offered: float
    served: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TunerState:
    """The tuner's memory. `held_*` describe what was true when the search stopped."""

    size: int
    wants: tuple[int, ...] = ()
    searching: bool = True
    missed: int = 0
    """Windows in a row in which a held size missed its target."""
    held_offered: float = 0.0
    held_device_s: float = 0.0
    """Device time of the held size as fitted then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningDecision:
    """One window's decision: `tuning` is the memory to keep; the size changed iff `size != previous`.

    `target_met` is None without requests or without any target.
    """

    tuning: TunerState
    previous: int
    want: int
    reason: Reason
    message: str
    trend: Trend = FLAT
    target_met: bool | None = None

    @property
    def size(self) -> int:
        return self.tuning.size

    @property
    def changed(self) -> bool:
        return self.size != self.previous
